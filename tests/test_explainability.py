"""Exact Shapley values, of the model that the endpoint runs now."""

import contextlib
import io
import itertools
import json
import math
import sys
import tarfile
import time
from datetime import UTC, datetime, timedelta

import boto3
import numpy as np
import pandas as pd
import pytest
from botocore.exceptions import ClientError
from conftest import SHARED
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from moto import mock_aws
from test_data_quality import captured_line, jobs  # noqa: F401

from orchestrator.monitors import explainability, model
from orchestrator.monitors.frame import Refused
from orchestrator.monitors.shapley import clusters, ndcg, shapley
from scoring.packing import pack

EXAMPLES = SHARED / "reference" / "examples"
IMAGE = "683313688378.dkr.ecr.us-east-1.amazonaws.com/sagemaker-scikit-learn:1.9-0-cpu-py3"
HEADERS = ["is_pulsar", "a", "b", "c"]
CODE = """
import io
import numpy as np

def model_fn(folder):
    return np.array([{weights}])

def input_fn(body, kind):
    if kind != "{kind}":
        raise ValueError(kind)
    if kind == "text/csv":
        return np.array([line.split(",") for line in body.split()], dtype=float)
    return np.load(io.BytesIO(body))

def predict_fn(rows, weights):
    p = 1 / (1 + np.exp(-(rows @ weights)))
    return np.column_stack([p > 0.5, p])

def output_fn(answer, kind):
    if kind == "text/csv":
        return "".join(f"{{a:.0f}},{{b!r}}\\n" for a, b in answer.tolist()), kind
    buffer = io.BytesIO()
    np.save(buffer, answer)
    return buffer.getvalue(), kind
"""


def package(weights="3, 1, 0.1", kind="application/x-npy"):
    return pack({"code/inference.py": CODE.format(weights=weights, kind=kind).encode()})


def put(archive, image=IMAGE, name="first"):
    """The endpoint `pulsar` runs this archive."""
    s3, sagemaker = boto3.client("s3"), boto3.client("sagemaker")
    s3.put_object(Bucket="assets", Key=f"{name}/model.tar.gz", Body=archive)
    container = {"Image": image, "ModelDataUrl": f"s3://assets/{name}/model.tar.gz"}
    role = "arn:aws:iam::123456789012:role/sagemaker"
    variant = {
        "VariantName": "AllTraffic", "ModelName": name, "InitialInstanceCount": 1,
        "InstanceType": "ml.m5.large",
    }  # fmt: skip
    remove(sagemaker, name)
    sagemaker.create_model(ModelName=name, ExecutionRoleArn=role, PrimaryContainer=container)
    sagemaker.create_endpoint_config(EndpointConfigName=name, ProductionVariants=[variant])
    sagemaker.create_endpoint(EndpointName="pulsar", EndpointConfigName=name)


def remove(sagemaker, name):
    """What another test may have left."""
    with contextlib.suppress(ClientError):
        sagemaker.delete_endpoint(EndpointName="pulsar")
    with contextlib.suppress(ClientError):
        sagemaker.delete_endpoint_config(EndpointConfigName=name)
        sagemaker.delete_model(ModelName=name)


@pytest.fixture(scope="module")
def account():
    """One for all: a client of SageMaker's takes a second the first time."""
    with mock_aws():
        boto3.client("s3", region_name="us-east-1").create_bucket(Bucket="assets")
        yield


@pytest.fixture
def aws(account, monkeypatch):
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(key, "testing")
    monkeypatch.setattr(sys, "path", list(sys.path))  # a model's code is put first


def candidates(rows=150, seed=2):
    random = np.random.default_rng(seed)
    table = pd.DataFrame(random.normal(size=(rows, 3)), columns=HEADERS[1:])
    table.insert(0, "is_pulsar", 0)
    return table


def captured(table):
    live = table.set_axis(["_c0", "_c2", "_c3", "_c4"], axis=1)
    live.insert(1, "_c1", 0.5)
    return live.assign(event_id=[f"e{row}" for row in range(len(live))], event_row=0)


def settings(shap=None, **more):
    return {
        "sagemaker_endpoint_name": "pulsar", "shap_config": json.dumps(shap or {}), "model_scores": "1",
    } | more  # fmt: skip


def monitored(tmp_path, files, **more):
    """The settings of a later run: the configuration is the baseline's."""
    path = tmp_path / "analysis_config.json"
    path.write_text(json.dumps(files["monitor/analysis_config.json"]))
    return {"sagemaker_endpoint_name": "pulsar", "analysis_config": str(path)} | more


def importance(files, label="label0"):
    return files["analysis.json"]["explanations"]["kernel_shap"][label]["global_shap_values"]


# -- arithmetic -----------------------------------------------------------------------


def by_definition(answer, row, background, weights):
    """Shapley values as the mean over all orders in which features join."""
    count, values = len(row), np.zeros(len(row))
    for order in itertools.permutations(range(count)):
        known = background.copy()
        before = weights @ answer(known)[:, 0]
        for feature in order:
            known[:, feature] = row[feature]
            now = weights @ answer(known)[:, 0]
            values[feature] += now - before
            before = now
    return values / math.factorial(count)


@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 5), backgrounds=st.integers(1, 4))
@hypothesis_settings(max_examples=50)
def test_shapley_values_are_the_mean_over_all_orders_and_add_up(seed, count, backgrounds):
    random = np.random.default_rng(seed)
    inner, outer = random.normal(size=(count, 4)), random.normal(size=(4, 2))

    def answer(rows):
        return np.tanh(rows @ inner) @ outer

    rows, background = random.normal(size=(3, count)), random.normal(size=(backgrounds, count))
    weights = random.random(backgrounds)
    weights /= weights.sum()
    values, expected = shapley(answer, rows, background, weights)
    assert values.sum(axis=1) + expected == pytest.approx(answer(rows))
    assert expected == pytest.approx(weights @ answer(background))
    wanted = by_definition(answer, rows[0], background, weights)
    assert values[0, :, 0] == pytest.approx(wanted)


def test_alike_features_are_worth_alike_and_a_dummy_nothing():
    rows, background = np.array([[2.0, 2.0, 5.0]]), np.zeros((1, 3))
    values, _ = shapley(lambda x: x[:, :1] * x[:, 1:2], rows, background, np.ones(1))
    assert values[0, :, 0].tolist() == [2.0, 2.0, 0.0]


def test_a_linear_model_is_explained_by_its_terms_be_it_eight_features():
    random = np.random.default_rng(1)
    weights, rows, background = (random.normal(size=shape) for shape in (8, (400, 8), (3, 8)))
    values, _ = shapley(lambda x: x @ weights[:, None], rows, background, np.full(3, 1 / 3))
    assert values[:, :, 0] == pytest.approx(weights * (rows - background.mean(axis=0)))


def test_the_worked_example_of_ndcg():
    before = {"SAT": 0.70, "GPA": 0.50, "rank": 0.05}
    now = {"SAT": 0.10, "GPA": 0.20, "rank": 0.70}
    assert ndcg(before, now) == pytest.approx(0.6877, abs=1e-4)
    assert ndcg(before, before) == 1
    assert ndcg(dict.fromkeys(before, 0.0), now) == 1


def test_clusters_carry_the_share_of_their_rows():
    rows = np.concatenate([np.zeros((30, 2)), np.full((10, 2), 1000.0)])
    centres, weights = clusters(rows, 2, seed=1)
    order = centres[:, 0].argsort()
    assert centres[order].tolist() == [[0, 0], [1000, 1000]]
    assert weights[order].tolist() == [0.75, 0.25]
    assert clusters(rows, 1, seed=1)[0].tolist() == [[250, 250]]
    assert len(clusters(rows, 9, seed=1)[0]) == 2


# -- runs -----------------------------------------------------------------------------


def test_a_window_keeps_the_ranking_and_another_model_does_not(aws, tmp_path):
    put(package())
    files = explainability.baseline(candidates(), settings())
    values = importance(files)
    assert list(values) == ["a", "b", "c"] and values["a"] > values["b"] > values["c"] > 0
    later = monitored(tmp_path, files)
    same = explainability.check(captured(candidates(seed=5)), files, later)
    assert same.violations == []
    put(package("0.1, 1, 3"), name="second")
    found = explainability.check(captured(candidates(seed=5)), files, later)
    score = ndcg(values, importance(found.files))
    assert score < 0.9
    assert found.violations == [
        {
            "label": "label0", "metric_name": "shap",
            "constraint_check_type": "feature_attribution_drift_check",
            "description": f"Feature attribution drift {score} exceeds threshold 0.9",
        }
    ]  # fmt: skip
    listed = {"version": "1.0", "violations": found.violations}
    assert found.files["constraint_violations.json"] == listed
    explained = found.files["report.json"]["explained"]
    assert (explained["model_name"], explained["rows"]) == ("second", 150)
    assert "second (s3://assets/second/model.tar.gz)" in found.files["report.md"]
    sent = {m["MetricName"]: m for m in found.metrics}
    assert sent["feature_c"]["Value"] == importance(found.files)["c"]
    assert {d["Name"]: d["Value"] for d in sent["ExpectedValue"]["Dimensions"]} == {
        "ExplainabilityMethod": "KernelShap", "Label": "label0", "ValueType": "ExpectedValue",
    }  # fmt: skip
    json.dumps([files, found], allow_nan=False)


def test_local_values_say_which_candidate_and_add_up_to_its_answer(aws, tmp_path):
    put(package(kind="text/csv"))
    files = explainability.baseline(candidates(), settings({"baseline": [[0, 0, 0]]}))
    table = captured(candidates(20, seed=5))
    found = explainability.check(table, files, monitored(tmp_path, files)).files
    local = pd.read_csv(io.StringIO(found["explanations_shap/out.csv"]))
    assert list(local) == ["a_label0", "b_label0", "c_label0", "event_id", "event_row"]
    assert local.event_id.tolist() == table.event_id.tolist()
    answer = 1 / (1 + np.exp(-(table[["_c2", "_c3", "_c4"]].to_numpy() @ [3, 1, 0.1])))
    assert local.filter(like="label0").sum(axis=1).to_numpy() + 0.5 == pytest.approx(answer)
    assert found["analysis.json"]["explanations"]["kernel_shap"]["label0"]["expected_value"] == 0.5
    silent = explainability.baseline(candidates(), settings({"save_local_shap_values": False}))
    assert "explanations_shap/out.csv" not in silent


def test_shap_config_is_honoured(aws):
    put(package())
    zero, table = [[0, 0, 0]], candidates()
    rows = table[["a", "b", "c"]].to_numpy()
    terms = rows * [3, 1, 0.1]  # the logit is linear
    methods = {
        "mean_abs": np.abs(terms).mean(axis=0), "mean_sq": (terms**2).mean(axis=0),
        "median": np.median(terms, axis=0),
    }  # fmt: skip
    for method, wanted in methods.items():
        shap = {"baseline": zero, "use_logit": True, "agg_method": method, "num_samples": 100}
        found = importance(explainability.baseline(table, settings(shap)))
        assert list(found.values()) == pytest.approx(list(wanted)), method
    body = "a,b,c\n0,0,0\n"
    boto3.client("s3").put_object(Bucket="assets", Key="zero.csv", Body=body.encode())
    inline, stored = (
        importance(explainability.baseline(table, settings({"baseline": baseline})))
        for baseline in (zero, "s3://assets/zero.csv")
    )
    assert inline == stored
    three = explainability.baseline(table, settings({"num_clusters": 3, "seed": 9}))
    assert len(three["monitor/analysis_config.json"]["methods"]["shap"]["baseline"]) == 3
    assert sum(three["analysis.json"]["background_weights"]) == pytest.approx(1)


def test_without_model_scores_every_column_of_the_answer_is_explained(aws):
    put(package())
    found = explainability.baseline(candidates(), settings(model_scores="0"))
    assert list(found["analysis.json"]["explanations"]["kernel_shap"]) == ["label0", "label1"]
    one = explainability.baseline(
        candidates(), settings(model_scores="", probability_attribute="1")
    )
    assert importance(one) == importance(found, "label1")


@pytest.mark.skipif(not EXAMPLES.is_dir(), reason="the reference is not at hand")
def test_a_verdict_on_sagemakers_own_baseline_reads_as_its_own(aws, tmp_path):
    before, example = (
        json.loads((EXAMPLES / f"EXAMPLE-explainability-{name}.json").read_text())
        for name in ("analysis", "constraint_violations")
    )
    put(pack({"code/inference.py": CODE.format(weights="0, 0, 1, 9", kind="text/csv").encode()}))
    names = list(before["explanations"]["kernel_shap"]["label0"]["global_shap_values"])
    config = explainability.configuration({}, ["churn", *names], "pulsar", 1)
    later = monitored(tmp_path, {"monitor/analysis_config.json": config})
    random = np.random.default_rng(1)
    table = pd.DataFrame(random.normal(size=(50, 6))).add_prefix("_c")
    found = explainability.check(table, {"analysis.json": before}, later)
    (violation,) = found.violations
    (wanted,) = example["violations"]
    assert violation.keys() == wanted.keys()
    assert violation["description"].split()[:3] == wanted["description"].split()[:3]
    ours = found.files["analysis.json"]["explanations"]
    assert ours.keys() == before["explanations"].keys()
    assert (
        ours["kernel_shap"]["label0"].keys()
        == before["explanations"]["kernel_shap"]["label0"].keys()
    )


def test_our_own_package_answers_as_its_endpoint_would(aws, archive, project):
    put(archive)
    ask = model.of_endpoint({"sagemaker_endpoint_name": "pulsar"})
    rows = pd.read_csv(project.folder / "evaluation" / "holdout.csv").head(500)
    told = ask(rows.iloc[:, :8].to_numpy())
    assert told[:, 0].tolist() == rows.prediction.tolist()
    assert told[:, 1] == pytest.approx(rows.probability, abs=1e-9)


# -- refusals -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shap", "said"),
    [
        ({"samples": 1}, "shap_config has no samples: its keys are baseline, num_samples"),
        ({"num_samples": 0}, "num_samples is 0, not a whole number from 1"),
        ({"agg_method": "mean"}, "agg_method is mean, not one of mean_abs, median, mean_sq"),
        ({"use_logit": "yes"}, "use_logit is 'yes', not true or false"),
        ({"seed": 1.5}, "seed is 1.5"),
        ({"num_clusters": True}, "num_clusters is True"),
        ({"baseline": [[1, 2, 3]], "num_clusters": 2}, "clusters are made where no baseline"),
        ([], "is no JSON object"),
    ],
)
def test_what_shap_config_cannot_mean_is_named(shap, said):
    with pytest.raises(Refused, match=said):
        explainability.configuration(shap, HEADERS)


@pytest.mark.parametrize(
    ("shap", "said"),
    [
        ({"baseline": [[1, 2]]}, "rows of baseline have 2 columns, not the 3 features"),
        ({"baseline": [[1, 2], [3]]}, "no lists of numbers"),
        ({"baseline": [[1, 2, "x"]]}, "no lists of numbers"),
        ({"baseline": [[1, 2, float("nan")]]}, "missing or infinite"),
        ({"baseline": "shap.csv"}, "baseline is shap.csv, not rows and not s3://"),
        ({"baseline": "s3://assets/none.csv"}, "s3://assets/none.csv cannot be read"),
        ({"baseline": [[1, 2, 3]] * 7000}, "7000 background rows for 3 features .* may have 6250"),
    ],
)
def test_a_background_that_does_not_fit_is_named(aws, shap, said):
    with pytest.raises(Refused, match=said):
        explainability.baseline(candidates(), settings(shap))


def test_thirteen_features_are_too_many():
    table = pd.DataFrame(np.zeros((5, 14))).add_prefix("x")
    with pytest.raises(Refused, match="13 features have 2\\^13 coalitions"):
        explainability.baseline(table, settings())


def test_a_baseline_of_other_features_is_refused(aws, tmp_path):
    put(package())
    files = explainability.baseline(candidates(), settings())
    other = json.loads(json.dumps(files).replace('"c": ', '"d": '))
    with pytest.raises(
        Refused, match="explains label0 by a, b, d; the model answers label0 to a, b, c"
    ):
        explainability.check(captured(candidates()), other, monitored(tmp_path, files))
    with pytest.raises(Refused, match="holds no explanations"):
        explainability.check(captured(candidates()), {}, monitored(tmp_path, files))
    with pytest.raises(Refused, match="3 columns, too few for an answer and the 3 features"):
        few = captured(candidates())[["_c2", "_c3", "_c4"]]
        explainability.check(few, files, monitored(tmp_path, files))


@pytest.mark.parametrize(
    ("archive", "image", "said"),
    [
        (pack({"model.joblib": b""}), IMAGE, "first holds no code/inference.py"),
        (package(), "123.dkr.ecr.us-east-1.amazonaws.com/mine:1", "runs in 123.dkr.*only a model.tar.gz"),
        (pack({"code/inference.py": b"1/0"}), IMAGE, "cannot be loaded: ZeroDivisionError"),
        (pack({"code/inference.py": b"x = 1"}), IMAGE, "cannot be loaded: AttributeError"),
        (package("1, 2"), IMAGE, "does not answer rows of 3 numbers as text/csv"),
        (b"PK", IMAGE, "model.tar.gz cannot be unpacked"),
    ],
)  # fmt: skip
def test_a_model_that_cannot_be_asked_is_a_sentence(aws, archive, image, said):
    put(archive, image)
    with pytest.raises(Refused, match=said):
        explainability.baseline(candidates(), settings())


def test_an_endpoint_that_does_not_exist_is_a_sentence(aws):
    remove(boto3.client("sagemaker"), "first")
    with pytest.raises(Refused, match="the model of the endpoint pulsar cannot be had"):
        explainability.baseline(candidates(), settings())


@pytest.mark.parametrize(
    ("name", "kind", "said"),
    [
        ("../x", tarfile.REGTYPE, "leaves the archive"), ("/x", tarfile.REGTYPE, "leaves the archive"),
        ("a/../../x", tarfile.REGTYPE, "leaves the archive"), ("a\\x", tarfile.REGTYPE, "leaves"),
        ("x", tarfile.SYMTYPE, "is a link or a device"), ("x", tarfile.FIFOTYPE, "is a link"),
    ],
)  # fmt: skip
def test_an_archive_is_not_trusted(tmp_path, name, kind, said):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, "/etc/passwd"
        tar.addfile(info)
    buffer.seek(0)
    with pytest.raises(Refused, match=said):
        model.unpack(buffer, tmp_path / "model")


def test_an_archive_is_unpacked_within_limits(tmp_path, monkeypatch):
    archive = pack({"code/a.py": b"x" * 5000, "b": b""})
    model.unpack(io.BytesIO(archive), tmp_path / "whole")
    assert (tmp_path / "whole" / "code" / "a.py").read_bytes() == b"x" * 5000
    monkeypatch.setattr(model, "MOST_BYTES", 4999)
    with pytest.raises(Refused, match="more than 4999 bytes"):
        model.unpack(io.BytesIO(archive), tmp_path / "bytes")
    monkeypatch.setattr(model, "MOST_FILES", 1)
    with pytest.raises(Refused, match="more than 1 files"):
        model.unpack(io.BytesIO(archive), tmp_path / "files")


# -- the job --------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["MODEL_BIAS", "MODEL_EXPLAINABILITY"])
def test_the_shipped_job_makes_a_baseline_and_checks_a_window(jobs, kind, monkeypatch):  # noqa: F811
    for key in (
        "AWS_ENDPOINT_URL",
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_DEFAULT_REGION",
    ):
        monkeypatch.setenv(key, jobs.environment[key])
    jobs.s3.create_bucket(Bucket="assets")
    put(package("3, 1, 0.1"))
    table = candidates()
    table["is_pulsar"] = (table.a > 0) * 1
    table.to_csv(jobs.folder / "b.csv", index=False)
    bias_config = {
        "label_values_or_threshold": [1],
        "facet_name": "b",
        "facet_values_or_threshold": [0],
    }
    own = {
        "analysis_type": kind, "bias_config": json.dumps(bias_config), "baseline_statistics": "",
        "shap_config": "{}", "model_scores": "1", "ground_truth": "s3://assets/truth",
    }  # fmt: skip
    made = jobs.run_shipped(
        job="baseline",
        dataset_source=str(jobs.folder / "b.csv"),
        output_path=str(jobs.folder),
        **own,
    )
    assert made == (0, "Completed: Job completed successfully with no violations.")
    now = datetime.now(UTC).replace(microsecond=0)
    then = now - timedelta(seconds=60)
    hour = f"{then:%Y/%m/%d/%H}"
    lines = [captured_line([float(row[0]), *row[1:]], then) for row in table.to_numpy().tolist()]
    labels = [
        json.dumps({"groundTruthData": {"data": f"{row[0]:.0f}", "encoding": "CSV"},
                    "eventMetadata": {"eventId": repr(row[1])}, "eventVersion": "0"})
        for row in table.to_numpy().tolist()
    ]  # fmt: skip
    for key, body in (
        (f"captures/pulsar/AllTraffic/{hour}/00-00-000-x.jsonl", lines),
        (f"truth/{hour}/0000.jsonl", labels),
    ):
        jobs.s3.put_object(Bucket="assets", Key=key, Body="\n".join(body))
    time.sleep(4)  # until it is sure to be listed
    scheduled = now - timedelta(seconds=10)
    code, message = jobs.run_shipped(
        scheduled_time=scheduled.isoformat(), baseline_constraints=str(jobs.folder / "analysis.json"),
        analysis_config=str(jobs.folder / "monitor" / "analysis_config.json"), **own,
    )  # fmt: skip
    assert code == 0, message
    found = json.loads(jobs.result(scheduled, "analysis.json").read_text())
    assert found["version"] == "1.0"
    listed = json.loads(jobs.result(scheduled, "constraint_violations.json").read_text())
    count = len(listed["violations"])
    assert message.endswith(f"with {count or 'no'} violations.")
    if kind == "MODEL_EXPLAINABILITY":
        assert (count, found["explained"]["rows"]) == (0, 150)
