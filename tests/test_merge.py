"""Ground truth finds its captured records, or the run says why not."""

import json
from datetime import UTC, datetime, timedelta

import boto3
import pandas as pd
import pytest
from conftest import SHARED
from moto import mock_aws

from orchestrator.monitors import merge, window
from orchestrator.monitors.__main__ import merged_table
from orchestrator.monitors.frame import Refused

NOON = datetime(2026, 11, 27, 12, tzinfo=UTC)
EXAMPLES = SHARED / "reference" / "examples"


def captured(event, answer="1,0.9\n", inference=None, time="2026-11-27T10:15:00Z"):
    about = {"eventId": event, "inferenceTime": time}
    if inference:
        about = {"eventId": event, "inferenceId": inference, "inferenceTime": time}
    sides = {
        f"endpoint{way.title()}": {
            "observedContentType": "text/csv", "mode": way, "data": data, "encoding": "CSV",
        }
        for way, data in (("INPUT", "1,2\n"), ("OUTPUT", answer))
    }  # fmt: skip
    record = {"captureData": sides, "eventMetadata": about, "eventVersion": "0"}
    return json.dumps(record, separators=(",", ":"))


def label(event, data="1", encoding="CSV"):
    return json.dumps(
        {
            "groundTruthData": {"data": data, "encoding": encoding},
            "eventMetadata": {"eventId": event},
            "eventVersion": "0",
        }
    )


def truth(*lines):
    return merge.truth([("labels.jsonl", "\n".join(lines).encode())])


def table(*rows):
    return pd.DataFrame(rows, columns=["_c0", "event_id", "event_row"])


def join(folder, found, *records, name="capture", end="2026-11-28"):
    joined = merge.Merge(found, folder, end)
    joined.add(name, "\n".join(records).encode(), "2026-11-27T10:15")
    return joined.close()


def merged(folder):
    return [
        (path.parent.relative_to(folder).as_posix(), json.loads(line))
        for path in sorted(folder.rglob("part-00000-*.c000.jsonl"))
        for line in path.read_text().splitlines()
    ]


def test_labels_find_their_record_by_inference_id_or_else_by_event_id(tmp_path):
    labels = truth(label("a"), label("night-7", "0"), label("nobody"))
    records = captured("a"), captured("b", inference="night-7"), captured("c")
    assert join(tmp_path, labels, *records, captured("night-8", inference="x")) == (2, 2, 1)
    found = [record for _, record in merged(tmp_path)]
    assert [record["groundTruthData"]["data"] for record in found] == ["1", "0"]
    assert list(found[0]) == ["captureData", "eventMetadata", "groundTruthData", "eventVersion"]


def test_a_merged_record_is_the_captured_one_and_its_label_by_hour_of_invocation(tmp_path):
    later = captured("b", time="2026-11-27T11:00:00Z")
    name = "s3://bucket/captured/pulsar/Blue/2026/11/27/10/15-00-000-x.jsonl"
    join(tmp_path, truth(label("a"), label("b")), captured("a"), later, name=name)
    assert [place for place, _ in merged(tmp_path)] == ["Blue/2026/11/27/10", "Blue/2026/11/27/11"]
    record = merged(tmp_path)[0][1]
    assert record.pop("groundTruthData") == {"data": "1", "encoding": "CSV"}
    assert record == json.loads(captured("a"))


@pytest.mark.skipif(not EXAMPLES.is_dir(), reason="the reference is not at hand")
def test_the_reference_is_merged_to_the_byte(tmp_path):
    def read(pattern):
        return next(EXAMPLES.glob(pattern)).read_bytes()

    joined = merge.Merge(merge.truth([("x", read("*ground-truth*"))]), tmp_path, "2027")
    joined.add("x", read("EXAMPLE-capture-*"))
    assert joined.close() == (2, 2, 0)
    (path,) = tmp_path.rglob("*.jsonl")
    assert path.read_bytes().strip() == read("EXAMPLE-merged*").strip()


def test_a_record_that_another_wrote_is_merged_as_well(tmp_path):
    other = json.loads(captured("a", inference='night "7"'))
    other["eventMetadata"]["customAttributes"] = ["α"]
    text = json.dumps(dict(reversed(other.items())))
    assert join(tmp_path, truth(label('night "7"')), text, "", "  ") == (1, 0, 0)
    record = merged(tmp_path)[0][1]
    assert record.pop("groundTruthData") == {"data": "1", "encoding": "CSV"}
    assert record == other
    for broken in ("{", "[]", '{"eventMetadata": {}}', '{"eventMetadata": {"eventId": "a"}}'):
        with pytest.raises(Refused, match="capture, line 2 is no captured record"):
            join(tmp_path, truth(label("a")), captured("a"), broken)


def test_records_outside_the_window_are_not_its_records(tmp_path):
    early, late = (captured("a", time=f"2026-11-27T{time}:00Z") for time in ("10:14", "11:00"))
    last = captured("b", time="2026-11-27T10:59:59Z")
    assert join(
        tmp_path, truth(label("a"), label("b")), early, late, last, end="2026-11-27T11"
    ) == (1, 0, 1)


@pytest.mark.parametrize(
    ("lines", "said"),
    [([label("zz")], "matches nothing.* 1 eventIds .* 1 captured"), ([], "holds nothing")],
)
def test_ground_truth_that_matches_nothing_is_a_reason(tmp_path, lines, said):
    with pytest.raises(Refused, match=said):
        join(tmp_path, truth(*lines), captured("a"))


def test_a_window_whose_labels_are_of_files_alone_has_no_data(tmp_path, monkeypatch):
    """Rows without a label, and a labelled file, in which there are none."""
    file = json.loads(captured("b"))
    file["captureData"]["endpointInput"]["observedContentType"] = "application/octet-stream"
    body = f"{captured('a')}\n{json.dumps(file)}\n".encode()
    monkeypatch.setattr(merge, "objects", lambda *_: [("labels.jsonl", label("b").encode())])
    monkeypatch.setattr(window, "captures", lambda *_: [("capture", body, "")])
    period = window.Window(*[NOON] * 5)
    settings = {"sagemaker_endpoint_name": "pulsar"}
    with pytest.raises(Refused, match=r"no data. Captured records that hold a file .* left out: 1"):
        merged_table(None, settings, period, tmp_path)


def test_the_later_label_corrects_the_earlier():
    found = merge.truth([("1", label("a", "0").encode()), ("2", label("a", "1").encode())])
    assert merge.labelled(table((1, "a", 0)), found)["ground_truth"].tolist() == ["1"]


@pytest.mark.parametrize("data", [("1\n0\n1\n", "CSV"), ('["1", "0", "1"]', "JSON")])
def test_a_record_of_many_rows_has_as_many_labels(data):
    rows = table((1, "a", 0), (1, "b", 0), (0, "a", 1), (1, "a", 2))
    found = merge.labelled(rows, truth(label("a", *data)))
    assert found["ground_truth"].tolist() == ["1", "0", "1"]
    assert found["event_row"].tolist() == [0, 1, 2]
    with pytest.raises(Refused, match="the record a holds 2 candidates, but its ground truth 3"):
        merge.labelled(rows[:3], truth(label("a", *data)))


@pytest.mark.parametrize(
    "line",
    ["{", "[]", '{"groundTruthData":{"data":1,"encoding":"CSV"},"eventMetadata":{"eventId":"a"}}',
     label("a", encoding="BASE64"), '{"eventMetadata": {"eventId": "a"}}'],
)  # fmt: skip
def test_what_is_no_ground_truth_is_named_by_file_and_line(line):
    with pytest.raises(Refused, match="labels.jsonl, line 2 is no ground truth"):
        truth(label("a"), line)


def test_labels_that_were_collected_after_the_window_are_read_too(monkeypatch):
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    with mock_aws():
        s3 = boto3.client("s3")
        s3.create_bucket(Bucket="labels")
        for hour in ("09", "10", "12", "13"):
            key = f"truth/2026/11/27/{hour}/0000.jsonl"
            s3.put_object(Bucket="labels", Key=key, Body=label(hour).encode())
        begins = NOON - timedelta(hours=1.5)
        found = merge.truth(merge.objects(s3, {"ground_truth": "s3://labels/truth/"}, begins, NOON))
        assert list(found) == ["10", "12"]
        for place, said in (("s3://gone/x", "s3://gone/x cannot be read"), ("x", "not s3://")):
            with pytest.raises(Refused, match=said):
                list(merge.objects(s3, {"ground_truth": place}, begins, NOON))
