"""Upload the packaged model to the assets bucket with `aws s3 cp`; an unchanged one is not sent.

    python scripts/upload.py [--dry-run]

The released model is the object in the bucket. One that is worse than it on the same folds is
refused: both archives say in their provenance.json how they did. The new object's metadata are what
its archive says of itself, and the git revision, which the archive's bytes must not depend on.
"""

import argparse
import io
import json
import math
import os
import shlex
import subprocess
from typing import BinaryIO

from botocore.exceptions import ClientError

from clients.refusals import explained
from clients.target import AWS_COMMAND, Target, resolve
from common import ROOT
from common.errors import GateFailed, TargetError, UserError, run
from common.files import ARCHIVE, sha256
from common.output import say
from common.params import load_params
from scoring.packing import member

KEY = "model.tar.gz"
PROVENANCE_BYTES = 1024 * 1024  # ours has three thousand


def provenance_of(archive: BinaryIO) -> dict | None:
    """What a package says of itself; None for an archive that is no package of ours."""
    try:
        found = json.loads(member(archive, "provenance.json", PROVENANCE_BYTES) or b"null")
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def own_provenance(content: bytes) -> dict:
    """What the package to be sent says of itself."""
    provenance = provenance_of(io.BytesIO(content))
    if provenance is None or not {"data", "folds"} <= provenance.keys():
        raise UserError(
            "models/model.tar.gz does not say where it comes from",
            "rm models/model.tar.gz && make package",
        )
    return provenance


def released(target: Target) -> tuple[str | None, dict | None] | None:
    """Hash and provenance of the object that is there now, each None when it has none; None when
    nothing is there."""
    with explained():
        try:
            found = target.client("s3").get_object(Bucket=target.bucket, Key=KEY)
        except ClientError as error:
            if error.response["Error"]["Code"] != "NoSuchKey":
                raise
            return None
        with found["Body"] as body:
            return found["Metadata"].get("sha256"), provenance_of(body)


def check_release(before: dict | None, folds: dict, max_drop: float) -> None:
    """GateFailed when average precision falls by more than `max_drop` against the released model.

    `before` is that model's provenance. Models are compared on the same folds of the same data only.
    """
    theirs = before.get("folds") if before else None
    if not _are_scores(theirs):
        say("upload: the object that is there does not say how it was scored; not compared")
        return
    if any(theirs.get(key) != folds[key] for key in ("data", "split")) or (
        len(theirs["average_precision"]) != len(folds["average_precision"])
    ):
        say("upload: the released model was scored on other data or folds; not compared")
        return
    pairs = zip(theirs["average_precision"], folds["average_precision"], strict=True)
    drops = [was - now for was, now in pairs]
    mean = sum(drops) / len(drops)
    if mean > max_drop:
        worse = sum(drop > 0 for drop in drops)
        raise GateFailed(
            f"gate: average precision fell by {mean:.4f} against the released model "
            f"({worse} of {len(drops)} paired folds are worse; {max_drop} is allowed)",
            "change the model, or raise gate.max_drop in params.yaml",
        )


def _are_scores(folds: object) -> bool:
    scores = folds.get("average_precision") if isinstance(folds, dict) else None
    return (
        isinstance(scores, list)
        and bool(scores)
        and all(isinstance(score, int | float) and math.isfinite(score) for score in scores)
    )


def git_revision() -> str:
    """The commit of the checkout, marked when files differ from it."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    except FileNotFoundError:  # no Git here, and none is needed
        return "unknown"
    return answer.stdout.strip() or "unknown"


def metadata_of(provenance: dict, digest: str) -> dict[str, str]:
    data = provenance["data"]
    return {
        "sha256": digest,
        "git-revision": git_revision(),
        "trained-on": data["source"].replace(" ", "-"),
        "simulated": str(data["simulated"]).lower(),
        "data-sha256": data["content_sha256"],
        "image": provenance["image"],
        "estimator": provenance["params"]["train"]["estimator"],
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dry-run", action="store_true", help="print the command, send nothing")
    arguments = parser.parse_args()
    try:
        content = ARCHIVE.read_bytes()
    except OSError as error:
        raise UserError(f"models/model.tar.gz: {error.strerror}", "make package") from None
    provenance, digest = own_provenance(content), sha256(content)
    target = resolve()
    pairs = ",".join(f"{key}={value}" for key, value in metadata_of(provenance, digest).items())
    location = f"s3://{target.bucket}/{KEY}"
    command = ["aws", "s3", "cp", str(ARCHIVE.relative_to(ROOT)), location, "--metadata", pairs]
    if arguments.dry_run:
        print(shlex.join(command))
        return 0
    there = released(target)
    if there is not None:
        if there[0] == digest:
            say(f"upload: {location} is this model already")
            return 0
        check_release(there[1], provenance["folds"], load_params()["gate"]["max_drop"])
    environment = os.environ | (target.environment or {})
    sent = subprocess.run(
        [*AWS_COMMAND, *command[1:], "--no-progress"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    if sent.returncode:
        raise TargetError(f"aws s3 cp failed: {sent.stderr.strip()}")
    say(f"upload: models/model.tar.gz to {location}, sha256 {digest[:12]}")
    return 0


if __name__ == "__main__":
    run(main)
