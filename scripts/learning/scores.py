"""What a model is worth: figures of decisions and rankings, by fold, by block, with intervals.

Everything is fitted, and the decision threshold chosen, inside the training folds.
"""

import os

import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from scipy.stats import t
from sklearn.metrics import average_precision_score, roc_auc_score
from tqdm import tqdm

from learning.estimators import choose_threshold, fit, out_of_fold

PARALLEL = max(1, os.cpu_count() or 1)


def decisions(classes: np.ndarray, called: np.ndarray) -> dict[str, float]:
    """Figures of a set of decisions, `called` being true where a pulsar is announced."""
    real = classes == 1
    tp, fp = int((called & real).sum()), int((called & ~real).sum())
    fn, tn = int((~called & real).sum()), int((~called & ~real).sum())
    recall, specificity = tp / max(tp + fn, 1), tn / max(tn + fp, 1)
    return {
        "recall": recall,
        "precision": tp / max(tp + fp, 1),
        "f1": 2 * tp / max(2 * tp + fp + fn, 1),
        "g_mean": float(np.sqrt(recall * specificity)),
        "fpr": 1 - specificity,
        "specificity": specificity,
    }


def ranking(classes: np.ndarray, probability: np.ndarray) -> dict[str, float]:
    return {
        "roc_auc": float(roc_auc_score(classes, probability)),
        "average_precision": float(average_precision_score(classes, probability)),
    }


def bootstrap(classes: np.ndarray, probability: np.ndarray, threshold: float, params: dict) -> dict:
    """95 % intervals of every figure, resampling the hold-out within each class."""
    rng = np.random.default_rng(params["seed"])
    groups = [np.flatnonzero(classes == label) for label in (0, 1)]
    drawn = []
    for _ in range(params["bootstrap"]):
        rows = np.concatenate([rng.choice(group, len(group)) for group in groups])
        c, p = classes[rows], probability[rows]
        drawn.append(decisions(c, p >= threshold) | ranking(c, p))
    low, high = pd.DataFrame(drawn).quantile([0.025, 0.975]).to_numpy()
    return {key: [float(a), float(b)] for key, a, b in zip(drawn[0], low, high, strict=True)}


def score_fold(estimator, features, classes, train, test, params: dict) -> dict[str, float]:
    """Fit and choose thresholds on `train`, score on `test`."""
    model = fit(estimator, features[train], classes[train])
    inside = out_of_fold(
        estimator, features[train], classes[train], params["threshold_folds"], params["seed"]
    )
    probability = model.predict_proba(features[test])[:, 1]
    threshold = choose_threshold(classes[train], inside, params["threshold"], params["max_fpr"])
    at_g_mean = choose_threshold(classes[train], inside, "g_mean", params["max_fpr"])
    best = decisions(classes[test], probability >= at_g_mean)
    return (
        ranking(classes[test], probability)
        | decisions(classes[test], probability >= threshold)
        | {"best_g_mean": best["g_mean"], "fpr_at_best_g_mean": best["fpr"]}
    )


def score_folds(estimator, features, classes, splits: list, params: dict, title: str) -> list[dict]:
    jobs = (delayed(score_fold)(estimator, features, classes, a, b, params) for a, b in splits)
    results = Parallel(n_jobs=PARALLEL, return_as="generator")(jobs)
    return list(
        tqdm(results, total=len(splits), desc=title, unit="fold", leave=False, disable=None)
    )


def summary(folds: list[dict]) -> dict:
    frame = pd.DataFrame(folds)
    return {
        "mean": {key: float(value) for key, value in frame.mean().items()},
        "sd": {key: float(value) for key, value in frame.std().items()},
    }


def paired(ours: list[dict], theirs: list[dict], folds: int) -> dict:
    """Average precision of two models on the same folds, and by how much the first is better.

    The training sets overlap, so the variance of the mean difference is that of Nadeau and Bengio
    (2003): (1/n + test/train) of the folds' variance, for Student's t with n - 1 degrees of freedom.
    """
    pairs = [
        [a["average_precision"], b["average_precision"]] for a, b in zip(ours, theirs, strict=True)
    ]
    differences = np.array([a - b for a, b in pairs])
    mean, count = differences.mean(), len(differences)
    error = np.sqrt((1 / count + 1 / (folds - 1)) * differences.var(ddof=1))
    half = t.ppf(0.975, count - 1) * error
    return {
        "average_precision": pairs,
        "mean_difference": float(mean),
        "interval_95": [float(mean - half), float(mean + half)],
    }


def block_splits(count: int, blocks: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Each contiguous block of the file in turn as the test set."""
    rows = np.arange(count)
    return [(np.setdiff1d(rows, block), block) for block in np.array_split(rows, blocks)]
