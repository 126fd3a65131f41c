"""A schema that many tasks and several processes write to: one writing connection on one thread, group commit.

Tasks submit works. All that have come meanwhile run in one transaction on the thread, each undone alone if it fails,
and are committed once: one wait for the disk for up to 256 works, and one wake-up of the event loop for their results.
While they are under way, the next ones gather. Each statement waits for the network, and that is why, other than on
SQLite, works run on the thread; the event loop only hands them over.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

from minuet.adapters.postgres.connection import Address, BoundedConnection
from minuet.adapters.postgres.limits import Limits
from minuet.adapters.postgres.transaction import UNDONE, Job
from minuet.adapters.postgres.watch import Watch
from minuet.adapters.postgres.writer import Outcome, Writer
from minuet.ports import Ids, Outgoing, Tx

T = TypeVar("T")

BATCH_MAX = 256
LAZILY_S_MAX = 0.05


class PostgresDatabase:
    """One schema, as this instance sees it.

    Args:
        committed: called on the event loop with what each commit sends, in the order of commits.
        disturbed: called on the event loop when others have changed the schema, or are gone.
    """

    def __init__(
        self,
        address: Address,
        schema_name: str,
        instance: str,
        ids: Ids,
        limits: Limits,
        *,
        committed: Callable[[Sequence[Outgoing]], None],
        disturbed: Callable[[], None],
    ) -> None:
        self.commits = 0
        self.is_open = False
        self._name = f"schema {schema_name} at {address}"
        self._patience_s = limits.patience_s
        self._committed = committed
        self._disturbed = disturbed
        same = (address, schema_name, instance, ids, limits)
        self._writer = Writer(*same, told=self._told, stranded=self._hear)
        self._watch = Watch(*same, disturbed=self._hear, absent=self._absent, writer_number=lambda: self._writer.number)
        self._batches: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._waiting: list[Job] = []
        self._is_busy = False
        self._flush: asyncio.Handle | None = None
        self._is_urgent = False
        self._idle: asyncio.Future[None] | None = None
        self._is_looking = False

    # -- opening and closing -------------------------------------------------------------------------------------------

    async def start(self, prepare: Callable[[BoundedConnection], None]) -> None:
        """Connect. ``prepare`` runs on the thread, before any work, with a connection of its own."""
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._main, name=f"minuet {self._name}", daemon=True)
        self._thread.start()
        try:
            await self._do(lambda: self._writer.start(prepare))
        except BaseException:
            self._writer.closing.set()
            self._batches.put(self._writer.close)
            self._batches.put(None)
            raise
        self._watch.start()
        self.is_open = True

    async def close(self) -> None:
        """Run what was submitted, then close."""
        if not self.is_open:
            return
        self.is_open = False
        if self._waiting or self._is_busy:
            self._idle = self._loop.create_future()
            self._gather(urgently=True)
            await self._idle
        self._writer.closing.set()
        await self._do(self._watch.close)
        await self._do(self._writer.close)
        self._batches.put(None)
        self._thread.join()

    # -- the thread ----------------------------------------------------------------------------------------------------

    def _main(self) -> None:
        while (call := self._batches.get()) is not None:
            call()

    async def _do(self, call: Callable[[], object]) -> None:
        """Run it on the thread."""
        done: asyncio.Future[None] = self._loop.create_future()

        def end(error: BaseException | None) -> None:
            if not done.done():
                done.set_result(None) if error is None else done.set_exception(error)

        def run() -> None:
            try:
                call()
            except BaseException as raised:
                self._on_loop(partial(end, raised))
            else:
                self._on_loop(partial(end, None))

        self._batches.put(run)
        await done

    def _on_loop(self, call: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop was closed without closing us
            self._loop.call_soon_threadsafe(call)

    # -- group commit --------------------------------------------------------------------------------------------------

    def submit(self, work: Callable[[Tx], T], *, reads_only: bool = False, lazily: bool = False) -> asyncio.Future[T]:
        """Run the work in a transaction; the future ends when that is durable."""
        if not self.is_open:
            raise RuntimeError(f"{self._name} is not open")
        job = Job(work, self._loop.create_future(), reads_only, time.monotonic() + self._patience_s)
        self._waiting.append(job)
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
        jobs, self._waiting = self._waiting[:BATCH_MAX], self._waiting[BATCH_MAX:]
        self._is_busy = True
        self._batches.put(lambda: self._run_on_thread(jobs))

    def _run_on_thread(self, jobs: list[Job]) -> None:
        try:
            outcome = self._writer.run(jobs)
        except BaseException as error:
            outcome = Outcome([(None, error)] * len(jobs))
        self._on_loop(lambda: self._end(jobs, outcome))

    def _end(self, jobs: list[Job], outcome: Outcome) -> None:
        self._is_busy = False
        self.commits += outcome.commits
        if outcome.outgoing:
            self._committed(outcome.outgoing)
        again = []
        for job, end in zip(jobs, outcome.ends, strict=False):
            if end is UNDONE:
                again.append(job)
            elif not job.future.done():  # otherwise its caller was cancelled
                result, error = end
                job.future.set_result(result) if error is None else job.future.set_exception(error)
        self._waiting[:0] = again + jobs[len(outcome.ends) :]
        if self._waiting:
            self._gather(urgently=True)
        elif self._idle is not None and not self._idle.done():
            self._idle.set_result(None)

    # -- other instances -----------------------------------------------------------------------------------------------

    def _told(self) -> None:
        self._watch.tell()

    def _hear(self) -> None:
        self._on_loop(self._heard)

    def _heard(self) -> None:
        if self.is_open:
            self._disturbed()

    def _absent(self) -> None:
        self._on_loop(self._look)

    def _look(self) -> None:
        """Have a connection made: without one, what this instance owns is anybody's."""
        if not self.is_open or self._is_looking:
            return
        self._is_looking = True
        self.submit(lambda tx: None, reads_only=True).add_done_callback(self._looked)

    def _looked(self, looked: asyncio.Future[None]) -> None:
        self._is_looking = False
        if not looked.cancelled():
            looked.exception()  # then there is none yet, and the watch asks again
