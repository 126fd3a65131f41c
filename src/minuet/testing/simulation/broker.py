"""The broker of a simulated world: durable groups, competing members, redelivery, and everything brokers do wrong.

A message stays in a group's queue until a member says that it is done with it. Where order is promised, nothing is
handed out behind a message of its key that is delayed or in somebody's hands; of what is doubled, the second copy may
come at any time, which is what redelivery looks like. Where it is not, messages overtake each other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any

from minuet.codec import attributes_of
from minuet.core.errors import MessageError
from minuet.ports import Delivery, Done, Features, Outgoing, Settlement, Subscription

if TYPE_CHECKING:
    from minuet.testing.simulation.machine import Process
    from minuet.testing.simulation.world import World

HOLD_S = 15.0
"""How long a member that says nothing may keep what it was given."""
GARBAGE = (b"not JSON", b"[]", b'{"eventType": 7}', b"\xff\xfe", b'{"orderId": NaN}', b"")


class BrokerDown(Exception):
    """The broker, or the way to it, does not work now."""


@dataclass(slots=True, eq=False)
class Waiting:
    """A message of a group that is not settled.

    Attributes:
        is_extra: a copy, or a message that lost its place; it stands in nobody's way.
        taken: how often it was handed out; whoever has it under an older number has lost it.
        released: where messages wait for their turn, how often it was this one's.
    """

    group: Group
    position: int
    channel: str
    attributes: Mapping[str, str]
    body: bytes
    key: str
    is_extra: bool = False
    due_at: float = 0.0
    owner: SimulatedTransport | None = None
    taken: int = 0
    released: int = 0

    @property
    def is_held(self) -> bool:
        return self.released <= self.taken


@dataclass(slots=True, eq=False)
class Group:
    """What a group has yet to do, oldest first."""

    subscription: Subscription
    queue: dict[int, Waiting] = field(default_factory=dict)
    waiters: dict[asyncio.Future[None], SimulatedTransport] = field(default_factory=dict)

    def due(self, now: float, *, ordered: bool, in_turn: bool = False) -> Iterator[Waiting]:
        """What can be handed out now; ``in_turn``, of that only what is not held."""
        held = set()
        for message in self.queue.values():
            if ordered and not message.is_extra and message.key in held:
                continue
            if message.owner is None and message.due_at <= now and not (in_turn and message.is_held):
                yield message
            elif message.key and not message.is_extra:
                held.add(message.key)

    def next_due(self, now: float) -> float | None:
        return min((one.due_at for one in self.queue.values() if one.owner is None and one.due_at > now), default=None)

    def wake(self) -> None:
        for waiter in self.waiters:
            if not waiter.done():
                waiter.set_result(None)


class Broker:
    """
    Attributes:
        ordered: whether it keeps the order of each key.
        is_down: it does nothing.
        in_turn: a message is handed out when somebody says that it is its turn, and not before.
    """

    def __init__(self, world: World, *, ordered: bool) -> None:
        self.world = world
        self.ordered = ordered
        self.groups: dict[str, Group] = {}
        self.is_down = False
        self.in_turn = False
        self._position = 0

    def go_down(self) -> None:
        """Whoever is connected is no more, and what he had in hand will come again."""
        self.is_down = True
        for group in self.groups.values():
            for message in group.queue.values():
                message.owner = None
            group.wake()

    def come_up(self) -> None:
        self.is_down = False
        self.wake()

    def wake(self) -> None:
        for group in self.groups.values():
            group.wake()

    def check(self) -> None:
        if self.is_down:
            raise BrokerDown("the broker does not answer")

    def keep(self, channel: str, attributes: Mapping[str, str], body: bytes, key: str, wanted: Sequence[Group]) -> None:
        """Put a message into these groups' queues."""
        world = self.world
        what = f"{attributes.get('type', 'garbage')}/{key}"
        for group in wanted:
            waiting = self._add(group, channel, attributes, body, key)
            if world.strikes("message_delayed", group.subscription.group, what):
                waiting.due_at = world.now + world.latency.expovariate(0.5)
            if not self.ordered and world.strikes("message_reordered", group.subscription.group, what):
                waiting.due_at = world.now + world.latency.uniform(0.0, 0.1)
                waiting.is_extra = True
            if world.strikes("message_doubled", group.subscription.group, what):
                copy = self._add(group, channel, attributes, body, key)
                copy.is_extra = True
                copy.due_at = world.now + world.latency.choice((0.0, 0.01, 1.0, 20.0))
            group.wake()

    def next_position(self) -> int:
        self._position += 1
        return self._position

    def _add(self, group: Group, channel: str, attributes: Mapping[str, str], body: bytes, key: str) -> Waiting:
        waiting = Waiting(group, self.next_position(), channel, attributes, body, key)
        group.queue[waiting.position] = waiting
        return waiting

    def expire(self, message: Waiting, taken: int) -> None:
        """Take it away from whoever has had it for too long."""
        if message.owner is not None and message.taken == taken and message.position in message.group.queue:
            message.owner = None
            message.group.wake()

    def heard_now(self) -> Iterator[tuple[str, Waiting]]:
        """By group what living members wait for; of each key only the first, where the order is kept."""
        for name, group in self.groups.items():
            if not any(transport.is_listening for transport in group.waiters.values()):
                continue
            first: set[str] = set()
            for message in group.due(self.world.now, ordered=self.ordered):
                if not self.ordered or message.is_extra or not message.key or message.key not in first:
                    yield name, message
                if not message.is_extra:
                    first.add(message.key)

    def waiting(self) -> list[str]:
        """What must be gone once everything is over."""
        return [
            f"{name}: queue {one.attributes.get('type')} {one.attributes.get('id')}"
            for name, group in self.groups.items()
            for one in group.queue.values()
        ]


class SimulatedTransport:
    """`minuet.ports.Transport`: a process's connection to the broker."""

    def __init__(self, broker: Broker, process: Process) -> None:
        self.features = Features(ordered_per_key=broker.ordered, ordered_across_members=broker.ordered)
        self._broker = broker
        self._process = process
        self._world = broker.world
        self._is_dead = False

    @property
    def host(self) -> Process:
        return self._process

    @property
    def is_listening(self) -> bool:
        return not self._is_dead and not self._process.is_halted

    async def start(self) -> None:
        """Nothing to do."""

    async def declare(self, subscriptions: Sequence[Subscription], *, only_new: bool = False) -> None:
        await self._reach()
        for subscription in subscriptions:
            group = self._broker.groups.setdefault(subscription.group, Group(subscription))
            if not only_new:
                group.subscription = subscription

    async def _reach(self) -> None:
        """The way to the broker. Raises BrokerDown."""
        self._world.check_not_over()
        await asyncio.sleep(self._world.latency.expovariate(1000.0))
        self._world.check_not_over()
        self._broker.check()

    # -- sending -------------------------------------------------------------------------------------------------------

    async def publish(self, messages: Sequence[Outgoing]) -> Sequence[Exception | None]:
        world = self._world
        who = messages[0].envelope.source if messages else self._process.machine.name
        if world.strikes("crash_before_publish", who):
            await self._process.die_here()
        await self._reach()
        problems: list[Exception | None] = []
        stuck: set[str] = set()
        for message in messages:
            key = message.envelope.key
            problem = BrokerDown("another of its key is not kept") if key in stuck else self._publish(message)
            if problem is not None and key:
                stuck.add(key)
            problems.append(problem)
        if world.strikes("crash_after_publish", who):
            await self._process.die_here()
        await self._reach()  # the confirmation's way
        return problems

    def _publish(self, message: Outgoing) -> Exception | None:
        world, envelope = self._world, message.envelope
        what = f"{envelope.type}/{envelope.key}"
        if len(envelope.body) > self.features.body_bytes_max:
            return MessageError(f"{envelope.type} has {len(envelope.body)} bytes, too many")
        if world.strikes("publish_refused", envelope.source, what):
            return BrokerDown("not kept")
        wanted = [
            group for group in self._broker.groups.values() if group.subscription.wants(message.channel, envelope)
        ]
        world.published(message, ordered=self._broker.ordered)
        self._broker.keep(message.channel, attributes_of(envelope), envelope.body, envelope.key, wanted)
        if world.strikes("garbage", message.channel):
            hearers = [one for one in self._broker.groups.values() if message.channel in one.subscription.wanted]
            self._broker.keep(message.channel, {}, world.latency.choice(GARBAGE), "", hearers)
        if world.strikes("confirm_lost", envelope.source, what):
            return BrokerDown("no confirmation")
        return None

    # -- receiving -----------------------------------------------------------------------------------------------------

    async def receive(self, group: str, limit: int) -> Sequence[Delivery]:
        loop = asyncio.get_running_loop()
        await self._reach()
        found = self._broker.groups[group]
        while True:
            self._broker.check()
            now = loop.time()
            due = found.due(now, ordered=self._broker.ordered, in_turn=self._broker.in_turn)
            taken = list(islice(due, self._how_many(limit)))
            if taken:
                return [self._hand_out(message) for message in taken]
            news: asyncio.Future[None] = loop.create_future()
            found.waiters[news] = self
            later = found.next_due(now)
            alarm = loop.call_at(later, found.wake) if later is not None else None
            try:
                await news
            finally:
                found.waiters.pop(news, None)
                if alarm:
                    alarm.cancel()

    def _how_many(self, limit: int) -> int:
        return min(limit, self._world.latency.choice((1, 3, limit))) if self._world.is_rough else limit

    def _hand_out(self, message: Waiting) -> Delivery:
        world = self._world
        message.owner = self
        message.taken += 1
        world.heard(message)
        what = f"{message.attributes.get('type', 'garbage')}/{message.key}"
        expired = world.strikes("message_expired", message.group.subscription.group, what)
        hold_s = world.latency.uniform(0.0, 0.05) if expired else HOLD_S
        taken = message.taken
        world.later(hold_s, lambda: self._broker.expire(message, taken))
        return Delivery(message.channel, message.attributes, message.body, message.taken, (message, message.taken))

    async def settle(self, settled: Sequence[tuple[Delivery, Settlement]]) -> None:
        world, name = self._world, self._process.machine.name
        if world.strikes("crash_before_settle", name):
            await self._process.die_here()
        await self._reach()
        if world.strikes("settle_lost", name):
            raise BrokerDown("no answer to what was settled")
        for delivery, settlement in settled:
            self._settle(delivery.token, settlement)
        if world.strikes("crash_after_settle", name):
            await self._process.die_here()

    def _settle(self, token: Any, settlement: Settlement) -> None:
        message: Waiting
        message, taken = token
        if message.owner is not self or message.taken != taken:
            return  # it is another's by now
        message.owner = None
        if isinstance(settlement, Done):
            message.group.queue.pop(message.position, None)
        else:
            message.due_at = self._world.now + settlement.delay_s
        message.group.wake()

    async def close(self) -> None:
        self.die()

    def die(self) -> None:
        """What is not settled goes to others."""
        if self._is_dead:
            return
        self._is_dead = True
        for group in self._broker.groups.values():
            for message in group.queue.values():
                if message.owner is self:
                    message.owner = None
            group.wake()
