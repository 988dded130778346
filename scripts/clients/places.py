"""Where tables and lists lie: a path, `s3://bucket/key` in the sandbox or on AWS, or `-`.

Whoever reads or writes at a place need not know which it is. What is written appears under its name when it
is complete; what is read is one version of it, or refused.
"""

import io
import os
import stat
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import BinaryIO, NamedTuple

import boto3
from botocore.exceptions import (
    ClientError,
    IncompleteReadError,
    ReadTimeoutError,
    ResponseStreamingError,
)

from clients.refusals import explained
from clients.target import client_of, resolve
from common.errors import BadData, UserError
from common.files import write_atomically

PIECE = 1024 * 1024
TRIES = 3
BROKEN = IncompleteReadError, ReadTimeoutError, ResponseStreamingError  # an answer, on its way


@dataclass(frozen=True)
class Store:
    """How a process reaches S3: the sandbox's address and keys, or AWS and whatever it has of its own."""

    url: str | None
    region: str
    keys: tuple[str, str] | None
    account: str | None

    def client(self):
        key, secret = self.keys or (None, None)
        session = boto3.Session(key, secret, region_name=self.region)
        return client_of(session, "s3", self.url, self.account)


_named: Store | None = None


def use(store: Store | None) -> None:
    """Reach S3 as somebody else does: in a process that has been started for them."""
    global _named
    _named = store
    _client.cache_clear()


def store() -> Store:
    """How this process reaches S3. TargetError where that is not there."""
    if _named:
        return _named
    target = resolve()
    keys = None
    if target.s3_url:
        credentials = target.session.get_credentials()
        keys = credentials.access_key, credentials.secret_key
    return Store(target.s3_url, target.region, keys, target.account)


def needed(places: Iterable[str]) -> Store | None:
    """How this process reaches S3, if one of the places is there."""
    return store() if any(map(is_s3, places)) else None


def reach(places: Iterable[str]) -> Callable[[], None] | None:
    """What a process calls first that is to read at these places: with a connection of its own, for that of
    the process that it was forked from is not for two."""
    found = needed(places)
    return partial(use, found) if found else None


@cache
def _client():
    return store().client()


def is_s3(place: str) -> bool:
    return place.startswith("s3://")


def absolute(place: str, folder: str = "") -> str:
    """The same place, named in `folder` (the current one), for a process in another."""
    return place if place == "-" or is_s3(place) else os.path.abspath(os.path.join(folder, place))


def _split(place: str) -> dict[str, str]:
    bucket, _, key = place[5:].partition("/")
    if not bucket or not key or key.endswith("/"):
        raise UserError(f"{place} names no object", "s3://bucket/key")
    return {"Bucket": bucket, "Key": key}


class Source(NamedTuple):
    """What is read: its bytes, how many where that is known, and what tells it from every other version,
    where something does."""

    stream: BinaryIO
    size: int | None
    identity: str


@contextmanager
def opened(place: str) -> Iterator[Source]:
    """A place to read from; one that has a name can be read from anywhere in it. BadData where there is
    nothing."""
    if place == "-":
        yield Source(sys.stdin.buffer, None, "")
    elif is_s3(place):
        head = _head(place)
        with io.BufferedReader(_Object(_split(place), head), PIECE) as stream, explained():
            yield Source(stream, head["ContentLength"], head["ETag"])
    else:
        try:
            file = open(place, "rb")
        except OSError as error:
            raise BadData(f"{place}: {error.strerror}") from None
        with file:
            status = os.fstat(file.fileno())
            if stat.S_ISREG(status.st_mode):
                yield Source(file, status.st_size, _version(status))
            else:
                yield Source(file, None, "")


def identity(place: str) -> str:
    """What tells this version from every other; BadData where there is nothing."""
    if is_s3(place):
        return _head(place)["ETag"]
    try:
        status = os.stat(place)
    except OSError as error:
        raise BadData(f"{place}: {error.strerror}") from None
    return _version(status)


def _version(status: os.stat_result) -> str:
    """Of a file; when it was last changed is what an archive's unpacker sets, when it came here is not."""
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"


def _head(place: str) -> dict:
    with explained():
        try:
            return _client().head_object(**_split(place))
        except ClientError as error:
            if error.response["Error"]["Code"] in ("404", "NoSuchKey", "NoSuchBucket"):
                raise BadData(f"{place}: there is no such object") from None
            raise


class _Object(io.RawIOBase):
    """An object of S3, read from anywhere on; one version of it."""

    def __init__(self, named: dict[str, str], head: dict) -> None:
        self._named, self._size, self._version = named, head["ContentLength"], head["ETag"]
        self._at, self._body = 0, None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        if at != self._at:
            self._at = at
            self._hang_up()
        return at

    def readinto(self, buffer: bytearray) -> int:
        if self._at >= self._size:
            return 0
        for left in reversed(range(TRIES)):
            try:
                content = self._from_here().read(min(len(buffer), self._size - self._at))
                break
            except BROKEN:
                self._hang_up()
                if not left:
                    raise
        buffer[: len(content)] = content
        self._at += len(content)
        return len(content)

    def _from_here(self) -> BinaryIO:
        if self._body is None:
            try:
                answer = _client().get_object(
                    **self._named, Range=f"bytes={self._at}-", IfMatch=self._version
                )
            except ClientError as error:
                if error.response["Error"]["Code"] not in ("PreconditionFailed", "NoSuchKey"):
                    raise
                place = "s3://{Bucket}/{Key}".format(**self._named)
                raise BadData(f"{place} has changed while it was read") from None
            self._body = answer["Body"]
        return self._body

    def _hang_up(self) -> None:
        if self._body is not None:
            self._body.close()
            self._body = None

    def close(self) -> None:
        self._hang_up()
        super().close()


def read(place: str) -> bytes | None:
    """All of a small file or object; None where there is none."""
    try:
        with opened(place) as source:
            return source.stream.read()
    except BadData:
        return None


def write(place: str, content: bytes) -> None:
    """A small file or object, at once."""
    if is_s3(place):
        with explained():
            _client().put_object(**_split(place), Body=content)
    else:
        write_atomically(Path(place), content)


@contextmanager
def completed(place: str, example: str = "scored.csv") -> Iterator[BinaryIO]:
    """A binary stream to write to; its content appears under its name when all went well."""
    if place == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    check_writable(place, example)
    folder = None if is_s3(place) else Path(place).absolute().parent
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".unfinished.", delete=False) as file:
        try:
            yield file
            file.close()
            if folder is None:
                with explained():
                    named = _split(place)
                    _client().upload_file(file.name, named["Bucket"], named["Key"])
            else:
                os.chmod(file.name, 0o644)
                os.replace(file.name, place)
        finally:
            Path(file.name).unlink(missing_ok=True)


def check_writable(place: str, example: str) -> None:
    """UserError where nothing can be written at a place, before there is anything to write."""
    if is_s3(place):
        with explained():
            _client().head_bucket(Bucket=_split(place)["Bucket"])
        return
    folder = Path(place).absolute().parent
    if not folder.is_dir():
        raise UserError(f"the folder {folder} does not exist", f"mkdir -p {folder}")
    if Path(place).is_dir():
        raise UserError(f"{place} is a folder", f"-o {place}/{example}")


def listed(folder: str) -> Iterator[tuple[str, str]]:
    """Every object below `s3://bucket/prefix`, and what tells its version, in the order of their keys."""
    bucket, _, prefix = folder[5:].partition("/")
    with explained():
        pages = _client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        for page in pages:
            for item in page.get("Contents", []):
                yield f"s3://{bucket}/{item['Key']}", item["ETag"]


def remove(place: str) -> None:
    """A file or an object, if it is there."""
    if is_s3(place):
        with explained():
            _client().delete_object(**_split(place))
    else:
        Path(place).unlink(missing_ok=True)
