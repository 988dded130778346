"""A front process: the sandbox's address, where every request but S3's comes in.

A prediction is checked here and handed to its endpoint's process; everything else goes on as it
came to the sandbox itself (server.py), which checks what it acts upon. There is one front for every
two cores, all listening on the same socket, and they go on answering predictions when the sandbox is
killed. Nothing heavy is imported here.
"""

import asyncio
import hashlib
import json
import logging
import os
import socket
import time
from pathlib import Path

import uvloop
from setproctitle import setproctitle

from orchestrator.sandbox import web
from orchestrator.sandbox.children import Line
from orchestrator.sandbox.errors import AwsError
from orchestrator.sandbox.gate import Gate, scope_of
from orchestrator.sandbox.hop import Broken, Hop
from orchestrator.sandbox.places import REGION, Places, load_credentials
from orchestrator.sandbox.sagemaker.runtime import MAX_BODY, Runtime
from orchestrator.sandbox.web import Answer

log = logging.getLogger("front")

CONTROL = "run/control.sock"
ENDPOINTS = "/endpoints/"
CONTROL_SECONDS = 5  # how long a request waits for a sandbox that is being started again
HOST = "x-front-host"  # what the signature covers as Host
NOT_FORWARDED = ("host", "connection", "content-length", "transfer-encoding", "expect", HOST)


class Front:
    """The ASGI application."""

    def __init__(self, places: Places, gate: Gate) -> None:
        self._gate = gate
        self._runtime = Runtime(places)
        self._control = Hop(CONTROL)

    async def __call__(self, scope, receive, send) -> None:
        try:
            headers = web.headers_of(scope)
            body = await web.read_body(receive, MAX_BODY)
            if scope["path"].startswith(ENDPOINTS):
                answer = await self._predict(scope, headers, body)
            else:
                answer = await self._forward(scope, headers, body)
        except Exception:
            log.exception("a request could not be answered")
            answer = _unavailable("The sandbox could not do it; see its log.", 500)
        await web.send_answer(send, answer, with_body=scope["method"] != "HEAD")

    async def _predict(self, scope, headers: dict[str, str], body: bytes) -> Answer:
        claim = scope_of(headers)
        if claim is None:
            return Answer(403, "application/json", b'{"message": "Missing Authentication Token"}')
        if len(body) > MAX_BODY:  # not all of it was kept
            message = f"The body is longer than the {MAX_BODY} bytes that are allowed."
            return _refused(AwsError("ValidationError", message, 413))
        path, query = scope["raw_path"].decode("latin-1"), scope["query_string"].decode("latin-1")
        try:
            digest = hashlib.sha256(body).hexdigest()
            self._gate.check(scope["method"], path, query, headers, digest, claim, "sagemaker")
        except AwsError as error:
            return _refused(error)
        target = f"{path}?{query}" if query else path
        return await self._runtime.answer(scope["method"], target, headers, body)

    async def _forward(self, scope, headers: dict[str, str], body: bytes) -> Answer:
        """Hand a request to the sandbox as it came; it is waited for when it is away."""
        target = scope["raw_path"].decode("latin-1")
        if scope["query_string"]:
            target += f"?{scope['query_string'].decode('latin-1')}"
        kept = [(HOST, web.encoded(headers.get("host", "")))]
        kept += [
            (name, web.encoded(value))
            for name, value in headers.items()
            if name not in NOT_FORWARDED
        ]
        deadline = time.monotonic() + CONTROL_SECONDS
        while True:
            try:
                reply = await self._control.ask(scope["method"], target, kept, body)
                break
            except Broken:  # it may have begun: whether to ask again is for the client to say
                return _unavailable("The sandbox was killed while it was being asked.", 503)
            except OSError:
                if time.monotonic() > deadline:
                    return _unavailable("The sandbox is being started again.", 503)
            await asyncio.sleep(0.05)
        sent = dict(reply.headers)
        content_type = sent.pop(b"content-type", b"").decode("latin-1")
        more = {
            name.decode("latin-1"): value.decode("latin-1")
            for name, value in sent.items()
            if name not in (b"content-length", b"date", b"server")
        }
        return Answer(reply.status, content_type, reply.body, more)


def _refused(error: AwsError) -> Answer:
    body = json.dumps({"__type": error.code, "message": error.message}).encode()
    return Answer(error.status, "application/json", body, {"x-amzn-ErrorType": error.code})


def _unavailable(message: str, status: int) -> Answer:
    code = "ServiceUnavailable" if status == 503 else "InternalFailure"
    return _refused(AwsError(code, message, status))


async def serve(folder: Path, path: str, listener: socket.socket) -> None:
    places = Places(folder)
    gate = Gate(*load_credentials(places), REGION)
    line = Line(path, {"kind": "front"}, [listener])
    serving = await web.start(Front(places, gate), [listener], drain_seconds=65)
    line.tell(ready=True)
    await serving


def main(folder: str, path: str, number: int) -> None:
    """`path` is that of the line to listen on, `number` that of the listening socket."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.raiseExceptions = False  # a log that cannot be written is no reason to fail
    setproctitle(f"sandbox front {folder}")
    os.chdir(folder)
    uvloop.run(serve(Path(folder), path, socket.socket(fileno=number)))
