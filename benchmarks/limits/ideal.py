"""The limit for whoever writes the saga by hand: a bare loop with group commit, in one database. Prints one JSON line.

The saga's row, and for each step its row and a row of the journal, are durable before the next step begins. Works that
come while a transaction is being committed share the next one. There are no retries, undos, leases, timers, messages or
recovery: this is a ceiling, not a product.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sqlite3
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import psycopg

from benchmarks.harness import STEPS, SYNCHRONOUS, TABLE, arguments, asked, measured, order, report
from benchmarks.postgres import new_database

SAGA = "CREATE TABLE saga (saga_id TEXT NOT NULL PRIMARY KEY, status TEXT NOT NULL, input TEXT NOT NULL)"
JOURNAL = """CREATE TABLE journal (saga_id TEXT NOT NULL, step INTEGER NOT NULL, outcome TEXT NOT NULL,
    PRIMARY KEY (saga_id, step))"""
SCHEMA = (SAGA, JOURNAL, *(TABLE.format(table=table) for table in STEPS))

Row = tuple[Any, ...]
Work = Sequence[tuple[str, Row]]
"""Rows, each with the name of its table; ``done`` is the saga's end."""


class Group(ABC):
    """One writer. What queues up during a commit is the next transaction."""

    def __init__(self) -> None:
        self.commits = 0
        self._queue: list[tuple[Work, asyncio.Future[None]]] = []
        self._wake = asyncio.Event()
        self._writing = asyncio.create_task(self._write_all())

    def write(self, *work: tuple[str, Row]) -> asyncio.Future[None]:
        durable = asyncio.get_running_loop().create_future()
        self._queue.append((work, durable))
        self._wake.set()
        return durable

    async def _write_all(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            batch, self._queue = self._queue, []
            by_table: dict[str, list[Row]] = {}
            for work, _ in batch:
                for table, row in work:
                    by_table.setdefault(table, []).append(row)
            await self.commit(by_table)
            self.commits += 1
            for _, durable in batch:
                durable.set_result(None)

    @abstractmethod
    async def commit(self, by_table: dict[str, list[Row]]) -> None:
        """All rows in one transaction."""

    @abstractmethod
    async def rows(self) -> int:
        """How many sagas are done, with all their rows."""


class OnSqlite(Group):
    def __init__(self, path: str) -> None:
        super().__init__()
        self.database = open_sqlite(path)
        self.statements = {
            "saga": "INSERT INTO saga VALUES (?, ?, ?)",
            "journal": "INSERT INTO journal VALUES (?, ?, ?)",
            "done": "UPDATE saga SET status = 'completed' WHERE saga_id = ?",
            **{table: f"INSERT INTO {table} VALUES (?, ?, ?)" for table in STEPS},
        }

    async def commit(self, by_table: dict[str, list[Row]]) -> None:
        self.database.execute("BEGIN IMMEDIATE")
        for table, rows in by_table.items():
            self.database.executemany(self.statements[table], rows)
        self.database.execute("COMMIT")
        await asyncio.sleep(0)

    async def rows(self) -> int:
        tables = [f"SELECT count(*) FROM {table}" for table in STEPS]
        tables.append("SELECT count(*) FROM saga WHERE status = 'completed'")
        counts = {self.database.execute(table).fetchone()[0] for table in tables}
        assert len(counts) == 1, counts
        return int(counts.pop())


class OnPostgres(Group):
    """The statements of a transaction are sent at once, each with all its rows as arrays."""

    def __init__(self, connection: psycopg.AsyncConnection[Row]) -> None:
        super().__init__()
        self.connection = connection
        three = "SELECT * FROM unnest(%s::text[], %s::{}[], %s::{}[])"
        self.statements = {
            "saga": "INSERT INTO saga " + three.format("text", "text"),
            "journal": "INSERT INTO journal " + three.format("int", "text"),
            "done": "UPDATE saga SET status = 'completed' WHERE saga_id = ANY(%s::text[])",
            **{table: f"INSERT INTO {table} " + three.format("text", "float8") for table in STEPS},
        }

    async def commit(self, by_table: dict[str, list[Row]]) -> None:
        async with self.connection.pipeline(), self.connection.transaction():
            for table, rows in by_table.items():
                await self.connection.execute(self.statements[table], [list(one) for one in zip(*rows, strict=True)])

    async def rows(self) -> int:
        tables = [f"(SELECT count(*) FROM {table})" for table in STEPS]
        tables.append("(SELECT count(*) FROM saga WHERE status = 'completed')")
        found = await (await self.connection.execute(f"SELECT {', '.join(tables)}")).fetchone()
        assert len(set(found or ())) == 1, found
        return int(set(found or ()).pop())


def open_sqlite(path: str) -> sqlite3.Connection:
    """The database with its tables, for the thread that opens it."""
    database = sqlite3.connect(path, isolation_level=None)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute(f"PRAGMA synchronous = {SYNCHRONOUS}")
    for statement in SCHEMA:
        database.execute(statement.replace("CREATE TABLE", "CREATE TABLE IF NOT EXISTS", 1))
    return database


async def saga(group: Group, number: int) -> None:
    content = order(number)
    saga_id = content["order_id"]
    await group.write(("saga", (saga_id, "running", json.dumps(content))))
    for at, table in enumerate(STEPS):
        end = (("done", (saga_id,)),) if at == len(STEPS) - 1 else ()
        await group.write(
            (table, (saga_id, content["sku"], time.time())), ("journal", (saga_id, at, "succeeded")), *end
        )


async def measure(given: argparse.Namespace) -> dict[str, Any]:
    group: Group
    if given.store == "postgres":
        connection = await psycopg.AsyncConnection.connect(new_database(), autocommit=True)
        for statement in SCHEMA:
            await connection.execute(statement.encode())
        connection.prepare_threshold = 1
        group = OnPostgres(connection)
    else:
        group = OnSqlite(str(given.dir / "ideal.db"))
    return await measured(
        lambda number: saga(group, number),
        asked(given),
        counters=lambda: {"commits": group.commits},
        rows=group.rows,
    )


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--store", choices=["sqlite", "postgres"], default="sqlite")
    report(asyncio.run(measure(parser.parse_args())))


if __name__ == "__main__":
    main()
