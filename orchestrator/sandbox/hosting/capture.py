"""Data capture: SageMaker's JSON lines, one per request and answer.

The endpoint's process appends every record to a spool file before it answers; the sandbox
uploads a finished spool file (publisher.py). A record whose answer went out is therefore on disk,
whichever process is killed next.

The place and the shape are SageMaker's (developer guide, "Capture data from real-time
endpoint"): `<DestinationS3Uri>/<endpoint>/<variant>/yyyy/mm/dd/hh/MM-SS-mmm-<uuid>.jsonl`,
the hour being that of the invocation, UTC.
"""

import base64
import contextlib
import errno
import fcntl
import os
import random
import time
import uuid
from datetime import UTC, datetime
from functools import lru_cache
from json.encoder import encode_basestring_ascii as quoted
from pathlib import Path

FLUSH_SECONDS = 5  # how long a spool file collects records; SageMaker takes about a minute
FLUSH_BYTES = 8 * 1024 * 1024
OPEN = ".open"  # the suffix of a spool file that is still written


@lru_cache(2)
def _second(now: int) -> str:
    return f"{datetime.fromtimestamp(now, UTC):%Y-%m-%dT%H:%M:%SZ}"


class Capture:
    """Writes the records of one endpoint process. Not thread-safe: one writer each."""

    def __init__(self, spool: Path, config: dict) -> None:
        """`config` is the DataCaptureConfig of the endpoint's configuration."""
        self._spool = spool
        self._modes = {option["CaptureMode"] for option in config.get("CaptureOptions", [])}
        if "InputAndOutput" in self._modes:
            self._modes |= {"Input", "Output"}
        self._share = config.get("InitialSamplingPercentage", 0) / 100
        self._enabled = config.get("EnableCapture", False)
        headers = config.get("CaptureContentTypeHeader", {})
        self._encodings = dict.fromkeys(headers.get("CsvContentTypes", []), "CSV")
        self._encodings |= dict.fromkeys(headers.get("JsonContentTypes", []), "JSON")
        self._file = self._path = None
        self._hour = self._bytes = 0
        self._opened = 0.0

    def record(
        self, request: tuple[str, bytes], answer: tuple[str, bytes], inference_id: str | None
    ) -> None:
        """Write one record; `request` and `answer` are (content type, body).

        Put together as text: this is done for every request, and a JSON encoder takes thrice as long.
        """
        if not self._enabled or (self._share < 1 and random.random() >= self._share):
            return
        now = time.time()
        sides = []
        if "Input" in self._modes:
            sides.append(f'"endpointInput":{self._side("INPUT", *request)}')
        if "Output" in self._modes:
            sides.append(f'"endpointOutput":{self._side("OUTPUT", *answer)}')
        named = f',"inferenceId":{quoted(inference_id)}' if inference_id else ""
        line = (
            f'{{"captureData":{{{",".join(sides)}}},"eventMetadata":{{"eventId":"{uuid.uuid4()}"'
            f'{named},"inferenceTime":"{_second(int(now))}"}},"eventVersion":"0"}}\n'
        )
        self._append(line.encode(), now)

    def _side(self, mode: str, content_type: str, body: bytes) -> str:
        """The body as it came, or base64 where its media type is not declared as text."""
        media_type = content_type.partition(";")[0].strip().lower()
        encoding = self._encodings.get(media_type, "BASE64")
        try:
            data = base64.b64encode(body).decode() if encoding == "BASE64" else body.decode()
        except UnicodeDecodeError:
            encoding, data = "BASE64", base64.b64encode(body).decode()
        return (
            f'{{"observedContentType":{quoted(content_type)},"mode":"{mode}",'
            f'"data":{quoted(data)},"encoding":"{encoding}"}}'
        )

    def _append(self, line: bytes, now: float) -> None:
        """Write a record whole, or not at all; OSError when the disk is full."""
        if self._file is not None and int(now // 3600) != self._hour:
            self.flush()
        if self._file is None:
            self._open(now)
        written = self._file.write(line)
        if written != len(line):
            os.ftruncate(self._file.fileno(), self._bytes)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._bytes += len(line)
        if self._bytes >= FLUSH_BYTES:
            self.flush()

    def _open(self, now: float) -> None:
        moment = datetime.fromtimestamp(now, UTC)
        name = f"{moment:%Y-%m-%d-%H_%M-%S}-{moment.microsecond // 1000:03d}-{uuid.uuid4()}.jsonl"
        self._spool.mkdir(parents=True, exist_ok=True)
        self._path, self._hour = self._spool / (name + OPEN), int(now // 3600)
        self._file = open(self._path, "ab", buffering=0)
        fcntl.flock(self._file, fcntl.LOCK_EX)  # until we are done, or dead
        self._opened, self._bytes = time.monotonic(), 0  # the time of day may jump

    def flush_if_due(self) -> None:
        if self._file is not None and time.monotonic() - self._opened >= FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Close the spool file under its final name, which hands it to the sandbox."""
        if self._file is not None:
            os.rename(self._path, self._path.with_name(self._path.name.removesuffix(OPEN)))
            self._file.close()
            self._file = None


def finish_orphans(spool: Path, over: bool = False) -> None:
    """Hand over what killed processes left open; a last line may be cut short.

    An empty file is removed when the spool is `over`, and nobody writes there any more: until then its
    writer may be about to lock it. A process that is killed on a full disk leaves one.
    """
    for path in spool.glob(f"*{OPEN}"):
        with contextlib.suppress(FileNotFoundError), open(path, "r+b") as file:
            if not over and os.fstat(file.fileno()).st_size == 0:
                continue
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue  # its writer lives
            data = file.read()
            if not data:
                path.unlink()
                continue
            file.truncate(data.rfind(b"\n") + 1)
            os.rename(path, path.with_name(path.name.removesuffix(OPEN)))


def object_key(spool_name: str, destination_prefix: str, endpoint: str, variant: str) -> str:
    """The S3 key of a spool file: `2026-11-24-09_12-30-123-<uuid>.jsonl` below its hour."""
    hour, _, name = spool_name.partition("_")
    place = f"{endpoint}/{variant}/{hour.replace('-', '/')}/{name}"
    return f"{destination_prefix}/{place}" if destination_prefix else place
