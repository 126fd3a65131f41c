"""What RabbitMQ's adapter reads and writes past the client: the same bytes as the client's, in whatever pieces."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, cast

import pamqp.frame
import pytest
from aiormq import spec
from aiormq.abc import ChannelFrame
from aiormq.channel import Channel
from hypothesis import given
from hypothesis import strategies as st
from pamqp.body import ContentBody
from pamqp.header import ContentHeader

from minuet.adapters.broker.port import Disconnected, Sending
from minuet.adapters.rabbitmq.frames import (
    HEARTBEAT,
    acknowledging,
    asking_for_prefetch,
    confirmation_in,
    delivery_in,
    publishing,
    putting_back,
)
from minuet.adapters.rabbitmq.outlet import FRAME_BYTES, WRITE_BYTES, Outlet
from minuet.adapters.rabbitmq.reader import FrameReader
from minuet.adapters.rabbitmq.wire import HEADERS_BYTES_MAX, header_of, message_id_in, properties_in
from minuet.core.errors import MessageError

NAME = st.text("abcdefghijklmnopqrstuvwxyz0123456789", min_size=1, max_size=20)
ATTRIBUTES = st.dictionaries(NAME, st.text(st.characters(codec="utf-8"), max_size=300), max_size=8)
NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
OURS, THEIRS = 1, 2


def payload_of(frame: Any, channel: int = OURS) -> bytes:
    written: bytes = pamqp.frame.marshal(frame, channel)
    return written[7:-1]


def header_with(**properties: Any) -> bytes:
    return payload_of(ContentHeader(properties=spec.Basic.Properties(**properties)))


def content(channel: int, method: Any, body: bytes, part: int = 5, **properties: Any) -> bytes:
    """A message as the broker writes it."""
    frames = [
        method,
        ContentHeader(body_size=len(body), properties=spec.Basic.Properties(**properties)),
        *(ContentBody(body[at : at + part]) for at in range(0, len(body), part)),
    ]
    return b"".join(pamqp.frame.marshal(frame, channel) for frame in frames)


def deliver(tag: int) -> Any:
    return spec.Basic.Deliver("someone", tag, tag % 2 == 0, "shop", "orders")


def method(frame: Any, channel: int = OURS) -> bytes:
    written: bytes = pamqp.frame.marshal(frame, channel)
    return written


# -- content headers ---------------------------------------------------------------------------------------------------


@given(ATTRIBUTES)
def test_attributes_come_back_and_the_client_reads_them_likewise(attributes: Mapping[str, str]) -> None:
    header = header_of(attributes, "m-1", 7)
    found, deliveries = properties_in(header, redelivered=False)
    unnamed = {} if "id" in attributes else {"id": "m-1"}
    assert (found, deliveries) == ({**attributes, **unnamed}, 1)
    theirs = ContentHeader()
    theirs.unmarshal(header)
    native = theirs.properties.content_type
    assert theirs.body_size == 7
    assert theirs.properties.headers == {
        f"cloudEvents_{name}": value for name, value in attributes.items() if name != "datacontenttype" or not native
    }
    assert (theirs.properties.message_id, theirs.properties.delivery_mode) == ("m-1", 2)


@given(st.binary(max_size=80))
def test_whatever_a_stranger_writes_is_read_or_taken_for_nothing(rest: bytes) -> None:
    for header in (rest, header_with()[:12] + rest):
        found, deliveries = properties_in(header, redelivered=True)
        assert all(isinstance(value, str) for value in found.values())
        assert deliveries >= 2


def test_values_of_other_types_become_text() -> None:
    header = header_with(
        headers={
            **{"cloudEvents:HOPS": 3, "cloudEvents_flag": True, "cloudEvents_none": None, "other": "left out"},
            **{"cloudEvents_data": bytearray(b"\xff\xfe"), "cloudEvents_when": NOON, "x-delivery-count": 4},
        },
        content_type="text/plain",
        content_encoding="gzip",
        priority=3,
        correlation_id="c",
        reply_to="r",
        expiration="1000",
        message_id="m-1",
        timestamp=NOON,
        user_id="guest",
    )
    expected = {"hops": "3", "flag": "true", "data": "//4=", "when": "2026-01-31T12:00:00Z"}
    native = {"datacontenttype": "text/plain", "id": "m-1"}
    assert properties_in(header, redelivered=True) == ({**native, **expected}, 5)
    assert properties_in(header, redelivered=False)[1] == 1
    assert message_id_in(header) == "m-1"


@pytest.mark.parametrize("cut", [1, 3, 20, 40])
def test_a_header_that_ends_too_early_has_no_properties(cut: int) -> None:
    header = header_with(headers={"cloudEvents_type": "OrderCreated"}, message_id="m-1")
    assert properties_in(header, redelivered=False)[0] == {"id": "m-1", "type": "OrderCreated"}
    assert properties_in(header[:-cut], redelivered=False) == ({}, 1)


def test_what_does_not_fit_into_a_header_is_refused() -> None:
    with pytest.raises(ValueError, match="name of more than 116 bytes"):
        header_of({"n" * 117: "x"}, "m-1", 0)
    with pytest.raises(ValueError, match="is the most"):
        header_of({"large": "\u00fc" * (HEADERS_BYTES_MAX // 2)}, "m-1", 0)


# -- frames ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("body", [b"", b"12345", b"1234567890ab"])
def test_a_message_is_written_as_the_client_would(body: bytes) -> None:
    header = payload_of(ContentHeader(body_size=len(body), properties=spec.Basic.Properties(message_id="m")))
    written = publishing(OURS, "shop/orders.\u00fc", header, body, mandatory=True, part_max=5)
    order = spec.Basic.Publish(exchange="shop", routing_key="orders.\u00fc", mandatory=True)
    assert written == content(OURS, order, body, message_id="m")


def test_answers_are_written_as_the_client_would() -> None:
    assert acknowledging(OURS, 7) == method(spec.Basic.Ack(7, multiple=False))
    assert acknowledging(OURS, 7, multiple=True) == method(spec.Basic.Ack(7, multiple=True))
    assert putting_back(OURS, 7) == method(spec.Basic.Nack(7, multiple=False, requeue=True))
    assert asking_for_prefetch(OURS, 9) == method(spec.Basic.Qos(0, 9, global_=False))


def test_what_the_broker_says_is_read() -> None:
    delivery = delivery_in(payload_of(deliver(2)))
    assert (delivery.tag, delivery.is_redelivered, delivery.destination) == (2, True, "shop/orders")
    assert confirmation_in(payload_of(spec.Basic.Ack(7, multiple=True))) == (7, True)
    assert confirmation_in(payload_of(spec.Basic.Nack(8, multiple=False, requeue=True))) == (8, False)


# -- the reader --------------------------------------------------------------------------------------------------------


class Ear:
    def __init__(self) -> None:
        self.messages: list[tuple[int, bytes]] = []
        self.methods: list[bytes] = []

    def came(self, method: bytes, header: bytes, body: bytes) -> None:
        assert int.from_bytes(header[4:12], "big") == len(body)
        self.messages.append((delivery_in(method).tag, body))

    def told(self, method: bytes) -> bool:
        self.methods.append(method)
        return method.startswith(payload_of(spec.Basic.Ack(1))[:4])


async def left_in(reader: FrameReader) -> bytes:
    """What the client sees."""
    reader.feed_eof()
    return (await reader.read()).replace(HEARTBEAT, b"")


@pytest.mark.parametrize("piece", [1, 2, 7, 8, 31, 10_000])
async def test_messages_go_to_their_hearer_and_all_else_to_the_client(piece: int) -> None:
    stream, others = b"", b""
    for tag in range(1, 6):
        opened = method(spec.Channel.OpenOk(), OURS)
        other = content(THEIRS, deliver(tag), b"not ours", message_id="m")
        stream += content(OURS, deliver(tag), b"x" * tag * 4, message_id="m") + opened + method(spec.Basic.Ack(tag))
        stream += other
        others += opened + other
    ear, reader = Ear(), FrameReader(asyncio.get_running_loop())
    reader.hear(OURS, ear)
    for at in range(0, len(stream), piece):
        reader.feed_data(stream[at : at + piece])
    assert ear.messages == [(tag, b"x" * tag * 4) for tag in range(1, 6)]
    assert len(ear.methods) == 10
    assert await left_in(reader) == others


async def test_messages_of_two_channels_may_come_interleaved() -> None:
    ears = {OURS: Ear(), THEIRS: Ear()}
    reader = FrameReader(asyncio.get_running_loop())
    frames: dict[int, list[bytes]] = {}
    for channel, ear in ears.items():
        reader.hear(channel, ear)
        frames[channel] = [
            method(deliver(channel), channel),
            method(ContentHeader(body_size=2), channel),
            method(ContentBody(b"%d" % channel), channel),
            method(ContentBody(b"!"), channel),
        ]
    for one, other in zip(frames[OURS], frames[THEIRS], strict=True):
        reader.feed_data(one + other)
    assert (ears[OURS].messages, ears[THEIRS].messages) == ([(OURS, b"1!")], [(THEIRS, b"2!")])


async def test_a_broken_frame_and_a_cut_one_are_the_clients() -> None:
    reader = FrameReader(asyncio.get_running_loop())
    reader.hear(OURS, Ear())
    broken = content(OURS, deliver(1), b"")[:-1] + b"\0"
    reader.feed_data(broken + b"AMQP")
    assert (await left_in(reader)).endswith(b"\0AMQP")


async def test_the_client_sees_a_sign_of_what_goes_past_it() -> None:
    reader = FrameReader(asyncio.get_running_loop())
    reader.hear(OURS, Ear())
    reader.feed_data(content(OURS, deliver(1), b"") * 3)
    reader.feed_data(content(OURS, deliver(2), b"") * 3)
    reader.feed_eof()
    assert await reader.read() == HEARTBEAT


async def test_the_end_of_the_stream_is_told_to_whoever_waits_for_it() -> None:
    """asyncio tells it twice: when the other side ends the stream, and when ours is closed."""

    async def end_it(_: asyncio.StreamReader, theirs: asyncio.StreamWriter) -> None:
        theirs.write(HEARTBEAT + HEARTBEAT[:3])
        await theirs.drain()
        theirs.close()

    loop = asyncio.get_running_loop()
    async with await asyncio.start_server(end_it, "127.0.0.1", 0) as server:
        reader = FrameReader(loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        transport, _ = await loop.create_connection(lambda: protocol, *server.sockets[0].getsockname())
        writer = asyncio.StreamWriter(transport, protocol, reader, loop)
        assert await reader.read() == HEARTBEAT + HEARTBEAT[:3]
        writer.close()
        async with asyncio.timeout(10):
            await writer.wait_closed()


# -- the outlet --------------------------------------------------------------------------------------------------------


class Line:
    """A channel whose other end the test is."""

    number = OURS
    max_content_size = 1000
    is_closed = False

    def __init__(self, room: int = 0) -> None:
        self.write_queue: asyncio.Queue[ChannelFrame] = asyncio.Queue(room)
        self.futures: list[asyncio.Future[None]] = []

    def create_future(self) -> asyncio.Future[None]:
        self.futures.append(asyncio.get_running_loop().create_future())
        return self.futures[-1]


def outlet_on(line: Line) -> Outlet:
    return Outlet(cast(Channel, line))


def sending(name: str, body: bytes = b"{}", **attributes: str) -> Sending:
    return Sending("shop/orders", "", {"id": name, "type": "OrderCreated", **attributes}, body, must_arrive=True)


def returned(name: str) -> tuple[bytes, bytes, bytes]:
    order = spec.Basic.Return(312, "NO_ROUTE", "shop", "orders")
    return payload_of(order), header_of({"id": name}, name, 2), b"{}"


async def test_a_wave_is_over_when_all_of_it_is_confirmed() -> None:
    line = Line()
    outlet = outlet_on(line)
    publishing = asyncio.ensure_future(outlet.publish([sending(name) for name in "abcdef"]))
    await line.write_queue.get()
    assert line.write_queue.empty()  # all at once
    outlet.came(*returned("b"))
    outlet.came(*returned("nobody's"))
    assert outlet.told(payload_of(spec.Basic.Ack(3, multiple=True)))
    assert outlet.told(payload_of(spec.Basic.Ack(3, multiple=False)))
    assert outlet.told(payload_of(spec.Basic.Nack(5, multiple=False)))
    assert outlet.told(payload_of(spec.Basic.Ack(6, multiple=False)))
    assert not outlet.told(payload_of(spec.Channel.CloseOk()))
    await asyncio.sleep(0)
    assert not publishing.done()
    outlet.told(payload_of(spec.Basic.Ack(4, multiple=False)))
    outcomes = [str(outcome) if outcome else "" for outcome in await publishing]
    assert "OrderCreated b fits no queue at shop/orders (NO_ROUTE); is its group declared?" in outcomes[1]
    assert "did not keep OrderCreated e" in outcomes[4]
    assert [bool(outcome) for outcome in outcomes] == [False, True, False, False, True, False]


async def test_waves_are_under_way_together_and_each_hears_of_its_own() -> None:
    line = Line()
    outlet = outlet_on(line)
    first = asyncio.ensure_future(outlet.publish([sending("a"), sending("b")]))
    second = asyncio.ensure_future(outlet.publish([sending("c"), sending("d")]))
    await line.write_queue.get()
    await line.write_queue.get()
    outlet.came(*returned("c"))
    outlet.told(payload_of(spec.Basic.Ack(3, multiple=True)))
    assert await first == [None, None]
    outlet.told(payload_of(spec.Basic.Nack(4, multiple=False)))
    came_back, not_kept = await second
    assert "c fits no queue" in str(came_back)
    assert "did not keep OrderCreated d" in str(not_kept)


async def test_a_message_waits_while_another_of_its_id_is_under_way() -> None:
    line = Line()
    outlet = outlet_on(line)
    first = asyncio.ensure_future(outlet.publish([sending("a")]))
    second = asyncio.ensure_future(outlet.publish([sending("b"), sending("a")]))
    await line.write_queue.get()
    await asyncio.sleep(0)
    assert line.write_queue.empty()
    outlet.came(*returned("a"))
    outlet.told(payload_of(spec.Basic.Ack(1, multiple=False)))
    assert "fits no queue" in str((await first)[0])
    await line.write_queue.get()
    outlet.told(payload_of(spec.Basic.Ack(3, multiple=True)))
    assert await second == [None, None]


async def test_who_waits_for_an_id_hears_that_the_channel_is_closed() -> None:
    line = Line(room=1)
    outlet = outlet_on(line)
    line.write_queue.put_nowait(ChannelFrame(payload=b"", should_close=False))
    stuck = asyncio.ensure_future(outlet.publish([sending("a")]))  # nobody writes any more, so it stays in the queue
    await asyncio.sleep(0)
    waiting = asyncio.ensure_future(outlet.publish([sending("a")]))
    await asyncio.sleep(0)
    line.is_closed = True
    for future in line.futures:
        future.set_exception(ConnectionError("gone"))
    with pytest.raises(Disconnected):
        async with asyncio.timeout(5):
            await waiting
    stuck.cancel()
    await asyncio.gather(stuck, return_exceptions=True)


async def test_one_wave_given_up_leaves_the_others_what_they_are_told() -> None:
    line = Line()
    outlet = outlet_on(line)
    given_up = asyncio.ensure_future(outlet.publish([sending("a")]))
    waiting = asyncio.ensure_future(outlet.publish([sending("a"), sending("b")]))
    staying = asyncio.ensure_future(outlet.publish([sending("c")]))
    await line.write_queue.get()
    await line.write_queue.get()
    given_up.cancel()
    await line.write_queue.get()
    outlet.told(payload_of(spec.Basic.Ack(2, multiple=True)))
    assert await staying == [None]
    assert not waiting.done()
    outlet.told(payload_of(spec.Basic.Ack(4, multiple=True)))
    assert await waiting == [None, None]


async def test_what_cannot_be_written_takes_no_number() -> None:
    line = Line()
    outlet = outlet_on(line)
    wave = [sending("a", **{"n" * 200: "x"}), sending("b"), sending("\ud800"), sending("c")]
    publishing = asyncio.ensure_future(outlet.publish(wave))
    await line.write_queue.get()
    outlet.told(payload_of(spec.Basic.Ack(2, multiple=True)))
    outcomes = await publishing
    assert [type(outcome).__name__ for outcome in outcomes] == ["MessageError", "NoneType"] * 2
    nothing = await outlet.publish([sending("\ud800")])
    assert [type(outcome).__name__ for outcome in nothing] == ["MessageError"]


async def test_a_large_wave_is_written_in_parts_and_is_not_over_before_the_last() -> None:
    line = Line(room=1)
    outlet = outlet_on(line)
    wave = [sending(name, b"x" * WRITE_BYTES) for name in "ab"]
    publishing = asyncio.ensure_future(outlet.publish(wave))
    await asyncio.sleep(0)
    outlet.told(payload_of(spec.Basic.Ack(1, multiple=False)))
    await asyncio.sleep(0)
    assert not publishing.done()
    for _ in wave:
        await line.write_queue.get()
    await asyncio.sleep(0)
    assert not publishing.done()
    outlet.told(payload_of(spec.Basic.Ack(2, multiple=False)))
    assert await publishing == [None, None]


async def test_confirmations_of_a_wave_that_was_given_up_are_not_the_next_ones() -> None:
    line = Line()
    outlet = outlet_on(line)
    given_up = asyncio.ensure_future(outlet.publish([sending("a"), sending("b")]))
    await line.write_queue.get()
    given_up.cancel()
    await asyncio.gather(given_up, return_exceptions=True)
    publishing = asyncio.ensure_future(outlet.publish([sending("c")]))
    await line.write_queue.get()
    outlet.told(payload_of(spec.Basic.Ack(2, multiple=True)))
    await asyncio.sleep(0)
    assert not publishing.done()
    outlet.told(payload_of(spec.Basic.Ack(3, multiple=True)))
    assert await publishing == [None]


async def test_nothing_is_written_to_a_closed_channel() -> None:
    line = Line()
    line.is_closed = True
    with pytest.raises(Disconnected):
        await outlet_on(line).publish([sending("a")])
    assert line.write_queue.empty()


@pytest.mark.parametrize("no_limit", [0, -8])
async def test_where_the_server_sets_no_limit_a_body_goes_in_large_frames(no_limit: int) -> None:
    line = Line()
    line.max_content_size = no_limit
    publishing = asyncio.create_task(outlet_on(line).publish([sending("a", b"x" * (FRAME_BYTES + 1))]))
    written = (await line.write_queue.get()).payload
    assert (written.count(b"x" * FRAME_BYTES), written[-2:]) == (1, b"x\xce")
    publishing.cancel()


async def test_attributes_that_fit_into_no_frame_are_refused_and_stop_nobody() -> None:
    line = Line()
    line.max_content_size = 400
    outlet = outlet_on(line)
    publishing = asyncio.create_task(outlet.publish([sending("a", note="x" * 500), sending("b")]))
    await line.write_queue.get()
    outlet.told(payload_of(spec.Basic.Ack(1, multiple=False)))
    refused, kept = await publishing
    assert isinstance(refused, MessageError)
    assert kept is None
