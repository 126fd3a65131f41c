"""Topics, queues and subscriptions: made by `declare`, compared by `check`.

A group has a queue for each of its topics, which that topic may send to, and a subscription with raw delivery.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from minuet.adapters.broker.port import Queue
from minuet.adapters.sns_sqs.address import Address, queue_name, topic_name
from minuet.adapters.sns_sqs.errors import Missing, meaning
from minuet.core.errors import ConfigurationError

T = TypeVar("T")
RETENTION_S = 1_209_600  # fourteen days, the most that SQS keeps a message
STATEMENT = "minuet"
FILTERED_MAX = 100  # SNS takes up to 150 values in a policy
REQUESTS_MAX = 8


class Place(NamedTuple):
    """Where a group gets what is published to a topic."""

    group: str
    destination: str
    queue: str


class Topology:
    """Over an SNS and an SQS client."""

    def __init__(self, sns: Any, sqs: Any, address: Address) -> None:
        self._sns = sns
        self._sqs = sqs
        self._address = address
        self._free = asyncio.Semaphore(REQUESTS_MAX)

    async def declare(
        self, queues: Sequence[Queue], destinations: Sequence[str], *, only_new: bool
    ) -> dict[str, dict[str, str]]:
        """Make everything. The queues of each group: URL and topic ARN.

        Raises:
            ConfigurationError: access is denied, or names collide.
            Disconnected: it did not work now.
        """
        clash_of_names(queues)
        topics = sorted({*destinations, *(one for queue in queues for one in queue.destinations)})
        await asyncio.gather(*(self._make_topic(topic) for topic in topics))
        subscriptions = await self._subscriptions(queue.destinations for queue in queues)
        made = await asyncio.gather(*(self._declare(queue, subscriptions, only_new) for queue in queues))
        return dict(zip((queue.group for queue in queues), made, strict=True))

    async def _declare(self, queue: Queue, subscriptions: Mapping[str, Any], only_new: bool) -> dict[str, str]:
        places = [Place(queue.group, one, queue_name(queue.group, one)) for one in queue.destinations]
        urls = await asyncio.gather(*(self.url_of(place.queue) for place in places))
        if only_new and any(urls):
            return {url: place.destination for place, url in zip(places, urls, strict=True) if url}
        made = await asyncio.gather(
            *(
                self._make_place(place, url, self.filter_of(queue, place.destination), subscriptions[place.destination])
                for place, url in zip(places, urls, strict=True)
            )
        )
        return dict(zip(made, queue.destinations, strict=True))

    async def _make_topic(self, topic: str) -> None:
        if await self._topic_exists(topic):
            return
        attributes = {"FifoTopic": "true", "FifoThroughputScope": "MessageGroup"} if self._address.is_fifo else {}
        made = await self._ask(
            f"making topic {topic}", lambda: self._sns.create_topic(Name=topic_name(topic), Attributes=attributes)
        )
        if made["TopicArn"] != topic:
            raise ConfigurationError(
                f"topic {topic} does not exist, and would be {made['TopicArn']} with these credentials; correct the "
                "ARN, or use credentials of its account"
            )

    async def _make_place(
        self, place: Place, url: str | None, wanted: str | None, subscriptions: Mapping[str, str]
    ) -> str:
        if url is None:
            url = await self._make_queue(place.queue)
        arn, policy = await self._queue(url)
        allowed = with_statement(policy, place.destination, arn)
        if allowed != policy:
            await self._ask(
                f"letting {place.destination} send to {place.queue}",
                lambda: self._sqs.set_queue_attributes(QueueUrl=url, Attributes={"Policy": json.dumps(allowed)}),
            )
        if arn in subscriptions:
            await self._correct(subscriptions[arn], wanted)
        else:
            await self._subscribe(place, arn, wanted)
        return url

    async def _make_queue(self, name: str) -> str:
        attributes = {"MessageRetentionPeriod": str(RETENTION_S)}
        if self._address.is_fifo:
            attributes |= {
                "FifoQueue": "true",
                "DeduplicationScope": "messageGroup",
                "FifoThroughputLimit": "perMessageGroupId",
            }
        made = await self._ask(
            f"making queue {name}", lambda: self._sqs.create_queue(QueueName=name, Attributes=attributes)
        )
        return str(made["QueueUrl"])

    async def _subscribe(self, place: Place, arn: str, wanted: str | None) -> None:
        attributes = {"RawMessageDelivery": "true"}
        if wanted:
            attributes["FilterPolicy"] = wanted
        await self._ask(
            f"subscribing {place.queue} to {place.destination}",
            lambda: self._sns.subscribe(
                TopicArn=place.destination,
                Protocol="sqs",
                Endpoint=arn,
                Attributes=attributes,
                ReturnSubscriptionArn=True,
            ),
        )

    async def _correct(self, subscription: str, wanted: str | None) -> None:
        told = await self._subscription(subscription)
        if told.get("RawMessageDelivery", "false").lower() != "true":
            await self._set(subscription, "RawMessageDelivery", "true")
        if not same_policy(told.get("FilterPolicy"), wanted):
            await self._set(subscription, "FilterPolicy", wanted or "{}")

    async def _set(self, subscription: str, name: str, value: str) -> None:
        await self._ask(
            f"setting {name} of {subscription}",
            lambda: self._sns.set_subscription_attributes(
                SubscriptionArn=subscription, AttributeName=name, AttributeValue=value
            ),
        )

    def filter_of(self, queue: Queue, destination: str) -> str | None:
        """The filter policy of a subscription, or None if everything is to come.

        A message that has attributes, but no type, comes too. One without any attribute at all comes only if there is
        no policy: that is how SNS works, and why there is none unless the deployment asks for it.
        """
        unwanted = sorted(queue.unwanted.get(destination, ()))
        if not self._address.filters or not unwanted or len(unwanted) > FILTERED_MAX:
            return None
        return json.dumps({"ce-type": [{"exists": False}, {"anything-but": unwanted}]})

    async def check(self, queues: Sequence[Queue], destinations: Sequence[str]) -> list[str]:
        """What is missing or different, in sentences."""
        clash_of_names(queues)
        topics = sorted({*destinations, *(one for queue in queues for one in queue.destinations)})
        exist = await asyncio.gather(*(self._topic_exists(topic) for topic in topics))
        there = {topic for topic, exists in zip(topics, exist, strict=True) if exists}
        found = [f"SNS topic {topic} does not exist" for topic in topics if topic not in there]
        subscriptions = await self._subscriptions([there.intersection(*[queue.destinations]) for queue in queues])
        checks = [
            self._check(queue, Place(queue.group, one, queue_name(queue.group, one)), subscriptions.get(one))
            for queue in queues
            for one in queue.destinations
        ]
        for some in await asyncio.gather(*checks):
            found += some
        return found

    async def queues_of(self, queues: Sequence[Queue]) -> dict[str, dict[str, str]]:
        """The queues of each group that exist: URL and topic ARN."""
        places = [(queue.group, one) for queue in queues for one in queue.destinations]
        urls = await asyncio.gather(*(self.url_of(queue_name(*place)) for place in places))
        found: dict[str, dict[str, str]] = {queue.group: {} for queue in queues}
        for (group, destination), url in zip(places, urls, strict=True):
            if url:
                found[group][url] = destination
        return found

    async def _check(self, queue: Queue, place: Place, subscriptions: Mapping[str, str] | None) -> list[str]:
        url = await self.url_of(place.queue)
        if url is None:
            return [f"SQS queue {place.queue} of group {place.group} does not exist"]
        arn, policy = await self._queue(url)
        found = []
        if with_statement(policy, place.destination, arn) != policy:
            found.append(f"the policy of SQS queue {place.queue} does not let topic {place.destination} send to it")
        if subscriptions is None:
            return found
        if arn not in subscriptions:
            return [*found, f"SQS queue {place.queue} is not subscribed to topic {place.destination}"]
        told = await self._subscription(subscriptions[arn])
        wanted, is_so = self.filter_of(queue, place.destination), told.get("FilterPolicy")
        if told.get("RawMessageDelivery", "false").lower() != "true":
            found.append(f"the subscription of {place.queue} to {place.destination} is without raw message delivery")
        if not same_policy(is_so, wanted):
            found.append(
                f"the subscription of {place.queue} to {place.destination} has the filter policy {is_so or 'none'} and "
                f"should have {wanted or 'none'}"
            )
        return found

    async def url_of(self, queue: str) -> str | None:
        """The URL of a queue, if there is one."""
        try:
            told = await self._ask(f"looking for queue {queue}", lambda: self._sqs.get_queue_url(QueueName=queue))
        except Missing:
            return None
        return str(told["QueueUrl"])

    async def is_heard(self, topic: str) -> bool:
        """Whether anybody is subscribed.

        Raises:
            Missing: there is no such topic.
        """
        told = await self._ask(
            f"asking who is subscribed to {topic}", lambda: self._sns.list_subscriptions_by_topic(TopicArn=topic)
        )
        return any(one["SubscriptionArn"].startswith("arn:") for one in told.get("Subscriptions", ()))

    async def _topic_exists(self, topic: str) -> bool:
        try:
            await self._ask(f"looking for topic {topic}", lambda: self._sns.get_topic_attributes(TopicArn=topic))
        except Missing:
            return False
        return True

    async def _queue(self, url: str) -> tuple[str, dict[str, Any]]:
        """The ARN of a queue and its policy."""
        told = await self._ask(
            f"looking at queue {url}",
            lambda: self._sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn", "Policy"]),
        )
        policy = told["Attributes"].get("Policy")
        return told["Attributes"]["QueueArn"], json.loads(policy) if policy else {}

    async def _subscriptions(self, wanted: Iterable[Iterable[str]]) -> dict[str, dict[str, str]]:
        """For each topic, the subscription of each SQS queue."""
        topics = sorted({topic for some in wanted for topic in some})
        return dict(zip(topics, await asyncio.gather(*map(self._subscriptions_to, topics)), strict=True))

    async def _subscriptions_to(self, topic: str) -> dict[str, str]:
        found: dict[str, str] = {}
        page: dict[str, str] = {}
        while True:
            told = await self._ask(
                f"looking at the subscriptions to {topic}",
                lambda page=page: self._sns.list_subscriptions_by_topic(TopicArn=topic, **page),  # type: ignore[misc]
            )
            found |= {
                one["Endpoint"]: one["SubscriptionArn"] for one in told["Subscriptions"] if one["Protocol"] == "sqs"
            }
            if not told.get("NextToken"):
                return found
            page = {"NextToken": told["NextToken"]}

    async def _subscription(self, arn: str) -> dict[str, str]:
        told = await self._ask(
            f"looking at subscription {arn}", lambda: self._sns.get_subscription_attributes(SubscriptionArn=arn)
        )
        return dict(told["Attributes"])

    async def _ask(self, doing: str, ask: Callable[[], Awaitable[T]]) -> T:
        async with self._free:
            try:
                return await ask()
            except Exception as error:
                raise meaning(error, doing) from error


def clash_of_names(queues: Sequence[Queue]) -> None:
    """Raises ConfigurationError when two topics of a group would share a queue."""
    seen: dict[str, str] = {}
    for queue in queues:
        for destination in queue.destinations:
            name = queue_name(queue.group, destination)
            other = seen.setdefault(name, f"{queue.group} and {destination}")
            if other != f"{queue.group} and {destination}":
                raise ConfigurationError(
                    f"the SQS queue of {queue.group} and {destination} would be {name}, as that of {other}; rename one"
                )


def with_statement(policy: Mapping[str, Any], topic: str, queue: str) -> dict[str, Any]:
    """A queue's policy with our statement: this topic may send. Statements of others stay."""
    ours = {
        "Sid": STATEMENT,
        "Effect": "Allow",
        "Principal": {"Service": "sns.amazonaws.com"},
        "Action": "sqs:SendMessage",
        "Resource": queue,
        "Condition": {"ArnEquals": {"aws:SourceArn": topic}},
    }
    statements = policy.get("Statement", [])
    if ours in statements:
        return dict(policy)
    others = [one for one in statements if one.get("Sid") != STATEMENT]
    return {**policy, "Version": policy.get("Version", "2012-10-17"), "Statement": [*others, ours]}


def same_policy(one: str | None, other: str | None) -> bool:
    return bool(json.loads(one or "{}") == json.loads(other or "{}"))
