"""`minuet.Database` on the store's own connection."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg.rows import dict_row

from minuet.adapters.postgres.connection import Connection
from minuet.adapters.postgres.statements import numbered
from minuet.app import Row


class PostgresHandle:
    """One cursor for the life of the connection: every result is read to its end at once."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._cursor = psycopg.RawCursor(connection, row_factory=dict_row)

    def execute(self, statement: str, /, **values: Any) -> int:
        return self._run(statement, values).rowcount

    def one(self, statement: str, /, **values: Any) -> Row | None:
        rows: list[Row] = self._run(statement, values).fetchall()  # type: ignore[assignment]
        return rows[0] if rows else None

    def all(self, statement: str, /, **values: Any) -> Sequence[Row]:
        return self._run(statement, values).fetchall()

    def _run(self, statement: str, values: dict[str, Any]) -> psycopg.RawCursor[dict[str, Any]]:
        self._connection.check(statement)
        text, names = numbered(statement)
        if not names:
            self._cursor.execute(text)
        else:
            missing = [name for name in names if name not in values]
            if missing:
                raise psycopg.ProgrammingError(f"no value was given for :{', :'.join(missing)}")
            self._cursor.execute(text, [values[name] for name in names])
        self._connection.note(statement, self._cursor.statusmessage or "")
        return self._cursor
