"""What the tests of PostgreSQL share: a schema for each test, and a way past the stores."""

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

from minuet.adapters.postgres import PostgresStore
from minuet.adapters.system import SystemIds
from minuet.app import Database
from minuet.ports import Tx

PATIENCE_S = 60


@contextmanager
def fresh_schema(url: str) -> Iterator[str]:
    """A name that no schema has yet; the schema is dropped afterwards."""
    name = f"test-{uuid.uuid4().hex}"
    try:
        yield name
    finally:
        query(url, f'DROP SCHEMA IF EXISTS "{name}" CASCADE')


def opening(url: str, schema_name: str, **options: Any) -> PostgresStore:
    return PostgresStore(url, schema_name=schema_name, ids=SystemIds(), **options)


def query(url: str, sql: str, schema_name: str = "public") -> list[Any]:
    """Ask the server, past any store."""
    with psycopg.connect(url, autocommit=True, options=f'-c search_path="{schema_name}"') as connection:
        cursor = connection.execute(sql)  # type: ignore[call-overload]
        return cursor.fetchall() if cursor.description else []


def running(statement: str, **values: Any) -> Callable[[Tx], int]:
    """A work that runs this statement."""

    def work(tx: Tx) -> int:
        db: Database = tx.handle(Database)
        return db.execute(statement, **values)

    return work
