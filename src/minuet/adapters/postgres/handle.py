"""`minuet.Database` on the store's own connection."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg.pq.abc import PGresult

from minuet.adapters.postgres.connection import Connection
from minuet.adapters.postgres.statements import numbered
from minuet.app import Row


class PostgresHandle:
    """Past psycopg's cursors where there are values: one for each statement is half of what it costs in the process."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def execute(self, statement: str, /, **values: Any) -> int:
        written = self._run(statement, values).command_tuples
        return -1 if written is None else written

    def one(self, statement: str, /, **values: Any) -> Row | None:
        rows = self.all(statement, **values)
        return rows[0] if rows else None

    def all(self, statement: str, /, **values: Any) -> Sequence[Row]:
        result = self._run(statement, values)
        if result.nfields == 0:
            raise psycopg.ProgrammingError("the statement has no rows to read; use execute")
        return self._connection.dicts_of(result)

    def _run(self, statement: str, values: dict[str, Any]) -> PGresult:
        self._connection.check(statement)
        text, names = numbered(statement)
        missing = [name for name in names if name not in values]
        if missing:
            raise psycopg.ProgrammingError(f"no value was given for :{', '.join(missing)}")
        result = self._connection.ask(text, [values[name] for name in names])
        self._connection.note(statement, (result.command_status or b"").decode())
        return result
