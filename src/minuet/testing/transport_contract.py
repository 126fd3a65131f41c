"""What every transport must keep of its promises (`minuet.ports`), as a suite for pytest.

    class TestMyTransport(TransportContract):
        features = MyBroker.features

        @pytest.fixture
        def open_transport(self, prefix):
            destinations = {channel: f"{prefix}.{channel}" for channel in CHANNELS}
            return lambda: BrokerTransport(MyBroker("my://localhost"), destinations, ids=SystemIds())

``open_transport`` makes one more connection to the same broker; the suite starts and closes it. The broker may keep
what earlier tests left there: groups have other names in each test, and destinations should, with ``prefix``.

What a transport's features leave out, and what needs a hook that was not given (`restart`, `unroute`, `send_bare`,
``open_unprovisioned``), is not collected: there are no skips.
"""

from __future__ import annotations

import asyncio
import inspect
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from itertools import count
from typing import Any, ClassVar, TypeVar

import pytest

from minuet.codec import attributes_of, envelope_from
from minuet.core.envelope import Envelope
from minuet.core.errors import ConfigurationError
from minuet.core.projection import Coordination
from minuet.ports import Again, Delivery, Done, Features, Outgoing, Subscription, Transport
from minuet.testing.store_contract.examples import full_envelope, saga_ref

OpenTransport = Callable[[], Transport]
Connect = Callable[[], Awaitable[Transport]]
F = TypeVar("F", bound=Callable[..., Any])

CHANNELS = ("orders", "elsewhere")
"""The channels that the suite publishes to."""
UNDERSTOOD = frozenset({"OrderCreated", "OrderShipped"})
POSITIONS = count(1)


def only_if(applies: Callable[[type[TransportContract]], bool]) -> Callable[[F], F]:
    """The test exists only for transports of which this is true."""

    def mark(test: F) -> F:
        setattr(test, "applies", applies)  # noqa: B010  functions have no such attribute, says the type checker
        return test

    return mark


def has(hook: str) -> Callable[[type[TransportContract]], bool]:
    """Whether the hook is overridden."""
    return lambda suite: inspect.getattr_static(suite, hook) is not inspect.getattr_static(TransportContract, hook)


def message(
    message_id: str, *, key: str = "", channel: str = "orders", kind: str = "OrderCreated", body: bytes = b"{}"
) -> Outgoing:
    envelope = Envelope(id=message_id, type=kind, source="orders", time=1_700_000_000.0, body=body, key=key)
    return Outgoing(next(POSITIONS), channel, envelope)


def ids_of(deliveries: Sequence[Delivery]) -> list[str]:
    return [delivery.attributes["id"] for delivery in deliveries]


def in_order_of_first_coming(heard: Iterable[str]) -> list[str]:
    """Without what came again."""
    return list(dict.fromkeys(heard))


class TransportContract:
    """Subclass it and give it ``open_transport``; the transport says in its features what it cannot do."""

    features: ClassVar[Features] = Features()
    """What the transport says of itself, to choose the tests by."""
    patience_s: ClassVar[float] = 10.0
    """To wait for what must come."""
    quiet_s: ClassVar[float] = 0.15
    """To watch that nothing comes; also longer than publishing a few messages and receiving them takes."""
    many: ClassVar[int] = 1500
    """So many messages that a fifth of them and more is left for others when one member has its hands full."""
    leaves_out_unwanted: ClassVar[bool] = True
    """Whether what a group did not want when it was published does not come when the group wants it later. It does
    where the broker keeps everything and the member leaves out what it does not want."""

    prefix_now: str

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        for name, test in vars(TransportContract).items():
            applies = getattr(test, "applies", None)
            if applies is not None and getattr(cls, name) in (test, None):  # else a class in between has its own
                setattr(cls, name, test if applies(cls) else None)  # pytest does not collect None

    # To be overridden

    @pytest.fixture
    def open_transport(self) -> OpenTransport:
        raise NotImplementedError("give the suite a fixture open_transport")

    @pytest.fixture
    def open_unprovisioned(self) -> OpenTransport:
        """Like ``open_transport``, but its ``declare`` makes nothing on the broker and says what is missing."""
        raise NotImplementedError

    async def crash(self, transport: Transport) -> None:
        """End the connection as ``kill -9`` would: nothing is given back in good order.

        Without an override it calls the transport's ``abandon`` or ``crash``; if it has neither, it closes it.
        """
        end = getattr(transport, "abandon", None) or getattr(transport, "crash", None) or transport.close
        ended = end()
        if inspect.isawaitable(ended):
            await ended

    async def restart(self) -> None:
        """Kill the broker without warning and start it again with the same data. For brokers that survive it."""
        raise NotImplementedError

    async def unroute(self, transport: Transport) -> None:
        """Take away, behind the transport's back, whatever carries messages of the channel ``orders`` to anybody."""
        raise NotImplementedError

    async def send_bare(self, channel: str, body: bytes) -> None:
        """Publish a body on the channel as a stranger would: by the broker's own client, without any attributes."""
        raise NotImplementedError

    # Help

    @pytest.fixture
    def prefix(self) -> str:
        """Begins names on the broker that no other test has: lower-case letters and digits."""
        return f"t{uuid.uuid4().hex[:10]}"

    @pytest.fixture(autouse=True)
    def _prefixed(self, prefix: str) -> None:
        self.prefix_now = prefix

    @pytest.fixture
    async def connect(self, open_transport: OpenTransport) -> AsyncIterator[Connect]:
        """Opens one more connection to the same broker; closed at the end of the test."""
        async with AsyncExitStack() as stack:

            async def one() -> Transport:
                transport = open_transport()
                await transport.start()
                stack.push_async_callback(transport.close)
                await transport.declare([self.wanting("inventory")], only_new=True)
                return transport

            yield one

    @pytest.fixture
    async def transport(self, connect: Connect) -> Transport:
        """With the group ``inventory``, which wants ``OrderCreated``."""
        return await connect()

    def group(self, name: str) -> str:
        """The group's name in this test."""
        return f"{name}-{self.prefix_now}"

    def wanting(self, group: str, *types: str, how: Coordination | None = None) -> Subscription:
        wanted = dict.fromkeys(types or ("OrderCreated",), how)
        return Subscription(group=self.group(group), wanted={"orders": wanted}, understood=UNDERSTOOD)

    async def receive(self, transport: Transport, group: str = "inventory", *, least: int = 1) -> list[Delivery]:
        """At least so many, none of them settled.

        What waits behind an unsettled message of its key never comes: messages of one key may come apart, however
        they were published. Those that are waited for together have keys of their own.
        """
        got: list[Delivery] = []
        async with asyncio.timeout(self.patience_s):
            while len(got) < least:
                got += await transport.receive(self.group(group), 100)
        return got

    async def assert_quiet(self, transport: Transport, group: str = "inventory") -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(self.quiet_s):
                pytest.fail(f"unexpected: {await transport.receive(self.group(group), 100)}")

    async def publish(self, transport: Transport, *messages: Outgoing) -> None:
        assert list(await transport.publish(messages)) == [None] * len(messages)

    async def publish_at_last(self, transport: Transport, messages: Sequence[Outgoing]) -> None:
        """As the relay does: what could not be published is tried again, in its order."""
        left = list(messages)
        while left:
            outcomes = await transport.publish(left)
            left = [message for message, outcome in zip(left, outcomes, strict=True) if outcome is not None]
            if left:
                await asyncio.sleep(self.quiet_s)

    async def finish(self, transport: Transport, deliveries: Sequence[Delivery]) -> None:
        await transport.settle([(delivery, Done()) for delivery in deliveries])

    async def consume(self, members: Sequence[Transport], *, until: Callable[[list[Delivery]], bool]) -> list[Delivery]:
        """All that these members of ``inventory`` hear and settle, in the order in which it came."""
        heard: list[Delivery] = []
        enough = asyncio.Event()

        async def one(member: Transport) -> None:
            while True:
                deliveries = await member.receive(self.group("inventory"), 10)
                heard.extend(deliveries)
                await self.finish(member, deliveries)
                if until(heard):
                    enough.set()

        consumers = [asyncio.create_task(one(member)) for member in members]
        waiting = asyncio.create_task(enough.wait())
        done, _ = await asyncio.wait(
            {waiting, *consumers}, timeout=self.patience_s, return_when=asyncio.FIRST_COMPLETED
        )
        for task in (waiting, *consumers):
            task.cancel()
        outcomes = await asyncio.gather(*consumers, return_exceptions=True)
        failed = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
        if failed:
            raise failed[0]
        assert waiting in done, f"heard only {len(heard)} messages: {ids_of(heard)}"
        return heard

    async def hear_all(self, members: Sequence[Transport], sent: Sequence[str]) -> list[Delivery]:
        """Consume until each of these was heard; twice only where members share lanes."""
        heard = await self.consume(members, until=lambda heard: len({*ids_of(heard)}) >= len(sent))
        assert sorted({*ids_of(heard)}) == sorted(sent)
        assert self.features.shares_lanes or len(heard) == len(sent)
        return heard

    def assert_ordered(self, heard: Sequence[Delivery], sent: Sequence[Outgoing]) -> None:
        """Per key, and leaving out what came again."""
        for key in {message.envelope.key for message in sent}:
            came = [one.attributes["id"] for one in heard if one.attributes["partitionkey"] == key]
            assert in_order_of_first_coming(came) == [
                message.envelope.id for message in sent if message.envelope.key == key
            ]

    async def test_the_features_are_those_that_the_suite_was_told(self, transport: Transport) -> None:
        for name in ("ordered_per_key", "ordered_across_members", "shares_lanes", "counts_deliveries"):
            assert getattr(transport.features, name) == getattr(self.features, name), name

    # Delivery

    async def test_a_message_arrives_as_it_was_sent(self, transport: Transport) -> None:
        envelope = replace(full_envelope(), type="OrderCreated")
        await self.publish(transport, Outgoing(1, "orders", envelope))
        (delivery,) = await self.receive(transport)
        assert delivery.channel == "orders"
        assert delivery.deliveries == 1
        assert attributes_of(envelope).items() <= delivery.attributes.items()
        assert envelope_from(delivery.attributes, delivery.body) == envelope

    async def test_attributes_arrive_whatever_is_in_them(self, transport: Transport) -> None:
        envelope = replace(
            full_envelope(),
            type="OrderCreated",
            correlation=' spaces around, 100 %25, "quotes", a line\r\nbreak and a tab\t ',
            causation="\u00fc\u4e2d\U0001f3bb" * 700,
            source="https://example.com/orders?from=\u00e9&to=%C3%A9",
        )
        await self.publish(transport, Outgoing(next(POSITIONS), "orders", envelope))
        (delivery,) = await self.receive(transport)
        sent = attributes_of(envelope)
        assert len(sent) >= 15
        assert {name: delivery.attributes.get(name) for name in sent} == sent
        assert envelope_from(delivery.attributes, delivery.body) == envelope

    async def test_a_large_message_arrives(self, transport: Transport) -> None:
        body = b'{"a":"%s"}' % (b"x" * (min(transport.features.body_bytes_max, 1024 * 1024) - 8))
        await self.publish(transport, message("1", body=body))
        (delivery,) = await self.receive(transport)
        assert delivery.body == body

    async def test_a_message_that_is_too_large_is_refused_alone(self, transport: Transport) -> None:
        huge = message("2", body=b"x" * (transport.features.body_bytes_max + 1))
        first, second, third = await transport.publish([message("1"), huge, message("3")])
        assert (first, third) == (None, None)
        assert isinstance(second, Exception)
        assert sorted(ids_of(await self.receive(transport, least=2))) == ["1", "3"]

    async def test_those_who_publish_at_once_are_each_told_of_their_own(self, transport: Transport) -> None:
        huge = b"x" * (transport.features.body_bytes_max + 1)
        calls = [[message(f"{key}-{number}", key=key) for number in range(20)] for key in "abcd"]
        calls[1].insert(10, message("b-huge", key="b-huge", body=huge))
        told = await asyncio.gather(*map(transport.publish, calls))
        refused = [
            one.envelope.id
            for call, outcomes in zip(calls, told, strict=True)
            for one, outcome in zip(call, outcomes, strict=True)
            if outcome is not None
        ]
        assert refused == ["b-huge"]
        sent = [one for call in calls for one in call if one.envelope.id != "b-huge"]
        heard = await self.hear_all([transport], [one.envelope.id for one in sent])
        if transport.features.ordered_per_key:
            self.assert_ordered(heard, sent)

    async def test_who_waits_is_woken(self, transport: Transport) -> None:
        waiting = asyncio.create_task(self.receive(transport))
        await asyncio.sleep(0)
        await self.publish(transport, message("1"))
        assert ids_of(await waiting) == ["1"]

    async def test_what_is_published_while_nobody_is_there_is_kept(self, connect: Connect) -> None:
        publisher = await connect()
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
        await self.publish(transport, message("1", key="a"), message("2", key="b"), message("3"))
        await self.receive(transport, least=3)
        await transport.close()
        again = await self.receive(await connect(), least=3)
        assert sorted(ids_of(again)) == ["1", "2", "3"]
        assert {delivery.deliveries for delivery in again} == {2} or not self.features.counts_deliveries

    async def test_who_stops_waiting_takes_nothing_along(self, transport: Transport) -> None:
        for number in range(20):
            waiting = asyncio.create_task(transport.receive(self.group("inventory"), 10))
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
                some = await transport.receive(self.group("inventory"), 3)
                assert 1 <= len(some) <= 3
                got += some
        assert sorted(map(int, ids_of(got))) == list(range(10))

    async def test_a_slow_consumer_holds_nobody_up(self, transport: Transport) -> None:
        await transport.declare([self.wanting("payment")])
        await self.publish(transport, *(message(str(n), key=str(n)) for n in range(500)))
        (slow,) = await transport.receive(self.group("inventory"), 1)
        got: list[Delivery] = []
        while len(got) < 500:
            some = await self.receive(transport, "payment")
            got += some
            await self.finish(transport, some)
        await self.finish(transport, [slow])
        assert len(await self.receive(transport, "inventory", least=499)) == 499

    # Groups

    async def test_each_group_gets_every_message(self, transport: Transport) -> None:
        await transport.declare([self.wanting("payment")])
        await self.publish(transport, message("1"), message("2"))
        assert sorted(ids_of(await self.receive(transport, "inventory", least=2))) == ["1", "2"]
        assert sorted(ids_of(await self.receive(transport, "payment", least=2))) == ["1", "2"]

    async def test_the_members_of_a_group_share_the_messages(self, transport: Transport, connect: Connect) -> None:
        members = [transport, await connect(), transport]
        sent = [message(str(number), key=str(number % 20)) for number in range(200)]
        _, heard = await asyncio.gather(
            self.publish(transport, *sent), self.hear_all(members, [one.envelope.id for one in sent])
        )
        assert {delivery.channel for delivery in heard} == {"orders"}

    @only_if(lambda suite: not suite.features.shares_lanes)
    async def test_a_member_that_stands_still_leaves_the_work_to_others(
        self, transport: Transport, connect: Connect
    ) -> None:
        sent = [message(str(number), key=str(number)) for number in range(self.many)]
        await self.publish(transport, *sent)
        (kept,) = await transport.receive(self.group("inventory"), 1)
        other = await connect()
        heard = await self.consume([other], until=lambda heard: len(heard) >= self.many // 5)
        await transport.close()
        missing = {one.envelope.id for one in sent} - {*ids_of(heard)}
        rest = await self.consume([other], until=lambda rest: {*ids_of(rest)} >= missing)
        assert kept.attributes["id"] in ids_of(rest)
        assert sorted(ids_of([*heard, *rest])) == sorted(one.envelope.id for one in sent)

    async def test_a_group_that_exists_is_left_alone_by_who_only_makes_new_ones(self, transport: Transport) -> None:
        await transport.declare([self.wanting("inventory", "OrderShipped"), self.wanting("payment")], only_new=True)
        await self.publish(transport, message("1"))
        assert ids_of(await self.receive(transport)) == ["1"]
        assert ids_of(await self.receive(transport, "payment")) == ["1"]

    async def test_declaring_again_changes_what_is_wanted(self, transport: Transport, connect: Connect) -> None:
        other = await connect()
        await self.publish(transport, message("1", kind="OrderShipped"))
        await other.declare([self.wanting("inventory", "OrderCreated", "OrderShipped")])
        await self.publish(transport, message("2", kind="OrderShipped"))
        heard = ids_of(await self.receive(other))
        if not self.leaves_out_unwanted:
            heard += ids_of(await self.receive(other)) if "2" not in heard else []
            assert "2" in heard
        else:
            assert heard == ["2"]

    async def test_nobody_gets_what_nobody_wants(self, transport: Transport) -> None:
        await transport.declare([self.wanting("payment", "OrderShipped")])
        await self.publish(transport, message("1", kind="OrderShipped"))
        await self.publish(transport, message("2", channel="elsewhere"))
        assert ids_of(await self.receive(transport, "payment")) == ["1"]
        await self.assert_quiet(transport, "inventory")

    async def test_a_type_that_nobody_understands_is_delivered(self, transport: Transport) -> None:
        await self.publish(transport, message("1", kind="Strange"))
        assert ids_of(await self.receive(transport)) == ["1"]

    async def test_a_group_may_want_a_type_in_one_coordination_only(self, transport: Transport) -> None:
        await transport.declare([self.wanting("inventory", how=Coordination.ORCHESTRATION)])
        choreographed = replace(message("1").envelope, saga=saga_ref())
        await self.publish(transport, Outgoing(1, "orders", choreographed), message("2"))
        assert ids_of(await self.receive(transport)) == ["2"]

    # Order per key

    @only_if(lambda suite: suite.features.ordered_per_key)
    async def test_messages_of_a_key_come_in_order(self, transport: Transport) -> None:
        sent = await self.publish_five_keys(transport)
        self.assert_ordered(await self.hear_all([transport, transport], [one.envelope.id for one in sent]), sent)

    @only_if(lambda suite: suite.features.ordered_across_members)
    async def test_messages_of_a_key_come_in_order_to_several_members(
        self, transport: Transport, connect: Connect
    ) -> None:
        members = [transport, await connect(), transport]
        sent = await self.publish_five_keys(transport)
        self.assert_ordered(await self.hear_all(members, [one.envelope.id for one in sent]), sent)

    async def publish_five_keys(self, transport: Transport) -> Sequence[Outgoing]:
        batches = [[message(f"{batch}-{n}", key=f"k{n % 5}") for n in range(25)] for batch in range(20)]
        for batch in batches:
            await self.publish(transport, *batch)
        return [one for batch in batches for one in batch]

    @only_if(lambda suite: suite.features.ordered_per_key)
    async def test_nothing_overtakes_a_message_of_its_key_in_ones_own_hands(self, transport: Transport) -> None:
        await self.publish(transport, message("1", key="a"))
        first = await self.receive(transport)
        await self.publish(transport, message("2", key="a"), message("3", key="b"))
        assert ids_of(await self.receive(transport)) == ["3"]
        await self.assert_quiet(transport)
        await self.finish(transport, first)
        assert ids_of(await self.receive(transport)) == ["2"]

    @only_if(lambda suite: suite.features.ordered_across_members and not suite.features.shares_lanes)
    async def test_nothing_overtakes_a_message_of_its_key_in_somebodys_hands(
        self, transport: Transport, connect: Connect
    ) -> None:
        await self.publish(transport, message("1", key="a"))
        first = await self.receive(transport)
        other = await connect()
        await self.publish(transport, message("2", key="a"))
        await self.assert_quiet(other)
        await self.finish(transport, first)
        waiting = [asyncio.create_task(self.receive(member)) for member in (transport, other)]
        done, late = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
        assert [ids_of(task.result()) for task in done] == [["2"]]

    @only_if(lambda suite: suite.features.ordered_per_key)
    async def test_again_holds_up_its_own_key_only(self, transport: Transport) -> None:
        await self.publish(transport, message("1", key="a"))
        (first,) = await self.receive(transport)
        await transport.settle([(first, Again(4 * self.quiet_s))])
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
                for delivery in await transport.receive(self.group("inventory"), 5):
                    poison = delivery.attributes["id"] == "poison"
                    await transport.settle([(delivery, Again(0.01) if poison else Done())])
                    if not poison:
                        got.add(delivery.attributes["id"])

    @only_if(lambda suite: suite.features.ordered_per_key)
    async def test_what_was_taken_in_one_batch_may_be_given_back_in_order(self, transport: Transport) -> None:
        await self.publish(transport, *(message(str(n), key="a") for n in range(4)))
        batch = await self.receive(transport, least=1)
        await transport.settle([(delivery, Again()) for delivery in batch])
        heard: list[str] = []
        while len(heard) < 4:
            some = await self.receive(transport)
            heard += ids_of(some)
            await self.finish(transport, some)
        assert heard == ["0", "1", "2", "3"]

    async def test_what_is_done_after_several_tries_never_comes_again(
        self, transport: Transport, connect: Connect
    ) -> None:
        await self.publish(transport, message("parked", key="a"), message("2", key="a"))
        heard: list[str] = []
        done: set[str] = set()
        while done != {"parked", "2"}:
            for delivery in await self.receive(transport):
                heard.append(delivery.attributes["id"])
                is_done = heard.count("parked") >= 3
                await transport.settle([(delivery, Done() if is_done else Again())])
                if is_done:
                    done.add(heard[-1])
        await transport.close()
        await self.assert_quiet(await connect())

    # Restart

    async def test_messages_survive_a_restart_of_everybody_as_the_features_say(
        self, open_transport: OpenTransport, connect: Connect
    ) -> None:
        first = open_transport()
        await first.start()
        await first.declare([self.wanting("inventory")])
        await self.publish(first, message("1", key="a"))
        await first.close()
        second = await connect()
        await second.declare([self.wanting("inventory")])
        await self.publish(second, message("2", key="a"))
        heard: list[str] = []
        while "2" not in heard:
            deliveries = await self.receive(second)
            heard += ids_of(deliveries)
            await self.finish(second, deliveries)
        assert sorted(heard) == ["1", "2"] or not second.features.survives_restart

    async def test_what_a_crashed_member_had_comes_again(self, transport: Transport, connect: Connect) -> None:
        in_order = [message(str(n), key="a") for n in range(4)]
        await self.publish(transport, *in_order, message("b", key="b"), message("c"))
        first = await self.receive(transport, least=3)
        settled = next(one for one in first if one.attributes["id"] == "0")
        await self.finish(transport, [settled])
        await self.crash(transport)
        heard = await self.consume([await connect()], until=lambda heard: {*ids_of(heard)} >= {*"123bc"})
        came = in_order_of_first_coming(ids_of(heard))
        assert "0" not in came
        if self.features.ordered_per_key:
            assert [one for one in came if one in "123"] == ["1", "2", "3"]
        if self.features.counts_deliveries:
            again = {*ids_of(first)} - {"0"}
            assert all(one.deliveries >= 2 for one in heard if one.attributes["id"] in again)

    @only_if(lambda suite: suite.features.survives_restart and has("restart")(suite))
    async def test_the_broker_may_be_killed_in_the_middle(self, transport: Transport, connect: Connect) -> None:
        consumer = await connect()
        sent = [message(str(number), key=f"k{number % 10}") for number in range(300)]
        everything = {one.envelope.id for one in sent}
        hundred = asyncio.Event()

        def enough(heard: list[Delivery]) -> bool:
            if len(heard) >= 100:
                hundred.set()
            return {*ids_of(heard)} >= everything

        async def publish() -> None:
            for start in range(0, len(sent), 20):
                await self.publish_at_last(transport, sent[start : start + 20])

        async def kill() -> None:
            await hundred.wait()
            await self.restart()

        async with asyncio.TaskGroup() as group:
            consuming = group.create_task(self.consume([consumer], until=enough))
            group.create_task(publish())
            group.create_task(kill())
        heard = consuming.result()
        assert {*ids_of(heard)} == everything
        if self.features.ordered_per_key:
            self.assert_ordered(heard, sent)

    @only_if(lambda suite: suite.features.survives_restart and has("restart")(suite))
    async def test_what_was_confirmed_is_there_after_the_broker_was_killed(self, transport: Transport) -> None:
        await self.publish(transport, *(message(str(n), key=str(n % 3)) for n in range(30)))
        await self.restart()
        heard = await self.consume([transport], until=lambda heard: len({*ids_of(heard)}) == 30)
        assert {*ids_of(heard)} == {str(n) for n in range(30)}

    # Strangers, and what others do to the broker

    @only_if(has("send_bare"))
    async def test_a_strangers_bare_message_arrives(self, transport: Transport) -> None:
        body = b'{"eventType":"OrderCreated","orderId":"o-1"}'
        await self.send_bare("orders", body)
        (delivery,) = await self.receive(transport)
        assert (delivery.channel, delivery.body) == ("orders", body)
        assert "type" not in delivery.attributes
        await self.finish(transport, [delivery])

    @only_if(has("send_bare"))
    async def test_a_strangers_garbage_arrives_and_holds_nobody_up(self, transport: Transport) -> None:
        garbage = [b"not json", b"\xff\xfe\x00\x01", b'{"eventType": 7}']
        for body in garbage:
            await self.send_bare("orders", body)
        await self.publish(transport, message("1"))
        heard = await self.consume([transport], until=lambda heard: len(heard) == len(garbage) + 1)
        assert sorted(one.body for one in heard) == sorted([*garbage, b"{}"])

    @only_if(has("unroute"))
    async def test_what_nobody_can_get_any_more_is_not_published(self, transport: Transport) -> None:
        await self.publish(transport, message("1"))
        await self.unroute(transport)
        (outcome,) = await transport.publish([message("2")])
        assert isinstance(outcome, Exception)

    @only_if(has("open_unprovisioned"))
    async def test_who_may_make_nothing_says_what_is_missing(
        self, open_transport: OpenTransport, open_unprovisioned: OpenTransport
    ) -> None:
        async with AsyncExitStack() as stack:
            careful = open_unprovisioned()
            await careful.start()
            stack.push_async_callback(careful.close)
            with pytest.raises(ConfigurationError, match="minuet topology apply"):
                await careful.declare([self.wanting("inventory")])
            maker = open_transport()
            await maker.start()
            stack.push_async_callback(maker.close)
            await maker.declare([self.wanting("inventory")])
            await careful.declare([self.wanting("inventory")])
            await self.publish(careful, message("1"))
            assert ids_of(await self.receive(careful)) == ["1"]
