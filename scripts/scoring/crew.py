"""Work shared among processes, of which any may be killed: by the kernel, a person, or their work.

A pool of the standard library ends with the first of its processes that dies. Here what was under way
then is done again, an item at a time and alone, so that an item which ends its process is found, and
costs nothing but itself.
"""

import signal
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice

TRIES = 2  # of an item alone: one may fall to what has nothing to do with it


class Crew:
    """Processes that do `task`: from a list of items to a list of as many results, in their order.

    `settle` is called in each of them before it works.
    """

    def __init__(
        self, task: Callable[[list], list], workers: int, settle: Callable[[], None] | None = None
    ) -> None:
        self._task, self._workers, self._settle = task, workers, settle
        self._pool = self._opened(workers)

    def __enter__(self) -> "Crew":
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def ready(self) -> bool:
        """Whether a process can be settled at all."""
        return self._submitted(self._pool, []).exception() is None

    def each(self, blocks: Iterable[list], ahead: int) -> Iterator[tuple[list, list | None]]:
        """Blocks and their results as they are done; None for a block of one item that ended its
        process, twice. No more than `ahead` blocks are taken before their turn."""
        blocks = iter(blocks)
        flying: dict[Future, list] = {}
        while True:
            for block in islice(blocks, ahead - len(flying)):
                flying[self._submitted(self._pool, block)] = block
            if not flying:
                return
            done, _ = wait(flying, return_when=FIRST_COMPLETED)
            lost = []
            for future in done:
                block = flying.pop(future)
                if isinstance(future.exception(), BrokenProcessPool):
                    lost.append(block)
                else:
                    yield block, future.result()
            if lost:
                # They are done or lost, all of them.
                for future, block in flying.items():
                    if isinstance(future.exception(), BrokenProcessPool):
                        lost.append(block)
                    else:
                        yield block, future.result()
                flying = {}
                self._pool.shutdown()
                self._pool = self._opened(self._workers)
                for block in lost:
                    yield from self._alone(block)

    def _alone(self, block: list) -> Iterator[tuple[list, list | None]]:
        pool = self._opened(1)
        for item in block:
            for _ in range(TRIES):
                future = self._submitted(pool, [item])
                if not isinstance(future.exception(), BrokenProcessPool):
                    yield [item], future.result()
                    break
                pool.shutdown()
                pool = self._opened(1)
            else:
                yield [item], None
        pool.shutdown()

    def _opened(self, workers: int) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(workers, initializer=_begin, initargs=(self._settle,))

    def _submitted(self, pool: ProcessPoolExecutor, block: list) -> Future:
        """A pool that is broken takes nothing: that is said by the future, too."""
        try:
            return pool.submit(self._task, block)
        except BrokenProcessPool as error:
            future: Future = Future()
            future.set_exception(error)
            return future


def _begin(settle: Callable[[], None] | None) -> None:
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # the one who started them hears Ctrl-C, and ends them
    if settle:
        settle()
