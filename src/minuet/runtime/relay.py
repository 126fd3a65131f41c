"""Carries what was committed to the transports: outbox -> transport.

The relay is handed what each commit put out and publishes it at once; the outbox table is read only after a crash, or
when so much has piled up that it no longer fits in memory. A row leaves the outbox only after the transport confirmed
it; what could not be published stays at the head and is tried again, so that the order per key is kept.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence

from minuet.core.retry import RetryPolicy
from minuet.ports import Ids, Outgoing, Store, Transport

log = logging.getLogger("minuet.relay")

HELD_MAX = 10_000
BATCH_MAX = 500
BACKOFF = RetryPolicy(first_s=0.05, delay_max_s=5.0)


class Relay:
    """The outgoing side of one store.

    Args:
        transport_of: the transport of a channel.
    """

    def __init__(self, store: Store, transport_of: Callable[[str], Transport], ids: Ids) -> None:
        self.store = store
        self.transport_of = transport_of
        self.ids = ids
        self.published = 0
        self._held: deque[Outgoing] = deque()
        self._is_behind = False
        self._last_position = 0
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    def hand_over(self, messages: Sequence[Outgoing]) -> None:
        """Take what was just committed. Called in the order of the commits."""
        if not messages:
            return
        if self._is_behind or len(self._held) + len(messages) > HELD_MAX:
            # They are safe in the outbox, and are read from there once there is room again.
            self._is_behind = True
        else:
            self._held.extend(messages)
        self._idle.clear()
        self._wake.set()

    async def run(self) -> None:
        """Publish until cancelled."""
        failures = 0
        while True:
            if not self._held and self._is_behind:
                await self._catch_up()
            if not self._held:
                self._idle.set()
                self._wake.clear()
                await self._wake.wait()
                continue
            batch = [self._held.popleft() for _ in range(min(BATCH_MAX, len(self._held)))]
            failed = await self._publish(batch)
            self._held.extendleft(reversed(failed))
            failures = failures + 1 if len(failed) == len(batch) else 0
            if failures:
                await asyncio.sleep(BACKOFF.delay_s(failures, self.ids.chance()))

    async def _catch_up(self) -> None:
        after = self._last_position
        rows = await self.store.transact(lambda tx: tx.outbox.mine(BATCH_MAX, after), reads_only=True)
        if not rows:
            self._is_behind = False
        self._held.extend(rows)

    async def _publish(self, batch: Sequence[Outgoing]) -> list[Outgoing]:
        """Publish a batch; what is left over, in order: what failed, and what must not overtake it."""
        by_transport: dict[int, tuple[Transport, list[Outgoing]]] = {}
        for message in batch:
            transport = self.transport_of(message.channel)
            by_transport.setdefault(id(transport), (transport, []))[1].append(message)
        failed: list[Outgoing] = []
        confirmed: list[int] = []
        for transport, messages in by_transport.values():
            try:
                problems: Sequence[Exception | None] = await transport.publish(messages)
            except Exception as error:
                problems = [error] * len(messages)
            for message, problem in zip(messages, problems, strict=True):
                if problem is None:
                    confirmed.append(message.position)
                else:
                    failed.append(message)
                    log.warning(
                        "cannot publish %s %s on %s yet: %s",
                        message.envelope.type,
                        message.envelope.id,
                        message.channel,
                        problem,
                    )
        if confirmed:
            self.published += len(confirmed)
            self._last_position = max(self._last_position, *confirmed)
            # Nobody waits for this: if it is lost in a crash, the message goes out once more.
            self._forget(confirmed)
        return sorted(failed, key=lambda message: message.position)

    def _forget(self, positions: list[int]) -> None:
        task = asyncio.ensure_future(self.store.transact(lambda tx: tx.outbox.remove(positions), lazily=True))
        task.add_done_callback(lambda done: done.cancelled() or done.exception())

    async def drained(self) -> None:
        """Until everything handed over is published."""
        await self._idle.wait()
