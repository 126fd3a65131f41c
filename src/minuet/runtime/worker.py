"""Keeps a place running: hears messages, publishes what was committed, looks for what others left, stops in order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence

from minuet.ports import Ids, Transport
from minuet.runtime.hearing import Hearing
from minuet.runtime.place import TAKE_MAX, Place
from minuet.runtime.relay import BATCH_MAX, Relay

log = logging.getLogger("minuet.worker")

SWEEP_S = 1.0


class Worker:
    """A place with its relay and the transports it hears.

    Args:
        hears: every transport on which the place's group has something to receive.
        grace_s: how long a stop waits for what is under way.
    """

    def __init__(
        self, place: Place, relay: Relay, hears: Sequence[Transport], ids: Ids, *, grace_s: float = 10.0
    ) -> None:
        self.place = place
        self.relay = relay
        self.hears = hears
        self._hearings = [Hearing(place, transport, ids) for transport in hears]
        self.ids = ids
        self.grace_s = grace_s
        self._look = asyncio.Event()
        self._relay_task: asyncio.Task[None] | None = None
        self._tasks: list[asyncio.Task[None]] = []
        # At once: what a caller hands in before `start` must not be forgotten.
        place.store.committed = relay.hand_over
        place.store.disturbed = self._look.set

    async def start(self) -> None:
        """Begin: first with what was left behind, then with what comes."""
        loop = asyncio.get_running_loop()
        self._relay_task = loop.create_task(self.relay.run(), name=f"{self.place.name}: relay")
        await self._sweep()
        self._tasks = [loop.create_task(self._recover_for_ever(), name=f"{self.place.name}: recovery")]
        for hearing in self._hearings:
            hearing.start()

    async def stop(self) -> None:
        """Take nothing more in, let what is under way end, publish what was committed."""
        await _cancel(self._tasks)
        await asyncio.gather(*(hearing.stop(self.grace_s) for hearing in self._hearings))
        await self.place.stop(self.grace_s)
        if self._relay_task is not None:
            try:
                async with asyncio.timeout(self.grace_s):
                    await self.relay.drained()
            except TimeoutError:
                log.warning("%s: stopped with messages in its outbox; they go out at the next start", self.place.name)
            await _cancel([self._relay_task])

    async def _recover_for_ever(self) -> None:
        while True:
            # Not `asyncio.wait_for`: before Python 3.12 it swallows a cancellation that comes just as the wait ends.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SWEEP_S):
                    await self._look.wait()
            self._look.clear()
            try:
                await self._sweep()
            except Exception as error:
                log.warning("%s: cannot look for what others left: %s", self.place.name, error)

    async def _sweep(self) -> None:
        await self.place.look_for_instructions()
        await self.place.look_for_views()
        while not self.place.is_full and await self.place.recover() >= TAKE_MAX:
            pass
        while True:
            left = await self.place.store.transact(lambda tx: tx.outbox.take(BATCH_MAX))
            self.relay.hand_over(left)
            if len(left) < BATCH_MAX:
                return


async def _cancel(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
