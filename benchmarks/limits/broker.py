"""The limit for choreography on a broker: its own client, four hops for each order, no database. Prints one JSON line.

An order is a message that is published and confirmed, heard, published again under the next name before it is
acknowledged, and so on, four times: the messages that a choreography of four steps cannot do without. Clients are used
as their own documentation says is fast: many confirmations in flight, many messages in one fetch.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import threading
import uuid
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any, Self

import aio_pika
import nats
from confluent_kafka import Consumer, Message, Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from nats.errors import TimeoutError as NothingThere
from nats.js import JetStreamContext
from nats.js.api import ConsumerConfig, StorageType, StreamConfig

from benchmarks.harness import STEPS, arguments, asked, measured, order, report

FETCHED_MAX = 256
WAIT_S = 0.5


class Client(ABC):
    """A broker's client: a name for each hop."""

    def __init__(self) -> None:
        prefix = f"raw-{uuid.uuid4().hex[:8]}"
        self.prefix = prefix
        self.names = [f"{prefix}.{step}" for step in STEPS]
        self.ending: dict[str, asyncio.Future[None]] = {}
        self.published = 0
        self.is_closing = False
        self._stack = AsyncExitStack()

    @abstractmethod
    async def open(self) -> None:
        """Connect, make what is needed, and begin to listen."""

    @abstractmethod
    async def publish(self, hop: int, body: bytes) -> None:
        """Return when the broker has confirmed it."""

    async def one_order(self, number: int) -> None:
        content = order(number)
        ending = self.ending[content["order_id"]] = asyncio.get_running_loop().create_future()
        await self.publish(0, json.dumps(content).encode())
        await ending

    async def go_on(self, hop: int, body: bytes) -> None:
        """What whoever hears a message does."""
        content = json.loads(body)
        if hop + 1 < len(STEPS):
            await self.publish(hop + 1, json.dumps(content).encode())
        else:
            self.end(content["order_id"])

    def end(self, order_id: str) -> None:
        if ending := self.ending.pop(order_id, None):  # it may be heard twice
            ending.set_result(None)

    def end_all(self, order_ids: Sequence[str]) -> None:
        for order_id in order_ids:
            self.end(order_id)

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.is_closing = True
        await self._stack.aclose()


class Nats(Client):
    """JetStream: a stream in files, a durable pull consumer for each hop."""

    async def open(self) -> None:
        connection = await nats.connect(os.environ["NATS_URL"])
        self._stack.push_async_callback(connection.close)
        self.context: JetStreamContext = connection.jetstream(publish_async_max_pending=10_000)
        await self.context.add_stream(
            StreamConfig(name=self.prefix, subjects=[f"{self.prefix}.*"], storage=StorageType.FILE)
        )
        for hop, name in enumerate(self.names):
            wanted = ConsumerConfig(max_ack_pending=10_000)
            taken = await self.context.pull_subscribe(name, durable=f"hop{hop}", config=wanted)
            task = asyncio.create_task(self.listen(hop, taken))
            self._stack.push_async_callback(self.ended, task)

    async def ended(self, task: asyncio.Task[None]) -> None:
        task.cancel()
        await asyncio.wait([task])

    async def listen(self, hop: int, taken: JetStreamContext.PullSubscription) -> None:
        while True:
            try:
                messages = await taken.fetch(FETCHED_MAX, timeout=WAIT_S)
            except NothingThere:
                continue
            await asyncio.gather(*(self.go_on(hop, message.data) for message in messages))
            for message in messages:
                await message.ack()

    async def publish(self, hop: int, body: bytes) -> None:
        self.published += 1
        confirmed = await self.context.publish_async(self.names[hop], body)
        await confirmed


class RabbitMq(Client):
    """A durable queue for each hop, persistent messages, publisher confirms."""

    async def open(self) -> None:
        connection = await aio_pika.connect(os.environ["RABBITMQ_URL"])
        self._stack.push_async_callback(connection.close)
        self.channel = await connection.channel(publisher_confirms=True)
        listening = await connection.channel()
        await listening.set_qos(FETCHED_MAX)
        for hop, name in enumerate(self.names):
            queue = await listening.declare_queue(name, durable=True)
            await queue.consume(self.listener(hop))

    def listener(self, hop: int) -> Any:
        async def hear(message: aio_pika.abc.AbstractIncomingMessage) -> None:
            await self.go_on(hop, message.body)
            await message.ack()

        return hear

    async def publish(self, hop: int, body: bytes) -> None:
        self.published += 1
        persistent = aio_pika.Message(body, delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
        await self.channel.default_exchange.publish(persistent, self.names[hop])


class Kafka(Client):
    """A topic for each hop, an idempotent producer, one consumer that commits after the confirmations.

    Its client works on threads of its own; the messages go on from hop to hop there, without the event loop.
    """

    async def open(self) -> None:
        server: dict[str, Any] = {"bootstrap.servers": os.environ["KAFKA_URL"].removeprefix("kafka://")}
        admin = AdminClient(server)  # its topics are made as long as it lives
        for topic in admin.create_topics([NewTopic(name, num_partitions=4) for name in self.names]).values():
            await asyncio.to_thread(topic.result)
        self.producer = Producer({**server, "enable.idempotence": True, "linger.ms": 2})
        self.consumer = Consumer(
            {
                **server,
                "group.id": self.prefix,
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "fetch.wait.max.ms": 20,
            }
        )
        self.loop = asyncio.get_running_loop()
        self.hops = {name: hop for hop, name in enumerate(self.names)}
        assigned = asyncio.Event()

        def has_partitions(*_: object) -> None:
            self.loop.call_soon_threadsafe(assigned.set)

        self.consumer.subscribe(self.names, on_assign=has_partitions)
        listening = threading.Thread(target=self.listen, daemon=True)
        listening.start()
        self._stack.push_async_callback(asyncio.to_thread, listening.join)
        async with asyncio.timeout(60):
            await assigned.wait()

    def listen(self) -> None:
        while not self.is_closing:
            messages = self.consumer.consume(FETCHED_MAX, WAIT_S / 100)
            self.producer.poll(0)
            if messages:
                self.go_on_with(messages)
        self.consumer.close()

    def go_on_with(self, messages: Sequence[Message]) -> None:
        ended = []
        for message in messages:
            assert message.error() is None, message.error()
            content = json.loads(message.value() or b"")
            hop = self.hops[str(message.topic())] + 1
            if hop < len(STEPS):
                self.published += 1
                self.producer.produce(self.names[hop], json.dumps(content).encode(), key=content["order_id"])
            else:
                ended.append(content["order_id"])
        self.producer.flush()
        self.consumer.commit(asynchronous=True)
        if ended:
            self.loop.call_soon_threadsafe(self.end_all, ended)

    async def publish(self, hop: int, body: bytes) -> None:
        self.published += 1
        self.producer.produce(self.names[hop], body)


CLIENTS: dict[str, type[Client]] = {"nats": Nats, "rabbitmq": RabbitMq, "kafka": Kafka}


async def measure(given: argparse.Namespace) -> dict[str, Any]:
    async with CLIENTS[given.broker]() as client:
        return await measured(client.one_order, asked(given), counters=lambda: {"messages": client.published})


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--broker", choices=CLIENTS, required=True)
    report(asyncio.run(measure(parser.parse_args())))


if __name__ == "__main__":
    main()
