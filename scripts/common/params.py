"""params.yaml: every number of the pipeline, each key known and of the right type."""

from pathlib import Path

import yaml

from common import ROOT
from common.errors import BadParams

NETWORK = {
    "hidden": int, "activation": str, "alpha": float,
    "epochs": int, "batch": int, "learning_rate": float,
}  # fmt: skip
SCHEMA = {
    "image": str,
    "data": {"source": str, "simulated_candidates": int, "simulated_pulsars": int, "seed": int},
    "prepare": {"test_share": float, "seed": int},
    "train": {
        "estimator": str,
        "seed": int,
        "threshold": str,
        "max_fpr": float,
        "threshold_folds": int,
        "networks": {"seeds": int, "power": NETWORK, "standard": NETWORK},
        "gradient_boosting": {
            "learning_rate": float,
            "iterations": int,
            "leaves": int,
            "l2": float,
        },
        "logistic": {"C": float},
        "random_forest": {"n_estimators": int},
    },
    "evaluate": {"folds": int, "repeats": int, "blocks": int, "bootstrap": int, "seed": int},
    "gate": {
        "min_recall": float,
        "max_fpr": float,
        "min_average_precision": float,
        "max_drop": float,
    },
    "sandbox": {"commands": dict},
}


def load_params(path: Path | None = None) -> dict:
    """params.yaml, every key known and of the right type; BadParams names the one that is not."""
    path = path or ROOT / "params.yaml"
    try:
        params = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise BadParams(f"{path.name} cannot be read: {error}") from None
    _check(params, SCHEMA, "")
    return params


def _check(value: object, schema: object, where: str) -> None:
    if isinstance(schema, dict):
        if not isinstance(value, dict):
            raise BadParams(f"params.yaml: {where or 'the file'} must be a section with keys")
        for key in value.keys() - schema.keys():
            known = ", ".join(sorted(schema))
            raise BadParams(f"params.yaml: unknown key {where}{key}", f"one of: {known}")
        for key in schema.keys() - value.keys():
            raise BadParams(f"params.yaml: {where}{key} is missing")
        for key, below in schema.items():
            _check(value[key], below, f"{where}{key}." if isinstance(below, dict) else where + key)
        return
    number_for_float = schema is float and isinstance(value, int)
    if isinstance(value, bool) or not (isinstance(value, schema) or number_for_float):
        raise BadParams(f"params.yaml: {where} must be {schema.__name__}, not {value!r}")
