"""CloudWatch: what endpoints print, and how they are asked, as boto3 and the AWS CLI see it."""

import json
import os
import re
import time
from datetime import UTC, datetime, timedelta

import pytest
from botocore.exceptions import ClientError

from orchestrator.sandbox.aws.wire import Service
from orchestrator.sandbox.cloudwatch import journal as journals
from orchestrator.sandbox.cloudwatch.journal import Journal
from orchestrator.sandbox.cloudwatch.logs import Logs
from orchestrator.sandbox.cloudwatch.metrics import Metrics
from orchestrator.sandbox.cloudwatch.tally import Tally
from orchestrator.sandbox.places import Places
from scoring.packing import pack

GROUP = "/aws/sagemaker/Endpoints/pulsar"
STREAM = "AllTraffic/0123456789ab"


class House:
    """A sandbox's folder without a sandbox: log files, and the journal that reads them."""

    def __init__(self, folder) -> None:
        self.places = Places(folder)
        self.places.make()
        self.open()

    def open(self) -> None:
        self.journal = Journal(self.places)
        self.services = {
            "logs": Service("logs", Logs(self.journal)),
            "cloudwatch": Service("cloudwatch", Metrics(self.journal)),
        }

    def log(self, identity: str = "0123456789ab", endpoint: str = "pulsar"):
        return self.places.log(endpoint, "AllTraffic", f"endpoint-{identity}")

    def print(self, text: str | bytes, when: float | None = None, **which: str) -> None:
        """As a running process does."""
        self.process(which.get("identity", "0123456789ab")).mkdir(exist_ok=True)
        with open(self.log(**which), "ab") as file:
            file.write(text if isinstance(text, bytes) else text.encode())
        if when is not None:
            os.utime(self.log(**which), (when, when))

    def process(self, identity: str = "0123456789ab"):
        return self.places.process(f"endpoint-{identity}")

    def ask(self, operation: str, service: str = "logs", **request) -> dict:
        headers = {"x-amz-target": f"Any.{operation}", "content-type": "application/x-amz-json-1.1"}
        answer = self.services[service].answer(headers, json.dumps(request).encode())
        return json.loads(answer.body)

    def messages(self, **request) -> list[str]:
        found = self.ask("FilterLogEvents", logGroupName=GROUP, **request)
        return [event["message"] for event in found["events"]]


@pytest.fixture
def house(tmp_path, monkeypatch) -> House:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    house = House(tmp_path)
    yield house
    house.journal._db.close()


def test_a_line_is_clean_text_with_the_time_of_its_writing(house):
    start = int(time.time()) - 4
    house.print("loading\n", start)
    assert house.messages() == ["loading"]
    house.print(b"\x1b[31mred\x1b[0m \x00 \xff\r\n\n   \nhalf a li", start + 1.5)
    assert house.messages() == ["loading", "red � �"]
    house.print("ne\n", start + 2)
    events = house.ask("GetLogEvents", logGroupName=GROUP, logStreamName=STREAM)["events"]
    assert [(event["timestamp"] - start * 1000, event["message"]) for event in events] == [
        (0, "loading"), (1500, "red � �"), (2000, "half a line"),
    ]  # fmt: skip
    assert all(event["ingestionTime"] > event["timestamp"] for event in events)


def test_a_last_line_without_an_end_is_read(house):
    house.print("Killed")
    assert house.messages() == []
    house.process().rmdir()
    assert house.messages() == ["Killed"]


def test_what_was_read_outlives_the_sandbox_and_the_file_and_is_there_once(house):
    house.print("one\ntwo\n")
    assert house.messages() == ["one", "two"]
    house.journal._db.close()  # as a kill does
    house.open()
    house.print("three\n", time.time() - 2 * journals.KEPT_SECONDS)
    house.process().rmdir()
    assert house.messages(logStreamNames=[STREAM]) == ["three", "one", "two"]  # by their times
    assert not house.log().exists()
    house.journal._db.close()
    house.open()
    assert sorted(house.messages()) == ["one", "three", "two"]


def test_a_log_that_floods_is_bounded_on_disk_and_its_end_is_kept(house, monkeypatch):
    monkeypatch.setattr(journals, "FILE_BYTES", 1000)
    monkeypatch.setattr(journals, "GROUP_BYTES", 5000)
    house.print("quiet\n", identity="ffffffffffff", endpoint="other")
    for number in range(100):
        house.print(f"{number} {'x' * 200}\n")
        house.journal.read()
        assert house.log().stat().st_size <= 1300
    kept = [int(message.split()[0]) for message in house.messages()]
    assert kept == list(range(kept[0], 100))
    assert 10 <= len(kept) <= 25
    other = house.ask("FilterLogEvents", logGroupName="/aws/sagemaker/Endpoints/other")
    assert len(other["events"]) == 1


def test_a_journal_that_cannot_be_read_is_begun_anew(house):
    house.journal._db.close()
    path = house.places.folder / "journal.db"
    for beside in house.places.folder.glob("journal.db-*"):
        beside.unlink()
    path.write_bytes(b"nonsense" * 1000)
    house.open()
    house.print("one\n")
    assert house.messages() == ["one"]


@pytest.mark.parametrize(
    "pattern, found",
    [
        ("", ["ERROR: disk 1", "warning: disk 2", "ERROR again"]),
        ("ERROR", ["ERROR: disk 1", "ERROR again"]),
        ("ERROR disk", ["ERROR: disk 1"]),
        ('"ERROR: disk"', ["ERROR: disk 1"]),
        ("disk -ERROR", ["warning: disk 2"]),
        ("?again ?warning", ["warning: disk 2", "ERROR again"]),
        ("error", []),
    ],
)
def test_a_filter_pattern_of_plain_terms(house, pattern, found):
    house.print("ERROR: disk 1\nwarning: disk 2\nERROR again\n")
    assert house.messages(filterPattern=pattern) == found


@pytest.mark.parametrize("pattern", ["{ $.a = 1 }", "[ip, user]", "%err.*%", "a:b", "?a b"])
def test_any_other_filter_pattern_is_refused_by_name(house, pattern):
    house.print("one\n")
    answer = house.ask("FilterLogEvents", logGroupName=GROUP, filterPattern=pattern)
    assert answer["__type"] == "InvalidParameterException"
    assert "does not honour" in answer["message"]


def test_pages_times_and_streams(house):
    for second in range(5):
        identity = ("a" if second % 2 else "b") * 12
        house.print(f"{second}\n", 1_790_000_000 + second, identity=identity)
        house.journal.read()
    pages, token = [], {}
    while not pages or token:
        found = house.ask("FilterLogEvents", logGroupName=GROUP, limit=2, **token)
        pages.append([event["message"] for event in found["events"]])
        token = {"nextToken": found["nextToken"]} if "nextToken" in found else {}
    assert pages == [["0", "1"], ["2", "3"], ["4"]]
    start = 1_790_000_000_000
    assert house.messages(startTime=start + 1000, endTime=start + 3000) == ["1", "2"]
    assert house.messages(logStreamNamePrefix="AllTraffic/a") == ["1", "3"]
    streams = house.ask(
        "DescribeLogStreams", logGroupName=GROUP, orderBy="LastEventTime", descending=True
    )["logStreams"]
    assert [s["logStreamName"][-12:] for s in streams] == ["b" * 12, "a" * 12]
    assert streams[0]["lastEventTimestamp"] == start + 4000


def test_a_stream_is_walked_either_way_and_followed(house):
    house.print("".join(f"{number}\n" for number in range(5)))

    def get(**more) -> tuple[list[int], dict]:
        found = house.ask("GetLogEvents", logGroupName=GROUP, logStreamName=STREAM, **more)
        return [int(event["message"]) for event in found["events"]], found

    assert get(limit=2)[0] == [3, 4]
    back = get(limit=2)[1]["nextBackwardToken"]
    assert get(limit=2, nextToken=back)[0] == [1, 2]
    events, found = get(limit=2, startFromHead=True)
    assert events == [0, 1]
    events, found = get(nextToken=found["nextForwardToken"])
    assert events == [2, 3, 4]
    end = found["nextForwardToken"]
    assert get(nextToken=end)[1]["nextForwardToken"] == end
    house.print("5\n")
    assert get(nextToken=end)[0] == [5]


@pytest.mark.parametrize(
    "operation, request_, code",
    [
        ("FilterLogEvents", {"logGroupName": "/none"}, "ResourceNotFoundException"),
        ("FilterLogEvents", {}, "InvalidParameterException"),
        ("FilterLogEvents", {"logGroupName": GROUP, "nextToken": "x"}, "InvalidParameterException"),
        ("FilterLogEvents", {"logGroupName": GROUP, "logStreamNames": ["n"]}, "ResourceNotFoundException"),
        ("GetLogEvents", {"logGroupName": GROUP, "logStreamName": "n"}, "ResourceNotFoundException"),
        ("DescribeLogGroups", {"limit": 51}, "ValidationException"),
        ("DescribeLogGroups", {"includeLinkedAccounts": True}, "ValidationException"),
        ("PutLogEvents", {}, "UnknownOperationException"),
    ],
)  # fmt: skip
def test_what_is_not_there_or_not_honoured_is_refused(house, operation, request_, code):
    house.print("one\n")
    assert house.ask(operation, **request_)["__type"] == code


# -- metrics --------------------------------------------------------------------------

MINUTE = int(time.time()) // 60 * 60 - 3600


def counted(house: House, monkeypatch, second: int, *answers: tuple[int, float, float]) -> None:
    """Answers that a front has counted: status, and microseconds of the model and of the rest."""
    front = Tally(house.places.metrics)
    for status, model, overhead in answers:
        monkeypatch.setattr(time, "time", lambda: MINUTE + second)
        monkeypatch.setattr(time, "perf_counter", lambda m=model, o=overhead: (m + o) / 1e6)
        front.count("pulsar", "AllTraffic", status, 0.0, overhead / 1e6)
        monkeypatch.undo()
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    front.write()


def statistics(house: House, metric: str, **more) -> list[dict]:
    dimensions = {"EndpointName": "pulsar", "VariantName": "AllTraffic"}
    request = {
        "Namespace": "AWS/SageMaker", "MetricName": metric, "Period": 60,
        "Dimensions": [{"Name": name, "Value": value} for name, value in dimensions.items()],
        "StartTime": MINUTE, "EndTime": MINUTE + 600,
        "Statistics": ["SampleCount", "Sum", "Average", "Minimum", "Maximum"],
    }  # fmt: skip
    return house.ask("GetMetricStatistics", "cloudwatch", **request | more)["Datapoints"]


def test_what_several_fronts_have_counted_is_added_up_by_the_minute(house, monkeypatch):
    counted(house, monkeypatch, 1, (200, 100, 10), (500, 300, 30), (200, 200, 20))
    counted(house, monkeypatch, 59, (404, 400, 40), (0, 1000, 50))
    counted(house, monkeypatch, 60, (200, 5, 1))
    first, second = statistics(house, "Invocations")
    assert first["Timestamp"] == MINUTE
    assert [first[key] for key in ("Sum", "SampleCount", "Average", "Unit")] == [5, 5, 1, "None"]
    assert second["Sum"] == 1
    assert [p["Sum"] for p in statistics(house, "InvocationsPerInstance")] == [5, 1]
    assert [p["Sum"] for p in statistics(house, "Invocation4XXErrors")] == [1, 0]
    assert [p["Average"] for p in statistics(house, "Invocation5XXErrors")] == [0.4, 0]
    model = statistics(house, "ModelLatency", Period=120)
    assert len(model) == 1
    wanted = {"SampleCount": 6, "Sum": 2005, "Minimum": 5, "Maximum": 1000}
    assert {key: round(model[0][key], 6) for key in wanted} == wanted
    assert model[0]["Unit"] == "Microseconds"
    overhead = statistics(house, "OverheadLatency")[0]
    assert round(overhead["Average"], 6) == 30
    assert list(house.places.metrics.iterdir()) == []


def test_counts_are_there_once_whenever_the_sandbox_is_killed(house, monkeypatch):
    counted(house, monkeypatch, 1, (200, 100, 10))
    [path] = house.places.metrics.iterdir()
    content = path.read_text()
    assert statistics(house, "Invocations")[0]["Sum"] == 1
    # Killed after the counts were taken, before their file was gone.
    house.journal._db.execute("INSERT INTO taken VALUES (?)", (path.name,))
    path.write_text(content)
    house.journal._db.close()
    house.open()
    assert statistics(house, "Invocations")[0]["Sum"] == 1
    assert not path.exists()


def test_a_percentile_is_right_to_one_per_cent(house, monkeypatch):
    counted(house, monkeypatch, 1, *[(200, number, 10) for number in range(1, 1001)])
    [point] = statistics(
        house, "ModelLatency", Statistics=None, ExtendedStatistics=["p50", "p99", "p99.9", "p100"]
    )
    for name, value in {"p50": 500, "p99": 990, "p99.9": 999, "p100": 1000}.items():
        assert point["ExtendedStatistics"][name] == pytest.approx(value, rel=0.0101)


@pytest.mark.parametrize(
    "more, code, words",
    [
        ({"Period": 30}, "InvalidParameterValue", "Period 30"),
        ({"ExtendedStatistics": ["tm99"]}, "InvalidParameterValue", "tm99"),
        ({"Statistics": None}, "InvalidParameterCombination", "must be given"),
        ({"EndTime": MINUTE}, "InvalidParameterCombination", "StartTime"),
        ({"EndTime": MINUTE + 86_460}, "InvalidParameterCombination", "1441 datapoints"),
    ],
)
def test_a_question_that_is_not_honoured_is_refused(house, more, code, words):
    request = {
        "Namespace": "AWS/SageMaker", "MetricName": "Invocations", "Period": 60,
        "StartTime": MINUTE, "EndTime": MINUTE + 600, "Statistics": ["Sum"],
    } | more  # fmt: skip
    headers = {"x-amz-target": "X.GetMetricStatistics", "x-amzn-query-mode": "true"}
    body = json.dumps(request).encode()
    answer = house.services["cloudwatch"].answer(headers, body)
    assert answer.headers["x-amzn-query-error"] == f"{code};Sender"
    assert words in json.loads(answer.body)["message"]


def test_metrics_are_listed_and_read_in_pages(house, monkeypatch):
    for minute in range(3):
        counted(house, monkeypatch, 60 * minute, (200, 100 + minute, 10))
    assert len(house.ask("ListMetrics", "cloudwatch", RecentlyActive="PT3H")["Metrics"]) == 6
    named = {"Namespace": "AWS/SageMaker", "MetricName": "ModelLatency"}
    [metric] = house.ask("ListMetrics", "cloudwatch", **named)["Metrics"]
    queries = [
        {"Id": name, "MetricStat": {"Metric": metric, "Period": 60, "Stat": stat}}
        for name, stat in (("a", "Maximum"), ("b", "SampleCount"))
    ]
    request = {"StartTime": MINUTE, "EndTime": MINUTE + 600, "MetricDataQueries": queries}
    pages, token = [], {}
    while not pages or token:
        found = house.ask(
            "GetMetricData", "cloudwatch", MaxDatapoints=4, ScanBy="TimestampAscending",
            **request, **token,
        )  # fmt: skip
        pages.append(found["MetricDataResults"])
        token = {"NextToken": found["NextToken"]} if "NextToken" in found else {}
    assert [[round(value) for value in result["Values"]] for page in pages for result in page] == [
        [100, 101, 102], [1], [], [1, 1],
    ]  # fmt: skip
    assert [result["StatusCode"] for result in pages[0]] == ["Complete", "PartialData"]
    expression = request | {"MetricDataQueries": [{"Id": "e", "Expression": "a * 2"}]}
    said = house.ask("GetMetricData", "cloudwatch", **expression)["message"]
    assert "does not honour MetricDataQueries.Expression" in said


def test_a_client_of_before_2025_asks_by_a_form(house, monkeypatch):
    counted(house, monkeypatch, 1, (200, 100, 10))
    form = (
        "Action=ListMetrics&Version=2010-08-01&MetricName=ModelLatency"
        "&Dimensions.member.1.Name=EndpointName&Dimensions.member.1.Value=pulsar"
    )
    answer = house.services["cloudwatch"].answer({}, form.encode()).body.decode()
    assert answer.count("<MetricName>ModelLatency</MetricName>") == 1
    assert 'xmlns="http://monitoring.amazonaws.com/doc/2010-08-01/"' in answer


# -- a running sandbox ----------------------------------------------------------------

TALKER = """
import os
print("loading")
os.write(2, b"from below Python\\n")
def model_fn(model_dir):
    return 1
def transform_fn(model, body, content_type, accept):
    print("heard", body)
    if body == "fail":
        raise ValueError("no such candidate")
    return body, "text/csv"
"""
TALKS = "/aws/sagemaker/Endpoints/talker"


@pytest.fixture(scope="module")
def talker(sandbox):
    """An endpoint that prints, asked twice well and once badly."""
    sandbox.upload(pack({"code/inference.py": TALKER.encode()}), "talker.tar.gz")
    payload = sandbox.payload("talker", model_artifact_location="talker.tar.gz")
    state, answer = sandbox.wait(sandbox.provision(payload))
    assert state == "Succeeded", answer
    for word in ("one", "two"):
        sandbox.invoke("talker", word)
    with pytest.raises(ClientError, match=TALKS):
        sandbox.invoke("talker", "fail")
    return sandbox


def test_what_an_endpoint_prints_is_in_its_log_group(talker):
    logs = talker.client("logs")
    pages = logs.get_paginator("describe_log_groups").paginate(logGroupNamePrefix="/aws/sagemaker")
    assert TALKS in [group["logGroupName"] for page in pages for group in page["logGroups"]]
    [stream] = logs.describe_log_streams(logGroupName=TALKS)["logStreams"]
    assert re.fullmatch(r"AllTraffic/[0-9a-f]{12}", stream["logStreamName"])
    seen = {}
    # As `aws logs tail --follow` of the AWS CLI 2 asks.
    pages = logs.get_paginator("filter_log_events").paginate(
        logGroupName=TALKS, interleaved=True, startTime=int((time.time() - 600) * 1000)
    )
    for event in (event for page in pages for event in page["events"]):
        seen[event["eventId"]] = event["message"]
        assert abs(event["timestamp"] / 1000 - time.time()) < 60
    said = list(seen.values())
    assert [line for line in said if line.startswith(("loading", "from", "heard"))] == [
        "loading", "from below Python", "heard one", "heard two", "heard fail",
    ]  # fmt: skip
    assert said[-1] == "ValueError: no such candidate"
    found = logs.get_log_events(
        logGroupIdentifier=f"arn:aws:logs:us-east-1:000000000000:log-group:{TALKS}",
        logStreamName=stream["logStreamName"], limit=1,
    )  # fmt: skip
    assert found["events"][0]["message"] == said[-1]


def test_a_prediction_is_counted_whichever_front_has_answered_it(talker):
    cloudwatch, now = talker.client("cloudwatch"), datetime.now(UTC)
    span = {"StartTime": now - timedelta(hours=1), "EndTime": now + timedelta(hours=1)}
    dimensions = [
        {"Name": "EndpointName", "Value": "talker"},
        {"Name": "VariantName", "Value": "AllTraffic"},
    ]

    def total(name: str) -> float:
        points = cloudwatch.get_metric_statistics(
            Namespace="AWS/SageMaker", MetricName=name, Dimensions=dimensions, Period=60,
            Statistics=["Sum"], **span,
        )["Datapoints"]  # fmt: skip
        return sum(point["Sum"] for point in points)

    deadline = time.monotonic() + 10
    while total("Invocations") < 3 and time.monotonic() < deadline:
        time.sleep(0.2)
    names = ("Invocations", "Invocation4XXErrors", "Invocation5XXErrors")
    assert [total(name) for name in names] == [3, 0, 1]
    pages = cloudwatch.get_paginator("list_metrics").paginate(Dimensions=dimensions)
    metrics = [metric for page in pages for metric in page["Metrics"]]
    assert len(metrics) == 6
    queries = [
        {"Id": f"m{n}", "MetricStat": {"Metric": metric, "Period": 7200, "Stat": "p90"}}
        for n, metric in enumerate(metrics)
    ]
    pages = cloudwatch.get_paginator("get_metric_data").paginate(MetricDataQueries=queries, **span)
    by_name = {
        metrics[int(result["Id"][1:])]["MetricName"]: result["Values"]
        for page in pages
        for result in page["MetricDataResults"]
    }
    assert by_name["Invocations"] == [1]
    assert 50 < by_name["ModelLatency"][0] < 10_000_000
    assert 1 < by_name["OverheadLatency"][0] < 10_000_000
    with pytest.raises(ClientError) as raised:
        cloudwatch.get_metric_data(MetricDataQueries=[{"Id": "e", "Expression": "m0 * 2"}], **span)
    assert raised.value.response["Error"]["Code"] == "ValidationError"


def test_the_command_line_reads_both(talker):
    def aws(*words: str) -> dict:
        result = talker.project.run("aws", *words, **talker.environment)
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout)

    found = aws(
        "logs", "filter-log-events", "--log-group-name", TALKS, "--filter-pattern", "heard -fail"
    )
    assert [event["message"] for event in found["events"]] == ["heard one", "heard two"]
    points = aws(
        "cloudwatch", "get-metric-statistics", "--namespace", "AWS/SageMaker", "--period", "3600",
        "--metric-name", "Invocations", "--statistics", "Sum",
        "--start-time", "2020-01-01T00:00:00Z", "--end-time", "2020-01-02T00:00:00Z",
    )  # fmt: skip
    assert points == {"Label": "Invocations", "Datapoints": []}
