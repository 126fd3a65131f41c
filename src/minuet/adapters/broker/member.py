"""This process as a member of one group: fetches into its hands as long as there is room, hands out, settles."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any

from minuet.adapters.broker.gathering import Gathering
from minuet.adapters.broker.held import Held, HeldMessage
from minuet.adapters.broker.link import Link
from minuet.adapters.broker.port import Broker, Disconnected
from minuet.adapters.broker.topology import Topology
from minuet.ports import Again, Delivery, Settlement


class Member:
    """One group's receiving end. Its tasks run from the first `receive` until `stop`."""

    def __init__(self, group: str, broker: Broker, link: Link, topology: Topology, held: Held) -> None:
        self.group = group
        self.held = held
        self._broker = broker
        self._link = link
        self._topology = topology
        self._news = asyncio.Event()
        self._freed = asyncio.Event()
        self._acknowledging = asyncio.Lock()
        self._tasks: list[asyncio.Task[None]] = []
        self._is_stopped = False
        self._gathering = Gathering()

    def start(self) -> None:
        """Begin to fetch."""
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._pump(), name=f"{self._link.name}: fetch for {self.group}")]
        if self._broker.hold_s is not None:
            keeping = self._keep(self._broker.hold_s / 3)
            self._tasks.append(loop.create_task(keeping, name=f"{self._link.name}: keep for {self.group}"))

    async def stop(self) -> None:
        """Fetch no more. What is in hand stays there."""
        self._is_stopped = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._news.set()

    async def receive(self, limit: int) -> Sequence[Delivery]:
        """See `minuet.ports.Transport.receive`.

        Raises:
            Disconnected: the transport was closed.
        """
        loop = asyncio.get_running_loop()
        while True:
            if self.held.has_ready(loop.time()):
                await self._gather(limit)
            if self._is_stopped:
                raise Disconnected(f"{self._link.name} is closed")
            # From here to the return nothing may be awaited: who is cancelled has taken nothing.
            taken = self.held.take(limit, loop.time())
            if taken:
                self._gathering.gave(len(taken))
                return [delivery_of(self.group, message) for message in taken]
            self._news.clear()
            due_at = self.held.next_due()
            alarm = loop.call_at(due_at, self._news.set) if due_at is not None else None
            try:
                await self._news.wait()
            finally:
                if alarm:
                    alarm.cancel()

    async def _gather(self, limit: int) -> None:
        """Wait for what comes in a moment, if it is likely that more does."""
        wait_s = self._gathering.wait_s
        if wait_s and len(self.held) < limit and not self._broker.gathers:
            await asyncio.sleep(wait_s)

    async def settle(self, settled: Sequence[tuple[HeldMessage, Settlement]]) -> None:
        """See `minuet.ports.Transport.settle`. What cannot be said to the broker now is forgotten: it comes again."""
        now = asyncio.get_running_loop().time()
        done: list[HeldMessage] = []
        for message, settlement in settled:
            if isinstance(settlement, Again):
                self.held.again(message, now + settlement.delay_s if settlement.delay_s > 0 else 0.0)
            else:
                done.append(message)
        self._news.set()
        if done and await self._acknowledge(done):
            for message in done:
                self.held.done(message)
            self._freed.set()
            self._news.set()

    async def give_back(self) -> None:
        """Tell the broker that all that is in hand may go to others."""
        tokens = self.held.tokens()
        self.held.drop_all()
        if tokens and self._link.is_up:
            await self._link.call(lambda: self._broker.give_back(self.group, tokens))

    def drop_lane(self, lane: str) -> None:
        self.held.drop_lane(lane)
        self._freed.set()
        self._news.set()  # what stood behind a message of that lane may go

    def drop_all(self) -> None:
        self.held.drop_all()
        self._freed.set()

    async def _acknowledge(self, messages: Sequence[HeldMessage]) -> bool:
        """Whether the broker knows. Those that are no longer ours by now are left out."""
        async with self._acknowledging:
            tokens = [message.received.token for message in messages if message.is_out and not message.is_gone]
            return not tokens or await self._told_done(tokens)

    async def _told_done(self, tokens: Sequence[Any]) -> bool:
        try:
            await self._link.call(lambda: self._broker.acknowledge(self.group, tokens))
        except Disconnected:
            return False
        return True

    async def _pump(self) -> None:
        while True:
            await self._link.up()
            self._freed.clear()
            room = self.held.room()
            if not room:
                await self._freed.wait()
                continue
            try:
                await self._fetch(room)
            except Disconnected:
                continue  # the link makes another

    async def _fetch(self, room: int) -> None:
        unwanted = await self._link.call(lambda: self._fetch_into_hand(room), is_limited=False)
        if unwanted:
            async with self._acknowledging:
                await self._told_done(unwanted)

    async def _fetch_into_hand(self, room: int) -> Sequence[Any]:
        """The tokens of what the group does not want."""
        generation = self._link.generation
        fetched = await self._broker.fetch(self.group, room)
        # No await from here on: what is revoked, or lost with its connection, is either in hand by then or was not
        # fetched at all.
        if generation != self._link.generation:
            return []
        self.held.expect(fetched)
        unwanted: list[Any] = []
        for received in fetched:
            channel = self._topology.channel_for(self.group, received.destination, received.attributes)
            if channel is None:
                unwanted.append(received.token)
            else:
                self.held.add(received, channel)
        self._news.set()
        return unwanted

    async def _keep(self, every_s: float) -> None:
        while True:
            await asyncio.sleep(every_s)
            tokens = self.held.tokens()
            if not tokens or not self._link.is_up:
                continue
            with contextlib.suppress(Disconnected):
                await self._link.call(lambda: self._broker.keep(self.group, tokens))  # noqa: B023  called at once


def delivery_of(group: str, message: HeldMessage) -> Delivery:
    received = message.received
    return Delivery(message.channel, received.attributes, received.body, message.deliveries, (group, message))
