"""One list from many machines: which files are whose, and the lists of all of them made one.

Whose a file is depends on its path below the folder that was named, and on nothing else: neither on the
order of a listing nor on the machine. Beside its list each shard writes what it was a shard of.
"""

import csv
import hashlib
import io
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from common.errors import UserError
from common.files import read_json, sha256, write_json
from common.lines import csv_writer

BESIDE = ".shard.json"


@dataclass(frozen=True)
class Shard:
    """The `number`-th of `of`, from 1."""

    number: int
    of: int

    def has(self, name: str) -> bool:
        digest = hashlib.sha256(os.fsencode(name)).digest()
        return int.from_bytes(digest, "big") % self.of == self.number - 1


def named(text: str) -> Shard:
    """A shard as it is written, i/n; ValueError for what is none."""
    number, of = (int(word) for word in text.split("/"))
    if not 1 <= number <= of:
        raise ValueError
    return Shard(number, of)


def sign(place: Path, shard: Shard, names: Iterable[str], made_with: Iterable[bytes]) -> None:
    """Write beside a shard's list which of how many it is, of which files, made with what else."""
    said = {
        "files": sha256(b"\n".join(sorted(map(os.fsencode, names)))),
        "made_with": [sha256(content) for content in made_with],
        "list": sha256(place.read_bytes()),
    }
    write_json(Path(f"{place}{BESIDE}"), asdict(shard) | said)


def merged(places: list[Path]) -> Iterator[bytes]:
    """The lists of all shards as one, as it would be without shards. UserError where one is missing, or
    is of other files, or of another model."""
    _check(places)
    head: list[str] = []
    rows: list[list[str]] = []
    for place in places:
        text = place.read_text(encoding="utf-8")
        head, *lines = csv.reader(io.StringIO(text, newline=""))
        rows += lines
    name, score = head.index("file"), head.index("score")
    rows.sort(key=lambda row: (row[score] == "", -float(row[score] or 0), row[name]))
    buffer = io.StringIO()
    writer = csv_writer(buffer)
    writer.writerow(head)
    for rank, row in enumerate(rows, start=1):
        writer.writerow([rank if row[score] else "", *row[1:]])
        yield buffer.getvalue().encode()
        buffer.seek(0)
        buffer.truncate()


def _check(places: list[Path]) -> None:
    again = "python scripts/rank.py INPUT --shard {} -o {}"
    said = []
    for place in places:
        one = read_json(Path(f"{place}{BESIDE}"), again.format("i/n", place))
        if not place.is_file() or sha256(place.read_bytes()) != one["list"]:
            shard = f"{one['number']}/{one['of']}"
            raise UserError(f"{place} is not what its shard wrote", again.format(shard, place))
        said.append(one)
    for key, words in (("of", "splits"), ("files", "files"), ("made_with", "models or catalogues")):
        if any(one[key] != said[0][key] for one in said):
            raise UserError(f"these are shards of different {words}", again.format("i/n", "…"))
    there = [one["number"] for one in said]
    of = said[0]["of"]
    if missing := sorted(set(range(1, of + 1)) - set(there)):
        raise UserError(
            f"of {of} shards {len(missing)} are missing: {', '.join(map(str, missing[:10]))}",
            again.format(f"{missing[0]}/{of}", "…"),
        )
    if len(there) > of:
        raise UserError(f"there are {len(there)} lists of {of} shards", "name each of them once")
