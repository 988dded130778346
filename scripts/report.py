"""Show what the model is worth: a table of its scores, and evaluation/report.html.

    python scripts/report.py            # from what scripts/evaluate.py measured
    python scripts/report.py --show     # the table alone; --json: the scores

The report is one self-contained page for a referee: scores with intervals, figures, and the candidates
the model gets wrong.
"""

import argparse

import pandas as pd

from candidates.tables import FEATURES, LABEL
from common import ROOT
from common.errors import run
from common.files import HOLDOUT, PLOTS, REPORT, SCORES, read_json, write_atomically
from common.output import print_json, say

# Lyon et al. 2016, MNRAS 459, 1104, table for HTRU 2; no threshold-free figures are given.
LYON = {
    "GH-VFDT": {"recall": 0.829, "precision": 0.899, "f1": 0.862, "g_mean": 0.907, "fpr": 0.008},
    "best G-mean (MLP)": {
        "recall": 0.913, "precision": 0.650, "f1": 0.752, "g_mean": 0.931, "fpr": 0.050,
    },
}  # fmt: skip


def published(scores: dict) -> dict:
    """The paper's rows, where they can be compared: never beside simulated data."""
    return {} if scores["data"]["simulated"] else LYON


def show(scores: dict) -> None:
    """The table a person wants to see."""
    say("")
    if scores["data"]["simulated"]:
        say("SIMULATED DATA: these scores say nothing about real candidates")
    columns = ["recall", "precision", "f1", "g_mean", "fpr", "roc_auc", "average_precision"]
    titles = ["recall", "precis.", "F1", "G-mean", "FPR", "ROC-AUC", "av.prec."]
    say(f"{'':34}" + "".join(f"{title:>9}" for title in titles))
    rows = {
        f"hold-out, {scores['holdout']['pulsars']} pulsars": scores["holdout"],
        "cross-validation": scores["cross_validation"]["mean"],
        "contiguous blocks": scores["blocks"]["mean"],
        "six features, cross-validation": scores["six"]["cross_validation"]["mean"],
        "original model, RF(10), cross-val.": scores["baseline"]["mean"],
    }
    rows |= {f"Lyon et al. 2016, {name}": row for name, row in published(scores).items()}
    for title, row in rows.items():
        cells = "".join(f"{row[key]:9.3f}" if key in row else f"{'-':>9}" for key in columns)
        say(f"{title:34}{cells}")
    best = scores["cross_validation"]["mean"]
    say(
        f"best G-mean, at its own threshold: {best['best_g_mean']:.3f} "
        f"(FPR {best['fpr_at_best_g_mean']:.3f})"
    )
    say("")


def page(scores: dict) -> str:
    """The report, from the hold-out's probabilities and the importances."""
    from learning import report  # scikit-learn takes a while, and the table does without

    held_out = pd.read_csv(HOLDOUT)
    return report.page(
        scores,
        published(scores),
        held_out[FEATURES].to_numpy(),
        held_out[LABEL].to_numpy(),
        held_out["probability"].to_numpy(),
        pd.read_csv(PLOTS / "importance.csv"),
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print the scores as JSON")
    parser.add_argument("--show", action="store_true", help="write nothing")
    arguments = parser.parse_args()
    scores = read_json(SCORES, "make evaluate")
    if not arguments.show:
        write_atomically(REPORT, page(scores))
    if arguments.json:
        print_json(scores)
    else:
        show(scores)
    if not arguments.show:
        say(f"report: {REPORT.relative_to(ROOT)} has the figures and the candidates it gets wrong")
    return 0


if __name__ == "__main__":
    run(main)
