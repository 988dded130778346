"""SageMaker's data plane: InvokeEndpoint, from the signed request to the endpoint's process.

`POST /endpoints/{name}/invocations`, with SageMaker's headers, limits and errors
(developer guide, "InvokeEndpoint"; botocore's sagemaker-runtime model). With a response stream it is
asked and answered in the same way, and the answer is cut into events once it is whole.

Which process answers for an endpoint is said by its route, a small file that the sandbox replaces
in one step (hosting/fleet.py). A front process needs to know nothing else.
"""

import asyncio
import json
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from orchestrator.sandbox.errors import AwsError
from orchestrator.sandbox.hop import Broken, Hop, Reply
from orchestrator.sandbox.places import ACCOUNT, LOG_GROUP, REGION, Places
from orchestrator.sandbox.sagemaker import event_stream
from orchestrator.sandbox.web import MAX_BODY, Answer, encoded

PATH = re.compile(r"/endpoints/([^/]+)/(invocations(?:-response-stream)?)")
NAME = re.compile(r"(?=.{1,63}$)[a-zA-Z0-9](-*[a-zA-Z0-9])*")
INVOKE_SECONDS = 60
RESTART_SECONDS = 20  # how long a request waits for a process that is being started again

PREFIX = "x-amzn-sagemaker-"
ATTRIBUTES = "X-Amzn-SageMaker-Custom-Attributes"
INFERENCE_ID_HEADER = "x-amzn-sagemaker-inference-id"
VARIANT = "x-amzn-sagemaker-target-variant"
# What a caller knows a header as that is not honoured.
MEMBERS = {
    f"{PREFIX}{header}": member
    for header, member in {
        "target-model": "TargetModel",
        "target-variant": "TargetVariant",
        "target-container-hostname": "TargetContainerHostname",
        "enable-explanations": "EnableExplanations",
        "inference-component": "InferenceComponentName",
        "session-id": "SessionId",
        "prefix-aware-id": "PrefixAwareId",
        "s3outputpathextension": "S3OutputPathExtension",
        "filename": "Filename",
    }.items()
}
INFERENCE_ID = re.compile(r"\S[ -~]{0,63}")
NOT_ASYNCHRONOUS = "Endpoint {} has no AsyncInferenceConfig: use InvokeEndpoint."
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


@dataclass(frozen=True)
class Operation:
    """An operation's headers: which of them reach the container, and as what; which else it takes."""

    name: str
    container: dict[str, str]
    others: tuple[str, ...] = ()

    def forwarded(self, headers: dict[str, str]) -> dict[str, str]:
        """What reaches the container; AwsError for a header that is wrong, or not honoured."""
        for name in headers:
            if name.startswith(PREFIX) and name not in (*self.container, *self.others):
                what = MEMBERS.get(name, f"the header {name}")
                message = f"The sandbox does not honour {what} of {self.name}."
                raise AwsError("ValidationError", message)
        _check(headers)
        return {to: headers[name] for name, to in self.container.items() if name in headers}


# The documented headers reach the container, no others.
ALWAYS = {name: name for name in (ATTRIBUTES.lower(), INFERENCE_ID_HEADER)}
OPERATIONS = {
    "invocations": Operation(
        "InvokeEndpoint",
        ALWAYS | {"content-type": "content-type", "accept": "accept"},
        (VARIANT,),
    ),
    "invocations-response-stream": Operation(
        "InvokeEndpointWithResponseStream",
        ALWAYS | {"content-type": "content-type", f"{PREFIX}accept": "accept"},
        (VARIANT,),
    ),
}


@dataclass(frozen=True)
class Route:
    """Where an endpoint's requests go."""

    socket: str
    variant: str
    asynchronous: bool = False

    def check(self, endpoint: str, asynchronous: bool) -> None:
        """AwsError unless the endpoint is asked in the manner that its configuration says."""
        if self.asynchronous and not asynchronous:
            raise AwsError("ValidationError", f"{endpoint} is asked by InvokeEndpointAsync alone.")
        if asynchronous and not self.asynchronous:
            raise AwsError("ValidationError", NOT_ASYNCHRONOUS.format(endpoint))


class Routes:
    """The routes as the sandbox has written them, read again when they change."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._known: dict[str, tuple[tuple[int, int], Route]] = {}

    def find(self, endpoint: str) -> Route:
        """The route of an endpoint; AwsError when there is no such endpoint in service."""
        route = self._find(endpoint)
        if route is None:
            message = f"Endpoint {endpoint} of account {ACCOUNT} not found."
            raise AwsError("ValidationError", message)
        return route

    def _find(self, endpoint: str) -> Route | None:
        if not NAME.fullmatch(endpoint):
            return None
        path = self._places.route(endpoint)
        try:
            state = os.stat(path)
            version = (state.st_mtime_ns, state.st_ino)
            known = self._known.get(endpoint)
            if known is None or known[0] != version:
                known = self._known[endpoint] = (version, Route(**json.loads(path.read_text())))
        except FileNotFoundError:
            self._known.pop(endpoint, None)
            return None
        return known[1]


class Runtime:
    def __init__(
        self, places: Places, count: Callable[[str, str, int, float, float], None]
    ) -> None:
        """Routes and sockets are found in `places`, below the working directory. `count` is told of
        every answer, as `cloudwatch.tally.Tally.count`."""
        self._count = count
        self._routes = Routes(Places(Path()))
        self._logs = places.folder / "logs"
        self._hops: dict[str, Hop] = {}

    async def answer(
        self, method: str, target: str, headers: dict[str, str], body: bytes, came: float
    ) -> Answer:
        """Answer one verified request; `target` is the path, and the query where there is one. It
        `came` at that time of time.perf_counter."""
        try:
            match = PATH.fullmatch(target)
            if not match or method != "POST":
                nothing = f"There is no operation {method} {target}"
                raise AwsError("UnknownOperationException", nothing, 404)
            operation = OPERATIONS[match[2]]
            forwarded = operation.forwarded(headers)
            answer = await self.ask(unquote(match[1]), forwarded, body, headers.get(VARIANT), came)
            return answer if match[2] == "invocations" else _streamed(answer)
        except AwsError as error:
            return failed(error)

    async def ask(
        self, endpoint: str, headers: dict[str, str], body: bytes, variant: str | None = None,
        came: float | None = None, seconds: float = INVOKE_SECONDS, asynchronous: bool = False,
    ) -> Answer:  # fmt: skip
        """The answer of an endpoint, which must be asynchronous or must not be.

        Raises AwsError: a ModelError when the container does not answer, or with an error.
        """
        came = time.perf_counter() if came is None else came
        forwarded = [(key, encoded(value)) for key, value in headers.items()]
        try:
            reply, variant = await self._ask(
                endpoint, variant, forwarded, body, came, seconds, asynchronous
            )
        except TimeoutError:
            message = self._received("server", 0, TIMED_OUT, endpoint)
            raise ModelError(message, 0, "", endpoint) from None
        if not 200 <= reply.status < 300:
            self._raise_model_error(endpoint, reply)
        if len(reply.body) > MAX_BODY:
            message = "The response is too large; could not load the entire response body."
            raise ModelError(message, reply.status, "", endpoint)
        sent = {"x-Amzn-Invoked-Production-Variant": variant}
        content_type = "application/octet-stream"
        for name, value in reply.headers:
            if name == b"content-type":
                content_type = value.decode("latin-1")
            elif name == b"x-amzn-sagemaker-custom-attributes":
                sent[ATTRIBUTES] = value.decode("utf-8", "surrogateescape")
        return Answer(200, content_type, reply.body, sent)

    async def _ask(
        self, endpoint: str, variant: str | None, headers: list, body: bytes, came: float,
        seconds: float, asynchronous: bool,
    ) -> tuple[Reply, str]:  # fmt: skip
        """The endpoint's answer; a process that is being started again is waited for."""
        deadline = time.monotonic() + RESTART_SECONDS
        while True:
            route = self._routes.find(endpoint)
            route.check(endpoint, asynchronous)
            if variant not in (None, route.variant):
                message = f"Variant {variant} of endpoint {endpoint} not found."
                raise AwsError("ValidationError", message)
            asked = time.perf_counter()
            try:
                async with asyncio.timeout(seconds):
                    hop = self._hop(route.socket)
                    reply = await hop.ask("POST", "/invocations", headers, body)
                self._count(endpoint, route.variant, reply.status, came, asked)
                return reply, route.variant
            except TimeoutError:
                self._count(endpoint, route.variant, 0, came, asked)
                raise
            except OSError:  # nobody listens: it has died, or is not up yet
                self._drop(route.socket)
            except Broken as broken:
                # A process that makes place for another one closes its kept connections; one that
                # dies does so too, but may have begun to answer.
                if broken.fresh or self._routes.find(endpoint) == route:
                    self._count(endpoint, route.variant, 0, came, asked)
                    message = f"The process of endpoint {endpoint} ended while it was being asked."
                    raise AwsError("ServiceUnavailable", message, 503) from None
            if time.monotonic() > deadline:
                self._count(endpoint, route.variant, 0, came, asked)
                message = f"The process of endpoint {endpoint} is being started again."
                raise AwsError("ServiceUnavailable", message, 503)
            await asyncio.sleep(0.02)

    def _hop(self, socket: str) -> Hop:
        hop = self._hops.get(socket)
        if hop is None:
            hop = self._hops[socket] = Hop(socket)
        return hop

    def _drop(self, socket: str) -> None:
        hop = self._hops.pop(socket, None)
        if hop is not None:
            hop.close()

    def _raise_model_error(self, endpoint: str, reply: Reply) -> None:
        original = reply.body.decode(errors="replace")[:4096]
        whose = "client" if 400 <= reply.status < 500 else "server"
        message = self._received(whose, reply.status, original, endpoint)
        raise ModelError(message, reply.status, original, endpoint)

    def _received(self, whose: str, status: int, original: str, endpoint: str) -> str:
        return (
            f'Received {whose} error ({status}) from primary with message "{original}". '
            f"See {self._logs}/{endpoint}.*.log, or the log group {LOG_GROUP.format(endpoint)}, for more "
            "information."
        )


def _streamed(answer: Answer) -> Answer:
    """An answer as events; what is said of it goes into headers of their own."""
    headers = answer.headers | {"X-Amzn-SageMaker-Content-Type": answer.content_type}
    return Answer(200, event_stream.CONTENT_TYPE, event_stream.parts(answer.body), headers)


def _check(headers: dict[str, str]) -> None:
    attributes = headers.get(ATTRIBUTES.lower())
    if attributes is not None and (
        len(attributes) > 1024 or not attributes.isprintable() or not attributes.isascii()
    ):
        message = "CustomAttributes must be at most 1024 visible US-ASCII characters."
        raise AwsError("ValidationError", message)
    inference_id = headers.get(INFERENCE_ID_HEADER)
    if inference_id is not None and not INFERENCE_ID.fullmatch(inference_id):
        message = "InferenceId must be 1 to 64 printable characters."
        raise AwsError("ValidationError", message)


def failed(error: AwsError) -> Answer:
    """A refusal, or what a container did wrong, as SageMaker's data plane tells it."""
    body = {"Message": error.message, "message": error.message}
    if isinstance(error, ModelError):
        body = _model_error_body(error)
    kind = {"x-amzn-ErrorType": error.code}
    return Answer(error.status, "application/json", json.dumps(body).encode(), kind)


def _model_error_body(error: ModelError) -> dict:
    client_error = 400 <= error.original_status < 500
    group = f"log-group:{LOG_GROUP.format(error.endpoint)}"
    return {
        "ErrorCode": "CLIENT_ERROR_FROM_MODEL" if client_error else "INTERNAL_FAILURE_FROM_MODEL",
        "LogStreamArn": f"arn:aws:logs:{REGION}:{ACCOUNT}:{group}",
        "Message": error.message,
        "OriginalMessage": error.original,
        "OriginalStatusCode": error.original_status,
    }
