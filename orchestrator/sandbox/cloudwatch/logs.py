"""CloudWatch Logs: what endpoints have printed, a group for each, a stream for each of its processes.

    /aws/sagemaker/Endpoints/<endpoint>     <variant>/<process>

Written by the endpoints' processes, read by the journal, and only asked for here.
"""

import re
from collections.abc import Callable
from sqlite3 import Row

from orchestrator.sandbox.aws.wire import honours
from orchestrator.sandbox.cloudwatch.journal import Journal
from orchestrator.sandbox.errors import AwsError
from orchestrator.sandbox.places import ACCOUNT, REGION

ARN = f"arn:aws:logs:{REGION}:{ACCOUNT}:log-group:"
PAGE_BYTES, PAGE_EVENTS = 1 << 20, 10_000  # of an answer, as on AWS
EVENT_BYTES = 26  # that CloudWatch adds to each event
USUAL_PAGE = 50
GROUP = ("logGroupName", "logGroupIdentifier")
WITHIN = "time >= ? AND time < ?"
NEVER = 1 << 62  # later than any time, and any number of an event
IS_NUMBER = re.compile(r"[0-9]{20}")
TERM = re.compile(r'\s*([?-]?)(?:"((?:[^"\\]|\\.)*)"|(\w+))(?=\s|$)')


class Logs:
    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    @honours("logGroupNamePrefix", "logGroupNamePattern", "limit", "nextToken")
    def describe_log_groups(self, request: dict) -> dict:
        if "logGroupNamePrefix" in request and "logGroupNamePattern" in request:
            raise _invalid("LogGroup name prefix and LogGroup name pattern are mutually exclusive.")
        prefix = request.get("logGroupNamePrefix", "")
        pattern = request.get("logGroupNamePattern", "").lower()
        groups = [
            group
            for group in self._groups()
            if group["logGroupName"].startswith(prefix) and pattern in group["logGroupName"].lower()
        ]
        return _page(groups, request, "logGroups")

    @honours(*GROUP, "logStreamNamePrefix", "orderBy", "descending", "limit", "nextToken")
    def describe_log_streams(self, request: dict) -> dict:
        group, prefix = self._group(request), request.get("logStreamNamePrefix", "")
        by_time = request.get("orderBy") == "LastEventTime"
        if by_time and prefix:
            raise _invalid("Cannot order by LastEventTime with a logStreamNamePrefix.")
        found = self._journal.rows(
            "SELECT streams.*, min(time) AS first, max(time) AS last, max(ingested) AS ingested"
            " FROM streams LEFT JOIN events ON stream = id"
            " WHERE streams.log_group = ? GROUP BY id ORDER BY name",
            group,
        )
        streams = [_stream(row) for row in found if row["name"].startswith(prefix)]
        if by_time:
            streams.sort(key=lambda stream: stream["lastEventTimestamp"] or 0)
        if request.get("descending"):
            streams.reverse()
        return _page(streams, request, "logStreams")

    @honours(
        *GROUP, "logStreamName", "startTime", "endTime", "limit", "nextToken", "startFromHead"
    )  # fmt: skip
    def get_log_events(self, request: dict) -> dict:
        """A page of one stream, in the order in which it was written; on from a token either way."""
        streams = self._streams(self._group(request), [request["logStreamName"]])
        token = request.get("nextToken")
        kind, (seq,) = _read_token(token, "fb", 1) if token else (None, (0,))
        forward = kind == "f" or (kind is None and request.get("startFromHead", False))
        side = "seq > ? ORDER BY seq" if forward else "seq < ? ORDER BY seq DESC"
        rows = self._journal.rows(
            f"SELECT * FROM events WHERE stream = ? AND {WITHIN} AND {side} LIMIT ?",
            *streams, *_within(request), seq if kind or forward else NEVER,
            request.get("limit", PAGE_EVENTS),
        )  # fmt: skip
        rows = sorted(rows[: _fitting(rows)], key=lambda row: row["seq"])
        # Where there is nothing, the next page begins where this one did, whenever it is asked for.
        first = rows[0]["seq"] if rows else seq + (kind != "b")
        last = rows[-1]["seq"] if rows else seq - (kind == "b")
        return {
            "events": [_event(row) for row in rows],
            "nextForwardToken": _token("f", last),
            "nextBackwardToken": _token("b", first),
        }

    @honours(
        *GROUP, "logStreamNames", "logStreamNamePrefix", "startTime", "endTime", "filterPattern",
        "limit", "nextToken", "interleaved",
    )  # fmt: skip
    def filter_log_events(self, request: dict) -> dict:
        """A page of a group's events by their time, the streams always `interleaved`."""
        group, names = self._group(request), request.get("logStreamNames")
        prefix = request.get("logStreamNamePrefix", "")
        if names is not None and prefix:
            raise _invalid("logStreamNames and logStreamNamePrefix are mutually exclusive.")
        streams, fits = self._streams(group, names, prefix), _pattern(request)
        token = request.get("nextToken")
        _, after = _read_token(token, "t", 2) if token else (None, (-1, 0))
        found = self._journal.rows(
            f"SELECT * FROM events WHERE log_group = ? AND {WITHIN} AND (time, seq) > (?, ?)"
            " ORDER BY time, seq",
            group, *_within(request), *after,
        )  # fmt: skip
        rows = [row for row in found if row["stream"] in streams and fits(row["message"])]
        size = min(_fitting(rows), request.get("limit", PAGE_EVENTS))
        events = [
            _event(row) | {"logStreamName": streams[row["stream"]], "eventId": f"{row['seq']:056d}"}
            for row in rows[:size]
        ]
        answer = {"events": events, "searchedLogStreams": []}
        if size < len(rows):
            answer["nextToken"] = _token("t", rows[size - 1]["time"], rows[size - 1]["seq"])
        return answer

    # -- what there is -----------------------------------------------------------------

    def _groups(self) -> list[dict]:
        self._journal.read()
        rows = self._journal.rows(
            "SELECT log_group, min(created) AS created,"
            " (SELECT coalesce(sum(bytes), 0) FROM events WHERE log_group = streams.log_group)"
            " AS stored FROM streams GROUP BY log_group ORDER BY log_group"
        )
        return [
            {
                "logGroupName": row["log_group"],
                "creationTime": row["created"],
                "metricFilterCount": 0,
                "arn": f"{ARN}{row['log_group']}:*",
                "logGroupArn": f"{ARN}{row['log_group']}",
                "storedBytes": row["stored"],
                "logGroupClass": "STANDARD",
            }
            for row in rows
        ]

    def _group(self, request: dict) -> str:
        """The name of the group that a request asks for, what is new having been read."""
        named = [request[key] for key in GROUP if key in request]
        if len(named) != 1:
            raise _invalid("Exactly one of logGroupName and logGroupIdentifier must be given.")
        name = named[0].removeprefix(ARN).removesuffix(":*")
        self._journal.read()
        if not self._journal.rows("SELECT 1 FROM streams WHERE log_group = ? LIMIT 1", name):
            raise _not_found("The specified log group does not exist.")
        return name

    def _streams(self, group: str, names: list[str] | None, prefix: str = "") -> dict[int, str]:
        """Names of streams by number: those that are named, or begin like that."""
        rows = self._journal.rows("SELECT id, name FROM streams WHERE log_group = ?", group)
        found = {
            row["id"]: row["name"]
            for row in rows
            if (row["name"].startswith(prefix) if names is None else row["name"] in names)
        }
        if names is not None and set(found.values()) != set(names):
            raise _not_found("The specified log stream does not exist.")
        return found


def _within(request: dict) -> tuple[int, int]:
    return request.get("startTime", 0), request.get("endTime", NEVER)


def _fitting(rows: list[Row]) -> int:
    """How many events go into one answer: one at least, however long it is."""
    size = 0
    for number, row in enumerate(rows):
        size += row["bytes"] + EVENT_BYTES
        if size > PAGE_BYTES and number:
            return number
    return len(rows)


def _event(row: Row) -> dict:
    return {
        "timestamp": row["time"],
        "message": row["message"],
        "ingestionTime": row["ingested"],
    }


def _stream(row: Row) -> dict:
    return {
        "logStreamName": row["name"],
        "creationTime": row["created"],
        "firstEventTimestamp": row["first"],
        "lastEventTimestamp": row["last"],
        "lastIngestionTime": row["ingested"],
        "uploadSequenceToken": "0",
        "arn": f"{ARN}{row['log_group']}:log-stream:{row['name']}",
        "storedBytes": 0,  # CloudWatch has stopped to count them
    }


def _pattern(request: dict) -> Callable[[str], bool]:
    """Whether a message has the terms of a filter pattern: all of them, one of those with a `?`, none
    of those with a `-`."""
    text = request.get("filterPattern", "").strip()
    terms, place = [], 0
    while place < len(text):
        found = TERM.match(text, place)
        if not found:
            raise _invalid(
                f"The sandbox does not honour the filterPattern {text[place:]}: it reads plain terms, "
                "in double quotes where they are more than letters and digits, with - or ? in front."
            )
        word = found[3] if found[2] is None else re.sub(r"\\(.)", r"\1", found[2])
        terms.append((found[1], word))
        place = found.end()
    must, may, never = ([word for sign, word in terms if sign == which] for which in ("", "?", "-"))
    if may and (must or never):
        raise _invalid("The sandbox does not honour a filterPattern of ?terms and others.")

    def fits(message: str) -> bool:
        return (
            all(word in message for word in must)
            and (not may or any(word in message for word in may))
            and not any(word in message for word in never)
        )

    return fits


def _page(items: list[dict], request: dict, plural: str) -> dict:
    _, (start,) = (
        _read_token(request["nextToken"], "p", 1) if "nextToken" in request else ("p", (0,))
    )
    end = start + request.get("limit", USUAL_PAGE)
    answer = {plural: items[start:end]}
    return answer | {"nextToken": _token("p", end)} if end < len(items) else answer


def _token(kind: str, *numbers: int) -> str:
    return "/".join((kind, *(f"{number:020d}" for number in numbers)))


def _read_token(token: str, kinds: str, count: int) -> tuple[str, tuple[int, ...]]:
    kind, *numbers = token.split("/")
    if kind not in kinds or len(numbers) != count or not all(map(IS_NUMBER.fullmatch, numbers)):
        raise _invalid("The specified nextToken is invalid.")
    return kind, tuple(map(int, numbers))


def _invalid(message: str) -> AwsError:
    return AwsError("InvalidParameterException", message)


def _not_found(message: str) -> AwsError:
    return AwsError("ResourceNotFoundException", message)
