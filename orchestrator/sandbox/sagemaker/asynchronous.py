"""InvokeEndpointAsync: what is asked now is answered in S3, later.

A request is written down (state.py) before it is acknowledged, and forgotten when its answer is in S3:
one that a kill interrupts is asked again, and answered under the same key. An endpoint is asked one
request at a time, in the order in which they came.
"""

import asyncio
import json
import logging
import re
import threading
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from urllib.parse import unquote

from botocore.exceptions import ClientError, ParamValidationError

from orchestrator.environment import client
from orchestrator.sandbox.errors import AwsError
from orchestrator.sandbox.hosting.publisher import split_url
from orchestrator.sandbox.places import Places
from orchestrator.sandbox.sagemaker.runtime import (
    ALWAYS,
    INFERENCE_ID_HEADER,
    NOT_ASYNCHRONOUS,
    PREFIX,
    Operation,
    Routes,
    Runtime,
    failed,
)
from orchestrator.sandbox.state import State, now
from orchestrator.sandbox.web import MAX_BODY, Answer

log = logging.getLogger(__name__)

PATH = re.compile(r"/endpoints/([^/]+)/async-invocations")
S3_OBJECT = re.compile(r"s3://[^/]+/.+")
INPUT, TTL = f"{PREFIX}inputlocation", f"{PREFIX}requestttlseconds"
TIMEOUT = f"{PREFIX}invocationtimeoutseconds"
OPERATION = Operation(
    "InvokeEndpointAsync",
    ALWAYS | {f"{PREFIX}content-type": "content-type", f"{PREFIX}accept": "accept"},
    (INPUT, TTL, TIMEOUT),
)
REFUSALS = (AwsError, ClientError, ParamValidationError)
LOG = "endpoint-asynchronous"  # as if it were a process
VARIANT = "AllTraffic"  # the only one
ATTEMPTS = 3  # at a request under which the endpoint's process ends
PAUSE_SECONDS = 1  # until S3 is tried again


class Invocations:
    """What was asked of asynchronous endpoints, and is not answered yet."""

    def __init__(
        self, state: State, places: Places, count: Callable[[str, str, int, float, float], None]
    ) -> None:
        """`count` is told of every answer, as `sagemaker.runtime.Runtime` does."""
        self._state = state
        self._count = count
        self._places = places
        self._routes = Routes(places)
        self._busy: set[str] = set()
        self._lock = threading.Lock()
        self._closing = threading.Event()

    def resume(self) -> None:
        """Take up, after a restart, what was not answered."""
        for endpoint in {row["endpoint"] for row in self._state.rows("invocations")}:
            self._tend(endpoint)

    def close(self) -> None:
        """Leave what is under way for the next start."""
        self._closing.set()

    def answer(self, method: str, target: str, headers: dict[str, str], body: bytes) -> Answer:
        """Accept one verified request; `target` is the path, and the query where there is one."""
        try:
            match = PATH.fullmatch(target)
            if not match or method != "POST":
                nothing = f"There is no operation {method} {target}"
                raise AwsError("UnknownOperationException", nothing, 404)
            return self._accept(unquote(match[1]), headers, body)
        except AwsError as error:
            return failed(error)

    def _accept(self, endpoint: str, headers: dict[str, str], body: bytes) -> Answer:
        inference_id = headers.get(INFERENCE_ID_HEADER, str(uuid.uuid4()))
        forwarded = OPERATION.forwarded(headers | {INFERENCE_ID_HEADER: inference_id})
        if body:
            raise _invalid("The sandbox does not honour Body of InvokeEndpointAsync.")
        location = headers.get(INPUT, "")
        if not S3_OBJECT.fullmatch(location):
            raise _invalid(f"InputLocation must be s3://bucket/key, not {location!r}.")
        self._routes.find(endpoint)
        request = {
            "input": location,
            "headers": forwarded,
            "lives": _seconds(headers, TTL, "RequestTTLSeconds", 60, 21600, usual=21600),
            "timeout": _seconds(headers, TIMEOUT, "InvocationTimeoutSeconds", 1, 3600, usual=900),
        } | self._outputs(endpoint)
        self._state.insert("invocations", endpoint=endpoint, request=request, created=now())
        self._tend(endpoint)
        sent = {"X-Amzn-SageMaker-OutputLocation": request["output"]}
        if request["failure"]:
            sent["X-Amzn-SageMaker-FailureLocation"] = request["failure"]
        told = json.dumps({"InferenceId": inference_id}).encode()
        return Answer(202, "application/json", told, sent)

    def _outputs(self, endpoint: str) -> dict[str, str | None]:
        """Where the answer is to go, and the failure where the configuration has a place for it."""
        row = self._state.row("endpoints", name=endpoint)
        config = row and self._state.row("endpoint_configs", name=row["config"])
        if not config:
            raise _invalid(f"The configuration of endpoint {endpoint} was deleted.")
        if "AsyncInferenceConfig" not in config["request"]:
            raise _invalid(NOT_ASYNCHRONOUS.format(endpoint))
        places = config["request"]["AsyncInferenceConfig"]["OutputConfig"]
        name = uuid.uuid4()
        failures = places.get("S3FailurePath")
        return {
            "output": f"{places['S3OutputPath'].rstrip('/')}/{name}.out",
            "failure": f"{failures.rstrip('/')}/{name}-error.out" if failures else None,
        }

    # -- answering ---------------------------------------------------------------------

    def _tend(self, endpoint: str) -> None:
        with self._lock:
            if endpoint not in self._busy and not self._closing.is_set():
                self._busy.add(endpoint)
                threading.Thread(target=self._work, args=(endpoint,), daemon=True).start()

    def _work(self, endpoint: str) -> None:
        while True:
            with self._lock:
                if self._closing.is_set():
                    return
                row = self._state.row("invocations", endpoint=endpoint)
                if row is None:
                    self._busy.discard(endpoint)
                    return
            try:
                self._carry_out(row)
                self._state.delete("invocations", id=row["id"])
            except Exception:  # S3 is away, or the sandbox stops
                if not self._closing.is_set():
                    log.exception("%s is asked again", endpoint)
                self._closing.wait(PAUSE_SECONDS)

    def _carry_out(self, row: dict) -> None:
        """Ask, and put the answer where it belongs, or why there is none."""
        endpoint, request = row["endpoint"], row["request"]
        try:
            answer = self._ask(row)
            _put(request["output"], answer.body, answer.content_type)
        except REFUSALS as error:
            if self._closing.is_set() or _will_pass(error):
                raise
            self._tell(endpoint, f"{request['input']} was not answered: {error}")
            if request["failure"]:
                self._put_failure(endpoint, request["failure"], str(error))

    def _put_failure(self, endpoint: str, location: str, why: str) -> None:
        try:
            _put(location, why.encode(), "text/plain")
        except REFUSALS as error:
            if _will_pass(error):
                raise
            self._tell(endpoint, f"{location} was not written: {error}")

    def _ask(self, row: dict) -> Answer:
        request = row["request"]
        waited = datetime.now(UTC) - datetime.fromisoformat(row["created"])
        if waited.total_seconds() > request["lives"]:
            raise _invalid(f"The request waited longer than {request['lives']} s.")
        body = _content(request["input"])
        for attempt in range(1, ATTEMPTS + 1):
            asking = Runtime(self._places, self._count).ask(
                row["endpoint"], request["headers"], body, seconds=request["timeout"],
                asynchronous=True,
            )  # fmt: skip
            try:
                return asyncio.run(asking)
            except AwsError as error:
                if error.code != "ServiceUnavailable" or attempt == ATTEMPTS:
                    raise
                self._closing.wait(PAUSE_SECONDS)
        raise AssertionError("the last attempt raises")

    def _tell(self, endpoint: str, what: str) -> None:
        """A line in a log of the endpoint's."""
        with open(self._places.log(endpoint, VARIANT, LOG), "a") as file:
            file.write(f"{now()} ERROR {what}\n")


def _content(location: str) -> bytes:
    bucket, key = split_url(location)
    found = client("s3").get_object(Bucket=bucket, Key=key)
    if found["ContentLength"] > MAX_BODY:
        found["Body"].close()
        raise _invalid(f"{location} is longer than the {MAX_BODY} bytes that the sandbox takes.")
    return found["Body"].read()


def _put(location: str, content: bytes, content_type: str) -> None:
    bucket, key = split_url(location)
    client("s3").put_object(Bucket=bucket, Key=key, Body=content, ContentType=content_type)


def _will_pass(error: Exception) -> bool:
    """Whether it is S3 that is away, and not what was asked of it that is wrong."""
    return isinstance(error, ClientError) and (
        error.response["ResponseMetadata"]["HTTPStatusCode"] >= 500
    )


def _seconds(
    headers: dict[str, str], name: str, member: str, least: int, most: int, usual: int
) -> int:
    text = headers.get(name, str(usual))
    if not re.fullmatch("[0-9]{1,9}", text) or not least <= int(text) <= most:
        raise _invalid(f"{member} must be {least} to {most}, not {text}.")
    return int(text)


def _invalid(message: str) -> AwsError:
    return AwsError("ValidationError", message)
