"""CloudWatch's metrics of endpoints: what the fronts have counted (tally.py), minute by minute.

In the namespace AWS/SageMaker, each with the dimensions EndpointName and VariantName, a value for
every answered request:

    Invocations, InvocationsPerInstance   1: there is one instance
    Invocation4XXErrors                   1 for an answer of the model with 4xx, else 0
    Invocation5XXErrors                   1 for one with 5xx, or where none came, else 0
    ModelLatency                          microseconds until the model's answer was there
    OverheadLatency                       microseconds from the request to the model being asked

A request that reaches no endpoint is not counted. The last seconds may be missing: tally.WRITE_SECONDS.
"""

import json
import math
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime

from orchestrator.sandbox.aws.wire import honours
from orchestrator.sandbox.cloudwatch import tally
from orchestrator.sandbox.cloudwatch.journal import Journal
from orchestrator.sandbox.errors import AwsError

NAMESPACE = "AWS/SageMaker"
COUNTS = {
    "Invocations": "answers",
    "InvocationsPerInstance": "answers",
    "Invocation4XXErrors": "errors4",
    "Invocation5XXErrors": "errors5",
}
TIMES = {"ModelLatency": "model", "OverheadLatency": "overhead"}
MINUTE = 60
MOST_POINTS = 1440  # of GetMetricStatistics, as on AWS
MOST_DATA, MOST_QUERIES = 100_800, 500  # of GetMetricData
MOST_METRICS = 500  # of ListMetrics
ACTIVE_SECONDS = 3 * 3600
PERCENTILE = re.compile(r"p(100|\d{1,2}(?:\.\d{1,10})?)")
IDENTITY = re.compile(r"[a-z][A-Za-z0-9_]*")


class Metrics:
    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    @honours("Namespace", "MetricName", "Dimensions", "NextToken", "RecentlyActive")
    def list_metrics(self, request: dict) -> dict:
        self._journal.read()
        since = time.time() - ACTIVE_SECONDS if "RecentlyActive" in request else 0
        rows = self._journal.rows(
            "SELECT DISTINCT endpoint, variant FROM minutes WHERE minute >= ?"
            " ORDER BY endpoint, variant",
            since,
        )
        wanted = request.get("Dimensions", [])
        found = []
        for row in rows:
            dimensions = {"EndpointName": row["endpoint"], "VariantName": row["variant"]}
            if request.get("Namespace", NAMESPACE) != NAMESPACE or not all(
                item["Name"] in dimensions and item.get("Value") in (None, dimensions[item["Name"]])
                for item in wanted
            ):
                continue
            named = [{"Name": name, "Value": value} for name, value in dimensions.items()]
            found += [
                {"Namespace": NAMESPACE, "MetricName": name, "Dimensions": named}
                for name in (*COUNTS, *TIMES)
                if request.get("MetricName", name) == name
            ]
        start = _start(request)
        answer = {"Metrics": found[start : start + MOST_METRICS]}
        if start + MOST_METRICS < len(found):
            answer["NextToken"] = str(start + MOST_METRICS)
        return answer

    @honours(
        "Namespace", "MetricName", "Dimensions", "StartTime", "EndTime", "Period", "Statistics",
        "ExtendedStatistics", "Unit",
    )  # fmt: skip
    def get_metric_statistics(self, request: dict) -> dict:
        usual, extended = request.get("Statistics", []), request.get("ExtendedStatistics", [])
        if not usual and not extended:
            raise _wrong("Combination", "Statistics or ExtendedStatistics must be given.")
        functions = {name: _statistic(name) for name in (*usual, *extended)}
        points = self._points(request, request, request["Period"])
        asked = (request["EndTime"] - request["StartTime"]).total_seconds() / request["Period"]
        if asked > MOST_POINTS:
            limit = f"which exceeds the limit of {MOST_POINTS}. You may reduce the datapoints"
            how = "requested by increasing Period, or decreasing the time range."
            message = f"You have requested up to {math.ceil(asked)} datapoints, {limit} {how}"
            raise _wrong("Combination", message)
        name = request["MetricName"]
        found = []
        for moment, values in points:
            point = {"Timestamp": moment, "Unit": _unit(name)}
            point |= {each: functions[each](values) for each in usual}
            if extended:
                point["ExtendedStatistics"] = {each: functions[each](values) for each in extended}
            found.append(point)
        return {"Label": name, "Datapoints": found}

    @honours(
        "MetricDataQueries.Id", "MetricDataQueries.MetricStat", "MetricDataQueries.Label",
        "MetricDataQueries.ReturnData", "StartTime", "EndTime", "ScanBy", "MaxDatapoints",
        "NextToken",
    )  # fmt: skip
    def get_metric_data(self, request: dict) -> dict:
        """Pages of the queries' values one after the other, `MaxDatapoints` at a time."""
        queries = request["MetricDataQueries"]
        _check_queries(queries)
        backwards = request.get("ScanBy", "TimestampDescending") == "TimestampDescending"
        results = [
            (query, self._values(query, request, backwards))
            for query in queries
            if query.get("ReturnData", True)
        ]
        start, left = _start(request), request.get("MaxDatapoints", MOST_DATA)
        if not 0 < left <= MOST_DATA:
            raise _wrong("Value", f"MaxDatapoints must be 1 to {MOST_DATA}.")
        end, place, answer = start + left, 0, []
        for query, values in results:
            page = values[max(0, start - place) : max(0, end - place)]
            complete = place + len(values) <= end
            place += len(values)
            answer.append(
                {
                    "Id": query["Id"],
                    "Label": query.get("Label", query["MetricStat"]["Metric"]["MetricName"]),
                    "Timestamps": [moment for moment, _ in page],
                    "Values": [value for _, value in page],
                    "StatusCode": "Complete" if complete else "PartialData",
                }
            )
        more = {"NextToken": str(end)} if end < place else {}
        return {"MetricDataResults": answer, "Messages": []} | more

    def _values(self, query: dict, request: dict, backwards: bool) -> list[tuple[datetime, float]]:
        stat = query["MetricStat"]
        function = _statistic(stat["Stat"])
        points = self._points(stat["Metric"] | stat, request, stat["Period"])
        values = [(moment, function(values)) for moment, values in points]
        return values[::-1] if backwards else values

    def _points(self, metric: dict, times: dict, period: int) -> list[tuple[datetime, dict]]:
        """What there is of a metric in each period in which there is anything: when it began, and
        the values as `_values_of` has them. Periods begin at StartTime, to the minute."""
        if period % MINUTE:
            raise _wrong(
                "Value", f"The sandbox counts by minutes: Period {period} is no multiple of 60."
            )
        start = int(times["StartTime"].timestamp()) // MINUTE * MINUTE
        end = times["EndTime"].timestamp()
        if end <= start:
            raise _wrong("Combination", "The parameter StartTime must be less than EndTime.")
        self._journal.read()
        dimensions = {item["Name"]: item.get("Value") for item in metric.get("Dimensions", [])}
        name = metric["MetricName"]
        if (
            metric.get("Namespace") != NAMESPACE
            or dimensions.keys() != {"EndpointName", "VariantName"}
            or name not in COUNTS | TIMES
            or metric.get("Unit", _unit(name)) != _unit(name)
        ):
            return []  # as CloudWatch answers for a metric that it has never heard of
        rows = self._journal.rows(
            "SELECT minute, counts FROM minutes WHERE endpoint = ? AND variant = ?"
            " AND minute >= ? AND minute < ? ORDER BY minute",
            dimensions["EndpointName"], dimensions["VariantName"], start, end,
        )  # fmt: skip
        periods: dict[int, list[dict]] = {}
        for row in rows:
            begun = row["minute"] - (row["minute"] - start) % period
            periods.setdefault(begun, []).append(json.loads(row["counts"]))
        return [
            (datetime.fromtimestamp(begun, UTC), _values_of(name, tally.merged(counts)))
            for begun, counts in periods.items()
        ]


def _values_of(name: str, counts: dict) -> dict:
    """The values of a metric: `number` of them, their `sum`, `least`, `most`, and `by` bucket."""
    number = counts["answers"]
    if name in TIMES:
        return {"number": number} | counts[TIMES[name]]
    ones = counts[COUNTS[name]]
    least, most = float(ones == number), float(ones > 0)
    return {"number": number, "sum": float(ones), "least": least, "most": most, "ones": ones}


def _statistic(name: str) -> Callable[[dict], float]:
    """What a statistic makes of the values of a period."""
    functions = {
        "SampleCount": lambda values: float(values["number"]),
        "Sum": lambda values: values["sum"],
        "Average": lambda values: values["sum"] / values["number"],
        "Minimum": lambda values: values["least"],
        "Maximum": lambda values: values["most"],
    }
    if name in functions:
        return functions[name]
    found = PERCENTILE.fullmatch(name)
    if not found:
        raise _wrong("Value", f"The sandbox does not honour the statistic {name}.")
    return lambda values: _percentile(values, float(found[1]) / 100)


def _percentile(values: dict, share: float) -> float:
    if "ones" in values:  # zeros, and behind them ones
        return float(share * values["number"] > values["number"] - values["ones"])
    return tally.percentile(values, share)


def _unit(name: str) -> str:
    return "Microseconds" if name in TIMES else "None"


def _check_queries(queries: list[dict]) -> None:
    if not 0 < len(queries) <= MOST_QUERIES:
        raise _wrong("Value", f"There must be 1 to {MOST_QUERIES} MetricDataQueries.")
    names = [query["Id"] for query in queries]
    for name in names:
        if not IDENTITY.fullmatch(name) or names.count(name) > 1:
            message = f"The Id {name} must be the only one, and begin with a lower-case letter."
            raise _wrong("Value", message)
    for query in queries:
        if "MetricStat" not in query:
            raise _wrong("Combination", f"The query {query['Id']} has no MetricStat.")


def _start(request: dict) -> int:
    token = request.get("NextToken", "0")
    if not re.fullmatch(r"[0-9]{1,9}", token):
        raise AwsError("InvalidNextToken", "The NextToken is none of ours.")
    return int(token)


def _wrong(kind: str, message: str) -> AwsError:
    return AwsError(f"InvalidParameter{kind}", message)
