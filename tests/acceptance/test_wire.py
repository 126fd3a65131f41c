"""What programs of others see of the shop and say to it, on the brokers and under the names of the text that it comes
from. None of them knows more than the text: kcat, an AMQP consumer, a reader of an SQS queue."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import aio_pika
import pytest
from aio_pika.abc import AbstractQueue

from tests.acceptance.grounds import SeedMix
from tests.acceptance.processes import APART, SEED_ITEMS, Shop, until

pytestmark = [pytest.mark.acceptance, pytest.mark.grounds("seed", only=True)]

HEARD_S = 30.0
ATTRIBUTES = {"specversion", "id", "type", "source", "time", "partitionkey"}


async def test_strangers_see_every_message_of_an_order(empty: Shop) -> None:
    shop, seed = empty, the_seed(empty)
    await shop.start()
    async with a_queue_on_rabbitmq(seed) as reserved, a_queue_on_sqs(seed) as paid:
        await shop.place("ORD12345")
        (order,) = (await shop.ended("ORD12345")).values()
        assert order.status == "SHIPPED"

        created = await on_kafka(seed, "orders", "OrderCreated")
        assert exactly(created["body"], "eventType", "orderId", "customerId", "items", "timestamp") == {
            "eventType": "OrderCreated", "orderId": "ORD12345", "customerId": "CUST987", "items": SEED_ITEMS
        }  # fmt: skip
        message = await reserved.get(timeout=HEARD_S)
        assert exactly(json.loads(message.body), "eventType", "orderId", "status", "reservedItems", "timestamp") == {
            "eventType": "InventoryReserved", "orderId": "ORD12345", "status": "RESERVED", "reservedItems": SEED_ITEMS
        }  # fmt: skip
        (payment,) = await paid()
        assert '"amount":150.75' in payment["Body"].replace(" ", "")
        assert exactly(json.loads(payment["Body"]), "eventType", "orderId", "paymentStatus", "amount", "timestamp") == {
            "eventType": "PaymentProcessed", "orderId": "ORD12345", "paymentStatus": "SUCCESS", "amount": 150.75
        }  # fmt: skip
        shipped = await on_kafka(seed, "shipping", "OrderShipped")
        (parcel,) = (await shop.ledgers())[1].parcels
        assert exactly(shipped["body"], "eventType", "orderId", "trackingNumber", "timestamp") == {
            "eventType": "OrderShipped", "orderId": "ORD12345", "trackingNumber": parcel.tracking_number
        }  # fmt: skip

        # And what they are is written on them, as CloudEvents have it on each medium.
        for found, source in ((created, "orders"), (shipped, "shipping")):
            assert found["key"] == "ORD12345"
            assert found["headers"]["content-type"] == "application/json"
            is_cloud_event(found["headers"], "ce_", found["body"]["eventType"], source)
        assert message.routing_key == "inventory.reserved"
        assert (message.exchange, message.content_type) == ("events", "application/json")
        is_cloud_event(message.headers, "cloudEvents_", "InventoryReserved", "inventory")
        attributes = {name: one["StringValue"] for name, one in payment["MessageAttributes"].items()}
        assert attributes["content-type"] == "application/json"
        is_cloud_event(attributes, "ce-", "PaymentProcessed", "payment")


async def test_an_order_that_kcat_announces_is_paid_and_shipped(empty: Shop) -> None:
    """The order service knows the order, but what it says of it itself goes to a topic that nobody hears."""
    shop, seed = empty, the_seed(empty)
    others = [shop.launch(name) for name in APART if name != "orders"]
    unheard = {"orders": f"kafka://{seed.kafka.bootstrap}/orders.unheard"}
    orders = shop.launch("orders", MINUET_CHANNELS=json.dumps(unheard))
    await asyncio.gather(*(process.ready() for process in (*others, orders)))
    await shop.place("BY-HAND")
    content = {"eventType": "OrderCreated", "orderId": "BY-HAND", "customerId": "CUST987", "items": SEED_ITEMS}

    await kcat(seed, "-P", "-t", "orders", said=json.dumps(content))

    async def is_shipped() -> bool:
        return bool((await shop.get("/shipping/shipments?orderId=BY-HAND"))["shipments"])

    await until(is_shipped, what=lambda: f"it is shipped\n{shop.said()}")
    (payment,) = (await shop.get("/payment/payments?orderId=BY-HAND"))["payments"]
    assert payment == {"orderId": "BY-HAND", "amount": 150.75, "status": "PAID"}
    charges, parcels = await shop.ledgers()
    assert [charge.order_id for charge in charges.charges] == [parcel.order_id for parcel in parcels.parcels]
    assert (await shop.ended("BY-HAND"))["BY-HAND"].status == "SHIPPED"
    assert await on_kafka(seed, "orders.unheard", "OrderCreated")  # its own was there, and nobody heard it

    async def is_done() -> bool:
        return not shop.left_over()

    await until(is_done, what=lambda: f"nothing is left to do: {shop.left_over()}")
    await shop.balanced()


def the_seed(shop: Shop) -> SeedMix:
    assert isinstance(shop.ground.wires, SeedMix)
    return shop.ground.wires


def exactly(body: Mapping[str, Any], *fields: str) -> dict[str, Any]:
    """All of the body but its time, if it has just these fields."""
    assert set(body) == set(fields), body
    assert body["timestamp"].endswith("Z")
    return {name: value for name, value in body.items() if name != "timestamp"}


def is_cloud_event(headers: Mapping[str, Any], prefix: str, kind: str, source: str) -> None:
    found = {name.removeprefix(prefix): value for name, value in headers.items() if name.startswith(prefix)}
    assert found.keys() >= ATTRIBUTES, found
    assert (found["specversion"], found["type"], found["source"]) == ("1.0", kind, source)
    assert found["partitionkey"] == "ORD12345"


async def kcat(seed: SeedMix, *arguments: str, said: str = "") -> str:
    running = await asyncio.create_subprocess_exec(
        "kcat", "-b", seed.kafka.bootstrap, *arguments,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(HEARD_S):
        told, complained = await running.communicate(said.encode())
    assert running.returncode == 0, complained.decode()
    return told.decode()


async def on_kafka(seed: SeedMix, topic: str, kind: str) -> dict[str, Any]:
    """The one message of that kind that kcat finds on the topic."""
    lines = (await kcat(seed, "-C", "-t", topic, "-o", "beginning", "-e", "-q", "-J")).splitlines()
    found = []
    for message in map(json.loads, lines):
        body = json.loads(message["payload"])
        names = message.get("headers", [])
        headers = dict(zip(names[::2], names[1::2], strict=True))
        if body["eventType"] == kind:
            found.append({"key": message["key"], "headers": headers, "body": body})
    (one,) = found
    return one


@asynccontextmanager
async def a_queue_on_rabbitmq(seed: SeedMix) -> AsyncIterator[AbstractQueue]:
    async with await aio_pika.connect(f"{seed.rabbitmq.server}/") as connection:
        channel = await connection.channel()
        queue = await channel.declare_queue(exclusive=True)
        await queue.bind("events", "inventory.#")
        yield queue


@asynccontextmanager
async def a_queue_on_sqs(seed: SeedMix) -> AsyncIterator[Any]:
    """A function that gives what has come, once there is any."""
    async with seed.sns.client("sns") as sns, seed.sns.client("sqs") as sqs:
        url = (await sqs.create_queue(QueueName="stranger"))["QueueUrl"]
        told = await sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])
        await sns.subscribe(
            TopicArn=seed.sns.topic("payment-events"),
            Protocol="sqs",
            Endpoint=told["Attributes"]["QueueArn"],
            Attributes={"RawMessageDelivery": "true"},
        )

        async def read() -> list[dict[str, Any]]:
            async def come() -> list[dict[str, Any]]:
                answer = await sqs.receive_message(QueueUrl=url, MessageAttributeNames=["All"], WaitTimeSeconds=1)
                return list(answer.get("Messages", ()))

            return await until(come, within_s=HEARD_S, what="something is in the stranger's queue")

        yield read
