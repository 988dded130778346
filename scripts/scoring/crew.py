"""Work shared among processes, of which any may be killed: by the kernel, a person, or their work.

A pool of the standard library ends with the first of its processes that dies, or waits for ever for the
rest of what that one was sending. Here each process has a pipe of its own, whose end says that it is gone,
and with what in hand: that is done again, an item at a time, so that an item which ends its process is
found, and costs nothing but itself.
"""

import multiprocessing
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from multiprocessing import Process
from multiprocessing.connection import Connection, wait

TRIES = 2  # of an item: one may fall to what has nothing to do with it


class Crew:
    """Processes that do `task`: from a list of items to a list of as many results, in their order.

    `settle` is called in each of them before it works; `start` is how they come to be, where there are
    threads that would be copied.
    """

    def __init__(
        self, task: Callable[[list], list], workers: int, settle: Callable[[], None] | None = None,
        start: str | None = None,
    ) -> None:  # fmt: skip
        self.workers = workers
        self._start = multiprocessing.get_context(start)
        self._task, self._settle = task, settle
        self._hands: dict[Connection, Process] = {}
        self._busy: dict[Connection, _Job] = {}
        self._todo: deque[_Job] = deque()

    def __enter__(self) -> "Crew":
        return self

    def __exit__(self, *_: object) -> None:
        for connection, process in self._hands.items():
            process.terminate()
            process.join()
            connection.close()

    def ready(self) -> bool:
        """Whether a process can be settled at all."""
        ((_, result),) = self.each([[]], 1)
        return result is not None

    def each(self, blocks: Iterable[list], ahead: int) -> Iterator[tuple[list, list | None]]:
        """Blocks and their results, in the order of the blocks; None for a block of one item that ended
        its process, twice. No more than `ahead` blocks are taken before their turn."""
        blocks = iter(blocks)
        turns: deque[_Job] = deque()
        while True:
            for block in islice(blocks, max(0, ahead - len(turns))):
                turns.append(_Job(block))
                self._todo.append(turns[-1])
                self._hand_out()
            if not turns:
                return
            while not turns[0].over:
                self._collect()
            job = turns.popleft()
            if job.parts:
                turns.extendleft(reversed(job.parts))
            elif job.error:
                raise job.error
            else:
                yield job.block, job.result

    def _hand_out(self) -> None:
        """Give work to all that have none."""
        while self._todo and len(self._busy) < self.workers:
            idle = next((hand for hand in self._hands if hand not in self._busy), None)
            connection = idle or self._hired()
            self._busy[connection] = self._todo.popleft()
            try:
                connection.send(self._busy[connection].block)
            except OSError:
                self._lose(connection)

    def _collect(self) -> None:
        """Wait until one has done its work, or is gone."""
        for connection in wait(list(self._busy)):
            try:
                result, error = connection.recv()
            except (EOFError, OSError):
                self._lose(connection)
            else:
                self._busy.pop(connection).end(result, error)
            self._hand_out()

    def _lose(self, connection: Connection) -> None:
        self._todo.extendleft(reversed(self._busy.pop(connection).lost()))
        self._hands.pop(connection).join()
        connection.close()

    def _hired(self) -> Connection:
        ours, theirs = self._start.Pipe()
        process = self._start.Process(
            target=_work, args=(theirs, ours, self._task, self._settle), daemon=True
        )
        process.start()
        theirs.close()
        self._hands[ours] = process
        return ours


class _Job:
    """A block on its way: `over` when it has a result, an error, or was made `parts` of an item each."""

    def __init__(self, block: list) -> None:
        self.block, self.over, self._tries = block, False, 0
        self.result: list | None = None
        self.error: Exception | None = None
        self.parts: list[_Job] = []

    def end(self, result: list | None, error: Exception | None = None) -> None:
        self.result, self.error, self.over = result, error, True

    def lost(self) -> list["_Job"]:
        """What is to be done in its place, after its process has ended."""
        self._tries += 1
        if len(self.block) > 1:
            self.parts, self.over = [_Job([item]) for item in self.block], True
            return self.parts
        if self._tries == TRIES:
            self.end(None)
            return []
        return [self]


def _work(connection: Connection, other_end: Connection, task: Callable, settle: Callable) -> None:
    # The one who started it hears Ctrl-C, and ends it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    other_end.close()  # or it would not hear that the one who started it is gone
    if settle:
        settle()
    while True:
        try:
            block = connection.recv()
        except EOFError:
            return
        try:
            answer = task(block), None
        except Exception as error:
            answer = None, error
        connection.send(answer)
