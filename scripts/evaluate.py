"""Evaluate the model: on the hold-out, by repeated cross-validation, and by blocks.

    python scripts/evaluate.py            # or: dvc metrics show; dvc plots show

Writes evaluation/metrics.json, the data of DVC's plots in evaluation/plots, and
evaluation/report.html, one self-contained page. Everything is fitted, and the decision
threshold chosen, inside the training folds. The contiguous blocks of the unshuffled file
are the harsher test: half of HTRU2's pulsars share a pointing with another, which a random
split cannot keep apart.
"""

import argparse
import os

import joblib
import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from sklearn.calibration import calibration_curve
from sklearn.inspection import permutation_importance
from sklearn.metrics import (
    average_precision_score,
    precision_recall_curve,
    roc_auc_score,
    roc_curve,
)
from sklearn.model_selection import RepeatedStratifiedKFold
from tqdm import tqdm

import report
from common import ROOT, load_params, print_json, read_json, run, say, write_atomically, write_json
from files import CANDIDATES, CARD, FOLDS, JOBLIB, METRICS, PLOTS, PREPARED, REPORT
from htru2 import FEATURES, load
from model import build, choose_threshold, fit, out_of_fold

# Lyon et al. 2016, MNRAS 459, 1104, table for HTRU 2; no threshold-free figures are given.
LYON = {
    "GH-VFDT": {"recall": 0.829, "precision": 0.899, "f1": 0.862, "g_mean": 0.907, "fpr": 0.008},
    "best G-mean (MLP)": {
        "recall": 0.913, "precision": 0.650, "f1": 0.752, "g_mean": 0.931, "fpr": 0.050,
    },
}  # fmt: skip
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


def block_splits(count: int, blocks: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Each contiguous block of the file in turn as the test set."""
    rows = np.arange(count)
    return [(np.setdiff1d(rows, block), block) for block in np.array_split(rows, blocks)]


def write_plots(classes, probability, threshold: float, importance: pd.DataFrame) -> None:
    """The data behind DVC's plots."""
    fpr, recall, _ = roc_curve(classes, probability)
    precision, pr_recall, thresholds = precision_recall_curve(classes, probability)
    observed, predicted = calibration_curve(classes, probability, n_bins=10)
    labels = np.array(["noise", "pulsar"])
    tables = {
        "roc": {"fpr": fpr, "recall": recall},
        "precision_recall": {
            "recall": pr_recall[:-1],
            "precision": precision[:-1],
            "called": np.where(thresholds >= threshold, "at or above the threshold", "below"),
        },
        "confusion": {
            "actual": labels[classes],
            "predicted": labels[(probability >= threshold).astype(int)],
        },
        "calibration": {"predicted": predicted, "observed": observed},
    }
    for name, table in tables.items():
        write_atomically(PLOTS / f"{name}.csv", pd.DataFrame(table).to_csv(index=False))
    write_atomically(PLOTS / "importance.csv", importance.to_csv(index=False))


def published(metrics: dict) -> dict:
    """The paper's rows, where they can be compared: never beside simulated data."""
    return {} if metrics["data"]["simulated"] else LYON


def show(metrics: dict) -> None:
    """The table a person wants to see."""
    say("")
    if metrics["data"]["simulated"]:
        say("SIMULATED DATA: these scores say nothing about real candidates")
    columns = ["recall", "precision", "f1", "g_mean", "fpr", "roc_auc", "average_precision"]
    titles = ["recall", "precis.", "F1", "G-mean", "FPR", "ROC-AUC", "av.prec."]
    say(f"{'':34}" + "".join(f"{title:>9}" for title in titles))
    rows = {
        f"hold-out, {metrics['holdout']['pulsars']} pulsars": metrics["holdout"],
        "cross-validation": metrics["cross_validation"]["mean"],
        "contiguous blocks": metrics["blocks"]["mean"],
        "original model, RF(10), cross-val.": metrics["baseline"]["mean"],
    }
    rows |= {f"Lyon et al. 2016, {name}": row for name, row in published(metrics).items()}
    for title, row in rows.items():
        cells = "".join(f"{row[key]:9.3f}" if key in row else f"{'-':>9}" for key in columns)
        say(f"{title:34}{cells}")
    best = metrics["cross_validation"]["mean"]
    say(
        f"best G-mean, at its own threshold: {best['best_g_mean']:.3f} "
        f"(FPR {best['fpr_at_best_g_mean']:.3f})"
    )
    say("")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print the metrics as JSON")
    parser.add_argument("--show", action="store_true", help="only print what was measured last")
    arguments = parser.parse_args()
    if arguments.show:
        metrics = read_json(METRICS, "make train")
        print_json(metrics) if arguments.json else show(metrics)
        return 0
    all_params = load_params()
    params, train_params = all_params["evaluate"], all_params["train"]
    card = read_json(CARD, "make train")
    threshold = card["threshold"]
    model = joblib.load(JOBLIB)

    test, test_classes = load(PREPARED / "test.csv")
    probability = model.predict_proba(test)[:, 1]
    holdout = decisions(test_classes, probability >= threshold) | ranking(test_classes, probability)

    features, classes = load(CANDIDATES)
    estimator = build(train_params)
    splits = list(
        RepeatedStratifiedKFold(
            n_splits=params["folds"], n_repeats=params["repeats"], random_state=params["seed"]
        ).split(features, classes)
    )
    blocks = block_splits(len(classes), params["blocks"])
    folds = score_folds(estimator, features, classes, splits, train_params, "cross-validation")
    block_folds = score_folds(estimator, features, classes, blocks, train_params, "blocks")
    forest = build(train_params, "random_forest")
    baseline = score_folds(forest, features, classes, splits, train_params, "baseline")

    importance = permutation_importance(
        model, test, test_classes, scoring="average_precision", n_repeats=5,
        random_state=params["seed"],
    )  # fmt: skip
    importances = pd.DataFrame(
        {
            "feature": FEATURES,
            "importance": importance.importances_mean,
            "sd": importance.importances_std,
        }
    ).sort_values("importance", ascending=False)

    metrics = {
        "data": card["data"],
        "estimator": card["estimator"],
        "threshold": threshold,
        "holdout": holdout
        | {"pulsars": int(test_classes.sum()), "candidates": len(test_classes)}
        | {"interval_95": bootstrap(test_classes, probability, threshold, params)},
        "cross_validation": summary(folds),
        "blocks": summary(block_folds),
        "baseline": summary(baseline),
    }
    write_json(METRICS, metrics)
    write_json(
        FOLDS,
        {
            "data": card["data"]["content_sha256"],
            "split": {key: params[key] for key in ("folds", "repeats", "seed")},
            "average_precision": [fold["average_precision"] for fold in folds],
        },
    )
    write_plots(test_classes, probability, threshold, importances)
    write_atomically(
        REPORT,
        report.page(metrics, published(metrics), test, test_classes, probability, importances),
    )
    show(metrics)
    say(f"evaluate: {REPORT.relative_to(ROOT)} has the plots and the candidates it gets wrong")
    if arguments.json:
        print_json(metrics)
    return 0


if __name__ == "__main__":
    run(main)
