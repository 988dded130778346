"""A part of a list, made by a worker of a cluster: read, scored, written, with nothing from whoever asked.

Each of a worker's threads has processes of its own for it, as a command on one machine has: those that run a
package's code get no files, and a file that ends the process that reads it does not end the worker.
"""

import os
import threading
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial

from candidates.tables import Layout
from clients import places
from clients.places import Store
from common.errors import UserError
from scoring import cluster, command, engine, ranking, shards
from scoring.crew import Crew
from scoring.parts import Parts

PART_BYTES = 2 * engine.BLOCK_BYTES
_of_thread = threading.local()


@dataclass(frozen=True)
class Table:
    """A table that is scored: where it lies, which version of it, how it is written, by which model."""

    place: str
    identity: str
    found: Layout
    which: str


class Hands:
    """A package's processes of one thread of a worker."""

    def __init__(self, package: bytes, store: Store | None) -> None:
        self.made_of, self._open = (package, store), ExitStack()
        settle = partial(command.settle, self._open.enter_context(command.unpacked(package)))
        self.tables = self._open.enter_context(Crew(engine.called, 1, settle, "spawn"))
        self.rows = self._open.enter_context(Crew(ranking.judge, 1, settle, "spawn"))
        reach = partial(places.use, store)
        self.files = self._open.enter_context(Crew(ranking.measure, 1, reach, "spawn"))

    def close(self) -> None:
        self._open.close()


def _hands(package: bytes, code: str, store: Store | None) -> Hands:
    if code != cluster.code():
        raise UserError(
            "a worker runs another version of this checkout", "start it again, of the same version"
        )
    places.use(store)
    hands = getattr(_of_thread, "hands", None)
    if hands is None or hands.made_of != (package, store):
        if hands:
            hands.close()
        hands = _of_thread.hands = Hands(package, store)
    return hands


def table_part(
    number: int, parts: Parts, table: Table, package: bytes, code: str, store: Store | None
) -> dict:
    """Score the number-th PART_BYTES of a table, and keep them; what is told of them.

    UserError where the table is not the one that was named, or has no such part.
    """
    hands = _hands(package, code, store)
    name = f"{table.place}, part {number}"
    with places.opened(table.place) as source:
        if source.identity != table.identity:
            raise UserError(f"{table.place} has changed, or is another where a worker looks for it")
        first = number * PART_BYTES
        stretch = shards.Stretch(source, name, first, first + PART_BYTES)
        blocks = ((number, block) for block in engine.blocks(stretch, begin=stretch.begin))
        tally, output = engine.Tally(), []
        try:
            for _, scored in engine.score(
                table.found, blocks, table.which, hands.tables, stretch.begin == 0
            ):
                tally.add(scored)
                output.append(scored.output)
        except engine.Killed as error:
            raise UserError(f"{name}: {error}") from None
    return parts.write(number, b"".join(output), tally.told())


def files_part(
    item: tuple[int, list[str], str], parts: Parts, folder: str, versions: dict[str, str],
    package: bytes, code: str, store: Store | None,
) -> dict:  # fmt: skip
    """Read and score some files, and keep their rows; what is told of them. An item is the number of the
    part, the files as they are named in `folder`, and what whoever asked has seen of them.

    UserError where none of them is there: this machine does not see their folder.
    """
    number, named, seen = item
    hands = _hands(package, code, store)
    of = ranking.versions(named, versions, folder)
    there = [places.absolute(place, folder) for place in named]
    if of != seen and not any(places.is_s3(place) or os.path.lexists(place) for place in there):
        raise UserError(
            f"a worker does not see {there[0]} and the {len(named) - 1} files after it",
            "put them where every machine of the cluster sees them, or at s3://",
        )
    rows = ranking.rows(there, hands.files, hands.rows)
    ours = (replace(row, file=place) for row, place in zip(rows, named, strict=True))
    return parts.write(number, ranking.packed(ours), {}, of)
