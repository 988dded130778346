"""Data quality: does what is asked and answered still look like the baseline?

Statistics, constraints and violations in Model Monitor's schemas, distances as in Deequ, whichever side
wrote the baseline. Numbers are compared by the greatest difference D of two cumulative distributions,
text by that of the shares of its values; `Robust` takes 1.8 sqrt((n + m) / (n m)) off it, which is what
two samples of n and m rows of one distribution differ by in one case of 300.

A whole number is a Fractional, too. `is_non_negative` is written, and violated by nothing: SageMaker
has no check for it.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd

from . import words
from .frame import KEYS, Checked, Refused

SKETCH = {"c": 0.64, "k": 2048.0}
BUCKETS = 10
ROBUST = 1.8
# SageMaker writes 0.1, under which an RFI storm among simulated candidates (D = 0.13) is not to be seen.
COMPARISON = 0.05
CATEGORIES = 100  # a column of more different texts has no domain
METHODS = {
    "Simple": "Simple", "Robust": "Robust", "linf_simple": "Simple", "linf_robust": "Robust",
}  # fmt: skip


class Column(NamedTuple):
    """What a column holds."""

    kind: str  # Integral, Fractional, String, Unknown
    values: np.ndarray  # its finite numbers, or its texts where it is String
    rows: int
    present: int
    fractional: int  # numbers with a fraction
    numbers: int


def column(series):
    """Numbers and texts of a column of a table, counted."""
    values = series.to_numpy()
    if values.dtype.kind in "iu":
        return Column("Integral", values, len(values), len(values), 0, len(values))
    if values.dtype.kind == "f":
        finite = values[np.isfinite(values)]
        fractional = int(np.count_nonzero(finite != np.floor(finite)))
        present = len(values) - int(np.count_nonzero(np.isnan(values)))
        # Where cells are missing, pandas has whole numbers as floats.
        whole = present < len(values) and not fractional and present == len(finite)
        kind = "Integral" if whole else "Fractional"
        kind = kind if present else "Unknown"
        return Column(kind, finite, len(values), present, fractional, len(finite))
    there = series[series.notna()]
    numbers = pd.to_numeric(there, errors="coerce").to_numpy(dtype=float)
    finite = numbers[np.isfinite(numbers)]
    fractional = int(np.count_nonzero(finite != np.floor(finite)))
    kind = "String" if len(there) else "Unknown"
    texts = there.astype(str).to_numpy(dtype=object)
    return Column(kind, texts, len(series), len(there), fractional, len(finite))


def numbers(series):
    """The finite numbers of a column, also where texts are among them."""
    values = pd.to_numeric(series, errors="coerce").to_numpy(dtype=float)
    return values[np.isfinite(values)]


def features(table):
    return [name for name in table.columns if name not in KEYS]


# -- statistics -----------------------------------------------------------------------


def sketch(values):
    """Sorted numbers in the shape of a KLL sketch: an item of level i stands for 2^i values.

    Up to k = 2048 they are all there. Of more, each run of 2^i neighbours is stood for by the one in
    its middle, so that no rank is wrong by more than 2^(i-1); i is the least that leaves k items.
    What does not fill a last run goes into the lower levels.
    """
    size, top = len(values), 0
    while size >> top > SKETCH["k"]:
        top += 1
    levels, done = [[] for _ in range(top + 1)], 0
    for level in range(top, -1, -1):
        count = (size - done) >> level
        runs = values[done : done + (count << level)].reshape(count, 1 << level)
        levels[level] = runs[:, (1 << level) // 2].astype(float).tolist()
        done += count << level
    return levels


def numerical(found):
    """`numerical_statistics` of a column of numbers."""
    common = {"num_present": found.present, "num_missing": found.rows - found.present}
    if not len(found.values):
        return {"common": common}
    values = np.sort(found.values)
    low, high = float(values[0]), float(values[-1])
    edges = low + (high - low) * np.arange(BUCKETS + 1) / BUCKETS
    edges[-1] = high
    below = np.searchsorted(values, edges[:-1], side="left")
    counts = np.diff(np.append(below, len(values))).astype(float)
    if low == high:  # no variance: the last bucket has them all
        counts = np.append(np.zeros(BUCKETS - 1), float(len(values)))
    buckets = [
        {"lower_bound": float(left), "upper_bound": float(right), "count": float(count)}
        for left, right, count in zip(edges[:-1], edges[1:], counts)
    ]
    return {
        "common": common,
        "mean": float(values.mean()), "sum": float(values.sum()), "std_dev": float(values.std()),
        "min": low, "max": high,
        "distribution": {
            "kll": {"buckets": buckets, "sketch": {"parameters": SKETCH, "data": sketch(values)}}
        },
    }  # fmt: skip


def counted(texts):
    """How often each text is there."""
    return {str(value): int(count) for value, count in pd.Series(texts).value_counts().items()}


def textual(found):
    """`string_statistics` of a column of text."""
    counts = counted(found.values)
    kept = list(counts.items())[:CATEGORIES]
    return {
        "common": {"num_present": found.present, "num_missing": found.rows - found.present},
        "distinct_count": float(len(counts)),
        "distribution": {
            "categorical": {"buckets": [{"value": v, "count": count} for v, count in kept]}
        },
    }


def described(table):
    """statistics.json and constraints.json of a table."""
    statistics, constraints = [], []
    for name in features(table):
        found = column(table[name])
        about = {"name": str(name), "inferred_type": found.kind}
        completeness = found.present / found.rows if found.rows else 0.0
        limits = {**about, "completeness": completeness}
        if found.kind == "String":
            about["string_statistics"] = textual(found)
            domain = sorted(set(found.values))
            if len(domain) <= CATEGORIES and 2 * len(domain) <= found.present:
                limits["string_constraints"] = {"domains": domain}
        else:
            about["numerical_statistics"] = numerical(found)
            if len(found.values):
                limits["num_constraints"] = {"is_non_negative": bool(found.values.min() >= 0)}
        statistics.append(about)
        constraints.append(limits)
    return {
        "statistics.json": {
            "version": 0.0, "dataset": {"item_count": len(table)}, "features": statistics,
        },
        "constraints.json": {
            "version": 0.0, "features": constraints,
            "monitoring_config": {
                "evaluate_constraints": "Enabled", "emit_metrics": "Enabled",
                "datatype_check_threshold": 1.0, "domain_content_threshold": 1.0,
                "distribution_constraints": {
                    "perform_comparison": "Enabled", "comparison_threshold": COMPARISON,
                    "comparison_method": "Robust", "categorical_comparison_threshold": 0.1,
                    "categorical_drift_method": "LInfinity",
                },
            },
        },
    }  # fmt: skip


def baseline(table, settings):
    """statistics.json and constraints.json that later runs are compared with."""
    return described(table)


# -- distances ------------------------------------------------------------------------


class Distribution(NamedTuple):
    """A baseline's distribution: what its sketch or its categories say."""

    items: np.ndarray  # sorted
    weights: np.ndarray
    size: int  # rows behind it
    error: float  # of a cumulative share, as the sketch is compact


def distribution(statistics):
    """The numeric distribution of a feature of statistics.json, None where it has none."""
    kll = statistics.get("numerical_statistics", {}).get("distribution", {}).get("kll", {})
    levels = kll.get("sketch", {}).get("data", [])
    items = np.concatenate([np.asarray(level, dtype=float) for level in levels] or [np.empty(0)])
    if not len(items):
        return None
    weights = np.concatenate([np.full(len(level), 2.0**i) for i, level in enumerate(levels)])
    order = np.argsort(items, kind="stable")
    compact = len(levels) > 1
    # The error of a rank in a KLL sketch, 99 %, as in Apache DataSketches; our own have a tenth.
    error = 2.296 / kll["sketch"]["parameters"]["k"] ** 0.9021 if compact else 0.0
    size = int(statistics["numerical_statistics"]["common"]["num_present"])
    return Distribution(items[order], weights[order], size, error)


def furthest(known, values):
    """D of a baseline's distribution and sorted values, and where: (D, x, F_known, F_values).

    Between two neighbouring items of the baseline its share stands still while the other rises, so D is
    found at an item, or just before one.
    """
    at, last = np.unique(known.items[::-1], return_index=True)
    last = len(known.items) - 1 - last
    before_one = np.append(0.0, np.cumsum(known.weights)[last] / known.weights.sum())
    one = np.concatenate([before_one[1:], before_one[:-1]])
    two = np.concatenate([np.searchsorted(values, at, side) for side in ("right", "left")])
    two = two / len(values)
    best = int(np.abs(one - two).argmax())
    return (
        float(abs(one[best] - two[best])), float(at[best % len(at)]), float(one[best]),
        float(two[best]),
    )  # fmt: skip


def shares_apart(known, counts):
    """The greatest difference of a text's shares in two dictionaries of counts."""
    one, two = max(1, sum(known.values())), max(1, sum(counts.values()))
    return max(
        abs(known.get(text, 0) / one - counts.get(text, 0) / two) for text in {**known, **counts}
    )


def noise(n, m):
    """What Robust takes off a distance."""
    return ROBUST * ((n + m) / (n * m)) ** 0.5


def distance(apart, n, m, method):
    """Deequ's distance of D at n and m rows."""
    return apart if method == "Simple" else max(0.0, apart - noise(n, m))


# -- a run ----------------------------------------------------------------------------


class Limits(NamedTuple):
    """What constraints.json allows."""

    evaluate: bool
    emit: bool
    types: float
    domains: float
    compare: bool
    method: str
    numeric: float
    categorical: float


def limits(constraints):
    """Of constraints.json, with the schema's defaults; raises Refused for what cannot be kept."""
    config = constraints.get("monitoring_config", {})
    drift = config.get("distribution_constraints", {})
    method = drift.get("comparison_method", "Robust")
    if method not in METHODS:
        raise Refused(f"constraints.json: comparison_method is {method}, not Simple or Robust")
    if drift.get("categorical_drift_method", "LInfinity") != "LInfinity":
        raise Refused(
            "constraints.json: categorical_drift_method is {}; only LInfinity is computed".format(
                drift["categorical_drift_method"]
            )
        )
    threshold = drift.get("comparison_threshold", 0.1)
    return Limits(
        config.get("evaluate_constraints", "Enabled") == "Enabled",
        config.get("emit_metrics", "Enabled") == "Enabled",
        config.get("datatype_check_threshold", 1.0),
        config.get("domain_content_threshold", 1.0),
        drift.get("perform_comparison", "Enabled") == "Enabled",
        METHODS[method],
        threshold,
        drift.get("categorical_comparison_threshold", threshold),
    )


def is_evaluated(feature):
    """Whether a feature's own override, under either of its names, leaves its checks on."""
    own = feature.get("monitoringConfigOverrides") or feature.get("monitoring_config_overrides")
    return (own or {}).get("evaluate_constraints", "Enabled") == "Enabled"


def check(table, baseline_files, settings):
    """One window against statistics.json and constraints.json: a Checked. Raises Refused."""
    for name in ("constraints.json", "statistics.json"):
        if not isinstance(baseline_files.get(name, {}).get("features"), list):
            raise Refused(f"the baseline's {name} has no features")
    constraints = baseline_files["constraints.json"]
    known = {entry["name"]: entry for entry in baseline_files["statistics.json"]["features"]}
    allowed = limits(constraints)
    violations, drifts = [], []
    names = [entry["name"] for entry in constraints["features"]]
    for name, kind, text in counts_of_columns(table, names, settings):
        violations.append(violation(name, kind, text))
    for entry in constraints["features"]:
        name = entry["name"]
        if name not in table.columns:
            continue
        if name not in known:
            raise Refused(f"the baseline's statistics.json has no feature {name}")
        found = column(table[name])
        drift = drift_of(name, known[name], table[name], found, allowed) if found.present else None
        if drift:
            drifts.append(drift)
        if is_evaluated(entry):
            violations += checked(entry, found, drift, allowed)
    if not allowed.evaluate:
        violations = []
    files = described(table)
    if allowed.evaluate:
        files["constraint_violations.json"] = {"violations": violations}
    files.update(words.report(table, known, violations, drifts, settings))
    return Checked(files, violations, metrics(files, drifts) if allowed.emit else [])


def violation(name, kind, text):
    return {"feature_name": name, "constraint_check_type": kind, "description": text}


def counts_of_columns(table, names, settings):
    """The violation of a window with fewer or more columns than the baseline.

    The answer's columns that stand beside a label (`captured.names`) are no extra ones.
    """
    answers = int(settings.get("answer_columns") or 0)
    there = features(table)
    compared = [name for i, name in enumerate(there) if i >= answers or name in names]
    if len(compared) != len(names):
        word = "Missing" if len(compared) < len(names) else "Extra"
        text = (
            f"There are {word.lower()} columns in current dataset. Number of columns in current "
            f"dataset: {len(compared)}, Number of columns in baseline constraints: {len(names)}"
        )
        yield word + " columns", word.lower() + "_column_check", text


def drift_of(name, statistics, series, found, allowed):
    """How far a column is from its baseline: a words.Drift, None where they cannot be compared."""
    if not allowed.compare:
        return None
    known = distribution(statistics)
    if known:
        values = np.sort(found.values if found.kind in words.NUMERIC else numbers(series))
        if not len(values):
            return None
        apart, at, before, now = furthest(known, values)
        n, m = known.size, len(values)
        far = distance(apart, n, m, allowed.method)
        least = allowed.numeric + noise(n, m) * (allowed.method == "Robust") + known.error
        return words.Drift(name, n, m, apart, far, allowed.numeric, least, at, before, now, known)
    buckets = (
        statistics.get("string_statistics", {}).get("distribution", {})
        .get("categorical", {}).get("buckets")
    )  # fmt: skip
    if not buckets or found.kind != "String":
        return None
    known_counts = {str(bucket["value"]): bucket["count"] for bucket in buckets}
    n = statistics["string_statistics"]["common"]["num_present"]
    if sum(known_counts.values()) < n:  # too many texts for all to be listed
        return None
    apart = shares_apart(known_counts, counted(found.values))
    far = distance(apart, n, found.present, allowed.method)
    least = allowed.categorical + noise(n, found.present) * (allowed.method == "Robust")
    return words.Drift(
        name, n, found.present, apart, far, allowed.categorical, least, None, None, None, None
    )


def checked(entry, found, drift, allowed):
    """The violations of one feature, in the order type, completeness, domain, drift."""
    name, kind = entry["name"], entry["inferred_type"]
    matching = {
        "Integral": found.numbers - found.fractional, "Fractional": found.numbers,
        "String": found.present - found.numbers, "Unknown": found.present,
    }.get(kind, found.present)  # fmt: skip
    if found.present and matching / found.present < allowed.types:
        yield violation(
            name, "data_type_check",
            f"Data type match requirement is not met. Expected data type: {kind}, Expected match: "
            f"{allowed.types * 100}%. Observed: Only {matching / found.present * 100}% of data is "
            f"{kind}.",
        )  # fmt: skip
    complete = found.present / found.rows if found.rows else 0.0
    if complete < entry.get("completeness", 0.0):
        yield violation(
            name, "completeness_check",
            "Completeness requirement is not met. Expected completeness: {}%. Observed: Only {}% "
            "of data is complete.".format(entry["completeness"] * 100, complete * 100),
        )  # fmt: skip
    domain = entry.get("string_constraints", {}).get("domains")
    if domain and found.kind == "String":
        inside = int(pd.Series(found.values).isin(domain).sum()) / found.present
        if inside < allowed.domains:
            yield violation(
                name, "categorical_values_check",
                f"Value match requirement is not met. Expected match: {allowed.domains * 100}%. "
                f"Observed: Only {inside * 100}% of values are among the {len(domain)} of the baseline.",
            )  # fmt: skip
    if drift and drift.distance > drift.threshold:
        yield violation(
            name, "baseline_drift_check",
            f"Baseline drift distance: {drift.distance} exceeds threshold: {drift.threshold}",
        )  # fmt: skip


def metrics(files, drifts):
    """What CloudWatch is told: of each feature its numbers, its completeness and its drift."""
    told = []
    rows = files["statistics.json"]["dataset"]["item_count"]
    for entry in files["statistics.json"]["features"]:
        name = entry["name"]
        found = entry.get("numerical_statistics") or entry["string_statistics"]
        if "mean" in found:
            told.append({
                "MetricName": "feature_data_" + name,
                "StatisticValues": {
                    "SampleCount": found["common"]["num_present"], "Sum": found["sum"],
                    "Minimum": found["min"], "Maximum": found["max"],
                },
            })  # fmt: skip
        complete = found["common"]["num_present"] / rows if rows else 0.0
        told.append({"MetricName": "feature_non_null_" + name, "Value": complete})
    return told + [
        {"MetricName": "feature_baseline_drift_" + drift.name, "Value": drift.distance}
        for drift in drifts
    ]
