"""One unit of work on the store, and the handles of the user's own database that go with it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from types import TracebackType
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.pq.abc import PGresult

from minuet.adapters.postgres import tables
from minuet.adapters.postgres.ahead import Ahead
from minuet.adapters.postgres.connection import Connection
from minuet.adapters.postgres.failures import Interrupted, NeedsCare, TransactionEnded, interruption
from minuet.adapters.postgres.handle import PostgresHandle
from minuet.adapters.postgres.later import Later, Mark
from minuet.adapters.postgres.pipeline import Command
from minuet.adapters.postgres.retention import PostgresRetention
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

KEEP = b"SAVEPOINT minuet"
RELEASE = b"RELEASE SAVEPOINT minuet"
UNDO = b"ROLLBACK TO SAVEPOINT minuet; RELEASE SAVEPOINT minuet"
SWALLOWED = (
    "a statement failed and its error was caught, but PostgreSQL takes no more statements then: "
    "wrap it in a savepoint, with connection.transaction() or begin_nested()"
)


class Savepoint:
    """What is written inside is undone, alone, when the block raises. See `Transaction` for when it is a real one."""

    __slots__ = ("_before", "_connection", "_is_real", "_tx")

    def __init__(self, tx: PostgresTx, connection: Connection) -> None:
        self._tx = tx
        self._connection = connection

    def __enter__(self) -> None:
        self._is_real = self._tx.is_careful
        self._before = self._connection.writes
        if self._is_real:
            self._connection.run(KEEP)
        self._tx.begin()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if error is None:
            try:
                self._tx.end()
            except NeedsCare:
                raise
            except BaseException as late:
                self._undo(late)
                raise
            if self._is_real:
                self._connection.run(RELEASE)
        elif not isinstance(error, NeedsCare | Interrupted):
            self._undo(error)

    def _undo(self, error: BaseException) -> None:
        self._tx.undo()
        interrupted = interruption(self._connection, error)
        if interrupted is not None:
            raise interrupted
        if self._connection.status == TransactionStatus.IDLE:
            raise Interrupted("a handler ended the transaction") from error
        if self._is_real:
            self._connection.run(UNDO)
        elif self._connection.writes != self._before or self._connection.status != TransactionStatus.INTRANS:
            self._tx.needs_care = True
            raise NeedsCare from error


class PostgresTx:
    """All works on a connection use the same one, one after the other.

    Attributes:
        is_careful: whether this transaction takes a savepoint for everything that may have to be undone alone.
        needs_care: something that has written must be undone alone; as somebody may catch the `NeedsCare` that says so.
        handed_out: whether a handler had the connection in its hands.
    """

    is_careful = False
    needs_care = False

    def __init__(self, connection: Connection, schema_name: str, instance: str) -> None:
        self._later = Later()
        self._ahead = Ahead()
        shared = (connection, connection.own_cursor(), schema_name, instance, self._later, self._ahead)
        self.inbox: Inbox = tables.PostgresInbox(*shared)
        self.known: KnownMessages = tables.PostgresKnown(*shared)
        self._outbox = tables.PostgresOutbox(*shared)
        self.outbox: Outbox = self._outbox
        self.parked: Parked = tables.PostgresParked(*shared)
        self.read_models: ReadModels = tables.PostgresReadModels(*shared)
        self.records: Records = tables.PostgresRecords(*shared)
        self.audit: Audit = tables.PostgresAudit(*shared)
        self.instructions: Instructions = tables.PostgresInstructions(*shared)
        self.retention: Retention = PostgresRetention(*shared)
        self.handed_out = False
        self._connection = connection
        self._database = PostgresHandle(connection)
        self._marks: list[tuple[tuple[int, int], Mark]] = []
        self._sqlalchemy: SqlAlchemyHandles | None = None
        connection.before_looking = self._outbox.flush

    def handle(self, wanted: type[Any]) -> Any:
        self.handed_out = True
        if wanted is Database:
            return self._database
        if wanted is psycopg.Connection:
            return self._connection
        if wanted.__module__.partition(".")[0] == "sqlalchemy":
            if self._sqlalchemy is None:
                from minuet.adapters.postgres.with_sqlalchemy import handles_over

                self._sqlalchemy = handles_over(self._connection)
            found = self._sqlalchemy.handle(wanted)
            if found is not None:
                return found
        offered = "minuet.Database, psycopg.Connection" + (
            ", sqlalchemy.Connection or sqlalchemy.orm.Session" if find_spec("sqlalchemy") else ""
        )
        raise ConfigurationError(
            f"a postgres store has no {wanted.__module__}.{wanted.__qualname__} for a handler; it has {offered}"
        )

    def savepoint(self) -> Savepoint:
        return Savepoint(self, self._connection)

    # -- as the transaction sees it ------------------------------------------------------------------------------------

    def ask_ahead(self, works: Iterable[object]) -> list[Command]:
        """A transaction of these works begins: what reads ahead for them. Nothing is, if it is a careful one."""
        self._later.is_on = not self.is_careful
        return self._ahead.ask(works if self._later.is_on else ())

    def answered(self, results: Sequence[PGresult]) -> None:
        """What came of that."""
        self._ahead.answered([self._connection.rows_of(result) for result in results])

    def begin(self) -> None:
        """A work or a savepoint within it begins."""
        self._marks.append((self._outbox.mark(), self._later.mark()))

    def end(self) -> None:
        """It is done; what it still holds back is to be written now."""
        if self._sqlalchemy:
            self._sqlalchemy.flush()
        self._check()
        if self._sqlalchemy and len(self._marks) == 1:
            self._sqlalchemy.forget()
        self._marks.pop()

    def _check(self) -> None:
        """Whether the transaction can go on, although nobody raised."""
        status = self._connection.status
        if status == TransactionStatus.INTRANS:
            return
        if status == TransactionStatus.INERROR:
            if not self.is_careful:
                raise NeedsCare
            raise psycopg.errors.InFailedSqlTransaction(SWALLOWED)
        if status == TransactionStatus.IDLE:
            raise TransactionEnded("a handler ended the transaction")
        raise psycopg.OperationalError("the connection is lost")

    def undo(self) -> None:
        """It failed and is undone."""
        if self._marks:
            self._back_to(self._marks.pop())
        if self._sqlalchemy:
            self._sqlalchemy.forget()

    def _back_to(self, mark: tuple[tuple[int, int], Mark]) -> None:
        self._outbox.back_to(mark[0])
        self._ahead.unlearn(self._later.back_to(mark[1]))

    def has_outgoing(self) -> bool:
        return self._outbox.mark() != (0, 0)

    def last_commands(self) -> tuple[list[Command], bool]:
        """What is still to be written before the commit, and whether the last result of it is for `sent`."""
        outgoing = self._outbox.commands()
        return self._later.commands() + outgoing, bool(outgoing)

    def sent(self, result: PGresult) -> None:
        """The messages of this transaction are in the outbox."""
        self._outbox.written(self._connection.positions_in(result))

    def sending(self) -> list[Outgoing]:
        """What the transaction sends when it is committed."""
        return self._outbox.sending()

    def committed(self) -> None:
        self._begin_anew()

    def rolled_back(self) -> None:
        """Nothing of the transaction remains."""
        self._marks.clear()
        self._begin_anew()
        if self._sqlalchemy:
            self._sqlalchemy.forget()

    def _begin_anew(self) -> None:
        self._outbox.back_to((0, 0))
        self._later.clear()
        self._later.is_on = False
        self._ahead.forget()
