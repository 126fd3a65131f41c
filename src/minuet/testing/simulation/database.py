"""The databases of a simulated world: real SQLite, in memory, and it outlives the processes that use it.

What runs is minuet's own SQLite store, with its statements, its savepoints and its group commit. Replaced is what
touches a real machine: the file, the disk's thread, and the locks between processes. All instances of a service share
one connection, and each transaction is begun and ended in one go, so they come one after the other; what takes its time
is only until the callers hear that theirs is durable.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from minuet.adapters.sqlite.connection import Connection
from minuet.adapters.sqlite.database import LOOK_S_MIN, SqliteDatabase
from minuet.adapters.sqlite.rows import ENTRY, entry_of, outgoing_of
from minuet.adapters.sqlite.schema import statements_of
from minuet.adapters.sqlite.store import SqliteStore
from minuet.adapters.sqlite.transaction import BEGIN, Rider, Transaction
from minuet.ports import Entry, Outgoing

if TYPE_CHECKING:
    from minuet.testing.simulation.machine import Process
    from minuet.testing.simulation.world import World

T = TypeVar("T")

HEARD_OF_OTHERS_S = 0.004
FOUND_GONE_S = 0.05

# What a transaction does to the inbox is noted where no rollback misses it. Temporary: the tables stay as they are.
WATCH = """
CREATE TEMP TABLE minuet_touched (position INTEGER);
CREATE TEMP TRIGGER minuet_added AFTER INSERT ON main.minuet_inbox
    BEGIN INSERT INTO minuet_touched VALUES (new.position); END;
CREATE TEMP TRIGGER minuet_changed AFTER UPDATE ON main.minuet_inbox
    BEGIN INSERT INTO minuet_touched VALUES (new.position); END;
"""
TOUCHED = f"SELECT DISTINCT position, {ENTRY} FROM minuet_inbox JOIN minuet_touched USING (position)"  # noqa: S608
FORGET_TOUCHED = "DELETE FROM minuet_touched"
ADDED = "SELECT position, channel, attributes, body FROM minuet_outbox WHERE position > ? ORDER BY position"
WAITING = """SELECT 'outbox ' || channel || ' ' || position, NULL, NULL FROM minuet_outbox
    UNION ALL SELECT 'due ' || key || ' ' || error, saga, saga_id FROM minuet_inbox WHERE state = 'due'"""
REOPEN = "UPDATE minuet_inbox SET state = 'due', attempts = 0, due_at = 0, owner = NULL WHERE state = 'parked'"


class Died(BaseException):
    """The process was killed at this very instruction."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """What a transaction changed.

    Attributes:
        instance: the opening of the store that committed it.
        entries: of the inbox, each as it was before, if it was there, and as it is now.
        outgoing: what was added to the outbox.
    """

    service: str
    instance: str
    entries: Sequence[tuple[Entry | None, Entry]]
    outgoing: Sequence[Outgoing]


@dataclass(eq=False)
class Database:
    """A service's database, as the world keeps it.

    Attributes:
        openings: those who have it open, by instance.
        absent: of those, the ones that are taken for dead.
        entries: the inbox as of the last commit, by position.
    """

    name: str
    openings: dict[str, SimulatedDatabase] = field(default_factory=dict)
    absent: set[str] = field(default_factory=set)
    entries: dict[int, Entry] = field(default_factory=dict)
    connection: Connection = field(init=False)
    last_outgoing: int = 0
    commits: int = 0
    is_watched: bool = False

    def __post_init__(self) -> None:
        self.connection = sqlite3.connect(
            ":memory:", isolation_level=None, cached_statements=512, check_same_thread=False, factory=Connection
        )
        self.connection.execute("PRAGMA foreign_keys = ON").fetchall()
        self.connection.unlocked = False
        self._own = self.connection.own_cursor()
        self._reading = self.connection.own_cursor()
        self._reading.row_factory = sqlite3.Row

    def watch(self) -> None:
        if not self.is_watched:
            self.is_watched = True
            for statement in statements_of(WATCH):
                self._own.execute(statement)

    def commit(self, instance: str) -> Commit:
        """What has changed since the commit before."""
        self.commits += 1
        changed: list[tuple[Entry | None, Entry]] = []
        for row in self._own.execute(TOUCHED).fetchall():
            entry = entry_of(row[1:])
            changed.append((self.entries.get(row[0]), entry))
            self.entries[row[0]] = entry
        self._own.execute(FORGET_TOUCHED)
        added = [outgoing_of(row) for row in self._own.execute(ADDED, (self.last_outgoing,)).fetchall()]
        if added:
            self.last_outgoing = added[-1].position
        return Commit(service=self.name, instance=instance, entries=changed, outgoing=added)

    def rows(self, statement: str, **values: Any) -> list[dict[str, Any]]:
        """Look into it, from outside of any transaction."""
        return [dict(row) for row in self._reading.execute(statement, values).fetchall()]

    def waiting(self) -> list[tuple[str, tuple[str, str]]]:
        """What must be gone once everything is over, and of which saga it is."""
        rows = self._own.execute(WAITING).fetchall()
        return [(f"{self.name}: {what}", (saga, saga_id)) for what, saga, saga_id in rows]

    def reopen_parked(self) -> int:
        """What an operator does who tries everything again; how many entries there were."""
        reopened = self._own.execute(REOPEN).rowcount
        if reopened:
            self.commit("operator")
            for opening in tuple(self.openings.values()):
                opening.hear_soon()
        return reopened

    def is_gone(self, instance: str) -> bool:
        return instance not in self.openings or instance in self.absent

    def close(self) -> None:
        self.connection.close_cursors()
        self.connection.really_close()


class SimulatedStore(SqliteStore):
    """An opening of a `Database` by a process."""

    def __init__(self, world: World, process: Process, database: Database, schema: Any) -> None:
        self.instance = world.ids.new()
        self.committed = self.disturbed = _nobody
        self._schema = schema
        self._database = SimulatedDatabase(
            world, process, database, instance=self.instance, disturbed=self._disturbed, bereft=self._disturbed
        )


def _nobody(*_: Any) -> None: ...


class SimulatedDatabase(SqliteDatabase):
    """`SqliteDatabase` on the world's connection; see the head of this file for what is not the real one's."""

    def __init__(
        self,
        world: World,
        process: Process,
        database: Database,
        *,
        instance: str,
        disturbed: Callable[[], None],
        bereft: Callable[[], None],
    ) -> None:
        # Not the parent's: it prepares files.
        self.path = Path(f"{database.name} of the simulation")
        self.world = world
        self.process = process
        self.database = database
        self.instance = instance
        self.commits = 0
        self.own_commits = 0
        self.is_open = False
        self.instances = _Instances(database, instance)  # type: ignore[assignment]
        self.context: Context = copy_context()
        self._disturbed = disturbed
        self._bereft = bereft
        self._inline = False
        self._waiting = []
        self._is_busy = False
        self._alone = 0
        self._flush = None
        self._is_urgent = False
        self._idle = None
        self._looking = None
        self._heard_at = 0.0
        self._look_s = LOOK_S_MIN

    async def start(self, prepare: Callable[[Connection], Rider]) -> None:
        self._loop = asyncio.get_running_loop()
        self.context = copy_context()
        self._disk = _Disk(self)  # type: ignore[assignment]
        self._lock = _Unlocked()  # type: ignore[assignment]
        self._log = _NeverLong()  # type: ignore[assignment]
        self._connection = self.database.connection
        self._prepare(prepare)
        self._version = self._transaction.data_version()
        self.database.openings[self.instance] = self
        self.is_open = True

    def _prepare(self, prepare: Callable[[Connection], Rider]) -> None:
        self._transaction = _Transaction(self, Rider())
        self._transaction.execute(BEGIN)
        try:
            self._transaction.rider = prepare(self._connection)
        except BaseException:
            self._transaction.roll_back()
            raise
        Transaction.commit(self._transaction)
        self._connection.close_cursors()
        self.database.watch()

    def submit(self, work: Callable[[], T], *, reads_only: bool = False, lazily: bool = False) -> asyncio.Future[T]:
        self.world.check_not_over()
        return super().submit(work, reads_only=reads_only, lazily=lazily)

    def _write(self, jobs: list[Any]) -> None:
        if self.world.strikes("store_busy", self.database.name):
            self._transaction.roll_back()
            self._lock.release()
            self._end(jobs, [(None, sqlite3.OperationalError("database is locked"))] * len(jobs))
            return
        if self.world.strikes("store_deadlock", self.database.name):
            self._transaction.fill(jobs)
            self._transaction.roll_back()
            self._transaction.execute(BEGIN)
        super()._write(jobs)

    def _close(self) -> None:
        self.is_open = False
        self.database.openings.pop(self.instance, None)
        self.database.absent.discard(self.instance)
        self.tell_bereft()

    def die(self) -> None:
        """The process is no more; what it owned is free, as others will find out."""
        if self.instance in self.database.openings:
            self._close()

    def be_absent(self) -> None:
        """Be taken for dead by the others, until `be_back`."""
        self.database.absent.add(self.instance)
        self.tell_bereft()

    def be_back(self) -> None:
        self.database.absent.discard(self.instance)

    def tell_others(self) -> None:
        for other in tuple(self.database.openings.values()):
            if other is not self:
                other.hear_soon()

    def hear_soon(self) -> None:
        self._loop.call_later(HEARD_OF_OTHERS_S, self.hear_of_others, context=self.context)

    def tell_bereft(self) -> None:
        for other in tuple(self.database.openings.values()):
            if other is not self:
                self._loop.call_later(FOUND_GONE_S, other.find_one_gone, context=other.context)

    def hear_of_others(self) -> None:
        if self.is_open and not self._is_busy:
            self._hear_of_others()

    def find_one_gone(self) -> None:
        if self.is_open:
            self._bereft()

    def _look_again(self) -> None:
        """Nobody has to look: others tell."""


class _Transaction(Transaction):
    """Where a commit can fail, or be the last thing that a process did."""

    def __init__(self, opening: SimulatedDatabase, rider: Rider) -> None:
        self._opening = opening
        super().__init__(opening.database.connection, rider)

    def data_version(self) -> int:
        return self._opening.database.commits - self._opening.own_commits

    def commit(self) -> None:
        if not self.has_written:
            super().commit()
            return
        world, process, name = self._opening.world, self._opening.process, self._opening.database.name
        if world.strikes("crash_before_commit", name):
            self._roll_back_connection()
            process.die()
        if world.strikes("disk_full", name):
            self._roll_back_connection()
            raise sqlite3.OperationalError("database or disk is full")
        super().commit()
        self._opening.own_commits += 1
        world.committed(self._opening)
        self._opening.tell_others()
        if world.strikes("crash_after_commit", name):
            process.die()


class _Disk:
    """Commits at once, and lets the callers wait for it."""

    def __init__(self, opening: SimulatedDatabase) -> None:
        self._opening = opening

    def run(self, call: Callable[[], object], then: Callable[[Exception | None], None]) -> None:
        error: Exception | None = None
        try:
            call()
        except Died:
            return
        except Exception as problem:
            error = problem
        world = self._opening.world
        asyncio.get_running_loop().call_later(world.latency.expovariate(1000.0), then, error)

    async def do(self, call: Callable[[], object]) -> None:
        call()

    def stop(self) -> None:
        """There is no thread."""


class _Unlocked:
    """Transactions are begun and ended in one go, so nobody ever has to wait."""

    def acquire_now(self) -> bool:
        return True

    def acquire(self) -> None: ...
    def release(self) -> None: ...


class _NeverLong:
    def is_long(self) -> bool:
        return False

    def checkpoint(self, connection: Connection) -> NoReturn:
        raise AssertionError("there is no write-ahead log")


class _Instances:
    def __init__(self, database: Database, instance: str) -> None:
        self._database = database
        self._instance = instance

    def gone(self, instance: str) -> bool:
        # Of itself nobody thinks that he is dead.
        return instance != self._instance and self._database.is_gone(instance)
