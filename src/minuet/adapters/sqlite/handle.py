"""`minuet.Database` on the store's own connection."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

from minuet.adapters.sqlite.connection import Connection, HandlersCursor
from minuet.app import Row


class SqliteHandle:
    """One cursor for the life of the store: every result is read to its end at once."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._cursor = connection.lasting_cursor(HandlersCursor)
        self._cursor.row_factory = sqlite3.Row
        self._execute = self._cursor.execute

    def execute(self, statement: str, /, **values: Any) -> int:
        before = self._connection.total_changes
        cursor = self._execute(statement, values)
        if cursor.description is not None:
            cursor.fetchall()
        if cursor.rowcount >= 0:
            return cursor.rowcount
        if self._connection.total_changes == before:
            return 0
        ((changed,),) = self._execute("SELECT changes()").fetchall()  # the driver does not count after WITH
        return int(changed)

    def one(self, statement: str, /, **values: Any) -> Row | None:
        rows: list[Row] = self._execute(statement, values).fetchall()
        return rows[0] if rows else None

    def all(self, statement: str, /, **values: Any) -> Sequence[Row]:
        return self._execute(statement, values).fetchall()
