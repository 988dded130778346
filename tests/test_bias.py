"""The bias monitor: smclarify's numbers, SageMaker's shape."""

import json

import numpy as np
import pandas as pd
import pytest
from conftest import SHARED
from smclarify.bias import report

from orchestrator.monitors import bias, chance
from orchestrator.monitors.frame import Refused

EXAMPLES = SHARED / "reference" / "examples"
HEADERS = ["is_pulsar", "beam", "dm_mean"]
CONFIG = {"label_values_or_threshold": [1], "facet_name": "beam", "facet_values_or_threshold": [1]}


@pytest.fixture(autouse=True)
def few_windows(monkeypatch):
    """A baseline's hundred windows take seconds."""
    monkeypatch.setattr(chance, "DRAWN", 6)


def candidates(rows=400, seed=3):
    random = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "is_pulsar": (random.random(rows) < 0.4).astype(int),
            "beam": random.integers(0, 2, rows),
            "dm_mean": random.gamma(2, 10, rows),
        }
    )


def answers(table, seed=4):
    random = np.random.default_rng(seed)
    wrong = random.random(len(table)) < 0.1 + 0.2 * table.beam
    return np.where(wrong, 1 - table.is_pulsar, table.is_pulsar)


def captured(table, predicted):
    """An endpoint's answers, label and probability, the features, and the truth as text."""
    live = pd.DataFrame({"_c0": predicted, "_c1": predicted * 0.8 + 0.1})
    live[["_c2", "_c3"]] = table[["beam", "dm_mean"]]
    return live.assign(
        event_id="e", event_row=range(len(live)), ground_truth=table.is_pulsar.astype(str)
    )


@pytest.fixture
def asked(monkeypatch):
    """The endpoint's model answers like `answers`."""
    monkeypatch.setattr(bias.model, "of_endpoint", lambda settings: lambda rows: np.column_stack(
        [answers(candidates()), answers(candidates()) * 0.8 + 0.1]
    ))  # fmt: skip


def settings(tmp_path, config=CONFIG, predicted=None):
    path = tmp_path / "analysis_config.json"
    path.write_text(json.dumps(bias.configuration(config, predicted, HEADERS, "pulsar")))
    return {"analysis_config": str(path), "sagemaker_endpoint_name": "pulsar"}


def metrics(document, stage, facet="beam", place=0):
    found = document[f"{stage}_training_bias_metrics"]["facets"][facet][place]["metrics"]
    return {metric["name"]: metric for metric in found}


@pytest.mark.parametrize("facet", ["beam", "dm_mean"])
@pytest.mark.parametrize("stage", ["pre", "post"])
def test_smclarifys_own_report_has_the_same_metrics(facet, stage):
    table = candidates()
    values = {"beam": [1], "dm_mean": [20]}[facet]
    config = bias.configuration(
        CONFIG | {"facet_name": facet, "facet_values_or_threshold": values, "group_name": "beam"},
        None, HEADERS,
    )  # fmt: skip
    told = pd.Series(answers(table))
    features = table[["beam", "dm_mean"]]
    ours = bias.analysis(config, features, table.is_pulsar, told)
    theirs = report.bias_report(
        features, report.FacetColumn(facet, list(values)),
        report.LabelColumn("is_pulsar", table.is_pulsar, [1]),
        report.StageType.PRE_TRAINING if stage == "pre" else report.StageType.POST_TRAINING,
        report.LabelColumn("predicted", told) if stage == "post" else None,
        group_variable=table.beam,
    )  # fmt: skip
    (found,) = ours[f"{stage}_training_bias_metrics"]["facets"][facet]
    ends = {"beam": "1", "dm_mean": f"(20.0, {table.dm_mean.max()}]"}
    assert found["value_or_threshold"] == ends[facet]
    assert found["metrics"] == theirs[0]["metrics"]
    assert len(found["metrics"]) == {"pre": 8, "post": 13}[stage]


@pytest.mark.skipif(not EXAMPLES.is_dir(), reason="the reference is not at hand")
def test_the_files_have_the_shape_of_sagemakers(asked, tmp_path):
    example, config = (
        json.loads((EXAMPLES / f"EXAMPLE-bias-{name}.json").read_text())
        for name in ("analysis", "analysis_config")
    )
    found = bias.baseline(candidates(), settings(tmp_path))
    for stage in ("pre", "post"):
        ours, theirs = (
            document[f"{stage}_training_bias_metrics"]
            for document in (found["analysis.json"], example)
        )
        assert list(ours) == list(theirs)
        of = {metric["name"]: metric for metric in ours["facets"]["beam"][0]["metrics"]}
        for metric in theirs["facets"]["gender"][0]["metrics"]:
            ours_alone = {bias.ROOM} if metric["value"] is not None else set()
            assert list(of[metric["name"]]) == [*metric, *ours_alone]
            assert of[metric["name"]]["description"] == metric["description"]
    assert (
        metrics(found["analysis.json"], "pre")["CDDL"] == metrics(example, "pre", "gender")["CDDL"]
    )
    assert set(config) - set(found["monitor/analysis_config.json"]) == set()


def test_what_is_further_from_neutral_is_a_violation_on_either_side():
    def document(values):
        listed = [
            {"name": name, "description": name, "value": value} for name, value in values.items()
        ]
        facets = {"beam": [{"value_or_threshold": "1", "metrics": listed}]}
        section = {"label": "y", "facets": facets, "label_value_or_threshold": "1"}
        return {"version": "1.0", "post_training_bias_metrics": section}

    before = {"AD": 0.2, "RD": 0.2, "SD": 0.2, "DI": 0.8, "TE": "Infinity", "GE": None, "DCA": 1.0}
    now = {
        "AD": -0.3,
        "RD": 0.1,
        "SD": -0.2,
        "DI": 1.1,
        "TE": "-Infinity",
        "GE": 9.0,
        "DCA": "Infinity",
    }
    found = bias.violations(document(before), document(now), rows=100)
    assert [violation["metric_name"] for violation in found] == ["AD", "DCA"]
    assert found[0] == {
        "facet": "beam", "facet_value": "1", "metric_name": "AD",
        "constraint_check_type": "bias_drift_check",
        "description": "Metric value -0.3 doesn't meet the baseline constraint requirement 0.2",
    }  # fmt: skip
    sent = {metric["MetricName"]: metric for metric in bias.for_cloudwatch(document(now))}
    assert sent["bias_metric_TE"]["Value"] == -2.348543e108
    assert {d["Name"]: d["Value"] for d in sent["bias_metric_AD"]["Dimensions"]} == {
        "BiasStage": "Post-Training", "Label": "y", "LabelValue": "1", "Facet": "beam",
        "FacetValue": "1",
    }  # fmt: skip
    assert "bias_metric_GE" not in {m["MetricName"] for m in bias.for_cloudwatch(document(before))}


def test_a_baseline_of_ours_leaves_room_for_chance_more_in_smaller_windows(asked, tmp_path):
    before = bias.baseline(candidates(), settings(tmp_path))["analysis.json"]
    for stage, metric in (("pre", "DPL"), ("post", "DPPL"), ("post", "AD")):
        room = metrics(before, stage)[metric][bias.ROOM]
        assert 0.02 < room["300"] < room["30"] < 1.5
    now = json.loads(json.dumps(before))
    metric = metrics(now, "post")["AD"]
    limit = abs(metric["value"]) + metric[bias.ROOM]["300"]
    for value, wanted in ((limit - 1e-9, []), (limit + 1e-9, ["AD"])):
        metric["value"] = -value
        found = bias.violations(before, now, rows=300)
        assert [violation["metric_name"] for violation in found] == wanted
    assert found[0]["description"].endswith(f"with {metric[bias.ROOM]['300']} for chance")
    assert bias.violations(before, now, rows=290) == []
    metrics(now, "post")["TE"]["value"] = "Infinity"
    assert bias.violations(before, now, rows=29) == []  # too few to say anything


@pytest.fixture
def a_size(monkeypatch):
    """Windows of one size alone, and enough of them."""
    monkeypatch.setattr(chance, "WINDOWS", (300,), raising=False)
    monkeypatch.setattr(chance, "DRAWN", 40)


def rare(rows, seed):
    """Of these pulsars are as rare as in a survey, rarer in one beam, and so is each kind of mistake."""
    random = np.random.default_rng(seed)
    beam = (random.random(rows) < 0.3).astype(int)
    pulsar = random.random(rows) < np.where(beam == 1, 0.04, 0.12)
    wrong = random.random(rows) < np.where(pulsar, 0.13, 0.005)
    table = pd.DataFrame({"is_pulsar": pulsar.astype(int), "beam": beam, "dm_mean": 0.0})
    return table.assign(dm_mean=random.gamma(2, 10, rows)), np.where(wrong, ~pulsar, pulsar) * 1


def answering(monkeypatch, predicted):
    told = np.column_stack([predicted, predicted])
    monkeypatch.setattr(bias.model, "of_endpoint", lambda settings: lambda rows: told)


def test_of_undisturbed_windows_with_few_pulsars_one_in_twenty_alarms_at_most(
    a_size, monkeypatch, tmp_path
):
    table, predicted = rare(3000, 1)
    answering(monkeypatch, predicted)
    with_config = settings(tmp_path)
    before = bias.baseline(table, with_config)
    windows = (rare(300, seed) for seed in range(100, 160))
    alarms = [bool(bias.check(captured(*w), before, with_config).violations) for w in windows]
    assert sum(alarms) <= 3


def test_the_first_mistake_of_a_kind_that_the_baseline_has_none_of_is_no_violation(
    a_size, monkeypatch, tmp_path
):
    table, _ = rare(1000, 2)
    answering(monkeypatch, table.is_pulsar.to_numpy())
    with_config = settings(tmp_path)
    before = bias.baseline(table, with_config)
    window, _ = rare(300, 3)
    for beam, pulsar in ((0, 0), (0, 1), (1, 0)):
        predicted = window.is_pulsar.to_numpy().copy()
        wrong = np.flatnonzero((window.beam == beam) & (predicted == pulsar))[0]
        predicted[wrong] = 1 - pulsar
        assert bias.check(captured(window, predicted), before, with_config).violations == []
    found = bias.check(captured(window, 1 - window.is_pulsar.to_numpy()), before, with_config)
    assert "GE" in {violation["metric_name"] for violation in found.violations}


def test_an_undisturbed_window_repeats_the_baseline_and_a_changed_one_does_not(asked, tmp_path):
    table, with_config = candidates(), settings(tmp_path)
    before = bias.baseline(table, with_config)
    same = bias.check(captured(table, answers(table)), before, with_config)
    assert same.violations == []
    told = {each["metric_name"]: each for each in same.files["report.json"]["metrics"]}
    was = metrics(before["analysis.json"], "post")["AD"]
    seen = told["AD"]["smallest_drift_seen"]
    assert seen == chance.in_window(was[bias.ROOM], 400)
    assert f"| AD | {was['value']} | {was['value']} | {seen} |" in same.files["report.md"]
    for *_, metric in bias.every_metric(before["analysis.json"]):
        metric.pop(bias.ROOM, None)
    assert same.files["analysis.json"] == before["analysis.json"]
    assert bias.check(captured(table, answers(table)), before, with_config).violations == []
    unfair = np.where(table.beam == 1, 0, table.is_pulsar)
    found = bias.check(captured(table, unfair), before, with_config)
    listed = {"version": "1.0", "violations": found.violations}
    assert found.files["constraint_violations.json"] == listed
    assert "400 candidates" in found.files["report.md"]
    assert "as if the baseline were exact" in found.files["report.md"]
    assert "smaller than 0.100 may be chance" in found.files["report.md"]
    assert {"DPPL", "AD", "RD"} <= {violation["metric_name"] for violation in found.violations}
    json.dumps([before, found], allow_nan=False)


@pytest.mark.parametrize(
    ("predicted", "attributes"),
    [
        ({"label": 0}, {}), (None, {}), ({"probability": 1, "probability_threshold": 0.5}, {}),
        (None, {"inference_attribute": "0"}), ({"probability": 0}, {"probability_attribute": "1"}),
        (None, {"probability_attribute": "1", "probability_threshold_attribute": "0.8"}),
    ],
)  # fmt: skip
def test_the_predicted_label_is_found_where_it_is_said_to_be(
    asked, tmp_path, predicted, attributes
):
    table = candidates()
    before = bias.baseline(table, settings(tmp_path))
    now = captured(table, answers(table))
    found = bias.check(now, before, settings(tmp_path, CONFIG, predicted) | attributes)
    assert found.violations == []


def test_of_a_probability_for_each_class_the_greatest_counts():
    told = pd.DataFrame([[0, 0.2, 0.8], [1, 0.7, 0.3]])
    config = {"predictor": {"label_headers": ["noise", "pulsar"]}}
    assert bias.predictions(told, config, {}).tolist() == ["pulsar", "noise"]


def test_in_a_window_of_ten_rows_a_class_is_still_a_class_and_a_threshold_a_threshold(
    asked, tmp_path
):
    both = {"facet_name": ["beam", "dm_mean"], "facet_values_or_threshold": [[1], [20]]}
    with_config = settings(tmp_path, CONFIG | both)
    before = bias.baseline(candidates(), with_config)
    few = candidates(12).assign(dm_mean=[10, 30] * 6)
    found = bias.check(captured(few, answers(few)), before, with_config).files["analysis.json"]
    facets = found["pre_training_bias_metrics"]["facets"]
    assert facets["beam"][0]["value_or_threshold"] == "1"
    assert facets["dm_mean"][0]["value_or_threshold"] == "(20.0, 30.0]"
    assert metrics(found, "pre", "dm_mean")["CI"]["value"] == 0
    assert found["pre_training_bias_metrics"]["label_value_or_threshold"] == "1"


def test_a_window_without_predicted_pulsars_has_metrics_all_the_same(asked, tmp_path):
    with_config = settings(tmp_path)
    before = bias.baseline(candidates(), with_config)
    table = candidates()
    found = bias.check(captured(table, 0 * answers(table)), before, with_config)
    values = metrics(found.files["analysis.json"], "post")
    assert values["DI"]["value"] == 0
    assert values["DCA"]["value"] in (0, "Infinity", "-Infinity")
    one_beam = candidates().assign(beam=0)
    found = bias.check(captured(one_beam, answers(one_beam)), before, with_config)
    assert "empty" in metrics(found.files["analysis.json"], "pre")["CI"]["error"]


@pytest.mark.parametrize(
    ("config", "predicted", "said"),
    [
        (CONFIG | {"facets": 1}, None, "bias_config has no facets: its keys are label_values"),
        (CONFIG, {"score": 1}, "model_predicted_label_config has no score"),
        ({"facet_name": "beam"}, None, "bias_config: label_values_or_threshold is missing"),
        (CONFIG | {"facet_name": "dm"}, None, "no column dm: it has is_pulsar, beam, dm_mean"),
        (CONFIG | {"group_name": "night"}, None, "no column night"),
        (CONFIG | {"facet_name": "is_pulsar"}, None, "is_pulsar is the label"),
        (CONFIG | {"facet_name": ["beam", "dm_mean"]}, None, "a list for each facet_name"),
        ("{}", None, "bias_config is no JSON object"),
    ],
)  # fmt: skip
def test_what_bias_config_cannot_mean_is_named(config, predicted, said):
    with pytest.raises(Refused, match=said):
        bias.configuration(config, predicted, HEADERS)


@pytest.mark.parametrize("key", ["bias_config", "model_predicted_label_config"])
def test_an_object_that_is_no_json_is_named(key):
    with pytest.raises(Refused, match=f"^{key} is no JSON that can be read"):
        bias.baseline(candidates(), {"bias_config": json.dumps(CONFIG), key: "{"})


def test_a_facet_of_numbers_needs_a_threshold_and_one_of_classes_none():
    table = candidates()
    features = table[["beam", "dm_mean"]]
    config = bias.configuration(CONFIG | {"facet_values_or_threshold": None}, None, HEADERS)
    found = bias.analysis(config, features, table.is_pulsar, pd.Series(answers(table)))
    beams = found["pre_training_bias_metrics"]["facets"]["beam"]
    assert [beam["value_or_threshold"] for beam in beams] == ["0", "1"]
    config["facet"] = [{"name_or_index": "dm_mean"}]
    with pytest.raises(Refused, match="no value or threshold for the facet dm_mean"):
        bias.analysis(config, features, table.is_pulsar, pd.Series(answers(table)))


@pytest.mark.skipif(not EXAMPLES.is_dir(), reason="the reference is not at hand")
def test_a_verdict_on_sagemakers_own_baseline_reads_as_its_own(tmp_path):
    before = json.loads((EXAMPLES / "EXAMPLE-bias-analysis.json").read_text())
    example = json.loads((EXAMPLES / "EXAMPLE-bias-constraint_violations.json").read_text())
    path = EXAMPLES / "EXAMPLE-bias-analysis_config.json"
    rows = pd.DataFrame(
        {
            "_c0": [1, 0] * 60,
            "_c1": 40,
            "_c2": 1.5,
            "_c3": [1, 1, 0] * 40,
            "ground_truth": ["1", "0"] * 60,
        }
    )
    rows.loc[rows._c3 == 1, "_c0"] = 0
    found = bias.check(rows, {"analysis.json": before}, {"analysis_config": str(path)})
    dppl = next(v for v in found.violations if v["metric_name"] == "DPPL")
    wanted = example["violations"][0]
    value = metrics(found.files["analysis.json"], "post", "gender")["DPPL"]["value"]
    wanted["description"] = wanted["description"].replace("0.29464285714285715", str(value))
    assert dppl == wanted
