"""SQLAlchemy over the store's own connection. Imported only when a handler asks for it."""

from __future__ import annotations

import contextlib
from typing import Any, NoReturn

import psycopg
import sqlalchemy
from sqlalchemy import orm
from sqlalchemy.pool import StaticPool

from minuet.adapters.postgres.connection import REFUSAL, Connection
from minuet.core.errors import DefinitionError


def _refuse(*_: Any, **__: Any) -> NoReturn:
    raise DefinitionError(REFUSAL)


class BareConnection:
    """The driver's connection as SQLAlchemy sees it: the store's, without beginning or end."""

    def __init__(self, connection: psycopg.Connection) -> None:
        self._connection = connection

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def commit(self) -> None:
        """The store does."""

    def rollback(self) -> None:
        """The store does."""

    def close(self) -> None:
        """The store does."""


class HandlerConnection(sqlalchemy.Connection):
    """In one SQLAlchemy transaction for its life, which says nothing to the server."""

    commit = rollback = begin_twophase = close = invalidate = detach = _refuse

    def begin(self) -> sqlalchemy.RootTransaction:
        if self.in_transaction():
            _refuse()
        return super().begin()


class HandlerSession(orm.Session):
    commit = rollback = prepare = close = invalidate = _refuse

    def begin(self, nested: bool = False) -> orm.SessionTransaction:
        if not nested:
            _refuse()
        return super().begin(nested=True)

    def really_close(self) -> None:
        super().close()


def create_all(connection: psycopg.Connection, metadata: sqlalchemy.MetaData) -> None:
    """Create what is missing, within the transaction that is open."""
    metadata.create_all(_engine_over(connection), checkfirst=True)


def _engine_over(connection: psycopg.Connection) -> sqlalchemy.Engine:
    return sqlalchemy.create_engine(
        "postgresql+psycopg://",
        creator=lambda: BareConnection(connection),
        poolclass=StaticPool,
        pool_reset_on_return=None,
        use_native_hstore=False,  # it would ask the driver for it, whose connection ours is not quite
    )


class SqlAlchemyHandles:
    """One Connection for the life of ours, as making one costs more than a statement; one Session for a work."""

    def __init__(self, connection: Connection) -> None:
        self._engine = _engine_over(connection)
        self._connection = HandlerConnection(self._engine)
        self._session: HandlerSession | None = None
        self._session_in_use = False

    def handle(self, wanted: type[Any]) -> Any:
        if not self._connection.in_transaction():
            self._connection.begin()
        if wanted is sqlalchemy.Connection:
            return self._connection
        if wanted is orm.Session:
            if self._session is None:
                self._session = HandlerSession(bind=self._connection)
            self._session_in_use = True
            return self._session
        return None

    def flush(self) -> None:
        is_open = self._connection.in_nested_transaction()
        if self._session_in_use and self._session:
            is_open = is_open or self._session.in_nested_transaction()
            self._session.flush()
        if is_open:
            # It would be rolled back at some later time, and with it whatever others have written since.
            raise DefinitionError("a handler must end what it began with begin_nested(), best by a with statement")

    def forget(self) -> None:
        """Objects are a work's own: the next one reads anew. A session that failed would go on failing."""
        session = self._session if self._session_in_use else None
        self._session = None
        self._session_in_use = False
        if session:
            with contextlib.suppress(sqlalchemy.exc.SQLAlchemyError):  # its savepoint may be gone with the transaction
                session.really_close()
        if self._connection.in_nested_transaction() or self._connection.invalidated:
            self._connection = HandlerConnection(self._engine)
