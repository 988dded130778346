"""A batch transform's records: an object cut into mini-batches, filters, the join of input and answer.

Source: SageMaker developer guide, "Use batch transform" and "Associate prediction results with input
records".
"""

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import BinaryIO

import jsonpath
from jsonpath.exceptions import JSONPathError

ALL = "$"
CSV, JSON_LINES = "text/csv", "application/jsonlines"


class BadRecord(Exception):
    """What cannot be sent, or joined; `line` is the number in the object, from 1, where known."""

    def __init__(self, what: str, line: int | None = None) -> None:
        super().__init__(what)
        self.line = line


@dataclass(frozen=True)
class Batch:
    """Whole records of an object."""

    first: int  # the line of the object that it begins with, from 1
    body: bytes

    @property
    def lines(self) -> list[bytes]:
        return self.body.splitlines()


def batches(file: BinaryIO, split: bool, several: bool, most: int) -> Iterator[Batch]:
    """An object's mini-batches of at most `most` bytes: all of it in one, unless it is `split` by
    lines; one line each, or, with `several`, as many as there is room for."""
    if not split:
        body = file.read(most + 1)
        if len(body) > most:
            raise BadRecord(f"it is longer than MaxPayloadInMB, {most} bytes")
        yield Batch(1, body)
        return
    line = 1
    for body in _pieces(file, most) if several else _lines(file, most):
        yield Batch(line, body)
        line += body.count(b"\n")


def _pieces(file: BinaryIO, most: int) -> Iterator[bytes]:
    rest, line = b"", 1
    while True:
        data = rest + file.read(most - len(rest))
        if not data:
            return
        end = data.rfind(b"\n") + 1 if len(data) == most else len(data)
        if not end:
            after = file.read(1)
            if after not in (b"", b"\n"):
                raise BadRecord(f"the line is longer than MaxPayloadInMB, {most} bytes", line)
            yield data + after
            rest = b""
            line += 1
            continue
        yield data[:end]
        line += data.count(b"\n", 0, end)
        rest = data[end:]


def _lines(file: BinaryIO, most: int) -> Iterator[bytes]:
    number = 1
    while body := file.readline(most + 2):
        if len(body.rstrip(b"\r\n")) > most:
            raise BadRecord(f"the line is longer than MaxPayloadInMB, {most} bytes", number)
        yield body
        number += 1


@dataclass(frozen=True)
class Processing:
    """DataProcessing: what of a record the model sees, and what of input and answer is kept."""

    content_type: str
    input_filter: str = ALL
    output_filter: str = ALL
    join: bool = False

    @property
    def is_plain(self) -> bool:
        return not self.join and self.input_filter == self.output_filter == ALL

    def sent(self, batch: Batch) -> bytes:
        """What the model is asked."""
        if self.input_filter == ALL:
            return batch.body
        return self._each(batch, batch.lines, self.input_filter)

    def kept(self, batch: Batch, answer: bytes) -> bytes:
        """What of an answer is written, with one newline at the end of each record."""
        if self.is_plain:
            return answer if answer.endswith(b"\n") or not answer else answer + b"\n"
        lines = answer.splitlines()
        if self.join:
            asked = batch.lines
            if len(asked) != len(lines):
                what = (
                    f"the model answered {len(lines)} records to {len(asked)}, and cannot be joined"
                )
                raise BadRecord(what, batch.first)
            join = _join_csv if self.content_type == CSV else _join_json
            lines = [join(one, other) for one, other in zip(asked, lines, strict=True)]
        if self.output_filter == ALL:
            return b"".join(line + b"\n" for line in lines)
        return self._each(batch, lines, self.output_filter)

    def _each(self, batch: Batch, lines: list[bytes], path: str) -> bytes:
        choose = _choose_csv if self.content_type == CSV else _choose_json
        chosen = []
        for number, line in enumerate(lines):
            try:
                chosen.append(choose(line.decode(), path))
            except (ValueError, JSONPathError) as error:
                raise BadRecord(f"{path}: {error}", batch.first + number) from None
        return "".join(f"{line}\n" for line in chosen).encode()


def check_path(path: str) -> None:
    """ValueError for what is no JSONPath."""
    try:
        jsonpath.compile(path)
    except JSONPathError as error:
        raise ValueError(f"{path} is no JSONPath: {error}") from None


@lru_cache(64)
def _columns(path: str, width: int) -> tuple[int, ...]:
    """Which columns of a CSV line a path means: a line is an array to it."""
    found = jsonpath.compile(path).findall(list(range(width)))
    if found == [list(range(width))]:
        return tuple(range(width))
    if not found or not all(isinstance(column, int) for column in found):
        raise ValueError(f"a line of {width} columns has nothing there")
    return tuple(found)


def _choose_csv(line: str, path: str) -> str:
    cells = next(csv.reader([line]), [])
    return _csv_line([cells[column] for column in _columns(path, len(cells))])


def _csv_line(cells: list[str]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(cells)
    return text.getvalue()


def _join_csv(asked: bytes, answered: bytes) -> bytes:
    return asked.rstrip(b"\r\n") + b"," + answered


def _choose_json(line: str, path: str) -> str:
    found = jsonpath.compile(path).findall(json.loads(line))
    if not found:
        raise ValueError("the record has nothing there")
    return json.dumps(found[0] if len(found) == 1 else found)


def _join_json(asked: bytes, answered: bytes) -> bytes:
    record, answer = json.loads(asked), json.loads(answered)
    if isinstance(record, dict):
        joined = record | {"SageMakerOutput": answer}
    else:
        joined = {"SageMakerInput": record, "SageMakerOutput": answer}
    return json.dumps(joined).encode()
