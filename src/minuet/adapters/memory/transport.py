"""`MemoryTransport`: durable groups, competing members, order per key, redelivery of what was not settled."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

from minuet.codec import attributes_of
from minuet.core.errors import MessageError
from minuet.ports import Delivery, Done, Features, Outgoing, Settlement, Subscription


@dataclass(slots=True, eq=False)
class Waiting:
    """A message of a group that is not settled."""

    group: Group
    position: int
    channel: str
    attributes: Mapping[str, str]
    body: bytes
    key: str
    owner: MemoryTransport | None = None
    due_at: float = 0.0
    deliveries: int = 0


@dataclass(slots=True, eq=False)
class Group:
    """What a group has yet to do, oldest first, and who waits for more."""

    subscription: Subscription
    queue: dict[int, Waiting] = field(default_factory=dict)
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def due(self, now: float) -> Iterator[Waiting]:
        """What may be delivered: nothing behind a message of its key that is delayed or in someone's hands."""
        held = set()
        for message in self.queue.values():
            if message.key in held:
                continue
            if message.owner is None and message.due_at <= now:
                yield message
            elif message.key:
                held.add(message.key)

    def next_due(self, now: float) -> float | None:
        return min((one.due_at for one in self.queue.values() if one.owner is None and one.due_at > now), default=None)


class MemoryBroker:
    """What a broker is to processes."""

    def __init__(self) -> None:
        self.groups: dict[str, Group] = {}
        self.position = 0


class MemoryTransport:
    """A connection to a `MemoryBroker`; a broker of its own if left out."""

    features = Features(survives_restart=False)

    def __init__(self, broker: MemoryBroker | None = None) -> None:
        self._broker = broker if broker is not None else MemoryBroker()

    async def start(self) -> None:
        """Nothing to do."""

    async def declare(self, subscriptions: Sequence[Subscription], *, only_new: bool = False) -> None:
        for subscription in subscriptions:
            group = self._broker.groups.setdefault(subscription.group, Group(subscription))
            if not only_new:
                group.subscription = subscription

    async def publish(self, messages: Sequence[Outgoing]) -> Sequence[Exception | None]:
        await asyncio.sleep(0)
        return [self._keep(message) for message in messages]

    def _keep(self, message: Outgoing) -> Exception | None:
        envelope = message.envelope
        if len(envelope.body) > self.features.body_bytes_max:
            return MessageError(
                f"{envelope.type} has {len(envelope.body)} bytes, {self.features.body_bytes_max} is the most"
            )
        attributes = attributes_of(envelope)
        for group in self._broker.groups.values():
            if group.subscription.wants(message.channel, envelope):
                self._broker.position += 1
                waiting = Waiting(
                    group, self._broker.position, message.channel, attributes, envelope.body, envelope.key
                )
                group.queue[waiting.position] = waiting
                group.news.set()
        return None

    async def receive(self, group: str, limit: int) -> Sequence[Delivery]:
        loop = asyncio.get_running_loop()
        found = self._broker.groups[group]
        while True:
            found.news.clear()
            now = loop.time()
            taken = list(islice(found.due(now), limit))
            if taken:
                return [self._hand_out(message) for message in taken]
            later = found.next_due(now)
            alarm = loop.call_at(later, found.news.set) if later is not None else None
            try:
                await found.news.wait()
            finally:
                if alarm:
                    alarm.cancel()

    def _hand_out(self, message: Waiting) -> Delivery:
        message.owner = self
        message.deliveries += 1
        return Delivery(message.channel, message.attributes, message.body, message.deliveries, message)

    async def settle(self, settled: Sequence[tuple[Delivery, Settlement]]) -> None:
        await asyncio.sleep(0)
        now = asyncio.get_running_loop().time()
        for delivery, settlement in settled:
            message: Waiting = delivery.token
            if message.owner is not self:
                continue  # it is another member's by now
            message.owner = None
            if isinstance(settlement, Done):
                del message.group.queue[message.position]
            else:
                message.due_at = now + settlement.delay_s
        self._announce()

    async def close(self) -> None:
        self.crash()

    def crash(self) -> None:
        """What kill -9 does, and close too: what is not settled goes to others."""
        for group in self._broker.groups.values():
            for message in group.queue.values():
                if message.owner is self:
                    message.owner = None
        self._announce()

    def _announce(self) -> None:
        for group in self._broker.groups.values():
            group.news.set()
