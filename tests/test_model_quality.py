"""The model-quality monitor's numbers, and what it makes of another's baseline."""

import json

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics as sk
from conftest import SHARED

from orchestrator.monitors import chance, model_quality
from orchestrator.monitors.frame import Refused

EXAMPLES = SHARED / "reference" / "examples"
BASELINE = {
    "problem_type": "BinaryClassification", "inference_attribute": "prediction",
    "probability_attribute": "probability", "probability_threshold_attribute": "0.5",
    "ground_truth_attribute": "label",
}  # fmt: skip
MONITOR = BASELINE | {"inference_attribute": "0", "probability_attribute": "1"}


@pytest.fixture(autouse=True)
def few_windows(monkeypatch):
    """A baseline's hundred windows take a second."""
    monkeypatch.setattr(chance, "DRAWN", 20)


def binary(rows=300, skill=1.0, seed=1):
    random = np.random.default_rng(seed)
    label = (random.random(rows) < 0.3).astype(int)
    probability = 1 / (1 + np.exp(-(skill * (2 * label - 1) + random.normal(size=rows))))
    return pd.DataFrame(
        {"prediction": (probability > 0.5) * 1, "probability": probability, "label": label}
    )


def captured(table):
    """The same rows as an endpoint's answers, with ground truth as text."""
    live = table[["prediction", "probability"]].set_axis(["_c0", "_c1"], axis=1)
    live["_c2"] = 1.5
    return live.assign(
        event_id="e", event_row=range(len(live)), ground_truth=table.label.astype(str)
    )


def values(document, section="binary_classification"):
    return {
        name: metric["value"]
        for name, metric in document["statistics.json"][f"{section}_metrics"].items()
        if "value" in metric
    }


def test_binary_metrics_are_scikit_learns():
    table = binary()
    found = model_quality.baseline(table, BASELINE)
    metrics = values(found)
    label, told, p = table.label, table.prediction, table.probability
    wanted = {
        "recall": sk.recall_score(label, told), "precision": sk.precision_score(label, told),
        "accuracy": sk.accuracy_score(label, told), "f1": sk.f1_score(label, told),
        "f0_5": sk.fbeta_score(label, told, beta=0.5), "f2": sk.fbeta_score(label, told, beta=2),
        "auc": sk.roc_auc_score(label, p), "au_prc": sk.average_precision_score(label, p),
        "true_positive_rate": sk.recall_score(label, told),
        "false_negative_rate": 1 - sk.recall_score(label, told),
        "true_negative_rate": sk.recall_score(label, told, pos_label=0),
        "f2_best_constant_classifier": sk.fbeta_score(label, label * 0 + 1, beta=2),
        "precision_best_constant_classifier": label.mean(), "recall_best_constant_classifier": 1.0,
    }  # fmt: skip
    assert {name: metrics[name] for name in wanted} == pytest.approx(wanted)


def test_the_outer_key_of_the_confusion_matrix_is_what_was_true():
    table = pd.DataFrame({"prediction": [0, 0, 1, 1, 0], "label": [1, 1, 1, 0, 0]})
    settings = BASELINE | {"probability_attribute": ""}
    metrics = model_quality.baseline(table, settings)["statistics.json"]
    found = metrics["binary_classification_metrics"]["confusion_matrix"]
    assert found == {"0": {"0": 1, "1": 1}, "1": {"0": 2, "1": 1}}


def test_deviations_come_of_resamples_and_below_200_rows_there_are_none():
    many, few = (
        model_quality.baseline(binary(rows), BASELINE)["statistics.json"] for rows in (200, 199)
    )
    spread = many["binary_classification_metrics"]["recall"]["standard_deviation"]
    assert 0 < spread < 0.1
    assert few["binary_classification_metrics"]["recall"]["standard_deviation"] == "NaN"
    again = model_quality.baseline(binary(200), BASELINE)["statistics.json"]
    assert again == many
    json.dumps([many, few], allow_nan=False)


@pytest.mark.skipif(not EXAMPLES.is_dir(), reason="the reference is not at hand")
def test_the_files_have_the_members_of_sagemakers_in_their_order():
    def members(value):
        return {k: members(v) for k, v in value.items()} if isinstance(value, dict) else None

    found = model_quality.baseline(binary(), BASELINE)
    room = found["constraints.json"].pop("room_for_chance")  # ours; last, and read by us alone
    assert list(room["recall"]) == [str(rows) for rows in chance.WINDOWS]
    for name in ("statistics", "constraints"):
        wanted = json.loads((EXAMPLES / f"EXAMPLE-model-quality-{name}.json").read_text())
        ours = found[f"{name}.json"]
        assert members(ours) == members(wanted)
        assert json.dumps(members(ours)) == json.dumps(members(wanted))


@pytest.mark.skipif(not EXAMPLES.is_dir(), reason="the reference is not at hand")
def test_a_verdict_on_sagemakers_own_baseline_reads_as_its_own():
    limits = json.loads((EXAMPLES / "EXAMPLE-model-quality-constraints.json").read_text())
    good = model_quality.check(captured(binary(skill=3)), {"constraints.json": limits}, MONITOR)
    assert good.violations == []
    bad = model_quality.check(captured(binary(skill=0)), {"constraints.json": limits}, MONITOR)
    f2 = values(bad.files)["f2"]
    example = json.loads(
        (EXAMPLES / "EXAMPLE-model-quality-constraint_violations.json").read_text()
    )
    wanted = example["violations"][0]
    wanted["description"] = wanted["description"].replace("0.61", str(f2))
    assert wanted in bad.violations
    assert bad.files["constraint_violations.json"] == {"violations": bad.violations}
    assert {v["metric_name"] for v in bad.violations} >= {"false_positive_rate", "auc", "recall"}


def test_a_metric_that_is_as_good_as_the_baseline_is_no_violation():
    table = binary()
    limits = model_quality.baseline(table, BASELINE)
    found = model_quality.check(captured(table), limits, MONITOR)
    assert found.violations == []
    assert {m["MetricName"]: m["Value"] for m in found.metrics} == values(found.files)
    del limits["constraints.json"]["room_for_chance"]
    worse = limits["constraints.json"]["binary_classification_constraints"]
    now = values(found.files)
    worse["false_positive_rate"]["threshold"] = now["false_positive_rate"] - 0.01
    worse["auc"]["threshold"] = now["auc"] + 0.01
    found = model_quality.check(captured(table), limits, MONITOR).violations
    assert [(v["metric_name"], v["constraint_check_type"]) for v in found] == [
        ("false_positive_rate", "GreaterThanThreshold"), ("auc", "LessThanThreshold"),
    ]  # fmt: skip


def test_a_baseline_of_ours_leaves_room_for_chance_on_the_side_that_is_worse(monkeypatch, capsys):
    monkeypatch.setattr(chance, "DRAWN", 100)
    limits = model_quality.baseline(binary(rows=2000), BASELINE)
    was = values(limits)
    for name, limit in limits["constraints.json"]["binary_classification_constraints"].items():
        worse = 1 if limit["comparison_operator"] == "GreaterThanThreshold" else -1
        room = limits["constraints.json"]["room_for_chance"][name]
        assert 0.005 < worse * (limit["threshold"] - was[name]) < 0.2, name
        assert worse * (limit["threshold"] - was[name]) == pytest.approx(room["3000"])
    alarms = [
        model_quality.check(captured(binary(rows=rows, seed=seed)), limits, MONITOR).violations
        for seed in range(100, 120)
        for rows in (30, 100, 1000)
    ]
    assert sum(map(bool, alarms)) <= 3  # without room nearly all
    few = model_quality.check(captured(binary(rows=29, seed=9, skill=-3)), limits, MONITOR)
    assert few.violations == []
    assert "Nothing is compared: 30 candidates are the fewest" in few.files["report.md"]
    assert (
        "not compared, as this window is too small: accuracy, au_prc, auc"
        in capsys.readouterr().out
    )


def test_the_first_mistakes_after_a_baseline_without_any_are_no_violation():
    perfect = binary(rows=400)
    perfect = perfect.assign(prediction=perfect.label, probability=perfect.label * 1.0)
    limits = model_quality.baseline(perfect, BASELINE)
    for label in (0, 1):
        window = perfect[:300].copy()
        window.loc[window.index[window.label == label][0], ["prediction", "probability"]] = (
            1 - label
        )
        assert model_quality.check(captured(window), limits, MONITOR).violations == []
    wrong = perfect[:300].assign(prediction=1 - perfect.label, probability=1.0 - perfect.label)
    assert model_quality.check(captured(wrong), limits, MONITOR).violations != []


def test_a_metric_that_most_windows_do_not_define_is_no_limit():
    rare = binary(rows=20000).assign(label=0)
    rare.loc[0, ["label", "prediction", "probability"]] = [1, 1, 0.9]
    found = model_quality.baseline(rare, BASELINE)
    assert values(found)["recall"] == 1
    limits = found["constraints.json"]["binary_classification_constraints"]
    assert "accuracy" in limits
    assert "recall" not in limits


def test_the_report_says_which_differences_may_be_chance():
    limits = model_quality.baseline(binary(), BASELINE)
    window = captured(binary(rows=100, seed=9))
    room = limits["constraints.json"]["room_for_chance"]
    for metric in model_quality.check(window, limits, MONITOR).files["report.json"]["metrics"]:
        assert metric["smallest_drift_seen"] == chance.in_window(room[metric["name"]], 100)
    del limits["constraints.json"]["room_for_chance"]
    found = model_quality.check(window, limits, MONITOR).files
    told = {metric["name"]: metric for metric in found["report.json"]["metrics"]}
    recall, pulsars = told["recall"]["now"], binary(rows=100, seed=9).label.sum()
    error = (recall * (1 - recall) / pulsars) ** 0.5
    assert told["recall"]["smallest_drift_seen"] == pytest.approx(2 * error)
    assert told["auc"]["smallest_drift_seen"] is None
    assert f"| recall | {told['recall']['limit']} | {recall} |" in found["report.md"]


def test_a_window_without_pulsars_violates_no_recall(capsys):
    limits = model_quality.baseline(binary(), BASELINE)
    quiet = captured(binary().assign(label=0, prediction=0, probability=0.1))
    found = model_quality.check(quiet, limits, MONITOR)
    assert [v["metric_name"] for v in found.violations] == []
    assert values(found.files)["recall"] == "NaN"
    assert (
        "not compared, as this window does not define them: au_prc, auc" in capsys.readouterr().out
    )


def test_a_binary_baseline_uses_the_probability_only_with_its_threshold():
    settings = BASELINE | {"probability_threshold_attribute": ""}
    metrics = values(model_quality.baseline(binary(), settings))
    assert "auc" not in metrics
    assert metrics["accuracy"] == sk.accuracy_score(binary().label, binary().prediction)
    strict = values(
        model_quality.baseline(binary(), BASELINE | {"probability_threshold_attribute": "0.9"})
    )
    assert strict["recall"] == sk.recall_score(binary().label, binary().probability > 0.9)


def test_many_classes_are_weighted_as_by_scikit_learn():
    random = np.random.default_rng(3)
    label = random.choice(["noise", "pulsar", "rfi"], 250)
    told = np.where(random.random(250) < 0.7, label, "rfi")
    settings = {
        "problem_type": "MulticlassClassification", "inference_attribute": "told",
        "ground_truth_attribute": "label",
    }  # fmt: skip
    found = model_quality.baseline(pd.DataFrame({"told": told, "label": label}), settings)
    metrics = values(found, "multiclass_classification")
    kind = {"average": "weighted", "zero_division": 0}
    wanted = {
        "accuracy": sk.accuracy_score(label, told),
        "weighted_recall": sk.recall_score(label, told, **kind),
        "weighted_precision": sk.precision_score(label, told, **kind),
        "weighted_f0_5": sk.fbeta_score(label, told, beta=0.5, **kind),
        "weighted_f1": sk.f1_score(label, told, **kind),
        "weighted_f2": sk.fbeta_score(label, told, beta=2, **kind),
    }
    assert {name: metrics[name] for name in wanted} == pytest.approx(wanted)
    matrix = found["statistics.json"]["multiclass_classification_metrics"]["confusion_matrix"]
    assert matrix["noise"]["rfi"] == int(((label == "noise") & (told == "rfi")).sum())
    most = max((label == name).mean() for name in set(label))
    assert metrics["accuracy_best_constant_classifier"] == pytest.approx(most)
    limits = found["constraints.json"]["multiclass_classification_constraints"]
    assert list(limits) == list(wanted)


def test_a_regression_is_measured_by_its_errors():
    random = np.random.default_rng(3)
    truth = random.normal(size=250)
    table = pd.DataFrame({"y": truth, "told": truth + random.normal(size=250) / 3})
    settings = {
        "problem_type": "Regression", "inference_attribute": "told", "ground_truth_attribute": "y",
    }  # fmt: skip
    found = model_quality.baseline(table, settings)
    assert values(found, "regression") == pytest.approx(
        {
            "mae": sk.mean_absolute_error(table.y, table.told),
            "mse": sk.mean_squared_error(table.y, table.told),
            "rmse": sk.mean_squared_error(table.y, table.told) ** 0.5,
            "r2": sk.r2_score(table.y, table.told),
        }
    )
    limits = found["constraints.json"]["regression_constraints"]
    assert {name: limit["comparison_operator"] for name, limit in limits.items()} == {
        "mae": "GreaterThanThreshold", "mse": "GreaterThanThreshold",
        "rmse": "GreaterThanThreshold", "r2": "LessThanThreshold",
    }  # fmt: skip


def test_the_hold_out_is_a_baseline_with_the_scores_that_were_reported(project):
    settings = BASELINE | {
        "probability_threshold_attribute": "",
        "ground_truth_attribute": "is_pulsar",
    }
    table = pd.read_csv(project.folder / "evaluation" / "holdout.csv")
    found = values(model_quality.baseline(table, settings))
    scores = project.read("evaluation/scores.json")["holdout"]
    for name in ("recall", "precision", "f1"):
        assert found[name] == pytest.approx(scores[name])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"label": "maybe"}, "row 1 of the baseline: the ground truth 'maybe' is neither 0 nor 1"),
        ({"label": None}, "row 1 of the baseline: the ground truth is missing"),
        ({"probability": 1.5}, "row 1 of the baseline: the probability 1.5 is not from 0 to 1"),
        ({"probability": "x"}, "row 1 of the baseline: the probability 'x' is no number"),
    ],
)
def test_what_is_no_answer_and_no_truth_is_named(change, said):
    with pytest.raises(Refused, match=said):
        model_quality.baseline(binary().assign(**change), BASELINE)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"inference_attribute": "answer", "probability_attribute": ""}, "inference_attribute names no"),
        ({"inference_attribute": "3", "probability_attribute": ""}, "3 is none of _c0, _c1, _c2"),
        ({"probability_threshold_attribute": "high"}, "probability_threshold_attribute is high"),
        ({"inference_attribute": "", "probability_threshold_attribute": ""}, "says nothing of the class"),
        ({"problem_type": "Clustering"}, "problem_type is Clustering, not one of Binary"),
        ({"problem_type": "Regression"}, "holds no regression_constraints"),
    ],
)  # fmt: skip
def test_a_setting_that_fits_nothing_is_named(change, said):
    limits = model_quality.baseline(binary(), BASELINE)
    with pytest.raises(Refused, match=said):
        model_quality.check(captured(binary()), limits, MONITOR | change)
