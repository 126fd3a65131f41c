"""Forgets what is long over, in small batches beside the work, so that nobody waits for it."""

from __future__ import annotations

import asyncio
import logging
from functools import partial

from minuet.ports import Clock, Store, Tx

log = logging.getLogger("minuet.pruner")

BATCH = 200
PAUSE_S = 0.01
"""Between two batches; what is written meanwhile shares their commits."""
REST_S = 60.0
"""Between two walks through what is kept."""


class Pruner:
    """The retention of one store.

    Args:
        keep_s: what was done, or known of sagas of which nothing is left to do here, is kept for so many seconds.
            Within that time a command or message that comes again is recognised; later it is new, unless the business
            itself knows better. So it has to be longer than any saga takes, and any retry.
    """

    def __init__(self, place: str, store: Store, clock: Clock, *, keep_s: float) -> None:
        self.place = place
        self.store = store
        self.clock = clock
        self.keep_s = keep_s

    async def run(self) -> None:
        """Prune until cancelled."""
        while True:
            try:
                await self.walk()
            except Exception as error:
                log.warning("%s: cannot forget what is over yet: %s", self.place, error)
            await asyncio.sleep(REST_S)

    async def walk(self) -> None:
        """Go once through what is old enough: entries first, for what is known of a saga goes after them."""
        before = self.clock.now() - self.keep_s
        for verb in (_forget_entries, _forget_known):
            after: int | None = 0
            while after is not None:
                after = await self.store.transact(partial(verb, before=before, after=after))
                await asyncio.sleep(PAUSE_S)


def _forget_entries(tx: Tx, *, before: float, after: int) -> int | None:
    return tx.retention.forget_entries(before, after, BATCH)


def _forget_known(tx: Tx, *, before: float, after: int) -> int | None:
    return tx.retention.forget_known(before, after, BATCH)
