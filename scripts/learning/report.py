"""The evaluation as one page for a referee: no script, no file beside it, the same bytes for the same
numbers. It is well-formed as XML too, which its test relies on."""

import html

import numpy as np
import pandas as pd

from candidates.tables import FEATURES
from learning import figures

MOST_WRONG = 10
# What a score is, in words. The counts are filled in from the hold-out.
WORDS = {
    "recall": "of the {pulsars} pulsars, the share that it finds: {found}",
    "precision": "of the {called} candidates that it calls pulsars, the share that are: {found}",
    "fpr": "of the {others} others, the share that it calls pulsars: {false}",
    "f1": "the harmonic mean of recall and precision",
    "g_mean": "the geometric mean of recall and of the share of the others that it leaves alone; "
    "it does not depend on how rare pulsars are",
    "roc_auc": "how often a pulsar is ranked above another candidate, whatever the threshold",
    "average_precision": "precision averaged over all recalls, whatever the threshold; "
    "guessing would have {share:.3f}",
}
NAMES = {
    "recall": "recall",
    "precision": "precision",
    "fpr": "false-positive rate",
    "f1": "F1",
    "g_mean": "G-mean",
    "roc_auc": "ROC-AUC",
    "average_precision": "average precision",
}
STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #222; --soft: #5d6470; --rule: #d9dce1;
  --pulsar: #0b62a8; --other: #b3500a; --good: #d5e7f6; --bad: #f9e1cf; --warn: #fff3cd }
@media screen and (prefers-color-scheme: dark) { :root { --paper: #15181d; --ink: #e6e8eb;
  --soft: #a2a9b4; --rule: #363c45; --pulsar: #6db5f5; --other: #f39a58; --good: #1d3a54;
  --bad: #54351d; --warn: #4a3c0c } }
* { box-sizing: border-box }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 0 auto; padding: 1rem;
  color: var(--ink); background: var(--paper); overflow-wrap: anywhere }
h1 { line-height: 1.2; margin-bottom: .3rem } h2 { margin-top: 2.2rem }
.simulated { background: var(--warn); border: 1px solid; padding: .6rem 1rem; font-weight: bold }
.scroll { overflow-x: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .87em }
th, td { padding: .3rem .6rem; text-align: left; vertical-align: top; overflow-wrap: normal;
  border-bottom: 1px solid var(--rule) }
td.number { white-space: nowrap }
thead th { vertical-align: bottom } tbody th { white-space: nowrap }
.figures { display: grid; gap: 1.2rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 18rem), 1fr)) }
figure { margin: 0; min-width: 0; break-inside: avoid }
figcaption { font-size: .87em; color: var(--soft) }
svg { display: block; width: 100%; max-width: 26rem; height: auto }
svg text { font: 11px system-ui, sans-serif; fill: var(--ink) }
.mid { text-anchor: middle } .end { text-anchor: end }
svg text.count { font-size: 17px }
.grid { stroke: var(--rule) } .reference { stroke: var(--soft); stroke-dasharray: 4 3 }
.line { fill: none; stroke: var(--pulsar); stroke-width: 1.6 }
.error { stroke: var(--soft); stroke-width: 1.3 }
.point, .bar, .pulsars { fill: var(--pulsar) } .other, .others { fill: var(--other) }
.right { fill: var(--good) } .wrong { fill: var(--bad) }
.pulsars, .others { opacity: .75 } .wide-spread { opacity: .4 }
.median { stroke: var(--paper); stroke-width: 1.5 }
.mark { stroke: var(--ink); stroke-width: 2 } .marks { stroke: var(--ink); opacity: .45 }
.key { white-space: nowrap } .key::before { content: "■ " }
.key.p::before { color: var(--pulsar) } .key.o::before { color: var(--other) }
@media (max-width: 30rem) { td.number, tbody th { white-space: normal } th, td { padding: .3rem } }
@page { size: A4; margin: 15mm }
@media print { body { font-size: 10pt; padding: 0; max-width: none; print-color-adjust: exact }
  .scroll { overflow: visible } th, td { padding: .15rem .35rem } h2, h3 { break-after: avoid }
  .figures { grid-template-columns: repeat(2, 1fr) } }
"""


def page(
    scores: dict,
    lyon: dict,
    features: np.ndarray,
    classes: np.ndarray,
    probability: np.ndarray,
    importance: pd.DataFrame,
) -> str:
    """The report as HTML. `features` (n, 8), `classes` and `probability` (n,) are the hold-out's."""
    threshold, data = scores["threshold"], scores["data"]
    called = probability >= threshold
    title = f"Pulsar classifier: {scores['estimator'].replace('_', ' ')} on {data['source']}"
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"/>
<meta name="viewport" content="width=device-width, initial-scale=1"/>
<title>{html.escape(title)}</title>
<style>{STYLE}</style></head><body>
<h1>{html.escape(title)}</h1>
<p>Data: {data["candidates"]} candidates, {data["pulsars"]} of them pulsars, from
{html.escape(data["source"])} (content {data["content_sha256"][:12]}). {len(classes)} of them were held
out and never seen in training. A candidate is called a pulsar from a probability of {threshold:.4f} on;
this threshold, the operating point, was chosen inside the training data.</p>
{_warning(data)}
<h2>What it is worth</h2>
{_headline(scores["holdout"], classes, called)}
<h2>How sure that is</h2>
{_by_split(scores, lyon)}
<p>Cross-validation: mean ± standard deviation over {len(scores["against_baseline"]["average_precision"])}
folds. Contiguous blocks: neighbouring rows of the unshuffled file are alike, so this is the harsher
figure, nearer to that for a new part of the sky. In each, model and threshold are made from the
training part alone. {_note(lyon)}</p>
<h2>Without the DM curve's mean and deviation</h2>
{_six(scores["six"])}
<h2>Figures</h2>
{_figures(scores, classes, probability, importance)}
<h2>What it gets wrong</h2>
{_mistakes(features, classes, probability, threshold)}
</body></html>
"""


def _warning(data: dict) -> str:
    words = (
        "Simulated data: these scores say nothing about real candidates. How far off such a model is where "
        "truth exists, on HTRU2 or another survey: make evaluate ON=labelled.csv"
    )
    return f'<p class="simulated">{words}</p>' if data["simulated"] else ""


def _note(lyon: dict) -> str:
    return "Lyon et al. 2016, MNRAS 459, 1104, give no threshold-free figures." if lyon else ""


def _headline(holdout: dict, classes: np.ndarray, called: np.ndarray) -> str:
    counts = {
        "pulsars": int((classes == 1).sum()),
        "others": int((classes == 0).sum()),
        "called": int(called.sum()),
        "found": int((called & (classes == 1)).sum()),
        "false": int((called & (classes == 0)).sum()),
        "share": float(classes.mean()),
    }
    rows = []
    for key, words in WORDS.items():
        low, high = holdout["interval_95"][key]
        value = f"<strong>{holdout[key]:.3f}</strong> [{low:.3f}, {high:.3f}]"
        rows.append([NAMES[key], value, words.format(**counts)])
    table = _table(["on the hold-out", "score [95 % interval]", "what it means"], rows)
    return f"{table}<p>Intervals: bootstrap of the hold-out, within each class.</p>"


def _six(six: dict) -> str:
    folds, rows = six["cross_validation"], []
    for key in WORDS:
        low, high = six["holdout"]["interval_95"][key]
        value = f"{six['holdout'][key]:.3f} [{low:.3f}, {high:.3f}]"
        rows.append([NAMES[key], value, f"{folds['mean'][key]:.3f} ± {folds['sd'][key]:.3f}"])
    table = _table(
        [f"six features, threshold {six['threshold']:.4f}", "hold-out [95 % interval]", "cross-validation"],
        rows,
    )  # fmt: skip
    against = six["against_eight"]
    low, high = against["interval_95"]
    return (
        "<p>A second model, trained in the same way on the other six features, scores candidates whose "
        "DM curve has another scale, such as those of .pfd files. At home it costs "
        f"{against['mean_difference']:+.3f} [{low:+.3f}, {high:+.3f}] in average precision (same folds, "
        f"95 % interval).</p>{table}"
    )


def _by_split(scores: dict, lyon: dict) -> str:
    columns = {f"hold-out, {scores['holdout']['pulsars']} pulsars": scores["holdout"]}
    spreads = {
        "cross-validation": scores["cross_validation"],
        "contiguous blocks": scores["blocks"],
        "original model, RF(10), same folds": scores["baseline"],
    }
    columns |= {title: spread["mean"] for title, spread in spreads.items()}
    columns |= {f"Lyon et al. 2016, {name}": row for name, row in lyon.items()}
    rows = []
    for key in WORDS:
        cells = []
        for title, column in columns.items():
            spread = f" ± {spreads[title]['sd'][key]:.3f}" if title in spreads else ""
            cells.append(f"{column[key]:.3f}{spread}" if key in column else "–")
        rows.append([NAMES[key], *cells])
    return _table(["", *(html.escape(title) for title in columns)], rows)


def _table(head: list[str], rows: list[list[str]]) -> str:
    """A table of cells of HTML; all but the first and the words are numbers. It scrolls by itself
    where the screen is narrower."""
    titles = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    lines = []
    for first, *cells in rows:
        shown = (
            f'<td class="number">{c}</td>' if c[0] in "<–0123456789" else f"<td>{c}</td>"
            for c in cells
        )
        lines.append(f'<tr><th scope="row">{first}</th>{"".join(shown)}</tr>')
    return (
        f'<div class="scroll" tabindex="0"><table><thead><tr>{titles}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _figure(drawing: str, caption: str) -> str:
    return f"<figure>{drawing}<figcaption>{caption}</figcaption></figure>"


def _figures(
    scores: dict, classes: np.ndarray, probability: np.ndarray, importance: pd.DataFrame
) -> str:
    threshold, against = scores["threshold"], scores["against_baseline"]
    pairs = against["average_precision"]
    better = sum(ours > theirs for ours, theirs in pairs)
    low, high = against["interval_95"]
    drawn = [
        _figure(
            figures.roc(classes, probability, threshold),
            "ROC curve of the hold-out, the false-positive rate on a logarithmic scale.",
        ),
        _figure(
            figures.precision_recall(classes, probability, threshold),
            "Precision against recall of the hold-out.",
        ),
        _figure(
            figures.calibration(classes, probability),
            "Calibration: on the dashed line, of the candidates with a probability of so much just "
            "so many are pulsars. Bars: 95 % intervals of the shares.",
        ),
        _figure(
            figures.confusion(classes, probability >= threshold),
            "Confusion matrix of the hold-out at the operating point, with shares of each row.",
        ),
        _figure(
            figures.importance(importance),
            "Importance: the average precision lost on the hold-out when a feature is shuffled.",
        ),
        _figure(
            figures.comparison(pairs),
            f'<span class="key p">this model</span> and <span class="key o">the original '
            f"project's</span> on the same folds: better in {better} of {len(pairs)}, by "
            f"{against['mean_difference']:+.3f} [{low:+.3f}, {high:+.3f}] in the mean (95 % interval, "
            "corrected for overlapping training sets).",
        ),
    ]
    return f'<div class="figures">{"".join(drawn)}</div>'


def _mistakes(
    features: np.ndarray, classes: np.ndarray, probability: np.ndarray, threshold: float
) -> str:
    called = probability >= threshold
    kinds = {
        "Pulsars it misses": np.flatnonzero((classes == 1) & ~called),
        "Others it calls pulsars": np.flatnonzero((classes == 0) & called),
    }
    spreads = spreads_of(features, classes, np.concatenate(list(kinds.values())))
    text = [
        '<p>Each row of a strip plot is a feature: above, <span class="key p">the pulsars</span>, below '
        '<span class="key o">the others</span> of the hold-out (thick: the middle half; thin: the '
        "middle 90 %; gap: the median); the upright marks are the mistakes. Shown one by one are the "
        f"{MOST_WRONG} of each kind that lie farthest from the threshold; all of them are in "
        "evaluation/holdout.csv, whose rows are counted from 1.</p>"
    ]
    for label, (title, rows) in zip((1, 0), kinds.items(), strict=True):
        total = int((classes == label).sum())
        text.append(f"<h3>{title}: {len(rows)} of {total}</h3>")
        if not len(rows):
            continue
        words = f"All {len(rows)} of them."
        drawn = [_figure(figures.strips(f"{title}, all", features[rows], spreads), words)]
        farthest = rows[np.argsort(-np.abs(probability[rows] - threshold), kind="stable")]
        for row in farthest[:MOST_WRONG]:
            name = f"row {row + 1}"
            caption = (
                f"<strong>Row {row + 1}, probability {probability[row]:.4f}</strong>; "
                f"{_unlike(features[row], spreads, label)}"
            )
            drawn.append(_figure(figures.strips(name, features[row : row + 1], spreads), caption))
        text.append(f'<div class="figures">{"".join(drawn)}</div>')
    return "".join(text)


def spreads_of(features: np.ndarray, classes: np.ndarray, shown: np.ndarray) -> pd.DataFrame:
    """What figures.strips wants to know of each feature; the axes hold the rows `shown`, too."""
    table = {}
    for letter, label in (("p", 1), ("o", 0)):
        quantiles = np.quantile(features[classes == label], figures.MIDDLE, axis=0)
        table |= {f"{letter}{number}": row for number, row in enumerate(quantiles)}
    ends = np.vstack([table["p0"], table["p4"], table["o0"], table["o4"], features[shown]])
    table |= {"low": ends.min(axis=0), "high": ends.max(axis=0)}
    return pd.DataFrame(table, index=FEATURES)


def _unlike(candidate: np.ndarray, spreads: pd.DataFrame, label: int) -> str:
    """In which features a candidate is not like nine tenths of its own class."""
    letter, others = ("p", "the pulsars'") if label else ("o", "the others'")
    outside = (candidate < spreads[f"{letter}0"]) | (candidate > spreads[f"{letter}4"])
    names = ", ".join(spreads.index[outside]) or "no feature"
    return f"outside {others} middle 90 % in {names}"
