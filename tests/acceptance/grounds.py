"""What the shop stands on: its stores and what carries its channels. Each shop has a ground of its own.

A `Ground` says what the processes are configured with, and answers for the tests what they ask past the shop: what is
left to be done or delivered, and what a stranger's program does on the broker. The scenarios know no broker.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import sqlite3
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import aio_pika
import nats
import psycopg
import redis.asyncio
from aio_pika.exceptions import ChannelNotFoundEntity
from aiobotocore.session import get_session  # type: ignore[import-untyped]
from confluent_kafka import ConsumerGroupTopicPartitions, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec
from nats.js.errors import NotFoundError

from minuet.adapters.sqlite import SqliteTransport
from minuet.adapters.system import SystemClock, SystemIds
from minuet.core.envelope import Envelope
from minuet.ports import Outgoing
from tests.servers import server_url

EMBEDDED = "embedded"
BROKERS = ("kafka", "rabbitmq", "nats", "redis", "sns")
SEED = "seed"
EVERY = (*(f"{stores}+{broker}" for broker in BROKERS for stores in ("sqlite", "postgres")), SEED)
"""All but the embedded one."""
BY_TURNS = (
    *(
        f"{stores}+{broker}/{('choreography', 'orchestration')[(number + turn) % 2]}"
        for number, broker in enumerate(BROKERS)
        for turn, stores in enumerate(("sqlite", "postgres"))
    ),
    SEED,
)
"""The same, with each broker and each store in both coordinations, but not each pair of them."""
SEED_FILE = Path(__file__).parents[2] / "deploy" / "seed.toml"
REGION = "us-east-1"
ACCOUNT = "123456789012"  # whose everything is at an emulator
GROUPS = ("orders", "inventory", "payment", "shipping", "notifications", "sandbox", "orchestrator")
ANSWER_S_MAX = 20.0
IN_HAND_S = 6
"""What a killed process had in its hands is kept from others for so long, by brokers that do not see its end."""
FEWER = 4
FEWER_ON_AN_EMULATOR = 8  # that of SNS and SQS needs 10 ms for each request
LEFT = {
    "due": "SELECT count(*) FROM minuet_inbox WHERE state = 'due'",
    "parked": "SELECT (SELECT count(*) FROM minuet_parked) + count(*) FROM minuet_inbox WHERE state = 'parked'",
    "unpublished": "SELECT count(*) FROM minuet_outbox",
}


# -- stores ------------------------------------------------------------------------------------------------------------


class Stores(ABC):
    """Where the services of one shop keep their rows."""

    @property
    @abstractmethod
    def url(self) -> str:
        """For ``[stores]``."""

    @abstractmethod
    def left_over(self) -> dict[str, int]:
        """How many rows each service has of what should come to an end."""

    @abstractmethod
    def clear(self) -> None:
        """Nobody needs it any more."""


class SqliteFiles(Stores):
    url = "sqlite:"

    def __init__(self, data: Path) -> None:
        self._data = data

    def left_over(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for file in self._data.glob("*.db"):
            with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=10)) as db:
                tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master")}
                if "minuet_outbox" in tables:
                    for what, query in LEFT.items():
                        ((found[f"{file.stem} {what}"],),) = db.execute(query).fetchall()
        return found

    def clear(self) -> None:
        """They go with their folder."""


class PostgresDatabase(Stores):
    """A database of the shop's own, with a schema for each service."""

    def __init__(self, server: str, name: str) -> None:
        self._server = server
        self._name = name
        with self._administrator() as connection:
            connection.execute(f'CREATE DATABASE "{name}"'.encode())

    @property
    def url(self) -> str:
        return f"{self._server.rpartition('/')[0]}/{self._name}"

    def left_over(self) -> dict[str, int]:
        found: dict[str, int] = {}
        with psycopg.connect(self.url, autocommit=True) as connection:
            tables = connection.execute("SELECT schemaname FROM pg_tables WHERE tablename = 'minuet_outbox'").fetchall()
            for (schema,) in tables:
                connection.execute(f'SET search_path = "{schema}"'.encode())
                for what, query in LEFT.items():
                    ((found[f"{schema} {what}"],),) = connection.execute(query.encode()).fetchall()
        return found

    def clear(self) -> None:
        with self._administrator() as connection:
            connection.execute(f'DROP DATABASE IF EXISTS "{self._name}" WITH (FORCE)'.encode())

    @contextmanager
    def _administrator(self) -> Iterator[psycopg.Connection[Any]]:
        with psycopg.connect(self._server, autocommit=True) as connection:
            yield connection


# -- channels ----------------------------------------------------------------------------------------------------------


class Wires(ABC):
    """What carries the channels of one shop.

    Attributes:
        environment: variables that its processes need besides the settings.
    """

    environment: Mapping[str, str] = {}

    @property
    @abstractmethod
    def channels(self) -> Mapping[str, str]:
        """For ``[channels]``."""

    @abstractmethod
    async def put(self, channel: str, kind: str, attributes: Mapping[str, str], body: bytes) -> None:
        """Publish this, with a client that has nothing to do with ours.

        Args:
            kind: what it is meant to be; on a real broker only the attributes can say it.
        """

    @abstractmethod
    async def undelivered(self) -> dict[str, int]:
        """How many messages each group has not handled yet."""

    @abstractmethod
    async def clear(self) -> None:
        """Remove everything from the broker; nobody needs it any more."""


class Embedded(Wires):
    channels: Mapping[str, str] = {"*": "embedded:"}

    def __init__(self, data: Path) -> None:
        self._file = data / "broker.db"

    async def put(self, channel: str, kind: str, attributes: Mapping[str, str], body: bytes) -> None:
        transport = SqliteTransport(self._file, clock=SystemClock(), ids=SystemIds())
        await transport.start()
        try:
            envelope = Envelope(id=attributes.get("id", ""), type=kind, source="stranger", time=0.0, body=body)
            # `publish` writes good attributes only.
            queues, text = transport._queues, json.dumps(dict(attributes))
            await transport._database.submit(lambda: queues.keep([(Outgoing(0, channel, envelope), text)], {}))
        finally:
            await transport.close()

    async def undelivered(self) -> dict[str, int]:
        if not self._file.exists():
            return {}
        with closing(sqlite3.connect(f"file:{self._file}?mode=ro", uri=True, timeout=10)) as db:
            tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master")}
            if "minuet_queue" not in tables:
                return {}
            ((rows,),) = db.execute("SELECT count(*) FROM minuet_queue").fetchall()
            return {"broker undelivered": rows}

    async def clear(self) -> None:
        """It goes with its folder."""


class KafkaTopics(Wires):
    """
    Args:
        prefix: of the topics' names. Groups have the same names for all shops of a cluster; what they hear is each
            shop's own.
    """

    def __init__(self, server: str, prefix: str) -> None:
        self._server = server
        self.prefix = prefix

    @property
    def bootstrap(self) -> str:
        return self._server.removeprefix("kafka://")

    @property
    def channels(self) -> Mapping[str, str]:
        return {"*": f"{self._server}/{self.prefix}{{channel}}?partitions=3"}

    async def put(self, channel: str, kind: str, attributes: Mapping[str, str], body: bytes) -> None:
        headers = {
            "content-type" if name == "datacontenttype" else f"ce_{name}": value.encode()
            for name, value in attributes.items()
        }

        def produce() -> int:
            producer = Producer({"bootstrap.servers": self.bootstrap})
            producer.produce(self.prefix + channel, body, headers=list(headers.items()))
            return producer.flush(ANSWER_S_MAX)

        assert await asyncio.to_thread(produce) == 0

    async def undelivered(self) -> dict[str, int]:
        return await asyncio.to_thread(self._lag)

    def _lag(self) -> dict[str, int]:
        admin = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})
        parts = [
            TopicPartition(name, partition)
            for name, topic in admin.list_topics(timeout=ANSWER_S_MAX).topics.items()
            if name.startswith(self.prefix) and not name.startswith("__")
            for partition in topic.partitions
        ]
        if not parts:
            return {}
        latest = admin.list_offsets({part: OffsetSpec.latest() for part in parts})
        ends = {(part.topic, part.partition): future.result(ANSWER_S_MAX).offset for part, future in latest.items()}
        found: dict[str, int] = {}
        for group in GROUPS:
            done: dict[tuple[str, int], int] = {}
            # Where a group begins in a topic may be kept under a second name of it until it has handled something.
            for name in (f"minuet.{group}.begin", f"minuet.{group}"):
                (asked,) = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(name)]).values()
                for one in asked.result(ANSWER_S_MAX).topic_partitions:
                    if one.offset >= 0:
                        done[one.topic, one.partition] = one.offset
            found[f"{group} undelivered"] = sum(ends[part] - offset for part, offset in done.items() if part in ends)
        return found

    async def clear(self) -> None:
        await asyncio.to_thread(self._delete)

    def _delete(self) -> None:
        admin = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})
        names = [
            name
            for name in admin.list_topics(timeout=ANSWER_S_MAX).topics
            if name.startswith(self.prefix) and not name.startswith("__")
        ]
        for future in admin.delete_topics(names).values() if names else ():
            future.result(ANSWER_S_MAX)

    async def clear_groups(self) -> None:
        """For a cluster of one shop only. A group goes when its last member has been given up."""

        def delete() -> list[str]:
            admin = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})
            groups = [one.group_id for one in admin.list_consumer_groups().result(ANSWER_S_MAX).valid]
            for future in admin.delete_consumer_groups(groups).values() if groups else ():
                try:
                    future.result(ANSWER_S_MAX)
                except KafkaException:
                    continue
            return [one.group_id for one in admin.list_consumer_groups().result(ANSWER_S_MAX).valid]

        async with asyncio.timeout(60):
            while await asyncio.to_thread(delete):
                await asyncio.sleep(0.5)


class RabbitMqExchange(Wires):
    def __init__(self, server: str, exchange: str, prefix: str = "minuet.") -> None:
        self.server = server
        self._exchange = exchange
        self._prefix = prefix

    @property
    def channels(self) -> Mapping[str, str]:
        return {"*": f"{self.server}/{self._exchange}?prefix={self._prefix}"}

    async def put(self, channel: str, kind: str, attributes: Mapping[str, str], body: bytes) -> None:
        headers: dict[str, Any] = {
            f"cloudEvents_{name}": value for name, value in attributes.items() if name != "datacontenttype"
        }
        message = aio_pika.Message(body, headers=headers, content_type=attributes.get("datacontenttype"))
        async with await aio_pika.connect(f"{self.server}/") as connection:
            publishing = await connection.channel()
            exchange = await publishing.get_exchange(self._exchange)
            await exchange.publish(message, routing_key=channel)

    async def undelivered(self) -> dict[str, int]:
        """What the broker has not given out yet. What is in somebody's hands it does not tell."""
        found: dict[str, int] = {}
        async with await aio_pika.connect(f"{self.server}/") as connection:
            for group in GROUPS:
                async with connection.channel() as asking:  # it is closed when there is no such queue
                    try:
                        queue = await asking.declare_queue(self._prefix + group, passive=True)
                    except ChannelNotFoundEntity:
                        continue
                    found[f"{group} undelivered"] = queue.declaration_result.message_count or 0
        return found

    async def clear(self) -> None:
        async with await aio_pika.connect(f"{self.server}/") as connection, connection.channel() as deleting:
            for group in GROUPS:
                await deleting.queue_delete(self._prefix + group)
            await deleting.exchange_delete(self._exchange)


class NatsStream(Wires):
    def __init__(self, server: str, stream: str) -> None:
        self._server = server
        self._stream = stream

    @property
    def channels(self) -> Mapping[str, str]:
        return {"*": f"{self._server}/{self._stream}?hold_s={IN_HAND_S}"}

    async def put(self, channel: str, kind: str, attributes: Mapping[str, str], body: bytes) -> None:
        async with await nats.connect(self._server) as client:
            headers = {f"ce-{name}": value for name, value in attributes.items()}
            await client.jetstream().publish(f"{self._stream}.{channel}", body, headers=headers or None)

    async def undelivered(self) -> dict[str, int]:
        async with await nats.connect(self._server) as client:
            try:
                consumers = await client.jetstream().consumers_info(self._stream)
            except NotFoundError:
                return {}
        return {f"{one.name} undelivered": (one.num_pending or 0) + (one.num_ack_pending or 0) for one in consumers}

    async def clear(self) -> None:
        async with await nats.connect(self._server) as client:
            try:
                await client.jetstream().delete_stream(self._stream)
            except NotFoundError:
                return


class RedisStreams(Wires):
    def __init__(self, server: str, prefix: str) -> None:
        self._server = server
        self._prefix = prefix

    @property
    def channels(self) -> Mapping[str, str]:
        return {"*": f"{self._server}?prefix={self._prefix}&hold_s={IN_HAND_S}"}

    async def put(self, channel: str, kind: str, attributes: Mapping[str, str], body: bytes) -> None:
        fields: dict[Any, Any] = {f"ce-{name}": value for name, value in attributes.items()}
        async with redis.asyncio.from_url(self._server) as client:
            await client.xadd(self._prefix + channel, {**fields, "body": body})

    async def undelivered(self) -> dict[str, int]:
        found: dict[str, int] = {}
        async with redis.asyncio.from_url(self._server, decode_responses=True) as client:
            for key in await self._streams(client):
                for group in await client.xinfo_groups(key):
                    found[f"{key} {group['name']} undelivered"] = (group["lag"] or 0) + group["pending"]
        return found

    async def clear(self) -> None:
        async with redis.asyncio.from_url(self._server, decode_responses=True) as client:
            for key in await self._streams(client):
                await client.delete(key)

    async def _streams(self, client: redis.asyncio.Redis) -> list[str]:
        return [str(key) async for key in client.scan_iter(match=f"{self._prefix}*", _type="stream")]


class SnsTopics(Wires):
    """
    Args:
        prefix: of the topics' names, which are part of the queues' names.
    """

    def __init__(self, endpoint: str, prefix: str) -> None:
        self.environment = {
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": REGION,
        }
        self._prefix = prefix
        self._session = get_session()

    @property
    def channels(self) -> Mapping[str, str]:
        return {"*": f"sns://{self.topic('')}{{channel}}?visibility_s={IN_HAND_S}"}

    def client(self, service: str) -> Any:
        """Of the AWS SDK, to be used with ``async with``."""
        return self._session.create_client(
            service,
            region_name=REGION,
            endpoint_url=self.environment["AWS_ENDPOINT_URL"],
            aws_access_key_id="test",
            aws_secret_access_key="test",
        )

    def topic(self, channel: str) -> str:
        return f"arn:aws:sns:{REGION}:{ACCOUNT}:{self._prefix}{channel.replace('.', '-')}"

    async def put(self, channel: str, kind: str, attributes: Mapping[str, str], body: bytes) -> None:
        """What is no text nobody can send over SNS; what is sent instead is no message of ours either."""
        text = body.decode(errors="replace").replace("\0", "?")
        sent = {
            "content-type" if name == "datacontenttype" else f"ce-{name}": {"DataType": "String", "StringValue": value}
            for name, value in attributes.items()
        }
        async with self.client("sns") as sns:
            await sns.publish(TopicArn=self.topic(channel), Message=text, MessageAttributes=sent)

    async def undelivered(self) -> dict[str, int]:
        found: dict[str, int] = {}
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        async with self.client("sqs") as sqs:
            for url in await self._queues(sqs):
                told = await sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names)
                found[f"{url.rpartition('/')[2]} undelivered"] = sum(int(n) for n in told["Attributes"].values())
        return found

    async def clear(self) -> None:
        async with self.client("sns") as sns, self.client("sqs") as sqs:
            pages = sns.get_paginator("list_topics").paginate()
            for topic in [one["TopicArn"] async for page in pages for one in page["Topics"]]:
                if topic.startswith(self.topic("")):
                    await sns.delete_topic(TopicArn=topic)
            for url in await self._queues(sqs):
                await sqs.delete_queue(QueueUrl=url)

    async def _queues(self, sqs: Any) -> list[str]:
        pages = sqs.get_paginator("list_queues").paginate(QueueNamePrefix="minuet-")
        urls = [url async for page in pages for url in page.get("QueueUrls", ())]
        return [url for url in urls if url.partition("_")[2].startswith(self._prefix)]


class SeedMix(Wires):
    """``deploy/seed.toml`` with other addresses. Its names are fixed, so the servers are this shop's alone."""

    def __init__(self, kafka: str, rabbitmq: str, aws: str) -> None:
        self.kafka = KafkaTopics(kafka, "")
        self.rabbitmq = RabbitMqExchange(rabbitmq, "events")
        self.sns = SnsTopics(aws, "")
        self.environment = self.sns.environment
        self._addresses = {"kafka://127.0.0.1:9092": kafka, "amqp://guest:guest@127.0.0.1:5672": rabbitmq}

    @property
    def channels(self) -> Mapping[str, str]:
        return {}

    @property
    def config(self) -> str:
        text = SEED_FILE.read_text()
        for known, ours in self._addresses.items():
            assert known in text, f"{SEED_FILE} has no {known}"
            text = text.replace(known, ours)
        # Else what a killed process had in hand is away for half a minute, and twice as long if the next one is killed
        # with it: longer than anybody here waits for an order.
        return re.sub(r'"(sns://[^"]+)"', rf'"\1?visibility_s={IN_HAND_S}"', text)

    def of(self, channel: str) -> Wires:
        service = channel.partition(".")[0]
        by_service: dict[str, Wires] = {"inventory": self.rabbitmq, "payment": self.sns, "payment-events": self.sns}
        return by_service.get(service, self.kafka)

    async def put(self, channel: str, kind: str, attributes: Mapping[str, str], body: bytes) -> None:
        await self.of(channel).put(channel, kind, attributes, body)

    async def undelivered(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for name, one in (("kafka", self.kafka), ("rabbitmq", self.rabbitmq), ("sns", self.sns)):
            found |= {f"{name} {what}": count for what, count in (await one.undelivered()).items()}
        return found

    async def clear(self) -> None:
        await asyncio.gather(self.kafka.clear(), self.rabbitmq.clear(), self.sns.clear())
        await self.kafka.clear_groups()


# -- grounds -----------------------------------------------------------------------------------------------------------


class Ground:
    """Stores and channels of one shop, and of no other.

    Attributes:
        config: what its ``minuet.toml`` begins with.
    """

    def __init__(self, name: str, stores: Stores, wires: Wires) -> None:
        self.name = name
        self.stores = stores
        self.wires = wires
        self.config = wires.config if isinstance(wires, SeedMix) else ""

    @property
    def environment(self) -> Mapping[str, str]:
        """Of all processes of the shop, and of whoever looks into it with ``minuet``."""
        settings = {"MINUET_STORES": json.dumps({"default": self.stores.url})}
        if self.wires.channels:
            settings["MINUET_CHANNELS"] = json.dumps(dict(self.wires.channels))
        return {**settings, **self.wires.environment}

    def fewer(self, many: int) -> int:
        """As many on the embedded ground; on real servers, where the same is done on every one of them, not so many."""
        if self.name == EMBEDDED:
            return many
        return max(1, many // (FEWER_ON_AN_EMULATOR if isinstance(self.wires, SnsTopics | SeedMix) else FEWER))

    async def clear(self) -> None:
        try:
            await self.wires.clear()
        finally:
            self.stores.clear()


class Stranger:
    """A program on the broker that has never heard of the shop's contract."""

    def __init__(self, wires: Wires) -> None:
        self._wires = wires
        self._ids = SystemIds()

    async def say(self, channel: str, kind: str, body: object, **attributes: str) -> None:
        """Any attributes and any bytes; an attribute that is given as "" is left out."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        all_of_them = {
            "specversion": "1.0", "id": self._ids.new(), "type": kind, "source": "stranger",
            "time": "2026-01-31T12:00:00Z", "datacontenttype": "application/json",
        } | attributes  # fmt: skip
        sent = {name: value for name, value in all_of_them.items() if value}
        await self._wires.put(channel, kind, sent, raw)


def ground(name: str, data: Path, *, servers: Mapping[str, str] | None = None) -> Ground:
    """A new ground of that name, on servers that are started if they do not run.

    Args:
        data: the folder of the shop's databases.
        servers: URLs of servers that the test has instead, by their names.
    """
    ours = f"shop-{uuid.uuid4().hex[:10]}"
    if name == EMBEDDED:
        return Ground(name, SqliteFiles(data), Embedded(data))

    def url(server: str) -> str:
        return (servers or {}).get(server) or server_url(server)

    if name == SEED:
        if not servers:
            raise ValueError("the seed's mix needs servers that nobody else uses: its names are fixed")
        return Ground(name, SqliteFiles(data), SeedMix(servers["kafka"], servers["rabbitmq"], servers["aws"]))
    stores, _, broker = name.partition("+")
    match broker:
        case "kafka":
            wires: Wires = KafkaTopics(url("kafka"), f"{ours}.")
        case "rabbitmq":
            wires = RabbitMqExchange(url("rabbitmq"), ours, f"{ours}.")
        case "nats":
            wires = NatsStream(url("nats"), ours)
        case "redis":
            wires = RedisStreams(url("redis"), f"{ours}:")
        case "sns":
            wires = SnsTopics(url("aws"), f"{ours}-")
        case "embedded":
            wires = Embedded(data)
        case _:
            raise ValueError(f"there is no ground {name}")
    return Ground(name, SqliteFiles(data) if stores == "sqlite" else PostgresDatabase(url("postgres"), ours), wires)


def chosen(names: Sequence[str]) -> Sequence[str]:
    """The grounds that a test runs on which names these, and maybe coordinations of theirs (``seed/choreography``).

    With ``ACCEPTANCE_GROUNDS=all`` in the environment, everything runs on every ground, which takes hours.
    """
    return (EMBEDDED, *(EVERY if is_everything() else names))


def is_everything() -> bool:
    """Whether nothing is left out for the sake of time."""
    return os.environ.get("ACCEPTANCE_GROUNDS") == "all"
