"""Two models: that of eight features, and that of six for DM curves of another scale."""

import csv
import io
import json
import subprocess
import sys

import joblib
import numpy as np
import pandas as pd
import pytest
from conftest import SHARED
from hypothesis import given
from hypothesis import strategies as st

from candidates import simulator
from candidates.htru2 import load
from candidates.tables import (
    COLUMNS,
    EIGHT,
    FEATURES,
    SIX,
    Outside,
    choose,
    ends_of,
    ranges_of,
    together,
    told,
)  # fmt: skip
from common.errors import BadData
from learning.elsewhere import measure, shown
from scoring import inference

EXPECTED = SHARED / "data" / "candidates" / "expected.csv"
TER5 = [18.653574, 51.197711, 3.588758, 11.889547, 374.513703, 248.979647, 0.920960, -0.408319]
SIMULATED, _ = simulator.simulate(30, 70, seed=1)
LOTAAS = [41.602233, 29.413151, 4.328225, 26.999288, 2.032085, 1.511850, 1.655656, 1.654303]


@pytest.fixture(scope="module")
def candidates(project) -> tuple[np.ndarray, np.ndarray]:
    return load(project.folder / "data" / "candidates.csv")


@pytest.fixture(scope="module")
def model(project):
    return inference.model_fn(str(project.folder / "models"))


@pytest.fixture(scope="module")
def foreign(candidates) -> tuple[np.ndarray, np.ndarray]:
    """The same candidates, had their DM curves been made in a fiftieth of the unit."""
    features, classes = candidates
    features = features.copy()
    features[:, 4:6] /= 50
    return features, classes


def run(project, script: str, *arguments: str, text: str = "") -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, f"scripts/{script}.py", *arguments], cwd=project.folder,
        env=project.environment, capture_output=True, text=True, input=text,
    )  # fmt: skip


def lines_of(values: np.ndarray) -> str:
    return "".join(",".join(map(repr, row)) + "\n" for row in values.tolist())


# -- the rule -------------------------------------------------------------------------


def test_candidates_like_those_of_training_are_for_the_model_of_eight(project, candidates):
    ends = ends_of(project.read("models/model.json")["ranges"])
    assert choose(candidates[0], ends) == EIGHT
    assert {choose(row[None], ends) for row in candidates[0]} == {EIGHT}


@given(st.integers(0, 50), st.sampled_from([1 / 50, 50.0]), st.randoms())
def test_most_rows_decide_and_their_order_does_not(foreign_rows, factor, random):
    ends = ends_of(ranges_of(SIMULATED))
    rows = SIMULATED[:50].copy()
    rows[:foreign_rows, 4:6] *= factor * ends[1, 4:6] / rows[:foreign_rows, 4:6]
    if factor < 1:
        rows[:foreign_rows, 5] = ends[0, 5] * factor
    order = list(range(50))
    random.shuffle(order)
    assert choose(rows[order], ends) == (SIX if foreign_rows > 25 else EIGHT)


def test_the_real_folds_of_presto_are_for_the_model_of_six(project):
    ends = ends_of(project.read("models/model.json")["ranges"])
    assert choose(np.array([TER5]), ends) == choose(np.array([LOTAAS]), ends) == SIX


def test_what_lies_outside_is_counted_by_feature_and_side_however_it_comes_in_blocks():
    rows = np.zeros((100, 8))
    rows[:, 0] = np.arange(100)
    ends = np.array([[10.0] + [0.0] * 7, [97.0] + [0.0] * 7])
    rows[7, 3] = -2.5
    whole = Outside(ends).see(rows).found()
    parts = []
    for part in np.array_split(rows, 7):
        parts += Outside(ends).see(part).found()
    assert together(parts, len(rows)) == whole
    assert [(each["feature"], each["side"], each["candidates"], each["farthest"]) for each in whole] == [
        ("profile_mean", "below", 10, 0.0), ("profile_mean", "above", 2, 99.0),
        ("profile_kurtosis", "below", 1, -2.5),
    ]  # fmt: skip
    assert whole[0]["of"] == 100
    assert Outside(ends).see(rows[20:90]).found() == []
    assert "profile_mean: 10 of 100 below what the model was trained on, 10;" in told(whole)[0]


# -- the package ----------------------------------------------------------------------


def test_each_model_answers_as_its_estimator_with_its_own_threshold(project, model, candidates):
    card, features = project.read("models/model.json"), candidates[0][:300]
    for which, name, own in ((EIGHT, "pulsar", card), (SIX, "six", card["six"])):
        estimator = joblib.load(project.folder / "models" / f"model_{name}.joblib")
        expected = estimator.predict_proba(features[:, COLUMNS[which]])[:, 1]
        prediction = inference.predict_by(which, features, model)
        assert prediction.model == which
        assert np.abs(prediction[:, 1] - expected).max() < 1e-9
        assert np.array_equal(prediction[:, 0], expected >= own["threshold"])
        assert own["features"] == [FEATURES[column] for column in COLUMNS[which]]
    assert card["threshold"] != card["six"]["threshold"]


def test_six_does_not_look_at_the_curves_mean_and_deviation(model, candidates, foreign):
    ours, theirs = (
        inference.predict_by(SIX, rows[:200], model) for rows in (candidates[0], foreign[0])
    )
    assert np.array_equal(ours, theirs)


def test_an_answer_names_its_model_and_keeps_its_shape(model, candidates, foreign, capfd):
    for rows, which in ((candidates[0][:3], EIGHT), (foreign[0][:3], SIX)):
        for accept in ("text/csv", "application/json", "application/x-npy"):
            capfd.readouterr()
            answer = inference.output_fn(inference.predict_fn(rows, model), accept)
            assert answer.headers[inference.ATTRIBUTES] == f"model={which}"
            said = capfd.readouterr().out
            assert ("scored by six: dm_std: 3 of 3 below" in said) == (which == SIX)
            if accept == "text/csv":
                assert {line.count(b",") for line in answer.get_data().split()} == {1}
            elif accept == "application/json":
                body = json.loads(answer.get_data())
                assert list(body) == ["predictions"] and len(body["predictions"]) == 3
            else:
                assert np.load(io.BytesIO(answer.get_data())).shape == (3, 2)


def test_a_package_with_one_model_scores_everything_with_it(project, tmp_path, foreign):
    for name in ("model_pulsar.joblib", "model.json"):
        (tmp_path / name).write_bytes((project.folder / "models" / name).read_bytes())
    alone = inference.model_fn(str(tmp_path))
    assert inference.predict_fn(foreign[0][:5], alone).model == EIGHT


# -- score ----------------------------------------------------------------------------


def scored(project, rows: np.ndarray, *options: str) -> tuple[pd.DataFrame, dict]:
    (project.folder / "rows.csv").write_text(lines_of(rows))
    done = run(project, "score", "rows.csv", "-o", "rows.out", "--json", *options)
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(project.folder / "rows.out", names=["label", "probability", "model"])
    return table, json.loads(done.stdout)


def test_score_takes_one_model_for_a_table_and_names_it_in_each_row(project, model, foreign):
    """Rows like HTRU2's behind those that a table opens with change nothing."""
    mixed = np.vstack([foreign[0][:4000], foreign[0][:100] * [1, 1, 1, 1, 50, 50, 1, 1]])
    table, summary = scored(project, mixed)
    assert set(table.model) == {SIX} and summary["model"] == SIX
    expected = inference.predict_by(SIX, mixed, model)
    assert np.abs(table.probability - expected[:, 1]).max() < 1e-9
    outside = {(each["feature"], each["side"]): each for each in summary["outside"]}
    assert outside["dm_std", "below"]["candidates"] == 4000
    assert outside["dm_std", "below"]["of"] == 4100
    assert outside["dm_std", "below"]["farthest"] == mixed[:, 5].min()


def test_score_can_be_told_which_model_to_take(project, model, foreign):
    rows = foreign[0][:50]
    table, summary = scored(project, rows, "--features", EIGHT)
    assert set(table.model) == {EIGHT} and summary["model"] == EIGHT
    expected = inference.predict_by(EIGHT, rows, model)
    assert np.abs(table.probability - expected[:, 1]).max() < 1e-9


@pytest.mark.skipif(not EXPECTED.is_file(), reason="the reference candidates are not at hand")
def test_the_pulsars_among_real_folds_are_found(project, model):
    with open(EXPECTED) as file:
        folds = [row for row in csv.DictReader(file) if row["format"] == "pfd" and row["dm_std"]]
    rows = np.array([[float(row[name]) for name in FEATURES] for row in folds])
    assert len(rows) >= 2
    prediction = inference.predict_fn(rows, model)
    assert prediction.model == SIX
    assert prediction[:, 0].all(), dict(
        zip([row["file"] for row in folds], prediction[:, 1], strict=True)
    )


# -- evaluate --on --------------------------------------------------------------------


def labelled(features: np.ndarray, classes: np.ndarray) -> str:
    table = pd.DataFrame(features, columns=FEATURES)
    table["class"] = classes
    return table.to_csv(index=False)


def test_evaluate_on_measures_both_models_on_anothers_table(project, model, foreign):
    """A table with Pearson's kurtosis, which is asked about."""
    features, classes = (each[:2000] for each in foreign)
    pearson = labelled(features + 3 * np.isin(np.arange(8), (3, 7)), classes)
    asked = run(project, "evaluate", "--on", "-", text=pearson)
    assert asked.returncode == 1
    assert "--kurtosis pearson or excess" in asked.stderr
    done = run(project, "evaluate", "--on", "-", "--json", "--kurtosis", "pearson", text=pearson)
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout)
    assert (measured["candidates"], measured["pulsars"]) == (2000, int(classes.sum()))
    assert measured["model"] == SIX
    for which, figures in measured["models"].items():
        called = inference.predict_by(which, features, model)[:, 0] == 1
        assert figures["found"] == (called & (classes == 1)).sum()
        assert figures["recall"] == figures["found"] / classes.sum()
        assert figures["fpr"] == pytest.approx(figures["false_positives"] / (classes == 0).sum())
        for key, (low, high) in figures["interval_95"].items():
            assert low <= figures[key] <= high
    six, eight = (measured["models"][which] for which in (SIX, EIGHT))
    assert six["average_precision"] > eight["average_precision"]
    assert "score and the endpoint would take the model of six features" in shown(measured)


def test_nothing_is_measured_on_candidates_of_one_kind(project, candidates):
    card = project.read("models/model.json")
    with pytest.raises(BadData, match="night: 0 of 100 candidates are pulsars"):
        measure("night", {}, card, candidates[0][:100], np.zeros(100, int), {})
