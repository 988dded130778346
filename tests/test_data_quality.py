"""Data quality: Model Monitor's schemas and distances, whichever side wrote the baseline."""

import json
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta

import boto3
import numpy as np
import pandas as pd
import pytest
from conftest import SHARED, clean_environment
from hypothesis import given, settings
from hypothesis import strategies as st
from moto.server import ThreadedMotoServer

from candidates.simulator import ACCIDENTS, simulate
from candidates.tables import FEATURES, LABEL
from orchestrator import monitors
from orchestrator.monitors import __main__ as job
from orchestrator.monitors import data_quality as quality
from orchestrator.monitors.frame import EVENT_ID, EVENT_ROW, Refused

EXAMPLES = SHARED / "reference" / "examples"
needs_examples = pytest.mark.skipif(not EXAMPLES.is_dir(), reason="SageMaker's files are not here")
finite = st.floats(-1e9, 1e9)


def checks(checked):
    return [(v["feature_name"], v["constraint_check_type"]) for v in checked.violations]


def with_limits(baseline, **changes):
    """A baseline whose constraints.json has other limits."""
    config = baseline["constraints.json"]["monitoring_config"]
    for key, value in changes.items():
        place = config if key in config else config["distribution_constraints"]
        place[key] = value
    return baseline


def found_between(before, after, **limits):
    baseline = with_limits(quality.baseline(pd.DataFrame({"x": before}), {}), **limits)
    return quality.check(pd.DataFrame({"x": after}), baseline, {})


def distance_between(before, after, method):
    checked = found_between(before, after, comparison_method=method)
    return {m["MetricName"]: m.get("Value") for m in checked.metrics}["feature_baseline_drift_x"]


# -- SageMaker's own files ------------------------------------------------------------


def sagemakers(name):
    return json.loads((EXAMPLES / f"EXAMPLE-data-quality-{name}.json").read_text())


def sagemakers_rows():
    """The 200 rows that its statistics are of."""
    age, balance, state = sagemakers("statistics")["features"]
    levels = [
        f["numerical_statistics"]["distribution"]["kll"]["sketch"]["data"] for f in (age, balance)
    ]
    buckets = state["string_statistics"]["distribution"]["categorical"]["buckets"]
    return pd.DataFrame({
        "age": np.array(levels[0][0]).astype(int), "balance": levels[1][0],
        "state": [bucket["value"] for bucket in buckets for _ in range(bucket["count"])],
    })  # fmt: skip


def close(one, two):
    """Equal documents, numbers to 1e-12, the items of a sketch and its categories in any order."""
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(close(one[key], two[key]) for key in one)
    if isinstance(one, list):
        order = (
            (lambda x: json.dumps(x, sort_keys=True)) if one and isinstance(one[0], dict) else None
        )
        return len(one) == len(two) and all(
            close(a, b) for a, b in zip(sorted(one, key=order), sorted(two, key=order), strict=True)
        )
    return one == (pytest.approx(two, rel=1e-12) if isinstance(two, float) else two)


@needs_examples
def test_sagemakers_statistics_and_constraints_are_written_as_it_writes_them():
    found = quality.baseline(sagemakers_rows(), {})
    assert close(found["statistics.json"], sagemakers("statistics"))
    wanted = sagemakers("constraints")
    distribution = wanted["monitoring_config"]["distribution_constraints"]
    distribution["comparison_threshold"] = (
        quality.COMPARISON
    )  # theirs hides what happens to surveys
    assert found["constraints.json"] == wanted


@needs_examples
def test_sagemakers_baseline_gives_the_verdict_of_its_violations_file():
    rows = sagemakers_rows()
    baseline = {f"{name}.json": sagemakers(name) for name in ("statistics", "constraints")}
    assert quality.check(rows, baseline, {}).violations == []
    texts = rows["balance"].astype(str).tolist()
    window = rows.assign(age=rows["age"] + 25, balance=[*texts[:-1], "unknown"])
    checked = quality.check(window, baseline, {})
    assert checked.files["constraint_violations.json"] == sagemakers("constraint_violations")


# -- distances ------------------------------------------------------------------------


def test_robust_hides_what_two_samples_of_a_hundred_differ_by():
    """The worked figure: 1.8 sqrt(200 / 10000) = 0.2546 at n = m = 100."""
    before = np.arange(100.0)
    after = before + 30  # D = 0.3
    assert distance_between(before, after, "Simple") == pytest.approx(0.3)
    assert distance_between(before, after, "Robust") == pytest.approx(0.3 - 0.254558, abs=1e-6)
    checked = found_between(before, after)
    assert checked.violations == []
    assert checked.files["report.json"]["smallest_drift_seen"] == pytest.approx(0.304558, abs=1e-6)
    assert quality.noise(30, 30) == pytest.approx(0.465, abs=1e-3)


@given(st.lists(finite, min_size=1, max_size=60), st.lists(finite, min_size=1, max_size=60))
@settings(max_examples=60)
def test_the_distance_of_numbers_is_the_greatest_between_their_cumulative_shares(before, after):
    everywhere = np.array(sorted({*before, *after}))
    shares = [
        np.searchsorted(np.sort(x), everywhere, side="right") / len(x) for x in (before, after)
    ]
    wanted = np.abs(shares[0] - shares[1]).max()
    assert distance_between(before, after, "Simple") == pytest.approx(wanted)


def test_the_distance_of_texts_is_that_of_the_share_of_one_of_them():
    before, after = ["a"] * 60 + ["b"] * 40, ["a"] * 30 + ["b"] * 40 + ["c"] * 30
    assert distance_between(before, after, "Simple") == pytest.approx(0.3)
    assert checks(found_between(before, after, comparison_method="linf_simple")) == [
        ("x", "categorical_values_check"), ("x", "baseline_drift_check"),
    ]  # fmt: skip


def test_a_distance_that_equals_its_threshold_does_not_exceed_it():
    before, after = [0.5] * 4, [0.5] * 3 + [1.5]
    assert found_between(before, after, comparison_method="Simple", comparison_threshold=0.25) \
        .violations == []  # fmt: skip


@given(st.integers(1, 20000), st.integers(0, 2**32 - 1))
@settings(max_examples=60)
def test_a_sketch_is_compact_weighs_every_value_and_misses_no_rank_by_a_thousandth(size, seed):
    values = np.sort(np.random.default_rng(seed).normal(size=size))
    levels = quality.sketch(values)
    assert sum(len(level) << i for i, level in enumerate(levels)) == size
    assert sum(map(len, levels)) <= 2048 + len(levels)
    statistics = {"numerical_statistics": quality.numerical(quality.column(pd.Series(values)))}
    apart, *_ = quality.furthest(quality.distribution(statistics), values)
    assert apart <= (0 if size <= 2048 else 0.001)


# -- columns that are not as they should be -------------------------------------------


def test_a_baseline_without_variance_is_compared_all_the_same():
    statistics = quality.baseline(pd.DataFrame({"x": [3.5] * 50}), {})["statistics.json"]
    numbers = statistics["features"][0]["numerical_statistics"]
    assert (numbers["std_dev"], numbers["min"], numbers["max"]) == (0.0, 3.5, 3.5)
    assert sum(bucket["count"] for bucket in numbers["distribution"]["kll"]["buckets"]) == 50
    assert found_between([3.5] * 50, [3.5] * 80).violations == []
    checked = found_between([3.5] * 500, [4.5] * 800)
    assert checks(checked) == [("x", "baseline_drift_check")]
    assert "The baseline has no variance" in checked.files["report.md"]


def test_missing_values_are_a_violation_where_the_baseline_had_none():
    checked = found_between(np.arange(100.0), [np.nan] * 5 + list(np.arange(5.0, 100)))
    assert checks(checked) == [("x", "completeness_check")]
    assert "Only 95.0% of data is complete" in checked.violations[0]["description"]
    assert checks(found_between(np.arange(9.0), [np.nan] * 9)) == [("x", "completeness_check")]


def test_a_column_of_nothing_is_a_baseline_that_nothing_violates():
    assert found_between([np.nan] * 9, [np.nan] * 9).violations == []
    assert found_between([np.nan] * 9, np.arange(9.0)).violations == []


@pytest.mark.parametrize(
    ("before", "after", "wanted"),
    [
        ([1, 2], [1, 2], []),
        ([0.5, 1.5], [1, 2], []),  # a whole number is a fractional one
        ([1, 2], [1.5, 2.0], ["data_type_check"]),
        ([1.5, 2.5], ["1.5", "x"], ["data_type_check"]),
        ([1.5, 2.5], [np.inf, 1.5], ["data_type_check"]),
        (["a", "a"], [1, 2], ["data_type_check"]),
    ],
)
def test_types_are_checked(before, after, wanted):
    assert [kind for _, kind in checks(found_between(before, after))] == wanted


@pytest.mark.parametrize(
    ("limits", "wanted"),
    [
        ({"datatype_check_threshold": 0.5}, []),
        ({"evaluate_constraints": "Disabled"}, []),
        ({}, ["data_type_check"]),
    ],
)
def test_limits_of_the_constraints_are_kept(limits, wanted):
    checked = found_between([1, 2], [1.5, 2.0], **limits)
    assert [kind for _, kind in checks(checked)] == wanted
    assert ("constraint_violations.json" in checked.files) == ("evaluate_constraints" not in limits)


def test_a_feature_may_be_left_out_and_metrics_and_comparison_switched_off():
    for word in ("monitoringConfigOverrides", "monitoring_config_overrides"):
        baseline = quality.baseline(pd.DataFrame({"x": [1, 2]}), {})
        baseline["constraints.json"]["features"][0][word] = {"evaluate_constraints": "Disabled"}
        assert quality.check(pd.DataFrame({"x": [0.5]}), baseline, {}).violations == []
    assert found_between([1] * 999, [2] * 999, perform_comparison="Disabled").violations == []
    assert found_between([1], [2], emit_metrics="Disabled").metrics == []


@pytest.mark.parametrize(
    ("limits", "complaint"),
    [
        ({"comparison_method": "Exact"}, "comparison_method is Exact"),
        ({"categorical_drift_method": "ChiSquared"}, "categorical_drift_method is ChiSquared"),
    ],
)
def test_a_limit_that_cannot_be_kept_is_refused(limits, complaint):
    with pytest.raises(Refused, match=complaint):
        found_between([1], [2], **limits)


def test_other_columns_than_the_baselines_are_told_by_their_number():
    baseline = quality.baseline(pd.DataFrame({"y": [0, 1], "a": [1, 2]}), {})
    less, more = pd.DataFrame({"y": [0, 1]}), pd.DataFrame({"y": [0], "a": [1], "_c2": [1]})
    assert checks(quality.check(less, baseline, {})) == [
        ("Missing columns", "missing_column_check")
    ]
    assert checks(quality.check(more, baseline, {})) == [("Extra columns", "extra_column_check")]
    beside = pd.DataFrame({"y": [0, 1], "_c1": [0.1, 0.9], "a": [1, 2]})
    checked = quality.check(beside, baseline, {"answer_columns": "2"})
    assert checked.violations == []
    assert "not compared: _c1" in checked.files["report.md"]


# -- in a pulsar person's words -------------------------------------------------------


def survey(pulsars, others, seed, **more):
    features, classes = simulate(pulsars, others, seed, **more)
    table = pd.DataFrame(features, columns=FEATURES)
    table.insert(0, LABEL, classes.astype(int))
    return table


def captured(table):
    return table.assign(**{EVENT_ID: [f"e{i}" for i in range(len(table))], EVENT_ROW: 0})


@pytest.fixture(scope="module")
def baseline():
    return quality.baseline(survey(400, 4000, 1), {})


def test_a_quiet_sky_is_no_violation(baseline):
    checked = quality.check(captured(survey(200, 2000, 2)), baseline, {"answer_columns": "1"})
    assert checked.violations == []
    assert "smallest drift that this run could have seen is 0.099" in checked.files["report.md"]


def test_an_rfi_storm_is_told_as_one(baseline):
    storm = captured(survey(200, 2000, 2, survey=ACCIDENTS["rfi_storm"]))
    with_limits(baseline, comparison_threshold=0.05)
    checked = quality.check(storm, baseline, {"answer_columns": "1"})
    with_limits(baseline, comparison_threshold=0.1)
    told = {drift["name"]: drift for drift in checked.files["report.json"]["drifted"]}
    assert told["dm_mean"]["direction"] == "up"
    assert "interference" in told["dm_mean"]["usually"]
    assert told["dm_mean"]["shift_in_baseline_std"] > 0
    rows = storm.set_index(EVENT_ID)["dm_mean"]
    for candidate in told["dm_mean"]["candidates"]:
        assert rows[candidate["event_id"]] == candidate["value"]
        assert candidate["value"] > told["dm_mean"]["baseline_quantiles"][2]
    assert len(told["dm_mean"]["candidates"]) == 5
    for side in ("baseline", "window"):
        assert sum(bar[side] for bar in told["dm_mean"]["histogram"]) == pytest.approx(1)
    assert "## dm_mean went up" in checked.files["report.md"]


def test_two_columns_that_are_exchanged_are_told_as_such(baseline):
    window = captured(survey(200, 2000, 2))
    window[["dm_mean", "dm_kurtosis"]] = window[["dm_kurtosis", "dm_mean"]].to_numpy()
    checked = quality.check(window, baseline, {})
    assert checked.files["report.json"]["exchanged"] == [["dm_mean", "dm_kurtosis"]]


# -- the job --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "names", "rows"),
    [
        ("klass,a\r\n0,1.5\r\n1,2.5\r\n", ["klass", "a"], 2),
        ("﻿y,a\n0,1.5\n", ["y", "a"], 1),
        ("0,1.5\n1,2.5\n", ["_c0", "_c1"], 2),
    ],
)
def test_a_baseline_with_or_without_a_header_is_read(tmp_path, text, names, rows):
    (tmp_path / "baseline.csv").write_bytes(text.encode())
    table = job.baseline_table(tmp_path)
    assert (list(table.columns), len(table)) == (names, rows)
    kinds = [f["inferred_type"] for f in quality.described(table)["constraints.json"]["features"]]
    assert kinds == ["Integral", "Fractional"]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "b.csv is empty"),
        ("y,a\n", "b.csv has a header and no rows"),
        ("y,a\n1,2\n1,2,3\n", "b.csv, row 3 has 3 columns, not 2"),
        ("y,a\n1,2\n1\n", "b.csv, row 3 has 1 columns, not 2"),
        ("y,a\n1,2\n1,x\n", "b.csv, row 3, column a is 'x'"),
        ("y,y\n1,2\n", "b.csv names a column twice"),
        ("y,a\n1,\udcff\n", "b.csv is not UTF-8"),
        (None, "dataset_source: there is no file"),
    ],
)
def test_a_baseline_that_is_none_is_refused_with_its_row(tmp_path, text, complaint):
    if text is not None:
        (tmp_path / "b.csv").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(Refused, match=complaint):
        job.baseline_table(tmp_path)


class Job:
    """A folder and an S3 to run jobs in."""

    def __init__(self, folder, url):
        self.folder = folder
        self.environment = {
            "AWS_ENDPOINT_URL": url, "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b",
            "AWS_DEFAULT_REGION": "us-east-1", "exit_message_path": str(folder / "message"),
            "metrics_path": str(folder / "cloudwatch"), "analysis_type": "DATA_QUALITY",
            "job": "monitor", "output_path": str(folder / "results"),
            "dataset_source": "s3://assets/captures", "results": "s3://assets/results/pulsar/night",
            "baseline_constraints": str(folder / "constraints.json"),
            "baseline_statistics": str(folder / "statistics.json"),
            "sagemaker_endpoint_name": "pulsar", "sagemaker_monitoring_schedule_name": "night",
        }  # fmt: skip
        self.s3 = boto3.client("s3", endpoint_url=url, region_name="us-east-1",
                               aws_access_key_id="a", aws_secret_access_key="b")  # fmt: skip

    def run(self, **settings):
        """Exit code and message of a job in this process."""
        with pytest.MonkeyPatch.context() as patch:
            for key, value in (self.environment | settings).items():
                patch.setenv(key, value)
            return job.main(), (self.folder / "message").read_text()

    def run_shipped(self, **settings):
        """The same of the package as it is shipped."""
        (self.folder / "monitors.zip").write_bytes(monitors.archive())
        environment = clean_environment(**self.environment) | settings
        done = subprocess.run([sys.executable, "monitors.zip"], cwd=self.folder, env=environment,
                              capture_output=True, text=True, timeout=60)  # fmt: skip
        assert "Traceback" not in done.stderr, done.stderr
        return done.returncode, (self.folder / "message").read_text()

    def result(self, moment, name):
        return self.folder / "results" / f"{moment:%Y/%m/%d/%H}" / name


@pytest.fixture
def jobs(tmp_path):
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield Job(tmp_path, f"http://{host}:{port}")
    server.stop()


def captured_line(row, when):
    sides = {
        "endpointInput": ",".join(map(repr, row[1:])) + "\n",
        "endpointOutput": f"{row[0]:.0f},0.5\n",
    }
    return json.dumps({
        "captureData": {
            side: {"observedContentType": "text/csv", "mode": "INPUT", "data": data, "encoding": "CSV"}
            for side, data in sides.items()
        },
        "eventMetadata": {"eventId": f"{row[1]!r}", "inferenceTime": f"{when:%Y-%m-%dT%H:%M:%SZ}"},
        "eventVersion": "0",
    })  # fmt: skip


def captured_file(row, when):
    """The same record, had a candidate file been asked about."""
    record = json.loads(captured_line(row, when))
    record["captureData"]["endpointInput"] |= {
        "observedContentType": "application/octet-stream", "data": "H4sI", "encoding": "BASE64",
    }  # fmt: skip
    return json.dumps(record)


def test_each_captured_record_is_covered_once_by_the_shipped_package(jobs):
    survey(400, 4000, 1).to_csv(jobs.folder / "b.csv", index=False, lineterminator="\r\n")
    made = jobs.run(job="baseline", dataset_source=str(jobs.folder / "b.csv"),
                    output_path=str(jobs.folder))  # fmt: skip
    assert made == (0, "Completed: Job completed successfully with no violations.")

    now = datetime.now(UTC).replace(microsecond=0)
    earlier, first, second, third = (now - timedelta(seconds=s) for s in (120, 30, 20, 10))
    rows = survey(100, 900, 2)
    rows["dm_mean"] += 60
    lines = [captured_line(row, earlier) for row in rows.to_numpy().tolist()]
    lines.append(captured_line(rows.iloc[0].tolist(), now - timedelta(seconds=15)))
    for seconds in (120, 25):
        lines.append(captured_file(rows.iloc[1].tolist(), now - timedelta(seconds=seconds)))
    jobs.s3.create_bucket(Bucket="assets")
    key = f"captures/pulsar/AllTraffic/{earlier:%Y/%m/%d/%H}/00-00-000-x.jsonl"
    jobs.s3.put_object(Bucket="assets", Key=key, Body="\n".join(lines) + "\n")
    time.sleep(4)  # until it is sure to be listed

    code, message = jobs.run_shipped(scheduled_time=first.isoformat())
    assert message == "CompletedWithViolations: Job completed successfully with 1 violations."
    assert code == 0
    found = json.loads(jobs.result(first, "constraint_violations.json").read_text())["violations"]
    assert [violation["feature_name"] for violation in found] == ["dm_mean"]
    window = json.loads(jobs.result(first, "window.json").read_text())
    assert (window["records"], window["end_time"]) == (1000, f"{first:%Y-%m-%dT%H:%M:%SZ}")
    said = "Captured records that hold a file (application/octet-stream), not rows, and are left out: 1"
    assert window["files"] == 1
    assert said in jobs.result(first, "report.md").read_text()
    metric = json.loads((jobs.folder / "cloudwatch").read_text().splitlines()[0])
    assert metric["Dimensions"][0] == {"Name": "Endpoint", "Value": "pulsar"}

    place = f"results/pulsar/night/{first:%Y/%m/%d/%H}/window.json"
    jobs.s3.put_object(Bucket="assets", Key=place, Body=json.dumps(window))
    nothing = (1, f"Job inputs had no data. {said}")
    assert jobs.run(scheduled_time=second.isoformat()) == nothing
    code, message = jobs.run(scheduled_time=third.isoformat())
    assert (code, message) == (0, "Completed: Job completed successfully with no violations.")
    window = json.loads(jobs.result(third, "window.json").read_text())
    assert (window["start_time"], window["records"]) == (f"{first:%Y-%m-%dT%H:%M:%SZ}", 1)
    assert window["files"] == 1


def test_what_was_true_is_merged_before_the_models_quality_is_checked(jobs):
    now = datetime.now(UTC).replace(microsecond=0)
    then = now - timedelta(seconds=60)
    rows = survey(40, 60, 2).to_numpy().tolist()
    truth = [
        json.dumps({"groundTruthData": {"data": f"{row[0]:.0f}", "encoding": "CSV"},
                    "eventMetadata": {"eventId": repr(row[1])}, "eventVersion": "0"})
        for row in rows[:90]
    ]  # fmt: skip
    jobs.s3.create_bucket(Bucket="assets")
    captured_lines = "".join(captured_line(row, then) + "\n" for row in rows)
    for key, body in {
        f"captures/pulsar/AllTraffic/{then:%Y/%m/%d/%H}/00-00-000-x.jsonl": captured_lines,
        f"truth/{now:%Y/%m/%d/%H}/0000.jsonl": "\n".join(truth),
    }.items():
        jobs.s3.put_object(Bucket="assets", Key=key, Body=body)
    constraints = {"accuracy": {"threshold": 0.9, "comparison_operator": "LessThanThreshold"}}
    (jobs.folder / "constraints.json").write_text(
        json.dumps({"version": 0.0, "binary_classification_constraints": constraints})
    )
    time.sleep(4)  # until it is sure to be listed
    code, message = jobs.run(
        analysis_type="MODEL_QUALITY", ground_truth="s3://assets/truth", inference_attribute="0",
        problem_type="BinaryClassification", baseline_statistics="", results="s3://assets/quality",
        scheduled_time=(now - timedelta(seconds=10)).isoformat(),
    )  # fmt: skip
    assert (code, message.partition(":")[0]) == (0, "Completed"), message
    found = json.loads(jobs.result(now - timedelta(seconds=10), "statistics.json").read_text())
    assert found["dataset"]["item_count"] == 90
    assert found["binary_classification_metrics"]["accuracy"]["value"] == 1
    (merged,) = (jobs.folder / "results" / "merge").rglob("*.jsonl")
    assert len(merged.read_text().splitlines()) == 90


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"analysis_type": "SPELLING"}, "analysis_type is SPELLING, not one of DATA_QUALITY"),
        ({"job": ""}, "the environment variable job is missing"),
        ({"dataset_source": "nowhere.csv"}, "dataset_source: there is no file"),
    ],
)
def test_a_job_that_cannot_be_done_says_why(changes, complaint, tmp_path, capsys):
    usual = {"job": "baseline", "dataset_source": "b.csv"}
    code, message = Job(tmp_path, "http://127.0.0.1:9").run(**(usual | changes))
    assert (code, complaint in message) == (1, True), message
    assert "Traceback" not in capsys.readouterr().err


def test_a_bucket_that_is_not_there_is_the_reason(jobs):
    for name in ("constraints", "statistics"):
        (jobs.folder / f"{name}.json").write_text("{}")
    code, message = jobs.run(dataset_source="s3://gone/captures", results="s3://gone/results")
    assert (code, "NoSuchBucket" in message) == (1, True), message
