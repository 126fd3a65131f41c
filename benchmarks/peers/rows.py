"""The business tables of the peers, in one SQLite file: one row for each step, durable before the step is over.

Needs nothing but the standard library, because peers run in environments of their own.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from pathlib import Path
from typing import Any

from benchmarks.harness import STEPS, SYNCHRONOUS, TABLE

INSERT = "INSERT INTO {table} (order_id, detail, created) VALUES (?, ?, ?) ON CONFLICT DO NOTHING"
BUSY_S = 60.0


def open_file(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, isolation_level=None, timeout=BUSY_S)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute(f"PRAGMA synchronous = {SYNCHRONOUS}")
    for table in STEPS:
        database.execute(TABLE.format(table=f"IF NOT EXISTS {table}"))
    return database


class Rows:
    """A connection for each thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._of_thread = threading.local()
        open_file(path).close()

    @property
    def database(self) -> sqlite3.Connection:
        found = getattr(self._of_thread, "database", None)
        if found is None:
            found = self._of_thread.database = open_file(self._path)
        return found

    def write(self, table: str, content: dict[str, Any]) -> None:
        """The row of a step, committed."""
        self.database.execute(INSERT.format(table=table), (content["order_id"], content["sku"], time.time()))

    def complete(self) -> int:
        """Of how many orders all rows are there."""
        counts = {self.database.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in STEPS}
        assert len(counts) == 1, counts
        return int(counts.pop())
