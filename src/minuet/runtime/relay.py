"""Carries what was committed to the transports: outbox -> transport.

The relay is handed what each commit put out and publishes it at once; the outbox table is read only after a crash, or
when so much has piled up that it no longer fits in memory. A row leaves the outbox only after the transport confirmed
it; what could not be published stays at the head and is tried again, so that the order per key is kept.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import sys
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from minuet.core.retry import RetryPolicy
from minuet.ports import Ids, Outgoing, Store, Transport

log = logging.getLogger("minuet.relay")

HELD_MAX = 10_000
HELD_BYTES_MAX = 32 * 1024 * 1024
BATCH_MAX = 500
BACKOFF = RetryPolicy(first_s=0.05, delay_max_s=5.0)


class Publisher(Protocol):
    """The part of a transport that is needed here."""

    async def publish(self, messages: Sequence[Outgoing]) -> Sequence[Exception | None]: ...


class Nowhere:
    """Where what has no transport waits for one."""

    def __init__(self, transport_of: Callable[[str], Transport]) -> None:
        self._transport_of = transport_of

    async def publish(self, messages: Sequence[Outgoing]) -> Sequence[Exception | None]:
        problems: list[Exception | None] = []
        stuck: dict[str, Exception] = {}
        for message in messages:
            key = message.envelope.key
            problem = (key and stuck.get(key)) or await self._publish(message)
            if problem:
                stuck[key] = problem
            problems.append(problem or None)
        return problems

    async def _publish(self, message: Outgoing) -> Exception | None:
        try:
            (problem,) = await self._transport_of(message.channel).publish([message])
        except Exception as error:
            return error
        return problem


class Relay:
    """The outgoing side of one store: a lane for each transport, so that one that hangs holds up no other.

    Args:
        transport_of: the transport of a channel.
    """

    def __init__(self, store: Store, transport_of: Callable[[str], Transport], ids: Ids) -> None:
        self.store = store
        self.transport_of = transport_of
        self.ids = ids
        self._lanes: dict[Publisher, Lane] = {}
        self._nowhere = Nowhere(transport_of)
        self._tasks: asyncio.TaskGroup | None = None

    @property
    def published(self) -> int:
        """How many messages the transports have confirmed."""
        return sum(lane.published for lane in self._lanes.values())

    @property
    def is_stuck(self) -> bool:
        """Whether a transport takes nothing at the moment."""
        return any(lane.is_stuck for lane in self._lanes.values())

    def hand_over(self, messages: Sequence[Outgoing]) -> None:
        """Take what was just committed. Called in the order of the commits."""
        by_publisher: dict[Publisher, list[Outgoing]] = {}
        for message in messages:
            by_publisher.setdefault(self.publisher_of(message.channel), []).append(message)
        for publisher, its in by_publisher.items():
            self._lane_of(publisher).hand_over(its)

    def publisher_of(self, channel: str) -> Publisher:
        try:
            return self.transport_of(channel)
        except Exception:  # settings that do not know what an earlier deployment has left in the outbox
            return self._nowhere

    def _lane_of(self, publisher: Publisher) -> Lane:
        lane = self._lanes.get(publisher)
        if lane is None:
            lane = self._lanes[publisher] = Lane(publisher, self)
            if self._tasks is not None:
                self._tasks.create_task(lane.run())
        return lane

    async def run(self) -> None:
        """Publish until cancelled."""
        async with asyncio.TaskGroup() as self._tasks:
            try:
                for lane in self._lanes.values():
                    self._tasks.create_task(lane.run())
                await asyncio.get_running_loop().create_future()
            finally:
                self._tasks = None

    async def drained(self) -> None:
        """Until everything handed over is published."""
        for lane in tuple(self._lanes.values()):
            await lane.drained()


class Lane:
    """What goes out over one transport, in its order."""

    def __init__(self, publisher: Publisher, relay: Relay) -> None:
        self.publisher = publisher
        self.store = relay.store
        self.ids = relay.ids
        self.published = 0
        self.is_stuck = False
        self._relay = relay
        self._held: deque[Outgoing] = deque()
        self._held_bytes = 0
        self._largest = 1
        # The lowest position that was not held because there was no room, once there is one.
        self._unread: int | None = None
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._is_running = False
        self._forgetting: set[asyncio.Task[None]] = set()

    def hand_over(self, messages: Sequence[Outgoing]) -> None:
        """As `Relay.hand_over`."""
        size = _bytes_of(messages)
        self._largest = max(self._largest, *(len(message.envelope.body) for message in messages))
        has_room = len(self._held) + len(messages) <= HELD_MAX and self._held_bytes + size <= HELD_BYTES_MAX
        if self._unread is not None or not has_room:
            # They are safe in the outbox, and are read from there once there is room again. What was taken over from an
            # instance that is gone may have any position, also one before those that are published already.
            first = min(message.position for message in messages)
            self._unread = first if self._unread is None else min(self._unread, first)
        else:
            self._held.extend(messages)
            self._held_bytes += size
        self._idle.clear()
        self._wake.set()

    async def run(self) -> None:
        """Publish until cancelled."""
        self._is_running = True
        try:
            await self._run()
        finally:
            self._is_running = False

    async def _run(self) -> None:
        failures = 0
        while True:
            if not self._held and self._unread is None:
                self._idle.set()
                self._wake.clear()
                await self._wake.wait()
                continue
            try:
                got_on = (
                    await self._catch_up(self._unread)
                    if not self._held and self._unread is not None
                    else await self._send()
                )
            except Exception as error:  # the store, or a bug; without the relay nothing would ever go out again
                log.warning("cannot go on publishing yet: %r", error)
                got_on = False
            failures = 0 if got_on else failures + 1
            self.is_stuck = failures > 0
            if failures:
                await asyncio.sleep(BACKOFF.delay_s(failures, self.ids.chance()))

    async def _send(self) -> bool:
        """Publish a batch. False if none of it could be."""
        batch = [self._held.popleft() for _ in range(min(BATCH_MAX, len(self._held)))]
        failed = batch
        try:
            failed = await self._publish(batch)
        finally:
            self._held.extendleft(reversed(failed))
            self._held_bytes -= _bytes_of(batch) - _bytes_of(failed)
        return len(failed) < len(batch)

    async def _catch_up(self, first: int) -> bool:
        """Read on in the outbox where there was no room to hold what was handed over."""
        self._unread = sys.maxsize  # what is handed over while this reads may not be in what it reads
        following = first
        most = max(1, min(BATCH_MAX, HELD_BYTES_MAX // self._largest))
        try:
            rows = await self.store.transact(lambda tx: tx.outbox.mine(most, first - 1), reads_only=True)
            following = rows[-1].position + 1 if rows else sys.maxsize
            # What goes over another transport is on its own way.
            mine = [row for row in rows if self._relay.publisher_of(row.channel) is self.publisher]
            self._held.extend(mine)
            self._held_bytes += _bytes_of(mine)
        finally:
            left = min(self._unread, following)
            self._unread = None if left == sys.maxsize else left
        return True

    async def _publish(self, batch: Sequence[Outgoing]) -> list[Outgoing]:
        """Publish a batch; what is left over, in order: what failed, and what must not overtake it."""
        failed: list[Outgoing] = []
        confirmed: list[int] = []
        try:
            problems: Sequence[Exception | None] = await self.publisher.publish(batch)
        except Exception as error:
            problems = [error] * len(batch)
        for message, problem in zip(batch, problems, strict=True):
            if problem is None:
                confirmed.append(message.position)
            else:
                failed.append(message)
        if failed:
            why = next(problem for problem in problems if problem is not None)
            first = failed[0]
            log.warning(
                "cannot publish %d messages yet, the first of them %s %s on %s: %s",
                len(failed),
                first.envelope.type,
                first.envelope.id,
                first.channel,
                why,
            )
        if confirmed:
            self.published += len(confirmed)
            # Nobody waits for this: if it is lost in a crash, the message goes out once more.
            self._forget(confirmed)
        return failed

    def _forget(self, positions: list[int]) -> None:
        task = asyncio.ensure_future(self._forget_at_last(positions))
        self._forgetting.add(task)
        task.add_done_callback(self._forgetting.discard)

    async def _forget_at_last(self, positions: list[int]) -> None:
        for failures in itertools.count(1):
            try:
                await self.store.transact(lambda tx: tx.outbox.remove(positions), lazily=True)
                break
            except Exception as error:
                if not self._is_running:
                    break
                log.warning("cannot take %d published messages out of the outbox yet: %r", len(positions), error)
            await asyncio.sleep(BACKOFF.delay_s(failures, self.ids.chance()))

    async def drained(self) -> None:
        """Until everything handed over is published."""
        await self._idle.wait()


def _bytes_of(messages: Sequence[Outgoing]) -> int:
    return sum(len(message.envelope.body) for message in messages)
