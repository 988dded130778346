"""What a violation of data quality means, in the words of people who look for pulsars.

Of each feature that drifted: how far and in which direction, what in the sky or the receiver usually
does that, five captured candidates that show it, and a histogram of baseline beside window. And what
the run could not have seen.
"""

from typing import Any, NamedTuple, Optional

import numpy as np
import pandas as pd

from .frame import EVENT_ID, EVENT_ROW

NUMERIC = ("Integral", "Fractional")
SHARES = (0.05, 0.25, 0.5, 0.75, 0.95)
BINS = 12
BAR = 30  # characters of the longest bar
EXAMPLES = 5


class Drift(NamedTuple):
    """A feature against its baseline."""

    name: str
    n: int  # rows of the baseline
    m: int  # of the window
    apart: float  # D
    distance: float  # D, or what Robust leaves of it
    threshold: float
    least: float  # the smallest D that would have been a violation
    at: Optional[float]  # where the two are furthest apart
    before: Optional[float]  # the baseline's share up to there
    now: Optional[float]  # and the window's
    known: Any  # data_quality.Distribution of the baseline; None where it is of text


# Profiles and DM curves are scaled to their own maximum, so a gain that only multiplies leaves no
# trace in them: what counts is how much of a profile, or of the DM curve, stands high.
USUALLY = {
    ("profile_mean", "up"): "less stands out of the profiles: fewer or weaker pulses, broad or sinusoidal "
    "interference; a gain that is too low or a hotter receiver buries pulses in noise so",
    ("profile_mean", "down"): "more profiles are a narrow peak on a low floor: more or brighter pulsars, or "
    "impulsive interference that folds into one spike",
    ("profile_std", "up"): "broader or sinusoidal profiles, as of mains or radar, or profiles clipped by a "
    "receiver that saturates",
    ("profile_std", "down"): "flatter floors under narrow peaks: pulsars, or single spikes",
    ("profile_skewness", "up"): "narrow peaks: more pulsars, or impulsive interference",
    ("profile_skewness", "down"): "profiles like noise or a sinusoid: interference, weaker pulses, or "
    "pulses that scattering or a coarser receiver has broadened",
    ("profile_kurtosis", "up"): "narrow peaks: more pulsars, or impulsive interference",
    ("profile_kurtosis", "down"): "profiles like noise or a sinusoid: interference, weaker pulses, or "
    "pulses that scattering or a coarser receiver has broadened",
    ("dm_mean", "up"): "the signal stands at many trial DMs: interference, which no DM disperses, or bright "
    "slow pulsars; also a receiver of higher frequency or narrower band, for which a wrong DM costs less",
    ("dm_mean", "down"): "few trial DMs are above the threshold: noise, weaker signals, or a receiver of "
    "lower frequency or wider band, for which a wrong DM costs more",
    ("dm_std", "up"): "humps in the DM curve, or curves high at some DMs and low at others: stronger "
    "signals, or interference",
    ("dm_std", "down"): "flatter DM curves: noise, weaker signals, or narrower humps as at low frequency",
    ("dm_skewness", "up"): "a few trial DMs alone are high: noise, or narrow humps as at low frequency",
    ("dm_skewness", "down"): "the curve is high over much of its trials: interference, or wide humps of "
    "bright slow pulsars",
    ("dm_kurtosis", "up"): "a few trial DMs alone are high: noise, or narrow humps as at low frequency",
    ("dm_kurtosis", "down"): "the curve is high over much of its trials: interference, or wide humps of "
    "bright slow pulsars",
}  # fmt: skip
ANSWERED = (
    "what the model answers: look at the features first; if none of them moved, the share of "
    "pulsars did, or another model answers"
)
UNKNOWN = "no feature that this project knows: look at how it is measured"


# -- facts ----------------------------------------------------------------------------


def report(table, known, violations, drifts, settings):
    """report.md and report.json of a run.

    `known`: the features of the baseline's statistics.json by name.
    """
    found = facts(table, known, violations, drifts, settings)
    return {"report.json": found, "report.md": markdown(found)}


def facts(table, known, violations, drifts, settings):
    drifted = {
        violation["feature_name"]
        for violation in violations
        if violation["constraint_check_type"] == "baseline_drift_check"
    }
    moved = [drift for drift in drifts if drift.name in drifted and drift.known]
    answers = int(settings.get("answer_columns") or 0)
    return {
        "endpoint": settings.get("sagemaker_endpoint_name", ""),
        "schedule": settings.get("sagemaker_monitoring_schedule_name", ""),
        "rows": len(table),
        "baseline_rows": max((drift.n for drift in drifts), default=0),
        "violations": violations,
        "smallest_drift_seen": max((drift.least for drift in drifts), default=None),
        "not_compared": [
            str(name) for name in list(table.columns)[:answers] if name not in known
        ],
        "drifted": [drift_facts(drift, table, known[drift.name], answers) for drift in moved],
        "exchanged": exchanged(moved, table),
        "features": [
            {"name": drift.name, "distance": drift.distance, "D": drift.apart,
             "threshold": drift.threshold, "smallest_drift_seen": drift.least}
            for drift in drifts
        ],
    }  # fmt: skip


def sorted_numbers(series):
    values = pd.to_numeric(series, errors="coerce").to_numpy(dtype=float)
    return np.sort(values[np.isfinite(values)])


def quantiles(drift):
    """SHARES of the baseline, from its sketch."""
    shares = np.cumsum(drift.known.weights) / drift.known.weights.sum()
    last = len(shares) - 1
    return [float(drift.known.items[min(last, np.searchsorted(shares, s))]) for s in SHARES]


def drift_facts(drift, table, known, answers):
    series = table[drift.name]
    values = sorted_numbers(series)
    statistics = known["numerical_statistics"]
    mean, spread = statistics["mean"], statistics["std_dev"]
    direction = "up" if drift.now < drift.before else "down"
    is_answer = list(table.columns).index(drift.name) < answers
    usual = USUALLY.get((drift.name, direction), UNKNOWN)
    bars = histogram(drift, values)
    return {
        "name": drift.name,
        "direction": direction,
        "distance": drift.distance,
        "D": drift.apart,
        "furthest_apart_at": drift.at,
        "share_of_baseline_there": drift.before,
        "share_of_window_there": drift.now,
        "baseline_mean": mean,
        "baseline_std": spread,
        "window_mean": float(values.mean()),
        "shift_in_baseline_std": float(values.mean() - mean) / spread if spread > 0 else None,
        "shares": list(SHARES),
        "baseline_quantiles": quantiles(drift),
        "window_quantiles": [float(value) for value in np.quantile(values, SHARES)],
        "usually": ANSWERED if is_answer else usual,
        "histogram": bars,
        "candidates": examples(series, table, bars),
    }


def histogram(drift, values):
    """Shares of baseline and window in bins of equal width; what lies beyond is in the outermost."""
    known = drift.known
    shares = np.cumsum(known.weights) / known.weights.sum()
    inner = [known.items[min(len(shares) - 1, np.searchsorted(shares, s))] for s in (0.01, 0.99)]
    low = min(inner[0], np.quantile(values, 0.01))
    high = max(inner[1], np.quantile(values, 0.99))
    edges = np.linspace(low, high, BINS + 1)
    if low == high:
        edges = np.linspace(low - 0.5, high + 0.5, BINS + 1)
    outer = edges.copy()
    outer[0], outer[-1] = -np.inf, np.inf
    before = np.histogram(known.items, outer, weights=known.weights)[0] / known.weights.sum()
    now = np.histogram(values, outer)[0] / len(values)
    return [
        {"from": float(a), "to": float(b), "baseline": float(x), "window": float(y)}
        for a, b, x, y in zip(edges[:-1], edges[1:], before, now)
    ]


def examples(series, table, bars):
    """Five candidates, spread over the window, of the bin that has grown most."""
    grown = max(range(BINS), key=lambda i: bars[i]["window"] - bars[i]["baseline"])
    values = pd.to_numeric(series, errors="coerce").to_numpy(dtype=float)
    inside = np.isfinite(values)
    if grown > 0:
        inside &= values >= bars[grown]["from"]
    if grown < BINS - 1:
        inside &= values < bars[grown]["to"]
    rows = np.flatnonzero(inside)
    rows = rows[np.unique(np.linspace(0, len(rows) - 1, EXAMPLES).astype(int))]
    return [
        {
            "event_id": str(table[EVENT_ID].iloc[row]), "event_row": int(table[EVENT_ROW].iloc[row]),
            "value": float(values[row]),
        }
        for row in rows
    ] if EVENT_ID in table else []  # fmt: skip


def exchanged(moved, table):
    """Pairs of drifted features each of which looks like the other's baseline."""
    values = {drift.name: sorted_numbers(table[drift.name]) for drift in moved}

    def apart(drift, other):
        known = drift.known
        one = np.cumsum(known.weights) / known.weights.sum()
        two = np.searchsorted(values[other.name], known.items, side="right") / other.m
        return float(np.abs(one - two).max())

    return [
        [first.name, second.name]
        for position, first in enumerate(moved)
        for second in moved[position + 1 :]
        if 2 * apart(first, second) < first.apart and 2 * apart(second, first) < second.apart
    ]


# -- words ----------------------------------------------------------------------------


def markdown(found):
    """The facts as a page."""
    count = len(found["violations"])
    lines = [
        "# Data quality of {}".format(found["endpoint"] or "a window"),
        "",
        "{} candidates against a baseline of {}: {}.".format(
            found["rows"], found["baseline_rows"],
            "no violations" if not count else "{} violation{}".format(count, "s" * (count > 1)),
        ),
    ]  # fmt: skip
    least = found["smallest_drift_seen"]
    if least is not None:
        lines += [
            "",
            f"The smallest drift that this run could have seen is {least:.3f}: where a feature's cumulative "
            "share differs from the baseline's by less than that, nothing is reported."
             + (" No drift is as large as that: take a longer window."
                              if least >= 1 else ""),
        ]  # fmt: skip
    if found["not_compared"]:
        lines += ["", "Answered, but in no baseline, so not compared: {}.".format(
            ", ".join(found["not_compared"]))]  # fmt: skip
    if count:
        lines += ["", "| feature | check | what was found |", "|---|---|---|"]
        lines += [
            "| {feature_name} | {constraint_check_type} | {description} |".format(**violation)
            for violation in found["violations"]
        ]
    for first, second in found["exchanged"]:
        lines += ["", f"**{first} looks like the baseline of {second}, and the other way round: the two columns "
                  "are exchanged.**"]  # fmt: skip
    for drift in sorted(found["drifted"], key=lambda drift: -drift["distance"]):
        lines += ["", "## {} went {}".format(drift["name"], drift["direction"]), ""]
        lines += paragraph(drift)
    return "\n".join(lines) + "\n"


def paragraph(drift):
    """One drifted feature."""
    shift = drift["shift_in_baseline_std"]
    moved = "The baseline has no variance" if shift is None else (
        f"Its mean moved by {shift:+.2f} standard deviations of the baseline"
    )  # fmt: skip
    lines = [
        "{}, from {:.6g} to {:.6g}. The two differ most at {:.6g}: {:.1%} of the baseline lie there or "
        "below, {:.1%} of the window.".format(
            moved, drift["baseline_mean"], drift["window_mean"], drift["furthest_apart_at"],
            drift["share_of_baseline_there"], drift["share_of_window_there"],
        ),
        "",
        "What usually does that: {}.".format(drift["usually"]),
        "",
        "| quantile | " + " | ".join(f"{share:.0%}" for share in drift["shares"]) + " |",
        "|---|" + "---|" * len(drift["shares"]),
    ]  # fmt: skip
    for name in ("baseline", "window"):
        values = drift[name + "_quantiles"]
        lines.append("| {} | {} |".format(name, " | ".join(f"{v:.6g}" for v in values)))
    lines += ["", "```", *bars_of(drift["histogram"]), "```"]
    if drift["candidates"]:
        lines += ["", "Captured candidates that show it:", ""]
        lines += [
            "- event {event_id}, row {event_row}: {value:.6g}".format(**candidate)
            for candidate in drift["candidates"]
        ]
    return lines


def bars_of(bars):
    """The histogram as text: the baseline's bar, the window's below it."""
    longest = max(max(bar["baseline"], bar["window"]) for bar in bars)
    lines = []
    for bar in bars:
        for name, mark in (("baseline", "░"), ("window", "█")):
            where = "{:>12.5g}".format(bar["from"]) if name == "baseline" else " " * 12
            drawn = mark * int(round(BAR * bar[name] / longest))
            lines.append("{} {:<{}} {:5.1%} {}".format(where, drawn, BAR, bar[name], name))
    return lines
