"""Work shared among processes, of which any may be killed: by the kernel, a person, or their work.

A pool of the standard library ends with the first of its processes that dies. Here what was under way
then is done again, an item at a time and alone, so that an item which ends its process is found, and
costs nothing but itself.
"""

import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from itertools import islice

TRIES = 2  # of an item alone: one may fall to what has nothing to do with it


class Crew:
    """Processes that do `task`: from a list of items to a list of as many results, in their order.

    `settle` is called in each of them before it works.
    """

    def __init__(
        self, task: Callable[[list], list], workers: int, settle: Callable[[], None] | None = None
    ) -> None:
        self.workers = workers
        self._all, self._one = _Pool(task, workers, settle), _Pool(task, 1, settle)

    def __enter__(self) -> "Crew":
        return self

    def __exit__(self, *_: object) -> None:
        self._all.close()
        self._one.close()

    def ready(self) -> bool:
        """Whether a process can be settled at all."""
        return any(not _lost(self._all.submit([])) for _ in range(TRIES))

    def each(self, blocks: Iterable[list], ahead: int) -> Iterator[tuple[list, list | None]]:
        """Blocks and their results, in the order of the blocks; None for a block of one item that ended
        its process, twice. No more than `ahead` blocks are taken before their turn."""
        blocks = iter(blocks)
        flying: deque[tuple[list, Future]] = deque()
        while True:
            for block in islice(blocks, ahead - len(flying)):
                flying.append((block, self._all.submit(block)))
            if not flying:
                return
            block, future = flying.popleft()
            if _lost(future):
                yield from self._alone(block)
            else:
                yield block, future.result()

    def _alone(self, block: list) -> Iterator[tuple[list, list | None]]:
        for item in block:
            tries = (self._one.submit([item]) for _ in range(TRIES))
            done = next((future for future in tries if not _lost(future)), None)
            yield [item], done and done.result()


class _Pool:
    """A pool of the standard library that is opened again when it has ended."""

    def __init__(
        self, task: Callable[[list], list], workers: int, settle: Callable[[], None] | None
    ) -> None:
        self._task = task
        self._open = partial(ProcessPoolExecutor, workers, initializer=_begin, initargs=(settle,))
        self._pool = self._open()

    def submit(self, block: list) -> Future:
        try:
            return self._pool.submit(self._task, block)
        except BrokenProcessPool:
            self._pool.shutdown()
            self._pool = self._open()
            return self._pool.submit(self._task, block)

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)


def _lost(future: Future) -> bool:
    """Whether its process has ended before it was done; waits for either."""
    return isinstance(future.exception(), BrokenProcessPool)


def _begin(settle: Callable[[], None] | None) -> None:
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # the one who started them hears Ctrl-C, and ends them
    if settle:
        settle()
