"""What the model looks at: Shapley values of its features, ranked as they were at baseline time.

Exact: of n features all 2^n coalitions are asked, so there is no sampling error and `num_samples`, of
which Kernel SHAP needs many, decides nothing. What a feature outside a coalition is worth is read from
background rows: those of shap_config.baseline, else the centres of `num_clusters` clusters of the
baseline's file (one unless said, which is its mean), each weighted by its share of the rows.

The model explained is the one that the endpoint runs now.
"""

import io
from typing import Any, NamedTuple

import boto3
import numpy as np
import pandas as pd
from botocore.exceptions import BotoCoreError, ClientError

from . import answers, model
from .frame import EVENT_ID, EVENT_ROW, KEYS, SHAP_KEYS, Checked, Refused, read_configuration
from .shapley import clusters, ndcg, shapley

AGGREGATES = {
    "mean_abs": lambda values: np.abs(values).mean(axis=0),
    "median": lambda values: np.median(values, axis=0),
    "mean_sq": lambda values: (values * values).mean(axis=0),
}
MOST_FEATURES = 12
MOST_ROWS, LEAST_ROWS = 1000, 100  # explained: what is asked for is a mean, or a ranking
MOST_ANSWERS = 5_000_000  # of the model, in one run
LOGIT_EDGE = 1e-7  # probabilities are kept so far from 0 and 1
THRESHOLD = 0.9
LOCAL_VALUES = "explanations_shap/out.csv"


class Shap(NamedTuple):
    """A shap_config that was checked."""

    baseline: Any  # rows, an s3:// address, or None
    agg_method: str
    use_logit: bool
    save_local: bool
    seed: int
    num_clusters: int


# -- analysis_config.json -------------------------------------------------------------


def configuration(shap_config, headers, endpoint="", model_scores=None):
    """The document analysis_config.json; the label, the first header of the file, is left out.

    `model_scores`: which column of the answer is explained, by its place; all of them when absent.
    Raises Refused for a key that shap_config does not have, or a value that it cannot have.
    """
    shap_settings(shap_config)
    config = {
        "version": "1.0",
        "dataset_type": "text/csv",
        "headers": list(headers[1:]),
        "methods": {
            "shap": {
                "use_logit": False, "save_local_shap_values": True, "agg_method": "mean_abs",
                **shap_config,
            },
            "report": {"name": "report", "title": "Analysis Report"},
        },
        "predictor": {
            "endpoint_name": endpoint, "accept_type": "text/csv", "content_type": "text/csv",
        },
    }  # fmt: skip
    if model_scores not in (None, "", 0, "0"):  # 0 counts as absent, as in the original
        config["predictor"]["label"] = model_scores
    return config


def shap_settings(given):
    """The Shap of a shap_config; raises Refused with the key."""
    if not isinstance(given, dict):
        raise Refused("shap_config is no JSON object")
    unknown = sorted(set(given) - set(SHAP_KEYS))
    if unknown:
        raise Refused(
            f"shap_config has no {', '.join(unknown)}: its keys are {', '.join(SHAP_KEYS)}"
        )
    rows, clusters = given.get("baseline"), given.get("num_clusters")
    if rows is not None and clusters is not None:
        raise Refused(
            "shap_config has baseline and num_clusters: clusters are made where no baseline is given"
        )
    for key, least in (("num_samples", 1), ("seed", 0), ("num_clusters", 1)):
        value = given.get(key)
        if value is not None and (type(value) is not int or not least <= value < 2**32):
            raise Refused(f"shap_config: {key} is {value!r}, not a whole number from {least} on")
    for key in ("use_logit", "save_local_shap_values"):
        if given.get(key) not in (None, True, False):
            raise Refused(f"shap_config: {key} is {given[key]!r}, not true or false")
    method = given.get("agg_method") or "mean_abs"
    if method not in AGGREGATES:
        raise Refused(f"shap_config: agg_method is {method}, not one of {', '.join(AGGREGATES)}")
    saved = given.get("save_local_shap_values")
    return Shap(
        rows, method, bool(given.get("use_logit")), True if saved is None else bool(saved),
        given.get("seed") or 0, clusters or 1,
    )  # fmt: skip


def configured(settings, headers=()):
    """The analysis_config.json of a job; raises Refused."""
    endpoint, scores = settings.get("sagemaker_endpoint_name", ""), settings.get("model_scores")
    return read_configuration(
        settings, ("shap_config",), lambda asked: configuration(asked, headers, endpoint, scores)
    )


# -- runs -----------------------------------------------------------------------------


def baseline(table, settings):
    """What later windows are ranked by: analysis.json of the baseline's file, whose first column is
    the label; and the configuration with the background rows. Raises Refused."""
    config = configured(settings, [name for name in table.columns if name not in KEYS])
    names = config["headers"]
    missing = [name for name in names if name not in table]
    if missing:
        raise Refused(f"the baseline has no column {', '.join(missing)}")
    features = matrix(table, names, names)
    files, background = explained(table, names, features, config, settings)
    config["methods"]["shap"].pop("num_clusters", None)
    config["methods"]["shap"]["baseline"] = background[0].tolist()
    files["analysis.json"]["background_weights"] = background[1].tolist()
    files["monitor/analysis_config.json"] = config
    return files


def check(table, baseline_files, settings):
    """One window's ranking against the baseline's analysis.json; raises Refused."""
    before = labels_of(baseline_files.get("analysis.json", {}))
    config = configured(settings)
    names = config["headers"]
    asked = [name for name in table.columns if name not in KEYS]
    if len(asked) <= len(names):
        raise Refused(
            f"the captured records have {len(asked)} columns, too few for an answer and the "
            f"{len(names)} features of the baseline"
        )
    features = matrix(table, asked[-len(names) :], names)
    weights = baseline_files["analysis.json"].get("background_weights")
    files, _ = explained(table, names, features, config, settings, weights)
    now = labels_of(files["analysis.json"])
    found, scores = [], {}
    for label, values in before.items():
        if label not in now or set(values["global_shap_values"]) != set(names):
            raise Refused(
                f"analysis.json of the baseline explains {label} by "
                f"{', '.join(values['global_shap_values'])}; the model answers {', '.join(now)} to "
                f"{', '.join(names)}"
            )
        scores[label] = ndcg(values["global_shap_values"], now[label]["global_shap_values"])
        if scores[label] < THRESHOLD:
            found.append(
                {
                    "label": label,
                    "metric_name": "shap",
                    "constraint_check_type": "feature_attribution_drift_check",
                    # SageMaker's words, though it is below.
                    "description": f"Feature attribution drift {scores[label]} exceeds threshold "
                    f"{THRESHOLD}",
                }
            )
    files["constraint_violations.json"] = {"version": "1.0", "violations": found}
    files.update(report(files["analysis.json"], before, scores))
    return Checked(files, found, for_cloudwatch(now))


def labels_of(analysis):
    found = analysis.get("explanations", {}).get("kernel_shap")
    if not isinstance(found, dict) or not found:
        raise Refused("analysis.json of the baseline holds no explanations by kernel_shap")
    return found


def matrix(table, columns, names):
    """Columns of a table as an array (n, features); raises Refused for what is no number."""
    if not len(table):
        raise Refused("there are no rows to explain")
    if not 1 <= len(columns) <= MOST_FEATURES:
        raise Refused(
            f"{len(columns)} features have 2^{len(columns)} coalitions: exact Shapley values are for at "
            f"most {MOST_FEATURES}"
        )
    return np.column_stack(
        [answers.numbers(table, table[column], name) for column, name in zip(columns, names)]
    )


def explained(table, names, features, config, settings, weights=None):
    """The files of a run, and the (background rows, their weights) that it used; raises Refused."""
    shap = shap_settings(
        {key: value for key, value in config["methods"]["shap"].items() if value is not None}
    )
    background = background_of(shap, features, weights)
    random = np.random.RandomState(shap.seed)
    count = rows_explained(len(features), len(names), len(background[0]))
    chosen = np.sort(random.permutation(len(features))[:count])
    ask = model.of_endpoint(settings)
    values, expected = shapley(
        lambda rows: score(ask(rows), config, settings, shap.use_logit),
        features[chosen], *background,
    )  # fmt: skip
    labels = {
        f"label{place}": {
            "global_shap_values": dict(
                zip(names, AGGREGATES[shap.agg_method](values[:, :, place]).tolist())
            ),
            "expected_value": float(expected[place]),
        }
        for place in range(values.shape[2])
    }
    analysis = {
        "version": "1.0",
        "explanations": {"kernel_shap": labels},
        "explained": {**ask.about, "rows": int(count), "of": len(features)},
    }
    files = {"analysis.json": analysis}
    if shap.save_local:
        files[LOCAL_VALUES] = local_values(table.iloc[chosen], names, values)
    return files, background


def score(answer, config, settings, use_logit):
    """The columns of an answer that are explained, (n, k): model_scores, else the probability or the
    prediction that the job names, else all."""
    wanted = config.get("predictor", {}).get("label")
    for key in ("probability_attribute", "inference_attribute"):
        wanted = settings.get(key) or None if wanted in (None, "") else wanted
    if wanted is not None:
        if not str(wanted).isdigit() or int(wanted) >= answer.shape[1]:
            raise Refused(
                f"the model answers {answer.shape[1]} columns, counted from 0; there is no {wanted}"
            )
        answer = answer[:, [int(wanted)]]
    if not use_logit:
        return answer
    if (answer < 0).any() or (answer > 1).any():
        raise Refused(
            "use_logit is for probabilities, but the model answers numbers beyond 0 and 1"
        )
    inner = np.clip(answer, LOGIT_EDGE, 1 - LOGIT_EDGE)
    return np.log(inner / (1 - inner))


def local_values(rows, names, values):
    """explanations_shap/out.csv: a column a feature and label, and which captured row it was."""
    columns = {
        f"{name}_label{label}": values[:, place, label]
        for label in range(values.shape[2])
        for place, name in enumerate(names)
    }
    for key in (EVENT_ID, EVENT_ROW):
        if key in rows:
            columns[key] = rows[key].to_numpy()
    return pd.DataFrame(columns).to_csv(index=False)


# -- what absent features are worth ---------------------------------------------------


def background_of(shap, features, weights):
    """Background rows (b, features) and their weights (b,); raises Refused."""
    if shap.baseline is None:
        return clusters(features, shap.num_clusters, shap.seed)
    rows = downloaded(shap.baseline) if isinstance(shap.baseline, str) else shap.baseline
    try:
        rows = np.array(rows, dtype=float, ndmin=2)
    except (TypeError, ValueError):
        raise Refused("shap_config: baseline holds rows that are no lists of numbers") from None
    if rows.ndim != 2 or not rows.size or rows.shape[1] != features.shape[1]:
        raise Refused(
            f"shap_config: the rows of baseline have {rows.shape[-1]} columns, not the "
            f"{features.shape[1]} features"
        )
    if not np.isfinite(rows).all():
        raise Refused("shap_config: baseline holds a number that is missing or infinite")
    if weights is None or len(weights) != len(rows):
        weights = np.full(len(rows), 1 / len(rows))
    return rows, np.asarray(weights, dtype=float)


def downloaded(uri):
    """The rows of a CSV file in S3, with or without a header; raises Refused."""
    bucket, _, key = uri.replace("s3://", "", 1).partition("/")
    if not uri.startswith("s3://") or not key:
        raise Refused(f"shap_config: baseline is {uri}, not rows and not s3://bucket/key")
    try:
        body = boto3.client("s3").get_object(Bucket=bucket, Key=key)["Body"].read()
        table = pd.read_csv(io.BytesIO(body), header=None, dtype=str)
    except (ClientError, BotoCoreError, ValueError) as error:
        raise Refused(f"shap_config: baseline {uri} cannot be read: {error}") from None
    has_header = pd.to_numeric(table.iloc[0], errors="coerce").isna().all()
    return table.iloc[1 if has_header else 0 :].to_numpy()


def rows_explained(rows, features, backgrounds):
    """How many rows are explained; raises Refused when the background allows too few."""
    affordable = MOST_ANSWERS // (2**features * backgrounds)
    if affordable < min(rows, LEAST_ROWS):
        most = MOST_ANSWERS // (2**features * LEAST_ROWS)
        raise Refused(
            f"{backgrounds} background rows for {features} features ask the model too often: "
            f"shap_config's baseline or num_clusters may have {most}"
        )
    return min(rows, MOST_ROWS, affordable)


# -- what was found ------------------------------------------------------------------


def report(analysis, before, scores):
    """report.json and report.md: which model was explained, and each feature's rank then and now."""
    now, about = labels_of(analysis), analysis["explained"]
    found = {
        "explained": about,
        "labels": [
            {
                "label": label,
                "ndcg": scores[label],
                "threshold": THRESHOLD,
                "features": [
                    {
                        "name": name,
                        "baseline": before[label]["global_shap_values"][name],
                        "now": value,
                    }
                    for name, value in sorted(
                        now[label]["global_shap_values"].items(), key=lambda item: -abs(item[1])
                    )
                ],
            }
            for label in before
        ],
    }
    lines = [
        f"# What the model of {about['endpoint']} looks at",
        "",
        f"Explained: {about['model_name']} ({about['model_data_url']}), the model that the endpoint runs "
        "now, by exact Shapley values of "
        f"{about['rows']} of {about['of']} captured candidates. AWS's monitor would have explained the "
        "model of the time of its baseline.",
    ]
    for label in found["labels"]:
        lines += [
            "",
            f"## {label['label']}: NDCG {label['ndcg']:.4f}, at least {THRESHOLD} wanted",
            "",
            "| feature | now | at baseline |",
            "|---|---|---|",
        ]
        lines += [
            "| {name} | {now:.6g} | {baseline:.6g} |".format(**feature)
            for feature in label["features"]
        ]
    return {"report.json": found, "report.md": "\n".join(lines) + "\n"}


def for_cloudwatch(labels):
    def metric(name, label, kind, value):
        dimensions = {"ExplainabilityMethod": "KernelShap", "Label": label, "ValueType": kind}
        listed = [{"Name": key, "Value": text} for key, text in dimensions.items()]
        return {"MetricName": name, "Dimensions": listed, "Value": value, "Unit": "None"}

    told = []
    for label, values in labels.items():
        for name, value in values["global_shap_values"].items():
            told.append(metric(f"feature_{name}", label, "GlobalShapValues", value))
        told.append(metric("ExpectedValue", label, "ExpectedValue", values["expected_value"]))
    return told
