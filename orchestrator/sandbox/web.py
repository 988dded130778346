"""The little that our ASGI applications share: answers, bodies, a server that stops."""

import asyncio
import contextlib
import gc
import signal
import socket
from dataclasses import dataclass, field

import uvicorn


@dataclass(frozen=True)
class Answer:
    status: int
    content_type: str
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)


def headers_of(scope: dict) -> dict[str, str]:
    """A request's headers, their names in lower case; bytes that are no UTF-8 survive."""
    return {k.decode("latin-1"): v.decode("utf-8", "surrogateescape") for k, v in scope["headers"]}


async def read_body(receive, limit: int | None = None) -> bytes:
    """A request's body; past `limit` bytes it is read, but only one byte more is kept."""
    message = await receive()
    body = message.get("body", b"")
    if not message.get("more_body"):  # nearly always
        return body if limit is None else body[: limit + 1]
    parts, size = [], 0
    while True:
        if limit is not None:
            body = body[: max(0, limit + 1 - size)]
        size += len(body)
        parts.append(body)
        if not message.get("more_body"):
            return b"".join(parts)
        message = await receive()
        body = message.get("body", b"")


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
        http="httptools", ws="none", timeout_graceful_shutdown=drain_seconds,
        timeout_keep_alive=idle_seconds,
    )  # fmt: skip
    server = Server(config)
    serving = asyncio.create_task(server.serve(sockets=sockets))
    while not server.started and not serving.done():
        await asyncio.sleep(0.01)
    return serving
