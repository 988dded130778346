"""What runs in an endpoint's process: SageMaker's container, without the container.

It answers `GET /ping` and `POST /invocations` as the container would. A custom image's place
is taken by a command of the user's, which this process starts and forwards to.
"""

import asyncio
import contextlib
import logging
import os
import shlex
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import uvloop
from setproctitle import setproctitle

from orchestrator.sandbox import web
from orchestrator.sandbox.children import Line
from orchestrator.sandbox.hosting.capture import Capture
from orchestrator.sandbox.hosting.container import INTERNAL_ERROR, Container, ContainerFailed, page
from orchestrator.sandbox.web import Answer

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
HEARD_SECONDS = 10  # for the reason of a failure to be read
COMMAND_SECONDS = 120  # how long a user's command may take to answer its first ping


class Service:
    """The HTTP side, an ASGI application over a `Container` or a `Command`."""

    def __init__(self, container: "Container | Command", capture: Capture) -> None:
        self._container = container
        self._capture = capture

    async def __call__(self, scope, receive, send) -> None:
        body = await web.read_body(receive)
        headers = web.headers_of(scope)
        answer = await self._answer(scope["method"], scope["path"], headers, body)
        await web.send_answer(send, answer, with_body=scope["method"] != "HEAD")

    async def _answer(self, method: str, path: str, headers: dict, body: bytes) -> Answer:
        if not path.startswith(FORWARDED):
            return NOT_FORWARDED
        if path not in METHODS:
            return NOT_FOUND
        if path == "/execution-parameters" and not self._container.execution_parameters:
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
                return self._container.execution_parameters()
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

    async def invoke_async(self, headers: dict, body: bytes, content_type: str) -> Answer:
        return self.invoke(body, content_type, headers.get("accept", ""))


class Command:
    """A user's own serving command in the place of a custom image.

    It must listen on 127.0.0.1 at the port in SAGEMAKER_BIND_TO_PORT, and finds the
    unpacked model in the folder SM_MODEL_DIR, which is also where it is started.
    """

    execution_parameters = None

    def __init__(self, command: str, model_dir: Path, environment: dict[str, str]) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        self._url = f"http://127.0.0.1:{port}"
        variables = {"SAGEMAKER_BIND_TO_PORT": str(port), "SM_MODEL_DIR": str(model_dir)}
        self._session = None
        try:
            self._process = subprocess.Popen(
                shlex.split(command), cwd=model_dir, env=os.environ | environment | variables,
                stdin=subprocess.DEVNULL, stdout=sys.stderr,
            )  # fmt: skip
        except OSError as error:
            raise ContainerFailed(f"The command {command!r} cannot be started: {error}") from None

    async def started(self) -> None:
        """Wait for the first ping that succeeds."""
        import aiohttp  # 8 MB that other endpoints do without

        self._session = aiohttp.ClientSession()
        for _ in range(COMMAND_SECONDS * 10):
            if self._process.poll() is not None:
                raise ContainerFailed(
                    f"The command ended with exit code {self._process.returncode}."
                )
            with contextlib.suppress(aiohttp.ClientError):
                if (await self.ping()).status == 200:
                    return
            await asyncio.sleep(0.1)
        raise ContainerFailed(f"The command did not answer /ping within {COMMAND_SECONDS} s.")

    async def ping(self) -> Answer:
        return await self._forward("GET", "/ping", {}, b"")

    async def invoke_async(self, headers: dict, body: bytes, content_type: str) -> Answer:
        kept = {k: v for k, v in headers.items() if k not in ("host", "content-length")}
        return await self._forward("POST", "/invocations", kept, body)

    async def _forward(self, method: str, path: str, headers: dict, body: bytes) -> Answer:
        async with self._session.request(
            method, self._url + path, headers=headers, data=body
        ) as answer:
            content_type = answer.headers.get("Content-Type", "application/octet-stream")
            return Answer(answer.status, content_type, await answer.read())

    def stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()


async def run(job: dict, listener: socket.socket, ready: Callable[[], None]) -> None:
    """Serve on a listening socket until a signal comes.

    The job: `endpoint` and `config`, the names of what is served; `model_dir`, the unpacked model;
    `image` and `environment` of its container; `command`, where one stands for a custom image;
    `capture`, the DataCaptureConfig, and `spool`, the folder for what is captured; and `folder`, the
    sandbox's, below which `socket` and `line` are.
    """
    model_dir, environment = Path(job["model_dir"]), job["environment"]
    command = job.get("command")
    if command:
        container = Command(command, model_dir, environment)
    else:
        container = Model(model_dir, job["image"], environment)
    capture = Capture(Path(job["spool"]), job["capture"])
    try:
        if command:
            await container.started()
        service = Service(container, capture)
        # The fronts keep their connections; whoever closes one may do so under a request.
        serving = await web.start(service, [listener], drain_seconds=60, idle_seconds=86400)
        ready()
        while not serving.done():
            await asyncio.wait([serving], timeout=0.5)
            capture.flush_if_due()
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
    os.environ.clear()
    os.environ.update(environment)
    np.random.seed()  # a fork would go on with its parent's numbers, as would its siblings
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s")
    logging.raiseExceptions = False  # a log that cannot be written is no reason to fail
    setproctitle(f"sandbox endpoint {job['endpoint']} {job['folder']}")
    os.chdir(job["folder"])
    about = {
        key: job.get(key) for key in ("endpoint", "config", "variant", "socket", "image", "command")
    }
    line = Line(job["line"], {"kind": "endpoint"} | about)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(job["socket"])
    listener.listen(1024)
    try:
        os.chdir(job["model_dir"])
        uvloop.run(run(job, listener, lambda: line.tell(ready=True)))
        return 0
    except ContainerFailed as error:
        line.tell(failed=str(error))
        line.wait_until_heard(HEARD_SECONDS)
        return 1
    finally:
        with contextlib.suppress(OSError):
            os.unlink(os.path.join(job["folder"], job["socket"]))
