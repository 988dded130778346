"""The little that our ASGI applications share: answers, bodies, a server that stops."""

import asyncio
import contextlib
import gc
import signal
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import uvicorn

from orchestrator.sandbox.connections import Connection, most
from orchestrator.sandbox.errors import AwsError

MAX_BODY = 6 << 20  # SageMaker's limit, of requests and answers alike
MOST_BYTES = 256 << 20  # of bodies that are being read
PATIENCE_BYTES = 64 << 20  # by which a body may be too long for its client to hear of it
UNWANTED_BYTES = 1 << 20  # of a refused body are read; with more to come, the connection is closed
SWEEP_SECONDS = 1


class Disconnected(Exception):
    """The client went away in the middle of a body."""


@dataclass(frozen=True)
class Answer:
    status: int
    content_type: str
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)


def headers_of(scope: dict) -> dict[str, str]:
    """A request's headers, their names in lower case; bytes that are no UTF-8 survive."""
    return {k.decode("latin-1"): v.decode("utf-8", "surrogateescape") for k, v in scope["headers"]}


async def parts(receive) -> AsyncIterator[bytes]:
    """The pieces of a request's body as they come; Disconnected when it ends before it is whole."""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Disconnected
        if part := message.get("body", b""):
            yield part
        if not message.get("more_body"):
            return


class Bodies:
    """Bodies that are being read, before their signatures can be checked: all of them together are
    bounded, too."""

    def __init__(self, most: int = MOST_BYTES) -> None:
        self._left = most

    async def read(self, receive, limit: int) -> bytes:
        """A request's body; past `limit` bytes it is read, but only one byte more is kept.

        Raises Disconnected, and AwsError for a body without end or while too much else is being
        read: its connection must be closed.
        """
        kept, size, came = [], 0, 0
        try:
            async for part in parts(receive):
                came += len(part)
                if came > limit + PATIENCE_BYTES:
                    raise AwsError("RequestEntityTooLarge", "The body has no end.", 413)
                part = part[: max(0, limit + 1 - size)]
                size += len(part)
                self._left -= len(part)
                if self._left < 0:
                    raise AwsError("ThrottlingException", "Too much is being sent at once.", 503)
                kept.append(part)
        finally:
            self._left += size
        return kept[0] if len(kept) == 1 else b"".join(kept)


async def is_over(scope: dict, receive) -> bool:
    """Whether a body that nobody wants was soon read to its end, so that its connection can be used
    again. A client that waits to be told to go on does not send its body now, and what it sends next
    would be taken for it."""
    if any(name == b"expect" for name, _ in scope["headers"]):
        return False
    size = 0
    try:
        async for part in parts(receive):
            size += len(part)
            if size > UNWANTED_BYTES:
                return False
    except Disconnected:
        return False
    return True


async def send_answer(send, answer: Answer, with_body: bool = True) -> None:
    head = [
        (b"content-type", answer.content_type.encode("latin-1")),
        (b"content-length", b"%d" % len(answer.body)),
    ]
    head += [(k.encode("latin-1"), encoded(v)) for k, v in answer.headers.items()]
    await send({"type": "http.response.start", "status": answer.status, "headers": head})
    await send({"type": "http.response.body", "body": answer.body if with_body else b""})


def encoded(value: str) -> bytes:
    """A header's value as it goes over the wire; the reverse of `headers_of`."""
    return value.encode("utf-8", "surrogateescape")


def listener(port: int) -> socket.socket:
    """A socket that listens on loopback; OSError when the port is taken."""
    listening = socket.create_server(("127.0.0.1", port), reuse_port=False, backlog=1024)
    # Head and body of an answer are two writes: without this the second waits 40 ms.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


class Server(uvicorn.Server):
    """uvicorn raises SIGTERM again once it has stopped, which would end the process before
    anything could be put in order; this one only stops."""

    @contextlib.contextmanager
    def capture_signals(self):
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        yield


async def start(
    app, sockets: list[socket.socket], drain_seconds: int, idle_seconds: int = 75
) -> asyncio.Task:
    """Start serving; the task ends when a signal has come and open requests are answered.

    A connection on which nothing is asked for `idle_seconds` is closed.
    """
    # A full garbage collection goes through all that was ever imported, 45 ms in which nobody
    # is answered: leave out what is there now, and do it less often.
    gc.collect()
    gc.freeze()
    gc.set_threshold(700, 10, 1000)
    config = uvicorn.Config(
        app, lifespan="off", access_log=False, log_level="warning", proxy_headers=False,
        http=Connection, ws="none", timeout_graceful_shutdown=drain_seconds,
        timeout_keep_alive=idle_seconds,
    )  # fmt: skip
    Connection.most = most()
    server = Server(config)
    serving = asyncio.create_task(_serve(server, sockets))
    while not server.started and not serving.done():
        await asyncio.sleep(0.01)
    return serving


async def _serve(server: Server, sockets: list[socket.socket]) -> None:
    async def sweep() -> None:
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            for connection in list(server.server_state.connections):
                connection.end_if_stuck()

    sweeping = asyncio.create_task(sweep())
    try:
        await server.serve(sockets=sockets)
    finally:
        sweeping.cancel()
