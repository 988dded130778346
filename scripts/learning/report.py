"""The evaluation as one self-contained HTML page: no script, no file beside it."""

import base64
import html
import io

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.calibration import calibration_curve
from sklearn.metrics import precision_recall_curve, roc_curve

from candidates.tables import FEATURES

# The same bytes for the same numbers.
matplotlib.use("svg")
matplotlib.rcParams.update(
    {"svg.hashsalt": "pulsar", "font.size": 9, "axes.grid": True, "grid.alpha": 0.3}
)

FIGURES = [
    "recall",
    "precision",
    "f1",
    "g_mean",
    "fpr",
    "specificity",
    "roc_auc",
    "average_precision",
]
MOST_WRONG = 10
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
h1 { margin-bottom: 0 } h2 { margin-top: 2rem }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 13px }
th, td { padding: .25rem .6rem; text-align: right; white-space: nowrap; border-bottom: 1px solid #ddd }
th:first-child, td:first-child { text-align: left }
.plots { display: flex; flex-wrap: wrap; gap: 1rem } .plots img { width: 19rem }
.simulated { background: #fff3cd; border: 1px solid #e0b400; padding: .6rem 1rem; font-weight: bold }
.wide { overflow-x: auto }
"""


def page(
    metrics: dict,
    lyon: dict,
    features: np.ndarray,
    classes: np.ndarray,
    probability: np.ndarray,
    importance: pd.DataFrame,
) -> str:
    """The report as HTML. `features` (n, 8), `classes` and `probability` (n,) are the hold-out's."""
    threshold, data = metrics["threshold"], metrics["data"]
    warning = (
        '<p class="simulated">Simulated data: these scores say nothing about real candidates.</p>'
        if data["simulated"]
        else ""
    )
    plots = "".join(
        f'<img alt="{name}" src="data:image/svg+xml;base64,{image}">'
        for name, image in {
            "ROC curve": _roc(classes, probability, threshold),
            "precision against recall": _precision_recall(classes, probability, threshold),
            "confusion matrix": _confusion(classes, probability >= threshold),
            "calibration": _calibration(classes, probability),
            "permutation importance": _importance(importance),
        }.items()
    )
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Pulsar classifier: evaluation</title>
<style>{STYLE}</style></head><body>
<h1>Pulsar classifier</h1>
<p>{html.escape(metrics["estimator"])} on {data["candidates"]} candidates ({data["pulsars"]} pulsars)
of {html.escape(data["source"])}, content {data["content_sha256"][:12]}; a candidate is called a pulsar
from a probability of {threshold:.4f}.</p>
{warning}
<h2>Scores</h2>
<div class="wide">{_scores(metrics, lyon)}</div>
<p>The threshold is always chosen inside the training data. Cross-validation: mean ± standard
deviation over folds. Contiguous blocks: neighbouring rows of the unshuffled file are alike, so this
is the harsher figure, nearer to that for a new part of the sky. Brackets: 95 % bootstrap interval.
{_note(lyon)}</p>
<h2>Plots</h2><div class="plots">{plots}</div>
<h2>What it gets wrong</h2>
<h3>Pulsars it misses</h3><div class="wide">{_wrong(features, classes, probability, threshold, 1)}</div>
<h3>Noise it calls a pulsar</h3><div class="wide">{_wrong(features, classes, probability, threshold, 0)}</div>
</body></html>
"""


def _note(lyon: dict) -> str:
    return "Lyon et al. 2016, MNRAS 459, 1104, give no threshold-free figures." if lyon else ""


def _scores(metrics: dict, lyon: dict) -> str:
    holdout = metrics["holdout"]
    intervals = holdout["interval_95"]
    rows = [
        (
            f"hold-out ({holdout['pulsars']} pulsars)",
            [f"{holdout[k]:.3f} [{intervals[k][0]:.3f}, {intervals[k][1]:.3f}]" for k in FIGURES],
        )
    ]
    for title, key in {
        "cross-validation": "cross_validation",
        "contiguous blocks": "blocks",
        "original model, RF(10)": "baseline",
    }.items():
        mean, sd = metrics[key]["mean"], metrics[key]["sd"]
        rows.append((title, [f"{mean[k]:.3f} ± {sd[k]:.3f}" for k in FIGURES]))
    for name, row in lyon.items():
        cells = [f"{row[k]:.3f}" if k in row else "–" for k in FIGURES]
        rows.append((f"Lyon et al. 2016, {name}", cells))
    return _table(["", *FIGURES], [[title, *cells] for title, cells in rows])


def _wrong(features, classes, probability, threshold: float, label: int) -> str:
    called = probability >= threshold
    rows = np.flatnonzero((classes == label) & (called != (label == 1)))
    rows = rows[np.argsort(np.abs(probability[rows] - threshold))[::-1]][:MOST_WRONG]
    if not len(rows):
        return "<p>None.</p>"
    cells = [
        [f"{probability[row]:.4f}", *(f"{value:.2f}" for value in features[row])] for row in rows
    ]
    return _table(["probability", *FEATURES], cells)


def _table(head: list[str], rows: list[list[str]]) -> str:
    def line(tag: str, cells: list[str]) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(c)}</{tag}>" for c in cells) + "</tr>"

    return f"<table>{line('th', head)}{''.join(line('td', row) for row in rows)}</table>"


def _image(figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None}, bbox_inches="tight")
    plt.close(figure)
    return base64.b64encode(buffer.getvalue()).decode()


def _axes(x_label: str, y_label: str):
    figure, axes = plt.subplots(figsize=(3.6, 3.2))
    axes.set(xlabel=x_label, ylabel=y_label)
    return figure, axes


def _roc(classes, probability, threshold: float) -> str:
    fpr, recall, _ = roc_curve(classes, probability)
    called = probability >= threshold
    figure, axes = _axes("false-positive rate", "recall")
    axes.plot(fpr, recall)
    axes.plot(called[classes == 0].mean(), called[classes == 1].mean(), "o", label="the threshold")
    axes.set_xscale("symlog", linthresh=0.01)
    axes.legend()
    return _image(figure)


def _precision_recall(classes, probability, threshold: float) -> str:
    precision, recall, _ = precision_recall_curve(classes, probability)
    called = probability >= threshold
    figure, axes = _axes("recall", "precision")
    axes.plot(recall, precision)
    axes.plot(called[classes == 1].mean(), classes[called].mean(), "o", label="the threshold")
    axes.legend(loc="lower left")
    return _image(figure)


def _confusion(classes, called) -> str:
    counts = [[int(((classes == a) & (called == p)).sum()) for p in (0, 1)] for a in (0, 1)]
    figure, axes = _axes("called", "is")
    axes.imshow(np.log1p(counts), cmap="Blues")
    axes.set_xticks([0, 1], ["noise", "pulsar"])
    axes.set_yticks([0, 1], ["noise", "pulsar"])
    axes.grid(False)
    for actual in (0, 1):
        for predicted in (0, 1):
            count = counts[actual][predicted]
            axes.text(predicted, actual, count, ha="center", va="center",
                      color="white" if count > 500 else "black")  # fmt: skip
    return _image(figure)


def _calibration(classes, probability) -> str:
    observed, predicted = calibration_curve(classes, probability, n_bins=10)
    figure, axes = _axes("predicted probability", "share of pulsars")
    axes.plot([0, 1], [0, 1], color="grey", linewidth=0.8)
    axes.plot(predicted, observed, "o-")
    return _image(figure)


def _importance(importance: pd.DataFrame) -> str:
    figure, axes = _axes("average precision lost when shuffled", "")
    rows = importance.iloc[::-1]
    axes.barh(rows["feature"], rows["importance"], xerr=rows["sd"])
    return _image(figure)
