"""Bodies of uploads, held to what their client has signed, while they stream.

A body is handed on as it comes, and found to be right or wrong at its end: whoever sends it to the
store (`Upload`) keeps the last piece back until then. The store commits nothing of an upload that
does not come whole, so that nothing of a wrong one stays.

Source: AWS's "Signature calculations for the Authorization header: transferring payload in multiple
chunks", with and without trailing headers.
"""

import hashlib
import hmac
from collections.abc import AsyncIterator, Awaitable, Callable

from orchestrator.sandbox.gate import Gate, Scope
from orchestrator.sandbox.web import parts

UNSIGNED, UNSIGNED_TRAILER = "UNSIGNED-PAYLOAD", "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
SIGNED = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
SIGNED_TRAILER = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER"
CHUNKED = (UNSIGNED_TRAILER, SIGNED, SIGNED_TRAILER)
EMPTY = hashlib.sha256(b"").hexdigest()
LINE_BYTES = 16384  # of a chunk's or a trailer's line


class BadBody(Exception):
    """The body is not what was signed, or not what its framing announces: an S3 error code."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


MISMATCH = "The provided 'x-amz-content-sha256' header does not match what was computed."
CHUNK_MISMATCH = "The chunk signature we calculated does not match the one you provided."


async def checked(receive, expected: str) -> AsyncIterator[bytes]:
    """A plain body; `expected` is its SHA-256, or UNSIGNED-PAYLOAD."""
    digest = hashlib.sha256() if expected != UNSIGNED else None
    async for part in parts(receive):
        if digest:
            digest.update(part)
        yield part
    if digest and digest.hexdigest() != expected:
        raise BadBody("XAmzContentSHA256Mismatch", MISMATCH)


class Upload:
    """A body on its way to the store, its last piece kept back until all of it was found to be right;
    keeps what went wrong with it, which the HTTP client hides."""

    def __init__(self, pieces: AsyncIterator[bytes]) -> None:
        self._pieces = pieces
        self.before_last: Callable[[], Awaitable[None]] | None = None
        self.error: Exception | None = None

    async def __aiter__(self) -> AsyncIterator[bytes]:
        kept = b""
        try:
            async for piece in self._pieces:
                if kept:
                    yield kept
                kept = piece
            if self.before_last is not None:
                await self.before_last()
            yield kept
        except Exception as error:
            self.error = error
            raise


class Chunks:
    """Takes aws-chunked framing off a body: `feed` it, then `finish`."""

    def __init__(self, kind: str, gate: Gate, scope: Scope, time: str, length: int) -> None:
        """`kind` is the x-amz-content-sha256 header; `length` what the body decodes to."""
        self._signed = kind in (SIGNED, SIGNED_TRAILER)
        self._has_trailer = kind in (UNSIGNED_TRAILER, SIGNED_TRAILER)
        self._gate, self._scope, self._time = gate, scope, time
        self._signature = scope.signature  # of what came before
        self._buffer = bytearray()
        self._read = self._line
        self._left = 0  # of the chunk's data
        self._length, self._seen = length, 0
        self.trailer: list[tuple[str, str]] = []
        self.complete = False

    def feed(self, data: bytes) -> list[bytes]:
        """The payload that has come out so far; BadBody for framing that is none."""
        self._buffer += data
        found: list[bytes] = []
        while self._read(found):
            pass
        return found

    def finish(self) -> None:
        """Raise BadBody unless everything has come."""
        if not self.complete or self._buffer:
            raise BadBody("IncompleteBody", "The body ended before its last chunk.")
        if self._seen != self._length:
            raise BadBody(
                "IncompleteBody",
                f"The body has {self._seen} bytes, not the {self._length} announced.",
            )

    def _line(self, found: list[bytes]) -> bool:
        """`size[;chunk-signature=…]`, before a chunk's data."""
        line = self._take_line()
        if line is None:
            return False
        size, _, extension = line.partition(";")
        try:
            self._left = int(size, 16) if size.strip("0123456789abcdefABCDEF") == "" else -1
        except ValueError:
            self._left = -1
        if self._left < 0:
            raise BadBody("InvalidRequest", f"{line[:40]!r} is no chunk's size.")
        self._claimed = extension.removeprefix("chunk-signature=")
        self._digest = hashlib.sha256() if self._signed else None
        self._last = self._left == 0
        if self._last and self._has_trailer:
            self._check_chunk()
            self._read = self._trailer_line
        else:
            self._read = self._data
        return True

    def _data(self, found: list[bytes]) -> bool:
        if self._left:
            if not self._buffer:
                return False
            part = bytes(self._buffer[: self._left])
            del self._buffer[: len(part)]
            self._left -= len(part)
            self._seen += len(part)
            if self._digest:
                self._digest.update(part)
            found.append(part)
            return True
        if len(self._buffer) < 2:
            return False
        if self._buffer[:2] != b"\r\n":
            raise BadBody("InvalidRequest", "A chunk is longer than it announces.")
        del self._buffer[:2]
        self._check_chunk()
        self.complete = self._last
        self._read = self._nothing if self._last else self._line
        return True

    def _trailer_line(self, found: list[bytes]) -> bool:
        line = self._take_line()
        if line is None:
            return False
        if line:
            name, _, value = line.partition(":")
            self.trailer.append((name.strip().lower(), value.strip()))
            return True
        if self._signed:
            self._check_trailer()
        self.complete = True
        self._read = self._nothing
        return True

    def _nothing(self, found: list[bytes]) -> bool:
        return False

    def _take_line(self) -> str | None:
        end = self._buffer.find(b"\r\n")
        if end > LINE_BYTES or end < 0 and len(self._buffer) > LINE_BYTES:
            raise BadBody("InvalidRequest", "A line of the body's framing is too long.")
        if end < 0:
            return None
        line = bytes(self._buffer[:end]).decode("latin-1")
        del self._buffer[: end + 2]
        return line

    def _check_chunk(self) -> None:
        if self._digest is None:
            return
        self._check(f"PAYLOAD\n{self._time}\n{self._scope.text}\n{self._signature}\n{EMPTY}\n"
                    f"{self._digest.hexdigest()}", self._claimed)  # fmt: skip

    def _check_trailer(self) -> None:
        claimed = dict(self.trailer).get("x-amz-trailer-signature", "")
        self.trailer = [pair for pair in self.trailer if pair[0] != "x-amz-trailer-signature"]
        lines = "".join(f"{name}:{value}\n" for name, value in self.trailer)
        digest = hashlib.sha256(lines.encode("latin-1")).hexdigest()
        self._check(
            f"TRAILER\n{self._time}\n{self._scope.text}\n{self._signature}\n{digest}", claimed
        )

    def _check(self, what: str, claimed: str) -> None:
        wanted = self._gate.sign(self._scope, f"AWS4-HMAC-SHA256-{what}")
        if not hmac.compare_digest(wanted.encode(), claimed.encode("utf-8", "replace")):
            raise BadBody("SignatureDoesNotMatch", CHUNK_MISMATCH)
        self._signature = claimed


async def unframed(receive, chunks: Chunks) -> AsyncIterator[bytes]:
    """The payload of an aws-chunked body."""
    async for data in parts(receive):
        for part in chunks.feed(data):
            yield part
    chunks.finish()


async def framed(payload: AsyncIterator[bytes], chunks: Chunks) -> AsyncIterator[bytes]:
    """A payload in unsigned chunks, with the trailer that came behind it: the store checks the sums
    in it, which some algorithms need libraries for."""
    async for part in payload:
        yield b"%x\r\n%b\r\n" % (len(part), part)
    lines = "".join(f"{name}:{value}\r\n" for name, value in chunks.trailer)
    yield b"0\r\n%b\r\n" % lines.encode("latin-1")
