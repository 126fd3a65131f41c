"""Apache Kafka keeps the promises of a transport, and some of its own."""

import asyncio
import gc
import json
import socket
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pytest
from confluent_kafka import KafkaError, Producer
from confluent_kafka.admin import AdminClient, NewPartitions
from hypothesis import given
from hypothesis import strategies as st

from dev.servers.base import HOST, Server, free_port
from dev.servers.kafka import PASSWORD, Kafka
from minuet.adapters.broker import BrokerTransport
from minuet.adapters.broker.port import Disconnected, Queue, Received, Sending
from minuet.adapters.kafka import KafkaBroker, split
from minuet.adapters.kafka.failures import error_from
from minuet.adapters.kafka.headers import attributes_from, headers_of
from minuet.adapters.kafka.progress import Progress
from minuet.adapters.kafka.receiving import Inbound
from minuet.adapters.kafka.sending import Outbound
from minuet.adapters.kafka.url import options_from, seldom
from minuet.adapters.system import SystemIds
from minuet.core.errors import ConfigurationError, MessageError
from minuet.ports import Transport
from minuet.testing.transport_contract import CHANNELS, OpenTransport, TransportContract
from tests.servers import private_server, server_url

PATIENCE_S = 40.0


@pytest.mark.server
class TestKafka(TransportContract):
    features = KafkaBroker.features
    patience_s = PATIENCE_S
    leaves_out_unwanted = False
    options = "partitions=3"
    private: Server

    @pytest.fixture(autouse=True)
    def server(self, request: pytest.FixtureRequest, servers_path: Path) -> Iterator[str]:
        if "killed" not in request.node.name:
            yield server_url("kafka")
            return
        with private_server("kafka", servers_path) as self.private:
            yield self.private.url

    @pytest.fixture
    def open_transport(self, server: str, prefix: str) -> OpenTransport:
        return lambda: transport_to(f"{server}/{prefix}.{{channel}}?{self.options}")

    @pytest.fixture
    def open_unprovisioned(self, server: str, prefix: str) -> OpenTransport:
        return lambda: transport_to(f"{server}/{prefix}.{{channel}}?{self.options}", provision=False)

    async def restart(self) -> None:
        await asyncio.to_thread(self.private.kill)
        await asyncio.to_thread(self.private.start)

    async def unroute(self, transport: Transport) -> None:
        def delete() -> None:
            admin = AdminClient({"bootstrap.servers": address(server_url("kafka"))})
            topic = f"{self.prefix_now}.orders"
            admin.delete_topics([topic])[topic].result(PATIENCE_S)

        await asyncio.to_thread(delete)

    async def send_bare(self, channel: str, body: bytes) -> None:
        producer = Producer({"bootstrap.servers": address(server_url("kafka"))})
        producer.produce(f"{self.prefix_now}.{channel}", body)
        assert await asyncio.to_thread(producer.flush, PATIENCE_S) == 0


@pytest.mark.server
class TestKafkaWithClassicGroups(TestKafka):
    options = "partitions=3&protocol=classic"


def transport_to(url: str, *, provision: bool = True) -> BrokerTransport:
    places = {channel: split(url, channel) for channel in CHANNELS}
    (server,) = {server for server, _ in places.values()}
    topics = {channel: topic for channel, (_, topic) in places.items()}
    return BrokerTransport(KafkaBroker(server, SystemIds()), topics, ids=SystemIds(), provision=provision)


def address(url: str) -> str:
    return url.removeprefix("kafka://")


# The broker class by itself

Connect = Callable[..., Awaitable[KafkaBroker]]


def sending(event_id: str, topic: str, *, key: str = "", body: bytes = b"{}", **attributes: str) -> Sending:
    attributes = {"id": event_id, "source": "tests", "type": "OrderCreated", **attributes}
    return Sending(destination=topic, key=key, attributes=attributes, body=body, must_arrive=True)


def queue(*topics: str, group: str) -> Queue:
    return Queue(group=group, destinations=tuple(sorted(topics)), types={}, unwanted={})


def ids_of(received: Sequence[Received]) -> list[str]:
    return [one.attributes["id"] for one in received]


@pytest.fixture
def group() -> str:
    return f"g{SystemIds().new()[:10]}"


@pytest.fixture
def topic() -> str:
    return f"t{SystemIds().new()[:10]}.orders"


@pytest.fixture
def url(kafka_url: str) -> str:
    return f"{kafka_url}?partitions=4"


@pytest.fixture
async def connect(url: str, topic: str, group: str) -> AsyncIterator[Connect]:
    """Connects once more, with a group that hears the topic."""
    async with AsyncExitStack() as stack:

        async def one(url: str = url) -> KafkaBroker:
            broker = KafkaBroker(url, SystemIds())
            stack.push_async_callback(broker.disconnect)
            await broker.connect()
            await broker.declare([queue(topic, group=group)], [topic], only_new=True)
            return broker

        yield one


async def publish(broker: KafkaBroker, *messages: Sending) -> None:
    assert list(await broker.send(messages)) == [None] * len(messages)


async def fetch(broker: KafkaBroker, group: str, *, least: int = 1, limit: int = 100) -> list[Received]:
    received: list[Received] = []
    async with asyncio.timeout(PATIENCE_S):
        while len(received) < least:
            received += await broker.fetch(group, limit)
    return received


async def finish(broker: KafkaBroker, group: str, received: Sequence[Received]) -> None:
    await broker.acknowledge(group, [one.token for one in received])


@pytest.mark.server
async def test_kcat_sees_cloudevents_headers_the_key_and_the_body(connect: Connect, topic: str) -> None:
    broker = await connect()
    event = sending(
        "1", topic, key="o-1", body=b'{"total":7}', subject="Gr\u00fc\u00dfe", datacontenttype="application/json"
    )
    await publish(broker, event)
    command = ["kcat", "-b", address(server_url("kafka")), "-C", "-t", topic, "-o", "beginning", "-e", "-q", "-J"]
    seen = await asyncio.to_thread(subprocess.run, command, capture_output=True, check=True, timeout=PATIENCE_S)
    record = json.loads(seen.stdout)
    assert (record["key"], record["payload"]) == ("o-1", '{"total":7}')
    headers = dict(zip(record["headers"][::2], record["headers"][1::2], strict=True))
    assert headers == {
        "ce_id": "1",
        "ce_source": "tests",
        "ce_type": "OrderCreated",
        "ce_subject": "Gr\u00fc\u00dfe",
        "content-type": "application/json",
    }


@pytest.mark.server
async def test_a_new_group_gets_what_is_published_from_now_on(connect: Connect, topic: str) -> None:
    broker = await connect()
    await publish(broker, *(sending(str(n), topic, key=str(n)) for n in range(20)))
    late = f"late-{topic}"
    await broker.declare([queue(topic, group=late)], [topic], only_new=False)
    await publish(broker, sending("new", topic))
    await broker.declare([queue(topic, group=late)], [topic], only_new=False)
    assert ids_of(await fetch(broker, late)) == ["new"]


@pytest.mark.server
async def test_a_group_with_members_gets_of_another_topic_what_is_published_from_now_on(
    connect: Connect, topic: str, group: str
) -> None:
    broker = await connect()
    await publish(broker, sending("1", topic))
    await finish(broker, group, await fetch(broker, group))
    other = f"{topic}.other"
    await broker.declare([], [other], only_new=False)
    await publish(broker, sending("old", other))
    second = await connect()
    await second.declare([queue(topic, other, group=group)], [topic, other], only_new=False)
    await publish(second, sending("new", other))
    third = await connect()  # who comes even later must not move the beginning
    await third.declare([queue(topic, other, group=group)], [topic, other], only_new=False)
    assert ids_of(await fetch(third, group)) == ["new"]


@pytest.mark.server
async def test_partitions_that_come_later_are_heard_from_their_start(
    connect: Connect, topic: str, group: str, kafka_url: str
) -> None:
    broker = await connect()
    admin = AdminClient({"bootstrap.servers": address(kafka_url)})
    await asyncio.to_thread(admin.create_partitions([NewPartitions(topic, 12)])[topic].result, PATIENCE_S)
    producer = Producer({"bootstrap.servers": address(kafka_url)})
    for partition in range(12):
        producer.produce(topic, b"{}", partition=partition, headers={"ce_id": str(partition)})
    assert await asyncio.to_thread(producer.flush, PATIENCE_S) == 0
    await broker.declare([queue(topic, group=group)], [topic], only_new=False)
    assert sorted(map(int, ids_of(await fetch(broker, group, least=12)))) == list(range(12))


@pytest.mark.server
async def test_what_stands_behind_something_unfinished_comes_again_to_others(
    connect: Connect, topic: str, group: str
) -> None:
    broker = await connect()
    for number in range(6):
        await publish(broker, sending(str(number), topic, key="a"))
    received = await fetch(broker, group, least=6)
    assert ids_of(received) == [*"012345"]
    await finish(broker, group, [received[n] for n in (0, 1, 3, 5)])
    await broker.disconnect()
    assert ids_of(await fetch(await connect(), group, least=4)) == [*"2345"]


@pytest.mark.server
async def test_what_is_given_back_comes_again(connect: Connect, topic: str, group: str) -> None:
    broker = await connect()
    for number in range(4):
        await publish(broker, sending(str(number), topic, key="a"))
    received = await fetch(broker, group, least=4)
    await broker.give_back(group, [received[2].token])
    assert ids_of(await fetch(broker, group, least=2)) == ["2", "3"]
    await broker.keep(group, [received[2].token])


@pytest.mark.server
async def test_who_holds_all_it_may_still_lets_others_in(connect: Connect, topic: str, group: str) -> None:
    holder = await connect()
    revoked: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
    holder.revoked = lambda group, lane: revoked.put_nowait((group, lane))
    await publish(holder, *(sending(str(n), topic, key=str(n)) for n in range(40)))
    held = await fetch(holder, group, limit=1)  # and nobody fetches any more
    other = await connect()
    got = await fetch(other, group, least=5)
    async with asyncio.timeout(PATIENCE_S):
        lost = {await revoked.get(), await revoked.get()}
    assert {name for name, _ in lost} == {group}
    assert {lane for _, lane in lost} >= {one.lane for one in got}
    if held[0].lane in {one.lane for one in got}:
        assert held[0].token in [one.token for one in got]
    await asyncio.wait_for(finish(holder, group, held), PATIENCE_S)  # too late for some, harmless for all


@pytest.mark.server
@pytest.mark.parametrize("protocol", ["consumer", "classic"])
async def test_a_partition_that_was_taken_away_while_nobody_fetched_is_heard_when_it_is_back(
    connect: Connect, url: str, topic: str, group: str, protocol: str
) -> None:
    """Polling goes on meanwhile, with the partitions paused. They must not come back like that."""
    url = f"{url}&protocol={protocol}"
    holder = await connect(url)
    revoked: asyncio.Queue[str] = asyncio.Queue()
    holder.revoked = lambda group, lane: revoked.put_nowait(lane)
    await publish(holder, sending("first", topic))
    await finish(holder, group, await fetch(holder, group))  # and nobody fetches any more
    other = await connect(url)
    fetching = asyncio.create_task(fetch(other, group))
    async with asyncio.timeout(PATIENCE_S):
        away = {await revoked.get(), await revoked.get()}
    await publish(holder, *(sending(str(n), topic, key=str(n)) for n in range(40)))
    assert {one.lane for one in await fetching} <= away
    heard = await fetch(holder, group)
    assert away.isdisjoint(one.lane for one in heard)
    await other.disconnect()
    async with asyncio.timeout(PATIENCE_S):
        while len(set(ids_of(heard))) < 40:
            heard += await holder.fetch(group, 100)
    assert away <= {one.lane for one in heard}


@pytest.mark.server
async def test_nothing_is_lost_while_members_come_and_go(connect: Connect, topic: str, group: str) -> None:
    publisher = await connect()
    heard: dict[str, list[str]] = {}
    total = 600

    async def consume(member: KafkaBroker) -> None:
        while True:
            received = await member.fetch(group, 20)
            for one in received:
                heard.setdefault(one.attributes["partitionkey"], []).append(one.attributes["id"])
            await finish(member, group, received)

    async def publish_all() -> None:
        for number in range(0, total, 10):
            await publish(
                publisher, *(sending(str(number + k), topic, key=f"k{k}", partitionkey=f"k{k}") for k in range(10))
            )
            await asyncio.sleep(0.05)

    async def live_for(turns: int) -> None:
        for _ in range(turns):
            member = await connect()
            consuming = asyncio.create_task(consume(member))
            done, _ = await asyncio.wait([consuming], timeout=1.0)
            assert not done, consuming.exception()
            consuming.cancel()
            await asyncio.wait([consuming])
            await member.disconnect()

    stays = asyncio.create_task(consume(await connect()))
    await asyncio.gather(publish_all(), live_for(3), live_for(2))
    async with asyncio.timeout(PATIENCE_S):
        while len({one for ids in heard.values() for one in ids}) < total:
            assert not stays.done(), stays.exception()
            await asyncio.sleep(0.05)
    stays.cancel()
    for key, ids in heard.items():
        assert list(dict.fromkeys(ids)) == [str(n) for n in range(total) if f"k{n % 10}" == key]


MEMBER = """
import asyncio, sys
from minuet.adapters.broker.port import Queue
from minuet.adapters.kafka import KafkaBroker
from minuet.adapters.system import SystemIds

async def main(url, topic, group):
    broker = KafkaBroker(url, SystemIds())
    await broker.connect()
    await broker.declare([Queue(group, (topic,), {}, {})], [topic], only_new=True)
    for one in await broker.fetch(group, 100):
        print(one.attributes["id"], flush=True)
    await asyncio.sleep(3600)

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.server
async def test_what_a_killed_process_had_is_taken_over(connect: Connect, url: str, topic: str, group: str) -> None:
    survivor = await connect()
    await publish(survivor, sending("1", topic, key="a"))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", MEMBER, url, topic, group), stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        assert await asyncio.wait_for(process.stdout.readline(), PATIENCE_S) == b"1\n"
    finally:
        process.kill()
        await process.wait()
    assert ids_of(await fetch(survivor, group)) == ["1"]


@pytest.fixture
async def small(url: str, group: str) -> str:
    """A topic that takes little at once."""
    topic = f"small-{group}"
    maker = KafkaBroker(f"{url}&topic.max.message.bytes=40000", SystemIds())
    await maker.connect()
    await maker.declare([], [topic], only_new=True)
    await maker.disconnect()
    return topic


@pytest.mark.server
async def test_a_message_that_the_topic_does_not_take_is_refused_alone(connect: Connect, small: str) -> None:
    broker = await connect()
    outcomes = await broker.send([sending(str(n), small, key=str(n), body=b"x" * 30_000) for n in range(9)])
    assert list(outcomes) == [None] * 9  # though no two of them would fit into one batch
    first, second = await broker.send([sending("1", small, body=b"x" * 50_000), sending("2", small, key="a")])
    assert isinstance(first, MessageError)
    assert second is None
    (different,) = await broker.check([], [small])
    assert "40000" in different


@pytest.mark.server
async def test_a_message_that_the_topic_does_not_take_spoils_nobody_elses_sending(connect: Connect, small: str) -> None:
    broker = await connect()
    large = sending("large", small, body=b"x" * 50_000)
    good = [sending(str(n), small) for n in range(8)]
    # All go in one batch, which is refused as a whole, so that all are tried again at once.
    (first,), *others = await asyncio.gather(*(broker.send([one]) for one in (large, *good)))
    assert isinstance(first, MessageError)
    assert [list(one) for one in others] == [[None]] * len(good)


@pytest.mark.server
async def test_what_is_missing_is_said_and_nothing_is_made(url: str, topic: str, group: str) -> None:
    broker = KafkaBroker(url, SystemIds())
    await broker.connect()
    wanted = [queue(topic, group=group)]
    assert list(await broker.check(wanted, [topic])) == [f"topic {topic} is missing"]
    await broker.declare([], [topic], only_new=False)
    assert list(await broker.check(wanted, [topic])) == [f"group minuet.{group} has not begun on topic {topic}"]
    await broker.declare(wanted, [topic], only_new=False)
    assert list(await broker.check(wanted, [topic])) == []
    await broker.disconnect()
    await broker.disconnect()
    with pytest.raises(Disconnected):
        await broker.check(wanted, [topic])


@pytest.mark.server
async def test_apps_with_services_of_the_same_name_share_a_cluster_by_prefixes(
    connect: Connect, url: str, topic: str, group: str, kafka_url: str
) -> None:
    one, other = await connect(), await connect(f"{url}&prefix=other.")
    await publish(one, sending("1", topic))
    for broker in (one, other):
        received = await fetch(broker, group)
        assert ids_of(received) == ["1"]
        await finish(broker, group, received)
    admin = AdminClient({"bootstrap.servers": address(kafka_url)})
    found = await asyncio.to_thread(admin.list_consumer_groups().result, PATIENCE_S)
    assert {f"minuet.{group}", f"other.{group}"} <= {seen.group_id for seen in found.valid}


@pytest.mark.server
async def test_a_topic_that_is_not_there_is_that_messages_failure(connect: Connect, topic: str) -> None:
    missing, good = await (await connect()).send([sending("1", f"{topic}.nowhere"), sending("2", topic)])
    assert good is None
    assert isinstance(missing, Exception)
    assert not isinstance(missing, Disconnected)
    assert "nowhere" in str(missing)


@pytest.mark.parametrize("what", ["consumer", "producer"])
async def test_where_connections_are_accepted_and_reset_a_client_knocks_seldom(what: str) -> None:
    """As a load balancer does that has no server. With librdkafka's own pauses it would be 70 to 190 times in 10 s."""
    knocks: list[float] = []
    loop = asyncio.get_running_loop()

    async def slam(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        knocks.append(loop.time())
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()

    async with await asyncio.start_server(slam, HOST, 0) as server:
        port = server.sockets[0].getsockname()[1]
        options = seldom(options_from(f"kafka://{HOST}:{port}"), chance=0.0)
        if what == "consumer":
            inbound = Inbound(
                options, loop, group="g", topics=["t"], begin=lambda lanes: lanes, revoked=lambda lane: None
            )
            ending = partial(end, inbound)
        else:
            outbound = Outbound(options, loop)
            sent = asyncio.create_task(outbound.send([sending("1", "t")]))
            ending = partial(end, outbound, sent)
        async with asyncio.timeout(PATIENCE_S):
            while not knocks:
                await asyncio.sleep(0.01)
        await asyncio.sleep(5)
        seen = len(knocks)
        await ending()
        assert 2 <= seen <= 15, [round(one - knocks[0], 2) for one in knocks]
        await asyncio.sleep(2.5)
        assert len(knocks) <= seen + 2  # nobody goes on who was closed


async def end(one: Inbound | Outbound, *tasks: asyncio.Task[Any]) -> None:
    one.close()
    await one.closed(PATIENCE_S)
    await asyncio.gather(*tasks)


async def test_a_client_that_could_not_connect_does_not_go_on_trying() -> None:
    """Not even until the garbage is collected: there is one more after each attempt."""
    before = threads()
    gc.disable()
    try:
        broker = KafkaBroker(f"kafka://{HOST}:{free_port()}", SystemIds())
        for _ in range(3):
            with pytest.raises(Disconnected):
                await broker.connect()
            await broker.disconnect()
        assert threads() <= before + 3  # those of the event loop, in which was waited
    finally:
        gc.enable()


def threads() -> int:
    """Of the process, librdkafka's too: each client has at least three."""
    return sum(1 for _ in Path("/proc/self/task").iterdir())


async def test_nobody_there_means_disconnected() -> None:
    broker = KafkaBroker(f"kafka://{HOST}:{free_port()}", SystemIds())
    async with asyncio.timeout(PATIENCE_S):
        with pytest.raises(Disconnected):
            await broker.connect()
    await broker.disconnect()


@pytest.mark.server
async def test_tls_and_passwords(servers_path: Path, topic: str, group: str) -> None:
    with Kafka(servers_path, secured=True) as server:
        assert isinstance(server, Kafka)
        place = f"{HOST}:{server.secured_port}"
        authority = f"ssl.ca.location={servers_path / 'ca.pem'}"
        broker = KafkaBroker(f"kafka://minuet:{PASSWORD}@{place}?{authority}", SystemIds())
        await broker.connect()
        await broker.declare([queue(topic, group=group)], [topic], only_new=True)
        await publish(broker, sending("1", topic))
        assert ids_of(await fetch(broker, group)) == ["1"]
        assert PASSWORD not in repr(broker)
        await broker.disconnect()
        for url, reason in {
            f"kafka://minuet:not-{PASSWORD}@{place}?{authority}": "denies access",
            f"kafka://minuet:{PASSWORD}@{place}": "ssl.ca.location",
            f"kafka://minuet:{PASSWORD}@{place}?{authority}&sasl.mechanism=SCRAM-SHA-512": "denies access",
        }.items():
            stranger = KafkaBroker(url, SystemIds())
            with pytest.raises(ConfigurationError, match=reason) as caught:
                await stranger.connect()
            assert PASSWORD not in str(caught.value)
            await stranger.disconnect()


# What is pure


@pytest.mark.parametrize(
    ("url", "channel", "expected"),
    [
        ("kafka://a:1,b", "orders", ("kafka://a:1,b", "orders")),
        ("kafka://a/shop.{channel}", "orders", ("kafka://a", "shop.orders")),
        ("kafka://u:p@a/all?partitions=3", "orders", ("kafka://u:p@a?partitions=3", "all")),
        ("kafka://[::1]:1/", "inventory.reserved", ("kafka://[::1]:1", "inventory.reserved")),
    ],
)
def test_a_url_is_split_into_the_server_and_the_topic(url: str, channel: str, expected: tuple[str, str]) -> None:
    assert split(url, channel) == expected


@pytest.mark.parametrize(
    ("url", "hint"),
    [
        ("http://a", "kafka://host"),
        ("kafka://", "kafka://host"),
        ("kafka://u:secret@a:x/t", "host with a port"),
        ("kafka://u:secret@a/with/slash", "cannot be a topic"),
        ("kafka://u:secret@a/t?partitons=3", "partitions"),
        ("kafka://u:secret@a/t?partitions=0", "whole number"),
        ("kafka://u:secret@a/t?protocol=share", "consumer or classic"),
        ("kafka://u:secret@a/t?prefix=a%20b", "letters, digits"),
        ("kafka://u:secret@a/t?librdkafka.acks=0", "at least once"),
        ("kafka://u:secret@a/t?topic.max.message.bytes=100", "more than"),
    ],
)
def test_a_url_that_makes_no_sense_is_refused_without_its_password(url: str, hint: str) -> None:
    with pytest.raises(ConfigurationError, match=hint) as caught:
        split(url, "orders")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("code", [KafkaError._SSL, KafkaError._TRANSPORT])
def test_a_certificate_that_nobody_vouches_for_is_a_matter_of_settings(code: int) -> None:
    failure = KafkaError(code, "sasl_ssl://a:1/bootstrap: SSL routines::certificate verify failed (after 10ms)")
    told = error_from(failure, options_from("kafka://a:1"), "connecting")
    assert isinstance(told, ConfigurationError)
    assert "ssl.ca.location" in str(told)


async def test_a_setting_that_the_client_does_not_know_is_refused_without_the_password() -> None:
    broker = KafkaBroker(f"kafka://u:secret@{HOST}:{free_port()}?librdkafka.no.such.thing=1", SystemIds())
    with pytest.raises(ConfigurationError, match=r"no\.such\.thing") as caught:
        await broker.connect()
    assert "secret" not in str(caught.value)
    assert "secret" not in repr(broker)


def test_pauses_between_attempts_to_connect_differ_and_are_the_urls_if_it_says_so() -> None:
    plain = options_from("kafka://a")
    assert [seldom(plain, chance).client["reconnect.backoff.ms"] for chance in (0.0, 0.5)] == ["1000", "1500"]
    for name in ("reconnect.backoff.ms", "reconnect.backoff.max.ms"):
        said = options_from(f"kafka://a?librdkafka.{name}=50")
        assert seldom(said, 0.5) == said  # the other one might not go with it


def test_features_follow_the_largest_message_of_the_topics() -> None:
    assert KafkaBroker("kafka://a", SystemIds()).features == KafkaBroker.features
    larger = KafkaBroker("kafka://a?topic.max.message.bytes=10000000", SystemIds())
    assert 9_000_000 < larger.features.body_bytes_max < 10_000_000


@given(st.dictionaries(st.from_regex(r"[a-z0-9]{1,20}", fullmatch=True), st.text()))
def test_attributes_survive_as_headers(attributes: dict[str, str]) -> None:
    assert attributes_from(headers_of(attributes)) == attributes


def test_headers_of_strangers_do_no_harm() -> None:
    headers = [("CE_Type", b"X"), ("ce_id", b"\xff"), ("Content-Type", b"a/b"), ("trace", b"1"), ("ce_none", None)]
    assert attributes_from(headers) == {"type": "X", "id": "\ufffd", "datacontenttype": "a/b"}
    assert attributes_from(None) == {}


@given(st.lists(st.integers(0, 30), unique=True).map(sorted), st.randoms(use_true_random=False))
def test_what_is_committed_is_all_that_is_done_without_a_gap(offsets: list[int], random: Random) -> None:
    progress = Progress()
    for offset in offsets:
        progress.give(offset)
    order = [*offsets, *random.sample(range(40), 5)]
    random.shuffle(order)
    done: set[int] = set()
    for offset in order:
        progress.done(offset)
        done.add(offset)
        left = [one for one in offsets if one not in done]
        finished = [one for one in offsets if not left or one < left[0]]
        assert progress.to_commit == (finished[-1] + 1 if finished else None)
        assert progress.is_idle == (not left)
    progress.committed = progress.to_commit
    assert progress.to_commit is None


def test_what_is_rewound_is_given_out_anew() -> None:
    progress = Progress()
    for offset in (3, 4, 6):
        progress.give(offset)
    progress.done(6)
    progress.rewind(4)
    for offset in (4, 6):
        progress.give(offset)
    progress.done(3)
    assert progress.to_commit == 4
    progress.done(4)
    assert progress.to_commit == 5
    progress.done(6)
    assert progress.to_commit == 7
