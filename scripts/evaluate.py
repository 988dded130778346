"""Evaluate the models: on the hold-out, by repeated cross-validation, and by blocks.

    python scripts/evaluate.py            # or: dvc metrics show; dvc plots show
    python scripts/evaluate.py --on labelled.csv --json    # instead: on candidates of another survey

Writes evaluation/scores.json, eleven of these scores as DVC's evaluation/metrics.json, the folds'
scores for the release gate, the hold-out with its probabilities and predictions, which is also what
the monitor of model quality compares with, and the data of the plots.
Everything is fitted, and the decision threshold
chosen, inside the training folds. The contiguous blocks of the unshuffled file are the
harsher test: half of HTRU2's pulsars share a pointing with another, which a random split
cannot keep apart. What people look at is made of this by scripts/report.py. The model of six features
is scored on the same hold-out and the same folds.

With --on nothing is written: both models, as they are, are asked about a table with classes, in any
dialect, and what they are worth there is printed, with 95 % intervals.
"""

import argparse

import joblib
import numpy as np
import pandas as pd
from sklearn.calibration import calibration_curve
from sklearn.inspection import permutation_importance
from sklearn.metrics import precision_recall_curve, roc_curve
from sklearn.model_selection import RepeatedStratifiedKFold

from candidates import files
from candidates.htru2 import content_hash, load
from candidates.tables import COLUMNS, EIGHT, FEATURES, LABEL, SIX
from common import files as places
from common.errors import run
from common.files import (
    CANDIDATES,
    CARD,
    FOLDS,
    HOLDOUT,
    JOBLIB,
    METRICS,
    PLOTS,
    PREPARED,
    SCORES,
    read_json,
    typed,
    write_atomically,
    write_json,
)
from common.output import print_json, say
from common.params import load_params
from learning import elsewhere
from learning.estimators import build
from learning.scores import (
    block_splits,
    bootstrap,
    decisions,
    paired,
    ranking,
    score_folds,
    summary,
)


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


def of_holdout(classes, probability, threshold: float, params: dict) -> dict:
    """Every figure of the hold-out, with its interval."""
    return (
        decisions(classes, probability >= threshold)
        | ranking(classes, probability)
        | {"pulsars": int(classes.sum()), "candidates": len(classes)}
        | {"interval_95": bootstrap(classes, probability, threshold, params)}
    )


def headline(scores: dict) -> dict:
    """What `dvc metrics show` and `dvc exp show` put side by side: eleven columns, and the data's name
    is one of them, as simulated data never pass for real."""
    folds = scores["cross_validation"]["mean"]
    shown = ("average_precision", "roc_auc", "recall", "precision", "f1", "fpr")
    return (
        {"data": scores["data"]["source"]}
        | {key: folds[key] for key in shown}
        | {
            "average_precision_holdout": scores["holdout"]["average_precision"],
            "average_precision_blocks": scores["blocks"]["mean"]["average_precision"],
            "average_precision_original": scores["baseline"]["mean"]["average_precision"],
            "average_precision_six": scores["six"]["cross_validation"]["mean"]["average_precision"],
        }
    )


def evaluate_on(arguments: argparse.Namespace, params: dict, card: dict) -> None:
    """Print what both models are worth on a labelled table."""
    name = "standard input" if str(arguments.on) == "-" else arguments.on.name
    found, rows = files.read(arguments.on, arguments.kurtosis, arguments.drop_bad)
    data = files.labelled(found, rows, name)
    for line in found.told():
        say(f"{name}: {line}")
    if content_hash(data) == card["data"]["content_sha256"]:
        say(f"{name}: WARNING: the models were trained on these candidates, and know them by heart")
    models = {EIGHT: joblib.load(JOBLIB), SIX: joblib.load(places.SIX)}
    measured = elsewhere.measure(name, models, card, data[:, :8], data[:, 8].astype(int), params)
    if arguments.json:
        print_json(measured)
    else:
        print(elsewhere.shown(measured))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--on", type=typed, metavar="TABLE", help="candidates of another survey, with their class"
    )
    files.add_reading(parser)
    parser.add_argument("--json", action="store_true", help="with --on: as JSON")
    arguments = parser.parse_args()
    all_params = load_params()
    params, train_params = all_params["evaluate"], all_params["train"]
    card = read_json(CARD, "make train")
    if arguments.on:
        evaluate_on(arguments, params, card)
        return 0
    threshold = card["threshold"]
    model, model_six = joblib.load(JOBLIB), joblib.load(places.SIX)
    six = COLUMNS[SIX]

    test, test_classes = load(PREPARED / "test.csv")
    probability = model.predict_proba(test)[:, 1]
    probability_six = model_six.predict_proba(test[:, six])[:, 1]

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
    folds_six = score_folds(estimator, features[:, six], classes, splits, train_params, "six")

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

    scores = {
        "data": card["data"],
        "estimator": card["estimator"],
        "threshold": threshold,
        "holdout": of_holdout(test_classes, probability, threshold, params),
        "cross_validation": summary(folds),
        "blocks": summary(block_folds),
        "baseline": summary(baseline),
        "against_baseline": paired(folds, baseline, params["folds"]),
        "six": {
            "threshold": card["six"]["threshold"],
            "holdout": of_holdout(test_classes, probability_six, card["six"]["threshold"], params),
            "cross_validation": summary(folds_six),
            "against_eight": paired(folds_six, folds, params["folds"]),
        },
    }
    write_json(SCORES, scores)
    write_json(METRICS, headline(scores))
    write_json(
        FOLDS,
        {
            "data": card["data"]["content_sha256"],
            "split": {key: params[key] for key in ("folds", "repeats", "seed")},
            "average_precision": [fold["average_precision"] for fold in folds],
        },
    )
    write_plots(test_classes, probability, threshold, importances)
    held_out = pd.DataFrame(test, columns=FEATURES)
    held_out[LABEL], held_out["probability"] = test_classes, probability
    held_out["prediction"] = (probability >= threshold).astype(int)
    write_atomically(HOLDOUT, held_out.to_csv(index=False))
    best = scores["cross_validation"]["mean"]
    kind = "SIMULATED data" if card["data"]["simulated"] else card["data"]["source"]
    say(
        f"evaluate: average precision {best['average_precision']:.3f} in cross-validation on {kind}"
    )
    return 0


if __name__ == "__main__":
    run(main)
