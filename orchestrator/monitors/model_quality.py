"""How right the model is: its answers beside what was found to be true.

SageMaker's statistics.json, constraints.json and violations for BinaryClassification, Regression and
MulticlassClassification. SageMaker's limit is the baseline's value itself; a baseline of ours leaves room
for chance (chance.py): that of the largest windows in the limit, and that of windows of each size in
constraints.json under `room_for_chance`, which SageMaker ignores. A metric that a window does not define (the
recall of a window without pulsars) has the value "NaN", is no constraint, and violates none.
"""

import numpy as np
import pandas as pd
from sklearn.metrics import (
    average_precision_score,
    confusion_matrix,
    precision_recall_curve,
    roc_auc_score,
    roc_curve,
)

from . import answers, chance
from .frame import Checked, Refused, one_of

RESAMPLES = 5
RESAMPLED_SHARE = 0.8
LEAST_RESAMPLED = 200  # rows; below, SageMaker gives no standard deviation
SEED = 7
CURVE_POINTS = 101
NAN = "NaN"
LESS, GREATER = "LessThanThreshold", "GreaterThanThreshold"
BETAS = (("f0_5", 0.5), ("f1", 1.0), ("f2", 2.0))
WRONG_WHEN_GREATER = ("mae", "mse", "rmse", "false_positive_rate", "false_negative_rate")
EXACT = "Every difference is a violation; one that is smaller than the last column may be chance."
CONSTANT = "_best_constant_classifier"
ROOM = "room_for_chance"
SECTIONS = {
    "BinaryClassification": "binary_classification",
    "MulticlassClassification": "multiclass_classification",
    "Regression": "regression",
}


def baseline(table, settings):
    """What later windows are compared with. Of a binary problem the probability counts only with its
    threshold, as in the original. Raises Refused."""
    if answers.threshold(settings) is None and settings.get("inference_attribute"):
        settings = {**settings, "probability_attribute": ""}
    section = section_of(settings)
    measure, columns, beside = measured(table, settings)
    found = document(measure, columns, beside, section)
    written = constraints(found, section)
    limits = written[section + "_constraints"]
    room = chance.rooms([population(measure, columns, limits, section)])
    limits = widened(limits, margins(room, chance.WINDOWS[-1]))
    written[section + "_constraints"] = limits
    written[ROOM] = {name: room[name] for name in limits}
    return {"statistics.json": found, "constraints.json": written}


def check(table, baseline_files, settings):
    """One window with its ground truth against constraints.json; raises Refused."""
    section = section_of(settings)
    written = baseline_files.get("constraints.json", {})
    limits = written.get(section + "_constraints")
    if not isinstance(limits, dict):
        raise Refused(
            f"constraints.json holds no {section}_constraints: problem_type is "
            f"{settings['problem_type']}, but the baseline is of another"
        )
    found = document(*measured(table, settings), section)
    metrics = found[section + "_metrics"]
    unseen = sorted(name for name in limits if not is_number(metrics.get(name)))
    if unseen:
        print(f"not compared, as this window does not define them: {', '.join(unseen)}", flush=True)
    room, largest = (
        margins(written.get(ROOM, {}), rows) for rows in (len(table), chance.WINDOWS[-1])
    )
    endless = sorted(name for name in limits if not np.isfinite(room.get(name, 0.0)))
    if endless:
        print(f"not compared, as this window is too small: {', '.join(endless)}", flush=True)
    limits = widened(limits, {name: room[name] - largest[name] for name in room})
    worse = violations(metrics, limits)
    files = {
        "statistics.json": found,
        "constraints.json": constraints(found, section),
        "constraint_violations.json": {"violations": worse},
    }
    files.update(report(found, metrics, limits, worse, room, settings))
    return Checked(files, worse, for_cloudwatch(metrics))


def section_of(settings):
    return SECTIONS[one_of(settings, "problem_type", tuple(SECTIONS))]


# -- statistics -----------------------------------------------------------------------


def measured(table, settings):
    """What measures a table with predictions and truth, the columns it takes, and what is shown beside
    its numbers; raises Refused."""
    if not len(table):
        raise Refused("there are no rows with an answer and a ground truth")
    problem = {
        "binary_classification": binary,
        "multiclass_classification": multiclass,
        "regression": regression,
    }[section_of(settings)]
    return problem(table, settings)


def document(measure, columns, beside, section):
    """The document statistics.json."""
    return {
        "version": 0.0,
        "dataset": {"item_count": len(columns[0])},
        section + "_metrics": {**with_deviations(measure, columns), **beside},
    }


def with_deviations(measure, columns):
    """The metrics of `measure(*columns)`, each number with its deviation over random resamples."""
    values = measure(*columns)
    rows = len(columns[0])
    spread = {}
    if rows >= LEAST_RESAMPLED:
        random = np.random.RandomState(SEED)
        size = int(rows * RESAMPLED_SHARE)
        samples = []
        for _ in range(RESAMPLES):
            chosen = random.permutation(rows)[:size]
            samples.append(measure(*[column[chosen] for column in columns]))
        for name in numbers_of(values):
            spread[name] = float(np.std([sample[name] for sample in samples]))
    return {
        name: value
        if isinstance(value, dict)
        else {"value": told(value), "standard_deviation": told(spread.get(name, np.nan))}
        for name, value in values.items()
    }


def numbers_of(values):
    """Without the confusion matrix."""
    return {name: value for name, value in values.items() if not isinstance(value, dict)}


def told(value):
    return float(value) if np.isfinite(value) else NAN


def binary(table, settings):
    """What measures a binary problem; its columns, truth and prediction as 0 and 1, and the probability
    where there is one; and what is shown beside the numbers."""
    truth = answers.classes(table, answers.truth(table, settings), "ground truth")
    predicted = answers.predicted(table, settings)
    columns = [
        zeros_and_ones(table, truth, "ground truth"),
        zeros_and_ones(table, predicted, "prediction"),
    ]
    if not settings.get("probability_attribute"):
        return binary_metrics, columns, {}
    columns.append(answers.probability(table, settings))
    shown = curves(columns[0], columns[2]) if 0 < columns[0].sum() < len(table) else {}
    return binary_metrics, columns, shown


def zeros_and_ones(table, classes, what):
    other = ~np.isin(classes, ["0", "1"])
    if other.any():
        row = int(np.argmax(other))
        raise Refused(
            f"{answers.place(table, row)}: the {what} {classes[row]!r} is neither 0 nor 1"
        )
    return (classes == "1").astype(np.int8)


def binary_metrics(truth, predicted, probability=None):
    (tn, fp), (fn, tp) = confusion_matrix(truth, predicted, labels=[0, 1]).tolist()
    values = {
        "confusion_matrix": {"0": {"0": tn, "1": fp}, "1": {"0": fn, "1": tp}},
        "recall": share(tp, tp + fn),
        "precision": share(tp, tp + fp),
        "accuracy": share(tp + tn, len(truth)),
    }
    # Whoever calls everything a 1.
    positives, negatives = tp + fn, tn + fp
    constant = {
        "recall": share(positives, positives),
        "precision": share(positives, len(truth)),
        "accuracy": share(positives, len(truth)),
    }
    values.update({f"{name}_best_constant_classifier": constant[name] for name in constant})
    values["true_positive_rate"] = values["recall"]
    values["true_negative_rate"] = share(tn, negatives)
    values["false_positive_rate"] = share(fp, negatives)
    values["false_negative_rate"] = share(fn, positives)
    both = 0 < positives < len(truth)
    if probability is not None:
        values["auc"] = roc_auc_score(truth, probability) if both else np.nan
        values["au_prc"] = average_precision_score(truth, probability) if positives else np.nan
    for name, beta in BETAS:
        values[name] = f_score(beta, tp, fp, fn)
    for name, beta in BETAS:
        values[f"{name}_best_constant_classifier"] = f_score(beta, positives, negatives, 0)
    return values


def share(part, whole):
    return part / whole if whole else np.nan


def f_score(beta, tp, fp, fn):
    weight = beta * beta
    return share((1 + weight) * tp, (1 + weight) * tp + weight * fn + fp)


def curves(truth, probability):
    """Both curves, thinned out evenly: a million candidates have a million points."""
    false, true, _ = roc_curve(truth, probability)
    precisions, recalls, _ = precision_recall_curve(truth, probability)
    return {
        "receiver_operating_characteristic_curve": {
            "false_positive_rates": thinned(false),
            "true_positive_rates": thinned(true),
        },
        # sklearn's begins at the lowest threshold, SageMaker's at the highest.
        "precision_recall_curve": {
            "precisions": thinned(precisions[::-1]),
            "recalls": thinned(recalls[::-1]),
        },
    }


def thinned(curve):
    kept = np.linspace(0, len(curve) - 1, min(len(curve), CURVE_POINTS)).round().astype(int)
    return curve[kept].tolist()


def multiclass(table, settings):
    """What measures a problem of many classes, and its columns as places in the list of classes."""
    truth = answers.classes(table, answers.truth(table, settings), "ground truth")
    predicted = answers.predicted(table, settings)
    codes, names = pd.factorize(np.concatenate([truth, predicted]), sort=True)
    names = list(names)

    def measure(truth, predicted):
        return multiclass_metrics(names, truth, predicted)

    return measure, [codes[: len(truth)], codes[len(truth) :]], {}


def multiclass_metrics(names, truth, predicted):
    matrix = confusion_matrix(truth, predicted, labels=range(len(names)))
    # SageMaker's examples have the class "1", be it rare; without one, the most frequent.
    one = names.index("1") if "1" in names else int(matrix.sum(axis=1).argmax())
    constant = np.zeros_like(matrix)
    constant[:, one] = matrix.sum(axis=1)
    values = {
        "confusion_matrix": {
            name: dict(zip(names, row)) for name, row in zip(names, matrix.tolist())
        }
    }
    values.update(weighted(matrix))
    values.update(
        {f"{name}_best_constant_classifier": value for name, value in weighted(constant).items()}
    )
    return values


def weighted(matrix):
    """Accuracy, and the means of each class's scores weighted by how often it is true."""
    right, true, told = np.diag(matrix), matrix.sum(axis=1), matrix.sum(axis=0)
    weights = true / true.sum()

    def mean(part, whole):
        return float(np.sum(weights * part / np.where(whole == 0, 1, whole)))

    found = {
        "accuracy": float(right.sum() / true.sum()),
        "weighted_recall": mean(right, true),
        "weighted_precision": mean(right, told),
    }
    for name, beta in BETAS:
        square = beta * beta
        found[f"weighted_{name}"] = mean((1 + square) * right, square * true + told)
    return found


def regression(table, settings):
    """What measures a regression, and its columns."""
    truth = answers.numbers(table, answers.truth(table, settings), "ground truth")
    column = answers.column(table, settings, "inference_attribute")
    return regression_metrics, [truth, answers.numbers(table, column, "prediction")], {}


def regression_metrics(truth, predicted):
    error = predicted - truth
    square = float(np.mean(error * error))
    return {
        "mae": float(np.mean(np.abs(error))),
        "mse": square,
        "rmse": square**0.5,
        "r2": 1 - square / np.var(truth) if np.var(truth) > 0 else np.nan,
    }


# -- constraints and violations -------------------------------------------------------


def is_number(metric):
    return isinstance(metric, dict) and isinstance(metric.get("value"), (int, float))


def constraints(found, section):
    """The document constraints.json of statistics: no metric may be worse than it is there."""
    limits = {
        name: {
            "threshold": metric["value"],
            "comparison_operator": GREATER if name in WRONG_WHEN_GREATER else LESS,
        }
        for name, metric in found[section + "_metrics"].items()
        if is_number(metric) and not name.endswith(CONSTANT)
    }
    return {"version": 0.0, section + "_constraints": limits}


def population(measure, columns, limits, section):
    """For chance.rooms: what measures a window by the metrics that have limits, and the weights of the rows.

    To the baseline's rows of a classification come those of kinds that it may have missed: each class
    with each answer.
    """
    was = measure(*columns)
    weights = np.ones(len(columns[0]))
    if section != SECTIONS["Regression"]:
        truths, told = (np.unique(column, return_index=True)[1] for column in columns[:2])
        places = np.repeat(truths, len(told)), *[np.tile(told, len(truths))] * (len(columns) - 1)
        columns = [np.append(column, column[unseen]) for column, unseen in zip(columns, places)]
        weights = np.append(weights, np.full(len(places[0]), chance.UNSEEN / len(told)))

    def strayed(places):
        now = measure(*[column[places] for column in columns])
        return {
            name: (now[name] - was[name]) * (1 if name in WRONG_WHEN_GREATER else -1)
            for name in limits
        }

    return strayed, weights


def margins(room, rows):
    """The room of each metric in a window of so many rows."""
    return {name: chance.in_window(each, rows) for name, each in room.items()}


def widened(limits, room):
    """Limits that leave more room, by metric; one with no end to its room is none."""
    found = {}
    for name, limit in limits.items():
        margin = room.get(name, 0.0)
        if np.isfinite(margin):
            sign = 1 if limit["comparison_operator"] == GREATER else -1
            found[name] = {**limit, "threshold": limit["threshold"] + sign * margin}
    return found


def violations(metrics, limits):
    """The violations of limits, in their order; raises Refused for a limit that is none."""
    found = []
    for name, limit in limits.items():
        try:
            bound, operator = float(limit["threshold"]), limit["comparison_operator"]
            worse = {LESS: lambda x, y: x < y, GREATER: lambda x, y: x > y}[operator]
        except (TypeError, ValueError, KeyError) as error:
            raise Refused(
                f"constraints.json: {name} has no threshold and comparison_operator "
                f"({LESS}, {GREATER}): {error}"
            ) from None
        metric = metrics.get(name)
        if is_number(metric) and worse(metric["value"], bound):
            found.append(
                {
                    "constraint_check_type": operator,
                    "description": f"Metric {name} with {metric['value']} was {operator} {limit['threshold']}",
                    "metric_name": name,
                }
            )
    return found


def report(found, metrics, limits, worse, room, settings):
    """report.json and report.md: each limited metric beside its limit, and the smallest drift that would have
    been seen: by `room`, a number by metric, or what may be chance where the baseline leaves none."""
    rows = found["dataset"]["item_count"]
    facts = {
        "endpoint": settings.get("sagemaker_endpoint_name", ""),
        "rows": rows,
        "violations": worse,
        "metrics": [
            {
                "name": name,
                "limit": limit["threshold"],
                "now": metrics[name]["value"] if name in metrics else NAN,
                "smallest_drift_seen": room[name]
                if name in room
                else smallest_drift(name, metrics),
            }
            for name, limit in limits.items()
        ],
    }
    lines = [
        f"# Model quality of {facts['endpoint'] or 'a window'}",
        "",
        f"{rows} candidates with ground truth, {len(worse)} of {len(limits)} metrics beyond their limit. "
        + (chance.words(rows) if room else EXACT),
        "",
        "| metric | limit | now | smallest drift worth believing |",
        "|---|---|---|---|",
    ]
    lines += [
        "| {name} | {limit} | {now} | {smallest_drift_seen} |".format(**each)
        for each in facts["metrics"]
    ]
    return {"report.json": facts, "report.md": "\n".join(lines) + "\n"}


def smallest_drift(name, metrics):
    """Twice the standard error of a share that is counted over a number of rows; None of a metric that
    is no such share."""
    matrix = metrics.get("confusion_matrix", {})
    if set(matrix) != {"0", "1"} or not is_number(metrics.get(name)):
        return None
    (tn, fp), (fn, tp) = (matrix[true].values() for true in ("0", "1"))
    counted = {
        "recall": tp + fn, "true_positive_rate": tp + fn, "false_negative_rate": tp + fn,
        "true_negative_rate": tn + fp, "false_positive_rate": tn + fp, "precision": tp + fp,
        "accuracy": tn + fp + fn + tp,
    }  # fmt: skip
    if not counted.get(name):
        return None
    value = metrics[name]["value"]
    return 2 * (value * (1 - value) / counted[name]) ** 0.5


def for_cloudwatch(metrics):
    return [
        {"MetricName": name, "Dimensions": [], "Value": metric["value"], "Unit": "None"}
        for name, metric in metrics.items()
        if is_number(metric)
    ]
