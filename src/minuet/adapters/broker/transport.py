"""`BrokerTransport`: a `minuet.ports.Transport` on any `port.Broker`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

from minuet.adapters.broker.held import BYTES_MAX, MESSAGES_MAX, Held, HeldMessage
from minuet.adapters.broker.link import BACKOFF, Link, say
from minuet.adapters.broker.member import Member
from minuet.adapters.broker.port import Broker, Disconnected, Sending
from minuet.adapters.broker.rounds import send_in_rounds
from minuet.adapters.broker.topology import Topology
from minuet.codec import attributes_of
from minuet.core.errors import ConfigurationError, MessageError
from minuet.ports import Delivery, Features, Ids, Outgoing, Settlement, Subscription

log = logging.getLogger("minuet.broker")

T = TypeVar("T")

START_S = 30.0
CALL_S = 20.0
SENDING_MAX = 4
MUCH_MESSAGES = 128
MUCH_BYTES = 1024 * 1024


class BrokerTransport:
    """A connection to a broker, for all channels that lie there.

    Args:
        broker: what it is carried by. It belongs to this transport from now on.
        destinations: of each channel that lies on this broker.
        ids: for jitter.
        provision: whether `declare` makes what is missing on the broker; else it only looks.
        name: of the server in logs and errors, without a password; left out, the kind of broker.
        start_s: for how long `start` waits for the server. `declare`, which a server that has just come up itself does
            slowly, may take twice as long.
        call_s: for how long it may take to answer; one that takes longer counts as lost.
        messages_max: in hand and not settled, for each group.
        bytes_max: likewise.
    """

    def __init__(
        self,
        broker: Broker,
        destinations: Mapping[str, str],
        *,
        ids: Ids,
        provision: bool = True,
        name: str = "",
        start_s: float = START_S,
        call_s: float = CALL_S,
        messages_max: int = MESSAGES_MAX,
        bytes_max: int = BYTES_MAX,
    ) -> None:
        self.features: Features = broker.features
        self._broker = broker
        self._topology = Topology(destinations)
        self._ids = ids
        self._provision = provision
        self._start_s = start_s
        self._messages_max = messages_max
        self._bytes_max = bytes_max
        self._link = Link(
            broker,
            ids,
            name=name or type(broker).__name__,
            lost=self._drop_all,
            restore=self._restore,
            start_s=start_s,
            call_s=call_s,
        )
        # Several services publish at once. But what is under way together has to be confirmed within the time of one
        # call, so much goes by turns: after an outage each of many services may have a backlog.
        self._sending = asyncio.Semaphore(SENDING_MAX)
        self._sending_much = asyncio.Lock()
        self._members: dict[str, Member] = {}
        self._was_declared = False
        self._is_closed = False
        self._declaring = asyncio.Lock()
        self._settling: set[asyncio.Task[None]] = set()
        broker.revoked = self._revoked

    @property
    def is_connected(self) -> bool:
        """Whether the broker can be asked for something now."""
        return self._link.is_up

    async def start(self) -> None:
        """Connect.

        Raises:
            ConfigurationError: the server could not be reached for `start_s`, or does not want us.
        """
        await self._link.start()
        self.features = self._broker.features  # some brokers say only when connected how large a message may be

    async def declare(self, subscriptions: Sequence[Subscription], *, only_new: bool = False) -> None:
        """See `minuet.ports.Transport.declare`.

        Raises:
            ConfigurationError: something is missing and this transport may not make it, or the server is away.
        """
        async with self._declaring:
            queues = self._topology.queues(subscriptions)
            destinations = self._topology.destinations
            if self._provision:
                await self._insist(lambda: self._broker.declare(queues, destinations, only_new=only_new))
            elif not only_new:  # what other groups need is not ours to judge: they may be of another version
                missing = await self._insist(lambda: self._broker.check(queues, destinations))
                if missing:
                    raise ConfigurationError(
                        f"{self._link.name} is not as it has to be: {'; '.join(missing)}. "
                        f"`minuet topology apply` makes it so"
                    )
            self._topology.remember(subscriptions, only_new=only_new)
            self._was_declared = True

    async def check(self, subscriptions: Sequence[Subscription]) -> Sequence[str]:
        """What `declare` would make or change on the broker, each in a sentence; changes nothing.

        Raises:
            ConfigurationError: the server is away.
        """
        async with self._declaring:
            queues = self._topology.queues(subscriptions)
            return await self._insist(lambda: self._broker.check(queues, self._topology.destinations))

    async def publish(self, messages: Sequence[Outgoing]) -> Sequence[Exception | None]:
        outcomes = [self._refuse(message) for message in messages]
        good = [index for index, outcome in enumerate(outcomes) if outcome is None]
        heard = await send_in_rounds([self._sending_of(messages[index]) for index in good], self._send)
        for index, outcome in zip(good, heard, strict=True):
            outcomes[index] = outcome
        return outcomes

    def _refuse(self, message: Outgoing) -> Exception | None:
        envelope, most = message.envelope, self.features.body_bytes_max
        if len(envelope.body) > most:
            return MessageError(
                f"{envelope.type} {envelope.id} has {len(envelope.body)} bytes, {most} is the most on {self._link.name}"
            )
        if message.channel not in self._topology.destination_of:
            return ConfigurationError(f"channel {message.channel} does not lie on {self._link.name}")
        return None

    def _sending_of(self, message: Outgoing) -> Sending:
        return Sending(
            destination=self._topology.destination_of[message.channel],
            key=message.envelope.key,
            attributes=attributes_of(message.envelope),
            body=message.envelope.body,
            must_arrive=self._topology.is_heard(message.channel),
        )

    async def _send(self, messages: Sequence[Sending]) -> Sequence[Exception | None]:
        is_much = len(messages) > MUCH_MESSAGES or sum(len(one.body) for one in messages) > MUCH_BYTES
        async with self._sending_much if is_much else contextlib.nullcontext(), self._sending:
            generation = self._link.generation
            outcomes = await self._link.call(lambda: self._broker.send(messages))
        lost = next((outcome for outcome in outcomes if isinstance(outcome, Disconnected)), None)
        if lost is not None:
            self._link.lose(lost, generation)
        return outcomes

    async def receive(self, group: str, limit: int) -> Sequence[Delivery]:
        """See `minuet.ports.Transport.receive`.

        Raises:
            ConfigurationError: the group was not declared here, or wants nothing of this broker.
            Disconnected: the transport was closed.
        """
        return await self._member(group).receive(limit)

    def _member(self, group: str) -> Member:
        member = self._members.get(group)
        if member is None:
            if self._is_closed:
                raise Disconnected(f"{self._link.name} is closed")
            if not self._topology.has_something_for(group):
                raise ConfigurationError(f"group {group} has nothing to receive on {self._link.name}; declare it first")
            held = Held(messages_max=self._messages_max, bytes_max=self._bytes_max)
            member = self._members[group] = Member(group, self._broker, self._link, self._topology, held)
            member.start()
        return member

    async def settle(self, settled: Sequence[tuple[Delivery, Settlement]]) -> None:
        """See `minuet.ports.Transport.settle`. Of what came over a connection that is lost, nothing is kept: the broker
        gives it out again."""
        by_group: dict[str, list[tuple[HeldMessage, Settlement]]] = {}
        for delivery, settlement in settled:
            group, message = delivery.token
            by_group.setdefault(group, []).append((message, settlement))
        if not by_group:
            return
        task = asyncio.ensure_future(self._settle(by_group))
        self._settling.add(task)
        task.add_done_callback(self._settling.discard)
        # Who stops waiting does not stop it: what is done should not come again without need.
        await asyncio.shield(task)

    async def _settle(self, by_group: Mapping[str, Sequence[tuple[HeldMessage, Settlement]]]) -> None:
        for group, settled in by_group.items():
            await self._members[group].settle(settled)

    async def close(self) -> None:
        """See `minuet.ports.Transport.close`. May be called twice."""
        self._is_closed = True
        for member in self._members.values():
            await member.stop()
        if self._settling:
            await asyncio.wait(self._settling)
        for member in self._members.values():
            try:
                await member.give_back()
            except Exception as error:  # they come again at the latest when the broker notices that we are gone
                log.warning("%s: cannot give back what was not settled: %s", self._link.name, say(error))
        await self._link.close()

    async def abandon(self) -> None:
        """As if this process had died: the connection ends and nothing is given back. For tests."""
        self._is_closed = True
        self._drop_all()
        for member in self._members.values():
            await member.stop()
        await self._link.close()

    def _drop_all(self) -> None:
        for member in self._members.values():
            member.drop_all()

    def _revoked(self, group: str, lane: str) -> None:
        if group in self._members:
            self._members[group].drop_lane(lane)

    async def _restore(self) -> None:
        """After a reconnect: the broker may be an empty one now, and the connection knows nothing yet."""
        self.features = self._broker.features
        if self._provision and self._was_declared:
            queues = self._topology.queues(self._topology.subscriptions)
            await self._broker.declare(queues, self._topology.destinations, only_new=True)

    async def _insist(self, what: Callable[[], Awaitable[T]]) -> T:
        """Ask for something that nothing can begin without, trying for a while."""
        failures = 0
        last = ""
        limit_s = 2 * self._start_s
        limit = asyncio.timeout(limit_s)
        try:
            async with limit:
                while True:
                    await self._link.up()
                    try:
                        return await self._link.call(what, may_refuse=True)
                    except Disconnected as error:
                        failures += 1
                        last = f": {say(error)}"
                        log.warning("%s: trying again: %s", self._link.name, say(error))
                    await asyncio.sleep(BACKOFF.delay_s(failures, self._ids.chance()))
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise ConfigurationError(
                f"{self._link.name} did not get ready for us within {limit_s:g} s{last}; is it in order?"
            ) from error
