"""Topics, and where groups begin in them. Blocking: called on a thread.

A new group is to get what is published from now on. Kafka knows only "from the start" or "from the end, whenever its
first member comes", so `begin` commits the ends in the name of the group. To a group with members nobody may do that;
where such a group begins in a topic that it did not hear so far is kept under another group's name, which never has
members (``<group>.begin``), and looked up when a partition is assigned that has no offset yet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from time import monotonic, sleep
from typing import Any, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # they are exported, but not declared to be
    AdminClient,
    ConfigResource,
    NewTopic,
    OffsetSpec,
    ResourceType,
)

from minuet.adapters.broker.port import Disconnected
from minuet.adapters.kafka.failures import Unroutable, error_from
from minuet.adapters.kafka.receiving import consumer_for
from minuet.adapters.kafka.url import Options

T = TypeVar("T")

ASK_S_MAX = 10.0
AGAIN_S = 0.05
AHEAD = ".begin"
HAS_MEMBERS = frozenset(
    {
        KafkaError.NON_EMPTY_GROUP,
        KafkaError.UNKNOWN_MEMBER_ID,
        KafkaError.STALE_MEMBER_EPOCH,
        KafkaError.ILLEGAL_GENERATION,
        KafkaError.REBALANCE_IN_PROGRESS,
        KafkaError.GROUP_SUBSCRIBED_TO_TOPIC,
    }
)


class Topics:
    """Asks the cluster as its administrator. All methods raise what `error_from` makes of a failure."""

    def __init__(self, admin: AdminClient, options: Options) -> None:
        self._admin = admin
        self._options = options

    def make(self, names: Iterable[str]) -> None:
        """Make those that are missing, and wait until all can be used."""
        names = list(names)
        missing = [name for name in names if name not in self.partitions()]
        if not missing:
            return
        options = self._options
        new = [
            NewTopic(name, options.partitions, options.replication, config=dict(options.topic or {}))
            for name in missing
        ]
        for name, made in self._admin.create_topics(new, request_timeout=ASK_S_MAX).items():
            try:
                made.result(ASK_S_MAX)
            except KafkaException as error:
                if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                    raise error_from(error, options, f"making the topic {name}") from None
        deadline = monotonic() + ASK_S_MAX
        while not all(self.partitions().get(name) for name in names):
            if monotonic() > deadline:
                raise Disconnected(f"Kafka at {options.servers} does not show the topics {', '.join(missing)}")
            sleep(0.02)

    def partitions(self) -> Mapping[str, int]:
        """How many each topic has; 0 while one of them has no leader."""
        try:
            metadata = self._admin.list_topics(timeout=ASK_S_MAX)
        except KafkaException as error:
            raise error_from(error, self._options, "looking for topics") from None
        return {
            name: 0 if any(one.leader < 0 for one in topic.partitions.values()) else len(topic.partitions)
            for name, topic in metadata.topics.items()
        }

    def bytes_max(self, names: Sequence[str]) -> Mapping[str, int]:
        """The largest message of each topic."""
        if not names:
            return {}
        resources = [ConfigResource(ResourceType.TOPIC, name) for name in names]
        asked = self._admin.describe_configs(resources, request_timeout=ASK_S_MAX)
        found = {resource.name: self._answer(answer, "reading settings") for resource, answer in asked.items()}
        return {name: int(settings["max.message.bytes"].value) for name, settings in found.items()}

    def begin(self, group: str, names: Sequence[str]) -> None:
        """Let the group get what is published from now on in the topics of which it has heard nothing so far.

        Several may do this at once: the ends are looked up before the group is, so whoever finds nothing of the group
        knows of no message that was published after another one was done with this.
        """
        self._patiently(lambda: self._begin(group, names))

    def _begin(self, group: str, names: Sequence[str]) -> None:
        counts = self.partitions()
        lanes = [TopicPartition(name, number) for name in names for number in range(counts.get(name, 0))]
        if not lanes:
            return
        ends = self._ends(lanes)
        new = self._unheard(group, ends)
        if not new:
            return
        try:
            self._commit(group, new)
        except KafkaException as error:
            if error.args[0].code() not in HAS_MEMBERS:
                raise error_from(error, self._options, f"making the group {group}") from None
            ahead = self._unheard(group + AHEAD, self._unheard(group, new))
            if ahead:
                try:
                    self._commit(group + AHEAD, ahead)
                except KafkaException as failed:
                    raise error_from(failed, self._options, f"making the group {group}") from None

    def unheard(self, group: str, names: Sequence[str]) -> Sequence[str]:
        """Of these topics, those in which the group has not begun."""
        counts = self.partitions()
        lanes = [TopicPartition(name, number) for name in names for number in range(counts.get(name, 0))]
        found = self._unheard(group + AHEAD, self._unheard(group, lanes)) if lanes else []
        return sorted({one.topic for one in found})

    def begins(self, group: str, lanes: Sequence[TopicPartition]) -> Sequence[TopicPartition]:
        """Where a member begins in partitions that it was given. Those that came to be later begin at their start."""
        return self._patiently(lambda: self._begins(group, lanes))

    def _begins(self, group: str, lanes: Sequence[TopicPartition]) -> Sequence[TopicPartition]:
        known = self.offsets(group, lanes)
        rest = [one for one in lanes if (one.topic, one.partition) not in known]
        if rest:
            known = {**self.offsets(group + AHEAD, rest), **known}
        plain = [TopicPartition(one.topic, one.partition) for one in lanes]
        for one in plain:
            one.offset = known.get((one.topic, one.partition), one.offset)
        return plain

    def offsets(self, group: str, lanes: Sequence[TopicPartition]) -> dict[tuple[str, int], int]:
        """What the group has committed, for those partitions where it has."""
        plain = [TopicPartition(one.topic, one.partition) for one in lanes]
        doing = f"looking for the group {group}"
        try:
            with self._as(group) as consumer:
                found = consumer.committed(plain, timeout=ASK_S_MAX)
        except KafkaException as error:
            raise error_from(error, self._options, doing) from None
        for one in found:
            if one.error:
                raise error_from(one.error, self._options, doing)
        return {(one.topic, one.partition): one.offset for one in found if one.offset >= 0}

    def _unheard(self, group: str, lanes: Sequence[TopicPartition]) -> list[TopicPartition]:
        """Those of topics of which the group has no offset at all: where it has some, the others are of partitions that
        came to be later, of which it wants everything."""
        if not lanes:
            return []
        heard = {topic for topic, _ in self.offsets(group, lanes)}
        return [one for one in lanes if one.topic not in heard]

    def _ends(self, lanes: Sequence[TopicPartition]) -> list[TopicPartition]:
        latest: OffsetSpec = OffsetSpec.latest()  # type: ignore[no-untyped-call]
        asked = self._admin.list_offsets(dict.fromkeys(lanes, latest), request_timeout=ASK_S_MAX)
        doing = "looking for the ends of topics"
        return [
            TopicPartition(one.topic, one.partition, self._answer(answer, doing).offset)
            for one, answer in asked.items()
        ]

    def _commit(self, group: str, lanes: Sequence[TopicPartition]) -> None:
        with self._as(group) as consumer:
            for one in consumer.commit(offsets=list(lanes), asynchronous=False):
                if one.error:
                    raise KafkaException(one.error)

    @contextmanager
    def _as(self, group: str) -> Iterator[Consumer]:
        """A consumer that may ask and commit in the name of the group without being a member of it.

        Not the administrator: librdkafka 2.16 ends the process with a segmentation fault when an AdminClient asks for
        a group's offsets and the answer is that the coordinator is loading or another one.
        """
        consumer = consumer_for(replace(self._options, protocol="classic"), group)
        try:
            yield consumer
        finally:
            consumer.close()

    def _patiently(self, what: Callable[[], T]) -> T:
        """Ask until there is an answer: a topic that was just made, and a cluster that was just started, have nobody
        who feels responsible for a moment."""
        deadline = monotonic() + ASK_S_MAX
        while True:
            try:
                return what()
            except (Disconnected, Unroutable):
                if monotonic() > deadline:
                    raise
            sleep(AGAIN_S)

    def _answer(self, answer: Future[Any], doing: str) -> Any:
        try:
            return answer.result(ASK_S_MAX + 1)
        except KafkaException as error:
            raise error_from(error, self._options, doing) from None
        finally:
            del answer  # its error knows where it was raised, and so this client, which would not be closed for long
