"""Who may write when: keeps apart what the store would mix up.

To SeaweedFS `a` is also the folder of `a/b`, and a bucket that of its keys. Two writers at the same
moment, one of `a` and one of `a/b`, each make that entry anew, and one of the two objects is lost
although both were acknowledged; a bucket found empty is deleted with what was just written into it.
So a writer waits for those of its key, above it and below it. Others, and all readers, go side by
side.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Turns:
    """The writes that are being committed now."""

    def __init__(self) -> None:
        self._written: set[str] = set()
        self._above: Counter[str] = Counter()  # the folders of what is being written
        self._ended = asyncio.Condition()

    @asynccontextmanager
    async def of(self, path: str) -> AsyncIterator[None]:
        """While it is the turn of this `bucket` or `bucket/key`."""
        path = path.removesuffix("/")
        above = [path[:end] for end, letter in enumerate(path) if letter == "/"]
        async with self._ended:
            await self._ended.wait_for(lambda: self._is_free(path, above))
            self._written.add(path)
            self._above.update(above)
        try:
            yield
        finally:
            self._written.remove(path)
            self._above.subtract(above)
            self._above += Counter()  # drops what is at zero
            async with self._ended:
                self._ended.notify_all()

    def _is_free(self, path: str, above: list[str]) -> bool:
        return self._written.isdisjoint([path, *above]) and path not in self._above
