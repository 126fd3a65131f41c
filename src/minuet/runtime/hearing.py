"""The incoming side of a place, for one transport: take in what it delivers, and tell it what became of that.

Telling takes a round trip, and holds up nobody: what is handled meanwhile is told together, with the next one. Only
when too much waits to be told nothing more is received.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from minuet.core.errors import NotYet
from minuet.core.retry import RetryPolicy
from minuet.ports import Again, Delivery, Done, Ids, Settlement, Transport
from minuet.runtime.place import Place

log = logging.getLogger("minuet.hearing")

DELIVERIES_MAX = 128
UNSETTLED_MAX = 4 * DELIVERIES_MAX
BACKOFF = RetryPolicy(first_s=0.05, delay_max_s=5.0)


class Hearing:
    """What a place hears over one transport, from `start` to `stop`."""

    def __init__(self, place: Place, transport: Transport, ids: Ids) -> None:
        self.place = place
        self.transport = transport
        self.ids = ids
        self._handled: list[tuple[Delivery, Settlement]] = []
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._is_stopping = False
        self._hearing: asyncio.Task[None] | None = None
        self._settling: asyncio.Task[None] | None = None

    def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._hearing = loop.create_task(self._hear(), name=f"{self.place.name}: hear")
        self._settling = loop.create_task(self._settle(), name=f"{self.place.name}: settle")

    async def stop(self, grace_s: float) -> None:
        """Receive nothing more; tell what became of what was handled. The rest comes again."""
        if self._hearing is None or self._settling is None:
            return
        await _cancel(self._hearing)
        self._is_stopping = True
        self._news.set()
        await asyncio.wait([self._settling], timeout=grace_s)
        await _cancel(self._settling)

    async def _hear(self) -> None:
        failures = 0
        while True:
            await self.place.room()
            while len(self._handled) >= UNSETTLED_MAX:
                self._room.clear()
                await self._room.wait()
            try:
                self._handled += await self._handle(await self.transport.receive(self.place.name, DELIVERIES_MAX))
                failures = 0
                self._news.set()
            except Exception as error:
                failures += 1
                log.warning("%s: cannot receive, trying again: %s", self.place.name, error)
                await asyncio.sleep(BACKOFF.delay_s(failures, self.ids.chance()))

    async def _handle(self, deliveries: Sequence[Delivery]) -> list[tuple[Delivery, Settlement]]:
        try:
            problems = await self.place.take_in(deliveries)
        except Exception as error:  # the commit failed: nothing of the batch was kept
            problems = [error] * len(deliveries)
        return [
            (delivery, self._settlement(delivery, problem))
            for delivery, problem in zip(deliveries, problems, strict=True)
        ]

    def _settlement(self, delivery: Delivery, problem: Exception | None) -> Settlement:
        if problem is None:
            return Done()
        if not isinstance(problem, NotYet):
            log.warning(
                "%s: cannot take in %s yet: %r",
                self.place.name,
                delivery.attributes.get("id", delivery.channel),
                problem,
            )
        return Again(BACKOFF.delay_s(max(1, delivery.deliveries), self.ids.chance()))

    async def _settle(self) -> None:
        failures = 0
        while self._handled or not self._is_stopping:
            await self._news.wait()
            self._news.clear()
            settled = tuple(self._handled)
            try:
                await self.transport.settle(settled)
            except Exception as error:
                # What could not be settled stays in our hands until it can be, and is told with what follows.
                if self._is_stopping:
                    return
                failures += 1
                log.warning("%s: cannot settle, trying again: %s", self.place.name, error)
                await asyncio.sleep(BACKOFF.delay_s(failures, self.ids.chance()))
                self._news.set()
            else:
                failures = 0
                del self._handled[: len(settled)]
                self._room.set()


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
