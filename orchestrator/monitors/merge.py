"""Ground truth to captured records: what was later found to be true, beside what was answered.

Ground truth lies as JSON Lines under yyyy/mm/dd/hh, the hour in which it was collected:

    {"groundTruthData": {"data": "1", "encoding": "CSV"}, "eventMetadata": {"eventId": "…"},
     "eventVersion": "0"}

Its eventId is the inference id that a caller sent, else the event id of the captured record. A
request of many rows has as many lines of ground truth in its `data`; encoding JSON holds a value, or
a list of them. Where an id has ground truth twice, the later file counts: that is a correction.
"""

import json
import re
import uuid
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import NamedTuple

from . import window
from .frame import EVENT_ID, EVENT_ROW, GROUND_TRUTH, Refused

# What nearly every line looks like, so that a million of them need no parser of JSON.
PLAIN_TRUTH = re.compile(
    r'\s*\{"groundTruthData": ?\{"data": ?"([^"\\]*)", ?"encoding": ?"(CSV)"\}, ?'
    r'"eventMetadata": ?\{"eventId": ?"([^"\\]+)"\}, ?"eventVersion": ?"0"\}\s*$'
)
PLAIN_RECORD = re.compile(
    r'"eventMetadata":\{"eventId":"([^"\\]+)"(?:,"inferenceId":"([^"\\]+)")?,'
    r'"inferenceTime":"([^"\\]+)"\}(,"eventVersion":"0"\})\s*$'
)
VARIANT = re.compile(r"/([^/]+)/\d{4}/\d\d/\d\d/\d\d/[^/]+$")  # in the name of a captured object
USUAL_VARIANT = "AllTraffic"


class Joined(NamedTuple):
    """How many records of a window have ground truth, and what was left over on either side."""

    records: int
    without_truth: int
    truth_without_record: int

    def __str__(self):
        return (
            f"{self.records} captured records with ground truth, {self.without_truth} without; "
            f"{self.truth_without_record} lines of ground truth without a record"
        )


# -- reading ground truth -------------------------------------------------------------


def hours(start, end):
    """The folders yyyy/mm/dd/hh of the hours from `start` to `end`, UTC, both included."""
    hour = start.astimezone(timezone.utc).replace(minute=0, second=0, microsecond=0)
    while hour <= end:
        yield f"{hour:%Y/%m/%d/%H}"
        hour += timedelta(hours=1)


def objects(s3, settings, start, end):
    """Name and bytes of each object of ground truth that was collected from `start` to `end`.

    Labels come after the answers: `end` is now, not the end of the window. Raises Refused.
    """
    bucket, prefix = window.place(settings, "ground_truth")
    prefix = prefix + "/" if prefix else ""
    pages = s3.get_paginator("list_objects_v2")
    try:
        for hour in hours(start, end):
            for page in pages.paginate(Bucket=bucket, Prefix=f"{prefix}{hour}/"):
                for found in page.get("Contents", ()):
                    body = s3.get_object(Bucket=bucket, Key=found["Key"])["Body"].read()
                    yield f"s3://{bucket}/{found['Key']}", body
    except s3.exceptions.ClientError as error:
        reason = error.response.get("Error", {}).get("Message", error)
        raise Refused(f"ground_truth {settings['ground_truth']} cannot be read: {reason}") from None


def truth(files):
    """What is true by event id, from (name, bytes) of each file: the groundTruthData of each.

    Raises Refused with the file and the line of what is no ground truth.
    """
    found, shared = {}, {}  # a million labels are of a few kinds
    for name, body in files:
        for number, line in enumerate(body.splitlines(), start=1):
            if not line.strip():
                continue
            try:
                text = line.decode("utf-8")
                plain = PLAIN_TRUTH.match(text)
                kind, event = (plain.groups()[:2], plain[3]) if plain else parsed_truth(text)
            except (ValueError, KeyError, TypeError) as error:
                raise Refused(
                    f"{name}, line {number} is no ground truth "
                    f'({{"groundTruthData": {{"data": "1", "encoding": "CSV"}}, "eventMetadata": '
                    f'{{"eventId": "…"}}}}): {error}'
                ) from None
            if kind not in shared:
                shared[kind] = {"data": kind[0], "encoding": kind[1]}
            found[event] = shared[kind]
    return found


def parsed_truth(text):
    """(data, encoding) and event id of a line; raises what `truth` turns into a refusal."""
    record = json.loads(text)
    data, event = record["groundTruthData"], record["eventMetadata"]["eventId"]
    if not isinstance(data["data"], str) or data["encoding"] not in ("CSV", "JSON"):
        raise ValueError("its data is no text in CSV or JSON")
    return (data["data"], data["encoding"]), event


def labels(event, data):
    """The labels in the groundTruthData of an event, one a row; raises Refused for JSON that is none."""
    if data["encoding"] == "CSV":
        return [line.strip() for line in data["data"].split("\n") if line.strip()]
    try:
        value = json.loads(data["data"])
    except ValueError as error:
        raise Refused(f"the ground truth of {event} is no JSON: {error}") from None
    return value if isinstance(value, list) else [value]


# -- joining --------------------------------------------------------------------------


class Merge:
    """Writes the records that have ground truth, as SageMaker's merge job does.

    Below `folder`, which stands for <output>/merge/<endpoint>, a file for each variant and hour of
    invocations: <variant>/yyyy/mm/dd/hh/part-00000-<uuid>.c000.jsonl.
    """

    def __init__(self, truth, folder, end):
        """`end`: the first inferenceTime that is too late, as in the records."""
        self.truth, self.folder, self.end = truth, Path(folder), end
        self.records = self.without = 0
        self._name = f"part-00000-{uuid.uuid4()}.c000.jsonl"
        self._seen, self._files, self._texts = set(), {}, {}

    def add(self, name, body, since=""):
        """Take the records of one object that were captured at `since` or later.

        Raises Refused for what is no record, with the object's name and the line.
        """
        found = VARIANT.search(name)
        variant = found.group(1) if found else USUAL_VARIANT
        for number, line in enumerate(body.decode("utf-8", "replace").split("\n"), start=1):
            if not line.strip():
                continue
            try:
                event, time, head, tail = parts(line)
                late_or_early = not since <= time < self.end
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise Refused(f"{name}, line {number} is no captured record: {error}") from None
            if late_or_early:
                continue
            data = self.truth.get(event)
            if data is None:
                self.without += 1
                continue
            self.records += 1
            self._seen.add(event)
            self._file(variant, time).write(
                f'{head},"groundTruthData":{self._written(data)}{tail}\n'
            )

    def close(self):
        """Close the files; how much was joined. Raises Refused when nothing was."""
        for file in self._files.values():
            file.close()
        joined = Joined(self.records, self.without, len(self.truth) - len(self._seen))
        check_joined(joined)
        return joined

    def _written(self, data):
        if id(data) not in self._texts:
            self._texts[id(data)] = compact(data)
        return self._texts[id(data)]

    def _file(self, variant, time):
        hour = variant, time[:13]
        if hour not in self._files:
            place = datetime.strptime(time[:13], "%Y-%m-%dT%H").strftime("%Y/%m/%d/%H")
            folder = self.folder / variant / place
            folder.mkdir(parents=True, exist_ok=True)
            self._files[hour] = open(folder / self._name, "w", encoding="utf-8")
        return self._files[hour]


def parts(line):
    """The id by which a record finds its label, its time, and its text up to the end of
    eventMetadata and from there on; raises ValueError, KeyError, TypeError or AttributeError."""
    found = PLAIN_RECORD.match(line, max(0, line.rfind('"eventMetadata":')))
    if found:
        event, inference, time, tail = found.groups()
        return inference or event, time, line[: found.start(4)], tail
    record = json.loads(line)
    version, about = record.pop("eventVersion", "0"), record["eventMetadata"]
    event = about.get("inferenceId") or about["eventId"]
    tail = f',"eventVersion":{compact(version)}}}'
    return event, about["inferenceTime"], compact(record)[:-1], tail


def compact(value):
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def check_joined(joined):
    """Raises Refused when no record has ground truth."""
    if joined.records:
        return
    if not joined.truth_without_record:
        raise Refused(
            "ground_truth holds nothing for this window: labels belong under yyyy/mm/dd/hh, the hour "
            "in which they were collected"
        )
    raise Refused(
        f"ground truth matches nothing: none of its {joined.truth_without_record} eventIds is the "
        f"inference id or the event id of one of the {joined.without_truth} captured records"
    )


def labelled(table, truth):
    """The rows of a captured table that have ground truth, with the column `ground_truth`.

    Raises Refused for a record whose ground truth has another number of rows than its answer.
    """
    table = table[table[EVENT_ID].isin(truth)]
    events, rows = table[EVENT_ID].tolist(), table[EVENT_ROW].tolist()
    counts, told = {}, {}
    for event, row in zip(events, rows):
        counts[event] = max(row + 1, counts.get(event, 0))
    for event, count in counts.items():
        data = truth[event]
        if id(data) not in told:  # a million records share a few of them
            told[id(data)] = labels(event, data)
        if len(told[id(data)]) != count:
            raise Refused(
                f"the record {event} holds {count} candidates, but its ground truth "
                f"{len(told[id(data)])} lines: there must be one for each"
            )
    values = [told[id(truth[event])][row] for event, row in zip(events, rows)]
    return table.assign(**{GROUND_TRUTH: values})
