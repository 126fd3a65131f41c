"""NATS JetStream keeps the promises of a transport, and some of its own."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import nats
import pytest
from nats.aio.client import Client
from nats.js.api import StorageType

from dev.servers.base import HOST, Server
from dev.servers.nats import PROGRAM, Nats
from minuet.adapters.broker import BrokerTransport
from minuet.adapters.broker.port import Disconnected, Queue, Received, Sending
from minuet.adapters.nats import NatsBroker, split
from minuet.adapters.nats.address import parse
from minuet.adapters.nats.connection import Connection, NoStream, Request
from minuet.adapters.nats.topology import consumer_name, covers
from minuet.adapters.nats.wire import Heard
from minuet.adapters.system import SystemIds
from minuet.core.errors import ConfigurationError, MessageError
from minuet.ports import Transport
from minuet.testing.transport_contract import CHANNELS, OpenTransport, TransportContract
from tests.certificates import make_certificates
from tests.faults import FaultProxy
from tests.servers import private_server, server_url

pytestmark = pytest.mark.server

PATIENCE_S = 30.0
HOLD_S = 2


class TestNats(TransportContract):
    features = NatsBroker.features
    patience_s = PATIENCE_S
    leaves_out_unwanted = False
    private: Server

    @pytest.fixture(autouse=True)
    def url(self, request: pytest.FixtureRequest, servers_path: Path, prefix: str) -> Iterator[str]:
        if "killed" not in request.node.name:
            yield f"{server_url('nats')}/{prefix}?hold_s={HOLD_S}"
            return
        with private_server("nats", servers_path) as self.private:
            yield f"{self.private.url}/{prefix}?hold_s={HOLD_S}"

    @pytest.fixture
    def open_transport(self, url: str) -> OpenTransport:
        return lambda: transport_to(url)

    @pytest.fixture
    def open_unprovisioned(self, url: str) -> OpenTransport:
        return lambda: transport_to(url, provision=False)

    async def restart(self) -> None:
        await asyncio.to_thread(self.private.kill)
        await asyncio.to_thread(self.private.start)

    async def unroute(self, transport: Transport) -> None:
        async with await nats.connect(server_url("nats")) as client:
            await client.jetstream().delete_stream(self.prefix_now)

    async def send_bare(self, channel: str, body: bytes) -> None:
        async with await nats.connect(server_url("nats")) as client:
            await client.publish(f"{self.prefix_now}.{channel}", body)
            await client.flush()


def transport_to(url: str, *, provision: bool = True) -> BrokerTransport:
    places = {channel: split(url, channel) for channel in CHANNELS}
    (server,) = {server for server, _ in places.values()}
    subjects = {channel: subject for channel, (_, subject) in places.items()}
    return BrokerTransport(NatsBroker(server, SystemIds()), subjects, ids=SystemIds(), provision=provision)


# The broker class by itself

Connect = Callable[..., Awaitable[NatsBroker]]


def sending(event_id: str, destination: str, body: bytes = b"{}", **attributes: str) -> Sending:
    attributes = {"id": event_id, "source": "tests", "type": "OrderCreated", **attributes}
    return Sending(destination=destination, key="", attributes=attributes, body=body, must_arrive=True)


def queue(*destinations: str, group: str = "inventory") -> Queue:
    return Queue(group=group, destinations=tuple(sorted(destinations)), types={}, unwanted={})


def ids_of(received: Sequence[Received]) -> list[str]:
    return [one.attributes["id"] for one in received]


@pytest.fixture
def stream() -> str:
    return f"t{SystemIds().new()[:10]}"


@pytest.fixture
def orders(stream: str) -> str:
    return f"{stream}.orders"


@pytest.fixture
async def client(nats_url: str) -> AsyncIterator[Client]:
    async with await nats.connect(nats_url) as connected:
        yield connected


@pytest.fixture
async def connect(nats_url: str, stream: str, orders: str) -> AsyncIterator[Connect]:
    """Connects once more, with a group that hears ``orders``."""
    async with AsyncExitStack() as stack:

        async def one(options: str = f"hold_s={HOLD_S}", server: str = nats_url) -> NatsBroker:
            broker = NatsBroker(f"{server}/{stream}?{options}", SystemIds())
            stack.push_async_callback(broker.disconnect)
            await broker.connect()
            await broker.declare([queue(orders)], [orders], only_new=True)
            return broker

        yield one


async def fetch(broker: NatsBroker, limit: int = 100, group: str = "inventory") -> Sequence[Received]:
    async with asyncio.timeout(PATIENCE_S):
        return await broker.fetch(group, limit)


async def heard_by_server(client: Client) -> None:
    """Until the server has all that ``client`` wrote: nats-py's PING overtakes what waits to be written, but once."""
    await client.flush()
    await client.flush()


async def publish(broker: NatsBroker, *messages: Sending) -> None:
    assert list(await broker.send(messages)) == [None] * len(messages)


async def test_what_is_published_twice_is_kept_once_but_on_each_channel(connect: Connect, orders: str) -> None:
    broker = await connect()
    other = f"{orders}.other"
    await broker.declare([queue(orders, other)], [orders, other], only_new=False)
    await publish(broker, sending("1", orders), sending("1", other))
    await publish(broker, sending("1", orders), sending("1", orders, source="elsewhere"))
    received = await fetch(broker)
    assert [(one.destination, one.attributes["source"]) for one in received] == [
        (orders, "tests"),
        (other, "tests"),
        (orders, "elsewhere"),
    ]


async def test_a_new_group_gets_what_comes_from_now_on(connect: Connect, orders: str) -> None:
    broker = await connect()
    await publish(broker, sending("1", orders))
    await broker.declare([queue(orders, group="payment")], [orders], only_new=False)
    await publish(broker, sending("2", orders))
    assert ids_of(await fetch(broker, group="payment")) == ["2"]
    assert ids_of(await fetch(broker)) == ["1", "2"]


async def test_a_group_wants_other_subjects_from_now_on(connect: Connect, orders: str) -> None:
    broker = await connect()
    other = f"{orders}.other"
    await broker.declare([queue(other)], [orders, other], only_new=True)
    assert await broker.check([queue(other)], [orders]) == [
        f"consumer minuet-inventory listens to {orders}, not to {other}"
    ]
    await broker.declare([queue(other)], [orders, other], only_new=False)
    assert await broker.check([queue(other)], [orders]) == []
    await publish(broker, sending("1", orders), sending("2", other))
    assert ids_of(await fetch(broker)) == ["2"]


async def test_check_says_what_is_missing_and_declare_makes_it(
    connect: Connect, client: Client, stream: str, orders: str
) -> None:
    broker = await connect("max_age_s=3600")
    await client.jetstream().delete_stream(stream)
    assert await broker.check([queue(orders)], [orders]) == [f"there is no stream {stream}"]
    await client.jetstream().add_stream(name=stream, subjects=[f"{stream}.elsewhere"])
    assert await broker.check([queue(orders)], [orders]) == [
        f"stream {stream} does not take subject {orders}",
        f"stream {stream} has max_age 0.0, not 3600",
        f"stream {stream} has no consumer minuet-inventory",
    ]
    await broker.declare([queue(orders)], [orders], only_new=False)
    assert await broker.check([queue(orders)], [orders]) == []
    assert (await client.jetstream().stream_info(stream)).config.subjects == [f"{stream}.elsewhere", orders]


async def test_a_stream_that_forgets_is_refused(connect: Connect, client: Client, stream: str, orders: str) -> None:
    broker = await connect()
    await client.jetstream().delete_stream(stream)
    await client.jetstream().add_stream(name=stream, subjects=[f"{stream}.>"], storage=StorageType.MEMORY)
    with pytest.raises(ConfigurationError, match="kept in memory"):
        await broker.declare([queue(orders)], [orders], only_new=False)
    assert f"stream {stream} cannot be used: it is kept in memory" in await broker.check([queue(orders)], [orders])


async def test_a_subject_of_another_stream_is_no_success(
    connect: Connect, client: Client, stream: str, orders: str
) -> None:
    broker = await connect()
    await client.jetstream().add_stream(name=f"{stream}-other", subjects=[f"other-{stream}.>"])
    wrong, right, none = await broker.send(
        [sending("1", f"other-{stream}.a"), sending("2", orders), sending("3", f"nobody-{stream}")]
    )
    assert right is None
    assert "expected stream does not match" in str(wrong)
    assert f"no stream takes messages of subject nobody-{stream}" in str(none)


async def test_somebody_who_answers_and_is_no_stream_is_no_success(
    connect: Connect, client: Client, stream: str
) -> None:
    broker = await connect()

    async def answer(message: nats.aio.msg.Msg) -> None:
        await message.respond(b"thanks")

    await client.subscribe(f"asked-{stream}", cb=answer)
    await heard_by_server(client)
    (outcome,) = await broker.send([sending("1", f"asked-{stream}")])
    assert "somebody who is not stream" in str(outcome)


async def test_a_message_too_large_with_its_attributes_is_refused_alone(connect: Connect, orders: str) -> None:
    broker = await connect()
    body = b"x" * broker.features.body_bytes_max
    fits, large = await broker.send([sending("1", orders, body), sending("2", orders, body, extra="e" * 70_000)])
    assert fits is None
    assert isinstance(large, MessageError)
    assert ids_of(await fetch(broker)) == ["1"]


async def test_many_large_messages_come_in_several_fetches(connect: Connect, orders: str) -> None:
    broker = await connect()
    body = b"x" * broker.features.body_bytes_max
    sent = [str(number) for number in range(50)]
    for number in sent:
        await publish(broker, sending(number, orders, body))
    got: list[str] = []
    while len(got) < len(sent):
        received = await fetch(broker)
        assert sum(len(one.body) for one in received) <= 33 * 1024 * 1024
        got += ids_of(received)
        await broker.acknowledge("inventory", [one.token for one in received])
    assert got == sent


async def test_who_stops_fetching_gives_back_what_came(connect: Connect, orders: str) -> None:
    broker, other = await connect("hold_s=60"), await connect("hold_s=60")
    for number in range(60):
        fetching = asyncio.create_task(broker.fetch("inventory", 10))
        await asyncio.sleep(0)
        sent = asyncio.create_task(publish(broker, sending(str(number), orders)))
        for _ in range(number % 12):
            await asyncio.sleep(0)
        fetching.cancel()
        (got,) = await asyncio.gather(fetching, return_exceptions=True)
        await sent
        received = await fetch(other) if isinstance(got, BaseException) else got
        assert ids_of(received) == [str(number)]
        await other.acknowledge("inventory", [one.token for one in received])


async def test_what_is_in_hand_when_the_group_may_have_no_more_is_given_out(connect: Connect, orders: str) -> None:
    broker = await connect("max_ack_pending=5&hold_s=60")
    await publish(broker, *(sending(str(number), orders) for number in range(8)))
    first = await fetch(broker)
    assert ids_of(first) == ["0", "1", "2", "3", "4"]
    fetching = asyncio.create_task(fetch(broker))
    await broker.acknowledge("inventory", [one.token for one in first])
    got = list(await fetching)
    while len(got) < 3:
        got += await fetch(broker)
    assert ids_of(got) == ["5", "6", "7"]


async def test_what_is_kept_goes_to_nobody_else_and_what_is_not_does(connect: Connect, orders: str) -> None:
    broker, other = await connect(), await connect()
    await publish(broker, sending("1", orders), sending("2", orders))
    kept, let_go = await fetch(broker)
    fetching = asyncio.create_task(fetch(other))
    while not fetching.done():
        await broker.keep("inventory", [kept.token])
        await asyncio.wait({fetching}, timeout=HOLD_S / 4)
    assert [(one.attributes["id"], one.deliveries) for one in fetching.result()] == [("2", 2)]
    assert let_go.deliveries == 1


async def test_what_is_given_back_goes_to_others_at_once_and_in_order(connect: Connect, orders: str) -> None:
    broker, other = await connect("hold_s=60"), await connect("hold_s=60")
    await publish(broker, *(sending(str(number), orders) for number in range(20)))
    received = await fetch(broker)
    await broker.give_back("inventory", [one.token for one in received])
    got: list[Received] = []
    while len(got) < len(received):
        got += await fetch(other)
    assert ids_of(got) == ids_of(received)
    assert {one.deliveries for one in got} == {2}


async def test_what_was_in_hand_comes_again_at_once_after_a_reconnect(connect: Connect, orders: str) -> None:
    broker = await connect("hold_s=60")
    await publish(broker, *(sending(str(number), orders) for number in range(20)))
    received = await fetch(broker)
    await broker.acknowledge("inventory", [received[0].token])
    await broker.disconnect()
    await broker.connect()
    got: list[Received] = []
    while len(got) < len(received) - 1:
        got += await fetch(broker)
    assert ids_of(got) == ids_of(received)[1:]


async def test_a_consumer_that_is_deleted_is_noticed(
    connect: Connect, client: Client, stream: str, orders: str
) -> None:
    broker = await connect()
    fetching = asyncio.create_task(fetch(broker))
    consumer = consumer_name("inventory")
    while not (await client.jetstream().consumer_info(stream, consumer)).num_waiting:
        await asyncio.sleep(0.01)
    await client.jetstream().delete_consumer(stream, consumer)
    with pytest.raises(Disconnected, match="Consumer Deleted"):
        await fetching
    with pytest.raises(Disconnected, match="503"):
        await fetch(broker)


async def test_who_waits_hears_at_once_that_the_connection_is_gone(nats_url: str, connect: Connect) -> None:
    port = int(nats_url.rpartition(":")[2])
    with FaultProxy(HOST, port) as proxy:
        broker = await connect(server=f"nats://{HOST}:{proxy.port}")
        fetching = asyncio.create_task(broker.fetch("inventory", 10))
        asking = asyncio.create_task(broker.check([queue("a.b")], []))
        await asyncio.sleep(0)
        async with asyncio.timeout(5):
            proxy.reset()
            with pytest.raises(Disconnected):
                await fetching
            with pytest.raises(Disconnected):
                await asking
            with pytest.raises(Disconnected, match="is gone"):
                await broker.send([sending("1", "a.b")])


async def test_a_connection_that_does_not_answer_is_let_go(nats_url: str, connect: Connect, orders: str) -> None:
    port = int(nats_url.rpartition(":")[2])
    with FaultProxy(HOST, port) as proxy:
        broker = await connect(server=f"nats://{HOST}:{proxy.port}")
        proxy.lose_replies()
        async with asyncio.timeout(PATIENCE_S):
            with pytest.raises(Disconnected, match="answered only 0 of 1"):
                await broker.send([sending("1", orders)])
            await broker.disconnect()


async def test_others_read_what_we_send_and_we_what_they_send(connect: Connect, client: Client, orders: str) -> None:
    broker = await connect()
    subscription = await client.subscribe(orders)
    await heard_by_server(client)
    await publish(broker, sending("1", orders, b'{"a": 1}', note="100 % \N{SNOWMAN}"))
    theirs = await subscription.next_msg(timeout=PATIENCE_S)
    headers = dict(theirs.headers or {})
    assert headers.pop("Nats-Msg-Id").startswith(f"{orders} tests 1 ")
    assert (theirs.data, headers) == (
        b'{"a": 1}',
        {
            "Nats-Expected-Stream": orders.partition(".")[0],
            "ce-id": "1",
            "ce-source": "tests",
            "ce-type": "OrderCreated",
            "ce-note": "100%20%25%20%E2%98%83",
        },
    )
    strange = {"Ce-Id": "2", "Content-Type": "text/plain", "ce-note": "\N{SNOWMAN} a:b", "other": "header"}
    await client.publish(orders, b"text", headers=strange)
    await client.publish(orders, b"bare")
    received = [one for _ in range(3) for one in await fetch(broker, limit=1)]
    assert [(one.body, dict(one.attributes)) for one in received[1:]] == [
        (b"text", {"id": "2", "datacontenttype": "text/plain", "note": "\N{SNOWMAN} a:b"}),
        (b"bare", {}),
    ]


async def test_an_attribute_that_can_be_no_header_is_refused_alone(connect: Connect, orders: str) -> None:
    broker = await connect()
    wrong, right = await broker.send([sending("1", orders, **{"a\r\nb": "c"}), sending("2", orders)])
    assert isinstance(wrong, MessageError)
    assert right is None
    assert ids_of(await fetch(broker)) == ["2"]


async def test_more_than_the_client_wants_to_have_waiting_is_sent_in_order(connect: Connect, orders: str) -> None:
    broker = await connect()
    body = b"x" * 300_000
    await publish(broker, *(sending(str(number), orders, body) for number in range(30)))
    got: list[str] = []
    while len(got) < 30:
        got += ids_of(await fetch(broker))
    assert got == [str(number) for number in range(30)]


async def test_who_cannot_handle_a_message_stops_nobody_from_hearing(nats_url: str, stream: str) -> None:
    connection = await Connection.to(parse(f"{nats_url}/{stream}"), "test")
    heard: list[bytes] = []

    def fail(message: Heard) -> None:
        raise ValueError(message.body)

    try:
        await connection.subscribe(f"{stream}.bad", fail)
        await connection.subscribe(f"{stream}.good", lambda message: heard.append(message.body))
        await connection.publish([Request(f"{stream}.bad", b"1"), Request(f"{stream}.good", b"2")])
        with pytest.raises(NoStream):  # its answer comes behind both
            await connection.ask(Request(f"{stream}.nobody"))
        assert heard == [b"2"]
    finally:
        await connection.close()
    with pytest.raises(Disconnected):
        await connection.publish([Request(f"{stream}.good")])


# Who we are

AUTHORIZATION = """
authorization {
  users: [
    {
      user: "shop", password: "s3cr:t@/"
      permissions: { publish: ["$JS.API.>", "$JS.ACK.>", "shop.>"], subscribe: ["_INBOX_shop.>"] }
    }
    {
      user: "guest", password: "guest"
      permissions: {
        publish: [
          "$JS.API.STREAM.INFO.shop", "$JS.API.CONSUMER.INFO.shop.*", "$JS.API.CONSUMER.MSG.NEXT.shop.*"
          "$JS.ACK.shop.>", "shop.>"
        ]
        subscribe: ["_INBOX_shop.>"]
      }
    }
  ]
}
"""


@pytest.fixture
def guarded(servers_path: Path) -> Iterator[Server]:
    with Nats(servers_path, settings=AUTHORIZATION) as server:
        yield server


async def test_a_user_with_few_permissions_is_enough(guarded: Server) -> None:
    url = guarded.url.replace("nats://", "nats://shop:s3cr%3At%40%2F@")
    server, subject = split(f"{url}/shop?inbox=_INBOX_shop", "orders")
    broker = NatsBroker(server, SystemIds())
    try:
        await broker.connect()
        await broker.declare([queue(subject)], [subject], only_new=False)
        async with asyncio.timeout(5):  # the server does not answer what is not allowed
            right, wrong = await broker.send([sending("1", subject), sending("2", "elsewhere.orders")])
        assert right is None
        assert isinstance(wrong, ConfigurationError)
        guest = NatsBroker(server.replace("shop:s3cr%3At%40%2F@", "guest:guest@"), SystemIds())
        await guest.connect()
        assert await guest.check([queue(subject)], [subject]) == []
        await publish(guest, sending("2", subject))
        received = await fetch(guest)
        assert ids_of(received) == ["1", "2"]
        await guest.keep("inventory", [received[0].token])
        await guest.acknowledge("inventory", [one.token for one in received])
        async with asyncio.timeout(5):
            with pytest.raises(ConfigurationError, match="does not allow it"):
                await guest.declare([queue(subject, group="payment")], [subject], only_new=False)
        await guest.disconnect()
    finally:
        await broker.disconnect()


@pytest.mark.parametrize("who", ["shop:wr0ng@", ""])
async def test_a_wrong_password_is_said_and_not_repeated(guarded: Server, who: str) -> None:
    broker = NatsBroker(guarded.url.replace("nats://", f"nats://{who}") + "/shop", SystemIds())
    with pytest.raises(ConfigurationError, match="does not know us") as raised:
        await broker.connect()
    assert "wr0ng" not in str(raised.value)
    assert "wr0ng" not in repr(broker.address)


async def test_a_token(servers_path: Path) -> None:
    with Nats(servers_path, settings='authorization { token: "t0ken" }') as server:
        broker = NatsBroker(f"{server.url}/shop?token=t0ken", SystemIds())
        await broker.connect()
        await broker.disconnect()
        with pytest.raises(ConfigurationError):
            await NatsBroker(f"{server.url}/shop?token=wrong", SystemIds()).connect()


async def test_who_we_are_is_not_told_to_a_server_without_tls(nats_url: str) -> None:
    broker = NatsBroker(nats_url.replace("nats://", "nats+tls://shop:s3cret@") + "/shop", SystemIds())
    with pytest.raises(ConfigurationError, match="does not offer TLS"):
        await broker.connect()


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """An authority, and a certificate for both ends that it has signed."""
    return make_certificates(tmp_path_factory.mktemp("tls"), "shop")


async def test_tls_with_certificates_at_both_ends(servers_path: Path, certificates: Mapping[str, Path]) -> None:
    settings = (
        f'tls {{ cert_file: "{certificates["own"]}", key_file: "{certificates["own-key"]}", '
        f'ca_file: "{certificates["authority"]}", verify: true }}'
    )
    with Nats(servers_path, settings=settings) as server:
        url = server.url.replace("nats://", "nats+tls://") + "/shop"
        ca, ours = f"ca={certificates['authority']}", f"certificate={certificates['own']}&key={certificates['own-key']}"
        broker = NatsBroker(f"{url}?{ca}&{ours}", SystemIds())
        await broker.connect()
        await broker.declare([queue("shop.orders")], ["shop.orders"], only_new=False)
        await publish(broker, sending("1", "shop.orders"))
        assert ids_of(await fetch(broker)) == ["1"]
        await broker.disconnect()
        with pytest.raises(ConfigurationError, match="not trusted here"):
            await NatsBroker(f"{url}?{ours}", SystemIds()).connect()
        with pytest.raises((ConfigurationError, Disconnected)):
            await NatsBroker(f"{url}?{ca}", SystemIds()).connect()
        with pytest.raises(ConfigurationError, match="cannot be used"):
            await NatsBroker(f"{url}?ca=/nowhere", SystemIds()).connect()


async def test_a_server_without_jetstream_is_refused(servers_path: Path) -> None:
    with WithoutJetStream(servers_path) as server, pytest.raises(ConfigurationError, match="without JetStream"):
        await NatsBroker(f"{server.url}/shop", SystemIds()).connect()


class WithoutJetStream(Nats):
    def launch(self) -> None:
        self.spawn([PROGRAM, "-a", HOST, "-p", str(self.port)])

    def is_ready(self) -> bool:
        with socket.create_connection((HOST, self.port), 5) as connection:
            return connection.recv(4096).startswith(b"INFO ")


async def test_a_server_that_is_away_is_not_a_wrong_setting() -> None:
    async with asyncio.timeout(PATIENCE_S):
        with pytest.raises(Disconnected):
            await NatsBroker(f"nats://{HOST}:9/shop", SystemIds()).connect()


# URLs


@pytest.mark.parametrize(
    ("url", "server", "subject"),
    [
        ("nats://h", "nats://h/minuet", "minuet.inventory.reserved"),
        ("nats://h:1,g:2/shop?replicas=3", "nats://h:1,g:2/shop?replicas=3", "shop.inventory.reserved"),
        ("nats://h/ORDERS/orders.{channel}", "nats://h/ORDERS", "orders.inventory.reserved"),
        ("nats://h/{channel}", "nats://h/inventory-reserved", "inventory-reserved.inventory.reserved"),
        ("nats+tls://u:p%40@h/shop?ca=/a/b", "nats+tls://u:p%40@h/shop?ca=/a/b", "shop.inventory.reserved"),
    ],
)
def test_the_address_of_a_channel(url: str, server: str, subject: str) -> None:
    assert split(url, "inventory.reserved") == (server, subject)


@pytest.mark.parametrize(
    "url",
    [
        "nats://",
        "http://h/shop",
        "nats://h/sh.op",
        "nats://h/shop/a/b",
        "nats://h/shop/a.>",
        "nats://h:port/shop",
        "nats://user@h/shop",
        "nats://u:s3cret@h/shop?token=s3cret",
        "nats://h/shop?hold_s=s3cret",
        "nats://h/shop?replicas=0",
        "nats://h/shop?retention=interest",
        "nats://h/shop?ca=/a",
        "nats+tls://h/shop?key=/a",
    ],
)
def test_an_address_that_makes_no_sense(url: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        split(url, "orders")
    assert "s3cret" not in str(raised.value)


def test_a_pattern_covers_a_subject() -> None:
    assert all(covers(one, "a.b.c") for one in ("a.b.c", "a.*.c", "a.>", "*.b.>", ">"))
    assert not any(covers(one, "a.b.c") for one in ("a.b", "a.b.c.>", "a.*", "b.>", "a.b.c.d"))
    assert covers("a.>", "a.b.>")
    assert not covers("a.*", "a.>")
