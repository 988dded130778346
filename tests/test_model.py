"""Estimators, thresholds, scores: nothing learns from what it is scored on."""

import json

import numpy as np
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.metrics import f1_score, precision_score, recall_score

from common import params
from common.params import load_params
from learning import estimators, scores

RNG = np.random.default_rng(0)
CLASSES = (RNG.random(2000) < 0.1).astype(int)
PROBABILITY = np.clip(0.1 + 0.5 * CLASSES + RNG.normal(0, 0.2, 2000), 0, 1)


class Witness(ClassifierMixin, BaseEstimator):
    """Remembers the rows it is fitted on and asked about; the first feature is the row number."""

    history: list[tuple[str, frozenset]] = []

    def fit(self, features, classes):
        self.classes_ = np.unique(classes)
        self.history.append(("fit", frozenset(features[:, 0].astype(int))))
        return self

    def predict_proba(self, features):
        self.history.append(("predict", frozenset(features[:, 0].astype(int))))
        p = (features[:, 0] % 10) / 10
        return np.column_stack([1 - p, p])


def test_nothing_is_fitted_or_chosen_on_the_rows_that_are_scored():
    features = np.arange(200, dtype=float)[:, None]
    classes = (np.arange(200) % 3 == 0).astype(int)
    test = np.arange(0, 40)
    train = np.arange(40, 200)
    Witness.history.clear()
    params = {"threshold_folds": 3, "seed": 1, "threshold": "fpr", "max_fpr": 0.05}
    scores.score_fold(Witness(), features, classes, train, test, params)
    fits = [rows for kind, rows in Witness.history if kind == "fit"]
    asked = [rows for kind, rows in Witness.history if kind == "predict"]
    assert len(fits) == 4
    assert not any(rows & set(test) for rows in fits)
    for fitted, predicted in zip(fits[1:], asked[:3], strict=True):
        assert not fitted & predicted, "a threshold was chosen on rows its model had seen"
    assert [rows for rows in asked if rows & set(test)] == [frozenset(test)]


@pytest.mark.parametrize("most", [0.0, 0.008, 0.05, 1.0])
def test_the_fpr_rule_keeps_the_rate_and_the_most_recall(most):
    threshold = estimators.choose_threshold(CLASSES, PROBABILITY, "fpr", most)
    called = PROBABILITY >= threshold
    assert called[CLASSES == 0].mean() <= most
    lower = np.unique(PROBABILITY)[np.searchsorted(np.unique(PROBABILITY), threshold) - 1]
    if most < 1:
        more = PROBABILITY >= lower
        assert more[CLASSES == 0].mean() > most or not (more & ~called)[CLASSES == 1].any()


def test_no_threshold_is_so_low_that_the_rate_is_exceeded_by_those_that_are_certain():
    """Noise with probability 1: nothing at all may be called, which a threshold of 1 would not do."""
    classes, probability = np.array([0, 0, 1, 1]), np.array([1.0, 0.2, 1.0, 0.7])
    threshold = estimators.choose_threshold(classes, probability, "fpr", 0.1)
    assert not (probability >= threshold).any()
    assert json.loads(json.dumps(threshold)) == threshold < np.inf


def test_the_g_mean_rule_finds_the_best_g_mean():
    threshold = estimators.choose_threshold(CLASSES, PROBABILITY, "g_mean", 0)
    best = max(
        scores.decisions(CLASSES, PROBABILITY >= t)["g_mean"] for t in np.unique(PROBABILITY)
    )
    assert scores.decisions(CLASSES, PROBABILITY >= threshold)["g_mean"] == pytest.approx(best)


def test_the_f1_rule_finds_the_best_f1():
    threshold = estimators.choose_threshold(CLASSES, PROBABILITY, "f1", 0)
    best = max(f1_score(CLASSES, PROBABILITY >= t) for t in np.unique(PROBABILITY))
    assert f1_score(CLASSES, PROBABILITY >= threshold) == pytest.approx(best)


def test_decisions_agree_with_scikit_learn():
    called = PROBABILITY >= 0.4
    ours = scores.decisions(CLASSES, called)
    assert ours["recall"] == pytest.approx(recall_score(CLASSES, called))
    assert ours["precision"] == pytest.approx(precision_score(CLASSES, called))
    assert ours["f1"] == pytest.approx(f1_score(CLASSES, called))
    assert ours["fpr"] == pytest.approx(1 - recall_score(1 - CLASSES, ~called))
    assert ours["g_mean"] == pytest.approx(np.sqrt(ours["recall"] * ours["specificity"]))


def test_blocks_are_contiguous_and_cover_the_file_once():
    splits = scores.block_splits(103, 10)
    tested = np.concatenate([test for _, test in splits])
    assert np.array_equal(tested, np.arange(103))
    assert all(np.array_equal(np.diff(test), np.ones(len(test) - 1)) for _, test in splits)
    assert all(len(np.intersect1d(train, test)) == 0 for train, test in splits)


@pytest.mark.parametrize("name", sorted(estimators.ESTIMATORS))
def test_every_estimator_of_params_yaml_learns(name):
    params = load_params()["train"]
    features = RNG.normal(size=(1500, 8))
    classes = (features[:, 0] + 0.3 * RNG.normal(size=1500) > 1).astype(int)
    fitted = estimators.fit(estimators.build(params, name), features, classes)
    probability = fitted.predict_proba(features)[:, 1]
    assert probability[classes == 1].mean() > probability[classes == 0].mean() + 0.2


def test_params_yaml_can_name_each_estimator_and_no_other():
    assert estimators.ESTIMATORS.keys() == params.ESTIMATORS.keys()
