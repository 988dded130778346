"""Candidates by the million through a package, on every core: block in, block out.

Each worker process takes the package's own inference.py and model, and scores whole lines some
megabytes at a time.
"""

import importlib.util
import io
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import csv
from tqdm import tqdm

from candidates.htru2 import FEATURES, is_number

BLOCK_BYTES = 4 * 1024 * 1024
SHOWN = 10  # bad rows that are told one by one
HEADER = b"label,probability\n"

_model = _inference = None  # of a worker process


def load(folder: str, settle: Callable[[], None]) -> None:
    """Take the package's own inference.py and model into this worker process, after `settle`."""
    global _model, _inference
    settle()
    spec = importlib.util.spec_from_file_location("inference", Path(folder, "code", "inference.py"))
    _inference = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(_inference)
    _model = _inference.model_fn(folder)


def score_block(block: bytes) -> tuple[bytes, int, list[tuple[int, str]]]:
    """The output of whole lines, their number, and the bad ones as (line in block, reason)."""
    try:
        return _score_fast(block)
    except (pa.ArrowInvalid, ValueError):
        return _score_with_care(block)


def _score_fast(block: bytes) -> tuple[bytes, int, list]:
    """A block in which every row is good; ArrowInvalid or ValueError when one is not."""
    columns = block[: block.index(b"\n")].count(b",") + 1
    names = [str(number) for number in range(columns)]
    table = csv.read_csv(
        pa.BufferReader(block),
        read_options=csv.ReadOptions(
            column_names=names, use_threads=False, block_size=len(block) + 1
        ),
        parse_options=csv.ParseOptions(ignore_empty_lines=False),
        convert_options=csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.float64()),
            null_values=[],
            strings_can_be_null=False,
        ),
    )
    data = np.column_stack([table.column(number).to_numpy() for number in range(len(FEATURES))])
    if columns > len(FEATURES) + 1:
        raise ValueError("too many columns")
    prediction = _inference.predict_fn(data, _model)
    if isinstance(prediction, _inference.BadInput):
        raise ValueError(prediction.message)
    answer = pa.table([prediction[:, 0].astype(np.int8), prediction[:, 1]], names=["l", "p"])
    buffer = io.BytesIO()
    csv.write_csv(answer, buffer, csv.WriteOptions(include_header=False))
    return buffer.getvalue(), len(data), []


def _score_with_care(block: bytes) -> tuple[bytes, int, list[tuple[int, str]]]:
    """The same row by row, for a block that holds a bad one."""
    lines, output, bad = block.splitlines(), [], []
    for number, line in enumerate(lines):
        cells = line.decode(errors="replace").split(",")
        row = ",".join(cells[: len(FEATURES)] if len(cells) == len(FEATURES) + 1 else cells)
        rows = _inference.input_fn(row, "text/csv") if line.strip() else None
        if rows is None:
            rows = _inference.BadInput(400, "the line is empty")
        prediction = _inference.predict_fn(rows, _model)
        if isinstance(prediction, _inference.BadInput):
            bad.append((number, prediction.message.removeprefix("row 1, ").removeprefix("row 1 ")))
            output.append(",\n")
        else:
            output.append(f"{prediction[0, 0]:.0f},{float(prediction[0, 1])!r}\n")
    return "".join(output).encode(), len(lines), bad


def blocks(stream, size: int = BLOCK_BYTES) -> Iterator[bytes]:
    """Whole lines of a stream, some megabytes at a time; bare carriage returns end lines too."""
    rest, old_ends = b"", None
    while chunk := stream.read(size):
        if old_ends is None:
            old_ends = b"\r" in chunk and b"\n" not in chunk
        block = rest + (chunk.replace(b"\r", b"\n") if old_ends else chunk)
        cut = block.rfind(b"\n") + 1
        rest = block[cut:]
        if cut:
            yield block[:cut]
    if rest:
        yield rest + b"\n"


def score(
    source, sink, size: int | None, folder: str, workers: int, settle: Callable[[], None]
) -> dict:
    """Score `source` into `sink`, both binary streams; counts, bad rows, seconds.

    `settle` is called in each worker before it runs anything of the package's.
    """
    began, rows, bad_rows, shown = time.monotonic(), 0, 0, []
    pending: deque = deque()
    with (
        ProcessPoolExecutor(workers, initializer=load, initargs=(folder, settle)) as pool,
        tqdm(total=size, unit="B", unit_scale=True, desc="score", disable=None) as bar,
    ):

        def take() -> None:
            nonlocal rows, bad_rows
            length, future = pending.popleft()
            output, count, bad = future.result()
            sink.write(output)
            for number, reason in bad[: SHOWN - len(shown)]:
                shown.append({"line": lines_before + rows + number + 1, "reason": reason})
            rows, bad_rows = rows + count, bad_rows + len(bad)
            bar.update(length)
            bar.set_postfix_str(f"{rows / (time.monotonic() - began):,.0f} rows/s")

        lines_before = 0
        for number, block in enumerate(blocks(source)):
            if number == 0 and not is_number(
                block[: block.index(b"\n")].split(b",")[0].decode(errors="replace")
            ):
                sink.write(HEADER)
                lines_before, block = 1, block[block.index(b"\n") + 1 :]
                if not block:
                    continue
            pending.append((len(block), pool.submit(score_block, block)))
            while len(pending) > 2 * workers:
                take()
        while pending:
            take()
    seconds = time.monotonic() - began
    return {"rows": rows, "bad_rows": bad_rows, "bad": shown, "seconds": round(seconds, 3)}
