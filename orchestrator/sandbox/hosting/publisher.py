"""Captured records on their way to S3: finished spool files are uploaded, then removed.

An upload that was cut off is made again under the same key, so that nothing is captured twice.
"""

import contextlib
import json
import logging
import threading
from pathlib import Path

from botocore.exceptions import BotoCoreError, ClientError

from orchestrator.environment import client
from orchestrator.sandbox.hosting.capture import finish_orphans, object_key
from orchestrator.sandbox.places import Places, write_json
from orchestrator.sandbox.state import State

log = logging.getLogger(__name__)

DESTINATION = "destination.json"
PAUSE_SECONDS = 0.5


def split_url(url: str) -> tuple[str, str]:
    """Bucket and key of `s3://bucket/key`."""
    bucket, _, key = url.removeprefix("s3://").partition("/")
    return bucket, key


def prepare(spool: Path, destination: str, variant: str) -> None:
    """Make a spool folder, and write down where its records belong."""
    spool.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_json(spool / DESTINATION, {"destination": destination, "variant": variant})


class Publisher:
    """A thread that empties the spools for as long as the sandbox runs."""

    def __init__(self, places: Places, state: State) -> None:
        self._places = places
        self._state = state
        self._closing = threading.Event()
        self._refused: dict[Path, str] = {}  # what has been told of a file already
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Upload what there is, once more, and end."""
        self._closing.set()
        self._thread.join()
        self._sweep()

    def _run(self) -> None:
        while not self._closing.wait(PAUSE_SECONDS):
            self._sweep()

    def _sweep(self) -> None:
        for spool in self._places.folder.glob("capture/*/*"):
            try:
                finish_orphans(spool)
                for path in sorted(spool.glob("*.jsonl")):
                    self._publish(path)
                self._remove_if_over(spool)
            except Exception:
                log.exception("%s cannot be emptied; it is tried again", spool)

    def _publish(self, path: Path) -> None:
        where = json.loads((path.parent / DESTINATION).read_text())
        bucket, prefix = split_url(where["destination"])
        key = object_key(path.name, prefix, path.parent.parent.name, where["variant"])
        if path.stat().st_size:
            try:
                with open(path, "rb") as file:
                    client("s3").put_object(Bucket=bucket, Key=key, Body=file)
            except (ClientError, BotoCoreError) as error:
                if self._refused.get(path) != str(error):
                    log.warning("%s stays in the spool: %s", path, error)
                self._refused[path] = str(error)
                return
        path.unlink()
        self._refused.pop(path, None)

    def _remove_if_over(self, spool: Path) -> None:
        """Remove an empty spool whose endpoint is gone."""
        endpoint = spool.parent.name
        if self._state.row("endpoints", name=endpoint) is not None:
            return
        if all(path.name == DESTINATION for path in spool.iterdir()):
            with contextlib.suppress(OSError):
                (spool / DESTINATION).unlink(missing_ok=True)
                spool.rmdir()
                spool.parent.rmdir()
