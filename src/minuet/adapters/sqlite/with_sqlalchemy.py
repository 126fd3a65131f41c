"""SQLAlchemy over the store's own SQLite connection. Imported only when a handler asks for it."""

from __future__ import annotations

import sqlite3

from minuet.adapters.sql.handles import SqlAlchemyHandles, WithoutEnd, engine_over


class BareConnection(WithoutEnd):
    """The DB-API connection as SQLAlchemy sees it: the store's, without beginning or end."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.cursor = connection.cursor
        self.execute = connection.execute
        self.create_function = connection.create_function
        self.isolation_level = None
        self.total_changes = 0


def handles_over(connection: sqlite3.Connection) -> SqlAlchemyHandles:
    return SqlAlchemyHandles(engine_over("sqlite://", lambda: BareConnection(connection)))
