"""The adapter for RabbitMQ keeps the promises on a real server, with each type of queue, and says it in CloudEvents."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

import aio_pika
import pytest
from aio_pika.abc import AbstractChannel
from aiormq import spec

from dev.servers.base import HOST, free_port
from dev.servers.rabbitmq import RabbitMq
from minuet.adapters.broker import BrokerTransport
from minuet.adapters.broker.port import Disconnected, Queue, Received, Sending
from minuet.adapters.rabbitmq import RabbitMqBroker, split
from minuet.adapters.system import SystemIds
from minuet.core.errors import ConfigurationError
from minuet.ports import Features, Transport
from minuet.testing.transport_contract import CHANNELS, OpenTransport, TransportContract
from tests.certificates import make_certificates
from tests.faults import FaultProxy

pytestmark = pytest.mark.server

PATIENCE_S = 60.0
SETTLED_S = 8.0
"""RabbitMQ 3.10 forgets a quorum queue if it is killed within a few seconds after the queue was made."""

OpenBroker = Callable[..., RabbitMqBroker]


# -- the servers -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """An authority, and a certificate for both ends that it has signed."""
    return make_certificates(tmp_path_factory.mktemp("tls"), "guest")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, certificates: Mapping[str, Path]) -> Iterator[RabbitMq]:
    """A private one, which a test may kill and start again. It also speaks TLS, and wants certificates there."""
    settings = {
        "listeners.ssl.1": f"{HOST}:{free_port()}",
        "ssl_options.cacertfile": str(certificates["authority"]),
        "ssl_options.certfile": str(certificates["own"]),
        "ssl_options.keyfile": str(certificates["own-key"]),
        "ssl_options.verify": "verify_peer",
        "ssl_options.fail_if_no_peer_cert": "true",
        "ssl_cert_login_from": "common_name",
        "auth_mechanisms.1": "PLAIN",
        "auth_mechanisms.2": "EXTERNAL",
    }
    server = RabbitMq(tmp_path_factory.mktemp("rabbitmq"), settings, ["rabbitmq_auth_mechanism_ssl"])
    with server:
        yield server


def tls_url(server: RabbitMq, user: str = "guest:guest@", **options: object) -> str:
    query = "&".join(f"{name}={value}" for name, value in options.items())
    return f"amqps://{user}{server.settings['listeners.ssl.1']}/?{query}"


# -- the suite ---------------------------------------------------------------------------------------------------------


class RabbitMqContract(TransportContract):
    patience_s: ClassVar[float] = PATIENCE_S
    leaves_out_unwanted: ClassVar[bool] = False  # a binding is for all types of a channel
    options: ClassVar[str]

    @pytest.fixture
    def base_url(self) -> str:
        raise NotImplementedError

    @pytest.fixture
    def open_with(self, base_url: str, prefix: str) -> Callable[..., BrokerTransport]:
        self.url = f"{base_url}/{prefix}?prefix={prefix}.&{self.options}"

        def open_with(**arguments: Any) -> BrokerTransport:
            parts = {channel: split(self.url, channel) for channel in CHANNELS}
            (server_part,) = {part for part, _ in parts.values()}
            destinations = {channel: destination for channel, (_, destination) in parts.items()}
            return BrokerTransport(RabbitMqBroker(server_part, SystemIds()), destinations, ids=SystemIds(), **arguments)

        return open_with

    @pytest.fixture
    def open_transport(self, open_with: Callable[..., BrokerTransport]) -> OpenTransport:
        return open_with

    @pytest.fixture
    def open_unprovisioned(self, open_with: Callable[..., BrokerTransport]) -> OpenTransport:
        return lambda: open_with(provision=False)

    async def send_bare(self, channel: str, body: bytes) -> None:
        async with a_stranger(self.url) as stranger:
            exchange = await stranger.get_exchange(self.prefix_now)
            await exchange.publish(aio_pika.Message(body), channel)

    async def unroute(self, transport: Transport) -> None:
        async with a_stranger(self.url) as stranger:
            queue = await stranger.get_queue(f"{self.prefix_now}.{self.group('inventory')}")
            await queue.unbind(self.prefix_now, "orders")


class TestClassicQueues(RabbitMqContract):
    features: ClassVar[Features] = Features(ordered_across_members=False, counts_deliveries=False)
    options: ClassVar[str] = "queue=classic"
    server: RabbitMq

    @pytest.fixture
    def base_url(self, server: RabbitMq) -> str:
        self.server = server
        return server.url

    async def restart(self) -> None:
        await asyncio.to_thread(self.server.kill)
        await asyncio.to_thread(self.server.start)


class SharedServerContract(RabbitMqContract):
    @pytest.fixture
    def base_url(self, rabbitmq_url: str) -> str:
        return rabbitmq_url


class TestQuorumQueues(SharedServerContract):
    features: ClassVar[Features] = Features(ordered_per_key=False, ordered_across_members=False)
    options: ClassVar[str] = "queue=quorum"


class TestQuorumQueuesWithASingleActiveConsumer(SharedServerContract):
    features: ClassVar[Features] = Features(shares_lanes=True)
    options: ClassVar[str] = "queue=quorum&single-active-consumer=true"


class TestClassicQueuesWithASingleActiveConsumer(SharedServerContract):
    features: ClassVar[Features] = Features(shares_lanes=True, counts_deliveries=False)
    options: ClassVar[str] = "queue=classic&single-active-consumer=true"


# -- what is RabbitMQ's own --------------------------------------------------------------------------------------------


@asynccontextmanager
async def a_stranger(url: str) -> AsyncIterator[AbstractChannel]:
    """Somebody who knows nothing of minuet."""
    async with await aio_pika.connect(url.partition("?")[0].rpartition("/")[0] + "/") as connection:
        yield await connection.channel(on_return_raises=True)


def wanting(group: str, *destinations: str) -> Queue:
    nothing: dict[str, frozenset[str]] = dict.fromkeys(destinations, frozenset())
    return Queue(group, destinations, nothing, nothing)


def sending(destination: str, message_id: str, *, must_arrive: bool = True, **attributes: str) -> Sending:
    return Sending(destination, "", {"id": message_id, "type": "OrderCreated", **attributes}, b"{}", must_arrive)


@pytest.fixture
def exchange() -> str:
    return f"x{SystemIds().new()}"


@pytest.fixture
async def open_broker(exchange: str, rabbitmq_url: str) -> AsyncIterator[OpenBroker]:
    """One more connection, not connected yet, with names of this test's own; disconnected at its end."""
    brokers: list[RabbitMqBroker] = []

    def one(options: str = "", url: str = rabbitmq_url) -> RabbitMqBroker:
        server_part, _ = split(f"{url}/{exchange}?prefix={exchange}.&{options}", "orders")
        brokers.append(RabbitMqBroker(server_part, SystemIds()))
        return brokers[-1]

    yield one
    for broker in brokers:
        await broker.disconnect()


@pytest.fixture
async def broker(open_broker: OpenBroker, exchange: str) -> RabbitMqBroker:
    """With the group ``stock``, which wants ``orders``."""
    broker = open_broker()
    await broker.connect()
    await broker.declare([wanting("stock", f"{exchange}/orders")], [f"{exchange}/orders"], only_new=False)
    return broker


async def soon(fetching: Any) -> Any:
    async with asyncio.timeout(PATIENCE_S):
        return await fetching


def ids_of(received: list[Received]) -> list[str]:
    return [one.attributes["id"] for one in received]


async def test_a_stranger_hears_what_the_seed_describes(rabbitmq_url: str, open_broker: OpenBroker) -> None:
    """An AMQP consumer bound to the exchange with a pattern sees the body and the attributes."""
    async with a_stranger(rabbitmq_url + "/") as stranger:
        events = await stranger.declare_exchange("events", "topic", durable=True)
        queue = await stranger.declare_queue(exclusive=True)
        await queue.bind(events, "inventory.#")
        server_part, destination = split(f"{rabbitmq_url}/events", "inventory.reserved")
        broker = open_broker()
        await broker.connect()
        body = b'{"orderId":"o-1","status":"RESERVED"}'
        attributes = {
            **{"specversion": "1.0", "id": "m-1", "type": "InventoryReserved", "source": "inventory"},
            **{"time": "2026-01-31T12:00:00.5Z", "datacontenttype": "application/json", "correlationid": "c-\u00fc"},
        }
        assert await broker.send([Sending(destination, "o-1", attributes, body, must_arrive=False)]) == [None]
        heard = await soon(queue.get(timeout=PATIENCE_S))
    assert (heard.body, heard.routing_key) == (body, "inventory.reserved")
    expected = {f"cloudEvents_{name}": value for name, value in attributes.items() if name != "datacontenttype"}
    assert heard.headers == expected
    assert (heard.content_type, heard.message_id, heard.type) == ("application/json", "m-1", "InventoryReserved")
    assert (heard.correlation_id, heard.delivery_mode) == ("c-\u00fc", aio_pika.DeliveryMode.PERSISTENT)
    assert heard.timestamp is not None
    assert heard.timestamp.isoformat() == "2026-01-31T12:00:00+00:00"
    assert server_part == f"{rabbitmq_url}/"


async def test_a_strangers_cloud_event_is_understood_whatever_its_prefix(
    broker: RabbitMqBroker, exchange: str, rabbitmq_url: str
) -> None:
    headers = {
        **{
            "cloudEvents:id": "m-1",
            "cloudEvents_type": "OrderCreated",
            "cloudEvents:HOPS": 3,
            "cloudEvents:flag": True,
        },
        **{"cloudEvents_none": None, "cloudEvents_data": bytearray(b"\xff\xfe"), "other": "left out"},
    }
    async with a_stranger(rabbitmq_url + "/") as stranger:
        to = await stranger.get_exchange(exchange)
        await to.publish(aio_pika.Message(b"1", headers=headers, content_type="text/plain"), "orders")
    (heard,) = await soon(broker.fetch("stock", 10))
    assert heard.destination == f"{exchange}/orders"
    assert dict(heard.attributes) == {
        **{"id": "m-1", "type": "OrderCreated", "hops": "3", "flag": "true", "data": "//4="},
        "datacontenttype": "text/plain",
    }


class Spoilt(spec.Basic.Properties):
    """Written as a program would that does not keep to the protocol: names that are no UTF-8, time in microseconds."""

    def marshal(self) -> bytes:
        written: bytes = super().marshal()
        return written.replace(b"ZZZZ", b"\xff\xfe\xff\xfe").replace(
            int(NOON.timestamp()).to_bytes(8, "big"), int(NOON.timestamp() * 1e6).to_bytes(8, "big")
        )


NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    "properties",
    [Spoilt(headers={"ZZZZ": "x"}), Spoilt(content_type="ZZZZ"), Spoilt(timestamp=NOON, headers={"a": "b"})],
    ids=["header", "content type", "timestamp"],
)
async def test_properties_that_nobody_can_read_hold_nobody_up(
    broker: RabbitMqBroker, exchange: str, rabbitmq_url: str, properties: Spoilt
) -> None:
    async with a_stranger(rabbitmq_url + "/") as stranger:
        channel = await stranger.get_underlay_channel()
        await channel.basic_publish(b"spoilt", exchange=exchange, routing_key="orders", properties=properties)
    assert await broker.send([sending(f"{exchange}/orders", "1")]) == [None]
    heard: list[Received] = []
    while len(heard) < 2:
        heard += await soon(broker.fetch("stock", 10))
    assert [one.body for one in heard] == [b"spoilt", b"{}"]
    assert dict(heard[0].attributes) == {}
    await broker.acknowledge("stock", [one.token for one in heard])


async def test_what_fits_no_queue_is_a_failure_only_where_somebody_listens(
    broker: RabbitMqBroker, exchange: str
) -> None:
    nowhere = f"{exchange}/nowhere"
    outcomes = await broker.send(
        [
            sending(nowhere, "1"),
            sending(nowhere, "2", must_arrive=False),
            sending(f"{exchange}/orders", "3"),
            sending(nowhere, "4"),
        ]
    )
    assert [type(outcome).__name__ for outcome in outcomes] == ["NotKept", "NoneType", "NoneType", "NotKept"]
    assert "is its group declared?" in str(outcomes[0])


async def test_messages_of_one_id_have_each_their_own_outcome(broker: RabbitMqBroker, exchange: str) -> None:
    outcomes = await broker.send(
        [sending(f"{exchange}/nowhere", "1"), sending(f"{exchange}/orders", "1"), sending(f"{exchange}/nowhere", "1")]
    )
    assert [outcome is None for outcome in outcomes] == [False, True, False]


async def test_what_cannot_be_written_fails_alone(broker: RabbitMqBroker, exchange: str) -> None:
    to = f"{exchange}/orders"
    long = "\u00fc" * 300
    outcomes = await broker.send(
        [
            sending(to, "1", large="\u00fc" * 49_000),
            sending(to, "2", **{"n" * 200: "x"}),
            sending(to, "3", large="\u00fc" * 70_000),
            sending(to, long, time="never", correlationid=long, datacontenttype=long),
        ]
    )
    assert [type(outcome).__name__ for outcome in outcomes] == ["NoneType", "MessageError", "MessageError", "NoneType"]
    heard: list[Received] = []
    while len(heard) < 2:
        heard += await soon(broker.fetch("stock", 10))
    assert ids_of(heard) == ["1", long]
    assert heard[1].attributes["datacontenttype"] == long


async def test_a_cancelled_fetch_leaves_nothing_in_nobodys_hands(
    broker: RabbitMqBroker, open_broker: OpenBroker, exchange: str
) -> None:
    fetching = asyncio.create_task(broker.fetch("stock", 10))
    await broker.send([sending(f"{exchange}/orders", str(number)) for number in range(20)])
    (*_, last) = await soon(fetching)
    idle = asyncio.create_task(broker.fetch("stock", 100))
    heard = ids_of(await soon(idle)) + ids_of([last])
    cancelled = asyncio.create_task(broker.fetch("stock", 10))
    await asyncio.sleep(0)
    cancelled.cancel()
    await asyncio.gather(cancelled, return_exceptions=True)
    await broker.send([sending(f"{exchange}/orders", "for another")])
    other = open_broker()
    await other.connect()
    got: list[Received] = []
    while "for another" not in ids_of(got):
        got += await soon(other.fetch("stock", 10))
    assert not {*heard} & {*ids_of(got)}
    await other.acknowledge("stock", [one.token for one in got])
    await broker.send([sending(f"{exchange}/orders", "after that")])
    await other.disconnect()
    assert ids_of(await soon(broker.fetch("stock", 10))) == ["after that"]


async def test_tokens_of_an_earlier_connection_are_ignored(broker: RabbitMqBroker, exchange: str) -> None:
    await broker.send([sending(f"{exchange}/orders", "1")])
    (first,) = await soon(broker.fetch("stock", 10))
    await broker.connect()
    (again,) = await soon(broker.fetch("stock", 10))
    assert (again.attributes["id"], again.deliveries) == ("1", 2)
    await broker.acknowledge("stock", [first.token, ("never", "there")])
    await broker.give_back("stock", [first.token])
    await broker.connect()
    (still,) = await soon(broker.fetch("stock", 10))
    await broker.acknowledge("stock", [still.token, still.token])


async def test_any_part_of_what_was_fetched_may_be_acknowledged(broker: RabbitMqBroker, exchange: str) -> None:
    await broker.send([sending(f"{exchange}/orders", str(number)) for number in range(10)])
    heard: list[Received] = []
    while len(heard) < 10:
        heard += await soon(broker.fetch("stock", 4))
    tokens = {one.attributes["id"]: one.token for one in heard}
    await broker.acknowledge("stock", [tokens[name] for name in ("5", "0", "1", "7")])
    await broker.acknowledge("stock", [tokens[name] for name in ("2", "3")])
    await broker.connect()
    rest: list[Received] = []
    while len(rest) < 4:
        rest += await soon(broker.fetch("stock", 10))
    assert sorted(ids_of(rest)) == ["4", "6", "8", "9"]


async def test_a_group_hears_no_more_of_what_it_does_not_want(broker: RabbitMqBroker, exchange: str) -> None:
    orders, payments = f"{exchange}/orders", f"{exchange}/payments"
    await broker.declare([wanting("stock", payments)], [orders, payments], only_new=True)
    assert [outcome is None for outcome in await broker.send([sending(orders, "1"), sending(payments, "2")])] == [1, 0]
    await broker.declare([wanting("stock", payments)], [orders, payments], only_new=False)
    assert [outcome is None for outcome in await broker.send([sending(orders, "3"), sending(payments, "4")])] == [0, 1]


@pytest.mark.parametrize("what", ["queue", "exchange"])
async def test_what_disappears_is_noticed_and_made_again(
    broker: RabbitMqBroker, exchange: str, rabbitmq_url: str, what: str
) -> None:
    orders = f"{exchange}/orders"
    fetching = asyncio.create_task(broker.fetch("stock", 10))
    assert await broker.send([sending(orders, "1")]) == [None]
    await soon(fetching)
    fetching = asyncio.create_task(broker.fetch("stock", 10))
    async with a_stranger(rabbitmq_url + "/") as stranger:
        if what == "queue":
            await stranger.queue_delete(f"{exchange}.stock")
            with pytest.raises(Disconnected, match="is gone"):
                await soon(fetching)
        else:
            await stranger.exchange_delete(exchange)
            with pytest.raises(Disconnected, match="no exchange"):
                await soon(broker.send([sending(orders, "2")]))
    assert f"{what} {exchange}" in " ".join(await broker.check([wanting("stock", orders)], [orders]))
    fetching.cancel()
    await asyncio.gather(fetching, return_exceptions=True)
    await broker.connect()
    await broker.declare([wanting("stock", orders)], [orders], only_new=True)
    assert await broker.check([wanting("stock", orders)], [orders]) == []
    assert await broker.send([sending(orders, "3")]) == [None]


async def test_what_an_operator_made_is_used_and_looked_at(
    open_broker: OpenBroker, exchange: str, rabbitmq_url: str
) -> None:
    orders = f"{exchange}/orders"
    async with a_stranger(rabbitmq_url + "/") as stranger:
        await stranger.declare_exchange(exchange, "direct", durable=True)
        arguments: Any = {"x-queue-type": "classic", "x-dead-letter-exchange": "elsewhere"}
        await stranger.declare_queue(f"{exchange}.stock", durable=True, arguments=arguments)
        await stranger.declare_queue(f"{exchange}.payment", durable=True)
    broker, quorum = open_broker(), open_broker("queue=quorum")
    await broker.connect()
    await broker.declare([wanting("stock", orders)], [orders], only_new=False)
    assert await broker.send([sending(orders, "1")]) == [None]
    assert await broker.check([wanting("stock", orders)], [orders]) == []
    await quorum.connect()
    (difference,) = await quorum.check([wanting("payment", orders)], [orders])
    assert "x-queue-type" in difference


# -- connections -------------------------------------------------------------------------------------------------------


async def test_who_is_not_let_in_is_told_so(open_broker: OpenBroker, rabbitmq_url: str) -> None:
    for url, wrong in (
        (rabbitmq_url.replace("guest:guest", "guest:Secret1"), "refused user guest"),
        (rabbitmq_url.replace("guest:guest", "nobody:Secret1"), "refused user nobody"),
    ):
        with pytest.raises(ConfigurationError, match=wrong) as refused:
            await open_broker(url=url).connect()
        assert "Secret1" not in str(refused.value)
    with pytest.raises(ConfigurationError, match=r"virtual host nowhere.* make it"):
        await open_broker("vhost=nowhere").connect()


async def test_a_server_that_is_away_may_come_back(open_broker: OpenBroker) -> None:
    broker = open_broker(url=f"amqp://guest:Secret1@{HOST}:{free_port()}")
    for call in (
        broker.connect,
        lambda: broker.send([sending("x/y", "1")]),
        lambda: broker.fetch("stock", 1),
        lambda: broker.declare([], ["x/y"], only_new=False),
        lambda: broker.check([], ["x/y"]),
    ):
        with pytest.raises(Disconnected) as lost:
            await call()
        assert "Secret1" not in str(lost.value)
    await broker.disconnect()
    await broker.disconnect()


async def test_tls_with_certificates_of_both_ends(
    server: RabbitMq, certificates: Mapping[str, Path], open_broker: OpenBroker, tmp_path: Path
) -> None:
    def connecting(user: str = "guest:guest@", **options: object) -> RabbitMqBroker:
        server_part, _ = split(tls_url(server, user, **options), "orders")
        return RabbitMqBroker(server_part, SystemIds())

    own = {"cafile": certificates["authority"], "certfile": certificates["own"], "keyfile": certificates["own-key"]}
    certified = connecting("", auth="external", **own)
    await certified.connect()
    await certified.disconnect()
    trusted = connecting(**own)
    await trusted.connect()
    await trusted.declare([wanting("tls", "tls/orders")], ["tls/orders"], only_new=False)
    assert await trusted.send([sending("tls/orders", "1")]) == [None]
    assert ids_of(await soon(trusted.fetch("tls", 1))) == ["1"]
    await trusted.disconnect()
    with pytest.raises(ConfigurationError, match="cafile"):
        await connecting().connect()
    with pytest.raises(ConfigurationError, match=r"cannot use .*missing\.pem"):
        await connecting(cafile=tmp_path / "missing.pem").connect()
    with pytest.raises((Disconnected, ConfigurationError)):
        await connecting(cafile=certificates["authority"]).connect()


async def test_a_silent_connection_is_noticed_by_its_heartbeat(
    broker: RabbitMqBroker, open_broker: OpenBroker, exchange: str, rabbitmq_url: str
) -> None:
    port = int(rabbitmq_url.rpartition(":")[2])
    with FaultProxy(HOST, port) as proxy:
        behind = open_broker("heartbeat=1", url=f"amqp://guest:guest@{HOST}:{proxy.port}")
        await behind.connect()
        fetching = asyncio.create_task(behind.fetch("stock", 1))
        await broker.send([sending(f"{exchange}/orders", "1")])
        (held,) = await soon(fetching)
        fetching = asyncio.create_task(behind.fetch("stock", 1))
        proxy.black_hole()
        with pytest.raises(Disconnected):
            await soon(fetching)
        async with asyncio.timeout(PATIENCE_S / 4):
            await behind.disconnect()
        (again,) = await soon(broker.fetch("stock", 1))
    assert (again.attributes["id"], again.deliveries) == (held.attributes["id"], 2)


async def test_a_confirmation_that_is_lost_is_no_confirmation(
    broker: RabbitMqBroker, open_broker: OpenBroker, exchange: str, rabbitmq_url: str
) -> None:
    with FaultProxy(HOST, int(rabbitmq_url.rpartition(":")[2])) as proxy:
        behind = open_broker("heartbeat=1", url=f"amqp://guest:guest@{HOST}:{proxy.port}")
        await behind.connect()
        proxy.lose_replies()
        with pytest.raises(Disconnected):
            await soon(behind.send([sending(f"{exchange}/orders", "1")]))
        proxy.heal()
        await behind.connect()
        assert await soon(behind.send([sending(f"{exchange}/orders", "1")])) == [None]
    heard: list[Received] = []
    while len(heard) < 2:
        heard += await soon(broker.fetch("stock", 10))
    assert ids_of(heard) == ["1", "1"]


@pytest.mark.slow
async def test_a_worker_needs_few_rights(server: RabbitMq, open_broker: OpenBroker, exchange: str) -> None:
    """Those of the documentation."""
    orders, queue = f"{exchange}/orders", wanting("stock", f"{exchange}/orders")
    await asyncio.to_thread(server.control, "add_user", exchange, "secret")
    may = ("^$", f"^{exchange}$", rf"^{exchange}\.stock$")
    await asyncio.to_thread(server.control, "set_permissions", exchange, *may)
    worker = open_broker(url=server.url.replace("guest:guest", f"{exchange}:secret"))
    await worker.connect()
    with pytest.raises(ConfigurationError, match="give the user that right, or make it beforehand"):
        await worker.declare([queue], [orders], only_new=False)
    assert len(await worker.check([queue], [orders])) == 2
    maker = open_broker(url=server.url)
    await maker.connect()
    await maker.declare([queue], [orders], only_new=False)
    assert await worker.check([queue], [orders]) == []
    await worker.declare([queue], [orders], only_new=True)
    assert await worker.send([sending(orders, "1")]) == [None]
    (one,) = await soon(worker.fetch("stock", 10))
    await worker.acknowledge("stock", [one.token])


@pytest.mark.slow
async def test_during_an_alarm_nothing_is_sent_and_everything_can_be_settled(
    server: RabbitMq, open_broker: OpenBroker, exchange: str
) -> None:
    orders = f"{exchange}/orders"
    broker = open_broker(url=server.url)
    await broker.connect()
    await broker.declare([wanting("stock", orders)], [orders], only_new=False)
    assert await broker.send([sending(orders, "1")]) == [None]
    await asyncio.to_thread(server.control, "set_vm_memory_high_watermark", "0.0000001")
    try:
        for number in "23":
            (outcome,) = await soon(broker.send([sending(orders, number)]))
            assert "memory and disk alarms" in str(outcome)
        (one,) = await soon(broker.fetch("stock", 1))
        await broker.acknowledge("stock", [one.token])
    finally:
        await asyncio.to_thread(server.control, "set_vm_memory_high_watermark", "absolute", "512MiB")
    async with asyncio.timeout(PATIENCE_S):
        while await broker.send([sending(orders, "4")]) != [None]:
            await asyncio.sleep(0)
    heard: list[Received] = []
    while "4" not in ids_of(heard):
        heard += await soon(broker.fetch("stock", 10))
    assert {*ids_of(heard)} <= {"2", "3", "4"}


@pytest.mark.slow
@pytest.mark.parametrize("options", ["", "&single-active-consumer=true"])
async def test_a_quorum_queue_survives_a_kill(
    server: RabbitMq, open_broker: OpenBroker, exchange: str, options: str
) -> None:
    orders = f"{exchange}/orders"
    broker = open_broker(f"queue=quorum{options}", url=server.url)
    await broker.connect()
    await broker.declare([wanting("stock", orders)], [orders], only_new=False)
    await asyncio.sleep(SETTLED_S)  # there is no signal for what the server does meanwhile
    sent = [str(number) for number in range(300)]
    assert await broker.send([sending(orders, one) for one in sent]) == [None] * len(sent)
    fetching = asyncio.create_task(broker.fetch("stock", 100))
    await soon(fetching)
    await asyncio.to_thread(server.kill)
    with pytest.raises(Disconnected):
        await soon(broker.send([sending(orders, "lost")]))
    await asyncio.to_thread(server.start)
    await broker.connect()
    heard: list[Received] = []
    while len(heard) < len(sent):
        some = await soon(broker.fetch("stock", 100))
        await broker.acknowledge("stock", [one.token for one in some])
        heard += some
    # Without a single active consumer, the new one may be served before the queue finds that the old one is gone.
    assert ids_of(heard) == sent if options else sorted(ids_of(heard), key=int) == sent


# -- URLs --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "channel", "expected"),
    [
        ("amqp://h", "orders", ("amqp://h/", "minuet/orders")),
        ("amqp://h/events", "inventory.reserved", ("amqp://h/", "events/inventory.reserved")),
        ("amqp://h/events/shop.{channel}", "orders", ("amqp://h/", "events/shop.orders")),
        (
            "amqp://u:p%40@h:1/{channel}?vhost=/a&queue=quorum",
            "o",
            ("amqp://u:p%40@h:1/?queue=quorum&vhost=%2Fa", "o/o"),
        ),
        ("amqp://h/x?vhost=a&heartbeat=20", "o", ("amqp://h/?heartbeat=20&vhost=a", "x/o")),
    ],
)
def test_a_url_is_split(url: str, channel: str, expected: tuple[str, str]) -> None:
    assert split(url, channel) == expected


@pytest.mark.parametrize(
    ("url", "wrong"),
    [
        ("kafka://u:Secret1@h/x", "not RabbitMQ's"),
        ("amqp://u:Secret1@h:Secret1/x", "cannot be read"),
        ("amqp://u:Secret1@/x", "names no host"),
        ("amqp://u:Secret1@h/a/b/c", "3 parts"),
        ("amqp://u:Secret1@h/a/b.*", "pattern"),
        ("amqp://u:Secret1@h/a?vhosts=b", "vhosts of amqp://h is unknown"),
        ("amqp://u:Secret1@h/a?vhost=b&vhost=c", "twice"),
        ("amqp://u:Secret1@h/a?queue=stream", "classic or quorum"),
        ("amqp://u:Secret1@h/a?heartbeat=0", "from 1 to"),
        ("amqp://u:Secret1@h/a?prefetch=many", "from 1 to"),
        ("amqp://u:Secret1@h/a?single-active-consumer=yes", "true or false"),
        ("amqp://u:Secret1@h/a?auth=digest", "plain or external"),
        ("amqp://u:Secret1@h/a?cafile=/ca.pem", "amqps"),
        ("amqps://u:Secret1@h/a?keyfile=/key.pem", "certfile"),
        (f"amqp://u:Secret1@h/{'x' * 300}", "255 bytes"),
    ],
)
def test_a_url_that_makes_no_sense_is_refused_without_its_password(url: str, wrong: str) -> None:
    with pytest.raises(ConfigurationError, match=wrong) as refused:
        split(url, "orders")
    assert "Secret1" not in str(refused.value)


def test_no_password_is_shown() -> None:
    broker = RabbitMqBroker("amqp://u:Secret1@h/", SystemIds())
    assert "Secret1" not in repr(broker) + repr(broker.settings) + str(broker.settings) + broker.settings.shown
