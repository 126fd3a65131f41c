"""SQLAlchemy over the store's own PostgreSQL connection. Imported only when a handler asks for it."""

from __future__ import annotations

from typing import Any

import psycopg

from minuet.adapters.sql.handles import SqlAlchemyHandles, WithoutEnd, engine_over


class BareConnection(WithoutEnd):
    """The driver's connection as SQLAlchemy sees it: the store's, without beginning or end."""

    def __init__(self, connection: psycopg.Connection) -> None:
        self._connection = connection

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


def handles_over(connection: psycopg.Connection) -> SqlAlchemyHandles:
    # Native hstore: SQLAlchemy would ask the driver for it, whose connection ours is not quite.
    return SqlAlchemyHandles(
        engine_over("postgresql+psycopg://", lambda: BareConnection(connection), use_native_hstore=False)
    )
