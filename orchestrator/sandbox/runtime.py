"""SageMaker's data plane: InvokeEndpoint, from the signed request to the endpoint's process.

`POST /endpoints/{name}/invocations`, with SageMaker's headers, limits and errors
(developer guide, "InvokeEndpoint"; botocore's sagemaker-runtime model).
"""

import asyncio
import json
import re
import time
from urllib.parse import unquote

import aiohttp

from orchestrator.sandbox.errors import AwsError
from orchestrator.sandbox.fleet import Fleet, Instance
from orchestrator.sandbox.stacks import ACCOUNT
from orchestrator.sandbox.state import State
from orchestrator.sandbox.web import Answer

PATH = re.compile(r"/endpoints/([^/]+)/invocations")
MAX_BODY = 6 * 1024 * 1024  # requests and answers alike
INVOKE_SECONDS = 60
RESTART_SECONDS = 20  # how long a request waits for a process that is being started again

# The documented headers reach the container, no others.
FORWARDED = (
    "content-type",
    "accept",
    "x-amzn-sagemaker-custom-attributes",
    "x-amzn-sagemaker-inference-id",
)
ATTRIBUTES = "X-Amzn-SageMaker-Custom-Attributes"
TIMED_OUT = (
    "Your invocation timed out while waiting for a response from container primary. Review "
    "the latency metrics for each container in Amazon CloudWatch, resolve the issue, and try "
    "again."
)


class ModelError(AwsError):
    """The container answered with an error, or not at all: 424 with what it said."""

    def __init__(self, message: str, original_status: int, original: str, endpoint: str) -> None:
        super().__init__("ModelError", message, 424)
        self.original_status, self.original, self.endpoint = original_status, original, endpoint


class Runtime:
    def __init__(self, state: State, fleet: Fleet, region: str, folder: str) -> None:
        self._state = state
        self._fleet = fleet
        self._region = region
        self._logs = f"{folder}/logs"
        self._sessions: dict[Instance, aiohttp.ClientSession] = {}

    async def answer(self, path: str, headers: dict[str, str], body: bytes) -> Answer:
        """Answer one verified request."""
        try:
            match = PATH.fullmatch(path)
            if not match:
                raise AwsError("UnknownOperationException", f"There is nothing at {path}", 404)
            return await self._invoke(unquote(match[1]), headers, body)
        except ModelError as error:
            return _failed(error, self._model_error_body(error))
        except AwsError as error:
            return _failed(error, {"Message": error.message, "message": error.message})

    async def close_sessions(self) -> None:
        """Close the connections to processes that have ended."""
        for instance in [instance for instance in self._sessions if not instance.alive]:
            await self._sessions.pop(instance).close()

    async def _invoke(self, endpoint: str, headers: dict[str, str], body: bytes) -> Answer:
        _check(headers)
        instance = await self._ready_instance(endpoint)
        variant = headers.get("x-amzn-sagemaker-target-variant")
        if variant not in (None, instance.variant):
            message = f"Variant {variant} of endpoint {endpoint} not found."
            raise AwsError("ValidationError", message)
        forwarded = {key: headers[key] for key in FORWARDED if key in headers}
        instance.requests += 1
        try:
            status, answer_headers, answer = await self._ask(endpoint, instance, forwarded, body)
        finally:
            instance.requests -= 1
        if not 200 <= status < 300:
            self._raise_model_error(endpoint, status, answer)
        if len(answer) > MAX_BODY:
            message = "The response is too large; could not load the entire response body."
            raise ModelError(message, status, "", endpoint)
        content_type = answer_headers.get("Content-Type", "application/octet-stream")
        sent = {"x-Amzn-Invoked-Production-Variant": instance.variant}
        if ATTRIBUTES in answer_headers:
            sent[ATTRIBUTES] = answer_headers[ATTRIBUTES]
        return Answer(200, content_type, answer, sent)

    async def _ready_instance(self, endpoint: str) -> Instance:
        """The endpoint's process; one that is being started again is waited for."""
        deadline = time.monotonic() + RESTART_SECONDS
        while True:
            instance = self._fleet.instance(endpoint)
            if instance is not None and instance.alive:
                return instance
            row = self._state.row("endpoints", name=endpoint)
            if row is None or row["status"] not in ("InService", "Updating"):
                raise AwsError(
                    "ValidationError", f"Endpoint {endpoint} of account {ACCOUNT} not found."
                )
            if time.monotonic() > deadline:
                message = f"The process of endpoint {endpoint} is being started again."
                raise AwsError("ServiceUnavailable", message, 503)
            await asyncio.sleep(0.02)

    async def _ask(self, endpoint: str, instance: Instance, headers: dict, body: bytes):
        session = self._sessions.get(instance)
        if session is None:
            session = self._sessions[instance] = aiohttp.ClientSession(
                connector=aiohttp.UnixConnector(instance.socket, limit=0),
                timeout=aiohttp.ClientTimeout(total=INVOKE_SECONDS),
                skip_auto_headers=("Accept", "User-Agent", "Content-Type"),
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        try:
            async with session.post(
                "http://endpoint/invocations", headers=headers, data=body
            ) as answer:
                return answer.status, answer.headers, await answer.read()
        except TimeoutError:
            raise ModelError(
                self._received("server", 0, TIMED_OUT, endpoint), 0, "", endpoint
            ) from None
        except aiohttp.ClientError:
            message = f"The process of endpoint {endpoint} ended while it was being asked."
            raise AwsError("ServiceUnavailable", message, 503) from None

    def _raise_model_error(self, endpoint: str, status: int, answer: bytes) -> None:
        original = answer.decode(errors="replace")[:4096]
        whose = "client" if 400 <= status < 500 else "server"
        raise ModelError(
            self._received(whose, status, original, endpoint), status, original, endpoint
        )

    def _received(self, whose: str, status: int, original: str, endpoint: str) -> str:
        return (
            f'Received {whose} error ({status}) from primary with message "{original}". '
            f"See {self._logs}/{endpoint}.log for more information."
        )

    def _model_error_body(self, error: ModelError) -> dict:
        client_error = 400 <= error.original_status < 500
        group = f"log-group:/aws/sagemaker/Endpoints/{error.endpoint}"
        return {
            "ErrorCode": (
                "CLIENT_ERROR_FROM_MODEL" if client_error else "INTERNAL_FAILURE_FROM_MODEL"
            ),
            "LogStreamArn": f"arn:aws:logs:{self._region}:{ACCOUNT}:{group}",
            "Message": error.message,
            "OriginalMessage": error.original,
            "OriginalStatusCode": error.original_status,
        }


def _check(headers: dict[str, str]) -> None:
    attributes = headers.get(ATTRIBUTES.lower(), "")
    if len(attributes) > 1024 or not attributes.isprintable() or not attributes.isascii():
        message = "CustomAttributes must be at most 1024 visible US-ASCII characters."
        raise AwsError("ValidationError", message)
    inference_id = headers.get("x-amzn-sagemaker-inference-id")
    if inference_id is not None and not re.fullmatch(r"\S[ -~]{0,63}", inference_id):
        message = "InferenceId must be 1 to 64 printable characters."
        raise AwsError("ValidationError", message)


def _failed(error: AwsError, body: dict) -> Answer:
    kind = {"x-amzn-ErrorType": error.code}
    return Answer(error.status, "application/json", json.dumps(body).encode(), kind)
