"""The four monitors: provisioned, run and read, over HTTP and by `scripts/monitor.py`."""

import json
import re
import time
import uuid
from datetime import UTC, datetime

import pytest
from conftest import ROOT

from candidates.tables import FEATURES
from clients.payloads import load_payload


class Watched:
    """An endpoint with captured candidates, their truth, and baselines in the bucket."""

    def __init__(self, sandbox, archive: bytes, project) -> None:
        self.sandbox, self.s3, self.bucket = sandbox, sandbox.client("s3"), sandbox.bucket
        sandbox.upload(archive)
        place = f"{sandbox.bucket}/watched/datacapture"
        body = sandbox.payload("watched", data_capture_location=place)
        state, answer = sandbox.wait(sandbox.provision(body))
        assert state == "Succeeded", answer
        lines = (project.folder / "data" / "prepared" / "test.csv").read_text().splitlines()
        self.rows = [line.rpartition(",")[0] for line in lines[1:]]
        self.truth = [line.rpartition(",")[2] for line in lines[1:]]

    def ask(self, count: int, change=lambda cells: cells) -> None:
        """Have candidates captured, each changed, and tell what is true of them."""
        told = []
        for start in range(0, count, 100):
            rows = [change(row.split(",")) for row in self.rows[start : start + 100]]
            body = "\n".join(",".join(cells) for cells in rows) + "\n"
            identity = f"night-{time.monotonic_ns()}"
            self.sandbox.invoke("watched", body, Accept="text/csv", InferenceId=identity)
            data = "\n".join(self.truth[start : start + 100])
            told.append({
                "groundTruthData": {"data": data, "encoding": "CSV"},
                "eventMetadata": {"eventId": identity}, "eventVersion": "0",
            })  # fmt: skip
        now = datetime.now(UTC)
        key = f"watched/groundtruth/{now:%Y/%m/%d/%H}/{now:%M%S}.jsonl"
        self.put(key, "".join(json.dumps(line) + "\n" for line in told))

    def put(self, key: str, text: str) -> None:
        self.s3.put_object(Bucket=self.bucket, Key=key, Body=text.encode())

    def payload(self, name: str, **changes) -> dict:
        text = json.dumps(load_payload(ROOT / "payloads" / f"pulsar-{name}.json", self.bucket))
        text = re.sub(r"/pulsar/", "/watched/", text)
        return (
            json.loads(text)
            | {"model_name": f"watched-{name}", "endpoint_name": "watched"}
            | changes
        )

    def check(self, name: str, tmp_path, **changes):
        """Run `scripts/monitor.py --json` on a payload."""
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(self.payload(name, **changes)))
        return self.sandbox.project.script("monitor", str(path), "--json")


@pytest.fixture(autouse=True)
def nothing_left(sandbox):
    """Failed pipelines are in nobody's way."""
    yield
    sandbox.delete("monitor")


@pytest.fixture(scope="module")
def watched(sandbox, archive, project) -> Watched:
    return Watched(sandbox, archive, project)


def test_data_quality_sees_a_gain_change_and_not_a_quiet_night(watched, tmp_path):
    watched.ask(600)
    quiet = watched.check("data-quality", tmp_path)
    assert quiet.returncode == 0, quiet.stderr
    assert json.loads(quiet.stdout)["message"].endswith("with no violations.")

    def hotter(cells):
        return [str(float(cells[0]) + 40), *cells[1:]]

    watched.ask(600, hotter)
    loud = watched.check("data-quality", tmp_path)
    assert loud.returncode == 3, loud.stderr
    found = json.loads(loud.stdout)
    assert {item["feature_name"] for item in found["violations"]} >= {"profile_mean"}
    bucket, _, prefix = found["results"].removeprefix("s3://").partition("/")
    written = watched.s3.list_objects_v2(Bucket=bucket, Prefix=prefix)["Contents"]
    names = {item["Key"].removeprefix(prefix) for item in written}
    assert {"statistics.json", "constraint_violations.json", "report.md", "window.json"} <= names
    window = json.loads(
        watched.s3.get_object(Bucket=bucket, Key=f"{prefix}window.json")["Body"].read()
    )
    assert window["records"] == 600  # the quiet night's were counted before


@pytest.mark.slow
def test_status_says_what_the_last_check_found_and_when_the_next_is_due(watched, tmp_path):
    watched.ask(100)
    assert watched.check("data-quality", tmp_path).returncode in (0, 3)
    shown = watched.sandbox.project.script("status", "watched-data-quality")
    assert shown.returncode == 0, shown.stderr
    assert re.search(r"last check: 20\S+Z, \d+ candidates, \d+ violations; next: 20", shown.stdout)
    listed = watched.sandbox.project.script("status")
    assert "last check: 20" in listed.stdout


@pytest.mark.slow
def test_model_quality_and_bias_read_what_was_true(watched, tmp_path):
    watched.ask(400)
    quality = watched.check("model-quality", tmp_path)
    assert quality.returncode in (0, 3), quality.stderr
    assert "/modelquality-" in quality.stdout or "modelquality" in quality.stdout
    bias = watched.check("bias", tmp_path)
    assert bias.returncode in (0, 3), bias.stderr


@pytest.mark.slow
def test_explainability_explains_the_model_that_runs(watched, tmp_path):
    watched.ask(200)
    done = watched.check("explainability", tmp_path)
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)["results"]
    bucket, _, prefix = results.removeprefix("s3://").partition("/")
    analysis = watched.s3.get_object(Bucket=bucket, Key=f"{prefix}analysis.json")["Body"].read()
    values = json.loads(analysis)["explanations"]["kernel_shap"]["label0"]["global_shap_values"]
    assert set(values) == set(FEATURES)


@pytest.mark.slow
def test_a_window_without_captures_is_told_so(watched, tmp_path):
    watched.ask(100)
    assert watched.check("explainability", tmp_path).returncode in (0, 3)
    again = watched.check("explainability", tmp_path)
    assert again.returncode == 1
    assert "Job inputs had no data" in again.stderr


def test_an_unchanged_monitor_stays_as_it_is_and_a_failed_baseline_is_made_again(watched):
    body = watched.payload("data-quality", model_name="again", baseline_data="again.csv")
    watched.put("again.csv", "a,b\n1,x\n")
    watched.put("again.csv", "a,b\n1\n")
    identity = watched.sandbox.provision(body)
    state, answer = watched.sandbox.wait(identity)
    assert state == "Failed"
    assert "again.csv, row 2 has 1 columns, not 2" in json.dumps(answer)
    first = answer["outputs"]["BaselineName"]
    watched.sandbox.provision(body)
    _, answer = watched.sandbox.wait(identity)
    second = answer["outputs"]["BaselineName"]
    assert second != first  # it has failed, so it was tried again
    watched.put("again.csv", "a,b\n1,2\n3,4\n")
    watched.sandbox.provision(body)
    state, answer = watched.sandbox.wait(identity)
    assert state == "Succeeded"
    third = answer["outputs"]["BaselineName"]
    watched.sandbox.provision(body)
    assert watched.sandbox.wait(identity)[1]["outputs"]["BaselineName"] == third


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("data-quality", {"endpoint_name": "absent"}, "there is no endpoint called absent"),
        ("data-quality", {"data_capture_location": "{bucket}/elsewhere"}, "captures to"),
        ("data-quality", {"baseline_data": "absent.csv"}, "does not exist; upload it first"),
        ("data-quality", {"schedule_expression": "rate(1 hour)"}, "must be cron(…)"),
        ("data-quality", {"schedule_expression": "cron(0 0 30 2 ? *)"}, "schedule_expression"),
        ("data-quality", {"monitoring_output_location": "no-such-bucket/x"}, "no bucket called"),
        ("data-quality", {"instance_volume_size": "0"}, "instance_volume_size must be"),
        ("bias", {"bias_config": {"facet": "x"}}, "bias_config has no facet: its keys are"),
        ("bias", {"bias_config": "{{}}"}, "bias_config must be a JSON object"),
        ("bias", {"features_attribute": "x"}, "features_attribute"),
        ("explainability", {"shap_config": {"samples": 1}}, "shap_config has no samples"),
        ("explainability", {"problem_type": "Ranking"}, "Unsupported problem_type"),
        ("model-quality", {"probability_threshold_attribute": "2"}, "must be a number from 0 to 1"),
    ],
)
def test_what_cannot_work_is_refused_with_its_key(watched, name, changes, words):
    watched.put("watched/baselines/data-quality.csv", "a\n1\n")
    changes = {
        key: value.format(bucket=watched.bucket) if isinstance(value, str) else value
        for key, value in changes.items()
    }
    status, text = watched.sandbox.post("/provisionpipeline", watched.payload(name, **changes))
    assert status == 400, text
    assert words in json.loads(text)["detailedMessage"]


def test_destroying_a_monitor_takes_its_schedule_and_the_checks_under_way_along(watched):
    body = watched.payload("data-quality", model_name="gone", baseline_data="gone.csv")
    watched.put("gone.csv", "a\n1\n2\n")
    identity = watched.sandbox.provision(body)
    _, answer = watched.sandbox.wait(identity)
    schedule = answer["outputs"]["MonitoringScheduleJobName"]
    scheduler = watched.sandbox.client("scheduler")
    assert (
        scheduler.get_schedule(Name=schedule)["ScheduleExpression"] == body["schedule_expression"]
    )
    sagemaker = watched.sandbox.client("sagemaker")
    text = scheduler.get_schedule(Name=schedule)["Target"]["Input"]
    names = []
    for number, told in enumerate((schedule, schedule, "another-schedule")):
        request = json.loads(
            text.replace("<aws.scheduler.execution-id>", str(uuid.UUID(int=number))).replace(
                "<aws.scheduler.scheduled-time>", "2026-01-01T00:00:00Z"
            )
        )
        request["Environment"]["sagemaker_monitoring_schedule_name"] = told
        sagemaker.create_processing_job(**request)
        names.append(request["ProcessingJobName"])
    cloudformation = watched.sandbox.client("cloudformation")
    cloudformation.delete_stack(StackName=identity)
    cloudformation.get_waiter("stack_delete_complete").wait(
        StackName=identity, WaiterConfig={"Delay": 0.2, "MaxAttempts": 100}
    )
    with pytest.raises(scheduler.exceptions.ResourceNotFoundException):
        scheduler.get_schedule(Name=schedule)
    jobs = [sagemaker.describe_processing_job(ProcessingJobName=name) for name in names]
    ours, theirs = [job["ProcessingJobStatus"] for job in jobs[:2]], jobs[2]["ProcessingJobStatus"]
    assert set(ours) <= {"Stopping", "Stopped"}
    assert theirs not in ("Stopping", "Stopped")
