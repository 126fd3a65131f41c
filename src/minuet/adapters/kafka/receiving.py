"""A group's member: one consumer, used by one thread of its own, which does everything that is done with it.

The event loop says what it wants and the thread brings it:

* Nothing is given unless somebody fetches. If nobody does for a while, the partitions are paused and polling goes on,
  for the sake of rebalances and of ``max.poll.interval.ms``. A message that comes with such a poll, or with one for
  the confirmation of a commit, waits for the next fetch.
* When there are many, what comes within a moment is given at once: see `gathering`.
* A commit's confirmation does not wake a poll that waits (with the consumer protocol of librdkafka 2.16 it is served
  only by the next poll, even for a commit on another thread). So, while a message is in somebody's hands and its
  acknowledgement may come, the thread waits for new messages in very short turns.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from minuet.adapters.broker.gathering import Gathering
from minuet.adapters.broker.port import Disconnected, Received
from minuet.adapters.kafka.failures import HOPELESS, NO_TOPIC, NOT_OURS_ANY_MORE, error_from, explain
from minuet.adapters.kafka.headers import attributes_from
from minuet.adapters.kafka.progress import Progress
from minuet.adapters.kafka.url import Options

log = logging.getLogger("minuet.kafka")

Token = tuple[str, int, int]  # topic, partition, offset
Begin = Callable[[Sequence[TopicPartition]], Sequence[TopicPartition]]
Lane = tuple[str, int]

WAIT_S = 0.1  # for messages, if nothing is in anybody's hands
SHORT_WAIT_S = 0.002  # while acknowledgements may come
PAUSE_AFTER_S = 0.25  # without anybody fetching
COMMIT_S_MAX = 15.0
COMMIT_AGAIN_S = 0.05
# A wave comes partition by partition, so its pieces are further apart than on other brokers.
GATHER_EACH_S = 0.003
GATHER_S_MAX = 0.02


@dataclass(eq=False)
class Acknowledging:
    """Tokens that are done, and who waits for that to be kept."""

    tokens: Sequence[Token]
    kept: asyncio.Future[None]
    deadline: float = field(default_factory=lambda: monotonic() + COMMIT_S_MAX)


class Inbound:
    """One member of a group, from the first fetch until `close`. To be used on the event loop.

    Args:
        group: the name of the consumer group on the broker.
        begin: where to begin in partitions that were just assigned; called on the member's thread.
        revoked: called on the loop for each lane that is another member's from now on.
    """

    def __init__(
        self,
        options: Options,
        loop: asyncio.AbstractEventLoop,
        *,
        group: str,
        topics: Sequence[str],
        begin: Begin,
        revoked: Callable[[str], None],
    ) -> None:
        self._loop = loop
        self._ready: deque[Received] = deque()  # given by the thread and not fetched yet
        self._news = asyncio.Event()
        self._failure: Exception | None = None
        self._told_revoked = revoked
        self._ended = loop.create_future()
        self._thread = _Thread(options, group, topics, begin, self)
        self._thread.start()

    async def fetch(self, limit: int) -> Sequence[Received]:
        while not self._ready:
            if self._failure:
                raise self._failure
            self._news.clear()
            self._thread.want(limit)
            try:
                await self._news.wait()
            finally:
                if not self._ready:
                    self._thread.want(0)
        # No await from here on: who is cancelled has taken nothing.
        return [self._ready.popleft() for _ in range(min(limit, len(self._ready)))]

    async def acknowledge(self, tokens: Sequence[Token]) -> None:
        if self._failure:
            raise self._failure
        kept: asyncio.Future[None] = self._loop.create_future()
        self._thread.acknowledge(Acknowledging(tokens, kept))
        await kept

    def give_back(self, tokens: Sequence[Token]) -> None:
        self._thread.do(lambda: self._thread.rewind(tokens))

    def subscribe(self, topics: Sequence[str]) -> None:
        self._thread.do(lambda: self._thread.subscribe(topics))

    def close(self) -> None:
        """Leave the group. Returns at once."""
        self._thread.stop()

    async def closed(self, timeout_s: float) -> None:
        await asyncio.wait([self._ended], timeout=timeout_s)

    # What the thread says, on the loop, in the order in which it said it.

    def given(self, messages: Sequence[Received]) -> None:
        self._ready.extend(messages)
        self._news.set()

    def revoked(self, lanes: Sequence[Lane]) -> None:
        names = {lane_name(*lane) for lane in lanes}
        self._ready = deque(one for one in self._ready if one.lane not in names)
        for name in sorted(names):
            self._told_revoked(name)

    def rewound(self, lane: Lane, offset: int) -> None:
        name = lane_name(*lane)
        self._ready = deque(one for one in self._ready if one.lane != name or one.token[2] < offset)

    def failed(self, error: Exception) -> None:
        self._failure = self._failure or error
        self._news.set()

    def ended(self) -> None:
        self.failed(Disconnected("the connection was closed"))
        if not self._ended.done():
            self._ended.set_result(None)


def consumer_for(options: Options, group: str, **callbacks: Callable[..., None]) -> Consumer:
    """A consumer that is no member of the group yet.

    Raises:
        ConfigurationError: a setting that librdkafka does not know or take.
    """
    settings: dict[str, Any] = {
        "fetch.error.backoff.ms": 100,
        "fetch.queue.backoff.ms": 5,  # else it rests for a second whenever what follows has been fetched in advance
        "queued.min.messages": 10_000,
        "queued.max.messages.kbytes": 16 * 1024,
        "group.protocol": options.protocol,
        **({} if options.protocol == "consumer" else {"partition.assignment.strategy": "cooperative-sticky"}),
        **options.client,
        **callbacks,
        "group.id": group,
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "auto.offset.reset": "earliest",
    }
    try:
        return Consumer(settings, logger=log)
    except (KafkaException, ValueError, TypeError) as error:
        raise error_from(error, options, "making a consumer") from None


def settle(future: asyncio.Future[None], error: Exception | None) -> None:
    if future.done():
        return
    if error:
        future.set_exception(error)
    else:
        future.set_result(None)


def lane_name(topic: str, partition: int) -> str:
    return f"{topic}/{partition}"


class _Thread(threading.Thread):
    """What is done with the consumer. Only `want`, `acknowledge`, `do` and `stop` are called on the event loop."""

    def __init__(self, options: Options, group: str, topics: Sequence[str], begin: Begin, owner: Inbound) -> None:
        super().__init__(name=f"kafka {options.servers}: {group}", daemon=True)
        self._options = options
        self._group = group
        self._begin = begin
        self._owner = owner
        self._loop = owner._loop
        self._called = threading.Condition()
        self._wanted = 0
        self._jobs: deque[Callable[[], None]] = deque()
        self._is_stopping = False
        self._lanes: dict[Lane, Progress] = {}
        self._early: deque[Message] = deque()  # polled and not given
        self._gathering = Gathering(GATHER_EACH_S, GATHER_S_MAX)
        self._waiting: list[Acknowledging] = []  # until what they say is committed
        self._committing: dict[Lane, int] | None = None  # the one commit that is under way
        self._commit_not_before = 0.0
        self._is_paused = False
        self._wanted_last = monotonic()
        self._consumer = consumer_for(options, group, on_commit=self._committed, error_cb=self._heard)
        self.subscribe(topics)

    # Called on the loop

    def want(self, limit: int) -> None:
        with self._called:
            self._wanted = limit
            self._called.notify()

    def acknowledge(self, acknowledging: Acknowledging) -> None:
        self.do(lambda: self._take(acknowledging))

    def do(self, job: Callable[[], None]) -> None:
        with self._called:
            self._jobs.append(job)
            self._called.notify()

    def stop(self) -> None:
        with self._called:
            self._is_stopping = True
            self._called.notify()

    # On the thread itself

    def run(self) -> None:
        try:
            while not self._is_stopping:
                self._turn()
        except Exception as error:
            if not isinstance(error, Disconnected):
                error = error_from(error, self._options, f"receiving for {self._group}")
            self._tell(self._owner.failed, error)
        finally:
            self._is_stopping = True
            gone = Disconnected(f"Kafka at {self._options.servers}: the connection of {self._group} was closed")
            for one in self._waiting:
                self._tell(settle, one.kept, gone)
            with contextlib.suppress(Exception):
                self._consumer.close()
            while self._jobs:  # acknowledgements that came meanwhile: nobody may wait for ever
                self._jobs.popleft()()
            for one in self._waiting:
                self._tell(settle, one.kept, gone)
            del self._begin  # it holds a client, which would knock on until the garbage is collected
            self._tell(self._owner.ended)

    def _turn(self) -> None:
        with self._called:
            if not self._wanted and not self._jobs and not self._is_stopping:
                self._called.wait(SHORT_WAIT_S if self._is_committing else WAIT_S)
            wanted = self._wanted
        self._do_jobs()
        self._commit()
        if wanted:
            self._wanted_last = monotonic()
            self._pause(False)
            in_hands = any(not progress.is_idle for progress in self._lanes.values())
            self._receive(wanted, SHORT_WAIT_S if in_hands or self._is_committing else WAIT_S)
        elif self._is_paused or monotonic() - self._wanted_last > PAUSE_AFTER_S:
            self._pause(True)
            self._serve()
        elif self._is_committing:
            self._serve()

    @property
    def _is_committing(self) -> bool:
        return bool(self._waiting) or self._committing is not None

    def _do_jobs(self) -> None:
        while self._jobs:
            self._jobs.popleft()()

    def _pause(self, is_paused: bool) -> None:
        if is_paused != self._is_paused:
            self._is_paused = is_paused
            change = self._consumer.pause if is_paused else self._consumer.resume
            change([TopicPartition(*lane) for lane in self._lanes])

    def _serve(self) -> None:
        message = self._consumer.poll(0)
        if message is not None:
            self._early.append(message)

    def _receive(self, limit: int, wait_s: float) -> None:
        if not self._early:
            first = self._consumer.poll(wait_s)
            if first is None:
                return
            self._early.append(first)
        if limit > len(self._early):
            more = self._consumer.consume(limit - len(self._early), self._gathering.wait_s)
            self._early.extend(more)  # not the deque of before: a rebalance meanwhile makes a new one
        messages = [self._early.popleft() for _ in range(min(limit, len(self._early)))]
        given = [received for message in messages if (received := self._received(message)) is not None]
        if given:
            self._gathering.gave(len(given))
            with self._called:
                self._wanted = 0  # until somebody fetches again
            self._tell(self._owner.given, given)

    def _received(self, message: Message) -> Received | None:
        error = message.error()
        if error:
            self._look_at(error)
            return None
        topic, partition, offset = message.topic(), message.partition(), message.offset()
        assert topic is not None
        assert partition is not None
        assert offset is not None
        progress = self._lanes.get((topic, partition))
        if progress is None:  # it was revoked meanwhile
            return None
        progress.give(offset)
        return Received(
            destination=topic,
            attributes=attributes_from(message.headers()),  # type: ignore[arg-type]
            body=message.value() or b"",
            token=(topic, partition, offset),
            lane=lane_name(topic, partition),
        )

    def _look_at(self, error: KafkaError) -> None:
        if error.fatal() or error.code() in HOPELESS:
            raise error_from(error, self._options, f"receiving for {self._group}")
        if error.code() not in NO_TOPIC:  # the topic was removed: nothing comes until it is there again
            log.info("%s: %s", self.name, explain(error, self._options))

    def _heard(self, error: KafkaError) -> None:
        if error.fatal() or error.code() in HOPELESS:
            self._tell(self._owner.failed, error_from(error, self._options, f"receiving for {self._group}"))

    def _tell(self, what: Callable[..., None], *args: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(what, *args)

    # Who has which partitions

    def subscribe(self, topics: Sequence[str]) -> None:
        self._consumer.subscribe(list(topics), on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._lost)

    def _assigned(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        begins = self._begin(partitions) if partitions else []
        for one in partitions:
            self._lanes[(one.topic, one.partition)] = Progress()
        consumer.incremental_assign(list(begins))
        if self._is_paused:
            consumer.pause(partitions)

    def _revoked(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        if not self._is_stopping:  # all that was acknowledged is committed by whoever closes
            self._do_jobs()
            lanes = {(one.topic, one.partition) for one in partitions}
            wanted = {lane: number for lane, number in self._to_commit().items() if lane in lanes}
            if wanted:
                with contextlib.suppress(KafkaException):  # then these come twice
                    consumer.commit(offsets=offsets_of(wanted), asynchronous=False)
        self._lost(consumer, partitions)

    def _lost(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        lanes = [(one.topic, one.partition) for one in partitions]
        for lane in lanes:
            self._lanes.pop(lane, None)
            self._drop_early(lane, 0)
        self._tell(self._owner.revoked, lanes)
        if self._is_paused and partitions:
            # librdkafka keeps a partition paused over its being taken away and given back, and then nobody would know.
            consumer.resume(partitions)
        consumer.incremental_unassign(partitions)
        self._release()

    def _drop_early(self, lane: Lane, offset: int) -> None:
        """These will be polled anew, by whoever has the partition then."""
        self._early = deque(
            one for one in self._early if (one.topic(), one.partition()) != lane or (one.offset() or 0) < offset
        )

    # What is done

    def _take(self, acknowledging: Acknowledging) -> None:
        for topic, partition, offset in acknowledging.tokens:
            progress = self._lanes.get((topic, partition))
            if progress is not None:  # else it is another member's by now
                progress.done(offset)
        self._waiting.append(acknowledging)

    def rewind(self, tokens: Sequence[Token]) -> None:
        lowest: dict[Lane, int] = {}
        for topic, partition, offset in tokens:
            lane = (topic, partition)
            if lane in self._lanes:
                lowest[lane] = min(offset, lowest.get(lane, offset))
        for lane, offset in lowest.items():
            self._lanes[lane].rewind(offset)
            self._drop_early(lane, offset)
            self._tell(self._owner.rewound, lane, offset)
            with contextlib.suppress(KafkaException):  # it is being taken away from us
                self._consumer.seek(TopicPartition(*lane, offset))

    def _to_commit(self) -> dict[Lane, int]:
        numbers = ((lane, progress.to_commit) for lane, progress in self._lanes.items())
        return {lane: number for lane, number in numbers if number is not None}

    def _commit(self) -> None:
        """Begin to commit what is done, if no commit is under way: meanwhile more gathers for the next one."""
        now = monotonic()
        late = [one for one in self._waiting if one.deadline < now]
        if late:
            raise Disconnected(
                f"Kafka at {self._options.servers} did not keep for {COMMIT_S_MAX:g} s what {self._group} has done"
            )
        if self._committing is not None or not self._waiting or now < self._commit_not_before:
            return
        wanted = self._to_commit()
        if not wanted:
            self._release()
            return
        self._committing = wanted
        self._consumer.commit(offsets=offsets_of(wanted), asynchronous=True)

    def _committed(self, error: KafkaError | None, partitions: Sequence[TopicPartition]) -> None:
        """The broker answered a commit; called while polling. A synchronous one while a partition is revoked, too."""
        wanted, self._committing = self._committing, None
        failures = [error] if error else [one.error for one in partitions if one.error]
        for one in partitions:
            progress = self._lanes.get((one.topic, one.partition))
            if progress is not None and not error and not one.error:
                progress.committed = one.offset
        for failure in failures:
            self._weigh(failure)
        if wanted is not None and failures:
            self._commit_not_before = monotonic() + COMMIT_AGAIN_S
        self._release()

    def _weigh(self, failure: KafkaError) -> None:
        if failure.code() in HOPELESS:
            self._tell(self._owner.failed, error_from(failure, self._options, f"committing for {self._group}"))
        elif failure.code() not in NOT_OURS_ANY_MORE | NO_TOPIC:
            log.info("%s: committing again: %s", self.name, explain(failure, self._options))

    def _release(self) -> None:
        """Let go those whose tokens are committed, or stand behind something that is not done, or are not ours."""
        open_lanes = self._to_commit()
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            if any((topic, partition) in open_lanes for topic, partition, _ in one.tokens):
                self._waiting.append(one)
            else:
                self._tell(settle, one.kept, None)


def offsets_of(numbers: dict[Lane, int]) -> list[TopicPartition]:
    return [TopicPartition(*lane, number) for lane, number in numbers.items()]
