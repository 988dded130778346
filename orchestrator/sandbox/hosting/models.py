"""Models on this machine's disk: an archive is fetched from S3 and unpacked once, for whichever
endpoints serve it."""

import os
import shutil
import tempfile
from pathlib import Path

from botocore.exceptions import ClientError

from orchestrator.environment import client
from orchestrator.sandbox.children import ChildFailed
from orchestrator.sandbox.hosting.archive import BadArchive, unpack
from orchestrator.sandbox.hosting.publisher import split_url
from orchestrator.sandbox.places import Places


def unpacked(places: Places, name: str, url: str) -> Path:
    """The folder with what the model's archive holds; ChildFailed when it cannot be had."""
    target = places.model(name)
    if target.is_dir():
        return target
    bucket, key = split_url(url)
    # On the same disk, so that the model is there whole or not at all.
    with tempfile.TemporaryDirectory(dir=places.folder / "models", prefix=".") as folder:
        archive, content = Path(folder, "model.tar.gz"), Path(folder, "content")
        try:
            client("s3").download_file(bucket, key, str(archive))
        except ClientError as error:
            if error.response["Error"]["Code"] not in ("404", "NoSuchKey", "NoSuchBucket"):
                raise
            raise ChildFailed(f"Could not find model data at {url}.") from None
        try:
            unpack(archive, content)
        except BadArchive as error:
            raise ChildFailed(f"The model data at {url} cannot be unpacked: {error}.") from None
        try:
            os.rename(content, target)
        except OSError:
            if not target.is_dir():  # another endpoint of the same model was quicker
                raise
    return target


def remove(places: Places, name: str) -> None:
    shutil.rmtree(places.model(name), ignore_errors=True)


def sweep(places: Places, known: set[str]) -> None:
    """Remove what a killed sandbox left half-done, and what belongs to no known model."""
    for path in (places.folder / "models").iterdir():
        if path.name not in known:
            shutil.rmtree(path, ignore_errors=True)
