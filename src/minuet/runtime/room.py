"""Room for so many at once. Who waits is let in by turns: no saga, and no type of saga, keeps the others out."""

from __future__ import annotations

import asyncio
from collections import deque


class Room:
    """A semaphore that is fair across sagas.

    Of each type of saga one is let in, then of each type the next; and within a type, of each saga one. So a flood of
    one type, or one saga with hundreds of steps that are tried again and again, waits for itself and for nobody else's
    turn for longer than others wait for its.

    Args:
        size: how many may be inside.
    """

    def __init__(self, size: int) -> None:
        self._free = size
        self._waiting: dict[str, dict[str, deque[asyncio.Future[None]]]] = {}

    async def enter(self, kind: str, name: str) -> None:
        """Wait for a place, and take it. `leave` gives it back.

        Args:
            kind: the type of the saga. name: which one it is.
        """
        if self._free > 0:
            self._free -= 1
            return
        admitted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(kind, {}).setdefault(name, deque()).append(admitted)
        try:
            await admitted
        except asyncio.CancelledError:
            if admitted.done() and not admitted.cancelled():
                self.leave()  # it was let in at the moment in which it was cancelled
            raise

    def leave(self) -> None:
        """Let in who is next."""
        while self._waiting:
            admitted = self._next()
            if not admitted.done():  # otherwise it was cancelled
                admitted.set_result(None)
                return
        self._free += 1

    def _next(self) -> asyncio.Future[None]:
        """Whose turn it is. What is behind it comes after all others: dicts keep their order."""
        kind = next(iter(self._waiting))
        sagas = self._waiting.pop(kind)
        name = next(iter(sagas))
        queue = sagas.pop(name)
        admitted = queue.popleft()
        if queue:
            sagas[name] = queue
        if sagas:
            self._waiting[kind] = sagas
        return admitted
