"""One list from many machines: what is whose, and the lists of all of them made one.

Whose a file is depends on its path below the folder that was named, and on nothing else: neither on the
order of a listing nor on the machine. A table's blocks are shared out in their order. Beside its list each
shard writes what it was a shard of.
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

BESIDE = ".shard.json"


@dataclass(frozen=True)
class Shard:
    """The `number`-th of `of`, from 1."""

    number: int
    of: int

    def has(self, name: str) -> bool:
        digest = hashlib.sha256(os.fsencode(name)).digest()
        return int.from_bytes(digest, "big") % self.of == self.number - 1

    def bytes_of(self, size: int, block: int) -> tuple[int, int]:
        """Where its blocks begin and end in `size` bytes; the first shard has some."""
        count = -(-size // block)
        first, last = (-(-count * number // self.of) for number in (self.number - 1, self.number))
        return first * block, last * block


def named(text: str) -> Shard:
    """A shard as it is written, i/n; ValueError for what is none."""
    number, of = (int(word) for word in text.split("/"))
    if not 1 <= number <= of:
        raise ValueError
    return Shard(number, of)


def sign(
    place: Path, shard: Shard, names: Iterable[str], made_with: Iterable[bytes], script: str,
    **more: object,
) -> None:  # fmt: skip
    """Write beside a shard's list which of how many it is, of which files, made with what else, and what
    its script wants to know of it."""
    said = {
        "script": script,
        "files": sha256(b"\n".join(sorted(map(os.fsencode, names)))),
        "made_with": [sha256(content) for content in made_with],
        "list": _digest(place),
    }
    write_json(Path(f"{place}{BESIDE}"), asdict(shard) | said | more)


def _digest(place: Path) -> str:
    with open(place, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def merged(places: list[Path]) -> Iterator[bytes]:
    """The lists of all shards as one, as it would be without shards. UserError where one is missing, or
    is of other files, or of another model."""
    checked(places, "rank")
    head: list[str] = []
    rows: list[list[str]] = []
    for place in places:
        text = place.read_text(encoding="utf-8")
        head, *lines = csv.reader(io.StringIO(text, newline=""))
        rows += lines
    name, score = head.index("file"), head.index("score")
    rows.sort(key=lambda row: (row[score] == "", -float(row[score] or 0), row[name]))
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(head)
    for rank, row in enumerate(rows, start=1):
        writer.writerow([rank if row[score] else "", *row[1:]])
        yield buffer.getvalue().encode()
        buffer.seek(0)
        buffer.truncate()


def again(script: str, shard: object = "i/n", place: object = "…") -> str:
    """The command that makes a shard's list."""
    return f"python scripts/{script}.py INPUT --shard {shard} -o {place}"


def checked(places: list[Path], script: str) -> list[tuple[Path, dict]]:
    """The lists of all shards in order, each with what is written beside it. UserError where one is
    missing, or is of other files, or of another model."""
    said = []
    for place in places:
        one = read_json(Path(f"{place}{BESIDE}"), again(script, place=place))
        if one["script"] != script:
            raise UserError(
                f"{place} is a list of scripts/{one['script']}.py",
                f"python scripts/{one['script']}.py --merge {place} … -o …",
            )
        if not place.is_file() or _digest(place) != one["list"]:
            shard = f"{one['number']}/{one['of']}"
            raise UserError(f"{place} is not what its shard wrote", again(script, shard, place))
        said.append(one)
    for key, words in (
        ("of", "splits"),
        ("files", "files"),
        ("made_with", "models, catalogues or options"),
    ):
        if any(one[key] != said[0][key] for one in said):
            raise UserError(f"these are shards of different {words}", again(script))
    there = [one["number"] for one in said]
    of = said[0]["of"]
    if missing := sorted(set(range(1, of + 1)) - set(there)):
        raise UserError(
            f"of {of} shards {len(missing)} are missing: {', '.join(map(str, missing[:10]))}",
            again(script, f"{missing[0]}/{of}"),
        )
    if len(there) > of:
        raise UserError(f"there are {len(there)} lists of {of} shards", "name each of them once")
    return sorted(zip(places, said, strict=True), key=lambda pair: pair[1]["number"])
