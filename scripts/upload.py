"""Upload the packaged model to the assets bucket with `aws s3 cp`; an unchanged one is not sent.

    python scripts/upload.py [--dry-run]

The object's metadata say what the archive's bytes must not: git revision, and whether the
model was trained on simulated data.
"""

import argparse
import os
import shlex
import subprocess

from botocore.exceptions import ClientError

from clients.refusals import explained
from clients.target import aws_command, resolve
from common import ROOT
from common.errors import TargetError, UserError, run
from common.files import ARCHIVE, CARD, FOLDS, RELEASED, read_json, sha256, write_atomically
from common.output import say

KEY = "model.tar.gz"


def git_revision() -> str:
    """The commit of the checkout, marked when files differ from it."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    return answer.stdout.strip() or "unknown"


def uploaded_hash(target) -> str | None:
    """The hash of the model that is there, None when none is.

    TargetError when the bucket is not to be used, which on AWS may be because it is another
    account's: `aws s3 cp` would not ask.
    """
    with explained():
        try:
            head = target.client("s3").head_object(Bucket=target.bucket, Key=KEY)
        except ClientError as error:
            if error.response["Error"]["Code"] != "404":
                raise
            return None
    return head["Metadata"].get("sha256")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dry-run", action="store_true", help="print the command, send nothing")
    arguments = parser.parse_args()
    if not ARCHIVE.exists():
        raise UserError("models/model.tar.gz does not exist", "make package")
    target = resolve()
    digest = sha256(ARCHIVE.read_bytes())
    data = read_json(CARD, "make train")["data"]
    metadata = {
        "sha256": digest,
        "git-revision": git_revision(),
        "trained-on": data["source"].replace(" ", "-"),
        "simulated": str(data["simulated"]).lower(),
    }
    pairs = ",".join(f"{key}={value}" for key, value in metadata.items())
    location = f"s3://{target.bucket}/{KEY}"
    command = ["aws", "s3", "cp", str(ARCHIVE.relative_to(ROOT)), location, "--metadata", pairs]
    if arguments.dry_run:
        print(shlex.join(command))
        return 0
    if uploaded_hash(target) == digest:
        say(f"upload: {location} is this model already")
        return 0
    environment = os.environ | (target.environment or {})
    sent = subprocess.run(
        [aws_command(), *command[1:], "--no-progress"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    if sent.returncode:
        raise TargetError(f"aws s3 cp failed: {sent.stderr.strip()}")
    write_atomically(RELEASED, FOLDS.read_bytes())
    say(f"upload: models/model.tar.gz to {location}, sha256 {digest[:12]}")
    return 0


if __name__ == "__main__":
    run(main)
