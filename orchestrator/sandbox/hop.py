"""One hop further: requests from a front process to a process that listens on a Unix socket.

Every prediction goes this way, and a general HTTP client spends more time on it than the signature
takes. This one knows what it is for: whole bodies, connections that are kept, no redirects, no
retries. Answers are parsed by httptools.
"""

import asyncio
from collections.abc import Iterable

import httptools

HEAD_BYTES = 65536  # of an answer's headers


class Broken(Exception):
    """The connection ended before the answer did; `fresh` when it had never been used before."""

    def __init__(self, fresh: bool) -> None:
        super().__init__("the connection ended before the answer did")
        self.fresh = fresh


class Reply:
    """An answer: its status, headers as they came, names in lower case, and body."""

    __slots__ = ("status", "headers", "body")

    def __init__(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        self.status, self.headers, self.body = status, headers, body


class _Connection(asyncio.Protocol):
    def __init__(self, idle: list["_Connection"]) -> None:
        self._idle = idle
        self._waiting: asyncio.Future | None = None
        self._used = False
        self._reset()

    def _reset(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._headers: list[tuple[bytes, bytes]] = []
        self._size, self._parts = 0, []

    def connection_made(self, transport) -> None:
        self.transport = transport

    async def ask(self, message: bytes, has_body: bool) -> Reply:
        """The answer to a request; to one of HEAD no body comes, whatever length is announced."""
        self._has_body = has_body
        self._waiting = asyncio.get_running_loop().create_future()
        self.transport.write(message)
        try:
            return await self._waiting
        except asyncio.CancelledError:
            self.transport.abort()  # the answer that may still come is not for the next one
            raise

    def data_received(self, data: bytes) -> None:
        if self._waiting is None or self._waiting.done():
            self.transport.abort()  # nobody has asked
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.transport.abort()

    # -- what the parser calls

    def on_header(self, name: bytes, value: bytes) -> None:
        self._size += len(name) + len(value)
        if self._size > HEAD_BYTES:
            self.transport.abort()
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        if not self._has_body:
            self.on_message_complete()

    def on_body(self, part: bytes) -> None:
        self._parts.append(part)

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        if 100 <= status < 200 or self._waiting.done():  # that of HEAD is complete with its headers
            return
        reply = Reply(status, self._headers, b"".join(self._parts))
        if self._parser.should_keep_alive():
            self._reset()
            self._used = True
            self._idle.append(self)
        else:
            self.transport.close()
        self._waiting.set_result(reply)

    def connection_lost(self, error: Exception | None) -> None:
        if self in self._idle:
            self._idle.remove(self)
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(Broken(not self._used))


class Hop:
    """Kept connections to one socket."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._idle: list[_Connection] = []

    async def ask(
        self, method: str, target: str, headers: Iterable[tuple[str, bytes]], body: bytes
    ) -> Reply:
        """Send a request; its answer.

        Raises Broken, or OSError when nobody listens. What is cancelled is not answered.
        """
        head = [b"%s %s HTTP/1.1\r\nhost: sandbox\r\n" % (method.encode(), target.encode())]
        head += [b"%s: %s\r\n" % (name.encode("latin-1"), value) for name, value in headers]
        head.append(b"content-length: %d\r\n\r\n" % len(body))
        if self._idle:
            connection = self._idle.pop()
        else:
            loop = asyncio.get_running_loop()
            _, connection = await loop.create_unix_connection(
                lambda: _Connection(self._idle), self.path
            )
        return await connection.ask(b"".join(head) + body, has_body=method != "HEAD")

    def close(self) -> None:
        for connection in list(self._idle):
            connection.transport.close()
