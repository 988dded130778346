"""What the four analyzers share: what they answer, and how they refuse.

An analyzer is a module with two functions:

    baseline(table, settings) -> {file name: document}        what later runs are compared with
    check(table, baseline_files, settings) -> Checked         one window against it

`table` has a row a candidate: the columns of the endpoint's answer, then those of the request,
named as in the baseline where it has as many, `_c0`, `_c1`, … otherwise; then `event_id` and
`event_row`, which say where a row was captured; after a merge also `ground_truth`. A baseline's table
has its file's columns alone. `settings` are the environment variables of the job, and for a check
`answer_columns`: how many of the first columns are the answer's.

This package is shipped: it runs on Python 3.8, and knows nothing but itself, the standard library,
numpy, pandas, scikit-learn and boto3.
"""

import json
from typing import Any, Dict, List, NamedTuple

EVENT_ID = "event_id"  # the caller's inference id, where one was sent, else the capture's event id
EVENT_ROW = "event_row"  # which row of that event's body, counted from 0
GROUND_TRUTH = "ground_truth"
KEYS = (EVENT_ID, EVENT_ROW, GROUND_TRUTH)  # what no model was given, and none answered

# What the free-form objects of a request may hold, as in the constructors of SageMaker's SDK.
BIAS_KEYS = ("label_values_or_threshold", "facet_name", "facet_values_or_threshold", "group_name")
PREDICTED_KEYS = ("label", "probability", "probability_threshold", "label_headers")
SHAP_KEYS = (
    "baseline", "num_samples", "agg_method", "use_logit", "save_local_shap_values", "seed",
    "num_clusters",
)  # fmt: skip


class Refused(Exception):
    """What a user can put right, in one sentence that names the key, the file or the row."""


class Checked(NamedTuple):
    """What a run found."""

    files: Dict[str, Any]  # file name to JSON document, or to text
    violations: List[dict]  # as in constraint_violations.json
    metrics: List[dict]  # for CloudWatch: MetricName, Value or StatisticValues, more Dimensions


def read_configuration(settings, keys, configuration):
    """The analysis_config.json that a job was given, else what `configuration` makes of the JSON objects that
    the settings have under `keys`. Raises Refused for what is no JSON."""
    what = settings.get("analysis_config")
    try:
        if what:
            with open(what, encoding="utf-8") as file:
                return json.load(file)
        given = []
        for what in keys:
            given.append(json.loads(settings.get(what) or "{}"))
    except (OSError, ValueError) as error:
        raise Refused(f"{what} is no JSON that can be read: {error}") from None
    return configuration(*given)


def needed(settings, name):
    """The value of a setting that there must be; raises Refused."""
    value = settings.get(name, "")
    if not value:
        raise Refused(f"the environment variable {name} is missing")
    return value


def one_of(settings, name, allowed):
    """The value of a setting that is one of `allowed`; raises Refused."""
    value = needed(settings, name)
    if value not in allowed:
        raise Refused(
            f"the environment variable {name} is {value}, not one of {', '.join(allowed)}"
        )
    return value
