"""SNS and SQS keep the promises of a transport, as far as their features say, and others can read what is sent.

Against an emulator, moto. To run the same against AWS, with the SDK's own credentials, in a region and an account:

    MINUET_TEST_AWS=arn:aws:sns:eu-central-1:123456789012 pytest tests/contract/test_sns_sqs.py

It removes what it made; everything that it makes has a name with ``-t`` and ten random characters.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any, ClassVar

import pytest
from aiobotocore.session import get_session  # type: ignore[import-untyped]

from minuet.adapters.broker import BrokerTransport
from minuet.adapters.broker.port import Broker, Disconnected, Queue, Sending
from minuet.adapters.sns_sqs import SnsSqsBroker, split
from minuet.adapters.sns_sqs.address import queue_name
from minuet.adapters.sns_sqs.errors import Missing, of_code
from minuet.adapters.sns_sqs.topology import clash_of_names
from minuet.adapters.sns_sqs.wire import BODY_BYTES_MAX
from minuet.adapters.system import SystemIds
from minuet.core.errors import ConfigurationError, MessageError
from minuet.ports import Features, Subscription, Transport
from minuet.testing.transport_contract import CHANNELS, OpenTransport, TransportContract, ids_of, message
from tests.servers import private_server, server_url

REAL = os.environ.get("MINUET_TEST_AWS", "")
BASE = REAL or "arn:aws:sns:us-east-1:123456789012"
REGION = BASE.split(":")[3]
SLOWNESS = 10 if REAL else 1
VISIBILITY_S = 20  # the emulator needs seconds to keep some hundred messages on a busy machine
EVENT = {
    "specversion": "1.0",
    "id": "e-1",
    "type": "PaymentProcessed",
    "source": "payment",
    "time": "2026-01-31T12:00:00.000000Z",
    "datacontenttype": "application/json",
    "partitionkey": "o-1",
    "saga": "OrderSaga",
    "sagaid": "o-1",
    "sagastep": "pay",
    "sagadefinition": "d1",
    "sagacoordination": "choreography",
    "correlationid": "c-1",
    "causationid": "e-0",
    "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    "hops": "3",
}
BODY = b'{"orderId":"o-1","paymentStatus":"SUCCESS","amount":12.5,"timestamp":"2026-01-31T12:00:00Z"}'


class Stranger:
    """Somebody who knows SNS and SQS, and nothing of us."""

    def __init__(self, sns: Any, sqs: Any) -> None:
        self.sns = sns
        self.sqs = sqs

    async def publish(self, topic: str, body: str, **more: Any) -> None:
        if topic.endswith(".fifo"):
            more = {"MessageGroupId": "stranger", "MessageDeduplicationId": SystemIds().new(), **more}
        await self.sns.publish(TopicArn=topic, Message=body, **more)

    async def subscribe(self, topic: str, name: str, **attributes: str) -> str:
        """A queue of the stranger's own; its URL."""
        queue = (await self.sqs.create_queue(QueueName=name))["QueueUrl"]
        told = await self.sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])
        arn = told["Attributes"]["QueueArn"]
        allowed = {"Effect": "Allow", "Principal": "*", "Action": "sqs:SendMessage", "Resource": arn}
        policy = json.dumps({"Version": "2012-10-17", "Statement": [allowed]})
        await self.sqs.set_queue_attributes(QueueUrl=queue, Attributes={"Policy": policy})
        await self.sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=arn, Attributes=attributes)
        return str(queue)

    async def read(self, queue: str) -> dict[str, Any]:
        async with asyncio.timeout(30):
            while True:
                told = await self.sqs.receive_message(QueueUrl=queue, WaitTimeSeconds=1, MessageAttributeNames=["All"])
                for found in told.get("Messages", ()):
                    return dict(found)

    async def subscriptions(self, topic: str) -> list[str]:
        told = await self.sns.list_subscriptions_by_topic(TopicArn=topic)
        return [one["SubscriptionArn"] for one in told["Subscriptions"]]


def endpoint() -> str | None:
    return None if REAL else server_url("aws")


def address(topic: str, **options: object) -> tuple[str, str]:
    """The part of the URL that makes a transport, and the topic's ARN."""
    where = {} if REAL else {"endpoint": endpoint()}
    query = "&".join(f"{name}={value}" for name, value in {"wait_s": 1, **where, **options}.items())
    return split(f"sns://{BASE}:{topic}?{query}", "orders")


@pytest.fixture
async def stranger() -> AsyncIterator[Stranger]:
    session, where = get_session(), {"region_name": REGION, "endpoint_url": endpoint()}
    async with session.create_client("sns", **where) as sns, session.create_client("sqs", **where) as sqs:
        yield Stranger(sns, sqs)


@pytest.fixture
async def _tidied(prefix: str, stranger: Stranger) -> AsyncIterator[None]:
    """At AWS, what a test made is removed; the emulator forgets it anyway."""
    yield
    if not REAL:
        return
    async for page in stranger.sns.get_paginator("list_subscriptions").paginate():
        for one in page["Subscriptions"]:
            if prefix in one["TopicArn"]:
                await stranger.sns.unsubscribe(SubscriptionArn=one["SubscriptionArn"])
    async for page in stranger.sns.get_paginator("list_topics").paginate():
        for one in page["Topics"]:
            if prefix in one["TopicArn"]:
                await stranger.sns.delete_topic(TopicArn=one["TopicArn"])
    async for page in stranger.sqs.get_paginator("list_queues").paginate():
        for url in page.get("QueueUrls", ()):
            if prefix in url:
                await stranger.sqs.delete_queue(QueueUrl=url)


class SnsSqsContract(TransportContract):
    patience_s = 60.0
    quiet_s = 0.5 * SLOWNESS
    many = 800  # one member may have 520 in hand, and the emulator needs its time
    leaves_out_unwanted = False
    kind: ClassVar[str] = ""

    @pytest.fixture(autouse=True)
    def _made(self, prefix: str, stranger: Stranger, _tidied: None) -> None:
        self.stranger = stranger
        self.server, _ = address(f"{prefix}-orders{self.kind}", visibility_s=VISIBILITY_S)
        self.destinations = {channel: address(f"{prefix}-{channel}{self.kind}")[1] for channel in CHANNELS}

    def opening(self, **more: Any) -> OpenTransport:
        return lambda: BrokerTransport(
            SnsSqsBroker(self.server, SystemIds()),
            self.destinations,
            ids=SystemIds(),
            messages_max=520,
            call_s=60,
            **more,
        )

    @pytest.fixture
    def open_transport(self, _made: None) -> OpenTransport:
        return self.opening()

    @pytest.fixture
    def open_unprovisioned(self, _made: None) -> OpenTransport:
        return self.opening(provision=False)

    async def unroute(self, transport: Transport) -> None:
        await self.stranger.sns.delete_topic(TopicArn=self.destinations["orders"])

    async def send_bare(self, channel: str, body: bytes) -> None:
        await self.stranger.publish(self.destinations[channel], body.decode())


async def garbage_that_sns_takes(suite: SnsSqsContract, transport: Transport) -> None:
    """SNS takes text only, from anybody."""
    garbage = [b"not json", "\t\ufffd\U0001f600".encode(), b'{"eventType": 7}']
    for body in garbage:
        await suite.send_bare("orders", body)
    await suite.publish(transport, message("1"))
    heard = await suite.consume([transport], until=lambda heard: len(heard) == len(garbage) + 1)
    assert sorted(one.body for one in heard) == sorted([*garbage, b"{}"])


@pytest.mark.server
@pytest.mark.slow
class TestStandard(SnsSqsContract):
    features = SnsSqsBroker("sns://us-east-1/standard", SystemIds()).features
    test_a_strangers_garbage_arrives_and_holds_nobody_up = garbage_that_sns_takes


@pytest.mark.server
@pytest.mark.slow
class TestFifo(SnsSqsContract):
    features = SnsSqsBroker("sns://us-east-1/fifo", SystemIds()).features
    kind = ".fifo"
    test_a_strangers_garbage_arrives_and_holds_nobody_up = garbage_that_sns_takes


# The broker alone


@pytest.fixture
def prefix() -> str:
    return f"t{SystemIds().new()[:10].lower()}"


Open = Callable[..., Any]


@pytest.fixture
async def opened(prefix: str, stranger: Stranger, _tidied: None) -> AsyncIterator[Open]:
    """Opens brokers, with the options given, and disconnects them at the end."""
    async with AsyncExitStack() as stack:

        async def one(kind: str = "", *, heard_s: float = 60.0, **options: object) -> tuple[SnsSqsBroker, str]:
            server, topic = address(f"{prefix}-payment-events{kind}", **options)
            broker = SnsSqsBroker(server, SystemIds(), heard_s=heard_s)
            await broker.connect()
            stack.push_async_callback(broker.disconnect)
            return broker, topic

        yield one


def queue(topic: str, group: str = "shipping", *, unwanted: str = "PaymentRefused") -> Queue:
    return Queue(group, (topic,), {topic: frozenset({"PaymentProcessed"})}, {topic: frozenset({unwanted})})


def sending(topic: str, body: bytes = BODY, **attributes: str) -> Sending:
    return Sending(topic, attributes.get("partitionkey", "o-1"), {**EVENT, **attributes}, body, must_arrive=True)


async def fetched(broker: Broker, group: str = "shipping", limit: int = 10) -> Any:
    async with asyncio.timeout(40):
        return await broker.fetch(group, limit)


@pytest.mark.server
async def test_another_reader_sees_body_and_attributes(opened: Open, stranger: Stranger, prefix: str) -> None:
    broker, topic = await opened()
    await broker.declare([queue(topic)], [topic], only_new=False)
    reader = await stranger.subscribe(topic, f"{prefix}-reader", RawMessageDelivery="true")
    assert await broker.send([sending(topic)]) == [None]
    found = await stranger.read(reader)
    assert found["Body"].encode() == BODY
    attributes = {name: one["StringValue"] for name, one in found["MessageAttributes"].items()}
    assert len(attributes) <= 10
    assert attributes.pop("content-type") == "application/json"
    assert json.loads(attributes.pop("ce-extensions")) == {
        name: EVENT[name]
        for name in ("saga", "sagaid", "sagastep", "sagadefinition", "correlationid", "causationid", "hops")
    }
    assert attributes == {
        f"ce-{name}": EVENT[name]
        for name in (
            "specversion",
            "id",
            "type",
            "source",
            "time",
            "partitionkey",
            "traceparent",
            "sagacoordination",
        )
    }


@pytest.mark.server
@pytest.mark.parametrize("kind", ["", ".fifo"])
async def test_what_is_sent_comes_back_whatever_its_attributes_are(opened: Open, kind: str) -> None:
    broker, topic = await opened(kind)
    await broker.declare([queue(topic)], [topic], only_new=False)
    attributes = {"id": "é\u2028😀", "partitionkey": "key with spaces and ü", "correlationid": "\x01\uffff", "saga": ""}
    assert await broker.send([sending(topic, **attributes)]) == [None]
    (found,) = await fetched(broker)
    assert found.destination == topic
    assert found.attributes == {**EVENT, **attributes}
    assert (found.body, found.deliveries) == (BODY, 1)


@pytest.mark.server
async def test_characters_that_xml_has_not_come_as_the_same_json(opened: Open) -> None:
    broker, topic = await opened()
    await broker.declare([queue(topic)], [topic], only_new=False)
    body = '{"name":"\uffff \ufffe \x7f \\u0001"}'.encode()
    outcomes = await broker.send(
        [sending(topic, body), sending(topic, b"\xff"), sending(topic, b"a\x01"), sending(topic, b"")]
    )
    assert [type(one) for one in outcomes] == [type(None), MessageError, MessageError, MessageError]
    (found,) = await fetched(broker)
    assert found.body != body
    assert json.loads(found.body) == json.loads(body)


@pytest.mark.server
async def test_too_large_fails_alone_and_many_large_ones_go_in_several_batches(opened: Open) -> None:
    broker, topic = await opened()
    await broker.declare([queue(topic)], [topic], only_new=False)
    large = b'"%s"' % (b"x" * 100_000)
    at_most = b'"%s"' % (b"x" * (BODY_BYTES_MAX - 2))
    sent = [large, large, at_most, at_most + b" ", large, BODY]
    outcomes = await broker.send([sending(topic, body, id=str(n)) for n, body in enumerate(sent)])
    assert [type(one) for one in outcomes] == [type(None)] * 3 + [MessageError] + [type(None)] * 2
    (outcome,) = await broker.send([sending(topic, at_most, correlationid="x" * 20_000)])
    assert isinstance(outcome, MessageError)
    found = []
    while len(found) < 5:
        found += await fetched(broker)
    assert sorted(one.attributes["id"] for one in found) == ["0", "1", "2", "4", "5"]


@pytest.mark.server
async def test_a_strangers_message_arrives_however_it_was_subscribed(opened: Open, stranger: Stranger) -> None:
    broker, topic = await opened()
    await broker.declare([queue(topic)], [topic], only_new=False)
    (subscription,) = await stranger.subscriptions(topic)
    for raw in ("true", "false"):
        await stranger.sns.unsubscribe(SubscriptionArn=subscription)
        told = await stranger.sqs.get_queue_url(QueueName=queue_name("shipping", topic))
        arn = await stranger.sqs.get_queue_attributes(QueueUrl=told["QueueUrl"], AttributeNames=["QueueArn"])
        attributes = {"RawMessageDelivery": raw} if raw == "true" else {}
        made = await stranger.sns.subscribe(
            TopicArn=topic,
            Protocol="sqs",
            Endpoint=arn["Attributes"]["QueueArn"],
            Attributes=attributes,
            ReturnSubscriptionArn=True,
        )
        subscription = made["SubscriptionArn"]
        await stranger.publish(topic, BODY.decode())
        await stranger.publish(
            topic,
            BODY.decode(),
            MessageAttributes={"CE-Type": {"DataType": "String", "StringValue": "PaymentProcessed"}},
        )
        found = []
        while len(found) < 2:
            found += await fetched(broker)
        await broker.acknowledge("shipping", [one.token for one in found])
        assert {one.destination for one in found} == {topic}
        assert {one.body for one in found} == {BODY}
        assert sorted(one.attributes.get("type", "") for one in found) == ["", "PaymentProcessed"]
    assert await broker.check([queue(topic)], [topic]) == [
        f"the subscription of {queue_name('shipping', topic)} to {topic} is without raw message delivery"
    ]


@pytest.mark.server
async def test_sns_leaves_out_what_is_unwanted_only_if_it_is_told_to(opened: Open, stranger: Stranger) -> None:
    """Without a policy everything comes. With one, AWS leaves out messages without any attribute; moto does not."""
    broker, topic = await opened()
    filtering, _ = await opened(filter="types")
    wanted = ["PaymentProcessed", "NobodyKnows"]
    for one, group in ((broker, "shipping"), (filtering, "orders")):
        await one.declare([queue(topic, group)], [topic], only_new=False)
    await broker.send([sending(topic, type=kind, id=kind) for kind in [*wanted, "PaymentRefused"]])
    other = {"colour": {"DataType": "String", "StringValue": "blue"}}
    await stranger.publish(topic, "no type", MessageAttributes=other)
    got: dict[str, list[str]] = {"shipping": [], "orders": []}
    for one, group, count in ((broker, "shipping", 4), (filtering, "orders", 3)):
        while len(got[group]) < count:
            found = await fetched(one, group)
            got[group] += [message.attributes.get("type", "") for message in found]
    assert sorted(got["shipping"]) == sorted(["", "PaymentRefused", *wanted])
    assert sorted(got["orders"]) == sorted(["", *wanted])
    # Who is told otherwise sees it, and sets it right.
    assert await filtering.check([queue(topic, "orders")], [topic]) == []
    (problem,) = await broker.check([queue(topic, "orders")], [topic])
    assert "filter policy" in problem
    await broker.declare([queue(topic, "orders")], [topic], only_new=True)
    assert await broker.check([queue(topic, "orders")], [topic]) == [problem]
    await broker.declare([queue(topic, "orders")], [topic], only_new=False)
    assert await broker.check([queue(topic, "orders")], [topic]) == []


@pytest.mark.server
async def test_check_says_what_is_missing(opened: Open, stranger: Stranger) -> None:
    broker, topic = await opened()
    wanted = [queue(topic)], [topic]
    name = queue_name("shipping", topic)
    assert await broker.check(*wanted) == [
        f"SNS topic {topic} does not exist",
        f"SQS queue {name} of group shipping does not exist",
    ]
    await broker.declare(*wanted, only_new=False)
    url = (await stranger.sqs.get_queue_url(QueueName=name))["QueueUrl"]
    (subscription,) = await stranger.subscriptions(topic)
    await stranger.sns.unsubscribe(SubscriptionArn=subscription)
    await stranger.sqs.set_queue_attributes(QueueUrl=url, Attributes={"Policy": ""})
    found = await broker.check(*wanted)
    assert [one.partition(" ")[0] for one in found] == ["the", "SQS"]
    assert "does not let topic" in found[0]
    assert "is not subscribed" in found[1]
    await broker.declare(*wanted, only_new=False)
    assert await broker.check(*wanted) == []


@pytest.mark.server
async def test_a_message_for_nobody_is_a_failure_once_sns_was_asked_again(opened: Open, stranger: Stranger) -> None:
    broker, topic = await opened(heard_s=0.0)
    (outcome,) = await broker.send([sending(topic)])
    assert "does not exist" in str(outcome)
    await broker.declare([queue(topic)], [topic], only_new=False)
    assert await broker.send([sending(topic)]) == [None]
    (subscription,) = await stranger.subscriptions(topic)
    await stranger.sns.unsubscribe(SubscriptionArn=subscription)
    (outcome,) = await broker.send([sending(topic)])
    assert isinstance(outcome, ConfigurationError)
    assert "nobody is subscribed" in str(outcome)
    unheard = Sending(topic, "", EVENT, BODY, must_arrive=False)
    assert await broker.send([unheard]) == [None]


@pytest.mark.server
@pytest.mark.slow
async def test_a_slow_handler_keeps_its_message_and_one_that_is_gone_does_not(opened: Open, prefix: str) -> None:
    """Visibility 2 s, handler 5 s."""
    server, topic = address(f"{prefix}-payment-events", visibility_s=2)

    def member() -> BrokerTransport:
        return BrokerTransport(SnsSqsBroker(server, SystemIds()), {"orders": topic}, ids=SystemIds())

    wanted = [Subscription(group="shipping", wanted={"orders": {"OrderCreated": None}})]
    first, second = member(), member()
    try:
        for one in (first, second):
            await one.start()
            await one.declare(wanted)
        assert await first.publish([message("1", key="a")]) == [None]
        (delivery,) = await first.receive("shipping", 10)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5):
                await second.receive("shipping", 10)
        assert delivery.deliveries == 1
        await first.abandon()
        async with asyncio.timeout(30):
            (again,) = await second.receive("shipping", 10)
        assert ids_of([again]) == ["1"]
        assert again.deliveries == 2
    finally:
        await first.close()
        await second.close()


@pytest.mark.server
async def test_who_stops_fetching_leaves_nothing_in_nobodys_hands(opened: Open) -> None:
    broker, topic = await opened(visibility_s=600)
    other, _ = await opened(visibility_s=600)
    for one in (broker, other):
        await one.declare([queue(topic)], [topic], only_new=False)
    waiting = asyncio.create_task(broker.fetch("shipping", 10))
    await asyncio.sleep(0.2)  # its long poll is under way, and cannot be called back
    waiting.cancel()
    with suppress(asyncio.CancelledError):
        await waiting
    await other.send([sending(topic)])
    await broker.disconnect()
    (found,) = await fetched(other)
    assert found.attributes["id"] == "e-1"


@pytest.mark.server
@pytest.mark.slow
async def test_what_nobody_asks_for_any_more_is_given_back(opened: Open, stranger: Stranger) -> None:
    """Who polls several queues, takes one message and then has his hands full does not sit on the others."""
    visibility_s = 20
    busy, first = await opened(visibility_s=visibility_s)
    other, _ = await opened(visibility_s=visibility_s)
    topics = tuple(sorted([first, f"{first}-2", f"{first}-3"]))
    for one in (busy, other):
        await one.declare([Queue("shipping", topics, {}, {})], topics, only_new=False)
    for topic in topics:
        await stranger.publish(topic, topic)
    got = [one.destination for one in await fetched(busy, limit=1)]
    async with asyncio.timeout(visibility_s * 0.8):  # later it would be given out again anyway
        while len(got) < len(topics):
            got += [one.destination for one in await other.fetch("shipping", 10)]
    assert sorted(got) == list(topics)


@pytest.mark.server
async def test_a_group_hears_of_several_topics(opened: Open, prefix: str, stranger: Stranger) -> None:
    broker, first = await opened()
    topics = tuple(sorted([first, f"{first}-2", f"{first}-3"]))
    several = Queue("shipping", topics, {}, {})
    await broker.declare([several], topics, only_new=False)
    for topic in topics:
        await stranger.publish(topic, topic)
    found = []
    while len(found) < 3:
        found += await fetched(broker, limit=1)
    assert {(one.destination, one.body.decode()) for one in found} == {(topic, topic) for topic in topics}


@pytest.mark.server
async def test_unknown_and_settled_deliveries_are_ignored(opened: Open) -> None:
    broker, topic = await opened()
    await broker.declare([queue(topic)], [topic], only_new=False)
    await broker.send([sending(topic)])
    (found,) = await fetched(broker)
    for _ in range(2):
        await broker.acknowledge("shipping", [found.token])
        await broker.keep("shipping", [found.token])
        await broker.give_back("shipping", [found.token])


@pytest.mark.server
@pytest.mark.slow
async def test_it_goes_on_after_an_outage_even_if_the_server_forgot_everything(servers_path: Path) -> None:
    """The emulator keeps nothing; topics, queues and subscriptions are made anew."""
    server = private_server("aws", servers_path)
    base = f"sns://arn:aws:sns:us-east-1:123456789012:orders?wait_s=1&endpoint={server.url.partition('=')[2]}"
    url, topic = split(base, "orders")
    with server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment().items():
            patch.setenv(name, value)
        transport = BrokerTransport(SnsSqsBroker(url, SystemIds()), {"orders": topic}, ids=SystemIds())
        await transport.start()
        try:
            await transport.declare([Subscription(group="shipping", wanted={"orders": {"OrderCreated": None}})])
            assert await transport.publish([message("1")]) == [None]
            assert ids_of(await transport.receive("shipping", 10)) == ["1"]
            server.kill()
            (outcome,) = await transport.publish([message("2")])
            assert isinstance(outcome, Exception)
            await asyncio.to_thread(server.start)
            async with asyncio.timeout(60):
                while await transport.publish([message("2")]) != [None]:
                    await asyncio.sleep(0.1)
                assert ids_of(await transport.receive("shipping", 10)) == ["2"]
        finally:
            await transport.close()


# What can be said without a server


@pytest.mark.parametrize(
    ("code", "is_ours", "expected"),
    [
        ("Throttling", True, Disconnected),
        ("InternalError", False, Disconnected),
        ("SomethingNew", False, Disconnected),
        ("AuthorizationError", True, ConfigurationError),
        ("AccessDeniedException", True, ConfigurationError),
        ("KMSNotFoundException", True, ConfigurationError),
        ("InvalidClientTokenId", True, ConfigurationError),
        ("ExpiredToken", True, ConfigurationError),
        ("NotFoundException", True, Missing),
        ("AWS.SimpleQueueService.NonExistentQueue", True, Missing),
        ("InvalidParameter", True, MessageError),
    ],
)
def test_each_error_of_aws_has_its_reaction(code: str, is_ours: bool, expected: type[Exception]) -> None:
    found = of_code(code, "told", is_ours, "publishing to orders")
    assert type(found) is expected
    assert "publishing to orders" in str(found)
    assert code in str(found)


async def test_a_server_that_is_away_or_refuses_us_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    away = SnsSqsBroker("sns://us-east-1/standard?endpoint=http://127.0.0.1:9", SystemIds())
    with pytest.raises(Disconnected, match="us-east-1"):
        await away.connect()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    nobody = SnsSqsBroker("sns://us-east-1/standard?endpoint=http://127.0.0.1:9", SystemIds())
    with pytest.raises(ConfigurationError, match="AWS_ACCESS_KEY_ID"):
        await nobody.connect()
    for one in (away, nobody):
        await one.disconnect()
        with pytest.raises(Disconnected):
            await one.send([])


@pytest.mark.parametrize(
    ("url", "server", "topic"),
    [
        ("sns://{base}:payment-events", "sns://us-east-1/standard", "{base}:payment-events"),
        ("sns://{base}", "sns://us-east-1/standard", "{base}:inventory-reserved"),
        ("sns://{base}:", "sns://us-east-1/standard", "{base}:inventory-reserved"),
        ("sns://{base}:dev-{{channel}}.fifo", "sns://us-east-1/fifo", "{base}:dev-inventory-reserved.fifo"),
        ("sns://{base}:a?filter=types", "sns://us-east-1/standard?filter=types", "{base}:a"),
    ],
)
def test_a_url_gives_a_server_and_a_topic(url: str, server: str, topic: str) -> None:
    base = "arn:aws:sns:us-east-1:123456789012"
    assert split(url.format(base=base), "inventory.reserved") == (server, topic.format(base=base))


@pytest.mark.parametrize(
    "url",
    [
        "sns://orders",
        "sns://arn:aws:sqs:us-east-1:123456789012:orders",
        "sns://arn:aws:sns:us-east-1:12:orders",
        "sns://arn:aws:sns:nowhere:123456789012:orders",
        "sns://arn:aws:sns:us-east-1:123456789012:no spaces",
        "sns://user:secret@arn:aws:sns:us-east-1:123456789012:orders",
        "sns://arn:aws:sns:us-east-1:123456789012:orders?wait_s=21",
        "sns://arn:aws:sns:us-east-1:123456789012:orders?visibility_s=0",
        "sns://arn:aws:sns:us-east-1:123456789012:orders?filter=all",
        "sns://arn:aws:sns:us-east-1:123456789012:orders?retries=3",
        "sns://arn:aws:sns:us-east-1:123456789012:orders?endpoint=http://me:secret@127.0.0.1:1",
    ],
)
def test_a_url_that_makes_no_sense_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        split(url, "orders")
    assert "secret" not in str(refused.value)


def test_names_of_queues() -> None:
    assert queue_name("inventory", f"{BASE}:orders") == "minuet-inventory_orders"
    assert queue_name("a.b", f"{BASE}:orders.fifo") == "minuet-a-b_orders.fifo"
    long = [queue_name("inventory", f"{BASE}:{'x' * 100}{end}{kind}") for end in "ab" for kind in ("", ".fifo")]
    assert {len(name) for name in long} == {80}
    assert len({*long}) == 4


async def test_two_queues_of_one_name_are_refused() -> None:
    clash_of_names([queue(f"{BASE}:orders", "a"), queue(f"{BASE}:orders", "b")])
    with pytest.raises(ConfigurationError, match="minuet-a-b_orders"):
        clash_of_names([queue(f"{BASE}:orders", "a.b"), queue(f"{BASE}:orders", "a-b")])


def test_the_features_say_what_a_kind_of_topic_keeps() -> None:
    def of(kind: str) -> Features:
        return SnsSqsBroker(f"sns://us-east-1/{kind}", SystemIds()).features

    assert (of("fifo").ordered_per_key, of("fifo").ordered_across_members) == (True, True)
    assert (of("standard").ordered_per_key, of("standard").ordered_across_members) == (False, False)
