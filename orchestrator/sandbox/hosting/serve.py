"""What runs in an endpoint's process: SageMaker's container, without the container.

It answers `GET /ping` and `POST /invocations` as the container would. A custom image's place
is taken by a command of the user's, which this process starts and forwards to.
"""

import asyncio
import logging
import os
import socket
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import uvloop
from setproctitle import setproctitle

from orchestrator.sandbox import places, web
from orchestrator.sandbox.children import Line, socket_of
from orchestrator.sandbox.hosting.capture import Capture
from orchestrator.sandbox.hosting.command import Command
from orchestrator.sandbox.hosting.confinement import READ, SPOOL, WORK, confine
from orchestrator.sandbox.hosting.container import INTERNAL_ERROR, Container, ContainerFailed, page
from orchestrator.sandbox.hosting.manners import be_modest
from orchestrator.sandbox.web import MAX_BODY, Answer

log = logging.getLogger("endpoint")

# What the container's web server forwards; it answers everything else itself.
FORWARDED = ("/ping", "/invocations", "/execution-parameters")
NOT_FORWARDED = Answer(404, "application/octet-stream", b"{}")
NOT_FOUND = page(
    404,
    "Not Found",
    "The requested URL was not found on the server. If you entered the URL manually please "
    "check your spelling and try again.",
)
METHOD_TEXT = "The method is not allowed for the requested URL."
METHODS = {
    "/ping": ("HEAD", "GET", "OPTIONS"),
    "/invocations": ("POST", "OPTIONS"),
    "/execution-parameters": ("HEAD", "GET", "OPTIONS"),
}
MOST_OF_BATCH = 100 << 20  # a mini-batch may be longer than what an endpoint is asked
HEARD_SECONDS = 10  # for the reason of a failure to be read


class Service:
    """The HTTP side, an ASGI application over a `Container` or a `Command`."""

    def __init__(
        self, container: "Container | Command", capture: Capture, most: int = MAX_BODY
    ) -> None:
        """`most` bytes of a request are taken."""
        self._container = container
        self._capture = capture
        self._most = most
        self._bodies = web.Bodies(sys.maxsize)  # the fronts have bounded them

    async def __call__(self, scope, receive, send) -> None:
        try:
            body = await self._bodies.read(receive, self._most)
        except web.Disconnected:
            return
        headers = web.headers_of(scope)
        answer = await self._answer(scope["method"], scope["path"], headers, body)
        await web.send_answer(send, answer, with_body=scope["method"] != "HEAD")

    async def _answer(self, method: str, path: str, headers: dict, body: bytes) -> Answer:
        if not path.startswith(FORWARDED):
            return NOT_FORWARDED
        if path not in METHODS:
            return NOT_FOUND
        if path == "/execution-parameters" and not self._container.tells_parameters:
            return NOT_FOUND
        allowed = METHODS[path]
        if method not in allowed:
            refused = page(405, "Method Not Allowed", METHOD_TEXT)
            return Answer(405, refused.content_type, refused.body, {"Allow": ", ".join(allowed)})
        if method == "OPTIONS":
            return Answer(200, "text/html; charset=utf-8", b"", {"Allow": ", ".join(allowed)})
        try:
            if path == "/ping":
                return await self._container.ping()
            if path == "/execution-parameters":
                return await self._container.execution_parameters_async()
            return await self._invoke(headers, body)
        except Exception:
            log.exception("%s failed", path)
            return INTERNAL_ERROR

    async def _invoke(self, headers: dict, body: bytes) -> Answer:
        content_type = headers.get("contenttype") or headers.get("content-type", "")
        answer = await self._container.invoke_async(headers, body, content_type)
        if 200 <= answer.status < 300:
            inference_id = headers.get("x-amzn-sagemaker-inference-id")
            try:
                self._capture.record(
                    (content_type, body), (answer.content_type, answer.body), inference_id
                )
            except OSError:  # a full disk stops the capture, not the endpoint; so on SageMaker
                log.exception("a request could not be captured")
        return answer


class Model(Container):
    """The container itself, asked in this process."""

    async def ping(self) -> Answer:
        return Answer(200, "application/json", b"")

    async def execution_parameters_async(self) -> Answer:
        return self.execution_parameters()

    async def invoke_async(self, headers: dict, body: bytes, content_type: str) -> Answer:
        return self.invoke(body, content_type, headers.get("accept", ""))


async def run(job: dict, listener: socket.socket, tell: Callable[..., None]) -> None:
    """Serve on a listening socket until a signal comes.

    The job: `endpoint` and `config`, the names of what is served; `asynchronous`, how it is asked;
    `model_dir`, the unpacked model;
    `image` and `environment` of its container; `command`, where one stands for a custom image;
    `capture`, the DataCaptureConfig, and `spool`, the folder for what is captured; `name`, the
    process's, whose folder it is started in; `folder`, the sandbox's; and `batch` for a transform job's
    model, which has time. `tell` hears what it is doing,
    and that it is ready.
    """
    model_dir, environment = Path(job["model_dir"]), job["environment"]
    command = job.get("command")
    if command:
        container = Command(command, model_dir, environment)
    else:
        container = Model(model_dir, job["image"], environment, lambda what: tell(doing=what))
    capture = Capture(Path(job["spool"]), job["capture"])
    try:
        if command:
            await container.started()
        service = Service(container, capture, MOST_OF_BATCH if job.get("batch") else MAX_BODY)
        # The fronts keep their connections; whoever closes one may do so under a request.
        serving = await web.start(service, [listener], drain_seconds=60, idle_seconds=86400)
        tell(ready=True)
        while not serving.done():
            await asyncio.wait([serving], timeout=0.5)
            capture.flush_if_due()
            if command:
                container.check()
    finally:
        capture.flush()
        if command:
            container.stop()


def main(job: dict, environment: dict[str, str]) -> int:
    """Serve a job with this environment, what is printed going to the log; the exit code.

    Says on its line that it is ready, or why it has failed.
    """
    log_file = os.open(job["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(log_file, stream.fileno())
        stream.reconfigure(line_buffering=True)
    os.close(log_file)
    np.random.seed()  # a fork would go on with its parent's numbers, as would its siblings
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s")
    logging.raiseExceptions = False  # a log that cannot be written is no reason to fail
    setproctitle(f"sandbox endpoint {job['endpoint']} {job['folder']}")
    os.chdir(job["folder"])
    told = ("endpoint", "config", "variant", "asynchronous", "image", "command")
    line = Line(job["name"], {"kind": "endpoint"} | {key: job.get(key) for key in told})
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(socket_of(job["name"]))
    listener.listen(1024)
    try:
        if job.get("batch"):
            be_modest()
        _settle_in(job, environment)
        uvloop.run(run(job, listener, line.tell))
        return 0
    except ContainerFailed as error:
        if error.__cause__:  # where in the user's code
            traceback.print_exception(error.__cause__)
        line.tell(failed=str(error))
        line.wait_until_heard(HEARD_SECONDS)
        return 1


def _settle_in(job: dict, environment: dict[str, str]) -> None:
    """Go to the process's own folder, with its own environment, and give up the rest of the machine:
    a model's code comes next. A command is the user's own, and has a network of its own instead."""
    home = places.Places(Path(job["folder"])).process(job["name"])
    work = home / "work"
    work.mkdir(mode=0o700)
    os.chdir(work)
    os.environ.clear()
    os.environ.update(environment | {"HOME": str(work), "TMPDIR": str(work)})
    tempfile.tempdir = None  # what the parent has found
    sys.dont_write_bytecode = True
    sys.modules["__main__"] = ModuleType("__main__")  # a pickle's is not the parent's
    if not job.get("command"):
        confine({work: WORK, job["spool"]: SPOOL, job["model_dir"]: READ})
