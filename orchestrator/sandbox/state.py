"""The sandbox's memory: stacks, their resources, events and change sets, and the endpoints' condition.

One SQLite file in write-ahead mode, every change its own transaction, so that a `kill -9`
at any moment leaves either the old row or the new one. Objects live in the store, not here.
"""

import json
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from orchestrator.sandbox.errors import clean
from orchestrator.sandbox.places import NotOurs

VERSION = 2
SCHEMA = """
CREATE TABLE IF NOT EXISTS stacks (
    id TEXT PRIMARY KEY, name TEXT, status TEXT, reason TEXT, on_failure TEXT,
    template TEXT,            -- what runs, or is being made, expanded by the parameters
    request TEXT,             -- what was asked for: the template as it was sent, parameters, tags
    target TEXT, target_request TEXT,  -- what an update is on its way to
    operation TEXT,           -- tells one update from the next
    change_set TEXT,          -- the one that was carried out last
    created TEXT, updated TEXT, deleted TEXT);
CREATE TABLE IF NOT EXISTS events (
    seq INTEGER PRIMARY KEY, stack_id TEXT, time TEXT, logical_id TEXT, physical_id TEXT,
    type TEXT, status TEXT, reason TEXT);
CREATE TABLE IF NOT EXISTS resources (
    id INTEGER PRIMARY KEY, stack_id TEXT, logical_id TEXT, type TEXT, properties TEXT, created TEXT,
    physical_id TEXT,         -- NULL until a custom resource has said it
    token TEXT,               -- tells the making of this resource from any other
    touched TEXT,             -- the operation that changed it in place last
    stage TEXT);              -- 'new' until what made it is complete, 'old' once replaced
CREATE TABLE IF NOT EXISTS change_sets (
    id TEXT PRIMARY KEY, name TEXT, stack_id TEXT, type TEXT, on_failure TEXT, description TEXT,
    template TEXT, request TEXT, created TEXT,
    changes TEXT,             -- as they are told; NULL when there are none
    operation TEXT,           -- the stack's when this was made: another one makes it obsolete
    executed TEXT);           -- the operation that carried it out
CREATE TABLE IF NOT EXISTS topics (arn TEXT PRIMARY KEY);
CREATE TABLE IF NOT EXISTS subscriptions (
    arn TEXT PRIMARY KEY, topic TEXT, protocol TEXT, endpoint TEXT, token TEXT, confirmed INTEGER);
CREATE TABLE IF NOT EXISTS deliveries (
    id INTEGER PRIMARY KEY, subscription TEXT, kind TEXT, body TEXT, begun REAL, due REAL,
    attempts INTEGER);
CREATE TABLE IF NOT EXISTS told (seq INTEGER);  -- the last event of a stack that is known as news
CREATE TABLE IF NOT EXISTS models (name TEXT PRIMARY KEY, request TEXT, created TEXT);
CREATE TABLE IF NOT EXISTS endpoint_configs (name TEXT PRIMARY KEY, request TEXT, created TEXT);
CREATE TABLE IF NOT EXISTS endpoints (
    name TEXT PRIMARY KEY, status TEXT, reason TEXT, created TEXT, updated TEXT,
    config TEXT,              -- what serves, or is to serve first
    next_config TEXT);        -- what an update is on its way to
CREATE TABLE IF NOT EXISTS tags (arn TEXT PRIMARY KEY, tags TEXT);
CREATE TABLE IF NOT EXISTS weights (  -- of an endpoint's variant, where it was changed
    endpoint TEXT, config TEXT, weight REAL, PRIMARY KEY (endpoint, config));
CREATE TABLE IF NOT EXISTS invocations (  -- asked asynchronously, and not answered yet
    id INTEGER PRIMARY KEY, endpoint TEXT, request TEXT, created TEXT);
CREATE TABLE IF NOT EXISTS transform_jobs (
    name TEXT PRIMARY KEY, arn TEXT, request TEXT, status TEXT, reason TEXT, message TEXT,
    created TEXT, started TEXT, ended TEXT, updated TEXT);
CREATE TABLE IF NOT EXISTS processing_jobs (
    name TEXT PRIMARY KEY, arn TEXT, request TEXT, status TEXT, reason TEXT, message TEXT,
    created TEXT, started TEXT, ended TEXT, updated TEXT);
CREATE TABLE IF NOT EXISTS schedules (
    name TEXT PRIMARY KEY, request TEXT, created TEXT, updated TEXT,
    since TEXT,               -- what a rate is counted from
    token TEXT,               -- of the client that made it
    scheduled TEXT,           -- the run to come; NULL when there is none
    due REAL);                -- when it is to be begun, in seconds since 1970
CREATE TABLE IF NOT EXISTS schedule_runs (  -- begun, and not forgotten: none is done twice
    id TEXT PRIMARY KEY, schedule TEXT, scheduled TEXT, target TEXT, attempts INTEGER,
    begun REAL, due REAL,
    status TEXT,              -- 'due', 'done' or 'failed'
    reason TEXT);
CREATE INDEX IF NOT EXISTS stacks_by_name ON stacks (name);
CREATE INDEX IF NOT EXISTS events_by_stack ON events (stack_id);
CREATE INDEX IF NOT EXISTS resources_by_stack ON resources (stack_id);
"""


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


class State:
    """Rows in, rows out, as dictionaries; some columns are JSON. Text is cleaned on its way in."""

    JSON_COLUMNS = (
        "template", "target", "tags", "properties", "request", "target_request", "changes",
    )  # fmt: skip

    def __init__(self, path: Path) -> None:
        """NotOurs for a file of another kind, also an empty one: it is never overwritten."""
        if not path.exists():
            _make(path)
        self._lock = threading.RLock()
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._db.row_factory = sqlite3.Row
        try:
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
            self._db.execute("PRAGMA journal_mode=WAL")
            if version == VERSION:
                self._db.executescript(SCHEMA)  # with the tables that there are since it was made
        except sqlite3.DatabaseError as error:
            raise NotOurs(f"{path} cannot be read: {error}") from None
        if version != VERSION:
            raise NotOurs(f"{path} is not of this version")
        self._db.executescript(SCHEMA)  # with the tables that there are since it was made

    def close(self) -> None:
        """Close the file, with nothing left beside it."""
        with self._lock:
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Several changes that a crash leaves all done or all undone; may be nested."""
        with self._lock:
            if self._db.in_transaction:
                yield
                return
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    def insert(self, table: str, **row: object) -> None:
        marks = ", ".join("?" for _ in row)
        self._run(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({marks})", self._pack(row))

    def update(self, table: str, where: dict, **changes: object) -> None:
        assignments = ", ".join(f"{column} = ?" for column in changes)
        self._run(
            f"UPDATE {table} SET {assignments} WHERE {self._condition(where) or 'TRUE'}",
            [*self._pack(changes), *where.values()],
        )

    def delete(self, table: str, **where: object) -> None:
        self._run(f"DELETE FROM {table} WHERE {self._condition(where)}", list(where.values()))

    def rows(self, table: str, order: str = "rowid", **where: object) -> list[dict]:
        condition = f" WHERE {self._condition(where)}" if where else ""
        found = self._run(
            f"SELECT * FROM {table}{condition} ORDER BY {order}", list(where.values())
        )
        return [self._unpack(row) for row in found]

    def after(self, table: str, column: str, value: object) -> list[dict]:
        """The rows that come later than a value, in its order."""
        sql = f"SELECT * FROM {table} WHERE {column} > ? ORDER BY {column}"
        return [self._unpack(row) for row in self._run(sql, [value])]

    def row(self, table: str, **where: object) -> dict | None:
        found = self.rows(table, **where)
        return found[0] if found else None

    def _run(self, sql: str, values: list) -> list[sqlite3.Row]:
        with self._lock:
            return self._db.execute(sql, values).fetchall()

    @staticmethod
    def _condition(where: dict) -> str:
        return " AND ".join(f"{column} = ?" for column in where)

    def _pack(self, row: dict) -> list:
        packed = []
        for column, value in row.items():
            if column in self.JSON_COLUMNS and value is not None:
                value = json.dumps(value)
            packed.append(clean(value) if isinstance(value, str) else value)
        return packed

    def _unpack(self, row: sqlite3.Row) -> dict:
        return {
            column: json.loads(row[column])
            if column in self.JSON_COLUMNS and row[column]
            else row[column]
            for column in row.keys()  # noqa: SIM118 - a Row iterates over values
        }


def _make(path: Path) -> None:
    """Make an empty state, which is there whole or not at all."""
    fresh = path.with_suffix(".new")
    fresh.unlink(missing_ok=True)
    db = sqlite3.connect(fresh, isolation_level=None)
    # As one transaction: twenty of them, each on the disk, would take longer than all else at a start.
    db.executescript(f"BEGIN;{SCHEMA}PRAGMA user_version={VERSION};COMMIT;")
    db.close()
    os.chmod(fresh, 0o600)
    os.rename(fresh, path)
