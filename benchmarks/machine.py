"""What the bare machine gives: one measurement, as a yardstick for the others of the same run. Prints one JSON line.

``commits``: one connection, SQLite in WAL with synchronous=FULL, one small row a commit: the price of durability.
``rows``: the same with a hundred rows a commit: what group commit can reach.
"""

from __future__ import annotations

import json
import sqlite3
import sys
import tempfile
import time
from pathlib import Path

SECONDS = 1.5


def rate(folder: str, rows: int) -> float:
    database = sqlite3.connect(Path(folder) / f"{rows}.db", isolation_level=None)
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("PRAGMA synchronous=FULL")
    database.execute("CREATE TABLE journal (id INTEGER PRIMARY KEY, saga TEXT, body BLOB)")
    body = b"x" * 200
    done, started = 0, time.perf_counter()
    while time.perf_counter() - started < SECONDS:
        database.execute("BEGIN IMMEDIATE")
        for _ in range(rows):
            database.execute("INSERT INTO journal (saga, body) VALUES (?, ?)", ("o-1", body))
        database.execute("COMMIT")
        done += rows
    elapsed = time.perf_counter() - started
    database.close()
    return done / elapsed


def bare(folder: Path) -> dict[str, int]:
    with tempfile.TemporaryDirectory(dir=folder) as made:
        return {"commits_per_s": round(rate(made, 1)), "rows_per_s": round(rate(made, 100))}


def main() -> None:
    print(json.dumps(bare(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.gettempdir()))))


if __name__ == "__main__":
    main()
