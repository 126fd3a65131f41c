"""SQLAlchemy over a store's own connection, whichever database that is. Imported only when a handler asks for it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, NoReturn

import sqlalchemy
from sqlalchemy import orm
from sqlalchemy.pool import StaticPool

from minuet.adapters.sql import REFUSAL
from minuet.core.errors import DefinitionError


def _refuse(*_: Any, **__: Any) -> NoReturn:
    raise DefinitionError(REFUSAL)


class WithoutEnd:
    """The part of a driver's connection that is the store's affair; mix it in before the rest."""

    def commit(self) -> None:
        """The store does."""

    def rollback(self) -> None:
        """The store does."""

    def close(self) -> None:
        """The store does."""


def engine_over(url: str, bare: Callable[[], WithoutEnd], **options: Any) -> sqlalchemy.Engine:
    """An engine with one connection for its life.

    Args:
        bare: the driver's connection as SQLAlchemy may see it.
        options: of the dialect.
    """
    return sqlalchemy.create_engine(url, creator=bare, poolclass=StaticPool, pool_reset_on_return=None, **options)


class HandlerConnection(sqlalchemy.Connection):
    """In one SQLAlchemy transaction for its life, which says nothing to the database."""

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


class SqlAlchemyHandles:
    """One Connection for the life of the store's, as making one costs more than a statement; one Session for a work."""

    def __init__(self, engine: sqlalchemy.Engine) -> None:
        self._engine = engine
        self._connection = HandlerConnection(engine)
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

    def create_all(self, metadata: sqlalchemy.MetaData) -> None:
        """Create what is missing, within the transaction that is open."""
        metadata.create_all(self._connection, checkfirst=True)

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
