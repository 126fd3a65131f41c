"""A peer: DBOS Transact. A workflow of four steps, each of which commits its row. Prints one JSON line.

On SQLite, its file is put in WAL mode, which is faster than as it is shipped; on PostgreSQL, rows and workflows are in
one database. Each customer is a thread that runs its workflow: with fewer threads and a line before them it was slower.
"""

from __future__ import annotations

import argparse
import os
import sqlite3
import sys
import time
import uuid
from collections.abc import Callable
from importlib.metadata import version
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psycopg
from dbos import DBOS, DBOSConfig, SetWorkflowID
from psycopg_pool import ConnectionPool

from benchmarks.harness import STEPS, TABLE, arguments, asked, measured_in_threads, order, report
from benchmarks.peers.rows import Rows

POOL = 20
INSERT = "INSERT INTO {table} (order_id, detail, created) VALUES (%s, %s, %s) ON CONFLICT DO NOTHING"


class PostgresRows:
    """Like `Rows`, in the database of the workflows."""

    def __init__(self, url: str) -> None:
        self._pool = ConnectionPool(url, min_size=POOL, max_size=POOL, kwargs={"autocommit": True}, open=True)
        with self._pool.connection() as connection:
            for table in STEPS:
                connection.execute(TABLE.format(table=table))

    def write(self, table: str, content: dict[str, Any]) -> None:
        with self._pool.connection() as connection:
            connection.execute(INSERT.format(table=table), (content["order_id"], content["sku"], time.time()))

    def complete(self) -> int:
        with self._pool.connection() as connection:
            counts = {connection.execute(f"SELECT count(*) FROM {table}").fetchone() for table in STEPS}
        ((count,),) = counts
        return int(count)


def new_database() -> str:
    server, name = os.environ["POSTGRES_URL"], f"dbos_{uuid.uuid4().hex[:8]}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return urlunsplit(urlsplit(server)._replace(path=f"/{name}"))


def step_of(table: str, rows: Rows | PostgresRows) -> Callable[[dict[str, Any]], dict[str, str]]:
    @DBOS.step(name=table)
    def run(content: dict[str, Any]) -> dict[str, str]:
        rows.write(table, content)
        return {"done": table}

    return run


def undo_of(table: str) -> Callable[[dict[str, Any]], None]:
    @DBOS.step(name=f"undo_{table}")
    def run(content: dict[str, Any]) -> None:
        raise NotImplementedError(f"nothing is ever refused here: {table} {content}")

    return run


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--store", choices=["sqlite", "postgres"], required=True)
    given = parser.parse_args()
    found = measure(given)
    report(found, versions={"dbos": version("dbos")})
    sys.stdout.flush()
    os._exit(0)  # its threads do not end by themselves


def measure(given: argparse.Namespace) -> dict[str, Any]:
    rows: Rows | PostgresRows
    if given.store == "sqlite":
        path = given.dir / "dbos.db"
        with sqlite3.connect(path) as database:
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("CREATE TABLE keeps_the_mode (x INTEGER)")
        url, rows = f"sqlite:///{path}", Rows(given.dir / "rows.db")
    else:
        url = new_database()
        rows = PostgresRows(url)
    config: DBOSConfig = {
        "name": "bench",
        "system_database_url": url,
        "log_level": "WARNING",
        "sys_db_pool_size": POOL,
        "max_executor_threads": max(64, 2 * given.in_flight),
    }
    DBOS(config=config)
    steps = [(step_of(table, rows), undo_of(table)) for table in STEPS]

    @DBOS.workflow()
    def saga(content: dict[str, Any]) -> str:
        done = []
        try:
            for run, undo in steps:
                run(content)
                done.append(undo)
        except Exception:
            for undo in reversed(done):
                undo(content)
            raise
        return "completed"

    DBOS.launch()

    def one_order(number: int) -> None:
        content = order(number)
        with SetWorkflowID(content["order_id"]):
            assert saga(content) == "completed"

    return measured_in_threads(one_order, asked(given), rows=rows.complete)


if __name__ == "__main__":
    main()
