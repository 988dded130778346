"""What the models are worth on a labelled table of another survey, as they are: nothing is fitted."""

import numpy as np

from candidates.tables import COLUMNS, EIGHT, SIX, Outside, choose, ends_of, told
from common.errors import BadData
from learning.scores import bootstrap, decisions, ranking

FIGURES = {
    "recall": "recall",
    "fpr": "false-positive rate",
    "precision": "precision",
    "average_precision": "average precision",
}


def measure(
    name: str, models: dict, card: dict, features: np.ndarray, classes: np.ndarray, params: dict
) -> dict:
    """Figures of each of the models, by name, for features (n, 8) and classes (n,), with 95 %
    intervals from a bootstrap within each class.

    BadData when the table holds candidates of one class alone, of which nothing can be measured.
    """
    pulsars = int(classes.sum())
    if pulsars in (0, len(classes)):
        raise BadData(
            f"{name}: {pulsars} of {len(classes)} candidates are pulsars: both kinds are needed"
        )
    ends = ends_of(card["ranges"])
    thresholds = {EIGHT: card["threshold"], SIX: card["six"]["threshold"]}
    return {
        "on": name,
        "candidates": len(classes),
        "pulsars": pulsars,
        "trained_on": card["data"]["source"],
        "model": choose(features, ends),
        "outside": Outside(ends).see(features).found(),
        "models": {
            which: _figures(
                model.predict_proba(features[:, COLUMNS[which]])[:, 1], classes, thresholds[which],
                params,
            )
            for which, model in models.items()
        },
    }  # fmt: skip


def _figures(probability: np.ndarray, classes: np.ndarray, threshold: float, params: dict) -> dict:
    called = probability >= threshold
    figures = decisions(classes, called) | ranking(classes, probability)
    intervals = bootstrap(classes, probability, threshold, params)
    return {
        "threshold": threshold,
        "found": int((called & (classes == 1)).sum()),
        "false_positives": int((called & (classes == 0)).sum()),
        **{key: figures[key] for key in FIGURES},
        "interval_95": {key: intervals[key] for key in FIGURES},
    }


def shown(measured: dict) -> str:
    """The same as a table, and which of the models a person should take."""
    lines = [
        f"on {measured['on']}: {measured['candidates']} candidates, {measured['pulsars']} pulsars; "
        f"trained on {measured['trained_on']}",
        f"{'':20}" + "".join(f"{f'{which} features':>28}" for which in measured["models"]),
    ]
    figures = measured["models"].values()
    for key, title in FIGURES.items():
        cells = (
            f"{f[key]:.4f} [{{:.3f}}, {{:.3f}}]".format(*f["interval_95"][key]) for f in figures
        )
        lines.append(f"{title:20}" + "".join(f"{cell:>28}" for cell in cells))
    for key, title in (("found", "pulsars found"), ("false_positives", "false positives")):
        lines.append(f"{title:20}" + "".join(f"{f[key]:>28}" for f in figures))
    lines.append(f"{'threshold':20}" + "".join(f"{f['threshold']:>28.4f}" for f in figures))
    lines += told(measured["outside"])
    lines.append(f"score and the endpoint would take the model of {measured['model']} features")
    return "\n".join(lines)
