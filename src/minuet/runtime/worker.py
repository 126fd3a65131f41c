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
# Stores tell when there is something to look for. Looking all the same is for what they may miss, and becomes rare.
SWEEP_S_MAX = 30.0


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
        pause_s = SWEEP_S
        while True:
            # Not `asyncio.wait_for`: before Python 3.12 it swallows a cancellation that comes just as the wait ends.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._look.wait()
            is_idle = not self._look.is_set()
            self._look.clear()
            try:
                is_idle = not await self._sweep() and is_idle
            except Exception as error:
                is_idle = False
                log.warning("%s: cannot look for what others left: %s", self.place.name, error)
            pause_s = min(2 * pause_s, SWEEP_S_MAX) if is_idle else SWEEP_S

    async def _sweep(self) -> bool:
        """Whether anything was found, or something is left to look for."""
        await self.place.look_for_instructions()
        has_found = await self.place.look_for_views()
        while not (was_full := self.place.is_full) and (taken := await self.place.recover()):
            has_found = True
            if taken < TAKE_MAX:
                break
        while True:
            left = await self.place.store.transact(lambda tx: tx.outbox.take(BATCH_MAX))
            self.relay.hand_over(left)
            has_found = has_found or bool(left)
            if len(left) < BATCH_MAX:
                return has_found or was_full


async def _cancel(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
