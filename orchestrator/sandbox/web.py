"""The little that our two ASGI applications share: answers, bodies, a server that stops."""

import asyncio
import contextlib
import gc
import signal
from dataclasses import dataclass, field

import uvicorn


@dataclass(frozen=True)
class Answer:
    status: int
    content_type: str
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)


def headers_of(scope: dict) -> dict[str, str]:
    """A request's headers, their names in lower case."""
    return {k.decode("latin-1"): v.decode("latin-1") for k, v in scope["headers"]}


async def read_body(receive, limit: int | None = None) -> bytes:
    """A request's body; past `limit` bytes it is read, but only one byte more is kept."""
    parts, size = [], 0
    while True:
        message = await receive()
        part = message.get("body", b"")
        if limit is not None:
            part = part[: max(0, limit + 1 - size)]
        size += len(part)
        parts.append(part)
        if not message.get("more_body"):
            return b"".join(parts)


async def send_answer(send, answer: Answer, with_body: bool = True) -> None:
    head = [
        (b"content-type", answer.content_type.encode("latin-1")),
        (b"content-length", b"%d" % len(answer.body)),
    ]
    head += [(k.encode("latin-1"), v.encode("latin-1")) for k, v in answer.headers.items()]
    await send({"type": "http.response.start", "status": answer.status, "headers": head})
    await send({"type": "http.response.body", "body": answer.body if with_body else b""})


class Server(uvicorn.Server):
    """uvicorn raises SIGTERM again once it has stopped, which would end the process before
    anything could be put in order; this one only stops."""

    @contextlib.contextmanager
    def capture_signals(self):
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        yield


async def start(app, drain_seconds: int, sockets: list | None = None, **options) -> asyncio.Task:
    """Start serving; the task ends when a signal has come and open requests are answered."""
    # A full garbage collection goes through all that was ever imported, 45 ms in which nobody
    # is answered: leave out what is there now, and do it less often.
    gc.collect()
    gc.freeze()
    gc.set_threshold(700, 10, 1000)
    config = uvicorn.Config(
        app, lifespan="off", access_log=False, log_level="warning", proxy_headers=False,
        timeout_graceful_shutdown=drain_seconds, **options,
    )  # fmt: skip
    server = Server(config)
    serving = asyncio.create_task(server.serve(sockets=sockets))
    while not server.started and not serving.done():
        await asyncio.sleep(0.01)
    return serving
