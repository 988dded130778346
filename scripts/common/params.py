"""params.yaml: every number of the pipeline, each key known and each value one that can be meant."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import yaml

from common import ROOT
from common.errors import BadParams


@dataclass(frozen=True)
class Rule:
    """What a value may be: in words, and as a test of it."""

    words: str
    holds: Callable[[object], bool]


def _is_a(kind: type, value: object) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)  # a bool is an int to Python


def whole(least: int, most: int) -> Rule:
    return Rule(
        f"a whole number from {least} to {most}",
        lambda value: _is_a(int, value) and least <= value <= most,
    )


def number(least: float, most: float) -> Rule:
    """NaN is in no range."""
    return Rule(
        f"a number from {least:g} to {most:g}",
        lambda value: _is_a(int | float, value) and least <= value <= most,
    )


def one_of(*names: str) -> Rule:
    return Rule(f"one of {', '.join(names)}", lambda value: value in names)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and value.strip() != ""


TEXT = Rule("some text", _is_text)
COMMANDS = Rule(
    "a mapping from image URIs to commands",
    lambda value: isinstance(value, dict) and all(_is_text(t) for kv in value.items() for t in kv),
)
SEED = whole(0, 2**31 - 1)
SHARE = number(0, 1)
# The bounds are wide; they keep out what cannot be meant, or what scikit-learn would stumble over.
STEP = number(1e-6, 1)  # a learning rate
NETWORK = {
    "hidden": whole(1, 4096),
    "activation": one_of("identity", "logistic", "tanh", "relu"),
    "alpha": number(0, 1e6),
    "epochs": whole(1, 10_000),
    "batch": whole(1, 1_000_000),
    "learning_rate": STEP,
}
ESTIMATORS = {
    "networks": {"seeds": whole(1, 100), "power": NETWORK, "standard": NETWORK},
    "gradient_boosting": {
        "learning_rate": STEP,
        "iterations": whole(1, 10_000),
        "leaves": whole(2, 10_000),
        "l2": number(0, 1e6),
    },
    "logistic": {"C": number(1e-6, 1e6)},
    "random_forest": {"n_estimators": whole(1, 10_000)},
}
SCHEMA = {
    "image": TEXT,  # that there is such an image is for orchestrator/images.py to say
    "data": {
        "source": TEXT,
        "simulated_candidates": whole(200, 10_000_000),
        "simulated_pulsars": whole(100, 10_000_000),
        "seed": SEED,
    },
    "survey": {
        "centre_ghz": number(0.01, 100),
        "band_mhz": number(0.1, 50_000),
        "channels": whole(1, 1_000_000),
        "sample_us": number(0.1, 1e6),
        "integration_s": number(1, 1e6),
        "dm_trials": whole(8, 100_000),
        "snr_threshold": number(0.1, 100),
        "rfi_share": SHARE,
    },
    "prepare": {"test_share": number(0.01, 0.9), "seed": SEED},
    "train": {
        "estimator": one_of(*ESTIMATORS),
        "seed": SEED,
        "threshold": one_of("fpr", "g_mean", "f1"),
        "max_fpr": SHARE,
        "threshold_folds": whole(2, 50),
        **ESTIMATORS,
    },
    "evaluate": {
        "folds": whole(2, 50),
        "repeats": whole(1, 1000),
        "blocks": whole(2, 50),
        "bootstrap": whole(1, 1_000_000),
        "seed": SEED,
    },
    "gate": {
        "min_recall": SHARE,
        "max_fpr": SHARE,
        "min_average_precision": SHARE,
        "max_drop": SHARE,
    },
    "sandbox": {"commands": COMMANDS},
}


def load_params(path: Path | None = None) -> dict:
    """params.yaml, checked; BadParams names the key that is wrong, its value, and what it may be."""
    path = path or ROOT / "params.yaml"
    try:
        params = yaml.safe_load(path.read_text())
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise BadParams(f"{path.name} cannot be read: {error}") from None
    _check(params, SCHEMA, "")
    return params


def _check(value: object, schema: dict | Rule, where: str) -> None:
    if isinstance(schema, Rule):
        if not schema.holds(value):
            raise BadParams(f"params.yaml: {where} must be {schema.words}, not {value!r}")
        return
    if not isinstance(value, dict):
        raise BadParams(f"params.yaml: {where or 'the file'} must be a section with keys")
    prefix = f"{where}." if where else ""
    for key in value.keys() - schema.keys():
        known = ", ".join(sorted(schema))
        raise BadParams(f"params.yaml: unknown key {prefix}{key}", f"one of: {known}")
    for key in schema.keys() - value.keys():
        raise BadParams(f"params.yaml: {prefix}{key} is missing")
    for key, below in schema.items():
        _check(value[key], below, prefix + key)
