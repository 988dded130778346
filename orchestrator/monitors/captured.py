"""From captured records to a table: a row a candidate, the endpoint's answer first.

A record is a line of JSON as SageMaker's data capture writes it; its bodies may hold many rows, and
are CSV, JSON or base64 by what was declared. All of them become lines of one CSV text, of which pandas
reads a block at a time: so a million candidates take seconds, and every number keeps its last bit.

In a JSON body a list of lists or of objects is rows, a list of scalars one row (of an answer: one
a row of the request, where their number fits), and an object with nothing but one list is that list.
A CSV body with one line more than its answer has a header. A request of application/octet-stream is a
file, in which there are no rows: such records are counted, and left out.
"""

import base64
import binascii
import csv
import io
import json
import re
from itertools import repeat

import numpy as np
import pandas as pd

from .frame import EVENT_ID, EVENT_ROW, Refused

BLOCK_ROWS = 65536
# Pandas reads floats to the last bit by itself from 3.1 on, and warns of being asked to.
VERSION = tuple(int(part) for part in pd.__version__.split(".")[:2])
EXACT = {} if VERSION >= (3, 1) else {"float_precision": "round_trip"}
FILE = "application/octet-stream"
MISSING = ["", "NaN", "nan", "null"]
# A record of one plain row, as nearly all are: read so, a million take half the time.
SIDE = (
    r'\{{"observedContentType":"[^"\\\x00-\x1f]*","mode":"{}",'
    r'"data":"([^"\\\x00-\x20;]*)(?:\\n)?","encoding":"CSV"\}}'
)
PLAIN = re.compile(
    r'^\{"captureData":\{"endpointInput":' + SIDE.format("INPUT") + ',"endpointOutput":'
    + SIDE.format("OUTPUT") + r'\},"eventMetadata":\{"eventId":"([^"\\\x00-\x1f]+)"'
    r'(?:,"inferenceId":"([^"\\\x00-\x1f]+)")?,"inferenceTime":"([^"\\\x00-\x1f]+)"\},'
    r'"eventVersion":"0"\}\n', re.MULTILINE,
)  # fmt: skip


class Reader:
    """Collects the records of a window; `table()` when all objects were given to `add`."""

    def __init__(self, end):
        """`end`: the first inferenceTime that is too late, as in the records."""
        self.end = end
        self.answers = self.width = None  # columns of the answer; of answer and request
        self.files = 0  # records without rows
        self._lines, self._blocks, self._ids, self._rows = [], [], [], []

    def add(self, name, body, since=""):
        """Take the records of one object that were captured at `since` or later.

        Raises Refused for what is no record, with the object's name and the line.
        """
        if not self._add_plain(body, since):
            self._add_any(name, body, since)
        if len(self._lines) >= BLOCK_ROWS:
            self._flush()

    def _add_plain(self, body, since):
        """Take an object of nothing but plain rows of the known width; else nothing of it, False."""
        try:
            found = PLAIN.findall(body.decode("utf-8"))
        except UnicodeDecodeError:
            return False
        if self.width is None or len(found) != body.count(b"\n") or not body.endswith(b"\n"):
            return False
        end, lines, ids = self.end, [], []
        commas, more = self.answers - 1, self.width - self.answers - 1
        for request, answer, event, inference, when in found:
            if since <= when < end:
                if answer.count(",") != commas or request.count(",") != more:
                    return False
                lines.append(answer + "," + request)
                ids.append(inference or event)
        self._lines += lines
        self._ids += ids
        self._rows += [0] * len(ids)
        return True

    def _add_any(self, name, body, since):
        """Take the records of an object, whatever they hold; raises Refused with name and line."""
        for number, record in enumerate(parsed(name, body), start=1):
            try:
                about, data = record["eventMetadata"], record["captureData"]
                if not since <= about["inferenceTime"] < self.end:
                    continue
                answer, request = data["endpointOutput"], data["endpointInput"]
                event = about.get("inferenceId") or about["eventId"]
                if media_type(request) == FILE:
                    self.files += 1
                    continue
                found = self._rows_of(answer, request)
            except Refused as error:
                raise Refused(f"{name}, line {number}: {error}") from None
            except (KeyError, TypeError, AttributeError) as error:
                raise Refused(
                    f"{name}, line {number} is no captured record with request and answer: "
                    f"{named(error)}"
                ) from None
            self._lines.extend(found)
            self._ids.extend(repeat(event, len(found)))
            self._rows.extend(range(len(found)))

    def table(self):
        """The table with event_id and event_row last; without rows when nothing was captured."""
        self._flush()
        blocks, self._blocks = self._blocks, []
        columns = {}
        for position in range(self.width or 0):
            parts = [block.pop(0) for block in blocks]
            if any(part.dtype == object for part in parts):
                parts = [part.astype(object) for part in parts]
            columns[f"_c{position}"] = np.concatenate(parts)
        columns[EVENT_ID] = np.array(self._ids, dtype=object)
        columns[EVENT_ROW] = np.array(self._rows, dtype=np.int32)
        self._ids, self._rows = [], []
        return pd.DataFrame(columns, copy=False)

    def _flush(self):
        if self._lines:
            text = "\n".join(self._lines)
            self._lines.clear()
            self._blocks.append(columns_of(text, self.width))

    def _rows_of(self, answer, request):
        """The lines of CSV of one record, whatever its encoding; raises Refused."""
        if answer["encoding"] != request["encoding"]:
            raise Refused(
                "Encoding mismatch: Encoding is {} for endpointInput, but Encoding is {} for "
                "endpointOutput; ask the endpoint to answer in the type it is asked in "
                "(Accept: {})".format(
                    request["encoding"], answer["encoding"], request["observedContentType"]
                )
            )
        outputs, inputs = cells(answer), cells(request)
        if len(outputs) == 1 != len(inputs) == len(outputs[0]):
            outputs = [[cell] for cell in outputs[0]]
        if len(inputs) == len(outputs) + 1 and not any(map(is_number, inputs[0])):
            inputs = inputs[1:]
        if len(inputs) != len(outputs):
            raise Refused(f"the request has {len(inputs)} rows, the answer {len(outputs)}")
        if self.width is None and outputs:
            self.answers = len(outputs[0])
            self.width = self.answers + len(inputs[0])
        written = io.StringIO()
        writer = csv.writer(written, lineterminator="\n")
        for row, (left, right) in enumerate(zip(outputs, inputs), start=1):
            if len(left) != self.answers or len(left) + len(right) != self.width:
                raise Refused(
                    f"row {row} has {len(left)} columns of answer and {len(right)} of request, not "
                    f"{self.answers} and {self.width - self.answers} as before"
                )
            texts = [cell for cell in left + right if isinstance(cell, str)]
            if any("\n" in text or "\r" in text for text in texts):
                raise Refused(f"row {row} has a line break within a cell")
            writer.writerow(left + right)
        return written.getvalue().split("\n")[:-1]


def parsed(name, body):
    """The JSON documents of an object's lines; raises Refused for the line that is none."""
    try:
        return json.loads(b"[" + b",".join(body.splitlines()) + b"]")
    except ValueError:
        records = []
        for number, line in enumerate(body.splitlines(), start=1):
            try:
                records.append(json.loads(line))
            except ValueError as error:
                raise Refused(f"{name}, line {number} is not JSON: {error}") from None
        return records


def named(error):
    return f"{error} is missing" if isinstance(error, KeyError) else str(error)


def columns_of(text, width):
    """The columns of a block of CSV lines, as arrays: int64, float64, or objects where there is text."""
    frame = pd.read_csv(
        io.StringIO(text), header=None, names=range(width), index_col=False, skip_blank_lines=False,
        na_values=MISSING, keep_default_na=False, low_memory=False, **EXACT,
    )  # fmt: skip
    return [plain(frame[name]) for name in frame.columns]


def plain(column):
    """A column as numbers, or as objects: text, and NaN where there is none."""
    if column.dtype.kind in "iuf":
        return column.to_numpy()
    if column.dtype.kind == "b":
        return column.astype(str).to_numpy(dtype=object)
    return column.astype(object).where(column.notna(), np.nan).to_numpy(dtype=object)


# -- one body -------------------------------------------------------------------------


def media_type(side):
    """The media type of a captured body, without its parameters."""
    return side["observedContentType"].partition(";")[0].strip().lower()


def cells(side):
    """The rows of a captured body, each a list of cells; raises Refused."""
    data, kind, encoding = side["data"], side["observedContentType"], side["encoding"]
    if encoding == "BASE64":
        try:
            data = base64.b64decode(data, validate=True)
            if media_type(side) == "application/x-npy":
                return np.atleast_2d(np.load(io.BytesIO(data), allow_pickle=False)).tolist()
            data = data.decode("utf-8")
        except (binascii.Error, ValueError, EOFError, OSError) as error:
            raise Refused(f"its {kind} cannot be read: {error}") from None
        encoding = {"text/csv": "CSV", "application/json": "JSON"}.get(media_type(side))
    if encoding == "CSV":
        first = data.partition("\n")[0]
        delimiter = max(",;\t", key=first.count)
        return [row for row in csv.reader(data.splitlines(), delimiter=delimiter) if row]
    if encoding != "JSON":
        raise Refused(
            f"a body of type {kind} cannot be read; text/csv, application/json and application/x-npy "
            "can"
        )
    try:
        return rows_in(json.loads(data))
    except ValueError as error:
        raise Refused(f"its {kind} cannot be read: {error}") from None


def rows_in(document):
    """The rows of a JSON body."""
    if isinstance(document, dict) and len(document) == 1:
        (only,) = document.values()
        if isinstance(only, (list, dict)):
            return rows_in(only)
    if isinstance(document, list) and document and isinstance(document[0], (list, dict)):
        return [flat(item) for item in document]
    return [flat(document)]


def flat(item):
    """The scalars of a JSON value, in their order."""
    if not isinstance(item, (list, dict)):
        return [item]
    found = []
    for part in item.values() if isinstance(item, dict) else item:
        if isinstance(part, (list, dict)):
            found += flat(part)
        else:
            found.append(part)
    return found


def is_number(cell):
    try:
        float(cell)
    except (TypeError, ValueError):
        return False
    return True


# -- names ----------------------------------------------------------------------------


def names(answers, width, baseline):
    """The names of a captured table's columns, by those of its baseline.

    By position where there are as many. A baseline whose first column is the label, or that has the
    features alone, also fits an endpoint that answers more than a label: the request's columns are the
    last of both, and a column of the answer that no column of the baseline stands for is `_c<i>`.
    """
    asked = width - answers
    if width == len(baseline):
        return list(baseline)
    if len(baseline) in (asked, asked + 1):
        known = len(baseline) - asked
        beside = [f"_c{position}" for position in range(known, answers)]
        return list(baseline[:known]) + beside + list(baseline[known:])
    return [
        baseline[position] if position < len(baseline) else f"_c{position}"
        for position in range(width)
    ]
