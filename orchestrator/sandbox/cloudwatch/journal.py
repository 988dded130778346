"""What endpoints have printed and how they were asked, kept for CloudWatch's questions.

Those who have something to tell write plain files and wait for nobody: an endpoint's process prints
into its log, a front drops what it has counted (tally.py). The journal, a thread of the sandbox,
reads what is new in them into a database of its own. How far it has read is written in the same
transaction as what it read, so that nothing is there twice or missing after a `kill -9`.

A line's time is that of the last write to its file when the line was found: the clock of the write,
not of the reading. It is right to `PAUSE_SECONDS`, whatever wrote the line: Python, a library in C,
a command of the user's. What was printed while there was no sandbox to read it has one time, the
last.

**How much is kept.** Of each log group the last `GROUP_BYTES`, of all together `ALL_BYTES`; metrics
for `METRIC_SECONDS`. A log file goes when its process has ended and it has been read. One that grows
past `FILE_BYTES` while its process runs is emptied as soon as it has been read; what is printed
between these two, some microseconds, is lost.
"""

import json
import logging
import os
import re
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from orchestrator.sandbox.cloudwatch.tally import merged
from orchestrator.sandbox.errors import clean
from orchestrator.sandbox.places import JOB_GROUP, LOG_GROUP, Places

log = logging.getLogger(__name__)

PAUSE_SECONDS = 0.5
QUIET_SECONDS = 5  # after which a line without an end is taken as it is
KEPT_SECONDS = 60  # a log file stays that long after its process has ended
METRIC_SECONDS = 15 * 86400  # as CloudWatch keeps single minutes
PIECE_BYTES = 1 << 20  # are read at a time
LINE_BYTES = 256 << 10  # of an event, as on CloudWatch; a longer line becomes several
FILE_BYTES, GROUP_BYTES, ALL_BYTES = 4 << 20, 8 << 20, 64 << 20
ROOM = 0.75  # of a limit is left when it was reached
COLOURS = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
SCHEMA = """
CREATE TABLE IF NOT EXISTS streams (
    id INTEGER PRIMARY KEY, log_group TEXT, name TEXT,
    created INTEGER,          -- milliseconds since 1970, as all times of the logs
    file TEXT UNIQUE,         -- what it is read from; NULL when that is over
    position INTEGER DEFAULT 0,  -- bytes of the file that have been read
    UNIQUE (log_group, name));
CREATE TABLE IF NOT EXISTS events (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, stream INTEGER, log_group TEXT, time INTEGER,
    ingested INTEGER, message TEXT, bytes INTEGER);
CREATE TABLE IF NOT EXISTS minutes (
    endpoint TEXT, variant TEXT, minute INTEGER,  -- seconds since 1970
    counts TEXT,              -- as tally.py writes them
    PRIMARY KEY (endpoint, variant, minute));
CREATE TABLE IF NOT EXISTS taken (file TEXT PRIMARY KEY);  -- counted, and to be removed
CREATE INDEX IF NOT EXISTS events_by_stream ON events (stream, seq);
CREATE INDEX IF NOT EXISTS events_by_group ON events (log_group, time, seq);
"""
EMPTY = "file IS NULL AND NOT EXISTS (SELECT 1 FROM events WHERE stream = streams.id)"


class Journal:
    def __init__(self, places: Places) -> None:
        self._places = places
        self._lock = threading.RLock()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._refused: dict[Path, str] = {}  # what has been told of a file already
        self._db = self._opened(places.folder / "journal.db")

    @staticmethod
    def _opened(path: Path) -> sqlite3.Connection:
        """The database; one that cannot be read makes place for an empty one."""
        while True:
            db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
            db.row_factory = sqlite3.Row
            try:
                db.execute("PRAGMA journal_mode=WAL")
                db.executescript(SCHEMA)
                return db
            except sqlite3.OperationalError:  # the disk is full, say
                raise
            except sqlite3.DatabaseError as error:
                db.close()
                log.warning("%s cannot be read and is begun anew: %s", path, error)
                os.replace(path, path.with_suffix(".damaged"))

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._closing.set()
        self._thread.join()
        self.read()
        with self._lock:
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            self._db.close()

    def rows(self, sql: str, *values: object) -> list[sqlite3.Row]:
        with self._lock:
            return self._db.execute(sql, values).fetchall()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                if self._db.in_transaction:  # a full disk has ended it already
                    self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    # -- reading -----------------------------------------------------------------------

    def _run(self) -> None:
        while not self._closing.wait(PAUSE_SECONDS):
            self.read()

    def read(self) -> None:
        """Read what is new. Whatever cannot be is told of once, and tried again."""
        with self._lock:
            for path in sorted(self._places.folder.glob("logs/*.*.*.log")):
                self._try(path, self._read_log)
            for path in sorted(self._places.metrics.glob("*.json")):
                self._try(path, self._read_counts)

    def _try(self, path: Path, work: Callable[[Path], None]) -> None:
        try:
            work(path)
            self._refused.pop(path, None)
        except Exception as error:
            if self._refused.get(path) != str(error):
                log.warning("%s cannot be read; it is tried again: %s", path, error)
            self._refused[path] = str(error)

    def _read_log(self, path: Path) -> None:
        stream = self._stream(path)
        has_ended = not self._places.process(_process_of(path)).exists()
        state = os.stat(path)
        position = stream["position"] if stream["position"] <= state.st_size else 0
        is_quiet = has_ended or time.time() - state.st_mtime > QUIET_SECONDS
        with open(path, "rb") as file:
            file.seek(position)
            while position < state.st_size:
                data = file.read(min(PIECE_BYTES, state.st_size - position))
                whole = _whole(data, is_quiet and position + len(data) == state.st_size)
                if not whole:
                    break
                position += whole
                self._take(stream, data[:whole], position, state.st_mtime_ns // 1_000_000)
                file.seek(position)
        if has_ended and position == state.st_size and time.time() - state.st_mtime > KEPT_SECONDS:
            path.unlink()
            with self._transaction():
                self._db.execute("UPDATE streams SET file = NULL WHERE id = ?", (stream["id"],))
                self._db.execute(f"DELETE FROM streams WHERE {EMPTY}")
        elif position > FILE_BYTES and position == os.stat(path).st_size:
            os.truncate(path, 0)  # whoever writes appends, and so goes on at the beginning

    def _stream(self, path: Path) -> sqlite3.Row:
        """The row of the stream that a file is read into."""
        known = self.rows("SELECT * FROM streams WHERE file = ?", path.name)
        if known:
            return known[0]
        first, second, identity = path.name.removesuffix(".log").split(".")
        is_job = first.startswith("@")
        group = JOB_GROUP.format(first[1:]) if is_job else LOG_GROUP.format(first)
        created = int(os.stat(path).st_mtime * 1000)
        new = (group, f"{second}/{identity}", created, path.name)
        with self._transaction():
            self._db.execute(
                "INSERT INTO streams (log_group, name, created, file) VALUES (?, ?, ?, ?)", new
            )
        return self._stream(path)

    def _take(self, stream: sqlite3.Row, data: bytes, position: int, moment: int) -> None:
        messages = list(_messages(data))
        now, group = int(time.time() * 1000), stream["log_group"]
        with self._transaction():
            self._db.executemany(
                "INSERT INTO events (stream, log_group, time, ingested, message, bytes)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                [(stream["id"], group, moment, now, m, len(m.encode())) for m in messages],
            )
            changes = (position, stream["id"])
            self._db.execute("UPDATE streams SET position = ? WHERE id = ?", changes)
            if messages:
                self._bound("log_group = ?", (group,), GROUP_BYTES)
                self._bound("TRUE", (), ALL_BYTES)

    def _bound(self, which: str, values: tuple, limit: int) -> None:
        """Let the oldest events go when there are more than so many bytes of them."""
        total = f"SELECT coalesce(sum(bytes), 0) FROM events WHERE {which}"
        if self._db.execute(total, values).fetchone()[0] <= limit:
            return
        newest = (
            f"SELECT seq, sum(bytes) OVER (ORDER BY seq DESC) AS kept FROM events WHERE {which}"
        )
        last = f"SELECT max(seq) FROM ({newest}) WHERE kept > ?"
        self._db.execute(
            f"DELETE FROM events WHERE {which} AND seq <= ({last})",
            (*values, *values, int(limit * ROOM)),
        )
        self._db.execute(f"DELETE FROM streams WHERE {EMPTY}")

    def _read_counts(self, path: Path) -> None:
        """Add what a front has counted to what there is, each file once."""
        if not self.rows("SELECT 1 FROM taken WHERE file = ?", path.name):
            try:
                counted = json.loads(path.read_text())
            except ValueError:  # the power went before it was on the disk
                counted = []
            with self._transaction():
                for endpoint, variant, minute, counts in counted:
                    self._add((endpoint, variant, minute), counts)
                self._db.execute("INSERT INTO taken VALUES (?)", (path.name,))
                old = (int(time.time()) - METRIC_SECONDS,)
                self._db.execute("DELETE FROM minutes WHERE minute < ?", old)
        path.unlink()
        with self._transaction():
            self._db.execute("DELETE FROM taken WHERE file = ?", (path.name,))

    def _add(self, key: tuple[str, str, int], counts: dict) -> None:
        where = "WHERE endpoint = ? AND variant = ? AND minute = ?"
        for row in self.rows(f"SELECT counts FROM minutes {where}", *key):
            counts = merged([json.loads(row["counts"]), counts])
        self._db.execute("REPLACE INTO minutes VALUES (?, ?, ?, ?)", (*key, json.dumps(counts)))


def _process_of(path: Path) -> str:
    kind = "job" if path.name.startswith("@") else "endpoint"
    return f"{kind}-{path.name.split('.')[2]}"


def _whole(data: bytes, is_all: bool) -> int:
    """How many bytes of what was read are whole lines; all of them where no more is to come."""
    end = data.rfind(b"\n") + 1
    return len(data) if is_all or (not end and len(data) >= LINE_BYTES) else end


def _messages(data: bytes) -> Iterator[str]:
    """The lines as clean text: no colours, no bytes that are no UTF-8, no empty lines."""
    for line in data.split(b"\n"):
        for start in range(0, len(line), LINE_BYTES):
            piece = line[start : start + LINE_BYTES].decode(errors="replace")
            text = clean(COLOURS.sub("", piece)).rstrip()
            if text:
                yield text
