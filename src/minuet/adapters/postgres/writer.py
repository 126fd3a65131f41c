"""What runs on a store's thread: works in transactions, and all that it takes to have a connection for them."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import psycopg
from psycopg import sql

from minuet.adapters.postgres import locks, tables
from minuet.adapters.postgres.connection import Address, BoundedConnection, Connection, connect
from minuet.adapters.postgres.failures import (
    CommitUnknown,
    Conflict,
    ConnectionLost,
    Interrupted,
    NeedsCare,
    Unavailable,
    cause_of,
)
from minuet.adapters.postgres.limits import Limits
from minuet.adapters.postgres.rows import outgoing_of
from minuet.adapters.postgres.transaction import UNDONE, End, Job, Transaction
from minuet.adapters.postgres.tx import PostgresTx
from minuet.core.retry import RetryPolicy
from minuet.ports import Ids, Outgoing

CONFLICTS_MAX = 8
LOSSES_MAX = 3
"""So often a batch may lose the connection until each work has to prove itself alone."""
C = TypeVar("C", bound=BoundedConnection)
AGAIN = RetryPolicy(first_s=0.01, delay_max_s=0.5)
RECONNECT = RetryPolicy(first_s=0.05, delay_max_s=1.0)
TRIGGERS = """SELECT EXISTS (SELECT FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
        WHERE c.relnamespace = $1::regnamespace AND NOT t.tgisinternal)
    OR EXISTS (SELECT FROM pg_rewrite r JOIN pg_class c ON c.oid = r.ev_class
        WHERE c.relnamespace = $1::regnamespace AND c.relkind <> 'v')"""
OUTCOME = "SELECT pg_xact_status($1::text::xid8)"


@dataclass
class Outcome:
    """What came of a batch. Jobs beyond its ends have not run, and those that are `UNDONE` are to be run again."""

    ends: list[End] = field(default_factory=list)
    outgoing: Sequence[Outgoing] = ()
    commits: int = 0


class Writer:
    """An instance's writing session, made again whenever it is lost.

    Attributes:
        number: the server's for our session, or None while there is none.

    Args:
        told: called on this thread when something was committed that others may want to look at.
        stranded: called on this thread when entries and messages of this instance were given up, for anybody to take.
    """

    def __init__(
        self,
        address: Address,
        schema_name: str,
        instance: str,
        ids: Ids,
        limits: Limits,
        told: Callable[[], None],
        stranded: Callable[[], None],
    ) -> None:
        self.address = address
        self.closing = threading.Event()
        self._schema_name = schema_name
        self._instance = instance
        self._ids = ids
        self._limits = limits
        self._told = told
        self._stranded = stranded
        self._connection: Connection | None = None
        self._transaction: Transaction | None = None
        self._unknown: list[int] = []
        self.number: int | None = None

    # -- works ---------------------------------------------------------------------------------------------------------

    def run(self, jobs: Sequence[Job]) -> Outcome:
        """Run a batch; try again whatever was not the works' own fault."""
        conflicts = losses = 0
        interrupted: Interrupted = ConnectionLost("")
        while True:
            try:
                transaction = self._connected(min(job.until for job in jobs))
                if all(job.reads_only for job in jobs):
                    return Outcome(transaction.read(jobs))
                return self._write(transaction, jobs)
            except Unavailable as error:
                now = time.monotonic()
                late: End = (None, error)
                return Outcome(
                    [late if isinstance(error, CommitUnknown) or job.until <= now else UNDONE for job in jobs]
                )
            except Conflict as error:
                interrupted = error
                conflicts += 1
                self.closing.wait(AGAIN.delay_s(conflicts, self._ids.chance()))
            except Interrupted as error:
                interrupted = error
                losses += 1
                self._drop()
            except BaseException:
                self._drop()
                raise
            if conflicts >= CONFLICTS_MAX or losses >= LOSSES_MAX:
                if len(jobs) > 1:
                    return self._each_alone(jobs)
                return Outcome([(None, cause_of(interrupted))])

    def _write(self, transaction: Transaction, jobs: Sequence[Job]) -> Outcome:
        until = max(job.until for job in jobs)
        ends = transaction.fill(jobs)
        try:
            try:
                sent = self._commit(transaction, until) if transaction.is_open else None
            except NeedsCare:
                ends = transaction.fill(jobs, carefully=True)
                sent = self._commit(transaction, until) if transaction.is_open else None
        except psycopg.Error as error:
            if len(jobs) > 1:
                # One of them broke a constraint that is checked only now; alone, it does no harm.
                return self._each_alone(jobs)
            return Outcome([(None, error)])
        if sent is None or not transaction.has_written:
            return Outcome(ends)
        self._told()
        return Outcome(ends, sent, 1)

    def _commit(self, transaction: Transaction, until: float) -> Sequence[Outgoing]:
        try:
            return transaction.commit()
        except ConnectionLost:
            self._drop()
            sent = self._what_was_committed(transaction.number, until)
            if sent is None:
                raise
            return sent

    def _what_was_committed(self, number: int, until: float) -> Sequence[Outgoing] | None:
        """What a transaction sent during whose commit the connection was lost; None if it was not committed."""
        while True:
            try:
                self._connected(until)
                return self._sent_since(number) if self._outcome(number) else None
            except psycopg.Error:  # lost again
                self._drop()
            except Unavailable as error:
                self._unknown.append(number)
                raise CommitUnknown(f"the connection was lost during the commit, and {error}") from error

    def _sent_since(self, number: int) -> Sequence[Outgoing]:
        assert self._connection is not None
        cursor = self._connection.own_cursor()
        rows = cursor.execute(tables.MINE_SINCE, (self._instance, str(number))).fetchall()
        return [outgoing_of(row) for row in rows]

    def _each_alone(self, jobs: Sequence[Job]) -> Outcome:
        whole = Outcome()
        for job in jobs:
            one = self.run([job])
            whole.ends += one.ends
            whole.outgoing = (*whole.outgoing, *one.outgoing)
            whole.commits += one.commits
        return whole

    # -- the connection ------------------------------------------------------------------------------------------------

    def start(self, prepare: Callable[[BoundedConnection], None]) -> None:
        """Connect for the first time. ``prepare`` looks after the tables, and gets a connection of its own."""
        until = time.monotonic() + self._limits.patience_s
        patient = Limits(connect_s=self._limits.connect_s, statement_s=600.0, lock_s=600.0, idle_s=600.0)
        with self._patiently(until, lambda: self._open(BoundedConnection, patient)) as connection:
            prepare(connection)
        self._connected(until)

    def close(self) -> None:
        """When it returns, what this instance owned is anybody's."""
        if self._connection is not None:
            with contextlib.suppress(psycopg.Error):  # then the server notices by itself that we are gone
                self._connection.run(locks.LEAVE)
        self._drop()

    def _connected(self, until: float) -> Transaction:
        """The transaction of a connection that is there, as far as we know; Unavailable if there is none in time."""
        if self._transaction is None:
            self._connection = self._patiently(until, self._join)
            tx = PostgresTx(self._connection, self._schema_name, self._instance)
            self._transaction = Transaction(self._connection, tx)
            self.number = self._connection.pgconn.backend_pid
        return self._transaction

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.really_close()
        self._connection = self._transaction = self.number = None

    def _patiently(self, until: float, attempt: Callable[[], C]) -> C:
        failures = 0
        while True:
            try:
                return attempt()
            except psycopg.Error as error:
                failures += 1
                delay_s = RECONNECT.delay_s(failures, self._ids.chance())
                if time.monotonic() + delay_s > until:
                    raise Unavailable(f"{self.address} cannot be reached: {error}") from error
                self.closing.wait(delay_s)

    def _open(self, kind: type[C], limits: Limits) -> C:
        return connect(kind, self.address, self._schema_name, limits, f"minuet {self._schema_name}")

    def _join(self) -> Connection:
        """Connect, become the owner of what this instance owns, and settle what is not known of former commits."""
        connection = self._open(Connection, self._limits)
        try:
            cursor = psycopg.RawCursor(connection)
            us = (self._schema_name, self._instance)
            if cursor.execute(locks.HOLD, us).fetchone() != (True,):
                # As long as the session of before is there, its transaction may still be committed.
                cursor.execute(locks.END_OLD, us)
                raise psycopg.OperationalError("the session of before has not ended yet")
            cursor.execute(locks.APPEAR, (locks.number_of(self._schema_name),))
            ((has_triggers,),) = cursor.execute(
                TRIGGERS, (sql.Identifier(self._schema_name).as_string(connection),)
            ).fetchall()
            connection.has_triggers = bool(has_triggers)
            self._connection = connection
            if self._unknown:
                self._settle(connection)
        except BaseException:
            self._connection = None
            connection.really_close()
            raise
        return connection

    def _settle(self, connection: Connection) -> None:
        """Nobody here heard that these were committed, so nobody works on what they wrote: it is for all to take."""
        cursor = psycopg.RawCursor(connection)
        for number in self._unknown:
            if self._outcome(number):
                for statement in (tables.FREE_SINCE, tables.FREE_SENDING_SINCE):
                    cursor.execute(statement, (self._instance, str(number)))
        self._unknown.clear()
        self._stranded()

    def _outcome(self, number: int) -> bool:
        """Whether the transaction was committed. Its session has ended, so it is not under way any more."""
        assert self._connection is not None
        try:
            cursor = psycopg.RawCursor(self._connection).execute(OUTCOME, (str(number),))
            return cursor.fetchone() == ("committed",)
        except psycopg.errors.InvalidParameterValue:  # in the future of this server, which then is another one
            return False
