"""Whether the model, or its data, treats one kind of candidates otherwise than the others.

The metrics are those of smclarify, AWS's own library, and analysis.json has SageMaker Clarify's shape.
The facet and the label are told apart here: in the library a million rows of numbers take minutes, and
a column of zeros and ones is taken for a continuous one when there are few rows.

A metric that is further from its neutral point than at baseline is a violation. In a baseline of ours
each metric has its `room_for_chance` (chance.py), and must be further by more than that. Clarify's own has
none: it is taken to be exact, as Model Monitor takes it.
"""

import numpy as np
import pandas as pd
from smclarify.bias import metrics as clarify
from smclarify.bias.metrics import common

from . import answers, chance, model
from .frame import BIAS_KEYS, KEYS, PREDICTED_KEYS, Checked, Refused, read_configuration

PRE, POST = "pre_training_bias_metrics", "post_training_bias_metrics"
UNIQUE_SHARE = 0.05  # of integers; from there on the library takes them for continuous
FLIP_TEST_ROWS = 5000  # nearest neighbours of more take minutes
SEED = 7
NEUTRAL = {"DI": 1.0}  # a ratio; all others are differences
ROOM = "room_for_chance"
INFINITE = 2.348543e108  # what CloudWatch is told instead
STAGES = {PRE: "Pre-training", POST: "Post-Training"}
FUNCTIONS = {PRE: clarify.PRETRAINING_METRICS, POST: clarify.POSTTRAINING_METRICS}


# -- analysis_config.json -------------------------------------------------------------


def configuration(bias_config, predicted_label_config, headers, endpoint=""):
    """The document analysis_config.json. The label is the first of the headers of the baseline's file.

    Raises Refused for a key that neither object has, and for a name that is no header.
    """
    known_keys("bias_config", bias_config, BIAS_KEYS)
    predicted_label_config = predicted_label_config or {}
    known_keys("model_predicted_label_config", predicted_label_config, PREDICTED_KEYS)
    for key in BIAS_KEYS[:2]:
        if bias_config.get(key) in (None, "", []):
            raise Refused(f"bias_config: {key} is missing")
    config = {
        "version": "1.0",
        "dataset_type": "text/csv",
        "headers": list(headers),
        "label": headers[0],
        "label_values_or_threshold": listed(bias_config["label_values_or_threshold"]),
        "facet": facets(bias_config),
    }
    if bias_config.get("group_name"):
        config["group_variable"] = bias_config["group_name"]
    config["methods"] = {
        "report": {"name": "report", "title": "Analysis Report"},
        "pre_training_bias": {"methods": "all"},
        "post_training_bias": {"methods": "all"},
    }
    config["predictor"] = {
        "endpoint_name": endpoint, "accept_type": "text/csv", "content_type": "text/csv",
    }  # fmt: skip
    for key in ("label", "probability", "label_headers"):
        if predicted_label_config.get(key) is not None:
            config["predictor"][key] = predicted_label_config[key]
    above = predicted_label_config.get("probability_threshold")
    config["probability_threshold"] = 0.5 if above is None else above
    named = [facet["name_or_index"] for facet in config["facet"]]
    for name in named + [config[key] for key in ("group_variable",) if key in config]:
        if header(config, name) == headers[0]:
            raise Refused(f"bias_config: {name} is the label, so no facet and no group")
    return config


def known_keys(what, given, known):
    if not isinstance(given, dict):
        raise Refused(f"{what} is no JSON object")
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise Refused(f"{what} has no {', '.join(unknown)}: its keys are {', '.join(known)}")


def listed(value):
    return value if isinstance(value, list) else [value]


def facets(bias_config):
    """bias_config's facet or facets, each with its values where there are any."""
    names, values = bias_config["facet_name"], bias_config.get("facet_values_or_threshold")
    if not isinstance(names, list):
        names, values = [names], [values]
    values = values or [None] * len(names)
    if len(values) != len(names):
        raise Refused("bias_config: facet_values_or_threshold has a list for each facet_name")
    return [
        {"name_or_index": name}
        if value is None
        else {"name_or_index": name, "value_or_threshold": listed(value)}
        for name, value in zip(names, values)
    ]


def header(config, name_or_index):
    """A header by its name, or its place; raises Refused."""
    headers = config["headers"]
    if isinstance(name_or_index, int) and 0 <= name_or_index < len(headers):
        return headers[name_or_index]
    if name_or_index in headers:
        return name_or_index
    raise Refused(f"the baseline has no column {name_or_index}: it has {', '.join(headers)}")


def configured(settings, headers=()):
    """The analysis_config.json of a job; raises Refused."""
    endpoint = settings.get("sagemaker_endpoint_name", "")
    return read_configuration(
        settings, ("bias_config", "model_predicted_label_config"),
        lambda asked, predicted: configuration(asked, predicted, headers, endpoint),
    )  # fmt: skip


# -- runs -----------------------------------------------------------------------------


def baseline(table, settings):
    """What later windows are compared with: the bias of the baseline's labels, and of what the model
    of today answers to its features. Raises Refused."""
    config = configured(settings, [name for name in table.columns if name not in KEYS])
    label = header(config, config["label"])
    features = table[[name for name in config["headers"] if name != label]]
    ask = model.of_endpoint(settings)
    rows = np.column_stack([answers.numbers(table, features[name], name) for name in features])
    told = pd.DataFrame(ask(rows), index=table.index)
    predicted = predictions(told, config, settings)
    found = analysis(config, features, table[label], predicted)
    leave_room(found, features, *told_apart(config, features, table[label], predicted)[:2])
    return {"analysis.json": found, "monitor/analysis_config.json": config}


def check(table, baseline_files, settings):
    """One window with its ground truth against the baseline's analysis.json; raises Refused."""
    before = baseline_files.get("analysis.json", {})
    if not (before.get(PRE) or before.get(POST)):
        raise Refused("analysis.json of the baseline holds no metrics of bias")
    config = configured(settings)
    label = header(config, config["label"])
    names = [name for name in config["headers"] if name != label]
    asked = [name for name in table.columns if name not in KEYS]
    if len(asked) <= len(names):
        raise Refused(
            f"the captured records have {len(asked)} columns, too few for an answer and the "
            f"{len(names)} features of the baseline"
        )
    features = table[asked[-len(names) :]].set_axis(names, axis=1)
    told = table[asked[: -len(names)]]
    predicted = predictions(
        told.join(table[[key for key in KEYS if key in table]]), config, settings
    )
    found = analysis(config, features, answers.truth(table, settings), predicted, before)
    worse = violations(before, found, len(table))
    files = {
        "analysis.json": found,
        "constraint_violations.json": {"version": "1.0", "violations": worse},
        **report(before, found, worse, len(table), settings),
    }
    return Checked(files, worse, for_cloudwatch(found))


def predictions(told, config, settings):
    """The predicted labels in a table of answers: by the attributes of the job, else as
    model_predicted_label_config has it, else the first column."""
    predictor, settings = config.get("predictor", {}), dict(settings)
    if predictor.get("label_headers"):
        return most_probable(told, predictor)
    if not settings.get("inference_attribute") and not settings.get("probability_attribute"):
        if predictor.get("probability") is not None:
            settings["probability_attribute"] = str(predictor["probability"])
        else:
            settings["inference_attribute"] = str(predictor.get("label", 0))
    if settings.get("probability_attribute") and not settings.get("inference_attribute"):
        above = settings.get("probability_threshold_attribute")
        settings["probability_threshold_attribute"] = above or str(
            config.get("probability_threshold", 0.5)
        )
    told = told.rename(columns=str)
    if settings.get("probability_attribute") and settings.get("probability_threshold_attribute"):
        return pd.Series(answers.predicted(told, settings), index=told.index)
    return answers.column(told, settings, "inference_attribute")


def most_probable(told, predictor):
    """The label whose probability is the greatest: the last columns of the answer, one a header."""
    names = predictor["label_headers"]
    columns = [name for name in told.columns if name not in KEYS][-len(names) :]
    if len(columns) < len(names):
        raise Refused(f"the answer has fewer columns than label_headers has names: {len(columns)}")
    best = told[columns].to_numpy(dtype=float).argmax(axis=1)
    return pd.Series(np.array(names, dtype=object)[best], index=told.index)


# -- metrics --------------------------------------------------------------------------


def analysis(config, features, label, predicted, before=None):
    """The document analysis.json.

    `features`, `label`, `predicted`: columns of as many rows. What was continuous `before`, in a
    baseline's analysis.json, is so again, however few the rows. Raises Refused.
    """
    facets, known, told = told_apart(config, features, label, predicted, before)
    found = {"version": "1.0"}
    for stage, functions in FUNCTIONS.items():
        of = {}
        for name, text, facet in facets:
            metrics = measured(functions, features.drop(columns=name), facet, known)
            of.setdefault(name, []).append({"value_or_threshold": text, "metrics": metrics})
        found[stage] = {
            "label": header(config, config["label"]),
            "facets": of,
            "label_value_or_threshold": told,
        }
    return found


def told_apart(config, features, label, predicted, before=None):
    """What the metrics are of: (header, value, rows) of each value of each facet; the positive rows, predicted
    or true, and the group's; and the text of the label's value. Raises Refused."""
    if not len(features):
        raise Refused("there are no rows with an answer and a ground truth")
    wanted = config.get("label_values_or_threshold") or []
    kinds = kinds_of(before or {})
    continuous = kinds.get("", is_continuous(as_numbers(label), wanted))
    positive, told = selected(label, wanted, continuous, "the label")
    positive_predicted, _ = selected(predicted, wanted, continuous, "the prediction")
    group = config.get("group_variable")
    facets = [
        (name, text, facet)
        for name, given in facets_of(config)
        for facet, text in sensitive(features[name], given, kinds.get(name))
    ]
    group = features[header(config, group)] if group else None
    return facets, asked(positive, positive_predicted, group), told


def asked(positive, predicted, group):
    """The columns that all facets have in common, under the names of the library."""
    return {
        "positive_label_index": positive, "label": positive,
        "positive_predicted_label_index": predicted, "predicted_label": predicted,
        "group_variable": group,
    }  # fmt: skip


def facets_of(config):
    for facet in config["facet"]:
        yield header(config, facet["name_or_index"]), facet.get("value_or_threshold") or []


def kinds_of(before):
    """Whether each facet of an analysis.json is continuous, and under "" whether its label is."""
    kinds = {
        facet: value[0] in "(["
        for _, facet, _, value, _ in every_metric(before)
        if isinstance(value, str) and value
    }
    for stage in (PRE, POST):
        label = (before.get(stage) or {}).get("label_value_or_threshold")
        if label:
            kinds[""] = label[0] in "(["
    return kinds


def sensitive(values, given, continuous=None):
    """(rows of the facet, its name) of each facet of a column: one, or without values one a category."""
    what = f"the facet {values.name}"
    if continuous is None:
        continuous = is_continuous(as_numbers(values), given)
    if given or continuous:
        return [selected(values, given, continuous, what)]
    return [selected(values, [value], False, what) for value in sorted(values.unique())]


def is_continuous(values, given):
    """As the library tells it, but that two values are never continuous, be the rows few."""
    if len(given) > 1 or not pd.api.types.is_numeric_dtype(values):
        return False
    distinct = values.nunique()
    if distinct <= 2 and (values.dropna() % 1 == 0).all():
        return False
    return values.dtype.kind == "f" or distinct >= UNIQUE_SHARE * values.count()


def selected(values, given, continuous, what):
    """Which rows of a column have one of the given values, or are above a threshold; and its text.

    Raises Refused for a threshold, or a value above or below it, that is no number.
    """
    if not given:
        raise Refused(f"there is no value or threshold for {what}")
    if not continuous:
        names = [answers.class_name(value) for value in given]
        codes, distinct = pd.factorize(values)
        chosen = np.array([answers.class_name(value) in names for value in distinct] + [False])
        return pd.Series(chosen[codes], index=values.index), ",".join(map(str, given))
    try:
        above, numbers = float(given[0]), pd.to_numeric(values)
    except (TypeError, ValueError) as error:
        raise Refused(
            f"{what} has the threshold {given[0]}, but not all is a number: {error}"
        ) from None
    ends = pd.IntervalIndex.from_breaks(sorted([above, float(numbers.max())]))
    return numbers > above, ",".join(map(str, ends))


def as_numbers(values):
    """A column of text as numbers where all of it is."""
    if pd.api.types.is_numeric_dtype(values):
        return values
    try:
        return pd.to_numeric(values)
    except (ValueError, TypeError):
        return values


def measured(functions, rest, facet, known):
    """The metrics of one facet, by name, as Clarify lists them."""
    listed = []
    for function in sorted(functions, key=lambda function: function.__name__):
        name = function.__name__
        metric = {"name": name, "description": common.metric_description(function)}
        try:
            value = called(function, rest, facet, known)
            if np.isnan(value):
                raise ValueError("It is not defined")
            metric["value"] = float(value) if np.isfinite(value) else infinite(value)
        except ValueError as error:
            metric.update(value=None, error=str(error))
        listed.append(metric)
    return listed


def called(function, rest, facet, known):
    given = {"df": rest, "feature": facet, "sensitive_facet_index": facet, **known}
    if function.__name__ == "FT":
        given = {
            key: few(value) if isinstance(value, (pd.Series, pd.DataFrame)) else value
            for key, value in given.items()
        }
    return clarify.call_metric(function, **given)


def few(values):
    """At most FLIP_TEST_ROWS of the rows, the same of every column."""
    return values.sample(n=min(len(values), FLIP_TEST_ROWS), random_state=SEED)


def infinite(value):
    return "Infinity" if value > 0 else "-Infinity"


# -- drift ----------------------------------------------------------------------------


def leave_room(found, features, facets, known):
    """Write into each metric of a baseline's analysis.json that has a value its room for chance."""
    limits = {}
    for stage, facet, _, value, metric in every_metric(found):
        if metric["value"] is not None:
            limits.setdefault((facet, value), {})[stage, facet, value, metric["name"]] = metric
    populations = [
        population(features.drop(columns=name), facet, known, limits[name, value])
        for name, value, facet in facets
        if (name, value) in limits
    ]
    for key, room in chance.rooms(populations).items():
        limits[key[1:3]][key][ROOM] = room


def population(rest, facet, known, limits):
    """For chance.rooms: what measures a window by the metrics of one facet, and the weights of the rows.

    To the baseline's rows come those of kinds that it may have missed, such as a false positive within the
    facet: one of each kind that facet, label and prediction make.
    """
    seen = [int(np.argmax(facet == side)) for side in (False, True)]
    places = np.append(np.arange(len(facet)), np.repeat(seen, 4))
    positive, predicted = (
        np.append(known[key], np.tile(unseen, len(seen)))
        for key, unseen in (
            ("label", (False, False, True, True)), ("predicted_label", (False, True) * 2),
        )
    )  # fmt: skip
    weights = np.where(np.arange(len(places)) < len(facet), 1, chance.UNSEEN / 2)

    def measure(drawn):
        columns = rest, facet, known["group_variable"]
        rest_drawn, facet_drawn, group = (
            None if column is None else column.iloc[places[drawn]].reset_index(drop=True)
            for column in columns
        )
        told = asked(pd.Series(positive[drawn]), pd.Series(predicted[drawn]), group)
        now = {
            (stage, metric["name"]): metric
            for stage, functions in FUNCTIONS.items()
            for metric in measured(functions, rest_drawn, facet_drawn, told)
        }
        return {key: strayed(now[key[0], key[-1]], was) for key, was in limits.items()}

    return measure, weights


def has_room(document):
    return any(ROOM in metric for *_, metric in every_metric(document))


def every_metric(document):
    """(stage, label value, facet, place among its values, value, metric) of an analysis.json."""
    for stage in (PRE, POST):
        section = document.get(stage) or {}
        for facet, kinds in section.get("facets", {}).items():
            for place, kind in enumerate(kinds):
                for metric in kind["metrics"]:
                    yield stage, facet, place, kind["value_or_threshold"], metric


def strayed(now, was):
    """How much further from its neutral point a metric is than it was; nan where it has no value."""
    if now["value"] is None:
        return np.nan
    neutral = NEUTRAL.get(was["name"], 0.0)
    return abs(float(now["value"]) - neutral) - abs(float(was["value"]) - neutral)


def compared(before, now, rows):
    """(facet, value, metric, what it was, its room in a window of so many rows) of each metric that has a
    value in both documents. The values of a facet are matched by name; the interval of a threshold by
    its place, for its other end is the largest value of the data."""
    limits = {}
    for stage, facet, place, value, metric in every_metric(before):
        limits[stage, facet, place, metric["name"]] = limits[
            stage, facet, value, metric["name"]
        ] = metric
    for stage, facet, place, value, metric in every_metric(now):
        name, was = metric["name"], None
        for key in (value, place) if value[0] in "([" else (value,):
            was = limits.get((stage, facet, key, name), was)
        if was is not None and was["value"] is not None and metric["value"] is not None:
            room = chance.in_window(was[ROOM], rows) if ROOM in was else 0.0
            yield facet, value, metric, was, room


def violations(before, now, rows):
    """What is further from its neutral point than in the baseline, on either side of it, by more than
    its room for chance; of a baseline without, by anything. `rows`: of the window."""
    return [
        {
            "facet": facet,
            "facet_value": value,
            "metric_name": metric["name"],
            "constraint_check_type": "bias_drift_check",
            "description": f"Metric value {metric['value']} doesn't meet the baseline "
            f"constraint requirement {was['value']}"
            + (f", with {room} for chance" if room else ""),
        }
        for facet, value, metric, was, room in compared(before, now, rows)
        if strayed(metric, was) > room
    ]


def report(before, now, worse, rows, settings):
    """report.json and report.md: every metric beside the baseline's, with the smallest drift that would have
    been seen, and the violations."""
    endpoint = settings.get("sagemaker_endpoint_name", "")
    # Twice the error of a difference of shares, at its worst, between two halves of the rows.
    least = 2 / rows**0.5
    lines = [
        f"# Bias of {endpoint or 'a window'}",
        "",
        f"{rows} candidates with ground truth, {len(worse)} violations. "
        + (
            chance.words(rows)
            if has_room(before)
            else "Every metric that is further from its neutral point than at baseline is one, as if the baseline were "
            f"exact; a difference of shares that is smaller than {least:.3f} may be chance, and a larger one too "
            "where a facet, or what is true of it, is rare."
        ),
    ]
    if worse:
        lines += ["", "| facet | value | metric | what was found |", "|---|---|---|---|"]
        row = "| {facet} | {facet_value} | {metric_name} | {description} |"
        lines += [row.format(**violation) for violation in worse]
    metrics = [
        {
            "facet": facet, "facet_value": value, "metric_name": metric["name"],
            "baseline": was["value"], "now": metric["value"],
            "smallest_drift_seen": room if np.isfinite(room) else None,
        }
        for facet, value, metric, was, room in compared(before, now, rows)
    ]  # fmt: skip
    lines += [
        "",
        "| facet | value | metric | baseline | now | smallest drift seen, – for none |",
        "|---|---|---|---|---|---|",
    ]
    row = "| {facet} | {facet_value} | {metric_name} | {baseline} | {now} | {smallest_drift_seen} |"
    lines += [
        row.format(**{key: "–" if told is None else told for key, told in metric.items()})
        for metric in metrics
    ]
    facts = {"endpoint": endpoint, "rows": rows, "violations": worse, "metrics": metrics}
    return {"report.json": facts, "report.md": "\n".join(lines) + "\n"}


def for_cloudwatch(found):
    told = []
    for stage, facet, _, value, metric in every_metric(found):
        if metric["value"] is None:
            continue
        dimensions = {
            "BiasStage": STAGES[stage], "Label": found[stage]["label"],
            "LabelValue": found[stage]["label_value_or_threshold"], "Facet": facet, "FacetValue": value,
        }  # fmt: skip
        number = float(metric["value"])
        told.append(
            {
                "MetricName": f"bias_metric_{metric['name']}",
                "Dimensions": [{"Name": key, "Value": text} for key, text in dimensions.items()],
                "Value": number if np.isfinite(number) else float(np.copysign(INFINITE, number)),
                "Unit": "None",
            }
        )
    return told
