"""What every transport must keep of its promises (`minuet.ports`), as a suite for pytest.

    class TestMyTransport(TransportContract):
        @pytest.fixture
        def open_transport(self, tmp_path):
            return lambda: MyTransport(tmp_path / "broker.db", ids=RandomIds(), clock=SystemClock())

``open_transport`` makes one more connection to the same broker; the suite starts and closes it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from itertools import count
from typing import ClassVar

import pytest

from minuet.codec import attributes_of, envelope_from
from minuet.core.envelope import Envelope
from minuet.core.projection import Coordination
from minuet.ports import Again, Delivery, Done, Outgoing, Subscription, Transport
from minuet.testing.store_contract import full_envelope, saga_ref

OpenTransport = Callable[[], Transport]
Connect = Callable[[], Awaitable[Transport]]

UNDERSTOOD = frozenset({"OrderCreated", "OrderShipped"})
POSITIONS = count(1)


def message(
    message_id: str, *, key: str = "", channel: str = "orders", kind: str = "OrderCreated", body: bytes = b"{}"
) -> Outgoing:
    envelope = Envelope(id=message_id, type=kind, source="orders", time=1_700_000_000.0, body=body, key=key)
    return Outgoing(next(POSITIONS), channel, envelope)


def wanting(group: str, *types: str, how: Coordination | None = None, channel: str = "orders") -> Subscription:
    wanted = dict.fromkeys(types or ("OrderCreated",), how)
    return Subscription(group=group, wanted={channel: wanted}, understood=UNDERSTOOD)


def ids_of(deliveries: Sequence[Delivery]) -> list[str]:
    return [delivery.attributes["id"] for delivery in deliveries]


class TransportContract:
    """Subclass it and give it ``open_transport``; the transport says in its features what it cannot do."""

    patience_s: ClassVar[float] = 10.0
    """To wait for what must come."""
    quiet_s: ClassVar[float] = 0.15
    """To watch that nothing comes."""

    @pytest.fixture
    def open_transport(self) -> OpenTransport:
        raise NotImplementedError("give the suite a fixture open_transport")

    @pytest.fixture
    async def connect(self, open_transport: OpenTransport) -> AsyncIterator[Connect]:
        """Opens one more connection to the same broker; closed at the end of the test."""
        async with AsyncExitStack() as stack:

            async def one() -> Transport:
                transport = open_transport()
                await transport.start()
                stack.push_async_callback(transport.close)
                return transport

            yield one

    @pytest.fixture
    async def transport(self, connect: Connect) -> Transport:
        """With the group ``inventory``, which wants ``OrderCreated``."""
        transport = await connect()
        await transport.declare([wanting("inventory")])
        return transport

    async def receive(self, transport: Transport, group: str = "inventory", *, least: int = 1) -> list[Delivery]:
        """At least so many, none of them settled."""
        got: list[Delivery] = []
        async with asyncio.timeout(self.patience_s):
            while len(got) < least:
                got += await transport.receive(group, 100)
        return got

    async def assert_quiet(self, transport: Transport, group: str = "inventory") -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(self.quiet_s):
                pytest.fail(f"unexpected: {await transport.receive(group, 100)}")

    async def publish(self, transport: Transport, *messages: Outgoing) -> None:
        assert list(await transport.publish(messages)) == [None] * len(messages)

    async def finish(self, transport: Transport, deliveries: Sequence[Delivery]) -> None:
        await transport.settle([(delivery, Done()) for delivery in deliveries])

    # Delivery

    async def test_a_message_arrives_as_it_was_sent(self, transport: Transport) -> None:
        envelope = replace(full_envelope(), type="OrderCreated")
        await self.publish(transport, Outgoing(1, "orders", envelope))
        (delivery,) = await self.receive(transport)
        assert delivery.channel == "orders"
        assert delivery.deliveries == 1
        assert attributes_of(envelope).items() <= delivery.attributes.items()
        assert envelope_from(delivery.attributes, delivery.body) == envelope

    async def test_a_large_message_arrives(self, transport: Transport) -> None:
        body = b'{"a":"%s"}' % (b"x" * (min(transport.features.body_bytes_max, 1024 * 1024) - 8))
        await self.publish(transport, message("1", body=body))
        (delivery,) = await self.receive(transport)
        assert delivery.body == body

    async def test_a_message_that_is_too_large_is_refused_alone(self, transport: Transport) -> None:
        if transport.features.body_bytes_max > 64 * 1024 * 1024:
            pytest.skip("takes anything")
        huge = message("2", body=b"x" * (transport.features.body_bytes_max + 1))
        first, second, third = await transport.publish([message("1"), huge, message("3")])
        assert (first, third) == (None, None)
        assert isinstance(second, Exception)
        assert sorted(ids_of(await self.receive(transport, least=2))) == ["1", "3"]

    async def test_who_waits_is_woken(self, transport: Transport) -> None:
        waiting = asyncio.create_task(self.receive(transport))
        await asyncio.sleep(0)
        await self.publish(transport, message("1"))
        assert ids_of(await waiting) == ["1"]

    async def test_what_is_published_while_nobody_is_there_is_kept(self, connect: Connect) -> None:
        publisher = await connect()
        await publisher.declare([wanting("inventory")])
        await self.publish(publisher, message("1"))
        consumer = await connect()
        assert ids_of(await self.receive(consumer)) == ["1"]

    async def test_what_is_settled_does_not_come_again(self, transport: Transport, connect: Connect) -> None:
        await self.publish(transport, message("1"))
        await self.finish(transport, await self.receive(transport))
        await self.assert_quiet(transport)
        await transport.close()
        await self.assert_quiet(await connect())

    async def test_what_is_not_settled_comes_again_after_closing(self, transport: Transport, connect: Connect) -> None:
        await self.publish(transport, message("1", key="a"), message("2", key="a"), message("3", key="b"))
        await self.receive(transport, least=3)
        await transport.close()
        again = await self.receive(await connect(), least=3)
        assert sorted(ids_of(again)) == ["1", "2", "3"]
        assert {delivery.deliveries for delivery in again} == {2}

    async def test_who_stops_waiting_takes_nothing_along(self, transport: Transport) -> None:
        for number in range(20):
            waiting = asyncio.create_task(transport.receive("inventory", 10))
            await asyncio.sleep(0)
            publishing = asyncio.create_task(transport.publish([message(str(number))]))
            for _ in range(number % 4):
                await asyncio.sleep(0)
            waiting.cancel()
            (got,) = await asyncio.gather(waiting, return_exceptions=True)
            await publishing
            deliveries = await self.receive(transport) if isinstance(got, BaseException) else got
            assert ids_of(deliveries) == [str(number)]
            await self.finish(transport, deliveries)

    async def test_no_more_is_received_than_asked_for(self, transport: Transport) -> None:
        await self.publish(transport, *(message(str(n)) for n in range(10)))
        got: list[Delivery] = []
        async with asyncio.timeout(self.patience_s):
            while len(got) < 10:
                some = await transport.receive("inventory", 3)
                assert 1 <= len(some) <= 3
                got += some
        assert sorted(map(int, ids_of(got))) == list(range(10))

    async def test_a_slow_consumer_holds_nobody_up(self, transport: Transport) -> None:
        await transport.declare([wanting("payment")])
        await self.publish(transport, *(message(str(n), key=str(n)) for n in range(500)))
        (slow,) = await transport.receive("inventory", 1)
        got: list[Delivery] = []
        while len(got) < 500:
            some = await self.receive(transport, "payment")
            got += some
            await self.finish(transport, some)
        await self.finish(transport, [slow])
        assert len(await self.receive(transport, "inventory", least=499)) == 499

    # Groups

    async def test_each_group_gets_every_message(self, transport: Transport) -> None:
        await transport.declare([wanting("payment")])
        await self.publish(transport, message("1"), message("2"))
        assert sorted(ids_of(await self.receive(transport, "inventory", least=2))) == ["1", "2"]
        assert sorted(ids_of(await self.receive(transport, "payment", least=2))) == ["1", "2"]

    async def test_the_members_of_a_group_share_the_messages(self, transport: Transport, connect: Connect) -> None:
        members = [transport, await connect(), transport]
        sent = [str(number) for number in range(200)]
        got: list[str] = []
        everything = asyncio.Event()

        async def consume(member: Transport) -> None:
            while True:
                deliveries = await member.receive("inventory", 7)
                got.extend(ids_of(deliveries))
                await self.finish(member, deliveries)
                if len(got) >= len(sent):
                    everything.set()

        consumers = [asyncio.create_task(consume(member)) for member in members]
        await self.publish(transport, *(message(one, key=str(int(one) % 20)) for one in sent))
        await asyncio.wait_for(everything.wait(), self.patience_s)
        for consumer in consumers:
            consumer.cancel()
        await asyncio.gather(*consumers, return_exceptions=True)
        assert sorted(got, key=int) == sent

    async def test_a_group_that_exists_is_left_alone_by_who_only_makes_new_ones(self, transport: Transport) -> None:
        await transport.declare([wanting("inventory", "OrderShipped"), wanting("payment")], only_new=True)
        await self.publish(transport, message("1"))
        assert ids_of(await self.receive(transport)) == ["1"]
        assert ids_of(await self.receive(transport, "payment")) == ["1"]

    async def test_declaring_again_changes_what_is_wanted(self, transport: Transport, connect: Connect) -> None:
        other = await connect()
        await self.publish(transport, message("1", kind="OrderShipped"))
        await other.declare([wanting("inventory", "OrderCreated", "OrderShipped")])
        await self.publish(transport, message("2", kind="OrderShipped"))
        assert ids_of(await self.receive(transport)) == ["2"]

    async def test_nobody_gets_what_nobody_wants(self, transport: Transport) -> None:
        await transport.declare([wanting("payment", "OrderShipped")])
        await self.publish(transport, message("1", kind="OrderShipped"))
        await self.publish(transport, message("2", channel="elsewhere"))
        assert ids_of(await self.receive(transport, "payment")) == ["1"]
        await self.assert_quiet(transport, "inventory")

    async def test_a_type_that_nobody_understands_is_delivered(self, transport: Transport) -> None:
        await self.publish(transport, message("1", kind="Strange"))
        assert ids_of(await self.receive(transport)) == ["1"]

    async def test_a_group_may_want_a_type_in_one_coordination_only(self, transport: Transport) -> None:
        await transport.declare([wanting("inventory", how=Coordination.ORCHESTRATION)])
        choreographed = replace(message("1").envelope, saga=saga_ref())
        await self.publish(transport, Outgoing(1, "orders", choreographed), message("2"))
        assert ids_of(await self.receive(transport)) == ["2"]

    # Order per key

    async def test_messages_of_a_key_come_in_order(self, transport: Transport, connect: Connect) -> None:
        self.needs_order(transport)
        members = [transport, await connect()]
        for batch in range(20):
            messages = [message(f"{batch}-{n}", key=f"k{n % 5}") for n in range(25)]
            await self.publish(transport, *messages)
        heard: dict[str, list[str]] = {}
        everything = asyncio.Event()

        async def consume(member: Transport) -> None:
            while True:
                deliveries = await member.receive("inventory", 10)
                for delivery in deliveries:
                    heard.setdefault(delivery.attributes["partitionkey"], []).append(delivery.attributes["id"])
                await self.finish(member, deliveries)
                if sum(map(len, heard.values())) == 500:
                    everything.set()

        consumers = [asyncio.create_task(consume(member)) for member in (*members, transport)]
        await asyncio.wait_for(everything.wait(), self.patience_s)
        for consumer in consumers:
            consumer.cancel()
        await asyncio.gather(*consumers, return_exceptions=True)
        for number in range(5):
            assert heard[f"k{number}"] == [f"{batch}-{n}" for batch in range(20) for n in range(25) if n % 5 == number]

    async def test_nothing_overtakes_a_message_of_its_key_in_somebodys_hands(
        self, transport: Transport, connect: Connect
    ) -> None:
        self.needs_order(transport)
        await self.publish(transport, message("1", key="a"))
        first = await self.receive(transport)
        await self.publish(transport, message("2", key="a"), message("3", key="b"))
        other = await connect()
        assert ids_of(await self.receive(other)) == ["3"]
        await self.assert_quiet(other)
        await self.finish(transport, first)
        assert ids_of(await self.receive(transport)) == ["2"]

    async def test_again_holds_up_its_own_key_only(self, transport: Transport) -> None:
        self.needs_order(transport)
        await self.publish(transport, message("1", key="a"))
        (first,) = await self.receive(transport)
        await transport.settle([(first, Again(0.3))])
        await self.publish(transport, message("2", key="a"), message("3", key="b"), message("4"))
        others = await self.receive(transport, least=2)
        assert sorted(ids_of(others)) == ["3", "4"]
        await self.finish(transport, others)
        later = await self.receive(transport)
        assert ids_of(later)[0] == "1"
        assert later[0].deliveries == 2
        await self.finish(transport, later)
        if len(later) == 1:
            assert ids_of(await self.receive(transport)) == ["2"]

    async def test_again_at_once_comes_at_once(self, transport: Transport) -> None:
        await self.publish(transport, message("1"))
        for deliveries in range(1, 5):
            (delivery,) = await self.receive(transport)
            assert delivery.deliveries == deliveries
            await transport.settle([(delivery, Again())])

    async def test_a_delay_is_kept(self, transport: Transport) -> None:
        await self.publish(transport, message("1"))
        await transport.settle([(one, Again(2 * self.quiet_s)) for one in await self.receive(transport)])
        await self.assert_quiet(transport)
        assert ids_of(await self.receive(transport)) == ["1"]

    async def test_a_message_that_always_fails_stops_no_other_key(self, transport: Transport) -> None:
        await self.publish(transport, message("poison", key="a"), *(message(str(n), key=f"b{n}") for n in range(20)))
        got: set[str] = set()
        async with asyncio.timeout(self.patience_s):
            while len(got) < 20:
                for delivery in await transport.receive("inventory", 5):
                    poison = delivery.attributes["id"] == "poison"
                    await transport.settle([(delivery, Again(0.01) if poison else Done())])
                    if not poison:
                        got.add(delivery.attributes["id"])

    async def test_what_was_taken_in_one_batch_may_be_given_back_in_order(self, transport: Transport) -> None:
        self.needs_order(transport)
        await self.publish(transport, *(message(str(n), key="a") for n in range(4)))
        batch = await self.receive(transport, least=1)
        await transport.settle([(delivery, Again()) for delivery in batch])
        heard: list[str] = []
        while len(heard) < 4:
            some = await self.receive(transport)
            heard += ids_of(some)
            await self.finish(transport, some)
        assert heard == ["0", "1", "2", "3"]

    # Restart

    async def test_messages_survive_a_restart_of_everybody_as_the_features_say(
        self, open_transport: OpenTransport, connect: Connect
    ) -> None:
        first = open_transport()
        await first.start()
        await first.declare([wanting("inventory")])
        await self.publish(first, message("1"))
        await first.close()
        second = await connect()
        await second.declare([wanting("inventory")])
        await self.publish(second, message("2"))
        heard: list[str] = []
        while "2" not in heard:
            heard += ids_of(await self.receive(second))
        assert heard == ["1", "2"] or not second.features.survives_restart

    def needs_order(self, transport: Transport) -> None:
        if not transport.features.ordered_per_key:
            pytest.skip("keeps no order")
