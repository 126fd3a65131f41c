"""Forgets what is long over, in small batches beside the work, so that nobody waits for it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping

from minuet.ports import Clock, Store, Tx

log = logging.getLogger("minuet.pruner")

BATCH = 200
PAUSE_S = 0.01
"""Between two batches, at least; what is written meanwhile shares their commits."""
PAUSE_S_MAX = 2.0
"""However long a batch seems to have taken: clocks jump."""
SHARE = 0.1
"""Of the time, at most, in which a statement that forgets something runs."""
REST_S = 60.0
"""Between two walks through what is kept."""

Verb = Callable[[Tx, float, int], int | None]


class Pruner:
    """The retention of a process: of all its stores in turn, so that together they take no more than their share.

    Args:
        stores: by their places.
        keep_s: what was done, or known of sagas of which nothing is left to do here, is kept for so many seconds.
            Within that time a command or message that comes again is recognised; later it is new, unless the business
            itself knows better. So it has to be longer than any saga takes, and any retry.
    """

    def __init__(self, stores: Mapping[str, Store], clock: Clock, *, keep_s: float) -> None:
        self.stores = stores
        self.clock = clock
        self.keep_s = keep_s

    async def run(self) -> None:
        """Prune until cancelled."""
        while True:
            await self.walk()
            await asyncio.sleep(REST_S)

    async def walk(self) -> None:
        """Go once through what is old enough: entries first, for what is known of a saga goes after them."""
        before = self.clock.now() - self.keep_s
        walks = [self._walk(place, before) for place in self.stores]
        while walks:
            walks = [one for one in walks if await anext(one, False)]

    async def _walk(self, place: str, before: float) -> AsyncIterator[bool]:
        """Through one store, a batch at a time. A store that fails is left alone until the next walk."""
        for verb in (_forget_entries, _forget_known):
            after: int | None = 0
            while after is not None:
                try:
                    after = await self._forget(place, verb, before, after)
                except Exception as error:
                    log.warning("%s: cannot forget what is over yet: %s", place, error)
                    return
                yield True

    async def _forget(self, place: str, verb: Verb, before: float, after: int) -> int | None:
        """One batch, and the pause after it."""
        took_s = 0.0

        def work(tx: Tx) -> int | None:
            nonlocal took_s
            began = self.clock.now()
            last = verb(tx, before, after)
            took_s = self.clock.now() - began
            return last

        last = await self.stores[place].transact(work)
        await asyncio.sleep(min(max(PAUSE_S, took_s * (1 / SHARE - 1)), PAUSE_S_MAX))
        return last


def _forget_entries(tx: Tx, before: float, after: int) -> int | None:
    return tx.retention.forget_entries(before, after, BATCH)


def _forget_known(tx: Tx, before: float, after: int) -> int | None:
    return tx.retention.forget_known(before, after, BATCH)
