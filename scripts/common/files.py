"""The pipeline's files by name, in the order of dvc.yaml, and how files are read and written."""

import hashlib
import json
import os
import tempfile
from pathlib import Path

from common import ROOT
from common.errors import UserError

# fetch
CANDIDATES = ROOT / "data" / "candidates.csv"
SOURCE = ROOT / "data" / "source.json"  # where the candidates come from, and their hash

# prepare: train.csv, test.csv, baseline.csv, examples.csv
PREPARED = ROOT / "data" / "prepared"

# train
MODELS = ROOT / "models"
JOBLIB = MODELS / "model_pulsar.joblib"  # of eight features
SIX = MODELS / "model_six.joblib"  # without the DM curve's mean and deviation
CARD = MODELS / "model.json"

# evaluate
EVALUATION = ROOT / "evaluation"
METRICS = EVALUATION / "metrics.json"  # the ten that DVC shows
SCORES = EVALUATION / "scores.json"  # all of them, with intervals
FOLDS = EVALUATION / "folds.json"
PLOTS = EVALUATION / "plots"
HOLDOUT = EVALUATION / "holdout.csv"  # the held-out candidates with what the model says of them

# baseline: data-quality.csv, model-quality.csv
BASELINES = EVALUATION / "baselines"

# report
REPORT = EVALUATION / "report.html"

# package
SCRIPTS = ROOT / "scripts"
INFERENCE = SCRIPTS / "scoring" / "inference.py"
READERS = [  # of tables and of candidate files
    SCRIPTS / "candidates" / "__init__.py",
    *sorted((SCRIPTS / "candidates" / "folds").glob("*.py")),
    *sorted((SCRIPTS / "candidates" / "tables").glob("*.py")),
]
CODE = {"code/inference.py": INFERENCE} | {f"code/{p.relative_to(SCRIPTS)}": p for p in READERS}
ARCHIVE = MODELS / "model.tar.gz"


def typed(text: str) -> Path:
    """A path as somebody has typed it: behind INPUT= not every shell expands a `~`."""
    return Path(os.path.expanduser(text))


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
        found = json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{path} does not exist", made_by) from None
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}", made_by) from None
    if not isinstance(found, dict):
        raise UserError(f"{path} is damaged: it holds no object", made_by)
    return found


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
