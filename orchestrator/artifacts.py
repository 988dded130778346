"""The copies that pipelines keep of what was uploaded, and the one rule for their addresses.

An endpoint must keep the model it was given: after a roll-back, a restart or a new instance, the
object under the user's own key may have been overwritten. So every artifact of a request is copied
to an address of its own, `mlops_provisioned_pipelines/<stack>/<version>/<file>`, and plans name the
copy. A changed object under the same key thereby gives a changed plan.

Nothing is ever deleted here: two equal requests share a copy. `scripts/destroy.py` removes a
stack's copies with the stack.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from botocore.exceptions import ClientError

from orchestrator.contract import BadRequest, Request
from orchestrator.environment import client

SNAPSHOTS = "mlops_provisioned_pipelines"  # the original's folder in the assets bucket


class Changed(Exception):
    """The uploaded object was overwritten while it was being copied: look at it again."""


@dataclass(frozen=True)
class Artifact:
    """An uploaded object as it is now, and where its copy belongs."""

    bucket: str
    key: str
    etag: str
    copy: str  # the key of the copy

    @property
    def url(self) -> str:
        return f"s3://{self.bucket}/{self.copy}"


def folder(stack_name: str) -> str:
    """The prefix of everything that is kept for a stack."""
    return f"{SNAPSHOTS}/{stack_name}/"


def address(stack_name: str, version: str, key: str) -> str:
    """Where the copy of a version of the object called `key` is kept."""
    return f"{folder(stack_name)}{version}/{key.rpartition('/')[2]}"


def version_in(template: dict, stack_name: str) -> str | None:
    """The version that a plan of this stack names, None where it has no artifact."""
    found = re.search(f"{re.escape(folder(stack_name))}([^/]+)/", json.dumps(template))
    return found[1] if found else None


def look_up(request: Request, keys: tuple[str, ...], bucket: str) -> dict[str, Artifact]:
    """The uploaded objects that a request names, by its keys; BadRequest when one is not there."""
    found = {}
    for name in keys:
        key = request.values[name]
        head = _head(bucket, key)
        if head is None:
            raise BadRequest(
                f"Bad request. {name}: s3://{bucket}/{key} does not exist; upload it first"
            )
        etag = head["ETag"].strip('"')
        found[name] = Artifact(bucket, key, etag, address(request.stack_name, etag, key))
    return found


def ship(stack_name: str, name: str, content: bytes, bucket: str) -> str:
    """Put something of the orchestrator's own beside a stack's artifacts; its address."""
    key = address(stack_name, hashlib.sha256(content).hexdigest()[:32], name)
    if _head(bucket, key) is None:
        client("s3").put_object(Bucket=bucket, Key=key, Body=content)
    return f"s3://{bucket}/{key}"


def keep(artifacts: Mapping[str, Artifact]) -> None:
    """Make the copies that are not there yet; Changed when an object is no longer what it was."""
    s3 = client("s3")
    for artifact in artifacts.values():
        if _head(artifact.bucket, artifact.copy) is not None:
            continue
        source = {"Bucket": artifact.bucket, "Key": artifact.key}
        unchanged = {"CopySourceIfMatch": f'"{artifact.etag}"'}
        try:
            s3.copy(source, artifact.bucket, artifact.copy, ExtraArgs=unchanged)
        except ClientError as error:
            if error.response["Error"]["Code"] in ("412", "PreconditionFailed", "404", "NoSuchKey"):
                raise Changed(artifact.key) from None
            raise


def _head(bucket: str, key: str) -> dict | None:
    """What S3 says of an object, None when it is not there."""
    try:
        return client("s3").head_object(Bucket=bucket, Key=key)
    except ClientError as error:
        if error.response["Error"]["Code"] not in ("404", "NoSuchKey"):
            raise
        return None
