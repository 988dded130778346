"""S3 is nanio's work: buckets are folders, objects are files. Here is what it leaves out."""

import hashlib
from pathlib import Path

from nanio.errors import S3Error
from nanio.storage.paths import object_path

OBJECT_METADATA = ".nanio-meta"  # nanio's folder of one JSON file per object, in each bucket


class BodyNotSigned(S3Error):
    code = "XAmzContentSHA256Mismatch"
    http_status = 400
    message = "The provided 'x-amz-content-sha256' header does not match what was computed."


def checking_body(receive, headers: dict[str, str]):
    """Wrap ASGI's `receive` so that an S3 upload whose body is not the signed one is refused.

    The exception reaches nanio while the upload is still in its temporary file, so nothing
    of it stays.
    """
    expected = headers.get("x-amz-content-sha256", "")
    if len(expected) != 64:  # UNSIGNED-PAYLOAD or STREAMING-…, which nanio handles
        return receive
    digest = hashlib.sha256()

    async def checked() -> dict:
        message = await receive()
        if message["type"] == "http.request":
            digest.update(message.get("body", b""))
            if not message.get("more_body") and digest.hexdigest() != expected:
                raise BodyNotSigned()
        return message

    return checked


def split_url(url: str) -> tuple[str, str]:
    """Bucket and key of `s3://bucket/key`."""
    bucket, _, key = url.removeprefix("s3://").partition("/")
    return bucket, key


def adopt(storage, bucket: str, key: str, path: Path) -> None:
    """Make the file at `path`, on the buckets' own disk, an object by moving it there.

    An upload would copy and sync it, and hold up every other writer meanwhile. Errors:
    S3Error where the bucket is gone, OSError.
    """
    storage.head_bucket(bucket)
    place = object_path(storage.data_dir, bucket, key)
    place.parent.mkdir(parents=True, exist_ok=True)
    path.rename(place)


def mend(folder: Path) -> None:
    """Put in order what a kill in the middle of an upload left in the folder of buckets.

    nanio renames an object into place and then writes its metadata: between the two, an
    overwritten object would go on with the size and hash of the old one. Without metadata it
    is served by what its file says.
    """
    for metadata in folder.glob(f"*/{OBJECT_METADATA}/**/*.json"):
        bucket = folder / metadata.relative_to(folder).parts[0]
        path = bucket / metadata.relative_to(bucket / OBJECT_METADATA).with_suffix("")
        if not path.exists() or path.stat().st_mtime_ns > metadata.stat().st_mtime_ns:
            metadata.unlink()
    for upload in folder.glob("*/**/.tmp.*"):
        upload.unlink()
