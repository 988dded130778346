"""A front process: the sandbox's address, where every request but S3's comes in.

A prediction is checked here and handed to its endpoint's process; everything else goes on as it
came to the sandbox itself (server.py), which checks what it acts upon. There is one front for every
two cores, all listening on the same socket, and they go on answering predictions when the sandbox is
killed. Nothing heavy is imported here.
"""

import asyncio
import hashlib
import logging
import os
import socket
import time
from dataclasses import replace
from pathlib import Path

import uvloop
from setproctitle import setproctitle

from orchestrator.sandbox import web
from orchestrator.sandbox.children import Line
from orchestrator.sandbox.cloudwatch.tally import WRITE_SECONDS, Tally
from orchestrator.sandbox.errors import AwsError
from orchestrator.sandbox.gate import Gate, Scope, check_age, scope_of
from orchestrator.sandbox.hop import Broken, Hop
from orchestrator.sandbox.places import REGION, Places, load_credentials
from orchestrator.sandbox.refusals import refusal
from orchestrator.sandbox.sagemaker.runtime import Runtime
from orchestrator.sandbox.web import MAX_BODY, Answer

log = logging.getLogger("front")

CONTROL = "run/control.sock"
ANSWERS = "/cloudformation/answers/"  # where custom resources' answers come in
ANSWER_BYTES = 65536  # CloudFormation takes 4096
ENDPOINTS = "/endpoints/"
ASYNCHRONOUS = "/async-invocations"  # are answered later, and by the sandbox itself
CONTROL_SECONDS = 5  # how long a request waits for a sandbox that is being started again
HOST = "x-front-host"  # what the signature covers as Host
NOT_FORWARDED = ("host", "connection", "content-length", "transfer-encoding", "expect", HOST)


class Front:
    """The ASGI application."""

    def __init__(self, places: Places, gate: Gate, tally: Tally) -> None:
        self._gate = gate
        self._runtime = Runtime(places, tally.count)
        self._control = Hop(CONTROL)
        self._bodies = web.Bodies()

    async def __call__(self, scope, receive, send) -> None:
        headers = web.headers_of(scope)
        claim = scope_of(headers)
        try:
            limit = self._limit(scope, headers, claim)
            body = await self._bodies.read(receive, limit) if limit else b""
            path = scope["path"]
            if path.startswith(ENDPOINTS) and not path.endswith(ASYNCHRONOUS):
                answer = await self._predict(scope, headers, body, claim)
            else:
                answer = await self._forward(scope, headers, body)
            if not limit and not await web.is_over(scope, receive):
                answer = replace(answer, headers=answer.headers | {"Connection": "close"})
        except web.Disconnected:
            return
        except AwsError as error:  # of the body, which is not read to its end, or of the sandbox
            answer = _refused(claim, headers, error)
            answer = replace(answer, headers=answer.headers | {"Connection": "close"})
        except Exception:
            log.exception("a request could not be answered")
            message = "The sandbox could not do it; see its log."
            answer = _refused(claim, headers, AwsError("InternalFailure", message, 500))
        await web.send_answer(send, answer, with_body=scope["method"] != "HEAD")

    def _limit(self, scope, headers: dict[str, str], claim: Scope | None) -> int:
        """How much of a body is read: nothing for somebody who does not even name our key."""
        if claim is None:  # a custom resource's answer carries its right in its address
            return ANSWER_BYTES if scope["path"].startswith(ANSWERS) else 0
        try:
            time = headers.get("x-amz-date", "")
            self._gate.check_scope(claim, time, claim.service)
            check_age(time)
        except AwsError:
            return 0
        return MAX_BODY

    async def _predict(
        self, scope, headers: dict[str, str], body: bytes, claim: Scope | None
    ) -> Answer:
        came = time.perf_counter()
        if claim is None:
            return Answer(403, "application/json", b'{"message": "Missing Authentication Token"}')
        path, query = scope["raw_path"].decode("latin-1"), scope["query_string"].decode("latin-1")
        try:
            if len(body) > MAX_BODY:  # not all of it was kept
                message = f"The body is longer than the {MAX_BODY} bytes that are allowed."
                raise AwsError("ValidationError", message, 413)
            digest = hashlib.sha256(body).hexdigest()
            self._gate.check(scope["method"], path, query, headers, digest, claim, "sagemaker")
        except AwsError as error:
            return _refused(claim, headers, error)
        target = f"{path}?{query}" if query else path
        return await self._runtime.answer(scope["method"], target, headers, body, came)

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
                raise _unavailable("The sandbox was killed while it was being asked.") from None
            except OSError:
                if time.monotonic() > deadline:
                    raise _unavailable("The sandbox is being started again.") from None
            await asyncio.sleep(0.05)
        sent = dict(reply.headers)
        content_type = sent.pop(b"content-type", b"").decode("latin-1")
        more = {
            name.decode("latin-1"): value.decode("latin-1")
            for name, value in sent.items()
            if name not in (b"content-length", b"date", b"server")
        }
        return Answer(reply.status, content_type, reply.body, more)


def _refused(claim: Scope | None, headers: dict[str, str], error: AwsError) -> Answer:
    return refusal(claim.service if claim else "", headers, error)


def _unavailable(message: str) -> AwsError:
    return AwsError("ServiceUnavailable", message, 503)


async def serve(folder: Path, name: str, listener: socket.socket) -> None:
    places = Places(folder)
    gate = Gate(*load_credentials(places), REGION)
    line = Line(name, {"kind": "front"}, [listener])
    tally = Tally(places.metrics)
    serving = await web.start(Front(places, gate, tally), [listener], drain_seconds=65)
    line.tell(ready=True)
    while not serving.done():
        await asyncio.wait([serving], timeout=WRITE_SECONDS)
        tally.write()
    serving.result()


def main(folder: str, name: str, number: int) -> None:
    """`name` is the process's own, `number` that of the listening socket."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.raiseExceptions = False  # a log that cannot be written is no reason to fail
    setproctitle(f"sandbox front {folder}")
    os.chdir(folder)
    uvloop.run(serve(Path(folder), name, socket.socket(fileno=number)))
