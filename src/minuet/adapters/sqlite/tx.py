"""One unit of work on the store, and the handles of the user's own database that go with it."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from types import TracebackType
from typing import TYPE_CHECKING, Any

from minuet.adapters.sqlite import tables
from minuet.adapters.sqlite.connection import Connection
from minuet.adapters.sqlite.handle import SqliteHandle
from minuet.adapters.sqlite.retention import SqliteRetention
from minuet.adapters.sqlite.transaction import KEEP, RELEASE, UNDO, NeedsCare, Rider, TransactionGone
from minuet.app import Database
from minuet.core.errors import ConfigurationError
from minuet.ports import (
    Audit,
    Inbox,
    Instructions,
    KnownMessages,
    Outbox,
    Outgoing,
    Parked,
    ReadModels,
    Records,
    Retention,
)

if TYPE_CHECKING:
    from minuet.adapters.sql.handles import SqlAlchemyHandles


class Savepoint:
    """What is written inside is undone, alone, when the block raises. See `Transaction` for when it is a real one."""

    __slots__ = ("_before", "_connection", "_is_real", "_tx")

    def __init__(self, tx: SqliteTx, connection: Connection) -> None:
        self._tx = tx
        self._connection = connection

    def __enter__(self) -> None:
        self._is_real = self._tx.is_careful
        self._before = self._connection.writes
        if self._is_real:
            self._tx.run(KEEP)
        self._tx.begin()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if error is None:
            try:
                self._tx.end()
            except BaseException as late:
                self._undo(late)
                raise
            if not self._connection.in_transaction:  # somebody caught the error that came with it
                raise TransactionGone
            if self._is_real:
                self._tx.run(RELEASE)
        elif not isinstance(error, NeedsCare | TransactionGone):
            self._undo(error)

    def _undo(self, error: BaseException) -> None:
        self._tx.undo()
        if not self._connection.in_transaction:
            raise TransactionGone from error
        if self._is_real:
            self._tx.run(UNDO)
            self._tx.run(RELEASE)
        elif self._connection.writes != self._before:
            self._tx.needs_care = True
            raise NeedsCare from error
        explained = self._connection.explain(error)
        if explained is not error:
            raise explained from error


class SqliteTx(Rider):
    """All works use the same one, one after the other."""

    def __init__(
        self,
        connection: Connection,
        instance: str,
        gone: Callable[[str], bool],
        committed: Callable[[Sequence[Outgoing]], None],
    ) -> None:
        cursor = connection.own_cursor()
        self.inbox: Inbox = tables.SqliteInbox(cursor, instance, gone)
        self._known = tables.SqliteKnown(cursor, instance, gone)
        self.known: KnownMessages = self._known
        self._outbox = tables.SqliteOutbox(cursor, instance, gone)
        self.parked: Parked = tables.SqliteParked(cursor, instance, gone)
        self.read_models: ReadModels = tables.SqliteReadModels(cursor, instance, gone)
        self.records: Records = tables.SqliteRecords(cursor, instance, gone)
        self.audit: Audit = tables.SqliteAudit(cursor, instance, gone)
        self.instructions: Instructions = tables.SqliteInstructions(cursor, instance, gone)
        self.retention: Retention = SqliteRetention(cursor, instance, gone, self._known)
        self.outbox: Outbox = self._outbox
        self._connection = connection
        self._cursor = cursor
        self._committed = committed
        self._marks: list[tuple[int, int]] = []
        self._handed_out = False
        self._sqlalchemy: SqlAlchemyHandles | None = None
        self._database = SqliteHandle(connection)

    def handle(self, wanted: type[Any]) -> Any:
        if wanted is Database:  # it leaves nothing open
            return self._database
        self._handed_out = True
        if wanted is sqlite3.Connection:
            return self._connection
        if wanted.__module__.partition(".")[0] == "sqlalchemy":
            found = self.sqlalchemy().handle(wanted)
            if found is not None:
                return found
        offered = "minuet.Database, sqlite3.Connection" + (
            ", sqlalchemy.Connection or sqlalchemy.orm.Session" if find_spec("sqlalchemy") else ""
        )
        raise ConfigurationError(
            f"a sqlite store has no {wanted.__module__}.{wanted.__qualname__} for a handler; it has {offered}"
        )

    def sqlalchemy(self) -> SqlAlchemyHandles:
        if self._sqlalchemy is None:
            from minuet.adapters.sqlite.with_sqlalchemy import handles_over

            self._sqlalchemy = handles_over(self._connection)
        return self._sqlalchemy

    def savepoint(self) -> Savepoint:
        return Savepoint(self, self._connection)

    def run(self, statement: str) -> None:
        self._connection.run(self._cursor, statement)

    # -- as a rider of the database's transactions ---------------------------------------------------------------------

    def begin(self) -> None:
        self._marks.append(self._outbox.mark())

    def end(self) -> None:
        if self._handed_out:
            self._take_back()
        self._marks.pop()

    def _take_back(self) -> None:
        if self._sqlalchemy:
            self._sqlalchemy.flush()
        if len(self._marks) == 1:
            self._forget_handles()

    def _forget_handles(self) -> None:
        self._handed_out = False
        if self._sqlalchemy:
            self._sqlalchemy.forget()
        self._connection.close_cursors()

    def others_wrote(self) -> None:
        self._known.forget()

    def undo(self) -> None:
        self._known.unlearn()
        self._outbox.back_to(self._marks.pop())
        if self._handed_out:
            self._forget_handles()

    def before_commit(self) -> None:
        self._outbox.write()

    def after_commit(self) -> Callable[[], None] | None:
        self._known.committed()
        added = self._outbox.written()
        return partial(self._committed, added) if added else None

    def rolled_back(self) -> None:
        self._marks.clear()
        self._known.rolled_back()
        self._outbox.back_to((0, 0))
        self._forget_handles()
