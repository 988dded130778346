"""What every script shares: errors, parameters, files and output.

    UserError                   something a user can mend: one line, exit code 1
    ├── BadParams               params.yaml
    ├── BadData                 a candidate file
    ├── GateFailed              the model is not good enough to be packaged
    └── TargetError             the sandbox or AWS: not there, refused, not as asked

A UserError says what is wrong and where, and what to type next. DEBUG=1 adds the trace.
"""

import hashlib
import json
import os
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # scripts run alone, and some need the orchestrator's package


class UserError(Exception):
    """`what` is wrong; `remedy` is the command or change that helps."""

    def __init__(self, what: str, remedy: str = "") -> None:
        super().__init__(what)
        self.remedy = remedy


class BadParams(UserError):
    pass


class BadData(UserError):
    pass


class GateFailed(UserError):
    pass


class TargetError(UserError):
    pass


def run(main: Callable[[], int | None]) -> None:
    """Run a script's main(): a UserError becomes two lines on stderr and exit code 1."""
    try:
        sys.exit(main())
    except UserError as error:
        if os.environ.get("DEBUG"):
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr)
        if error.remedy:
            print(f"  next: {error.remedy}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # `… | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)


# -- parameters -----------------------------------------------------------------------

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


# -- files and output -----------------------------------------------------------------


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file under a temporary name and rename it: never half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode() if isinstance(content, str) else content
    with tempfile.NamedTemporaryFile(
        dir=path.parent, prefix=f".{path.name}.", delete=False
    ) as file:
        try:
            file.write(data)
            file.flush()
            os.chmod(file.name, 0o644)
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise


def write_json(path: Path, value: object) -> None:
    write_atomically(path, json.dumps(value, indent=2) + "\n")


def read_json(path: Path, made_by: str) -> dict:
    """A JSON file that another script makes; `made_by` is the command that makes it."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{path} does not exist", made_by) from None


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def say(text: str) -> None:
    """Progress, for people: on stderr, so that --json output stays clean."""
    print(text, file=sys.stderr, flush=True)


def confirm(question: str) -> None:
    """Ask for a yes before something is billed or deleted; YES=1 answers for a script."""
    if os.environ.get("YES") == "1":
        return
    if not sys.stdin.isatty():
        raise UserError(f"{question} Nobody is there to say yes", "YES=1 for scripts")
    if input(f"{question} [yes/no] ").strip().lower() != "yes":
        raise UserError("not confirmed, nothing was done")


def print_json(value: object) -> None:
    print(json.dumps(value, indent=2))
