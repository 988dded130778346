"""Captured records by themselves: whole or not at all, once, where SageMaker puts them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from orchestrator.sandbox.hosting import capture
from orchestrator.sandbox.hosting.capture import Capture, finish_orphans, object_key

CONFIG = {
    "EnableCapture": True,
    "InitialSamplingPercentage": 100,
    "CaptureOptions": [{"CaptureMode": "Input"}, {"CaptureMode": "Output"}],
    "CaptureContentTypeHeader": {"CsvContentTypes": ["text/csv"]},
}
PAIR = ("text/csv", b"1,2"), ("application/json", b"{}")


def records(spool: Path) -> list[dict]:
    """Every line of every finished file, which must be JSON."""
    files = sorted(spool.glob("*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


# A short write, as on a disk with some bytes left: here the limit of a file's size.
SHORT = """
import json, resource, sys
from pathlib import Path
from orchestrator.sandbox.hosting.capture import Capture
spool = Path(sys.argv[1])
config = json.loads(sys.argv[2])
writer = Capture(spool, config)
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (1500, hard))
told = []
for number in range(6):
    try:
        writer.record(("text/csv", b"%d" % number), ("text/csv", b"x" * 100), None)
        told.append(number)
    except OSError:
        pass
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
writer.record(("text/csv", b"last"), ("text/csv", b""), None)
writer.flush()
print(json.dumps(told + ["last"]))
"""


def test_a_record_that_does_not_fit_leaves_no_half_line(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", SHORT, tmp_path, json.dumps(CONFIG)], cwd=ROOT,
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    told = json.loads(done.stdout)
    assert 1 < len(told) < 7
    inputs = [record["captureData"]["endpointInput"]["data"] for record in records(tmp_path)]
    assert inputs == [str(number) for number in told]


def test_what_is_no_declared_text_is_base64_and_modes_are_honoured(tmp_path):
    writer = Capture(tmp_path, CONFIG)
    writer.record(*PAIR, "an-id")
    writer.flush()
    [record] = records(tmp_path)
    sides = record["captureData"]
    assert (sides["endpointInput"]["encoding"], sides["endpointInput"]["data"]) == ("CSV", "1,2")
    assert (sides["endpointOutput"]["encoding"], sides["endpointOutput"]["data"]) == (
        "BASE64",
        "e30=",
    )
    assert record["eventMetadata"]["inferenceId"] == "an-id"
    only_input = Capture(
        tmp_path / "input", CONFIG | {"CaptureOptions": [{"CaptureMode": "Input"}]}
    )
    only_input.record(*PAIR, None)
    only_input.flush()
    [record] = records(tmp_path / "input")
    assert set(record["captureData"]) == {"endpointInput"}


@pytest.mark.parametrize(
    ("share", "least", "most"), [(100, 400, 400), (0, 0, 0), (25, 50, 150)]
)  # fmt: skip
def test_so_many_of_a_hundred_are_captured(tmp_path, share, least, most):
    writer = Capture(tmp_path, CONFIG | {"InitialSamplingPercentage": share})
    for _ in range(400):
        writer.record(*PAIR, None)
    writer.flush()
    assert least <= len(records(tmp_path)) <= most


def test_a_new_hour_is_a_new_file(tmp_path, monkeypatch):
    writer = Capture(tmp_path, CONFIG)
    for now in (1_700_002_799.5, 1_700_002_800.5):  # the end of an hour, and the next
        monkeypatch.setattr(capture.time, "time", lambda now=now: now)
        writer.record(*PAIR, None)
    writer.flush()
    hours = {path.name.partition("_")[0] for path in tmp_path.glob("*.jsonl")}
    assert hours == {"2023-11-14-22", "2023-11-14-23"}


def test_what_a_killed_process_left_is_handed_over_but_for_a_half_line(tmp_path):
    left = tmp_path / "2026-11-24-09_12-30-123-x.jsonl.open"
    left.write_text('{"a": 1}\n{"b": 2}\n{"c": ')
    finish_orphans(tmp_path)
    assert records(tmp_path) == [{"a": 1}, {"b": 2}]
    assert not left.exists()


def test_what_is_still_written_is_left_to_its_writer(tmp_path):
    writer = Capture(tmp_path, CONFIG)
    writer.record(*PAIR, None)
    finish_orphans(tmp_path)
    assert not records(tmp_path)
    writer.record(*PAIR, None)
    writer.flush()
    assert len(records(tmp_path)) == 2


def test_the_key_is_sagemakers():
    name = "2026-11-24-09_12-30-123-uuid.jsonl"
    assert object_key(name, "a/b", "e", "v") == "a/b/e/v/2026/11/24/09/12-30-123-uuid.jsonl"
    assert object_key(name, "", "e", "v") == "e/v/2026/11/24/09/12-30-123-uuid.jsonl"


def test_an_empty_spool_file_stays_for_its_writer_and_goes_with_the_endpoint(tmp_path):
    """A process that is killed on a full disk leaves one; the endpoint's folder went never after that."""
    orphan = tmp_path / "2026-11-24-09_12-30-123-x.jsonl.open"
    orphan.touch()
    finish_orphans(tmp_path)
    assert orphan.exists()
    finish_orphans(tmp_path, over=True)
    assert list(tmp_path.iterdir()) == []
