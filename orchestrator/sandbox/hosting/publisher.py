"""Captured records on their way to S3: finished spool files are uploaded, then removed.

An upload that was cut off is made again under the same key, so that nothing is captured twice.
"""

import contextlib
import json
import logging
import os
import threading
import time
from pathlib import Path

from botocore.exceptions import BotoCoreError, ClientError

from orchestrator.environment import client
from orchestrator.sandbox.hosting.capture import finish_orphans, object_key
from orchestrator.sandbox.places import Places, write_json
from orchestrator.sandbox.state import State

log = logging.getLogger(__name__)

PAUSE_SECONDS = 0.5
QUIET_SECONDS = 600  # after which a process that makes place for another has ended


def split_url(url: str) -> tuple[str, str]:
    """Bucket and key of `s3://bucket/key`."""
    bucket, _, key = url.removeprefix("s3://").partition("/")
    return bucket, key


def prepare(spool: Path, destination: str, variant: str) -> None:
    """Make a spool folder, and write down where its records belong."""
    spool.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_json(_destination(spool), {"destination": destination, "variant": variant})


def _destination(spool: Path) -> Path:
    """Beside the spool: the model's process may write into that, and must not choose the place."""
    return spool.with_name(f"{spool.name}.json")


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
        for spool in self._places.folder.glob("capture/*/*/"):
            try:
                finish_orphans(spool, over=self._is_over(spool))
                for path in sorted(spool.glob("*.jsonl")):
                    self._publish(path)
                if self._is_over(spool):  # publishing takes a while: it may have come back
                    self._remove(spool)
            except Exception:
                log.exception("%s cannot be emptied; it is tried again", spool)

    def _publish(self, path: Path) -> None:
        where = json.loads(_destination(path.parent).read_text())
        bucket, prefix = split_url(where["destination"])
        key = object_key(path.name, prefix, path.parent.parent.name, where["variant"])
        if path.stat().st_size:
            try:
                with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
                    client("s3").put_object(Bucket=bucket, Key=key, Body=file)
            except (ClientError, BotoCoreError) as error:
                if self._refused.get(path) != str(error):
                    log.warning("%s stays in the spool: %s", path, error)
                self._refused[path] = str(error)
                return
        path.unlink()
        self._refused.pop(path, None)

    def _is_over(self, spool: Path) -> bool:
        """Whether its endpoint is gone, or has long gone on to another configuration."""
        row = self._state.row("endpoints", name=spool.parent.name)
        return row is None or (
            spool.name not in (row["config"], row["next_config"])
            and time.time() - spool.stat().st_mtime >= QUIET_SECONDS
        )

    def _remove(self, spool: Path) -> None:
        with contextlib.suppress(OSError):  # it is not empty, or not the endpoint's last
            spool.rmdir()
            _destination(spool).unlink(missing_ok=True)
            spool.parent.rmdir()
