"""Candidate files to ranked lines: what is read of a file, which model scores it, in which order they are.

Files are read in processes that have no model, and scored in one that has no files.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from candidates import folds
from candidates.folds import Candidate, Unreadable
from candidates.tables import FEATURES
from clients import places
from common.errors import BadData, UserError
from common.files import sha256
from common.lines import csv_lines
from scoring import engine
from scoring.crew import Crew

DETAILS = ["period_s", "dm", "snr", "ra", "dec", "mjd", "telescope"]
NUMBERS = {"rank": pa.int64(), "label": pa.int8()} | dict.fromkeys(
    ("score", "period_s", "dm", "snr", "mjd", "separation", "dm_difference", *FEATURES),
    pa.float64(),
)
COLUMNS = ["rank", "file", "score", "label", "model", *DETAILS, *FEATURES, "reason"]
BLOCK = 16  # files at a time
PART = 256  # files of which it is kept that they are done
NO_MODEL = "the package holds no model for this DM curve's scale: make train"
KILLED = "the process that {} it was killed, twice"


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the list. What has no `score` has a `reason`, and no rank."""

    file: str
    kind: str = ""
    details: tuple = ("",) * len(DETAILS)
    features: tuple = ("",) * len(FEATURES)
    reason: str = ""
    score: float | None = None
    label: int | None = None
    model: str = ""


def measure(named: list[str]) -> list[Row]:
    """What the files say, without a score."""
    return [_measured(place) for place in named]


def _measured(place: str) -> Row:
    try:
        found = read(place)
        values = folds.features(found)
    except Unreadable as error:
        return Row(place, reason=str(error))
    except OSError as error:
        return Row(place, reason=f"it cannot be read: {error.strerror}")
    except BadData as error:
        return Row(place, reason=f"it cannot be read: {error}")
    except UserError:  # the store's, not the file's
        raise
    except Exception as error:  # ours, not the file's; a night's other files are not to pay for it
        return Row(place, reason=f"it cannot be read: {error!r}")
    details = (
        found.period, found.dm, found.snr, found.ra, found.dec, found.mjd, found.telescope
    )  # fmt: skip
    return Row(place, found.kind, details, tuple(values.tolist()))


def read(place: str) -> Candidate:
    """The candidate in a file, or in an object of S3. Unreadable, OSError, BadData say why there is none."""
    if not places.is_s3(place):
        return folds.read(Path(place))
    with places.opened(place) as source:
        if source.size > folds.MOST_BYTES:
            raise Unreadable(f"it is larger than {folds.MOST_BYTES} bytes")
        return folds.read(source.stream.read())


def judge(rows: list[Row]) -> list[Row]:
    """The rows with scores, in a process that has loaded a package."""
    return [_judged(row) for row in rows]


def _judged(row: Row) -> Row:
    if row.reason:
        return row
    model = folds.MODELS[row.kind]
    try:
        # Alone: a matrix product's last bit depends on the rows beside, and a rank on that.
        answer = engine.answers(np.array([row.features]), model)
    except ValueError as error:
        return replace(row, reason=str(error))
    if answer is None:
        return replace(row, reason=NO_MODEL)
    ((label, probability),) = answer.tolist()
    return replace(row, score=probability, label=int(label), model=model)


def rows(named: list[str], readers: Crew, scorers: Crew) -> Iterator[Row]:
    """All files as rows with scores, in their order."""
    blocks = (named[start : start + BLOCK] for start in range(0, len(named), BLOCK))

    def measured() -> Iterator[list[Row]]:
        for block, result in readers.each(blocks, 4 * readers.workers):
            yield result or [Row(place, reason=KILLED.format("reads")) for place in block]

    for block, result in scorers.each(measured(), engine.AHEAD):
        yield from result or [replace(row, reason=KILLED.format("scores")) for row in block]


@dataclass(frozen=True, slots=True)
class Files:
    """A part of a list that is to be made: its number, the files' names, what is known of their versions, and
    a digest of these."""

    number: int
    named: list[str]
    known: dict[str, str]
    versions: str


def parted(named: list[str], known: dict[str, str]) -> list[Files]:
    """The files of each part."""
    found = []
    for number, at in enumerate(range(0, len(named), PART)):
        some = named[at : at + PART]
        ours = {place: known[place] for place in some if place in known}
        found.append(Files(number, some, ours, versions(some, ours)))
    return found


def versions(named: list[str], known: dict[str, str], folder: str = "") -> str:
    """A digest of what tells these files, as they are named in `folder`, from all others of their names,
    where that is not `known`."""
    said = []
    for place in named:
        try:
            said.append(
                [place, known.get(place) or places.identity(places.absolute(place, folder))]
            )
        except BadData:
            said.append([place, ""])
    return sha256(json.dumps(said).encode())


def packed(some: Iterable[Row]) -> bytes:
    """Rows as a part of a list keeps them."""
    kept = ([getattr(row, name) for name in Row.__slots__] for row in some)
    return b"".join(json.dumps(values).encode() + b"\n" for values in kept)


def unpacked(content: bytes) -> list[Row]:
    rows = (json.loads(line) for line in content.splitlines())
    return [
        Row(file, kind, tuple(details), tuple(features), *answer)
        for file, kind, details, features, *answer in rows
    ]


def ordered(scored: Iterable[Row]) -> list[Row]:
    """Best first, then by name; at the end, by name, what has no score."""
    return sorted(scored, key=lambda row: (row.score is None, -(row.score or 0), written(row.file)))


def written(name: str) -> str:
    """A file's name as the list has it: names need not be text, but the list is."""
    return name.encode(errors="backslashreplace").decode()


def columns(more: Iterable[str] = ()) -> list[str]:
    """Of the list, with `more` of them before the reason."""
    return [*COLUMNS[:-1], *more, COLUMNS[-1]]


def lines(ranked: list[Row], of: Callable[[Row], list] | None = None) -> Iterator[bytes]:
    """The list as CSV, below its header. `of` gives a row's values in further columns."""

    def table() -> Iterator[list]:
        for rank, row in enumerate(ranked, start=1):
            scored = row.score is not None
            answer = (repr(row.score), row.label, row.model) if scored else ("", "", "")
            said = (*row.details, *row.features, *(of(row) if of else ()), row.reason)
            yield [rank if scored else "", written(row.file), *answer, *said]

    return (line.encode() for line in csv_lines(table()))
