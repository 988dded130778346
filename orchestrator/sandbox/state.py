"""The sandbox's memory: stacks, their resources and events, and the endpoints' condition.

One SQLite file in write-ahead mode, every change its own transaction, so that a `kill -9`
at any moment leaves either the old row or the new one. Objects live in S3's folders, not
here.
"""

import json
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

SCHEMA = """
CREATE TABLE IF NOT EXISTS stacks (
    id TEXT PRIMARY KEY, name TEXT, status TEXT, reason TEXT, tags TEXT,
    template TEXT,            -- what runs, or is being made
    target TEXT,              -- what an update is on its way to
    created TEXT, updated TEXT, deleted TEXT);
CREATE TABLE IF NOT EXISTS events (
    seq INTEGER PRIMARY KEY, stack_id TEXT, time TEXT, logical_id TEXT, physical_id TEXT,
    type TEXT, status TEXT, reason TEXT);
CREATE TABLE IF NOT EXISTS resources (
    type TEXT, name TEXT, stack_id TEXT, logical_id TEXT, properties TEXT, created TEXT,
    stage TEXT,               -- 'new' until what made it is complete, 'old' once replaced
    PRIMARY KEY (type, name));
CREATE TABLE IF NOT EXISTS endpoints (
    name TEXT PRIMARY KEY, config TEXT, status TEXT, reason TEXT, created TEXT, updated TEXT);
"""


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def write_json(path: Path, value: dict, mode: int = 0o644) -> None:
    """Replace a JSON file in one step: a reader, or a crash, never sees half of it."""
    temporary = path.with_suffix(".new")
    temporary.unlink(missing_ok=True)
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w") as file:
        json.dump(value, file, indent=2)
        file.write("\n")
    os.replace(temporary, path)


class State:
    """Rows in, rows out, as dictionaries; columns named `template`, `target`, `tags` and
    `properties` are JSON."""

    JSON_COLUMNS = ("template", "target", "tags", "properties")

    def __init__(self, path: Path) -> None:
        self._lock = threading.RLock()
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._db.row_factory = sqlite3.Row
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.executescript(SCHEMA)

    def close(self) -> None:
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
            f"UPDATE {table} SET {assignments} WHERE {self._condition(where)}",
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
        return [
            json.dumps(value) if column in self.JSON_COLUMNS and value is not None else value
            for column, value in row.items()
        ]

    def _unpack(self, row: sqlite3.Row) -> dict:
        return {
            column: json.loads(row[column])
            if column in self.JSON_COLUMNS and row[column]
            else row[column]
            for column in row.keys()  # noqa: SIM118 - a Row iterates over values
        }
