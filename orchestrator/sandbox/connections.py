"""What a connection may cost before anybody knows whose it is.

uvicorn reads headers for as long as they come, waits for a first request without end, and accepts
until no file can be opened. Here each of these ends: headers by bytes and by time, bodies and answers
that stand still by time, connections by number, the idle ones first. What is refused is logged once.
"""

import logging
import resource
from typing import ClassVar

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

log = logging.getLogger(__name__)

HEAD_BYTES = 65536  # of a request line and its headers; AWS takes less
HEAD_SECONDS = 10  # from its first byte, or from the connection, to the end of the headers
STALL_SECONDS = 30  # for the next piece of a body
UNREAD_SECONDS = 120  # for an answer that its client does not read
MOST_FILES = 65536
OWN_FILES = 128  # a process needs for itself
FRAMING = 16  # bytes of a body's framing for each of the body's own, in its smallest chunks

told: set[str] = set()


def raise_file_limit() -> None:
    """As many files as this user may have: the usual limit of 1024 is soon reached."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def most() -> int:
    """How many connections a process takes: each may need another one behind it."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = MOST_FILES if soft == resource.RLIM_INFINITY else soft
    return max(16, (files - OWN_FILES) // 2)


class Connection(HttpToolsProtocol):
    """uvicorn's, with limits."""

    most: ClassVar[int]  # set by web.start

    def connection_made(self, transport) -> None:
        super().connection_made(transport)
        self._excess = 0  # bytes of this request that are not its body's
        self._asked = False  # whether a request of it has been answered
        self._head_since: float | None = self.loop.time()
        self._since = self.loop.time()
        self._unread_since: float | None = None
        if len(self.connections) > self.most:
            _make_room(self.connections)

    def data_received(self, data: bytes) -> None:
        self._since = self.loop.time()
        if self._head_since is None and self._is_idle:
            self._head_since = self._since
        self._excess += len(data)
        super().data_received(data)
        if self._excess > HEAD_BYTES:
            self.end("a request's headers have no end")

    def on_headers_complete(self) -> None:
        self._head_since = None
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._excess = max(0, self._excess - FRAMING * len(body))
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._excess = 0
        self._asked = True
        super().on_message_complete()

    def pause_writing(self) -> None:
        self._unread_since = self.loop.time()
        super().pause_writing()

    def resume_writing(self) -> None:
        self._unread_since = None
        super().resume_writing()

    @property
    def _is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    @property
    def rank(self) -> tuple[bool, bool, float]:
        """Which connection is to go first where there are too many."""
        return not self._is_idle, self._asked, self._since

    def end(self, why: str) -> None:
        if why not in told:
            told.add(why)
            log.warning("a connection was ended: %s (told once)", why)
        self.transport.abort()

    def end_if_stuck(self) -> None:
        """To be called now and then."""
        now = self.loop.time()
        reading = not self._is_idle and self.cycle.more_body and not self.flow.read_paused
        if self._head_since is not None and now - self._head_since > HEAD_SECONDS:
            self.end(f"no whole request within {HEAD_SECONDS} s")
        elif reading and now - self._since > STALL_SECONDS:
            self.end(f"a body that does not go on for {STALL_SECONDS} s")
        elif self._unread_since is not None and now - self._unread_since > UNREAD_SECONDS:
            self.end(f"an answer that is not read for {UNREAD_SECONDS} s")


def _make_room(connections: set) -> None:
    """End the connection that is missed least; a request under way never is."""
    least = min(connections, key=lambda connection: connection.rank)
    if not least.rank[0]:
        least.end(f"more than {Connection.most} connections")
