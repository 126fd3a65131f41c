"""Running works inside a transaction of the one connection. Only `Transaction.commit` and `begin` wait for anything."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from minuet.adapters.sqlite.connection import SAVEPOINT, Connection
from minuet.core.errors import MinuetBug

BEGIN_ATTEMPTS_MAX = 3
BUSY_MS = 5000  # for strangers, such as the sqlite3 shell; among us there is the write lock

# The comment makes them differ from the same statement written by a handler; see `Connection`.
BEGIN = "BEGIN IMMEDIATE -- minuet"
BEGIN_READ = "BEGIN -- minuet"
COMMIT = "COMMIT -- minuet"
ROLLBACK = "ROLLBACK -- minuet"
KEEP = f"SAVEPOINT {SAVEPOINT} -- minuet"
RELEASE = f"RELEASE {SAVEPOINT} -- minuet"
UNDO = f"ROLLBACK TO {SAVEPOINT} -- minuet"


class Job(NamedTuple):
    work: Callable[[], Any]
    future: asyncio.Future[Any]
    reads_only: bool


End = tuple[Any, BaseException | None]
"""What a work returned, or raised."""


class Rider:
    """What an owner of the database keeps beside SQLite's own state.

    Attributes:
        is_careful: whether this transaction takes a savepoint for everything that may have to be undone alone.
    """

    is_careful = False
    #: Something that has written must be undone alone. Set as well, because somebody may catch the `NeedsCare`.
    needs_care = False

    def others_wrote(self) -> None:
        """Another connection has committed since the transaction before; what was kept in memory may be out of date."""

    def begin(self) -> None:
        """A work or a savepoint within it begins."""

    def end(self) -> None:
        """It is done; what it still holds back is to be written now."""

    def undo(self) -> None:
        """It failed and was undone."""

    def before_commit(self) -> None:
        """The last chance to write."""

    def after_commit(self) -> Callable[[], None] | None:
        """What to call before any caller hears of the commit."""
        return None

    def rolled_back(self) -> None:
        """Nothing of the transaction remains."""


class TransactionLost(sqlite3.OperationalError):
    """The database rolled the whole transaction back, with everybody's writes."""


UNDONE: End = (None, TransactionLost("another work lost the transaction"))
"""A work that is to be run again: what it did went with somebody else's transaction."""


class TransactionGone(BaseException):
    """As `TransactionLost`, on its way to whoever runs the work. Not an Exception: whoever caught it and went on would
    write outside of any transaction."""


class NeedsCare(BaseException):
    """Something that was run without a savepoint has to be undone alone. Not an Exception: nobody may catch it."""


class Transaction:
    """Begins, fills and ends transactions on a connection, one after the other.

    **Savepoints are taken only when needed.** Most works succeed, and most that fail have written nothing. So a
    transaction is first filled without any; if then something that has written must be undone alone, the transaction is
    rolled back and filled again, this time with a savepoint for each. A work may therefore run twice.
    """

    def __init__(self, connection: Connection, rider: Rider) -> None:
        self.rider = rider
        self._connection = connection
        self._cursor = connection.own_cursor()
        self._writes = 0
        self._version = 0

    def read(self, jobs: Sequence[Job]) -> list[End]:
        """Run works that only read; there is nothing to commit afterwards."""
        before = self._connection.writes
        self.rider.is_careful = False
        try:
            self.execute(BEGIN_READ)
            self._look_at_others()
            ends = [self._call(job) for job in jobs]
            if self._connection.writes == before:
                self.execute(COMMIT)
                return ends
        except Exception as error:
            self.roll_back()
            return [(None, error)] * len(jobs)
        except NeedsCare:
            pass
        self.roll_back()  # it went past the lock
        return [(None, MinuetBug("a work that was said to read only has written; nothing of it was kept"))] * len(jobs)

    def begin_now(self) -> bool:
        """Begin to write, unless a stranger who writes to the file would have to be waited for."""
        try:
            self.execute(BEGIN)
        except sqlite3.OperationalError as error:
            if not is_locked(error):
                raise
            return False
        return True

    def begin(self) -> None:
        """Begin to write, and wait for a stranger if need be; sqlite3.OperationalError when that takes too long."""
        self._wait_ms(BUSY_MS)
        try:
            for attempt in range(1, BEGIN_ATTEMPTS_MAX + 1):
                try:
                    self.execute(BEGIN)
                    return
                except sqlite3.OperationalError as error:
                    if attempt == BEGIN_ATTEMPTS_MAX or not is_locked(error):
                        raise
        finally:
            self._wait_ms(0)

    def _wait_ms(self, milliseconds: int) -> None:
        self.execute(f"PRAGMA busy_timeout = {milliseconds}").fetchall()

    def fill(self, jobs: Sequence[Job]) -> list[End]:
        """Run works in the transaction that was begun, each of which is undone alone if it fails; what each came to.

        If one of them loses the whole transaction, that is the last end, those before it are `UNDONE`, and the works
        after it have not run.
        """
        try:
            return self._fill(jobs, careful=False)
        except NeedsCare:
            self.roll_back()
            # Nobody of ours can have come in between, but a stranger can: then it is as if the commit had failed.
            try:
                self.execute(BEGIN)
            except sqlite3.Error as error:
                return [(None, error)] * len(jobs)
            return self._fill(jobs, careful=True)

    def _fill(self, jobs: Sequence[Job], *, careful: bool) -> list[End]:
        self.rider.is_careful = careful
        self.rider.needs_care = False
        self._writes = self._connection.writes
        ends: list[End] = []
        try:
            self._look_at_others()
            for job in jobs:
                ends.append(self._attempt(job) if careful else self._hopefully(job))
                if not self._connection.in_transaction:
                    break
            if self._connection.in_transaction:
                self.rider.before_commit()
                return ends
        except Exception as error:
            self.roll_back()
            return [(None, error)] * len(jobs)
        self.rider.rolled_back()
        last = ends[-1] if ends[-1][1] is not None else (None, TransactionLost("a work ended the transaction"))
        return [UNDONE] * (len(ends) - 1) + [last]

    def _look_at_others(self) -> None:
        before, self._version = self._version, self.data_version()
        if before != self._version:
            self.rider.others_wrote()

    @property
    def is_open(self) -> bool:
        return self._connection.in_transaction

    @property
    def has_written(self) -> bool:
        return self._connection.writes != self._writes

    def commit(self) -> None:
        """Make it durable. Raises sqlite3.Error, and then nothing of it remains."""
        try:
            self.execute(COMMIT)
        except BaseException:
            self._roll_back_connection()
            raise

    def roll_back(self) -> None:
        self._roll_back_connection()
        self.rider.rolled_back()

    def execute(self, statement: str) -> sqlite3.Cursor:
        """Run a statement of ours that a handler may not run."""
        return self._connection.run(self._cursor, statement)

    def data_version(self) -> int:
        """Changes when another connection has committed."""
        ((version,),) = self._cursor.execute("PRAGMA data_version").fetchall()
        return int(version)

    def _roll_back_connection(self) -> None:
        if self._connection.in_transaction:
            with contextlib.suppress(sqlite3.Error):
                self.execute(ROLLBACK)

    def _attempt(self, job: Job) -> End:
        self.execute(KEEP)
        end = self._call(job)
        if end[1] is not None and self._connection.in_transaction:
            self.execute(UNDO)
        if self._connection.in_transaction:
            self.execute(RELEASE)
        return end

    def _hopefully(self, job: Job) -> End:
        before = self._connection.writes
        end = self._call(job)
        has_failed = end[1] is not None and self._connection.in_transaction and self._connection.writes != before
        if has_failed or self.rider.needs_care:
            raise NeedsCare
        return end

    def _call(self, job: Job) -> End:
        self.rider.begin()
        try:
            result = job.work()
            self.rider.end()
            return result, None
        except NeedsCare:
            raise
        except TransactionGone as lost:
            self.rider.undo()
            return None, TransactionLost(f"the database rolled everything back: {lost.__cause__!r}")
        except BaseException as error:
            self.rider.undo()
            if isinstance(error, StopIteration):  # no future takes it
                return None, RuntimeError(f"a work raised {error!r}")
            return None, self._connection.explain(error)


def is_locked(error: sqlite3.Error) -> bool:
    return "locked" in str(error)
