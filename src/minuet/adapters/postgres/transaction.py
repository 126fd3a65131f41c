"""Running works inside transactions of the one connection, on the store's thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.pq.abc import PGresult

from minuet.adapters.postgres.connection import Connection
from minuet.adapters.postgres.failures import ConnectionLost, Interrupted, NeedsCare, TransactionEnded, interruption
from minuet.adapters.postgres.pipeline import Command
from minuet.adapters.postgres.tx import PostgresTx
from minuet.adapters.sql import REFUSAL
from minuet.core.errors import DefinitionError, MinuetBug
from minuet.ports import Outgoing, Tx

# READ COMMITTED, whatever the database's default is: a statement after a lock must see what the lock was waited for.
# The transaction's number says later whether it was committed, should the connection be lost meanwhile.
BEGIN = (Command(b"BEGIN ISOLATION LEVEL READ COMMITTED"), Command(b"SELECT pg_current_xact_id()::text"))
# What only reads sees one state of the database. The server refuses whatever it would write.
BEGIN_READ = b"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
COMMIT = Command(b"COMMIT")
ROLLBACK = b"ROLLBACK"
STILL_OURS = b"SELECT 1 / (pg_current_xact_id()::text = $1::text)::int"
KEEP = b"SAVEPOINT minuet_work"
KEEP_NEXT = b"RELEASE SAVEPOINT minuet_work; SAVEPOINT minuet_work"
UNDO = b"ROLLBACK TO SAVEPOINT minuet_work"
READ_ONLY = "25006"


class Job(NamedTuple):
    work: Callable[[Tx], Any]
    future: asyncio.Future[Any]
    reads_only: bool
    until: float


End = tuple[Any, BaseException | None]
"""What a work returned, or raised."""

UNDONE: End = (None, psycopg.OperationalError("what it did was undone with another work's transaction"))
"""A work that is to be run again."""


class Transaction:
    """Begins, fills and ends transactions on a connection, one after the other.

    **Savepoints are taken only when needed.** Most works succeed, and most that fail have written nothing. So a
    transaction is first filled without any; if then something that has written must be undone alone, or a statement has
    failed, the transaction is rolled back and filled again, this time **carefully**, with a savepoint for each. A work
    may therefore run twice.

    **Little waits for the server.** What works will look at is read with the BEGIN, what they write is sent with the
    COMMIT: see `minuet.adapters.postgres.ahead` and `minuet.adapters.postgres.later`. Not so in a careful one.
    """

    def __init__(self, connection: Connection, tx: PostgresTx) -> None:
        self.tx = tx
        self.number = 0
        self.has_written = False
        self._connection = connection
        self._writes = 0

    def read(self, jobs: Sequence[Job]) -> list[End]:
        """Run works that only read. One that fails harms none of its neighbours. Raises Interrupted."""
        self.tx.is_careful = True  # a statement that fails under a savepoint must not end the transaction
        self.tx.ask_ahead(())
        ends: list[End] = []
        try:
            for job in jobs:
                if self._connection.status != TransactionStatus.INTRANS:
                    self._run_alone(ROLLBACK)
                    self._run_alone(BEGIN_READ)
                ends.append(self._read(job))
            self._run_alone(COMMIT.statement)
        except Interrupted:
            self.tx.rolled_back()
            raise
        return ends

    def _read(self, job: Job) -> End:
        end = self._call(job, reading=True)
        if self.tx.has_outgoing() or getattr(end[1], "sqlstate", None) == READ_ONLY:
            self.tx.rolled_back()
            return None, MinuetBug("a work that was said to read only has written; nothing of it was kept")
        return end

    def fill(self, jobs: Sequence[Job], *, carefully: bool = False) -> list[End]:
        """Begin, and run works, each of which is undone alone if it fails; what each came to.

        If one of them ends the whole transaction, that is the last end, those before it are `UNDONE`, and the works
        after it have not run.

        Raises:
            Interrupted: nothing of the transaction remains.
        """
        try:
            try:
                return self._fill(jobs, careful=carefully)
            except NeedsCare:
                self.roll_back()
                return self._fill(jobs, careful=True)
        except BaseException:
            self.roll_back()
            raise

    def _fill(self, jobs: Sequence[Job], *, careful: bool) -> list[End]:
        self.tx.is_careful = careful
        self.tx.needs_care = False
        self.tx.handed_out = False
        self._begin(jobs)
        self._writes = self._connection.writes
        ends: list[End] = []
        for job in jobs:
            ends.append(self._attempt(job, bool(ends)) if careful else self._hopefully(job))
            if not self.is_open:
                self.tx.rolled_back()
                return [UNDONE] * (len(ends) - 1) + [ends[-1]]
            if careful and ends[-1][1] is not None:
                self._run_alone(UNDO)
        return ends

    def _begin(self, jobs: Sequence[Job]) -> None:
        if self._connection.status != TransactionStatus.IDLE:
            self.roll_back()
        results = self._together([*BEGIN, *self.tx.ask_ahead(job.work for job in jobs)])
        number = results[1].get_value(0, 0)
        assert number is not None
        self.number = int(number)
        self.tx.answered(results[2:])

    def _together(self, commands: Sequence[Command]) -> list[PGresult]:
        """As `_run_alone`."""
        try:
            results = self._connection.together(commands)
            failure = self._connection.failure_of(results[-1])
            if failure is not None:
                raise failure
        except psycopg.Error as error:
            found = interruption(self._connection, error)
            raise (found or ConnectionLost(str(error))) from error
        return results

    def _attempt(self, job: Job, later: bool) -> End:
        self._run_alone(KEEP_NEXT if later else KEEP)
        return self._call(job)

    def _hopefully(self, job: Job) -> End:
        before = self._connection.writes
        end = self._call(job)
        if end[1] is not None and self.is_open:
            is_broken = self._connection.status != TransactionStatus.INTRANS
            if is_broken or self._connection.writes != before:
                raise NeedsCare
        if self.tx.needs_care and self.is_open:
            raise NeedsCare
        return end

    def _call(self, job: Job, *, reading: bool = False) -> End:
        self.tx.begin()
        try:
            result = job.work(self.tx)
            self.tx.end()
            return result, None
        except NeedsCare:
            raise
        except BaseException as error:
            if self._connection.status == TransactionStatus.IDLE and not self._connection.closed:
                explained = DefinitionError(REFUSAL)
                explained.__cause__ = error
                return None, explained
            self.tx.undo()
            interrupted = interruption(self._connection, error)
            if interrupted is not None and not (reading and _state(error) == READ_ONLY):
                raise interrupted from error
            if isinstance(error, StopIteration):  # no future takes it
                return None, RuntimeError(f"a work raised {error!r}")
            return None, error

    @property
    def is_open(self) -> bool:
        return self._connection.status in (TransactionStatus.INTRANS, TransactionStatus.INERROR)

    def commit(self) -> Sequence[Outgoing]:
        """Write what was kept back, and make all of it durable; what it sends.

        Raises:
            NeedsCare: nothing of it remains: something was not as it was thought to be, or could not be written. In a
                careful transaction it would be known which work is to blame.
            ConnectionLost: whether it was committed is not known.
            Conflict, psycopg.Error: nothing of it remains.
        """
        # Before all else: what follows must not be run in another transaction.
        check = [Command(STILL_OURS, (b"%d" % self.number,))] if self.tx.handed_out else []
        last, sends = self.tx.last_commands()
        self.has_written = bool(last) or self._connection.writes != self._writes
        try:
            results = self._connection.together([*check, *last, COMMIT])
        except psycopg.Error as error:
            self.roll_back()
            raise (interruption(self._connection, error) or ConnectionLost(str(error))) from error
        failure = self._connection.failure_of(results[-1])
        if failure is not None:
            interrupted = interruption(self._connection, failure)
            self.roll_back()
            if interrupted is not None:
                raise interrupted from failure
            if len(results) <= len(check):
                raise TransactionEnded("a handler ended the transaction behind our back") from failure
            if len(results) <= len(check) + len(last) and not self.tx.is_careful:
                raise NeedsCare from failure
            raise failure
        if results[-1].command_status != COMMIT.statement:
            self.tx.rolled_back()
            raise psycopg.OperationalError("the server rolled the transaction back")
        if sends:
            self.tx.sent(results[-2])
        sending = self.tx.sending()
        self.tx.committed()
        return sending

    def roll_back(self) -> None:
        """Nothing of the transaction remains. If the connection is lost, the server does the same."""
        self.tx.rolled_back()
        if self.is_open:
            self._run_alone(ROLLBACK)

    def _run_alone(self, statements: bytes) -> list[psycopg.pq.abc.PGresult]:
        """Run a statement of ours; what goes wrong with it is nobody's fault."""
        try:
            return self._connection.run(statements)
        except psycopg.Error as error:
            found = interruption(self._connection, error)
            raise (found or ConnectionLost(str(error))) from error


def _state(error: BaseException) -> str | None:
    return getattr(error, "sqlstate", None)
