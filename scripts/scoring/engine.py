"""Candidates by the million through a package, on every core: block in, block out.

Each worker process takes the package's own inference.py and model, and scores whole lines some
megabytes at a time. The head of a table is read with care, and says how the rest is written.
"""

import importlib.util
import io
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv as fast_csv

from candidates import tables
from candidates.tables import BadTable, Layout
from candidates.tables.moments import HANDFUL, MOMENTS, below_bound
from common.lines import csv_lines
from scoring.crew import Crew

BLOCK_BYTES = 4 * 1024 * 1024
HEAD_BYTES = 128 * 1024  # a thousand rows tell what is what
MOST_QUOTED = 16 * BLOCK_BYTES  # within one pair of quotes
AHEAD = 4  # blocks that wait for a worker, or to be written
ANSWER = ["label", "probability"]
MODEL = "model"

_model = _inference = None  # of a worker process


class Killed(Exception):
    """Rows that end the process that scores them; `number` is their block's."""

    def __init__(self, number: int, before: int, count: int) -> None:
        self.number, self.before, self.count = number, before, count

    def __str__(self) -> str:
        return (
            f"rows {self.before + 1} to {self.before + self.count}: the process that scores them was killed, "
            "twice"
        )


class Scored:
    """A block's output, the number of its rows, the bad ones as (row in block, reason), and what its
    good rows are."""

    def __init__(self, output: bytes, bad: list[tuple[int, str]], good: np.ndarray) -> None:
        self.output, self.bad, self.rows = output, bad, len(good) + len(bad)
        self.impossible = sum(below_bound(good, s, k) for _, s, k in MOMENTS)
        ends = getattr(_model, "ends", None)
        self.outside = [] if ends is None else tables.Outside(ends).see(good).found()


class Tally:
    """What is to be told of scored rows, some of them good: how many, which are bad, what their numbers
    say. Of blocks, and then of parts, in their order."""

    def __init__(self) -> None:
        self.rows = self.bad_rows = self.impossible = 0
        self._bad: list[tuple[int, str]] = []
        self._outside: list[dict] = []

    def add(self, scored: Scored) -> None:
        self._add(scored.rows, len(scored.bad), scored.bad, scored.outside, scored.impossible)

    def add_told(self, told: dict) -> None:
        """What another has told."""
        bad = [(row["row"] - 1, row["reason"]) for row in told["bad"]]
        rows = told["rows"] + told["bad_rows"]
        self._add(rows, told["bad_rows"], bad, told["outside"], told["impossible"])

    def _add(
        self, rows: int, bad_rows: int, bad: list, outside: list[dict], impossible: int
    ) -> None:
        for number, reason in bad[: tables.SHOWN - len(self._bad)]:
            self._bad.append((self.rows + number, reason))
        self.rows, self.bad_rows = self.rows + rows, self.bad_rows + bad_rows
        self.impossible += impossible
        self._outside = tables.together(self._outside + outside, self.rows - self.bad_rows)

    def told(self) -> dict:
        return {
            "rows": self.rows - self.bad_rows, "bad_rows": self.bad_rows,
            "bad": [{"row": number + 1, "reason": reason} for number, reason in self._bad],
            "outside": self._outside, "impossible": self.impossible,
        }  # fmt: skip

    def judge(self, drop_bad: bool) -> None:
        """BadTable where rows are bad that are not to be dropped, or where kurtosis is too often below
        what it can be."""
        if self.bad_rows and not drop_bad:
            raise BadTable(tables.complaint(self._bad, self.bad_rows), rows=True)
        if self.impossible > HANDFUL:
            raise BadTable(
                f"kurtosis is below skewness^2 - 2, which no sample can be, in {self.impossible} places: "
                "are these two tables in one file, with their columns in another order?"
            )


def load(folder: str, settle: Callable[[], None]) -> None:
    """Take the package's own inference.py and model into this worker process, after `settle`."""
    global _model, _inference
    import joblib  # noqa: F401 - looks for shared memory once, which a confined process has not

    settle()
    spec = importlib.util.spec_from_file_location("inference", Path(folder, "code", "inference.py"))
    _inference = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(_inference)
    _model = _inference.model_fn(folder)


def called(calls: list[Callable]) -> list:
    """What a crew's processes do."""
    return [call() for call in calls]


def choose(values: np.ndarray) -> tuple[str, bool]:
    """Which of the package's models rows (n, 8) are for, and whether it has the choice."""
    if getattr(_model, "six", None) is None:
        return tables.EIGHT, False
    return _inference.choose(values, _model), True


def score_block(block: bytes, found: Layout, which: str, first: bool) -> Scored:
    """Score whole lines of a table by the named model; with `first`, they begin with its header."""
    try:
        if first:
            raise ValueError("the header is read with care")
        return _score_fast(block, found, which)
    except (pa.ArrowInvalid, ValueError):
        return _score_with_care(block, found, which, first)


def _score_fast(block: bytes, found: Layout, which: str) -> Scored:
    """A block in which every row is good; ArrowInvalid or ValueError when one may not be."""
    if found.delimiter == " ":
        block = re.sub(rb"(?m)^ | $", b"", re.sub(rb"[ \t]+", b" ", block))
    if b'"' in block and found.carried:
        raise ValueError("quotes are to be kept")
    numbers = [*found.features, *([] if found.label is None else [found.label])]
    wanted = [str(column) for column in numbers + found.carried]
    table = fast_csv.read_csv(
        pa.BufferReader(block),
        read_options=fast_csv.ReadOptions(
            column_names=[str(column) for column in range(found.width)],
            use_threads=False, block_size=len(block) + 1,
        ),
        parse_options=fast_csv.ParseOptions(delimiter=found.delimiter),
        convert_options=fast_csv.ConvertOptions(
            column_types=dict.fromkeys(wanted, pa.string())
            | {str(column): pa.float64() for column in numbers},
            include_columns=wanted, decimal_point=found.decimal,
            null_values=[], strings_can_be_null=False,
        ),
    )  # fmt: skip
    columns = table.combine_chunks().columns
    values = np.column_stack([column.to_numpy() for column in columns[: len(tables.FEATURES)]])
    if found.label is not None and not np.isin(columns[8].to_numpy(), (0, 1)).all():
        raise ValueError("no class")
    values[:, [3, 7]] -= found.excess
    carried = [pc.utf8_trim_whitespace(column) for column in columns[len(numbers) :]]
    prediction = _predicted(values, which)
    model = pa.repeat(which, len(values))
    answer = [*carried, prediction[:, 0].astype(np.int8), prediction[:, 1], model]
    buffer = io.BytesIO()
    fast_csv.write_csv(
        pa.table(answer, names=[str(number) for number in range(len(answer))]), buffer,
        fast_csv.WriteOptions(include_header=False, quoting_style="none"),
    )  # fmt: skip
    return Scored(buffer.getvalue(), [], values)


def _score_with_care(block: bytes, found: Layout, which: str, first: bool) -> Scored:
    """The same row by row, for a block that holds a bad one; its output is that of the others."""
    rows = tables.rows_in(block.decode(errors="replace"), found, first)
    rows.values[:, [3, 7]] -= found.excess
    bad = dict(rows.bad)
    output = []
    for number, (values, carried) in enumerate(zip(rows.values, rows.carried, strict=True)):
        if number not in bad:
            try:
                ((label, probability),) = _predicted(values[None], which).tolist()
                cells = [cell.strip() for cell in carried]
                output.append([*cells, f"{label:.0f}", repr(probability), which])
            except ValueError as error:
                bad[number] = str(error).removeprefix("row 1 ")
    good = np.delete(rows.values, list(bad), axis=0)
    return Scored("".join(csv_lines(output)).encode(), sorted(bad.items()), good)


def _predicted(values: np.ndarray, which: str) -> np.ndarray:
    """Labels and probabilities (n, 2); ValueError when the model refuses a row."""
    if getattr(_model, "six", None) is None:
        prediction = _inference.predict_fn(values, _model)
    else:
        prediction = _inference.predict_by(which, values, _model)
    if isinstance(prediction, _inference.BadInput):
        raise ValueError(prediction.message)
    return prediction


def answers(values: np.ndarray, model: str) -> np.ndarray | None:
    """Labels and probabilities (n, 2) of candidates (n, 8) by one of the package's models, None where it
    has none of that name; ValueError when the model refuses a row."""
    known = [tables.EIGHT] if getattr(_model, "six", None) is None else [tables.EIGHT, tables.SIX]
    return _predicted(values, model) if model in known else None


def blocks(chunks: Iterable[bytes], size: int = BLOCK_BYTES, begin: int = 0) -> Iterator[bytes]:
    """Whole lines of a text, from the line on that begins at its byte `begin`; bare carriage returns end
    lines too.

    A block ends with the last line before a multiple of `size`, the first of a text before HEAD_BYTES:
    a shard has the same blocks as the whole, and so the same output to the last bit.
    """
    rest, old_ends = b"", False if begin else None
    goal = (begin // size + 1) * size if begin else min(HEAD_BYTES, size)
    for chunk in chunks:
        if old_ends is None and chunk:
            old_ends = b"\r" in chunk and b"\n" not in chunk
        rest += chunk.replace(b"\r", b"\n") if old_ends else chunk
        while len(rest) >= goal - begin:
            if cut := _end_of_lines(rest, goal - begin):
                yield rest[:cut]
                rest, begin = rest[cut:], begin + cut
            goal = (goal // size + 1) * size
        if len(rest) > size + MOST_QUOTED:
            raise BadTable("its quotes do not match, or a line has no end")
    if rest:
        yield rest if rest.endswith(b"\n") else rest + b"\n"


def _end_of_lines(text: bytes, most: int) -> int:
    """Where the last line ends, at `most`, that does not end inside quotes; 0 when none does."""
    cut = text.rfind(b"\n", 0, most) + 1
    quotes = text.count(b'"', 0, cut)
    while cut and quotes % 2:
        before = text.rfind(b"\n", 0, cut - 1) + 1
        quotes -= text.count(b'"', before, cut)
        cut = before
    return cut


def opening(
    source: Iterable[bytes], kurtosis: str | None
) -> tuple[Layout, np.ndarray, Iterator[bytes]]:
    """How a table is written, the good rows (n, 8) it opens with, and its blocks, the first with its
    header.

    BadTable when that cannot be told, or its numbers cannot be candidates'.
    """
    parts = blocks(source)
    head = next(parts, b"")
    text = head.decode(errors="replace")
    found = tables.layout(text)
    rows = tables.rows_in(text, found)
    good = rows.without_bad().values
    if not len(good):
        raise BadTable(tables.complaint(rows.bad) if rows.bad else "it holds no candidates")
    good = tables.orient(found, good)
    tables.judge(found, good, kurtosis)
    twice = {found.title(column).lower() for column in found.carried} & {*ANSWER, MODEL}
    if twice:
        raise BadTable(f"its column {twice.pop()!r} would be there twice: rename it")
    return found, good, chain([head], parts)


def score(
    found: Layout, numbered: Iterable[tuple[int, bytes]], which: str, crew: Crew, opens: bool
) -> Iterator[tuple[int, Scored]]:
    """The blocks of a table, scored by the named model, each with its number, in their order.

    `opens` says that the first block is the one that the table opens with, header and all.
    Killed when the process that scores one is, twice.
    """
    numbers: deque[int] = deque()

    def calls() -> Iterator[list]:
        first = opens
        for number, block in numbered:
            numbers.append(number)
            yield [partial(score_block, block, found, which, first)]
            first = False

    rows = 0
    for (call,), result in crew.each(calls(), crew.workers + AHEAD):
        if result is None:
            block, *_, first = call.args
            count = len(tables.rows_in(block.decode(errors="replace"), found, first).values)
            raise Killed(numbers[0], rows, count)
        (scored,) = result
        rows += scored.rows
        yield numbers.popleft(), scored


def columns(found: Layout, answer: list[str]) -> list[str]:
    """Of the output: the table's other columns and an answer's."""
    return [*map(found.title, found.carried), *answer]
