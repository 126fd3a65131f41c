"""`MemoryStore`: works that come in the same turn of the event loop share a commit, as they do on a real database."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from minuet.adapters.memory.tables import MemoryDatabase, MemoryTx
from minuet.ports import Ids, Outgoing, Tx

__all__ = ["MemoryDatabase", "MemoryStore"]

T = TypeVar("T")
LAZILY_S_MAX = 0.05


def _nobody(_: Sequence[Outgoing] = ()) -> None: ...


class MemoryStore:
    """An opening of a `MemoryDatabase`.

    Args:
        database: shared by the instances that would share a file; a new one if left out.
        ids: names this instance.
    """

    committed: Callable[[Sequence[Outgoing]], None]
    disturbed: Callable[[], None]

    def __init__(self, database: MemoryDatabase | None = None, *, ids: Ids) -> None:
        self.instance = ids.new()
        self.committed = self.disturbed = _nobody
        self.commits = 0
        self._database = database if database is not None else MemoryDatabase()
        self._tx = MemoryTx(self._database, self.instance)
        self._waiting: list[tuple[Callable[[Tx], Any], asyncio.Future[Any]]] = []
        self._turn: asyncio.Handle | None = None
        self._open = False

    async def start(self) -> None:
        self._open = True
        self._database.openings[self.instance] = self

    async def transact(self, work: Callable[[Tx], T], *, reads_only: bool = False, lazily: bool = False) -> T:
        if not self._open:
            raise RuntimeError(f"the store {self.instance} is not open")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._waiting.append((work, future))
        if self._turn is None or (isinstance(self._turn, asyncio.TimerHandle) and not lazily):
            if self._turn is not None:
                self._turn.cancel()
            self._turn = loop.call_later(LAZILY_S_MAX, self._run) if lazily else loop.call_soon(self._run)
        return await future

    async def close(self) -> None:
        if not self._open:
            return
        self._run()
        self._leave()
        self._tell_others()

    def crash(self) -> None:
        """What kill -9 does: nothing that waits is done, nobody is told, and what was owned is free."""
        self._waiting.clear()
        self._leave()

    def _leave(self) -> None:
        self._open = False
        if self._turn is not None:
            self._turn.cancel()
            self._turn = None
        self._database.openings.pop(self.instance, None)

    def _run(self) -> None:
        self._turn = None
        batch, self._waiting = self._waiting, []
        before = set(self._database.outbox)
        ends = [(future, *self._attempt(work)) for work, future in batch]
        if self._database.undo:
            self._database.undo.clear()
            self.commits += 1
            added = [kept.message for position, kept in self._database.outbox.items() if position not in before]
            if added:
                self.committed(added)
            self._tell_others()
        for future, result, error in ends:
            if future.cancelled():
                continue
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)

    def _attempt(self, work: Callable[[Tx], Any]) -> tuple[Any, BaseException | None]:
        try:
            with self._tx.savepoint():
                return work(self._tx), None
        except StopIteration as error:
            return None, RuntimeError(f"a work raised {error!r}")
        except BaseException as error:
            return None, error

    def _tell_others(self) -> None:
        loop = asyncio.get_running_loop()
        for other in self._database.openings.values():
            if other is not self:
                loop.call_soon(other.disturbed)
