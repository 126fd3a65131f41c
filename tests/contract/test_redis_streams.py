"""Redis Streams keep the promises of a transport, and some of their own."""

import asyncio
import itertools
import json
import os
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from redis.asyncio import Redis as Client

from dev.servers.base import HOST, Server, free_port
from dev.servers.redis import PROGRAM, Redis
from minuet.adapters.broker import BrokerTransport
from minuet.adapters.broker.port import Disconnected, Queue, Received, Sending
from minuet.adapters.redis_streams import RedisBroker, split
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


class TestRedisStreams(TransportContract):
    features = RedisBroker.features
    patience_s = PATIENCE_S
    leaves_out_unwanted = False
    private: Server

    @pytest.fixture(autouse=True)
    def url(self, request: pytest.FixtureRequest, servers_path: Path, prefix: str) -> Iterator[str]:
        if "killed" not in request.node.name:
            yield f"{server_url('redis')}?prefix={prefix}:&hold_s={HOLD_S}"
            return
        with private_server("redis", servers_path) as self.private:
            yield f"{self.private.url}?prefix={prefix}:&hold_s={HOLD_S}"

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
        async with Client.from_url(server_url("redis")) as client:
            await client.delete(f"{self.prefix_now}:orders")

    async def send_bare(self, channel: str, body: bytes) -> None:
        async with Client.from_url(server_url("redis")) as client:
            await client.xadd(f"{self.prefix_now}:{channel}", {"body": body})


def transport_to(url: str, *, provision: bool = True) -> BrokerTransport:
    places = {channel: split(url, channel) for channel in CHANNELS}
    (server,) = {server for server, _ in places.values()}
    streams = {channel: stream for channel, (_, stream) in places.items()}
    return BrokerTransport(RedisBroker(server, SystemIds()), streams, ids=SystemIds(), provision=provision)


# The broker class by itself

Connect = Callable[..., Awaitable[RedisBroker]]
GROUP = "minuet.inventory"


def sending(
    event_id: str, destination: str, body: bytes = b"{}", must_arrive: bool = True, **attributes: str
) -> Sending:
    attributes = {"id": event_id, "source": "tests", "type": "OrderCreated", **attributes}
    return Sending(destination=destination, key="", attributes=attributes, body=body, must_arrive=must_arrive)


def queue(*destinations: str, group: str = "inventory") -> Queue:
    return Queue(group=group, destinations=tuple(sorted(destinations)), types={}, unwanted={})


def ids_of(received: Sequence[Received]) -> list[str]:
    return [one.attributes["id"] for one in received]


@pytest.fixture
def orders() -> str:
    return f"t{SystemIds().new()[:10]}:orders"


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[Client]:
    async with Client.from_url(redis_url, protocol=2) as connected:
        yield connected


@pytest.fixture
async def connect(redis_url: str, orders: str) -> AsyncIterator[Connect]:
    """Connects once more, with a group that hears ``orders``."""
    async with AsyncExitStack() as stack:

        async def one(options: str = f"hold_s={HOLD_S}", server: str = redis_url) -> RedisBroker:
            broker = RedisBroker(f"{server}?{options}", SystemIds())
            stack.push_async_callback(broker.disconnect)
            await broker.connect()
            await broker.declare([queue(orders)], [orders], only_new=True)
            return broker

        yield one


async def fetch(broker: RedisBroker, limit: int = 100, group: str = "inventory") -> Sequence[Received]:
    async with asyncio.timeout(PATIENCE_S):
        return await broker.fetch(group, limit)


async def fetch_many(broker: RedisBroker, count: int) -> list[Received]:
    got: list[Received] = []
    while len(got) < count:
        got += await fetch(broker)
    return got


async def publish(broker: RedisBroker, *messages: Sending) -> None:
    assert list(await broker.send(messages)) == [None] * len(messages)


async def lengths(client: Client, *streams: str) -> list[int]:
    return [await client.xlen(stream) for stream in streams]


async def test_a_new_group_gets_what_comes_from_now_on(connect: Connect, orders: str) -> None:
    broker = await connect()
    await publish(broker, sending("1", orders))
    await broker.declare([queue(orders, group="payment")], [orders], only_new=False)
    await publish(broker, sending("2", orders))
    assert ids_of(await fetch(broker, group="payment")) == ["2"]
    assert ids_of(await fetch_many(broker, 2)) == ["1", "2"]


async def test_a_group_wants_other_streams_from_now_on(connect: Connect, orders: str) -> None:
    broker, other = await connect(), f"{orders}.other"
    assert await broker.check([queue(other)], [orders, other]) == [
        f"stream {other} has no group {GROUP}",
        f"stream {orders} has a group {GROUP}, which does not want it",
    ]
    await broker.declare([queue(other)], [orders, other], only_new=False)
    assert await broker.check([queue(other)], [orders, other]) == []
    await publish(broker, sending("1", orders, must_arrive=False), sending("2", other))
    assert ids_of(await fetch(broker)) == ["2"]


async def test_a_group_of_another_process_is_left_as_it_is_and_a_lost_stream_of_ours_is_made_again(
    connect: Connect, client: Client, orders: str
) -> None:
    broker, stranger, other = await connect(), await connect(), f"{orders}.other"
    await broker.declare([queue(orders, other)], [orders, other], only_new=False)
    await stranger.declare([queue(orders)], [orders, other], only_new=True)
    assert await broker.check([queue(orders, other)], [orders, other]) == []
    await client.delete(other)
    await broker.declare([queue(orders, other)], [orders, other], only_new=True)
    assert await broker.check([queue(orders, other)], [orders, other]) == []


async def test_what_nobody_would_get_is_refused_alone(connect: Connect, client: Client, orders: str) -> None:
    broker, unheard = await connect(), f"{orders}.unheard"
    outcomes = await broker.send(
        [sending("1", orders), sending("2", unheard), sending("3", unheard, must_arrive=False), sending("4", orders)]
    )
    assert [outcome is None for outcome in outcomes] == [True, False, True, True]
    assert f"stream {unheard} has no group" in str(outcomes[1])
    assert await lengths(client, orders, unheard) == [2, 1]


async def test_a_message_too_large_is_refused_alone(connect: Connect, orders: str) -> None:
    broker = await connect()
    body = b"x" * broker.features.body_bytes_max
    fits, large = await broker.send([sending("1", orders, body), sending("2", orders, body + b"x")])
    assert fits is None
    assert isinstance(large, MessageError)
    assert ids_of(await fetch(broker)) == ["1"]


async def test_a_strangers_entry_has_all_its_fields_as_its_body(connect: Connect, client: Client, orders: str) -> None:
    broker = await connect()
    await client.xadd(orders, {"order": "o-1", "CE-Type": "OrderCreated", b"\xff": b"\xfe"})
    (received,) = await fetch(broker)
    assert received.attributes == {"type": "OrderCreated"}
    assert json.loads(received.body) == {"order": "o-1", "\ufffd": "\ufffd"}


async def test_no_more_than_asked_for_of_many_streams_and_each_has_its_turn(connect: Connect, orders: str) -> None:
    broker = await connect()
    streams = [f"{orders}.{number}" for number in range(6)]
    await broker.declare([queue(*streams)], streams, only_new=False)
    await publish(broker, *(sending(str(n), stream) for stream, n in itertools.product(streams, range(10))))
    got: list[Received] = []
    while len(got) < 60:
        received = await fetch(broker, 4)
        assert 1 <= len(received) <= 4
        got += received
    assert {one.destination for one in got[:24]} == set(streams)
    for stream in streams:
        assert ids_of([one for one in got if one.destination == stream]) == [str(n) for n in range(10)]


async def test_who_stops_fetching_gives_back_what_came(connect: Connect, orders: str) -> None:
    broker, other = await connect("hold_s=60"), await connect("hold_s=60")
    for number in range(60):
        fetching = asyncio.create_task(broker.fetch("inventory", 10))
        await asyncio.sleep(0)
        sent = asyncio.create_task(publish(broker, sending(str(number), orders)))
        for _ in range(number % 30):
            await asyncio.sleep(0)
        fetching.cancel()
        (got,) = await asyncio.gather(fetching, return_exceptions=True)
        await sent
        received = await fetch(other) if isinstance(got, BaseException) else got
        assert ids_of(received) == [str(number)]
        await other.acknowledge("inventory", [one.token for one in received])


async def test_who_stops_fetching_need_not_wait(connect: Connect) -> None:
    broker = await connect()
    for _ in range(10):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await broker.fetch("inventory", 10)
    async with asyncio.timeout(PATIENCE_S):
        await broker.disconnect()


async def test_what_is_kept_goes_to_nobody_else_and_what_is_not_does(connect: Connect, orders: str) -> None:
    broker, other = await connect(), await connect()
    await publish(broker, sending("1", orders), sending("2", orders))
    kept, let_go = await fetch(broker)
    fetching = asyncio.create_task(fetch(other))
    while not fetching.done():
        await broker.keep("inventory", [kept.token])
        await asyncio.wait({fetching}, timeout=HOLD_S / 4)
    assert [(one.attributes["id"], one.deliveries) for one in fetching.result()] == [("2", 2)]
    await broker.keep("inventory", [let_go.token])  # too late: it stays the other's
    await broker.give_back("inventory", [let_go.token])
    await other.acknowledge("inventory", [let_go.token])
    await broker.give_back("inventory", [kept.token])
    assert ids_of(await fetch(other)) == ["1"]


async def test_what_is_given_back_goes_to_others_soon_and_in_order(connect: Connect, orders: str) -> None:
    broker, other = await connect("hold_s=60"), await connect("hold_s=60")
    await publish(broker, *(sending(str(number), orders) for number in range(20)))
    received = await fetch_many(broker, 20)
    fetching = asyncio.create_task(fetch_many(other, 20))
    await broker.give_back("inventory", [one.token for one in received])
    got = await fetching
    assert ids_of(got) == ids_of(received)
    assert {one.deliveries for one in got} == {2}


async def test_what_was_in_hand_comes_again_at_once_after_a_reconnect_and_before_what_is_new(
    connect: Connect, orders: str
) -> None:
    broker = await connect("hold_s=60")
    await publish(broker, *(sending(str(number), orders) for number in range(20)))
    received = await fetch_many(broker, 20)
    await broker.acknowledge("inventory", [received[0].token])
    await broker.disconnect()
    await broker.connect()
    await publish(broker, sending("20", orders))
    assert ids_of(await fetch_many(broker, 20)) == [str(number) for number in range(1, 21)]


async def test_a_group_that_is_deleted_is_noticed(connect: Connect, client: Client, orders: str) -> None:
    broker = await connect()
    fetching = asyncio.create_task(fetch(broker))
    await asyncio.sleep(0)
    await client.xgroup_destroy(orders, GROUP)
    with pytest.raises(Disconnected):
        await fetching


async def test_scripts_that_were_forgotten_are_given_again(connect: Connect, client: Client, orders: str) -> None:
    broker = await connect()
    await client.script_flush()
    await publish(broker, *(sending(str(number), orders) for number in range(3)))
    assert ids_of(await fetch_many(broker, 3)) == ["0", "1", "2"]
    assert await client.xlen(orders) == 3


async def test_a_connection_that_does_not_answer_is_let_go(
    redis_url: str, client: Client, connect: Connect, orders: str
) -> None:
    port = int(redis_url.rpartition(":")[2].partition("/")[0])
    with FaultProxy(HOST, port) as proxy:
        broker = await connect(server=f"redis://{HOST}:{proxy.port}/0")
        fetching = asyncio.create_task(broker.fetch("inventory", 10))
        while not [
            one for one in await client.client_list() if one["flags"] == "b" and one["name"].startswith("minuet-")
        ]:
            pass  # until it waits for messages
        proxy.lose_replies()
        async with asyncio.timeout(PATIENCE_S):
            with pytest.raises(Disconnected):
                await broker.send([sending("1", orders)])
            with pytest.raises(Disconnected):
                await fetching
            await broker.disconnect()


# Tidying up


async def test_what_all_groups_have_handled_is_dropped_and_no_more(
    connect: Connect, client: Client, orders: str
) -> None:
    broker = await connect()
    await broker.declare([queue(orders, group="payment")], [orders], only_new=False)
    await client.xgroup_create(orders, "stranger", "$")
    await publish(broker, *(sending(str(number), orders) for number in range(10)))

    async def left() -> list[str]:
        await broker.tend()
        return [fields[b"ce-id"].decode() for _, fields in await client.xrange(orders)]

    inventory, payment = await fetch_many(broker, 10), await fetch(broker, group="payment")
    await broker.acknowledge("inventory", [one.token for one in inventory])
    await broker.acknowledge("payment", [one.token for one in (*payment[:3], *payment[4:])])
    assert await left() == [str(number) for number in range(10)]
    await client.xreadgroup("stranger", "s", {orders: ">"}, count=5, noack=True)
    assert await left() == [str(number) for number in range(3, 10)]
    await broker.acknowledge("payment", [payment[3].token])
    assert await left() == [str(number) for number in range(4, 10)]
    await client.xgroup_destroy(orders, "stranger")
    assert await left() == ["9"]


async def test_what_was_handled_is_kept_for_as_long_as_was_asked_for(
    connect: Connect, client: Client, orders: str
) -> None:
    broker = await connect("keep_s=3600")
    old = await client.xadd(orders, {"body": "{}"}, id="1-1")
    assert old == b"1-1"
    await publish(broker, sending("1", orders), sending("2", orders))
    await broker.acknowledge("inventory", [one.token for one in await fetch_many(broker, 3)])
    await broker.tend()
    assert [fields.get(b"ce-id") for _, fields in await client.xrange(orders)] == [b"1", b"2"]


async def test_where_nobody_listens_old_messages_are_dropped(connect: Connect, client: Client, orders: str) -> None:
    broker, unheard = await connect(), f"{orders}.unheard"
    await broker.declare([queue(orders)], [orders, unheard], only_new=False)
    await client.xadd(unheard, {"body": "{}"}, id="1-1")
    await publish(broker, sending("1", unheard, must_arrive=False))
    await broker.tend()
    assert await lengths(client, unheard) == [1]


async def test_consumers_that_are_gone_are_deleted_unless_they_have_something(
    connect: Connect, client: Client, orders: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker, leaving, dying = await connect(), await connect(), await connect()
    await publish(broker, sending("1", orders), sending("2", orders))
    await fetch(dying, 1)
    await leaving.acknowledge("inventory", [one.token for one in await fetch(leaving, 1)])

    async def consumers() -> int:
        return len(await client.xinfo_consumers(orders, GROUP))

    assert await consumers() == 2
    await leaving.disconnect()
    await dying.disconnect()
    assert await consumers() == 1
    await client.xgroup_createconsumer(orders, GROUP, "gone")
    monkeypatch.setattr("minuet.adapters.redis_streams.broker.GONE_S", 0.001)
    async with asyncio.timeout(PATIENCE_S):
        while await consumers() > 1:
            await broker.tend()
    assert ids_of(await fetch(broker)) == ["1"]


# Who we are, and other servers


class Guarded(Redis):
    def launch(self) -> None:
        user = "user shop on >s3cr:t@/ ~shop:* +@stream +@scripting +client|id +client|setname +client|unblock +time"
        self.spawn(
            [PROGRAM, "--bind", HOST, "--port", str(self.port), "--requirepass", "other", *("--" + user).split()]
        )

    def is_ready(self) -> bool:
        with socket.create_connection((HOST, self.port), 5) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(64).startswith(b"-NOAUTH")


@pytest.fixture
def guarded(servers_path: Path) -> Iterator[Server]:
    with Guarded(servers_path) as server:
        yield server


async def test_a_user_with_few_permissions_is_enough(guarded: Server) -> None:
    server, stream = split(guarded.url.replace("://", "://shop:s3cr%3At%40%2F@") + "?prefix=shop:", "orders")
    broker = RedisBroker(server, SystemIds())
    try:
        await broker.connect()
        await broker.declare([queue(stream)], [stream], only_new=False)
        await publish(broker, sending("1", stream))
        (received,) = await fetch(broker)
        await broker.keep("inventory", [received.token])
        await broker.acknowledge("inventory", [received.token])
        right, wrong = await broker.send([sending("2", stream), sending("3", "elsewhere:orders")])
        assert right is None
        assert "does not allow it" in str(wrong)
        assert isinstance(wrong, ConfigurationError)
    finally:
        await broker.disconnect()


@pytest.mark.parametrize("who", ["shop:wr0ng@", ":wr0ng@", ""])
async def test_a_wrong_password_is_said_and_not_repeated(guarded: Server, who: str) -> None:
    broker = RedisBroker(guarded.url.replace("://", f"://{who}"), SystemIds())
    with pytest.raises(ConfigurationError, match="does not know us") as raised:
        await broker.connect()
    assert "wr0ng" not in str(raised.value)
    assert "wr0ng" not in repr(broker.address)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """An authority, and a certificate for both ends that it has signed."""
    return make_certificates(tmp_path_factory.mktemp("tls"), "shop")


class WithTls(Redis):
    settings: Sequence[object] = ()

    def launch(self) -> None:
        self.spawn([PROGRAM, "--bind", HOST, "--port", str(self.port), *map(str, self.settings)])


async def test_tls_with_certificates_at_both_ends(servers_path: Path, certificates: Mapping[str, Path]) -> None:
    server, port = WithTls(servers_path), free_port()
    server.settings = [
        *("--tls-port", port, "--tls-cert-file", certificates["own"], "--tls-key-file", certificates["own-key"]),
        *("--tls-ca-cert-file", certificates["authority"]),
    ]
    with server:
        url = f"rediss://{HOST}:{port}/0"
        ca, ours = f"ca={certificates['authority']}", f"certificate={certificates['own']}&key={certificates['own-key']}"
        broker = RedisBroker(f"{url}?{ca}&{ours}", SystemIds())
        await broker.connect()
        await broker.declare([queue("orders")], ["orders"], only_new=False)
        await publish(broker, sending("1", "orders"))
        assert ids_of(await fetch(broker)) == ["1"]
        await broker.disconnect()
        with pytest.raises(ConfigurationError, match="not trusted here"):
            await RedisBroker(f"{url}?{ours}", SystemIds()).connect()
        with pytest.raises((ConfigurationError, Disconnected)):
            await RedisBroker(f"{url}?{ca}", SystemIds()).connect()
        with pytest.raises(ConfigurationError, match="cannot be used"):
            await RedisBroker(f"{url}?ca=/nowhere", SystemIds()).connect()


class Cluster(Redis):
    def launch(self) -> None:
        # Else it takes its own port plus 10,000, where somebody may be listening.
        cluster = ["--cluster-enabled", "yes", "--cluster-port", str(free_port())]
        self.spawn([PROGRAM, "--bind", HOST, "--port", str(self.port), *cluster])


async def test_a_cluster_is_refused(servers_path: Path) -> None:
    with Cluster(servers_path) as server, pytest.raises(ConfigurationError, match="Cluster, which is not supported"):
        await RedisBroker(server.url, SystemIds()).connect()


async def test_a_server_that_is_full_keeps_what_it_has(servers_path: Path) -> None:
    with Redis(servers_path) as server:
        broker = RedisBroker(server.url, SystemIds())
        await broker.connect()
        await broker.declare([queue("orders")], ["orders"], only_new=False)
        await publish(broker, sending("1", "orders"))
        async with Client.from_url(server.url) as client:
            await client.config_set("maxmemory", 1)
            (outcome,) = await broker.send([sending("2", "orders")])
            assert "OOM" in str(outcome)
            (received,) = await fetch(broker)
            await broker.acknowledge("inventory", [received.token])
            await client.config_set("maxmemory", 0)
        await publish(broker, sending("2", "orders"))
        await broker.disconnect()


async def test_too_few_replicas_are_no_success(connect: Connect, orders: str) -> None:
    broker = await connect("replicas=1")
    (outcome,) = await broker.send([sending("1", orders)])
    assert "only 0 of 1 replicas" in str(outcome)


class Replica(Redis):
    source = 0

    def launch(self) -> None:
        where = [PROGRAM, "--bind", HOST, "--port", str(self.port), "--dir", self.folder]
        self.spawn([*where, "--replicaof", f"{HOST} {self.source}"])


async def test_enough_replicas_are(servers_path: Path) -> None:
    with Redis(servers_path / "source") as source:
        replica = Replica(servers_path / "replica")
        replica.source = source.port
        with replica:
            broker = RedisBroker(f"{source.url}?replicas=1", SystemIds())
            await broker.connect()
            await broker.declare([queue("orders")], ["orders"], only_new=False)
            async with asyncio.timeout(PATIENCE_S):
                while (await broker.send([sending("1", "orders")]))[0] is not None:
                    pass  # the replica has not finished its first copy
                # What was to be sent while the server had no script for it has to be copied all the same.
                os.kill(replica.processes[0].pid, signal.SIGSTOP)
                async with Client.from_url(source.url) as client:
                    await client.script_flush()
                (outcome,) = await broker.send([sending("2", "orders")])
                assert "only 0 of 1 replicas" in str(outcome)
                os.kill(replica.processes[0].pid, signal.SIGCONT)
            await broker.disconnect()


async def test_a_server_that_is_away_is_not_a_wrong_setting() -> None:
    async with asyncio.timeout(PATIENCE_S):
        with pytest.raises(Disconnected):
            await RedisBroker(f"redis://{HOST}:9/0", SystemIds()).connect()


async def test_a_server_that_does_not_encrypt_is_refused(redis_url: str) -> None:
    broker = RedisBroker(redis_url.replace("redis://", "rediss://shop:s3cret@"), SystemIds())
    async with asyncio.timeout(PATIENCE_S):
        with pytest.raises(Disconnected):
            await broker.connect()


# URLs


@pytest.mark.parametrize(
    ("url", "server", "stream"),
    [
        ("redis://h", "redis://h/0", "minuet:inventory.reserved"),
        ("redis://h:1/2?prefix=shop:&keep_s=60", "redis://h:1/2?keep_s=60", "shop:inventory.reserved"),
        ("redis://h/0?prefix=", "redis://h/0", "inventory.reserved"),
        ("rediss://u:p%40@h/0?ca=/a/b", "rediss://u:p%40@h/0?ca=%2Fa%2Fb", "minuet:inventory.reserved"),
    ],
)
def test_the_address_of_a_channel(url: str, server: str, stream: str) -> None:
    assert split(url, "inventory.reserved") == (server, stream)


@pytest.mark.parametrize(
    "url",
    [
        "redis://",
        "http://h/0",
        "redis://h/shop",
        "redis://h:port/0",
        "redis://user@h/0",
        "redis://h/0?prefix=a b",
        "redis://h/0?hold_s=s3cret",
        "redis://h/0?replicas=-1",
        "redis://h/0?password=s3cret",
        "redis://h/0?ca=/a",
        "rediss://h/0?key=/a",
        "rediss://h/0?ca=",
    ],
)
def test_an_address_that_makes_no_sense(url: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        split(url, "orders")
    assert "s3cret" not in str(raised.value)
