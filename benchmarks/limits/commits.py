"""The limit for one order alone: its five commits, one after the other, nothing else. Prints one JSON line.

The saga's row, then each step's row with a row of the journal; each is a transaction of its own on SQLite.
"""

from __future__ import annotations

import json
import time

from benchmarks.harness import STEPS, arguments, asked, measured_in_threads, order, report
from benchmarks.limits.ideal import open_sqlite


def main() -> None:
    parser = arguments(__doc__)
    given = parser.parse_args()
    if given.in_flight != 1:
        parser.error("it is one order alone: --in-flight 1")
    path = str(given.dir / "commits.db")
    database = None
    commits = 0

    def one_order(number: int) -> None:
        nonlocal database, commits
        database = database or open_sqlite(path)  # in the thread that will use it
        content = order(number)
        saga_id = content["order_id"]
        database.execute("INSERT INTO saga VALUES (?, 'running', ?)", (saga_id, json.dumps(content)))
        for at, table in enumerate(STEPS):
            database.execute("BEGIN IMMEDIATE")
            database.execute(f"INSERT INTO {table} VALUES (?, ?, ?)", (saga_id, content["sku"], time.time()))
            database.execute("INSERT INTO journal VALUES (?, ?, 'succeeded')", (saga_id, at))
            database.execute("COMMIT")
        commits += 1 + len(STEPS)

    report(measured_in_threads(one_order, asked(given), counters=lambda: {"commits": commits}))


if __name__ == "__main__":
    main()
