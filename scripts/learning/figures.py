"""The report's figures as inline SVG: one coordinate system of pixels, colours from the page's style.

Drawn by hand, and not by a plotting library, so that they follow the page into dark mode and onto
paper, shrink with it, and are the same bytes whatever is installed.
"""

import html
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from sklearn.metrics import precision_recall_curve, roc_curve

WIDTH, HEIGHT = 320, 250
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 10, 40
BINS = 10
STRIP_LEFT, STRIP_RIGHT, STRIP_HEIGHT = 108, 252, 22  # a strip plot's row
MIDDLE = (0.05, 0.25, 0.5, 0.75, 0.95)  # the quantiles that a strip shows of each class


@dataclass(frozen=True)
class Axis:
    """From `low` to `high`, with a label and ticks; `scale` is applied to values first."""

    label: str
    low: float
    high: float
    ticks: tuple[float, ...]
    scale: Callable = np.asarray

    def share(self, values):
        """Where values lie on it, from 0 to 1."""
        low, high = self.scale(self.low), self.scale(self.high)
        return (self.scale(np.clip(values, self.low, self.high)) - low) / (high - low)


def _x(axis: Axis, values):
    return LEFT + (WIDTH - LEFT - RIGHT) * axis.share(values)


def _y(axis: Axis, values):
    return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * axis.share(values)


def svg(label: str, width: int, height: int, marks: list[str]) -> str:
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{html.escape(label)}">'
        f"{''.join(marks)}</svg>"
    )


def _text(x: float, y: float, text: str, kind: str = "") -> str:
    named = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}"{named}>{html.escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}"/>'


def _rect(x: float, y: float, width: float, height: float, kind: str) -> str:
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" class="{kind}"/>'
    )


def _dot(x: float, y: float, kind: str) -> str:
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" class="{kind}"/>'


def _curve(xs, ys, kind: str) -> str:
    """A line through points; those within a tenth of a pixel of the last are left out."""
    points = [f"{x:.1f},{y:.1f}" for x, y in zip(xs, ys, strict=True)]
    kept = [p for p, before in zip(points, [None, *points], strict=False) if p != before]
    return f'<polyline points="{" ".join(kept)}" class="{kind}"/>'


def _frame(x: Axis, y: Axis) -> list[str]:
    """Grid, ticks and labels of two axes."""
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    marks = []
    for tick in x.ticks:
        at = float(_x(x, tick))
        marks += [_line(at, TOP, at, bottom, "grid"), _text(at, bottom + 14, f"{tick:g}", "mid")]
    for tick in y.ticks:
        at = float(_y(y, tick))
        marks += [_line(LEFT, at, right, at, "grid"), _text(LEFT - 6, at + 4, f"{tick:g}", "end")]
    middle = (TOP + bottom) / 2
    turned = (
        f'<g transform="translate(12 {middle:.1f}) rotate(-90)">{_text(0, 0, y.label, "mid")}</g>'
    )
    return [*marks, _text((LEFT + right) / 2, HEIGHT - 6, x.label, "mid"), turned]


TENTHS = tuple(round(0.2 * step, 1) for step in range(6))


def roc(classes: np.ndarray, probability: np.ndarray, threshold: float) -> str:
    fpr, recall, _ = roc_curve(classes, probability)
    called = probability >= threshold
    least = 1 / max((classes == 0).sum(), 1)
    decades = tuple(10.0**power for power in range(int(np.ceil(np.log10(least))), 1))
    x = Axis("false-positive rate", least, 1, decades, np.log10)
    y = Axis("recall", 0, 1, TENTHS)
    at = float(_x(x, called[classes == 0].mean())), float(_y(y, called[classes == 1].mean()))
    marks = [
        _curve(_x(x, fpr), _y(y, recall), "line"),
        _dot(*at, "point"),
        _text(at[0] + 8, at[1] + 16, "operating point"),
    ]
    return svg("ROC curve with the operating point", WIDTH, HEIGHT, _frame(x, y) + marks)


def precision_recall(classes: np.ndarray, probability: np.ndarray, threshold: float) -> str:
    precision, recall, _ = precision_recall_curve(classes, probability)
    called = probability >= threshold
    x, y = Axis("recall", 0, 1, TENTHS), Axis("precision", 0, 1, TENTHS)
    right = classes[called].mean() if called.any() else 0.0
    at = float(_x(x, called[classes == 1].mean())), float(_y(y, right))
    guess = float(_y(y, classes.mean()))
    marks = [
        _line(LEFT, guess, WIDTH - RIGHT, guess, "reference"),
        _text(LEFT + 6, guess - 4, "a guess"),
        _curve(_x(x, recall), _y(y, precision), "line"),
        _dot(*at, "point"),
        _text(at[0] - 8, at[1] + 16, "operating point", "end"),
    ]
    label = "precision against recall with the operating point"
    return svg(label, WIDTH, HEIGHT, _frame(x, y) + marks)


def calibration(classes: np.ndarray, probability: np.ndarray) -> str:
    """The share of pulsars in each tenth of probability, with its 95 % interval (Wilson 1927)."""
    x = Axis("predicted probability", 0, 1, TENTHS)
    y = Axis("share of pulsars", 0, 1, TENTHS)
    marks = [_line(*(float(v) for v in (_x(x, 0), _y(y, 0), _x(x, 1), _y(y, 1))), "reference")]
    bins = np.minimum((probability * BINS).astype(int), BINS - 1)
    for number in np.unique(bins):
        inside = bins == number
        count, observed = int(inside.sum()), float(classes[inside].mean())
        low, high = wilson(observed, count)
        at = float(_x(x, probability[inside].mean()))
        marks += [
            _line(at, float(_y(y, low)), at, float(_y(y, high)), "error"),
            _dot(at, float(_y(y, observed)), "point"),
        ]
    return svg("calibration: share of pulsars by probability", WIDTH, HEIGHT, _frame(x, y) + marks)


def wilson(share: float, count: int) -> tuple[float, float]:
    """The 95 % interval of a share of `count`."""
    z = 1.959964
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * np.sqrt(share * (1 - share) / count + z * z / (4 * count**2))
    return float(middle - half), float(middle + half)


def confusion(classes: np.ndarray, called: np.ndarray) -> str:
    """Counts, and the share of each true class."""
    left, top, width, height = 70, 40, 120, 82
    words = ["other", "pulsar"]
    marks = [_text(left + width, 14, "called", "mid"), _text(4, top + height + 4, "is")]
    for actual in (0, 1):
        marks.append(_text(left - 8, top + height * (actual + 0.5) + 4, words[actual], "end"))
        marks.append(_text(left + width * (actual + 0.5), 32, words[actual], "mid"))
        total = max(int((classes == actual).sum()), 1)
        for predicted in (0, 1):
            count = int(((classes == actual) & (called == predicted)).sum())
            x, y = left + width * predicted, top + height * actual
            marks += [
                _rect(x + 1, y + 1, width - 2, height - 2, "right" if actual == predicted else "wrong"),
                _text(x + width / 2, y + height / 2 + 2, str(count), "mid count"),
                _text(x + width / 2, y + height / 2 + 20, f"{100 * count / total:.1f} %", "mid"),
            ]  # fmt: skip
    return svg("confusion matrix", WIDTH, HEIGHT, marks)


def importance(rows: pd.DataFrame) -> str:
    """Permutation importances with their standard deviations: columns feature, importance, sd."""
    left, right, step = STRIP_LEFT, 264, 26
    most = max(float((rows["importance"] + rows["sd"]).max()), 1e-9)
    width = (right - left) / most
    marks = []
    for number, row in enumerate(rows.itertuples()):
        y, end = 20 + step * number, left + width * max(row.importance, 0)
        marks += [
            _text(left - 6, y + 4, row.feature, "end"),
            _rect(left, y - 7, end - left, 14, "bar"),
            _line(max(end - width * row.sd, left), y, end + width * row.sd, y, "error"),
            _text(WIDTH - 4, y + 4, f"{row.importance:.3f}", "end"),
        ]
    return svg("permutation importance of the features", WIDTH, 20 + step * len(rows), marks)


def comparison(pairs: list[list[float]]) -> str:
    """Average precision on each fold: this model's, and the original's."""
    values = np.array(pairs)
    step = next(s for s in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5) if np.ptp(values) / s <= 6)
    low, high = step * np.floor(values.min() / step), step * np.ceil(values.max() / step)
    high = max(high, low + step)
    ticks = tuple(float(round(t, 2)) for t in np.arange(low, high + step / 2, step))
    x = Axis("fold", 0.5, len(pairs) + 0.5, tuple(range(1, len(pairs) + 1)))
    y = Axis("average precision", low, high, ticks)
    marks = []
    for number, (ours, theirs) in enumerate(pairs, start=1):
        at, top, bottom = float(_x(x, number)), float(_y(y, ours)), float(_y(y, theirs))
        marks += [_line(at, top, at, bottom, "error"), _dot(at, top, "point")]
        marks.append(_rect(at - 3.5, bottom - 3.5, 7, 7, "other"))
    return svg("average precision on each fold", WIDTH, HEIGHT, _frame(x, y) + marks)


def strips(label: str, values: np.ndarray, spreads: pd.DataFrame) -> str:
    """Where candidates (n, 8) lie in the spread of each feature, a row a feature.

    `spreads` has a row a feature: `low` and `high` of its axis, and the quantiles MIDDLE of the
    pulsars (columns p0 to p4) and of the others (o0 to o4). Of one candidate the values are shown.
    """
    marks = []
    for number, (feature, spread) in enumerate(spreads.iterrows()):
        top = STRIP_HEIGHT * number
        scale = (STRIP_RIGHT - STRIP_LEFT) / max(spread["high"] - spread["low"], 1e-12)
        marks.append(_text(STRIP_LEFT - 6, top + 15, feature, "end"))
        for letter, kind, y in (("p", "pulsars", top + 3), ("o", "others", top + 12)):
            at = [
                STRIP_LEFT + scale * (spread[f"{letter}{i}"] - spread["low"])
                for i in range(len(MIDDLE))
            ]
            marks += [
                _rect(at[0], y + 2, at[4] - at[0], 3, f"{kind} wide-spread"),
                _rect(at[1], y, at[3] - at[1], 7, kind),
                _line(at[2], y, at[2], y + 7, "median"),
            ]
        for value in values[:, number]:
            x = STRIP_LEFT + scale * (value - spread["low"])
            marks.append(_line(x, top + 1, x, top + 21, "mark" if len(values) == 1 else "marks"))
        if len(values) == 1:
            marks.append(_text(WIDTH - 4, top + 15, f"{values[0, number]:.2f}", "end"))
    return svg(label, WIDTH, STRIP_HEIGHT * len(spreads) + 2, marks)
