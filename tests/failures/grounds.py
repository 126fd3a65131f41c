"""The five brokers as the failures need them: a private server behind a proxy, and a stranger who speaks to it.

A `Ground` lives as long as the test session, its `Site` as long as one test: with names on the broker that no other
test has. The app reaches the server through the proxy only; the stranger uses the broker's own client, past the proxy.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar

import aio_pika
import nats
import pytest
import redis.asyncio
from aiobotocore.session import get_session  # type: ignore[import-untyped]
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec
from nats.js.errors import NotFoundError

from dev.servers.aws import Aws
from dev.servers.base import HOST, Server, free_port
from dev.servers.kafka import Kafka
from dev.servers.nats import Nats
from dev.servers.rabbitmq import RabbitMq
from dev.servers.redis import Redis
from tests.faults import FaultProxy

ANSWER_S_MAX = 20.0

Headers = Sequence[tuple[str, Any]]


class Stranger(ABC):
    """A program with the broker's own client, which has nothing to do with ours."""

    @abstractmethod
    async def put(self, channel: str, attributes: Mapping[str, str], body: bytes) -> None:
        """Publish a message with these attributes, as another program that knows CloudEvents would."""

    @abstractmethod
    async def rubbish(self, channel: str) -> int:
        """Publish what no program of sound mind would, in the medium's own ways; how many messages that were."""

    @abstractmethod
    async def lose(self, group: str, channel: str) -> None:
        """Take away what waits for the group."""

    @abstractmethod
    async def unroute(self, group: str, channel: str) -> None:
        """Take away the group's queue, consumer or place in the stream, with all that waits there."""


class Ground(ABC):
    """One broker behind a proxy.

    Attributes:
        survives: a killed server keeps what it confirmed.
        refuses_what_is_unheard: it says so when a message, or one of its copies, has no taker.
        keeps_connections: not one for each request.
        kills: how often it is killed in a test; the slower it starts, the fewer.
        slowness: so many times fewer messages than on others.
        shorter: constants of its adapter that say for how long a silent connection is believed in.
    """

    name: ClassVar[str]
    survives: ClassVar[bool] = True
    keeps_connections: ClassVar[bool] = True
    refuses_what_is_unheard: ClassVar[bool] = False
    kills: ClassVar[int] = 3
    slowness: ClassVar[int] = 1
    shorter: ClassVar[Mapping[str, float]] = {}

    def __init__(self, folder: Path) -> None:
        self.server = self.make(folder)
        self.proxy = FaultProxy(HOST, self.target)

    @abstractmethod
    def make(self, folder: Path) -> Server: ...

    def fewer(self, many: int, *, least: int = 1) -> int:
        """As many, or not so many where each message takes long."""
        return max(least, many // self.slowness)

    @property
    def target(self) -> int:
        """The port behind the proxy."""
        return self.server.port

    def start(self) -> None:
        self.proxy.start()
        self.server.start()

    def stop(self) -> None:
        self.server.kill()
        self.proxy.close()

    @abstractmethod
    def channels(self, site: str, *, hold_s: int = 30) -> Mapping[str, str]:
        """For ``[channels]``, through the proxy."""

    @abstractmethod
    def stranger(self, site: str) -> Any:
        """An async context manager that gives a `Stranger`."""

    def hurry(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Shorten how long a silent connection is believed in, where no option of the URL does."""
        for name, value in self.shorter.items():
            monkeypatch.setattr(f"minuet.adapters.{name}", value)

    def environment(self, site: str) -> Mapping[str, str]:
        return {}


class Site:
    """One test's names on a ground."""

    def __init__(self, ground: Ground, stranger: Stranger, name: str) -> None:
        self.ground = ground
        self.proxy = ground.proxy
        self.server = ground.server
        self.stranger = stranger
        self.name = name

    @property
    def channels(self) -> Mapping[str, str]:
        return self.ground.channels(self.name)

    def holding(self, hold_s: int) -> Mapping[str, str]:
        """The channels, with so long a time for a member to handle a message."""
        return self.ground.channels(self.name, hold_s=hold_s)


@asynccontextmanager
async def site_on(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    name = f"f{uuid.uuid4().hex[:10]}"
    for variable, value in ground.environment(name).items():
        monkeypatch.setenv(variable, value)
    async with ground.stranger(name) as stranger:
        yield Site(ground, stranger, name)


# -- Kafka -------------------------------------------------------------------------------------------------------------


class ProxiedKafka(Kafka):
    """With one more listener, that is said to be where a proxy listens: clients go where they are sent."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.inner_port = free_port()
        self.advertised_port = 0

    def _write_settings(self) -> Path:
        settings = super()._write_settings()
        lines = []
        for line in settings.read_text().splitlines():
            name, _, _ = line.partition("=")
            if name == "listeners":
                line = f"{line},PROXIED://{HOST}:{self.inner_port}"
            elif name == "advertised.listeners":
                line = f"{line},PROXIED://{HOST}:{self.advertised_port}"
            elif name == "listener.security.protocol.map":
                line = f"{line},PROXIED:PLAINTEXT"
            elif name == "group.consumer.session.timeout.ms":
                line = f"{name}=3000"  # shorter than the outages: members are thrown out of their groups
            lines.append(line)
        settings.write_text("\n".join([*lines, ""]))
        return settings


class KafkaGround(Ground):
    name = "kafka"
    kills = 2
    refuses_what_is_unheard = True  # what is taken away is the topic, for everybody
    server: ProxiedKafka

    def make(self, folder: Path) -> Server:
        return ProxiedKafka(folder)

    @property
    def target(self) -> int:
        return self.server.inner_port

    def start(self) -> None:
        self.server.advertised_port = self.proxy.port
        super().start()

    def channels(self, site: str, *, hold_s: int = 30) -> Mapping[str, str]:
        options = "partitions=3&librdkafka.socket.timeout.ms=3000"
        return {"*": f"kafka://{HOST}:{self.proxy.port}/{site}.{{channel}}?{options}"}

    @asynccontextmanager
    async def stranger(self, site: str) -> AsyncIterator[Stranger]:
        yield KafkaStranger(f"{HOST}:{self.server.port}", f"{site}.")


class KafkaStranger(Stranger):
    def __init__(self, bootstrap: str, prefix: str) -> None:
        self._bootstrap = bootstrap
        self._prefix = prefix
        self._producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 0})

    async def _produce(self, channel: str, body: bytes | None, headers: Headers, key: bytes | None = None) -> None:
        self._producer.produce(self._prefix + channel, body, headers=list(headers), key=key)
        assert await asyncio.to_thread(self._producer.flush, ANSWER_S_MAX) == 0

    async def put(self, channel: str, attributes: Mapping[str, str], body: bytes) -> None:
        headers = [
            ("content-type" if name == "datacontenttype" else f"ce_{name}", value.encode())
            for name, value in attributes.items()
        ]
        await self._produce(channel, body, headers, attributes.get("partitionkey", "").encode() or None)

    async def rubbish(self, channel: str) -> int:
        await self._produce(channel, None, [])
        await self._produce(channel, b"{}", [("ce_type", None), ("ce_id", b"")])
        await self._produce(channel, b"{}", [("ce_type", b"\xff\xfe"), ("ce_id", b"\x00"), ("", b"")], b"\xff")
        await self._produce(channel, b"[1]", [("ce_type", b"Placed"), ("ce_type", b"Noted"), ("ce_id", b"twice")])
        return 4

    async def lose(self, group: str, channel: str) -> None:
        """The records themselves are deleted, as if the broker had lost them."""

        def delete() -> None:
            admin = AdminClient({"bootstrap.servers": self._bootstrap})
            topic = admin.list_topics(self._prefix + channel, timeout=ANSWER_S_MAX).topics[self._prefix + channel]
            parts = [TopicPartition(topic.topic, one) for one in topic.partitions]
            ends = admin.list_offsets({part: OffsetSpec.latest() for part in parts})
            upto = [TopicPartition(p.topic, p.partition, f.result(ANSWER_S_MAX).offset) for p, f in ends.items()]
            for future in admin.delete_records([one for one in upto if one.offset > 0]).values():
                future.result(ANSWER_S_MAX)

        await asyncio.to_thread(delete)

    async def unroute(self, group: str, channel: str) -> None:
        def delete() -> None:
            admin = AdminClient({"bootstrap.servers": self._bootstrap})
            admin.delete_topics([self._prefix + channel])[self._prefix + channel].result(ANSWER_S_MAX)

        await asyncio.to_thread(delete)


# -- RabbitMQ ----------------------------------------------------------------------------------------------------------


class RabbitMqGround(Ground):
    name = "rabbitmq"
    kills = 2
    shorter: ClassVar[Mapping[str, float]] = {"rabbitmq.link.ANSWER_S_MAX": 2.0}

    def make(self, folder: Path) -> Server:
        return RabbitMq(folder)

    def channels(self, site: str, *, hold_s: int = 30) -> Mapping[str, str]:
        return {"*": f"amqp://guest:guest@{HOST}:{self.proxy.port}/{site}?prefix={site}.&heartbeat=1"}

    @asynccontextmanager
    async def stranger(self, site: str) -> AsyncIterator[Stranger]:
        yield RabbitMqStranger(f"amqp://guest:guest@{HOST}:{self.server.port}/", site)


class RabbitMqStranger(Stranger):
    def __init__(self, url: str, site: str) -> None:
        self._url = url
        self._site = site

    async def _publish(self, channel: str, message: aio_pika.Message) -> None:
        async with await aio_pika.connect(self._url) as connection:
            exchange = await (await connection.channel()).get_exchange(self._site)
            await exchange.publish(message, routing_key=channel)

    async def put(self, channel: str, attributes: Mapping[str, str], body: bytes) -> None:
        headers = {f"cloudEvents_{name}": value for name, value in attributes.items() if name != "datacontenttype"}
        content_type = attributes.get("datacontenttype")
        await self._publish(channel, aio_pika.Message(body, headers=dict(headers), content_type=content_type))

    async def rubbish(self, channel: str) -> int:
        odd: list[aio_pika.Message] = [
            aio_pika.Message(b""),
            aio_pika.Message(b"{}", headers={"cloudEvents_type": 7, "cloudEvents_id": None}, content_type="\x00"),
            aio_pika.Message(b"{}", headers={"cloudEvents_type": {"a": ["b"]}, "cloudEvents_id": [1, 2], "": ""}),
            aio_pika.Message(b"[]", headers={"cloudEvents_type": 1.5, "x": True}, content_encoding="gzip", priority=9),
        ]
        for message in odd:
            await self._publish(channel, message)
        return len(odd)

    async def lose(self, group: str, channel: str) -> None:
        async with await aio_pika.connect(self._url) as connection:
            queue = await (await connection.channel()).get_queue(f"{self._site}.{group}")
            await queue.purge()

    async def unroute(self, group: str, channel: str) -> None:
        async with await aio_pika.connect(self._url) as connection:
            await (await connection.channel()).queue_delete(f"{self._site}.{group}")


# -- NATS --------------------------------------------------------------------------------------------------------------


class NatsGround(Ground):
    name = "nats"
    kills = 10
    shorter: ClassVar[Mapping[str, float]] = {"nats.connection.ANSWER_S": 2.0, "nats.connection.PING_S": 1}

    def make(self, folder: Path) -> Server:
        return Nats(folder)

    def channels(self, site: str, *, hold_s: int = 30) -> Mapping[str, str]:
        return {"*": f"nats://{HOST}:{self.proxy.port}/{site}?hold_s={hold_s}"}

    @asynccontextmanager
    async def stranger(self, site: str) -> AsyncIterator[Stranger]:
        # Not connected for long: the server may be killed meanwhile.
        yield NatsStranger(f"nats://{HOST}:{self.server.port}", site)


class NatsStranger(Stranger):
    def __init__(self, url: str, stream: str) -> None:
        self._url = url
        self._stream = stream

    async def put(self, channel: str, attributes: Mapping[str, str], body: bytes) -> None:
        async with await nats.connect(self._url) as client:
            headers = {f"ce-{name}": value for name, value in attributes.items()}
            await client.jetstream().publish(f"{self._stream}.{channel}", body, headers=headers or None)

    async def rubbish(self, channel: str) -> int:
        subject = f"{self._stream}.{channel}"
        async with await nats.connect(self._url) as client:
            stream = client.jetstream()
            await stream.publish(subject, b"")
            await stream.publish(subject, b"{}", headers={"ce-type": "%ff%fe", "ce-id": "%00", "ce-": ""})
            await stream.publish(subject, b"{}", headers={"ce-type": "%", "ce-time": "%zz", "content-type": "%"})
            await stream.publish(subject, b"[]", headers={"CE-TYPE": "Placed", "ce-type": "Noted"})
        return 4

    async def lose(self, group: str, channel: str) -> None:
        async with await nats.connect(self._url) as client:
            await client.jetstream().purge_stream(self._stream)

    async def unroute(self, group: str, channel: str) -> None:
        async with await nats.connect(self._url) as client:
            try:
                await client.jetstream().delete_consumer(self._stream, f"minuet-{group}")
            except NotFoundError:
                names = [one.name for one in await client.jetstream().consumers_info(self._stream)]
                raise AssertionError(f"there is no such consumer; there are {names}") from None


# -- Redis -------------------------------------------------------------------------------------------------------------


class RedisGround(Ground):
    name = "redis"
    kills = 10
    shorter: ClassVar[Mapping[str, float]] = {"redis_streams.connection.ANSWER_S": 2.0}

    def make(self, folder: Path) -> Server:
        return Redis(folder)

    def channels(self, site: str, *, hold_s: int = 30) -> Mapping[str, str]:
        return {"*": f"redis://{HOST}:{self.proxy.port}/0?prefix={site}:&hold_s={hold_s}"}

    @asynccontextmanager
    async def stranger(self, site: str) -> AsyncIterator[Stranger]:
        yield RedisStranger(f"redis://{HOST}:{self.server.port}/0", site)


class RedisStranger(Stranger):
    def __init__(self, url: str, site: str) -> None:
        self._url = url
        self._site = site

    async def put(self, channel: str, attributes: Mapping[str, str], body: bytes) -> None:
        fields: dict[Any, Any] = {f"ce-{name}": value for name, value in attributes.items()}
        async with redis.asyncio.from_url(self._url) as client:
            await client.xadd(f"{self._site}:{channel}", {**fields, "body": body})

    async def rubbish(self, channel: str) -> int:
        odd: list[dict[Any, Any]] = [
            {b"\xff\xfe": b"\xff"},
            {"body": b""},
            {"ce-type": b"\xff\xfe", "ce-id": b"\x00", "body": b"{}"},
            {"ce-": b"", "CE-TYPE": b"Placed", "BODY": b"{}"},
        ]
        async with redis.asyncio.from_url(self._url) as client:
            for fields in odd:
                await client.xadd(f"{self._site}:{channel}", fields)
        return len(odd)

    async def lose(self, group: str, channel: str) -> None:
        async with redis.asyncio.from_url(self._url) as client:
            await client.xtrim(f"{self._site}:{channel}", maxlen=0, approximate=False)

    async def unroute(self, group: str, channel: str) -> None:
        async with redis.asyncio.from_url(self._url) as client:
            assert await client.xgroup_destroy(f"{self._site}:{channel}", f"minuet.{group}")


# -- SNS and SQS -------------------------------------------------------------------------------------------------------


class SnsGround(Ground):
    """FIFO topics, because they promise more. The emulator forgets everything when it is killed."""

    name = "sns"
    survives = False
    keeps_connections = False
    refuses_what_is_unheard = True  # the emulator does, SNS itself takes it
    slowness = 4
    shorter: ClassVar[Mapping[str, float]] = {"sns_sqs.broker.ANSWER_S_MAX": 2, "sns_sqs.broker.ATTEMPTS_MAX": 1}
    ending = ".fifo"

    def make(self, folder: Path) -> Server:
        return Aws(folder)

    def channels(self, site: str, *, hold_s: int = 30) -> Mapping[str, str]:
        options = f"endpoint=http://{HOST}:{self.proxy.port}&wait_s=1&visibility_s={hold_s}"
        return {"*": f"sns://arn:aws:sns:us-east-1:123456789012:{site}-{{channel}}{self.ending}?{options}"}

    def environment(self, site: str) -> Mapping[str, str]:
        return {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}

    @asynccontextmanager
    async def stranger(self, site: str) -> AsyncIterator[Stranger]:
        where = {"region_name": "us-east-1", "endpoint_url": f"http://{HOST}:{self.server.port}"}
        session = get_session()
        async with session.create_client("sns", **where) as sns, session.create_client("sqs", **where) as sqs:
            yield SnsStranger(sns, sqs, site, self.ending)


class SnsStranger(Stranger):
    def __init__(self, sns: Any, sqs: Any, site: str, ending: str) -> None:
        self._sns = sns
        self._sqs = sqs
        self._site = site
        self._ending = ending

    async def _publish(self, channel: str, text: str, attributes: Mapping[str, Any], key: str = "stranger") -> None:
        topic = f"arn:aws:sns:us-east-1:123456789012:{self._site}-{channel}{self._ending}"
        fifo = {"MessageGroupId": key, "MessageDeduplicationId": uuid.uuid4().hex} if self._ending else {}
        await self._sns.publish(TopicArn=topic, Message=text, MessageAttributes=attributes, **fifo)

    async def put(self, channel: str, attributes: Mapping[str, str], body: bytes) -> None:
        """What is no text nobody can send over SNS; what is sent instead is no message of ours either. It takes ten
        attributes and no more."""
        alone = ("id", "type", "source", "time", "specversion", "partitionkey")
        sent = {f"ce-{name}": value for name, value in attributes.items() if name in alone and value}
        others = {name: value for name, value in attributes.items() if name not in alone}
        if others:
            sent["ce-extensions"] = json.dumps(others)
        wire = {name: {"DataType": "String", "StringValue": value} for name, value in sent.items()}
        text = body.decode(errors="replace").replace("\0", "?") or " "
        await self._publish(channel, text, wire, attributes.get("partitionkey") or "stranger")

    async def rubbish(self, channel: str) -> int:
        await self._publish(channel, " ", {})
        await self._publish(channel, "{}", {"ce-type": {"DataType": "String.json", "StringValue": "\ufffd"}})
        await self._publish(channel, "{}", {"ce-id": {"DataType": "Number", "StringValue": "7"}})
        await self._publish(channel, "[]", {"ce-extensions": {"DataType": "String", "StringValue": "[1"}})
        return 4

    async def _queue(self, group: str, channel: str) -> str:
        urls = (await self._sqs.list_queues()).get("QueueUrls", ())
        (found,) = [url for url in urls if f"minuet-{group}_{self._site}-{channel}" in url]
        return str(found)

    async def lose(self, group: str, channel: str) -> None:
        await self._sqs.purge_queue(QueueUrl=await self._queue(group, channel))

    async def unroute(self, group: str, channel: str) -> None:
        await self._sqs.delete_queue(QueueUrl=await self._queue(group, channel))


GROUNDS: Mapping[str, type[Ground]] = {
    one.name: one for one in (KafkaGround, RabbitMqGround, NatsGround, RedisGround, SnsGround)
}
