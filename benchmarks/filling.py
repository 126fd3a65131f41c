"""Stores with many finished or parked sagas, made in bulk: one real order is copied within its databases by SQL.

A finished order leaves rows in the inbox and among the known messages of each service, and its business rows. Its
copies are these rows with another order's id wherever the id stands: keys, attributes, bodies. So what is filled in has
the size and the shape of what minuet writes, and its indexes are as deep.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from benchmarks import order_saga
from benchmarks.harness import STEPS, order
from minuet import Coordination, Settings, running

AT_ONCE = 50_000
"""Orders that are copied in one transaction."""
COPIED = ("minuet_inbox", "minuet_known", *STEPS)
PARKED_REASON = "parked by the benchmark"


def finished(folder: Path, coordination: str, count: int) -> None:
    """Fill an empty folder with so many orders that are completed."""
    asyncio.run(_one_order(folder, coordination))
    for file in _stores(folder):
        with _opened(file) as database:
            for table in _tables(database):
                copy = _copying(database, table)
                for first in range(0, count - 1, AT_ONCE):
                    database.execute("BEGIN")
                    database.execute(copy, {"first": first, "last": min(first + AT_ONCE, count - 1) - 1, "id": _ID})
                    database.execute("COMMIT")


def parked(folder: Path, coordination: str, count: int, *, of: int) -> None:
    """The same, and let so many of these entries of one service need an operator."""
    finished(folder, coordination, of)
    with _opened(folder / "inventory.db") as database:
        database.execute(
            "UPDATE minuet_inbox SET state = 'parked', error = ? WHERE key IN (SELECT key FROM minuet_inbox LIMIT ?)",
            (PARKED_REASON, count),
        )
        ((found,),) = database.execute("SELECT count(*) FROM minuet_inbox WHERE state = 'parked'").fetchall()
        assert found == count, found


def size_mb(folder: Path) -> float:
    return sum(file.stat().st_size for file in folder.iterdir() if file.is_file()) / 1e6


_ID = order(0)["order_id"]


async def _one_order(folder: Path, coordination: str) -> None:
    """The one that is copied."""
    settings = Settings(data=folder, coordination={order_saga.SAGA: Coordination(coordination)})
    async with running(order_saga.app, settings) as system:
        await system.send(order_saga.Place(**order(0)))
        await system.ended(order_saga.SAGA, _ID)
        await system.drained()


def _stores(folder: Path) -> list[Path]:
    return [file for file in sorted(folder.glob("*.db")) if file.name != "broker.db"]


@contextmanager
def _opened(file: Path) -> Iterator[sqlite3.Connection]:
    """Fast, and nothing of it is left to be done by whoever opens the file next."""
    with closing(sqlite3.connect(file, isolation_level=None)) as database:
        database.execute("PRAGMA synchronous = OFF")
        yield database
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _tables(database: sqlite3.Connection) -> list[str]:
    there = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    return [table for table in COPIED if table in there]


def _copying(database: sqlite3.Connection, table: str) -> str:
    """The statement that copies what the table has of the one order, for each number from ``:first`` to ``:last``."""
    names, values = [], []
    for _, name, kind, _, _, is_key in database.execute(f"PRAGMA table_info({table})").fetchall():
        if is_key and kind == "INTEGER":
            continue  # the position, which SQLite counts on
        replaced = f"replace(CAST({name} AS TEXT), :id, numbers.id)"
        names.append(name)
        values.append({"TEXT": replaced, "BLOB": f"CAST({replaced} AS BLOB)"}.get(kind, name))
        if kind in ("TEXT", "BLOB"):
            values[-1] = f"CASE WHEN {name} IS NULL THEN NULL ELSE {values[-1]} END"
    mine = "key" if table == "minuet_inbox" else "saga_id" if table == "minuet_known" else "order_id"
    return f"""
        WITH RECURSIVE
            count(number) AS (SELECT :first UNION ALL SELECT number + 1 FROM count WHERE number < :last),
            numbers(id) AS (SELECT printf('f-%08d', number) FROM count),
            original AS MATERIALIZED (SELECT * FROM {table} WHERE instr({mine}, :id))
        INSERT INTO {table} ({", ".join(names)}) SELECT {", ".join(values)} FROM numbers, original"""
