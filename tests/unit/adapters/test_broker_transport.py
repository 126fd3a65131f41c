"""`BrokerTransport` on a broker that fails in every way, in virtual time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from itertools import count
from typing import Any

import pytest

from minuet.adapters.broker import BrokerTransport
from minuet.adapters.broker.held import OVERHEAD_BYTES
from minuet.adapters.broker.link import without_password
from minuet.adapters.broker.port import Disconnected, Received, Sending
from minuet.adapters.broker.rounds import HeldBack
from minuet.core.envelope import Envelope
from minuet.core.errors import ConfigurationError, MessageError
from minuet.ports import Again, Delivery, Done, Features, Outgoing, Subscription
from tests.unit.adapters.fake_broker import LOST_LATE, FakeBroker, FakeServer, destinations
from tests.unit.runtime.virtual_loop import SeededIds, in_virtual_time

UNDERSTOOD = frozenset({"Created", "Shipped"})
POSITIONS = count(1)


def message(
    message_id: str, key: str = "", *, kind: str = "Created", channel: str = "orders", size: int = 2
) -> Outgoing:
    envelope = Envelope(id=message_id, type=kind, source="test", time=1.0, body=b"x" * size, key=key)
    return Outgoing(next(POSITIONS), channel, envelope)


def wanting(group: str = "stock", *kinds: str) -> Subscription:
    return Subscription(group=group, wanted={"orders": dict.fromkeys(kinds or ("Created",))}, understood=UNDERSTOOD)


def transport_on(server: FakeServer, **settings: Any) -> BrokerTransport:
    name = settings.pop("name", "fake://host:1")
    return BrokerTransport(FakeBroker(server), destinations("orders", "other"), ids=SeededIds(), name=name, **settings)


@asynccontextmanager
async def opened(server: FakeServer, *groups: str, **settings: Any) -> Any:
    transport = transport_on(server, **settings)
    await transport.start()
    await transport.declare([wanting(group) for group in groups or ("stock",)])
    try:
        yield transport
    finally:
        await transport.close()
    assert not server.violations


async def publish(transport: BrokerTransport, *messages: Outgoing) -> None:
    assert list(await transport.publish(messages)) == [None] * len(messages)


async def receive(transport: BrokerTransport, least: int = 1, group: str = "stock") -> list[Delivery]:
    got: list[Delivery] = []
    while len(got) < least:
        got += await transport.receive(group, 100)
    return got


async def finish(transport: BrokerTransport, deliveries: Sequence[Delivery]) -> None:
    await transport.settle([(delivery, Done()) for delivery in deliveries])


def ids(deliveries: Sequence[Delivery]) -> list[str]:
    return [delivery.attributes["id"] for delivery in deliveries]


async def nothing_comes(transport: BrokerTransport, seconds: float = 60.0) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(seconds):
            pytest.fail(f"unexpected: {await transport.receive('stock', 10)}")


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.01)


# Start


@in_virtual_time
async def test_after_a_wave_what_comes_in_pieces_is_given_as_one() -> None:
    server = FakeServer()
    async with opened(server) as transport:
        await publish(transport, *(message(f"first {number}") for number in range(5)))
        await finish(transport, await receive(transport, 5))

        async def in_pieces() -> None:
            await publish(transport, message("one"), message("two"))
            await asyncio.sleep(0.002)
            await publish(transport, message("three"))

        publishing = asyncio.create_task(in_pieces())
        assert ids(await transport.receive("stock", 100)) == ["one", "two", "three"]
        await publishing


@in_virtual_time
async def test_single_messages_are_given_at_once() -> None:
    server = FakeServer()
    async with opened(server) as transport:
        loop = asyncio.get_running_loop()
        for number in range(5):
            await publish(transport, message(f"m{number}"))
            began = loop.time()
            await finish(transport, await receive(transport))
            assert loop.time() == began


@in_virtual_time
async def test_a_server_that_comes_up_late_is_waited_for() -> None:
    server = FakeServer(is_up=False)
    transport = transport_on(server)
    starting = asyncio.create_task(transport.start())
    await asyncio.sleep(20)
    await server.start()
    await starting
    assert transport.is_connected
    await transport.close()


@in_virtual_time
async def test_a_server_that_never_comes_up_is_an_error_that_names_it_without_its_password() -> None:
    transport = transport_on(FakeServer(is_up=False))
    with pytest.raises(ConfigurationError, match=r"fake://host:1 within 30 s.*is it running") as caught:
        await transport.start()
    assert "secret" not in str(caught.value)
    assert 20 < asyncio.get_running_loop().time() <= 30
    await transport.close()


@in_virtual_time
async def test_a_server_that_never_answers_is_given_up_in_time() -> None:
    server = FakeServer(silent={"connect"})
    with pytest.raises(ConfigurationError, match="did not answer"):
        await transport_on(server).start()
    assert asyncio.get_running_loop().time() <= 31


@in_virtual_time
async def test_what_no_second_try_can_mend_is_an_error_at_once() -> None:
    denied = ConfigurationError("access denied")
    server = FakeServer(faults={"connect": [denied]})
    with pytest.raises(ConfigurationError, match="access denied"):
        await transport_on(server).start()
    assert asyncio.get_running_loop().time() == 0
    assert server.called("disconnect")


@in_virtual_time
async def test_without_a_name_the_kind_of_broker_is_named() -> None:
    with pytest.raises(ConfigurationError, match="cannot connect to FakeBroker"):
        await transport_on(FakeServer(is_up=False), name="").start()


@in_virtual_time
async def test_a_start_that_is_cancelled_leaves_no_connection() -> None:
    server = FakeServer(silent={"connect"})
    starting = asyncio.create_task(transport_on(server).start())
    await asyncio.sleep(1)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert server.called("disconnect")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("amqp://me:secret@host/x refused", "amqp://***@host/x refused"),
        ("amqp://me:s@cret@host/x and nats://a:b@c", "amqp://***@host/x and nats://***@c"),
        ("kafka://host:9092", "kafka://host:9092"),
        ("mail me@example.com", "mail me@example.com"),
    ],
)
def test_passwords_are_taken_out_of_what_is_said(text: str, expected: str) -> None:
    assert without_password(text) == expected


# Declaring


@in_virtual_time
async def test_declaring_waits_for_a_broker_that_is_away_for_a_moment() -> None:
    server = FakeServer(faults={"declare": [Disconnected("not now"), RuntimeError("neither")]})
    async with opened(server) as transport:
        await publish(transport, message("1"))
        assert ids(await receive(transport)) == ["1"]


@in_virtual_time
async def test_declaring_gives_up_when_the_broker_stays_away() -> None:
    server = FakeServer(silent={"declare"})
    transport = transport_on(server)
    await transport.start()
    with pytest.raises(ConfigurationError, match=r"ready for us within 60 s: .* did not answer within 20 s"):
        await transport.declare([wanting()])
    await transport.close()


@in_virtual_time
async def test_a_broker_that_refuses_the_topology_says_so_at_once() -> None:
    server = FakeServer(faults={"declare": [ConfigurationError("topic/orders is a queue of another kind")]})
    transport = transport_on(server)
    await transport.start()
    with pytest.raises(ConfigurationError, match="another kind"):
        await transport.declare([wanting()])
    assert transport.is_connected
    await transport.close()


@in_virtual_time
async def test_who_may_not_make_the_topology_looks_only() -> None:
    server = FakeServer()
    careful = transport_on(server, provision=False)
    await careful.start()
    with pytest.raises(ConfigurationError, match=r"no queue stock.*`minuet topology apply`"):
        await careful.declare([wanting()])
    assert await careful.check([wanting()]) == [
        "there is no topic topic/orders",
        "there is no topic topic/other",
        "there is no queue stock",
    ]
    async with opened(server) as maker:
        assert await maker.check([wanting()]) == []
        await careful.declare([wanting()])
        # Another service's group is not its affair: that one may be of another version, or not be there yet.
        await careful.declare([wanting("books")], only_new=True)
        await publish(careful, message("1"))
        assert ids(await receive(careful)) == ["1"]
    await server.stop()
    await server.start()
    await until(lambda: careful.is_connected)
    assert len(server.called("declare")) == 1
    await careful.close()


@in_virtual_time
async def test_two_that_declare_at_once_take_turns() -> None:
    async with opened(FakeServer()) as transport:
        await asyncio.gather(*(transport.declare([wanting(group)]) for group in ("books", "parcels")))


@in_virtual_time
async def test_who_declared_nothing_makes_nothing_after_a_reconnect() -> None:
    server = FakeServer()
    transport = transport_on(server)
    await transport.start()
    await server.stop()
    await server.start()
    await publish_fails(transport)
    await until(lambda: transport.is_connected)
    assert not server.called("declare")
    await transport.close()


@in_virtual_time
async def test_a_group_with_nothing_here_cannot_receive() -> None:
    async with opened(FakeServer()) as transport:
        with pytest.raises(ConfigurationError, match="group books has nothing to receive on fake://host:1"):
            await transport.receive("books", 1)


# Reconnecting


@in_virtual_time
async def test_after_a_restart_everything_goes_on() -> None:
    server = FakeServer()
    async with opened(server, "stock", "books") as transport:
        await publish(transport, message("1"))
        await receive(transport)
        await receive(transport, group="books")
        await server.stop()
        await until(lambda: not transport.is_connected)
        await asyncio.sleep(100)
        await server.start()
        assert ids(await receive(transport)) == ["1"]
        assert ids(await receive(transport, group="books")) == ["1"]
        assert server.connections == 2  # one reconnect for both groups


@in_virtual_time
async def test_a_server_that_is_away_is_asked_less_and_less_often() -> None:
    server = FakeServer()
    async with opened(server) as transport:
        await server.stop()
        await publish_fails(transport)
        server.calls.clear()
        await asyncio.sleep(600)
        assert 60 <= len(server.called("connect")) <= 150
        await server.start()
        await asyncio.sleep(11)
        assert transport.is_connected


async def publish_fails(transport: BrokerTransport) -> None:
    (outcome,) = await transport.publish([message("fails")])
    assert isinstance(outcome, Disconnected)


@in_virtual_time
async def test_a_server_that_connects_and_then_fails_is_not_asked_in_a_tight_circle() -> None:
    server = FakeServer()
    async with opened(server) as transport:
        server.faults["fetch"] = [Disconnected("no")] * 1000
        waiting = asyncio.create_task(transport.receive("stock", 1))
        await asyncio.sleep(600)
        assert server.connections < 150
        server.faults.clear()
        await until(lambda: transport.is_connected)
        await publish(transport, message("1"))
        assert ids(await waiting) == ["1"]


@in_virtual_time
async def test_a_bug_in_an_adapter_is_a_lost_connection_too(caplog: pytest.LogCaptureFixture) -> None:
    server = FakeServer(faults={"fetch": [KeyError("bug"), ConfigurationError("odd")]})
    async with opened(server) as transport:
        await publish(transport, message("1"))
        assert ids(await receive(transport)) == ["1"]
        assert server.connections == 3
    assert "KeyError" in caplog.text


@in_virtual_time
async def test_a_broker_that_lost_everything_is_set_up_again() -> None:
    server = FakeServer()
    async with opened(server) as transport:
        await publish(transport, message("1"))
        await finish(transport, await receive(transport))
        await server.lose_everything()
        await until(lambda: server.connections == 2 and transport.is_connected)
        await publish(transport, message("2"))
        assert ids(await receive(transport)) == ["2"]
        assert server.called("declare")[-1][2] is True  # type: ignore[index]


@in_virtual_time
async def test_a_set_up_that_fails_after_a_reconnect_is_tried_again() -> None:
    server = FakeServer()
    async with opened(server) as transport:
        server.faults["declare"] = [RuntimeError("not yet"), ConfigurationError("not yet"), Disconnected("not yet")]
        await server.stop()
        await server.start()
        await publish_fails(transport)
        await until(lambda: transport.is_connected)
        assert server.connections == 5


@in_virtual_time
async def test_what_was_received_before_a_reconnect_cannot_be_settled_after_it() -> None:
    server = FakeServer()
    async with opened(server) as transport:
        await publish(transport, message("1"), message("2"))
        old = await receive(transport, 2)
        await server.stop()
        await server.start()
        new = await receive(transport, 2)
        server.calls.clear()
        await transport.settle([(old[0], Done()), (old[1], Again())])
        assert not server.called("acknowledge")
        assert ids(new) == ids(old)
        assert [delivery.deliveries for delivery in new] == [2, 2]
        await finish(transport, new)
        assert not server.stored["stock"]
        await nothing_comes(transport)


@in_virtual_time
async def test_what_cannot_be_settled_over_a_lost_connection_is_forgotten_and_comes_again() -> None:
    server = FakeServer()
    async with opened(server) as transport:
        await publish(transport, message("1"))
        got = await receive(transport)
        server.faults["acknowledge"] = [Disconnected("cut")]
        await finish(transport, got)
        assert not transport.is_connected
        await finish(transport, got)  # while there is no connection
        again = await receive(transport)
        assert (ids(again), again[0].deliveries) == (["1"], 2)


@in_virtual_time
async def test_a_lost_answer_to_an_acknowledgement_does_no_harm() -> None:
    server = FakeServer()
    async with opened(server) as transport:
        await publish(transport, message("1"))
        got = await receive(transport)
        server.faults["acknowledge"] = [LOST_LATE]
        await finish(transport, got)
        await nothing_comes(transport)
        assert server.connections == 2


@pytest.mark.parametrize("method", ["acknowledge", "send", "keep"])
def test_a_half_open_connection_is_noticed(method: str) -> None:
    @in_virtual_time
    async def noticed() -> None:
        server = FakeServer(hold_s=30.0)
        async with opened(server, call_s=7.0) as transport:
            await publish(transport, message("1"))
            got = await receive(transport)
            server.silent.add(method)
            begun = asyncio.get_running_loop().time()
            if method == "acknowledge":
                await finish(transport, got)
            elif method == "send":
                await publish_fails(transport)
            else:
                begun += 10.0
                await until(lambda: not transport.is_connected)
            assert asyncio.get_running_loop().time() - begun == pytest.approx(7.0, abs=0.1)
            server.silent.clear()
            assert "1" in ids(await receive(transport))
            assert server.connections == 2

    noticed()


@in_virtual_time
async def test_calls_under_way_end_with_the_connection() -> None:
    server = FakeServer()
    async with opened(server) as transport:
        await publish(transport, message("1"))
        got = await receive(transport)
        server.silent.add("acknowledge")
        settling = asyncio.create_task(finish(transport, got))
        await asyncio.sleep(1)
        server.faults["send"] = [Disconnected("cut")]
        await publish_fails(transport)
        await settling
        assert asyncio.get_running_loop().time() < 2
        server.silent.clear()


@in_virtual_time
async def test_a_broker_that_does_not_answer_when_it_is_set_up_again_is_left_and_tried_anew() -> None:
    server = FakeServer()
    async with opened(server) as transport:
        server.silent.add("declare")
        await server.stop()
        await server.start()
        await publish_fails(transport)
        await asyncio.sleep(60)
        assert not transport.is_connected
        server.silent.clear()
        await asyncio.sleep(60)
        assert transport.is_connected


@in_virtual_time
async def test_an_error_that_comes_late_does_not_end_the_next_connection() -> None:
    server = FakeServer()
    async with opened(server, call_s=2.0) as transport:
        await publish(transport, message("1"))
        got = await receive(transport)
        acknowledge = transport._broker.acknowledge
        transport._broker.acknowledge = stubborn
        settling = asyncio.create_task(finish(transport, got))
        await asyncio.sleep(1)
        server.faults["send"] = [Disconnected("cut")]
        await publish_fails(transport)
        transport._broker.acknowledge = acknowledge
        await settling
        assert transport.is_connected
        assert server.connections == 2


async def stubborn(group: str, tokens: Sequence[Any]) -> None:
    """Does not let itself be cancelled, and fails in the end."""
    ends_at = asyncio.get_running_loop().time() + 30
    while asyncio.get_running_loop().time() < ends_at:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(ends_at - asyncio.get_running_loop().time())
    raise RuntimeError("too late")


@in_virtual_time
async def test_two_that_settle_at_once_take_turns() -> None:
    async with opened(FakeServer()) as transport:
        await publish(transport, *(message(str(n)) for n in range(10)))
        got = await receive(transport, 10)
        await asyncio.gather(*(finish(transport, [one]) for one in got))


@in_virtual_time
async def test_after_a_long_outage_the_next_short_one_is_short() -> None:
    server = FakeServer()
    async with opened(server) as transport:
        await server.stop()
        await publish_fails(transport)
        await asyncio.sleep(600)
        await server.start()
        await until(lambda: transport.is_connected)
        await publish(transport, message("1"))
        await server.stop()
        await server.start()
        await publish_fails(transport)
        await asyncio.sleep(0.5)
        assert transport.is_connected


# Publishing


@in_virtual_time
async def test_messages_go_out_as_they_are() -> None:
    server = FakeServer()
    async with opened(server) as transport:
        await publish(transport, message("1", "a"), message("2", channel="other"))
        ((first, second),) = server.called("send")  # type: ignore[misc]
        assert first == Sending("topic/orders", "a", first.attributes, b"xx", must_arrive=True)
        assert (first.attributes["id"], first.attributes["partitionkey"]) == ("1", "a")
        assert (second.destination, second.must_arrive) == ("topic/other", False)


@in_virtual_time
async def test_what_can_never_be_sent_is_refused_alone() -> None:
    server = FakeServer(features=Features(body_bytes_max=10))
    async with opened(server) as transport:
        messages = [
            message("1", "a"),
            message("2", "a", size=11),
            message("3", "a", channel="nowhere"),
            message("4", "a"),
        ]
        outcomes = await transport.publish(messages)
        assert [type(outcome) for outcome in outcomes] == [type(None), MessageError, ConfigurationError, type(None)]
        assert "11 bytes, 10 is the most on fake://host:1" in str(outcomes[1])
        assert "nowhere" in str(outcomes[2])
        assert sorted(ids(await receive(transport, 2))) == ["1", "4"]


@in_virtual_time
async def test_what_the_broker_does_not_take_holds_back_its_key() -> None:
    server = FakeServer()
    async with opened(server) as transport:
        del server.queues["stock"]  # so that what must arrive cannot
        outcomes = await transport.publish([message("1", "a"), message("2", "a"), message("3", "b", channel="other")])
        assert [type(outcome) for outcome in outcomes] == [RuntimeError, HeldBack, type(None)]
        assert transport.is_connected


@in_virtual_time
async def test_without_a_connection_publishing_fails_at_once_and_works_again_later() -> None:
    server = FakeServer()
    async with opened(server) as transport:
        await server.stop()
        outcomes = await transport.publish([message("1", "a"), message("2", "a"), message("3")])
        assert {type(outcome) for outcome in outcomes} == {Disconnected}
        server.calls.clear()
        await publish_fails(transport)
        assert not server.called("send")
        assert asyncio.get_running_loop().time() < 0.1
        await server.start()
        await until(lambda: transport.is_connected)
        await publish(transport, message("4"))


@in_virtual_time
async def test_an_outcome_that_tells_of_a_lost_connection_is_one() -> None:
    server = FakeServer()
    async with opened(server) as transport:
        transport._broker.send = told([Disconnected("gone")])
        await publish_fails(transport)
        assert not transport.is_connected


def told(outcomes: Sequence[Exception | None]) -> Callable[[Sequence[Sending]], Awaitable[Sequence[Exception | None]]]:
    async def send(messages: Sequence[Sending]) -> Sequence[Exception | None]:
        return outcomes

    return send


@in_virtual_time
async def test_a_lost_confirmation_is_an_error_and_the_message_goes_out_once_more() -> None:
    server = FakeServer(faults={"send": [LOST_LATE]})
    async with opened(server) as transport:
        (outcome,) = await transport.publish([one := message("1")])
        assert isinstance(outcome, Disconnected)
        await until(lambda: transport.is_connected)
        await publish(transport, one)
        assert ids(await receive(transport, 2)) == ["1", "1"]


@in_virtual_time
async def test_those_who_publish_at_once_keep_their_own_order_and_hold_up_nobody() -> None:
    server = FakeServer()
    async with opened(server) as transport:
        await asyncio.gather(*(publish(transport, *(message(f"{n}-{m}", "a") for m in range(5))) for n in range(5)))
        came = ids(await receive(transport, 25))
        for n in range(5):
            assert [one for one in came if one.startswith(f"{n}-")] == [f"{n}-{m}" for m in range(5)]
        assert came[:5] != [f"0-{m}" for m in range(5)]


@pytest.mark.parametrize(("size", "at_once"), [(2, 4), (600_000, 1)])
@in_virtual_time
async def test_what_is_under_way_together_is_bounded(size: int, at_once: int) -> None:
    server = FakeServer()
    async with opened(server) as transport:
        server.silent.add("send")
        publishing = [
            asyncio.create_task(transport.publish([message(f"{n}-1", size=size), message(f"{n}-2", size=size)]))
            for n in range(6)
        ]
        await asyncio.sleep(1)
        assert [method for method, _ in server.calls].count("send") == at_once
        server.silent.clear()
        for task in publishing[:at_once]:
            task.cancel()
        await asyncio.gather(*publishing[:at_once], return_exceptions=True)
        assert [await task for task in publishing[at_once:]] == [[None, None]] * (6 - at_once)


@in_virtual_time
async def test_a_broker_may_say_on_connecting_how_large_a_message_may_be() -> None:
    server = FakeServer()
    transport = transport_on(server)
    await transport.start()
    for most in (5, 7):
        transport._broker.features = Features(body_bytes_max=most)
        await server.stop()
        await server.start()
        await publish_fails(transport)
        await until(lambda: transport.is_connected)
        assert transport.features.body_bytes_max == most
        (outcome,) = await transport.publish([message("1", size=most + 1)])
        assert isinstance(outcome, MessageError)
    await transport.close()


@in_virtual_time
async def test_who_stops_publishing_leaves_the_way_free() -> None:
    server = FakeServer()
    async with opened(server) as transport:
        server.silent.add("send")
        publishing = asyncio.create_task(transport.publish([message("1")]))
        await asyncio.sleep(1)
        publishing.cancel()
        await asyncio.gather(publishing, return_exceptions=True)
        server.silent.clear()
        await publish(transport, message("2"))


# Receiving


@in_virtual_time
async def test_what_the_group_does_not_want_is_acknowledged_and_not_delivered() -> None:
    server = FakeServer(filters=False)
    async with opened(server) as transport:
        await publish(transport, message("1", kind="Shipped"), message("2"), message("3", kind="Unheard"))
        assert ids(await receive(transport, 2)) == ["2", "3"]
        await until(lambda: len(server.stored["stock"]) == 2)


@in_virtual_time
async def test_who_does_not_settle_gets_no_more_than_the_window() -> None:
    server = FakeServer()
    async with opened(server, messages_max=10) as transport:
        await publish(transport, *(message(str(n)) for n in range(100)))
        first = await receive(transport, 10)
        await nothing_comes(transport)
        assert sum(one.owner is not None for one in server.stored["stock"].values()) == 10
        await finish(transport, first[:4])
        assert len(await receive(transport, 4)) == 4
        await nothing_comes(transport)
        assert len(server.stored["stock"]) == 96


@in_virtual_time
async def test_a_consumer_that_takes_nothing_holds_no_more_than_the_window() -> None:
    server = FakeServer()
    size = 10_000
    async with opened(server, bytes_max=20 * size) as transport:
        await publish(transport, *(message(str(n), size=size) for n in range(500)))
        (first,) = await transport.receive("stock", 1)
        await asyncio.sleep(60)
        held = transport._members["stock"].held
        assert 20 * size <= held.bytes <= 21 * (size + 2 * OVERHEAD_BYTES)
        heard = [first]
        while len(heard) < 500:
            await finish(transport, [heard[-1]])
            heard += await transport.receive("stock", 1)
            assert held.bytes <= 22 * (size + 2 * OVERHEAD_BYTES)
        assert sorted(ids(heard), key=int) == [str(n) for n in range(500)]


@in_virtual_time
async def test_again_is_a_matter_of_this_process_and_other_keys_flow_past() -> None:
    server = FakeServer()
    async with opened(server) as transport:
        await publish(transport, message("1", "a"), message("2", "a"), message("3", "b"))
        (first, *rest) = await transport.receive("stock", 1)
        assert rest == []
        await transport.settle([(first, Again(60.0))])
        assert ids(await receive(transport)) == ["3"]
        assert ids(await receive(transport, 2)) == ["1", "2"]
        assert asyncio.get_running_loop().time() == pytest.approx(60.0, abs=0.1)
        assert len(server.called("fetch")) <= 3


@in_virtual_time
async def test_what_is_in_hand_is_kept_until_it_is_settled() -> None:
    server = FakeServer(hold_s=30.0)
    async with opened(server) as transport:
        await publish(transport, *(message(str(n), "a") for n in range(3)))
        (first,) = await transport.receive("stock", 1)
        await transport.settle([(first, Again(1000.0))])
        await asyncio.sleep(95)
        assert server.called("keep") == [("stock", (1, 2, 3))] * 9
        got = await receive(transport, 3)
        await finish(transport, got)
        server.calls.clear()
        await asyncio.sleep(95)
        assert not server.called("keep")


@in_virtual_time
async def test_keeping_goes_on_after_it_failed_once() -> None:
    server = FakeServer(hold_s=30.0)
    async with opened(server) as transport:
        await publish(transport, message("1"))
        await receive(transport)
        server.faults["keep"] = [ConfigurationError("odd"), Disconnected("cut")]
        await asyncio.sleep(100)
        assert len(server.called("keep")) >= 5
        assert server.connections == 3


@in_virtual_time
async def test_what_lies_in_a_lane_that_is_taken_away_is_the_other_members() -> None:
    server = FakeServer()
    async with opened(server) as transport, opened(server) as other:
        await publish(transport, message("1", "a"), message("2", "b"), message("3", "b"))
        (mine,) = await transport.receive("stock", 1)
        taking = asyncio.create_task(receive(other))
        await asyncio.sleep(0.1)
        await transport._broker.take_away("stock", "a")
        await transport._broker.take_away("stock", "b")
        got = [*(await taking), *(await receive(other, 3 - len(taking.result())))]
        assert sorted(ids(got)) == ["1", "2", "3"]
        server.calls.clear()
        await finish(transport, [mine])
        assert not server.called("acknowledge")
        transport._broker.revoked("unknown", "a")
        await finish(other, got)
        await nothing_comes(transport)


@in_virtual_time
async def test_who_stops_waiting_for_a_settlement_does_not_stop_it() -> None:
    server = FakeServer()
    async with opened(server) as transport:
        await publish(transport, message("1"))
        settling = asyncio.create_task(finish(transport, await receive(transport)))
        await asyncio.sleep(0)
        settling.cancel()
        await until(lambda: not server.stored["stock"])


@in_virtual_time
async def test_what_is_to_come_again_is_not_done_meanwhile() -> None:
    server = FakeServer()
    async with opened(server) as transport:
        await publish(transport, message("1"))
        (first,) = await receive(transport)
        await transport.settle([(first, Again(5.0))])
        await finish(transport, [first])
        assert not server.called("acknowledge")
        assert ids(await receive(transport)) == ["1"]


@in_virtual_time
async def test_one_settle_is_one_acknowledgement() -> None:
    server = FakeServer()
    async with opened(server) as transport:
        await publish(transport, *(message(str(n), str(n % 3)) for n in range(30)))
        await finish(transport, await receive(transport, 30))
        assert [len(tokens) for _, tokens in server.called("acknowledge")] == [30]  # type: ignore[misc]
        await transport.settle([])
        await finish(transport, [])
        assert len(server.called("acknowledge")) == 1


@in_virtual_time
async def test_who_waits_hears_of_what_a_settlement_sets_free() -> None:
    async with opened(FakeServer()) as transport:
        await publish(transport, message("1", "a"), message("2", "a"))
        first = await transport.receive("stock", 1)
        waiting = asyncio.create_task(transport.receive("stock", 1))
        await asyncio.sleep(1)
        await finish(transport, first)
        assert ids(await asyncio.wait_for(waiting, 1)) == ["2"]


@in_virtual_time
async def test_there_is_room_again_when_a_lane_is_taken_away() -> None:
    async with opened(FakeServer(), messages_max=2) as transport:
        await publish(transport, message("1", "a"), message("2", "a"))
        await publish(transport, message("3", "b"))
        await receive(transport, 2)
        await asyncio.sleep(1)
        await transport._broker.take_away("stock", "a")
        assert ids(await receive(transport)) == ["3"]


@in_virtual_time
async def test_what_stood_behind_a_message_of_a_lost_lane_comes_at_once() -> None:
    async with opened(FakeServer()) as transport:
        scripted(transport, [in_lane("1", "old"), in_lane("2", "new")])
        await transport.receive("stock", 1)
        waiting = asyncio.create_task(transport.receive("stock", 1))
        await asyncio.sleep(1)
        transport._broker.revoked("stock", "old")
        assert ids(await asyncio.wait_for(waiting, 1)) == ["2"]


@in_virtual_time
async def test_what_a_lost_connection_still_gives_is_not_taken() -> None:
    server = FakeServer()
    async with opened(server) as transport:
        fetch = transport._broker.fetch
        scripted(transport, at_last=[in_lane("late", "")])
        waiting = asyncio.create_task(transport.receive("stock", 1))
        await asyncio.sleep(1)
        server.faults["send"] = [Disconnected("cut")]
        await publish_fails(transport)
        await asyncio.sleep(0.01)
        transport._broker.fetch = fetch
        await until(lambda: transport.is_connected)
        await publish(transport, message("1"))
        assert ids(await waiting) == ["1"]


def in_lane(message_id: str, lane: str) -> Received:
    """Of key ``a``, which has moved from one partition to another."""
    attributes = {"id": message_id, "type": "Created", "partitionkey": "a"}
    return Received("topic/orders", attributes, b"{}", token=message_id, lane=lane)


def scripted(transport: BrokerTransport, *batches: Sequence[Received], at_last: Sequence[Received] = ()) -> None:
    """The broker gives these, then nothing; and something more when it is told to stop."""
    left = list(batches)

    async def fetch(group: str, limit: int) -> Sequence[Received]:
        if left:
            return left.pop(0)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if not at_last:
                raise
        return at_last

    transport._broker.fetch = fetch


# The end


@in_virtual_time
async def test_closing_gives_back_what_is_not_settled() -> None:
    server = FakeServer()
    transport = transport_on(server)
    await transport.start()
    await transport.declare([wanting(), wanting("books")])
    await publish(transport, *(message(str(n), "a") for n in range(5)))
    (first,) = await transport.receive("stock", 1)
    await transport.close()
    assert server.called("give_back") == [("stock", (1, 3, 5, 7, 9))]
    assert not transport.is_connected
    server.calls.clear()
    await finish(transport, [first])
    assert not server.called("acknowledge")
    await transport.close()
    await transport.abandon()
    for group in ("stock", "books"):
        with pytest.raises(Disconnected, match="closed"):
            await transport.receive(group, 1)
    await publish_fails(transport)


@in_virtual_time
async def test_who_waits_while_it_closes_is_told() -> None:
    server = FakeServer()
    async with opened(server) as transport:
        waiting = asyncio.create_task(transport.receive("stock", 1))
        await asyncio.sleep(1)
    with pytest.raises(Disconnected, match="closed"):
        await waiting


@in_virtual_time
async def test_closing_waits_for_settlements_under_way() -> None:
    server = FakeServer()
    transport = transport_on(server)
    await transport.start()
    await transport.declare([wanting()])
    await publish(transport, message("1"), message("2"))
    got = await receive(transport, 2)
    acknowledge = transport._broker.acknowledge

    async def slowly(group: str, tokens: Sequence[Any]) -> None:
        await asyncio.sleep(5)
        await acknowledge(group, tokens)

    transport._broker.acknowledge = slowly
    settling = asyncio.create_task(finish(transport, got[:1]))
    await asyncio.sleep(0.1)
    await transport.close()
    await settling
    assert [one.sending.attributes["id"] for one in server.stored["stock"].values()] == ["2"]


@in_virtual_time
async def test_a_broker_that_does_not_answer_cannot_keep_us_from_closing() -> None:
    server = FakeServer()
    transport = transport_on(server)
    await transport.start()
    await transport.declare([wanting()])
    await publish(transport, message("1"))
    await receive(transport)
    server.silent.update({"give_back", "connect"})
    await transport.close()
    assert asyncio.get_running_loop().time() < 90


@in_virtual_time
async def test_closing_ends_reconnecting() -> None:
    server = FakeServer()
    async with opened(server) as transport:
        await server.stop()
        await publish_fails(transport)
        await asyncio.sleep(1)
    await server.start()
    await asyncio.sleep(60)
    assert server.connections == 1


@in_virtual_time
async def test_an_adapter_that_cannot_disconnect_properly_is_let_go_all_the_same() -> None:
    server = FakeServer()
    async with opened(server) as transport:
        transport._broker.disconnect = broken
        server.faults["send"] = [Disconnected("cut")]
        await publish_fails(transport)
        await until(lambda: transport.is_connected)
        await publish(transport, message("1"))


async def broken() -> None:
    raise RuntimeError("a promise is broken")


@in_virtual_time
async def test_who_is_abandoned_gives_nothing_back() -> None:
    server = FakeServer()
    transport = transport_on(server)
    await transport.start()
    await transport.declare([wanting()])
    await publish(transport, message("1"))
    await receive(transport)
    await transport.abandon()
    assert not server.called("give_back")
    await transport.close()


# All at once


@pytest.mark.parametrize("seed", range(30))
def test_whatever_fails_everything_arrives_in_order(seed: int) -> None:
    @in_virtual_time
    async def survive() -> None:
        dice = random.Random(seed)
        server = FakeServer(filters=dice.random() < 0.5, hold_s=dice.choice([None, 3.0]))
        settings = {"messages_max": dice.choice([3, 20, 1000]), "call_s": 2.0}
        async with opened(server, **settings) as sender, opened(server, **settings) as receiver:
            heard: dict[str, list[str]] = {}
            settled: set[str] = set()
            everything = {str(n) for n in range(120)}

            async def trouble() -> None:
                for _ in range(60):
                    await asyncio.sleep(dice.random())
                    method = dice.choice(["send", "fetch", "acknowledge", "keep", "connect", "declare"])
                    match dice.randrange(6):
                        case 0:
                            await server.stop()
                            await asyncio.sleep(dice.random() * 5)
                            await server.start()
                        case 1:
                            server.silent.add(method)
                            await asyncio.sleep(dice.random() * 5)
                            server.silent.clear()
                            await server.stop()  # who waits for an answer never gets it
                            await server.start()
                        case 2:
                            server.faults.setdefault(method, []).append(LOST_LATE)
                        case 3:
                            server.faults.setdefault(method, []).append(ValueError("a bug"))
                        case _:
                            server.faults.setdefault(method, []).append(Disconnected("cut"))

            async def send() -> None:
                left = [message(str(n), dice.choice("abc")) for n in range(120)]
                while left:
                    outcomes = await sender.publish(left[:10])
                    failed = [one for one, outcome in zip(left[:10], outcomes, strict=True) if outcome is not None]
                    left = failed + left[10:]
                    await asyncio.sleep(0.05)

            async def hear() -> None:
                while settled < everything:
                    for delivery in await receiver.receive("stock", dice.randrange(1, 8)):
                        again = dice.random() < 0.1
                        heard.setdefault(delivery.attributes["partitionkey"], []).append(delivery.attributes["id"])
                        await receiver.settle([(delivery, Again(dice.random()) if again else Done())])
                        if not again:
                            settled.add(delivery.attributes["id"])

            making = asyncio.create_task(trouble())
            await asyncio.gather(send(), hear())
            making.cancel()
            await asyncio.gather(making, return_exceptions=True)
            server.faults.clear()
            server.silent.clear()
            for came in heard.values():
                first = list(dict.fromkeys(came))
                assert first == sorted(first, key=int)
            await server.start()

    survive()


def test_a_message_is_built_as_the_tests_mean_it() -> None:
    assert replace(message("1").envelope, key="k").key == "k"
