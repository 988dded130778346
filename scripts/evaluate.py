"""Evaluate the model: on the hold-out, by repeated cross-validation, and by blocks.

    python scripts/evaluate.py            # or: dvc metrics show; dvc plots show

Writes evaluation/metrics.json, the data of DVC's plots in evaluation/plots, and
evaluation/report.html, one self-contained page. Everything is fitted, and the decision
threshold chosen, inside the training folds. The contiguous blocks of the unshuffled file
are the harsher test: half of HTRU2's pulsars share a pointing with another, which a random
split cannot keep apart.
"""

import argparse

import joblib
import numpy as np
import pandas as pd
from sklearn.calibration import calibration_curve
from sklearn.inspection import permutation_importance
from sklearn.metrics import precision_recall_curve, roc_curve
from sklearn.model_selection import RepeatedStratifiedKFold

from candidates.htru2 import FEATURES, load
from common import ROOT
from common.errors import run
from common.files import (
    CANDIDATES,
    CARD,
    FOLDS,
    JOBLIB,
    METRICS,
    PLOTS,
    PREPARED,
    REPORT,
    read_json,
    write_atomically,
    write_json,
)
from common.output import print_json, say
from common.params import load_params
from learning import report
from learning.estimators import build
from learning.scores import block_splits, bootstrap, decisions, ranking, score_folds, summary

# Lyon et al. 2016, MNRAS 459, 1104, table for HTRU 2; no threshold-free figures are given.
LYON = {
    "GH-VFDT": {"recall": 0.829, "precision": 0.899, "f1": 0.862, "g_mean": 0.907, "fpr": 0.008},
    "best G-mean (MLP)": {
        "recall": 0.913, "precision": 0.650, "f1": 0.752, "g_mean": 0.931, "fpr": 0.050,
    },
}  # fmt: skip


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
