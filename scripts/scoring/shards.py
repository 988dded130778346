"""One list from many machines: what is whose, and the lists of all of them made one.

Whose a file is depends on its path below the folder that was named, and on nothing else: neither on the
order of a listing nor on the machine. A table's blocks are shared out in their order. Beside its list each
shard writes what it was a shard of.
"""

import csv
import hashlib
import io
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass

from candidates import tables
from candidates.files import CHUNK, UNPACKERS
from clients import places
from clients.places import Source
from common.errors import BadData, UserError
from common.files import sha256

BESIDE = ".shard.json"
PACKED = (*UNPACKERS, b"PK\x03\x04", b"PAR1")  # how such files begin


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


class Stretch:
    """Part of a plain table: the lines that begin before byte `last` and not before `first`, but for the
    line that `first` is in, which is whole. Its bytes, from `begin` to `end`, are read a chunk at a time;
    `taken` counts them.

    BadData where a table has no such part: where its text is not that of its bytes, or a cell in quotes
    goes on in the next.
    """

    def __init__(self, source: Source, name: str, first: int, last: int) -> None:
        self._file, self.size, self._name, self.taken = source.stream, source.size, name, 0
        if self.size is None:
            raise self._refused("it is no regular file")
        self._file.seek(0)
        self.head = self._file.read(CHUNK)
        if reason := self._not_plain():
            raise self._refused(reason)
        self.begin, self.end = (self._line_at(byte) for byte in (first, last))
        self._file.seek(0)

    def __iter__(self) -> Iterator[bytes]:
        self._file.seek(self.begin)
        quotes = 0
        while left := self.end - self.begin - self.taken:
            if not (chunk := self._file.read(min(CHUNK, left))):
                raise self._refused("it became shorter while it was read")
            self.taken += len(chunk)
            quotes += chunk.count(b'"')
            yield chunk
        if quotes % 2:
            raise self._refused("a cell in quotes goes on where the shard ends")

    def _not_plain(self) -> str:
        if self.head.startswith(PACKED):
            return "it is packed"
        if (encoding := tables.encoding_of(self.head)) != "utf-8":
            return f"its text is {encoding}, not utf-8"
        if b"\r" in self.head and b"\n" not in self.head:
            return "its lines end with bare carriage returns"
        return ""

    def _refused(self, reason: str) -> BadData:
        return BadData(
            f"{self._name}: {reason}: it has no shards", "score it without --shard and --cluster"
        )

    def _line_at(self, byte: int) -> int:
        """Where the line begins that a byte is in; the end of the file for what is behind it."""
        if byte >= self.size:
            return self.size
        while byte:
            start = max(0, byte - CHUNK)
            self._file.seek(start)
            if (at := self._file.read(byte - start).rfind(b"\n")) >= 0:
                return start + at + 1
            byte = start
        return 0


def sign(
    place: str, shard: Shard, names: Iterable[str], made_with: Iterable[bytes], script: str,
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
    places.write(
        f"{place}{BESIDE}", (json.dumps(asdict(shard) | said | more, indent=2) + "\n").encode()
    )


def _digest(place: str) -> str:
    with places.opened(place) as source:
        return hashlib.file_digest(source.stream, "sha256").hexdigest()


def merged(named: list[str]) -> tuple[list[str], list[list[str]]]:
    """The lists of all shards as one, as it would be without shards: columns and rows. UserError where
    one is missing, or is of other files, or of another model."""
    checked(named, "rank")
    head: list[str] = []
    rows: list[list[str]] = []
    for place in named:
        with places.opened(place) as source:
            text = io.TextIOWrapper(source.stream, encoding="utf-8", newline="")
            head, *lines = csv.reader(text)
        rows += lines
    name, score = head.index("file"), head.index("score")
    rows.sort(key=lambda row: (row[score] == "", -float(row[score] or 0), row[name]))
    return head, [[rank if row[score] else "", *row[1:]] for rank, row in enumerate(rows, start=1)]


def again(script: str, shard: object = "i/n", place: object = "…") -> str:
    """The command that makes a shard's list."""
    return f"python scripts/{script}.py INPUT --shard {shard} -o {place}"


def _beside(place: str, made_by: str) -> dict:
    content = places.read(f"{place}{BESIDE}")
    if content is None:
        raise UserError(f"{place}{BESIDE} does not exist", made_by)
    try:
        found = json.loads(content)
    except ValueError as error:
        raise UserError(f"{place}{BESIDE} is damaged: {error}", made_by) from None
    return found if isinstance(found, dict) else {}


def _is_whole(place: str, digest: str) -> bool:
    try:
        return _digest(place) == digest
    except BadData:
        return False


def checked(named: list[str], script: str) -> list[tuple[str, dict]]:
    """The lists of all shards in order, each with what is written beside it. UserError where one is
    missing, or is of other files, or of another model."""
    said = []
    for place in named:
        one = _beside(place, again(script, place=place))
        if {"script", "list", "number", "of", "files", "made_with"} - set(one):
            raise UserError(f"{place}{BESIDE} is damaged", again(script, place=place))
        if one["script"] != script:
            raise UserError(
                f"{place} is a list of scripts/{one['script']}.py",
                f"python scripts/{one['script']}.py --merge {place} … -o …",
            )
        if not _is_whole(place, one["list"]):
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
    return sorted(zip(named, said, strict=True), key=lambda pair: pair[1]["number"])
