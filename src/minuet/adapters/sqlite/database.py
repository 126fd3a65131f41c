"""A SQLite file that many tasks and several processes write to: one connection, group commit, a thread for the disk.

**Group commit.** Tasks submit works. All that have come meanwhile run in one transaction, each under its own savepoint,
and are committed once: one fsync for up to 256 works, and one wake-up for their results. While that commit is under
way, the next works gather.

**The thread.** Works run on the event loop, and only what waits for the disk runs on the thread: commits, checkpoints,
and the lock below when another process holds it. A statement on a warm SQLite file is microseconds of pure computing,
and Python gives up its global lock around each: on a thread of its own, each of them would have to queue for that lock
against the event loop and the threads of the other databases, which costs many times the statement itself (see
docs/decisions/0007). A work must therefore not take long; it holds the write lock anyway.

**Processes.** A lock file is held around every write transaction, every checkpoint, opening and closing. So writers
queue in the kernel instead of in SQLite's sleeping busy handler, and a checkpoint never overlaps another connection's
commit. The second matters for data: in SQLite before 3.51.3 a checkpoint that overlaps another connection's write or
checkpoint can, rarely, make the next one skip a part of the write-ahead log, which then is lost (the "WAL-reset bug",
https://sqlite.org/wal.html). That is why SQLite's own checkpoints are switched off and ours run under the lock. It
holds among processes of minuet; a foreign program that writes to the file meanwhile is outside of it.

**Wake-ups.** ``PRAGMA data_version`` says, for a few microseconds of work, whether another connection has committed. We
look every 2 ms while others write, and every 20 ms when they have not for a while. Every 50 ms we look whether another
instance is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import sqlite3
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from minuet.adapters.sqlite.connection import Connection, connect, unusable
from minuet.adapters.sqlite.locks import Instances, WriteLock
from minuet.adapters.sqlite.transaction import BEGIN, UNDONE, End, Job, Rider, Transaction
from minuet.adapters.sqlite.wal import FRAMES_MAX, WriteAheadLog, check

T = TypeVar("T")

BATCH_MAX = 256
LAZILY_S_MAX = 0.05
LOOK_S_MIN = 0.002
LOOK_S_MAX = 0.02
LOOK_FOR_GONE_S = 0.05


class DiskThread:
    """Runs what waits for the disk, one call after the other. Inline, it runs it at once.

    Args:
        name: for debuggers.
        inline: no thread; for simulations.
    """

    def __init__(self, name: str, *, inline: bool) -> None:
        self._loop = asyncio.get_running_loop()
        self._calls: queue.SimpleQueue[tuple[Callable[[], object], Callable[[Exception | None], None]] | None] = (
            queue.SimpleQueue()
        )
        self._thread = None if inline else threading.Thread(target=self._main, name=f"minuet {name}", daemon=True)
        if self._thread is not None:
            self._thread.start()

    def run(self, call: Callable[[], object], then: Callable[[Exception | None], None]) -> None:
        """Run ``call``; then, on the event loop, ``then`` with None or what it raised."""
        if self._thread is None:
            then(_attempt(call))
        else:
            self._calls.put((call, then))

    async def do(self, call: Callable[[], object]) -> None:
        """As `run`, for a coroutine to await."""
        done: asyncio.Future[None] = self._loop.create_future()

        def end(error: Exception | None) -> None:
            if not done.done():
                done.set_result(None) if error is None else done.set_exception(error)

        self.run(call, end)
        await done

    def stop(self) -> None:
        if self._thread is not None:
            self._calls.put(None)
            self._thread.join()

    def _main(self) -> None:
        while (todo := self._calls.get()) is not None:
            call, then = todo
            error = _attempt(call)
            with contextlib.suppress(RuntimeError):  # the loop was closed without closing us
                self._loop.call_soon_threadsafe(then, error)


def _attempt(call: Callable[[], object]) -> Exception | None:
    try:
        call()
    except Exception as error:
        return error
    return None


class SqliteDatabase:
    """One file, as this instance sees it.

    Args:
        path: of the file; it and its folder are made if missing.
        instance: the name of this opening.
        disturbed: called on the event loop when another process changed the file.
        bereft: called on the event loop when another instance is gone.
        inline: no thread and no gathering: works are run and committed at once in the caller, for simulations.
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
        self.is_open = False
        self._disturbed = disturbed
        self._bereft = bereft
        self._inline = inline
        self._frames_max = frames_max
        self._folder = path.with_name(path.name + ".locks")
        self.instances = Instances(self._folder / "instances", instance)
        self._waiting: list[Job] = []
        self._is_busy = False
        self._alone = 0  # so many of those waiting are to have a transaction each
        self._flush: asyncio.Handle | None = None
        self._is_urgent = False
        self._idle: asyncio.Future[None] | None = None
        self._version = 0
        self._look_s = LOOK_S_MIN
        self._look_for_gone_at = 0.0
        self._heard_at = 0.0
        self._looking: asyncio.TimerHandle | None = None

    # -- opening and closing -------------------------------------------------------------------------------------------

    async def start(self, prepare: Callable[[Connection], Rider]) -> None:
        """Open the file. ``prepare`` runs in a transaction, before any work, and says who rides along."""
        self._loop = asyncio.get_running_loop()
        self._disk = DiskThread(self.path.name, inline=self._inline)
        try:
            await self._disk.do(lambda: self._open(prepare))
        except BaseException:
            self._disk.stop()
            raise
        self.is_open = True
        self._look_again()

    def _open(self, prepare: Callable[[Connection], Rider]) -> None:
        (self._folder / "instances").mkdir(parents=True, exist_ok=True)
        self._lock = WriteLock(self._folder)
        try:
            with self._lock:
                if self.instances.nobody():
                    self._check_log()
                self._connection = connect(self.path)
                try:
                    self._prepare(prepare)
                    self._log = WriteAheadLog(self.path, self._frames_max)
                    self.instances.join()
                    self.instances.lost_one()
                    self._version = self._transaction.data_version()
                except BaseException:
                    self._connection.really_close()
                    raise
        except BaseException:
            self._lock.close()
            raise

    def _check_log(self) -> None:
        try:
            check(self.path)
        except sqlite3.DatabaseError as error:
            raise unusable(self.path, error) from error

    def _prepare(self, prepare: Callable[[Connection], Rider]) -> None:
        self._transaction = Transaction(self._connection, Rider())
        self._transaction.execute(BEGIN)
        try:
            self._transaction.rider = prepare(self._connection)
        except BaseException:
            self._transaction.roll_back()
            raise
        self._transaction.commit()
        self._connection.close_cursors()

    async def close(self) -> None:
        """Run what was submitted, then close."""
        if not self.is_open:
            return
        self.is_open = False
        if self._looking is not None:
            self._looking.cancel()
        if self._waiting or self._is_busy:
            self._idle = self._loop.create_future()
            self._gather(urgently=True)
            await self._idle
        await self._disk.do(self._close)
        self._disk.stop()

    def _close(self) -> None:
        with self._lock:  # closing may checkpoint
            self._connection.close_cursors()
            self._connection.really_close()
        self._log.close()
        self._lock.close()
        self.instances.leave()

    # -- group commit --------------------------------------------------------------------------------------------------

    def submit(self, work: Callable[[], T], *, reads_only: bool = False, lazily: bool = False) -> asyncio.Future[T]:
        """Run the work in a transaction; the future ends when that is durable."""
        if not self.is_open:
            raise RuntimeError(f"{self.path} is not open")
        job = Job(work, self._loop.create_future(), reads_only)
        self._waiting.append(job)
        if self._inline:
            self._run()
        else:
            self._gather(urgently=not lazily)
        return job.future

    def _gather(self, *, urgently: bool) -> None:
        """Let works gather until the loop has run what is ready now, or a little longer if nobody waits for them."""
        if self._is_busy or (self._flush is not None and (self._is_urgent or not urgently)):
            return
        if self._flush is not None:
            self._flush.cancel()
        self._is_urgent = urgently
        self._flush = self._loop.call_soon(self._run) if urgently else self._loop.call_later(LAZILY_S_MAX, self._run)

    def _run(self) -> None:
        self._flush = None
        if self._is_busy or not self._waiting:
            return
        most = 1 if self._alone else BATCH_MAX
        self._alone = max(0, self._alone - 1)
        jobs, self._waiting = self._waiting[:most], self._waiting[most:]
        if all(job.reads_only for job in jobs):
            self._resolve(jobs, self._transaction.read(jobs))
            self._go_on()
            return
        self._is_busy = True
        try:
            if self._lock.acquire_now() and self._transaction.begin_now():
                self._write(jobs)
            else:
                self._disk.run(self._begin, lambda error: self._begun(jobs, error))
        except Exception as error:
            self._begun(jobs, error)

    def _begin(self) -> None:
        self._lock.acquire()  # once more is as good as once
        self._transaction.begin()

    def _begun(self, jobs: list[Job], error: Exception | None) -> None:
        if error is None:
            self._write(jobs)
        else:
            self._lock.release()
            self._end(jobs, [(None, error)] * len(jobs))

    def _write(self, jobs: list[Job]) -> None:
        ends = self._transaction.fill(jobs)
        self._waiting[:0] = jobs[len(ends) :]
        jobs = jobs[: len(ends)]
        if not self._transaction.is_open:
            self._lock.release()
            self._waiting[:0] = [job for job, end in zip(jobs, ends, strict=True) if end is UNDONE]
            ended = [(job, end) for job, end in zip(jobs, ends, strict=True) if end is not UNDONE]
            self._end(*zip(*ended, strict=True))
        elif not self._transaction.has_written:
            self._committed(jobs, ends, _attempt(self._commit))
        else:
            self.commits += 1
            self._disk.run(self._commit, lambda error: self._committed(jobs, ends, error))

    def _commit(self) -> None:
        try:
            self._transaction.commit()
            with contextlib.suppress(sqlite3.Error, OSError):  # the next commit tries again
                if self._log.is_long():
                    self._log.checkpoint(self._connection)
        finally:
            self._lock.release()

    def _committed(self, jobs: list[Job], ends: list[End], error: Exception | None) -> None:
        if error is not None:
            self._transaction.rider.rolled_back()
            if isinstance(error, sqlite3.IntegrityError) and len(jobs) > 1:
                # One of them broke a constraint that is checked only now; the next round shows which.
                self._alone = len(jobs)
                self._waiting[:0] = jobs
                jobs = []
            ends = [(None, error)] * len(jobs)
        elif first := self._transaction.rider.after_commit():
            first()
        self._end(jobs, ends)

    def _end(self, jobs: Sequence[Job], ends: Sequence[End]) -> None:
        self._is_busy = False
        self._resolve(jobs, ends)
        self._go_on()

    def _go_on(self) -> None:
        if self.is_open and self._loop.time() >= self._heard_at + self._look_s:
            # Under load the connection is hardly ever free when the timer looks.
            self._hear_of_others()
        if self._waiting:
            self._gather(urgently=True)
        elif self._idle is not None and not self._idle.done():
            self._idle.set_result(None)

    def _resolve(self, jobs: Sequence[Job], ends: Sequence[End]) -> None:
        for job, (result, error) in zip(jobs, ends, strict=True):
            if job.future.done():
                continue  # its caller was cancelled
            if error is None:
                job.future.set_result(result)
            else:
                job.future.set_exception(error)

    # -- other processes -----------------------------------------------------------------------------------------------

    def _look_again(self) -> None:
        self._looking = self._loop.call_later(self._look_s, self._look)

    def _look(self) -> None:
        """Tell the owner if another connection has committed, or another instance is gone."""
        lost = False
        self._look_s = min(self._look_s * 1.1, LOOK_S_MAX)
        if not self._is_busy:
            self._hear_of_others()
        if self._loop.time() >= self._look_for_gone_at:
            self._look_for_gone_at = self._loop.time() + LOOK_FOR_GONE_S
            with contextlib.suppress(OSError):
                lost = self.instances.lost_one()
        self._look_again()
        if lost:
            self._bereft()

    def _hear_of_others(self) -> None:
        self._heard_at = self._loop.time()
        before = self._version
        with contextlib.suppress(sqlite3.Error, OSError):
            self._version = self._transaction.data_version()
        if before != self._version:
            self._look_s = LOOK_S_MIN
            self._loop.call_soon(self._disturbed)
