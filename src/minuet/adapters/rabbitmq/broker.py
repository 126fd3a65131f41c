"""`minuet.adapters.broker.port.Broker` on RabbitMQ's AMQP 0-9-1.

There are two connections: an alarm (memory, disk) stops whoever publishes, and who could not acknowledge either would
never make room. Reconnecting is `BrokerTransport`'s, so the client's own ("robust") is not used: it would declare and
consume again by itself, at another time than we.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any, Final

from aiormq.exceptions import ChannelClosed

from minuet.adapters.broker.port import Disconnected, Queue, Received, Sending
from minuet.adapters.rabbitmq.link import Link, answered, explain
from minuet.adapters.rabbitmq.member import Member
from minuet.adapters.rabbitmq.outlet import NotKept, Outlet
from minuet.adapters.rabbitmq.topology import Topology
from minuet.adapters.rabbitmq.url import settings_of
from minuet.ports import Features, Ids

BLOCKED_S_MAX: Final = 2.0
"""To wait for the end of an alarm before a message counts as not sent."""


class RabbitMqBroker:
    """A connection to one virtual host.

    Args:
        url: the server part, as `split` returns it.
        ids: names this connection in the broker's own tools.

    Raises:
        ConfigurationError: the URL makes no sense.
    """

    hold_s: float | None = None
    gathers = False
    revoked: Callable[[str, str], None]

    def __init__(self, url: str, ids: Ids) -> None:
        self.settings = settings_of(url)
        quorum, single = self.settings.queue == "quorum", self.settings.single_active_consumer
        # A quorum queue whose leader was killed serves a new consumer before it takes back what the old one had.
        self.features = Features(
            ordered_per_key=single or not quorum,
            ordered_across_members=single,
            shares_lanes=single,
            counts_deliveries=quorum,
        )
        self.revoked = lambda group, lane: None
        self._name = f"minuet {ids.new()}"
        self._numbers = count(1)
        self._members: dict[str, Member] = {}
        self._sending = Link(self.settings, f"{self._name} (sending)")
        self._receiving = Link(self.settings, f"{self._name} (receiving)")
        self._outlet: Outlet | None = None
        self._topology = Topology(self._receiving, self.settings)

    async def connect(self) -> None:
        await self.disconnect()
        self._sending = Link(self.settings, f"{self._name} (sending)")
        self._receiving = Link(self.settings, f"{self._name} (receiving)")
        self._topology = Topology(self._receiving, self.settings)
        try:
            await self._receiving.connect()
            await self._sending.connect()
            channel = await self._sending.open_channel(confirms=True)
            self._outlet = Outlet(channel)
            self._sending.hear(channel, self._outlet)
        except BaseException:
            await self.disconnect()
            raise

    async def disconnect(self) -> None:
        for member in self._members.values():
            member.lose("disconnected")
        self._members.clear()
        self._outlet = None
        await asyncio.gather(self._sending.close(), self._receiving.close())

    async def declare(self, queues: Sequence[Queue], destinations: Sequence[str], *, only_new: bool) -> None:
        await self._topology.declare(queues, destinations, only_new=only_new)

    async def check(self, queues: Sequence[Queue], destinations: Sequence[str]) -> Sequence[str]:
        return await self._topology.check(queues, destinations)

    async def send(self, messages: Sequence[Sending]) -> Sequence[Exception | None]:
        outcomes: list[Exception | None] = [None] * len(messages)
        # A returned message is found again by its id alone, so no two of one id are on their way together.
        for wave in _waves(messages):
            for position, outcome in zip(wave, await self._send_all([messages[one] for one in wave]), strict=True):
                outcomes[position] = outcome
        return outcomes

    async def _send_all(self, messages: Sequence[Sending]) -> Sequence[Exception | None]:
        if self._outlet is None:
            raise Disconnected(f"there is no connection to {self.settings.shown}")
        if await self._sending.is_blocked(within_s=BLOCKED_S_MAX):
            return [self._blocked()] * len(messages)
        sending = self._outlet.publish(messages)
        try:
            return await answered(sending, f"sending {len(messages)} messages to {self.settings.shown}")
        except ChannelClosed as error:
            raise Disconnected(f"sending to {self.settings.shown}: {explain(error)}") from error
        except Disconnected:
            if await self._sending.is_blocked(within_s=0):
                return [self._blocked()] * len(messages)
            raise

    def _blocked(self) -> Exception:
        return NotKept(f"{self.settings.shown} takes no messages now; look at its memory and disk alarms")

    async def fetch(self, group: str, limit: int) -> Sequence[Received]:
        member = self._members.get(group)
        if member is None:
            queue = self._topology.queue_of(group)
            number, prefetch = next(self._numbers), self.settings.prefetch
            member = self._members[group] = Member(self._receiving, queue, number=number, prefetch=prefetch)
        return await member.take(limit)

    async def acknowledge(self, group: str, tokens: Sequence[Any]) -> None:
        if group in self._members:
            await self._members[group].acknowledge(tokens)

    async def keep(self, group: str, tokens: Sequence[Any]) -> None:
        """They stay with this connection while it lives."""

    async def give_back(self, group: str, tokens: Sequence[Any]) -> None:
        if group in self._members:
            await self._members[group].give_back(tokens)


def _waves(messages: Sequence[Sending]) -> list[list[int]]:
    """Positions, so that no wave holds an id twice; almost always all in one."""
    waves: list[list[int]] = []
    seen: dict[str, int] = {}
    for position, message in enumerate(messages):
        wave = seen.get(message.attributes.get("id", ""), 0)
        seen[message.attributes.get("id", "")] = wave + 1
        if wave == len(waves):
            waves.append([])
        waves[wave].append(position)
    return waves
