"""Candidate files to ranked lines: what is read of a file, which model scores it, in which order they are.

Files are read in processes that have no model, and scored in one that has no files.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from candidates import folds
from candidates.folds import Unreadable
from candidates.tables import FEATURES
from common.lines import csv_lines
from scoring import engine
from scoring.crew import Crew

DETAILS = ["period_s", "dm", "snr", "ra", "dec", "mjd", "telescope"]
COLUMNS = ["rank", "file", "score", "label", "model", *DETAILS, *FEATURES, "reason"]
BLOCK = 16  # files at a time
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


def measure(places: list[str]) -> list[Row]:
    """What the files say, without a score."""
    return [_measured(place) for place in places]


def _measured(place: str) -> Row:
    try:
        found = folds.read(Path(place))
        values = folds.features(found)
    except Unreadable as error:
        return Row(place, reason=str(error))
    except OSError as error:
        return Row(place, reason=f"it cannot be read: {error.strerror}")
    except Exception as error:  # ours, not the file's; a night's other files are not to pay for it
        return Row(place, reason=f"it cannot be read: {error!r}")
    details = (
        found.period, found.dm, found.snr, found.ra, found.dec, found.mjd, found.telescope
    )  # fmt: skip
    return Row(place, found.kind, details, tuple(values.tolist()))


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


def rows(places: list[str], readers: Crew, scorers: Crew, workers: int) -> Iterator[list[Row]]:
    """All files as rows with scores, some at a time, in their order."""
    blocks = (places[start : start + BLOCK] for start in range(0, len(places), BLOCK))

    def measured() -> Iterator[list[Row]]:
        for block, result in readers.each(blocks, 4 * workers):
            yield result or [Row(place, reason=KILLED.format("reads")) for place in block]

    for block, result in scorers.each(measured(), engine.AHEAD):
        yield result or [replace(row, reason=KILLED.format("scores")) for row in block]


def ordered(scored: Iterable[Row]) -> list[Row]:
    """Best first, then by name; at the end, by name, what has no score."""
    return sorted(scored, key=lambda row: (row.score is None, -(row.score or 0), written(row.file)))


def written(name: str) -> str:
    """A file's name as the list has it: names need not be text, but the list is."""
    return name.encode(errors="backslashreplace").decode()


def lines(
    ranked: list[Row], more: Iterable[str] = (), of: Callable[[Row], list] | None = None
) -> Iterator[bytes]:
    """The list as CSV. `more` are columns before the reason; `of` gives a row's values there."""

    def table() -> Iterator[list]:
        yield [*COLUMNS[:-1], *more, COLUMNS[-1]]
        for rank, row in enumerate(ranked, start=1):
            scored = row.score is not None
            answer = (repr(row.score), row.label, row.model) if scored else ("", "", "")
            said = (*row.details, *row.features, *(of(row) if of else ()), row.reason)
            yield [rank if scored else "", written(row.file), *answer, *said]

    return (line.encode() for line in csv_lines(table()))
