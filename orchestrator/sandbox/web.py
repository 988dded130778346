"""Run an ASGI application until SIGTERM, leaving what comes after to the caller."""

import asyncio
import contextlib
import signal

import uvicorn


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
    config = uvicorn.Config(
        app, lifespan="off", access_log=False, log_level="warning",
        timeout_graceful_shutdown=drain_seconds, **options,
    )  # fmt: skip
    server = Server(config)
    serving = asyncio.create_task(server.serve(sockets=sockets))
    while not server.started and not serving.done():
        await asyncio.sleep(0.01)
    return serving
