"""Keep-alive HTTP clients that each ask again as soon as they are answered.

They run in a process of their own, on the same cores as the server they measure.
"""

import asyncio
import re
import time
from multiprocessing import get_context

import uvloop

LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


def request(path: str, host: str, body: bytes, headers: dict[str, str]) -> bytes:
    """The bytes of a POST."""
    lines = [f"POST {path} HTTP/1.1", f"Host: {host}", f"Content-Length: {len(body)}"]
    lines += [f"{key}: {value}" for key, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


class Client(asyncio.Protocol):
    """One connection, until its server closes it or the time is up."""

    def __init__(self, message: bytes, end: float, latencies: list[float]) -> None:
        self._message, self._end, self._latencies = message, end, latencies
        self._buffer = b""
        self.answers: list[bytes] = []  # the last one
        self.closed = asyncio.get_running_loop().create_future()

    def connection_made(self, transport) -> None:
        self._transport = transport
        self._ask()

    def _ask(self) -> None:
        self._began = time.perf_counter()
        self._transport.write(self._message)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, blank, body = self._buffer.partition(b"\r\n\r\n")
        if not blank:
            return
        length = LENGTH.search(head)
        if not head.startswith(b"HTTP/1.1 200") or length is None:
            self.closed.set_exception(RuntimeError(self._buffer.decode(errors="replace")))
            self._transport.abort()
        elif len(body) >= int(length[1]):
            self._latencies.append(time.perf_counter() - self._began)
            self.answers[:] = [body]
            self._buffer = b""
            if time.perf_counter() < self._end:
                self._ask()
            else:
                self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.closed.done():
            self.closed.set_result(None)


Address = str | tuple[str, int]  # a Unix socket's path, or host and port


async def _client(address: Address, message: bytes, end: float, latencies: list[float]) -> bytes:
    """Ask until `end`, on a new connection when the server closes one; the last answer."""
    loop, answer = asyncio.get_running_loop(), None
    while answer is None or time.perf_counter() < end:

        def new() -> Client:
            return Client(message, end, latencies)

        if isinstance(address, str):
            _, client = await loop.create_unix_connection(new, address)
        else:
            _, client = await loop.create_connection(new, *address)
        await client.closed
        answer = client.answers[-1] if client.answers else answer
    return answer


def ask(address: Address, message: bytes) -> bytes:
    """The body of one answer. RuntimeError holds an answer that is no 200, OSError no server."""
    return uvloop.run(_client(address, message, 0, []))


def _load(address: Address, message: bytes, clients: int, seconds: float) -> list[float]:
    latencies: list[float] = []

    async def all_clients() -> None:
        end = time.perf_counter() + seconds
        await asyncio.gather(*(_client(address, message, end, latencies) for _ in range(clients)))

    uvloop.run(all_clients())
    return latencies


def load(address: Address, message: bytes, clients: int, seconds: float) -> dict[str, float]:
    """Requests a second, and latencies in ms. Raises what `ask` does."""
    with get_context("spawn").Pool(1) as pool:
        latencies = sorted(pool.apply(_load, (address, message, clients, seconds)))
    count = len(latencies)
    return {
        "requests/s": count / seconds,
        "p50 ms": latencies[count // 2] * 1000,
        "p99 ms": latencies[int(count * 0.99)] * 1000,
    }
