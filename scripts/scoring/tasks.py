"""A part of a list, made by a worker of a cluster: read, scored, written, with nothing from whoever asked.

Each of a worker's threads has processes of its own for it, as a command on one machine has: those that run a
package's code get no files, and a file that ends the process that reads it does not end the worker.
"""

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


def _hands(package: bytes, code: str, store: Store | None, parts: Parts) -> Hands:
    if code != cluster.code():
        raise UserError(
            "a worker runs another version of this checkout", "start it again, of the same version"
        )
    if not parts.has_place():
        raise UserError(
            f"a worker does not see {parts.folder}",
            "an output that every machine of the cluster sees, or s3://",
        )
    hands = getattr(_of_thread, "hands", None)
    if hands is None or hands.made_of != (package, store):
        if hands:
            hands.close()
        places.use(store)
        hands = _of_thread.hands = Hands(package, store)
    return hands


def table_part(
    number: int, parts: Parts, table: Table, package: bytes, code: str, store: Store | None
) -> dict:
    """Score the number-th PART_BYTES of a table, and keep them; what is told of them.

    UserError where the table is not the one that was named, or has no such part.
    """
    hands = _hands(package, code, store, parts)
    name = table.place.rpartition("/")[2]
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
            raise UserError(f"{name}, from byte {stretch.begin} on: {error}") from None
    return parts.write(number, b"".join(output), tally.told())


def files_part(
    files: ranking.Files, parts: Parts, folder: str, package: bytes, code: str, store: Store | None
) -> dict:
    """Read and score some files, which are named in `folder`, and keep their rows; what is told of them.

    UserError where they are not those that whoever asked has seen.
    """
    hands = _hands(package, code, store, parts)
    there = [places.absolute(place, folder) for place in files.named]
    if ranking.versions(files.named, files.known, folder) != files.versions:
        raise UserError(
            f"{there[0]} and the {len(there) - 1} files after it have changed, or are others where a worker "
            "looks for them",
            "where every machine sees them, or at s3://, type the same again: what is done is kept",
        )
    if not hands.rows.ready():
        raise UserError("a worker cannot load the package's model", "look for why in its log")
    rows = ranking.rows(there, hands.files, hands.rows)
    ours = (replace(row, file=place) for row, place in zip(rows, files.named, strict=True))
    return parts.write(files.number, ranking.packed(ours), {}, files.versions)
