"""A broker in memory with every fault that a real one has: the other side of `BrokerTransport` in its tests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count

from minuet.adapters.broker.port import Disconnected, Queue, Received, Sending
from minuet.ports import Features

LOST_LATE = "after it was done"
TURNS_BETWEEN = 50  # of the event loop, between messages that come one by one: who waits has long taken the first
OF_A_GROUP = {"fetch", "acknowledge", "keep", "give_back"}


@dataclass(eq=False)
class Stored:
    """A message of a group on the server."""

    token: int
    sending: Sending
    deliveries: int = 0
    owner: FakeBroker | None = None


@dataclass(eq=False)
class FakeServer:
    """What stays when connections go.

    Attributes:
        faults: the next calls of a method: an error to raise at once, or ``LOST_LATE`` for an answer that gets lost.
        calls: all calls so far, as (method, argument).
        violations: calls that must not have been made while another was under way.
        silent: methods that never answer, as on a half-open connection.
        filters: whether the server leaves out what a queue does not want.
        tears: whether messages come one by one with a while between them, however many were published at once.
    """

    features: Features = field(default_factory=Features)
    hold_s: float | None = None
    filters: bool = True
    tears: bool = False
    is_up: bool = True
    connections: int = 0
    starts: int = 1
    queues: dict[str, Queue] = field(default_factory=dict)
    stored: dict[str, dict[int, Stored]] = field(default_factory=dict)
    destinations: set[str] = field(default_factory=set)
    faults: dict[str, list[Exception | str]] = field(default_factory=dict)
    calls: list[tuple[str, object]] = field(default_factory=list)
    silent: set[str] = field(default_factory=set)
    violations: list[str] = field(default_factory=list)
    news: asyncio.Condition = field(default_factory=asyncio.Condition)
    tokens: count[int] = field(default_factory=lambda: count(1))

    def called(self, method: str) -> list[object]:
        return [argument for name, argument in self.calls if name == method]

    async def announce(self) -> None:
        async with self.news:
            self.news.notify_all()

    async def stop(self) -> None:
        """Cut all connections and accept no new ones, until `start`."""
        self.is_up = False
        await self.announce()

    async def start(self) -> None:
        self.is_up = True
        self.starts += 1

    async def lose_everything(self) -> None:
        """As when somebody installs it anew, with its disk empty."""
        self.queues.clear()
        self.stored.clear()
        self.destinations.clear()
        await self.announce()


class FakeBroker:
    """One connection to a `FakeServer`. Keeps order per key and gives a key to one member at a time, as a queue with
    message groups does."""

    gathers = False

    def __init__(self, server: FakeServer) -> None:
        self.server = server
        self.features = server.features
        self.hold_s = server.hold_s
        self.revoked: Callable[[str, str], None] = lambda group, lane: None
        self.connected_to: int | None = None
        self.barred: set[str] = set()  # lanes that are other members'
        self.under_way: set[tuple[str, object]] = set()

    async def connect(self) -> None:
        await self._answer("connect", None)
        if not self.server.is_up:
            raise Disconnected("fake://user:secret@host refuses the connection")
        self.server.connections += 1
        self.connected_to = self.server.starts

    async def disconnect(self) -> None:
        self.server.calls.append(("disconnect", None))
        self.connected_to = None
        for stored in self.server.stored.values():
            for one in stored.values():
                if one.owner is self:
                    one.owner = None
        await self.server.announce()

    async def declare(self, queues: Sequence[Queue], destinations: Sequence[str], *, only_new: bool) -> None:
        await self._begin("declare", (tuple(queues), tuple(destinations), only_new))
        self.server.destinations.update(destinations)
        for queue in queues:
            if not only_new or queue.group not in self.server.queues:
                self.server.queues[queue.group] = queue
            self.server.stored.setdefault(queue.group, {})

    async def check(self, queues: Sequence[Queue], destinations: Sequence[str]) -> Sequence[str]:
        await self._begin("check", tuple(queues))
        missing = [f"there is no topic {one}" for one in destinations if one not in self.server.destinations]
        return missing + [f"there is no queue {one.group}" for one in queues if one.group not in self.server.queues]

    async def send(self, messages: Sequence[Sending]) -> Sequence[Exception | None]:
        is_late = await self._begin("send", tuple(messages))
        keys = [message.key for message in messages if message.key]
        assert len(keys) == len(set(keys)), "two messages of one key in one call"
        outcomes = [self._keep(message) for message in messages]
        await self.server.announce()
        if is_late:
            raise Disconnected("the confirmation was lost")
        return outcomes

    def _keep(self, message: Sending) -> Exception | None:
        listeners = [one for one in self.server.queues.values() if message.destination in one.destinations]
        if message.must_arrive and not listeners:
            return RuntimeError(f"nobody listens on {message.destination}")
        for queue in listeners:
            unwanted = queue.unwanted[message.destination] if self.server.filters else ()
            if message.attributes.get("type") not in unwanted:
                token = next(self.server.tokens)
                self.server.stored[queue.group][token] = Stored(token, message)
        return None

    async def fetch(self, group: str, limit: int) -> Sequence[Received]:
        assert limit >= 1
        await self._begin("fetch", (group, limit))
        if self.server.tears:
            for _ in range(TURNS_BETWEEN):
                await asyncio.sleep(0)
            self._check_connection()
        while True:
            taken = self._take(group, 1 if self.server.tears else limit)
            if taken:
                return taken
            async with self.server.news:
                await self.server.news.wait()
            self._check_connection()

    def _take(self, group: str, limit: int) -> list[Received]:
        stored = self.server.stored[group]
        elsewhere = {one.sending.key for one in stored.values() if one.owner not in {None, self}} - {""}
        free = [
            one
            for one in stored.values()
            if one.owner is None and one.sending.key not in elsewhere and lane_of(one) not in self.barred
        ]
        for one in free[:limit]:
            one.owner = self
            one.deliveries += 1
        return [
            Received(
                one.sending.destination,
                one.sending.attributes,
                one.sending.body,
                one.token,
                one.deliveries,
                lane_of(one),
            )
            for one in free[:limit]
        ]

    async def acknowledge(self, group: str, tokens: Sequence[int]) -> None:
        is_late = await self._begin("acknowledge", (group, tuple(tokens)))
        for token in tokens:
            self.server.stored[group].pop(token, None)
        await self.server.announce()
        if is_late:
            raise Disconnected("the answer was lost")

    async def keep(self, group: str, tokens: Sequence[int]) -> None:
        await self._begin("keep", (group, tuple(tokens)))

    async def give_back(self, group: str, tokens: Sequence[int]) -> None:
        await self._begin("give_back", (group, tuple(tokens)))
        for token in tokens:
            if token in self.server.stored[group]:
                self.server.stored[group][token].owner = None
        await self.server.announce()

    async def take_away(self, group: str, lane: str) -> None:
        """The lane is another member's from now on."""
        self.barred.add(lane)
        self.revoked(group, lane)
        for one in self.server.stored[group].values():
            if one.owner is self and lane_of(one) == lane:
                one.owner = None
        await self.server.announce()

    async def _begin(self, method: str, argument: object) -> bool:
        """Whether the answer will be lost."""
        self._check_connection()
        is_late = await self._answer(method, argument)
        self._check_connection()
        return is_late

    async def _answer(self, method: str, argument: object) -> bool:
        self.server.calls.append((method, argument))
        this = (method, argument[0] if method in OF_A_GROUP and isinstance(argument, tuple) else None)
        if this in self.under_way and method != "send":
            self.server.violations.append(f"two {method} at once")
        self.under_way.add(this)
        try:
            await asyncio.sleep(0)
            if method in self.server.silent:
                await self._hang()
        finally:
            self.under_way.discard(this)
        faults = self.server.faults.get(method)
        fault = faults.pop(0) if faults else None
        if isinstance(fault, Exception):
            raise fault
        return fault == LOST_LATE

    async def _hang(self) -> None:
        """Until the connection is cut, which a half-open one never is."""
        starts = self.server.starts
        async with self.server.news:
            await self.server.news.wait_for(lambda: not self.server.is_up or self.server.starts != starts)
        raise Disconnected("the connection was cut")

    def _check_connection(self) -> None:
        if not self.server.is_up or self.connected_to != self.server.starts:
            raise Disconnected("the connection is gone")


def lane_of(stored: Stored) -> str:
    """Keys that begin with the same letter share a lane."""
    return stored.sending.key[:1]


def destinations(*channels: str) -> Mapping[str, str]:
    return {channel: f"topic/{channel}" for channel in channels}
