"""Pack the model for SageMaker: models/model.tar.gz, the same bytes for the same inputs.

    python scripts/package.py

The archive holds model_pulsar.joblib and model_six.joblib, model.json (thresholds, features, their ranges
in training), code/inference.py and provenance.json: data and its hash, parameters, scores, the folds' scores, versions, the hash
of the locked stages. The gate in params.yaml refuses a model that is not good enough; whether it
is worse than the released one is for scripts/upload.py to see, which knows what is released. What
would differ from machine to machine (git revision, time) goes into the uploaded object's metadata.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import yaml

from common import ROOT
from common.errors import GateFailed, UserError, run
from common.files import (
    ARCHIVE,
    CANDIDATES,
    CARD,
    CODE,
    FOLDS,
    JOBLIB,
    PREPARED,
    SCORES,
    SIX,
    SOURCE,
    read_json,
    sha256,
    write_atomically,
)
from common.output import say
from common.params import load_params
from orchestrator.images import SKLEARN_IMAGES
from scoring.packing import pack


def check_image(image: str, card: dict) -> None:
    """A joblib file loads only under the scikit-learn that wrote it: the image's must be it."""
    if image not in SKLEARN_IMAGES:
        raise UserError(
            f"params.yaml: there is no image {image}", f"one of: {', '.join(SKLEARN_IMAGES)}"
        )
    wanted, used = SKLEARN_IMAGES[image].scikit_learn, card["versions"]["scikit-learn"]
    if wanted != used:
        raise UserError(
            f"the model was trained with scikit-learn {used}, but the image {image} carries {wanted} "
            "and could not load it",
            "make setup train package",
        )


def check_gate(gate: dict, scores: dict, name: str = "") -> None:
    """GateFailed, saying by how much, when a model is not good enough to be packaged; `name` ends with
    a space."""
    mean = scores["cross_validation"]["mean"]
    limits = [
        ("recall", mean["recall"], gate["min_recall"], 1),
        ("average precision", mean["average_precision"], gate["min_average_precision"], 1),
        ("false-positive rate", mean["fpr"], gate["max_fpr"], -1),
    ]
    for what, value, limit, sign in limits:
        if sign * (value - limit) < 0:
            side = "below the least" if sign > 0 else "above the most"
            raise GateFailed(
                f"gate: {name}{what} {value:.4f} is {abs(value - limit):.4f} {side} allowed, {limit}",
                "change the model, or the gate in params.yaml",
            )


def locked_stages() -> str | None:
    """The hash of what dvc.lock says came out of the stages before this one.

    Only what this stage depends on, directly or not: the report may change, and the scripts,
    without a new package.
    """
    path = ROOT / "dvc.lock"
    if not path.exists():
        return None
    stages = yaml.safe_load(path.read_text()).get("stages", {})
    outputs = {out["path"]: out["md5"] for stage in stages.values() for out in stage["outs"]}
    inputs = [SOURCE, CANDIDATES, JOBLIB, SIX, CARD, SCORES, FOLDS]
    hashes = {name: outputs.get(name) for name in (str(i.relative_to(ROOT)) for i in inputs)}
    return sha256(json.dumps(hashes, sort_keys=True).encode())


def provenance(params: dict, card: dict, scores: dict, folds: dict) -> dict:
    return {
        "data": card["data"],
        "image": params["image"],
        "params": {key: params[key] for key in SECTIONS},
        "scores": {key: scores[key] for key in ("holdout", "cross_validation", "blocks", "six")},
        "folds": folds,
        "versions": card["versions"],
        "locked_stages_sha256": locked_stages(),
    }


SECTIONS = ("data", "survey", "prepare", "train", "evaluate", "gate")  # of params.yaml
TRY_OUT_SECONDS = 120  # two rows, on the slowest machine
REMEDY = "look at scripts/scoring/inference.py, then make package"
TRY_OUT = """
import json, sys
sys.path.insert(0, sys.argv[1] + "/code")
import inference
model = inference.model_fn(sys.argv[1])
rows = inference.input_fn(sys.stdin.read(), "text/csv")
inference.input_fn(b"", inference.FILE)
print(inference.output_fn(inference.predict_fn(rows, model), "text/csv").get_data(as_text=True))
"""


def try_out(members: dict[str, bytes]) -> list[int]:
    """Unpack, load and ask the package in a clean process; the labels of the two examples.

    An empty candidate file is sent as well: what reads such files is there, then.
    """
    with tempfile.TemporaryDirectory() as folder:
        for name, content in members.items():
            path = Path(folder, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        lines = (PREPARED / "examples.csv").read_text().splitlines()[1:]
        rows = "".join(line.rpartition(",")[0] + "\n" for line in lines)
        try:
            answer = subprocess.run(
                [sys.executable, "-c", TRY_OUT, folder],
                input=rows, capture_output=True, text=True, timeout=TRY_OUT_SECONDS,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise UserError(
                f"the package cannot be served: it took more than {TRY_OUT_SECONDS} s to answer",
                REMEDY,
            ) from None
    if answer.returncode:
        last = answer.stderr.strip().splitlines() or [f"exit code {answer.returncode}"]
        raise UserError(f"the package cannot be served: {last[-1]}", REMEDY)
    return [int(line.partition(",")[0]) for line in answer.stdout.split()]


def main() -> int:
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    params = load_params()
    card = read_json(CARD, "make train")
    scores, folds = read_json(SCORES, "make evaluate"), read_json(FOLDS, "make evaluate")
    check_image(params["image"], card)
    check_gate(params["gate"], scores)
    check_gate(params["gate"], scores["six"], "of six features alone, ")
    members = {
        "model_pulsar.joblib": JOBLIB.read_bytes(),
        "model_six.joblib": SIX.read_bytes(),
        "model.json": CARD.read_bytes(),
        **{name: path.read_bytes() for name, path in CODE.items()},
        "provenance.json": (
            json.dumps(provenance(params, card, scores, folds), indent=2) + "\n"
        ).encode(),
    }
    labels = try_out(members)
    if labels != [1, 0]:
        say(
            f"package: note: it calls the typical pulsar {labels[0]} and the typical noise {labels[1]}"
        )
    archive = pack(members)
    write_atomically(ARCHIVE, archive)
    kind = " (made from SIMULATED candidates)" if card["data"]["simulated"] else ""
    say(
        f"package: models/model.tar.gz, {len(archive) / 1024:.0f} KiB, sha256 {sha256(archive)[:12]}, "
        f"for the image {params['image']} (scikit-learn {version('scikit-learn')}){kind}"
    )
    return 0


if __name__ == "__main__":
    run(main)
