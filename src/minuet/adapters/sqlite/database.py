"""A SQLite file that many tasks and several processes write to: one connection, one thread, group commit.

**Group commit.** Tasks submit works. The thread runs all that have come meanwhile in one transaction, each under its
own savepoint, and commits once: one fsync for up to 256 works, and one wake-up of the event loop for their results.

**Processes.** A lock file is held around every write transaction, every checkpoint, opening and closing. So writers
queue in the kernel instead of in SQLite's sleeping busy handler, and a checkpoint never overlaps another connection's
commit. The second matters for data: in SQLite before 3.51.3 a checkpoint that overlaps another connection's write or
checkpoint can, rarely, make the next one skip a part of the write-ahead log, which then is lost (the "WAL-reset bug",
https://sqlite.org/wal.html). That is why SQLite's own checkpoints are switched off and ours run under the lock. It
holds among processes of minuet; a foreign program that writes to the file meanwhile is outside of it.

**Wake-ups.** ``PRAGMA data_version`` says, for a few microseconds of work, whether another connection has committed.
The thread looks every 2 ms while there is traffic, and every 20 ms when there has been none for a while. Every 50 ms
it looks whether another instance is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from minuet.adapters.sqlite.connection import SAVEPOINT, Connection, connect
from minuet.adapters.sqlite.locks import Instances, WriteLock
from minuet.adapters.sqlite.wal import FRAMES_MAX, WriteAheadLog
from minuet.core.errors import MinuetBug

T = TypeVar("T")

BATCH_MAX = 256
LAZILY_S_MAX = 0.05
LOOK_S_MIN = 0.002
LOOK_S_MAX = 0.02
LOOK_FOR_GONE_S = 0.05
BEGIN_ATTEMPTS_MAX = 3

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
    lazily: bool


End = tuple[Any, BaseException | None]


class Rider:
    """What an owner of the database keeps beside SQLite's own state. All but `on_commit` run on the thread."""

    def begin(self) -> None:
        """A work or a savepoint within it begins."""

    def end(self) -> None:
        """It is done; what it still holds back is to be written now."""

    def undo(self) -> None:
        """It failed and was undone."""

    def before_commit(self) -> None:
        """The last chance to write."""

    def after_commit(self) -> Callable[[], None] | None:
        """What to call on the event loop before any caller hears of the commit."""
        return None

    def rolled_back(self) -> None:
        """Nothing of the transaction remains."""


class TransactionLost(sqlite3.OperationalError):
    """The database rolled the whole transaction back, with everybody's writes."""


class SqliteDatabase:
    """One file, as this instance sees it.

    Args:
        path: of the file; it and its folder are made if missing.
        instance: the name of this opening.
        disturbed: called on the event loop when another process changed the file.
        bereft: called on the event loop when another instance is gone.
        inline: no thread: works run at once in the caller, for simulations.
        frames_max: how long the write-ahead log may get before it is checkpointed.
    """

    def __init__(
        self,
        path: Path,
        *,
        instance: str,
        disturbed: Callable[[], None],
        bereft: Callable[[], None],
        inline: bool = False,
        frames_max: int = FRAMES_MAX,
    ) -> None:
        self.path = path
        self.commits = 0
        self._rider = Rider()
        self._disturbed = disturbed
        self._bereft = bereft
        self._inline = inline
        self._frames_max = frames_max
        self._folder = path.with_name(path.name + ".locks")
        self.instances = Instances(self._folder / "instances", instance)
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._lazy: list[Job] = []
        self._lazy_until = 0.0
        self._closing = False
        self._version = 0
        self._look_s = LOOK_S_MIN
        self._look_at = 0.0
        self._look_for_gone_at = 0.0
        self._thread: threading.Thread | None = None
        self._watcher: asyncio.TimerHandle | None = None
        self.is_open = False

    # -- on the event loop ---------------------------------------------------------------------------------------------

    async def start(self, prepare: Callable[[Connection], Rider]) -> None:
        """Open the file. ``prepare`` runs in a transaction, before any work, and says who rides along."""
        self._loop = asyncio.get_running_loop()
        if self._inline:
            self._start(prepare)
            self._watch_inline()
        else:
            started: asyncio.Future[None] = self._loop.create_future()
            self._thread = threading.Thread(
                target=self._main, args=(prepare, started), name=f"minuet {self.path.name}", daemon=True
            )
            self._thread.start()
            await started
        self.is_open = True

    def submit(self, work: Callable[[], T], *, reads_only: bool = False, lazily: bool = False) -> asyncio.Future[T]:
        """Run the work in a transaction; the future ends when that is durable."""
        if not self.is_open:
            raise RuntimeError(f"{self.path} is not open")
        job = Job(work, self._loop.create_future(), reads_only, lazily)
        if self._inline:
            self._run([job])
        else:
            self._jobs.put(job)
        return job.future

    async def close(self) -> None:
        """Run what was submitted, then close."""
        if not self.is_open:
            return
        self.is_open = False
        if self._watcher:
            self._watcher.cancel()
        if self._thread is None:
            self._stop()
            return
        self._stopped: asyncio.Future[None] = self._loop.create_future()
        self._jobs.put(None)
        await self._stopped
        self._thread.join()

    def _watch_inline(self) -> None:
        self._look(time_to_look=True)
        self._watcher = self._loop.call_later(LOOK_S_MAX, self._watch_inline)

    def _resolve(self, jobs: Sequence[Job], ends: Sequence[End], first: Callable[[], None] | None) -> None:
        if first:
            first()
        for job, (result, error) in zip(jobs, ends, strict=True):
            if job.future.done():
                continue  # its caller was cancelled
            if error is None:
                job.future.set_result(result)
            else:
                job.future.set_exception(error)

    # -- on the thread -------------------------------------------------------------------------------------------------

    def _main(self, prepare: Callable[[Connection], Rider], started: asyncio.Future[None]) -> None:
        try:
            self._start(prepare)
        except BaseException as error:
            self._on_loop(_fail, started, error)
            return
        self._on_loop(_succeed, started)
        while not self._closing or self._lazy:
            if batch := self._gather():
                self._run(batch)
            self._look(time_to_look=time.monotonic() >= self._look_at)
        self._stop()
        self._on_loop(_succeed, self._stopped)

    def _start(self, prepare: Callable[[Connection], Rider]) -> None:
        (self._folder / "instances").mkdir(parents=True, exist_ok=True)
        self._lock = WriteLock(self._folder)
        try:
            with self._lock:
                self._connection = connect(self.path)
                self._cursor = self._connection.own_cursor()
                try:
                    self._prepare(prepare)
                    self._log = WriteAheadLog(self.path, self._frames_max)
                    self.instances.join()
                    self._version = self._data_version()
                except BaseException:
                    self._connection.really_close()
                    raise
        except BaseException:
            self._lock.close()
            raise

    def _prepare(self, prepare: Callable[[Connection], Rider]) -> None:
        self._execute(BEGIN)
        try:
            self._rider = prepare(self._connection)
            self._execute(COMMIT)
        except BaseException:
            self._end_badly()
            raise
        self._connection.close_cursors()

    def _stop(self) -> None:
        with self._lock:  # closing may checkpoint
            self._connection.close_cursors()
            self._connection.really_close()
        self._log.close()
        self._lock.close()
        self.instances.leave()

    def _gather(self) -> list[Job]:
        """All that waits, up to a limit; nothing when it is time to look around, or while only lazy ones wait."""
        jobs, self._lazy = self._lazy, []
        hurry = len(jobs) >= BATCH_MAX
        try:
            job = self._jobs.get(timeout=self._patience(bool(jobs)))
            while True:
                if job is None:
                    self._closing = True
                    return jobs
                if job.lazily and not jobs:
                    self._lazy_until = time.monotonic() + LAZILY_S_MAX
                hurry = hurry or not job.lazily
                jobs.append(job)
                if len(jobs) >= BATCH_MAX:
                    return jobs
                job = self._jobs.get_nowait()
        except queue.Empty:
            if hurry or self._closing or time.monotonic() >= self._lazy_until:
                return jobs
            self._lazy = jobs
            return []

    def _patience(self, lazy: bool) -> float:
        if self._closing:
            return 0
        return min(self._look_s, max(0, self._lazy_until - time.monotonic())) if lazy else self._look_s

    def _run(self, jobs: list[Job]) -> None:
        self._look_s = LOOK_S_MIN
        if all(job.reads_only for job in jobs):
            self._resolve_from_thread(jobs, self._guarded(self._read, jobs), None)
            return
        with self._lock:
            ends = self._guarded(self._write, jobs)
            self._resolve_from_thread(jobs, ends, self._rider.after_commit())
            with contextlib.suppress(sqlite3.Error, OSError):  # the next commit tries again
                if self._log.is_long():
                    self._log.checkpoint(self._connection)

    def _guarded(self, run: Callable[[list[Job]], list[End]], jobs: list[Job]) -> list[End]:
        try:
            return run(jobs)
        except Exception as error:
            self._end_badly()
            return [(None, error)] * len(jobs)

    def _write(self, jobs: list[Job]) -> list[End]:
        before = self._connection.total_changes
        self._begin(BEGIN)
        ends: list[End] = []
        for job in jobs:
            ends.append(self._alone(job) if len(jobs) == 1 else self._attempt(job))
            if not self._connection.in_transaction:
                break
        if self._connection.in_transaction:
            self._rider.before_commit()
            self._execute(COMMIT)
            self.commits += self._connection.total_changes != before
            return ends
        self._rider.rolled_back()
        if len(ends) > 1:  # with this work's failure the others' writes are gone too
            lost = TransactionLost(f"{self.path}: rolled back because of another work: {ends[-1][1]!r}")
            ends[:-1] = [(None, lost)] * (len(ends) - 1)
        rest = jobs[len(ends) :]
        return ends + (self._guarded(self._write, rest) if rest else [])

    def _read(self, jobs: list[Job]) -> list[End]:
        before = self._connection.total_changes
        self._begin(BEGIN_READ)
        ends = [self._call(job) for job in jobs]
        if self._connection.total_changes == before:
            self._execute(COMMIT)
            return ends
        self._end_badly()  # it went past the lock
        return [(None, MinuetBug("a work that was said to read only has written; nothing of it was kept"))] * len(jobs)

    def _attempt(self, job: Job) -> End:
        self._execute(KEEP)
        end = self._call(job)
        if end[1] is not None and self._connection.in_transaction:
            self._execute(UNDO)
        if self._connection.in_transaction:
            self._execute(RELEASE)
        return end

    def _alone(self, job: Job) -> End:
        end = self._call(job)
        if end[1] is not None and self._connection.in_transaction:
            self._execute(ROLLBACK)
        return end

    def _call(self, job: Job) -> End:
        self._rider.begin()
        try:
            result = job.work()
            self._rider.end()
            return result, None
        except BaseException as error:
            self._rider.undo()
            if isinstance(error, StopIteration):  # no future takes it
                return None, RuntimeError(f"a work raised {error!r}")
            return None, self._connection.explain(error)

    def _begin(self, statement: str) -> None:
        for attempt in range(1, BEGIN_ATTEMPTS_MAX + 1):
            try:
                self._execute(statement)
                return
            except sqlite3.OperationalError as error:
                if attempt == BEGIN_ATTEMPTS_MAX or "locked" not in str(error):
                    raise

    def _end_badly(self) -> None:
        if self._connection.in_transaction:
            with contextlib.suppress(sqlite3.Error):
                self._execute(ROLLBACK)
        self._rider.rolled_back()

    def _execute(self, statement: str) -> None:
        self._connection.run(self._cursor, statement)

    def _look(self, *, time_to_look: bool) -> None:
        """Tell the owner if another connection has committed, or another instance is gone."""
        if not time_to_look:
            return
        now = self._loop.time() if self._inline else time.monotonic()
        before = self._version
        with contextlib.suppress(sqlite3.Error, OSError):
            self._version = self._data_version()
            if now >= self._look_for_gone_at:
                self._look_for_gone_at = now + LOOK_FOR_GONE_S
                if self.instances.lost_one():
                    self._on_loop(self._bereft)
        disturbed = before != self._version
        self._look_s = LOOK_S_MIN if disturbed else min(self._look_s * 1.1, LOOK_S_MAX)
        self._look_at = now + self._look_s
        if disturbed:
            self._on_loop(self._disturbed)

    def _data_version(self) -> int:
        ((version,),) = self._cursor.execute("PRAGMA data_version").fetchall()
        return int(version)

    def _resolve_from_thread(self, jobs: list[Job], ends: list[End], first: Callable[[], None] | None) -> None:
        if self._inline:
            self._resolve(jobs, ends, first)
        else:
            self._on_loop(self._resolve, jobs, ends, first)

    def _on_loop(self, call: Callable[..., None], *args: Any) -> None:
        if self._inline:
            self._loop.call_soon(call, *args)
            return
        with contextlib.suppress(RuntimeError):  # the loop was closed without closing us
            self._loop.call_soon_threadsafe(call, *args)


def _succeed(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _fail(future: asyncio.Future[None], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)
