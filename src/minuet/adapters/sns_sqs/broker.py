"""The connection to SNS and SQS: publishing to topics, settling in queues. See `intake` for receiving."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from importlib.util import find_spec
from itertools import islice
from typing import Any, TypeVar

from minuet.adapters.broker.port import Disconnected, Queue, Received, Sending
from minuet.adapters.sns_sqs.address import parse
from minuet.adapters.sns_sqs.errors import Missing, meaning, of_code
from minuet.adapters.sns_sqs.intake import Intake, Token, lasting
from minuet.adapters.sns_sqs.topology import Topology
from minuet.adapters.sns_sqs.wire import BODY_BYTES_MAX, MESSAGE_BYTES_MAX, entry_of
from minuet.core.errors import ConfigurationError, MessageError
from minuet.ports import Features, Ids

log = logging.getLogger("minuet.sns_sqs")
T = TypeVar("T")

BATCH_MAX = 10
REQUESTS_MAX = 16  # of one kind at a time
ATTEMPTS_MAX = 3  # of the SDK, and of ours for the entries of a batch
CONNECT_S_MAX = 5
ANSWER_S_MAX = 10
HEARD_S = 60.0
CONNECTIONS_MAX = 64
# A receipt is out of date: the message was deleted, or is somebody else's. That is no failure of ours to repair.
OUT_OF_DATE = ("ReceiptHandle", "InvalidParameterValue", "MessageNotInflight")


class SnsSqsBroker:
    """Topics of one region, all standard or all FIFO; see docs/adapters/sns-sqs.md.

    Args:
        url: as `split` gives it.
        ids: names attempts.
        heard_s: for so long it is believed that a topic has subscribers, once it had.

    Raises:
        ConfigurationError: the URL makes no sense, or the SDK is not installed.
    """

    gathers = False

    def __init__(self, url: str, ids: Ids, *, heard_s: float = HEARD_S) -> None:
        self._address = parse(url)
        if find_spec("aiobotocore") is None:
            raise ConfigurationError("sns:// needs the AWS SDK; install minuet[aws]")
        self._ids = ids
        self._heard_s = heard_s
        self.features = Features(
            ordered_per_key=self._address.is_fifo,
            ordered_across_members=self._address.is_fifo,
            body_bytes_max=BODY_BYTES_MAX,
        )
        self.hold_s: float | None = float(self._address.hold_s)
        self.revoked: Callable[[str, str], None] = lambda group, lane: None
        self.polls: Any = None
        self._sns: Any = None
        self._sqs: Any = None
        self._clients: AsyncExitStack | None = None
        self._queues: dict[str, dict[str, str]] = {}
        self._intakes: dict[str, Intake] = {}
        self._heard: dict[str, float] = {}
        self._sending = asyncio.Semaphore(REQUESTS_MAX)
        self._settling = asyncio.Semaphore(REQUESTS_MAX)

    async def connect(self) -> None:
        from aiobotocore.session import get_session  # type: ignore[import-untyped]

        await self.disconnect()
        clients = AsyncExitStack()
        try:
            session = get_session()
            self._sns = await clients.enter_async_context(self._client(session, "sns", ANSWER_S_MAX))
            self._sqs = await clients.enter_async_context(self._client(session, "sqs", ANSWER_S_MAX))
            wait_s = self._address.wait_s + ANSWER_S_MAX
            self.polls = await clients.enter_async_context(self._client(session, "sqs", wait_s))
            await self._greet()
        except BaseException as error:
            with suppress(Exception):
                await clients.aclose()
            if not isinstance(error, Exception):
                raise
            problem = meaning(error, f"connecting to SQS in {self._address.region}")
            raise problem if isinstance(problem, ConfigurationError) else lasting(problem) from error
        self._clients = clients

    def _client(self, session: Any, service: str, answer_s: int) -> Any:
        from aiobotocore.config import AioConfig  # type: ignore[import-untyped]

        return session.create_client(
            service,
            region_name=self._address.region,
            endpoint_url=self._address.endpoint,
            config=AioConfig(
                connect_timeout=CONNECT_S_MAX,
                read_timeout=answer_s,
                retries={"mode": "standard", "max_attempts": ATTEMPTS_MAX},
                max_pool_connections=CONNECTIONS_MAX,
                tcp_keepalive=True,
            ),
        )

    async def _greet(self) -> None:
        """Any answer will do, also that we may not list queues: it shows that we are known."""
        try:
            await self._sqs.list_queues(QueueNamePrefix="minuet-", MaxResults=1)
        except Exception as error:
            code = str(getattr(error, "response", {}).get("Error", {}).get("Code", ""))
            if "AccessDenied" not in code:
                raise

    async def disconnect(self) -> None:
        intakes, self._intakes = self._intakes, {}
        with suppress(Exception):
            await asyncio.gather(*(intake.stop() for intake in intakes.values()))
        clients, self._clients = self._clients, None
        self._heard.clear()
        if clients is not None:
            with suppress(Exception):
                await clients.aclose()

    def _topology(self) -> Topology:
        self._connected()
        return Topology(self._sns, self._sqs, self._address)

    def _connected(self) -> None:
        if self._clients is None:
            raise Disconnected("not connected to SNS and SQS")

    async def declare(self, queues: Sequence[Queue], destinations: Sequence[str], *, only_new: bool) -> None:
        try:
            made = await self._topology().declare(queues, destinations, only_new=only_new)
        except (Missing, MessageError) as error:  # somebody deletes what we make; or a name that AWS refuses
            raise ConfigurationError(str(error)) from error
        self._heard.clear()
        self._use(made)

    async def check(self, queues: Sequence[Queue], destinations: Sequence[str]) -> Sequence[str]:
        topology = self._topology()
        found = await topology.check(queues, destinations)
        self._use(await topology.queues_of(queues))  # where nothing may be made, this is all that there is
        return found

    def _use(self, queues: Mapping[str, dict[str, str]]) -> None:
        self._queues.update(queues)
        for group, intake in self._intakes.items():
            intake.queues = self._queues[group]

    # Publishing

    async def send(self, messages: Sequence[Sending]) -> Sequence[Exception | None]:
        self._connected()
        outcome: list[Exception | None] = [None] * len(messages)
        unheard = await self._unheard({message.destination for message in messages if message.must_arrive})
        entries: dict[str, list[tuple[dict[str, Any], int]]] = {}
        for number, message in enumerate(messages):
            if message.must_arrive and message.destination in unheard:
                outcome[number] = unheard[message.destination]
                continue
            try:
                entry, size = entry_of(message, is_fifo=self._address.is_fifo)
            except MessageError as error:
                outcome[number] = error
                continue
            entries.setdefault(message.destination, []).append(({"Id": str(number), **entry}, size))
        batches = [(topic, batch) for topic, some in entries.items() for batch in batches_of(some)]
        for problems in await asyncio.gather(*(self._publish(topic, batch) for topic, batch in batches)):
            for number, problem in problems.items():
                outcome[number] = problem
        lost = [problem for problem in outcome if isinstance(problem, Disconnected)]
        if lost and len(lost) == len(outcome):
            raise lost[0]
        return outcome

    async def _publish(self, topic: str, batch: list[dict[str, Any]]) -> dict[int, Exception]:
        """Publish a batch; what went wrong, by the number of the message."""
        doing = f"publishing to {topic}"
        try:
            async with self._sending:
                told = await self._sns.publish_batch(TopicArn=topic, PublishBatchRequestEntries=batch)
        except Exception as error:
            problem = meaning(error, doing)
            if isinstance(problem, MessageError) and len(batch) > 1:  # one that is wrong must not stop the others
                alone = await asyncio.gather(*(self._publish(topic, [entry]) for entry in batch))
                return {number: problem for problems in alone for number, problem in problems.items()}
            return {int(entry["Id"]): self._explained(problem, topic) for entry in batch}
        problems = {
            int(entry["Id"]): self._explained(
                of_code(entry.get("Code", ""), entry.get("Message", ""), entry.get("SenderFault", False), doing), topic
            )
            for entry in told.get("Failed", ())
        }
        # Only what is said to be kept is kept. The emulator says nothing of an entry when a queue behind it is missing.
        confirmed = {entry["Id"] for entry in told.get("Successful", ())}
        for entry in batch:
            if entry["Id"] not in confirmed:
                silence = Disconnected(f"{doing}: AWS says nothing about message {entry['Id']} of a batch")
                problems.setdefault(int(entry["Id"]), silence)
        return problems

    def _explained(self, problem: Exception, topic: str) -> Exception:
        self._heard.pop(topic, None)
        return no_topic(topic) if isinstance(problem, Missing) else problem

    async def _unheard(self, topics: set[str]) -> dict[str, Exception]:
        """Topics that nobody is subscribed to, and why that is a failure.

        SNS confirms a message for which there is no subscriber. So it is asked who there is, once in a while.
        """
        now = asyncio.get_running_loop().time()
        doubtful = [topic for topic in topics if self._heard.get(topic, 0.0) <= now]
        answers = await asyncio.gather(*map(self._is_heard, doubtful))
        for topic, problem in zip(doubtful, answers, strict=True):
            if problem is None:
                self._heard[topic] = now + self._heard_s
        return {topic: problem for topic, problem in zip(doubtful, answers, strict=True) if problem}

    async def _is_heard(self, topic: str) -> Exception | None:
        try:
            if await self._topology().is_heard(topic):
                return None
            return ConfigurationError(f"nobody is subscribed to SNS topic {topic}; run: minuet topology apply")
        except Missing:
            return no_topic(topic)
        except ConfigurationError as error:
            log.warning("cannot know whether anybody is subscribed to %s, and publish anyhow: %s", topic, error)
            return None
        except Exception as error:
            return error

    # Receiving

    async def fetch(self, group: str, limit: int) -> Sequence[Received]:
        self._connected()
        intake = self._intakes.get(group)
        if intake is None:
            intake = self._intakes[group] = Intake(
                self,
                group,
                self._queues.get(group, {}),
                is_fifo=self._address.is_fifo,
                hold_s=self._address.hold_s,
                wait_s=self._address.wait_s,
                new_id=self._ids.new,
            )
        return await intake.fetch(limit)

    async def acknowledge(self, group: str, tokens: Sequence[Any]) -> None:
        await self._settle(tokens, "deleting from", self._delete)

    async def keep(self, group: str, tokens: Sequence[Any]) -> None:
        await self._show_after(tokens, self._address.hold_s)

    async def give_back(self, group: str, tokens: Sequence[Any]) -> None:
        intake = self._intakes.get(group)
        more: list[Token] = []
        if intake:
            if not intake.is_fetching:
                await intake.rest()  # else its own polls would take what is given back, and give it back once more
            if self._address.is_fifo:
                more = intake.let_go({token.queue for token in tokens})
        await self._show_after([*tokens, *more], 0)

    async def show(self, tokens: list[Token]) -> None:
        await self._show_after(tokens, 0)

    def _delete(self, queue: str, entries: list[dict[str, Any]]) -> Any:
        return self._sqs.delete_message_batch(QueueUrl=queue, Entries=entries)

    async def _show_after(self, tokens: Sequence[Any], seconds: int) -> None:
        def change(queue: str, entries: list[dict[str, Any]]) -> Any:
            entries = [{**entry, "VisibilityTimeout": seconds} for entry in entries]
            return self._sqs.change_message_visibility_batch(QueueUrl=queue, Entries=entries)

        await self._settle(tokens, "changing the visibility in", change)

    async def _settle(
        self, tokens: Iterable[Token], doing: str, ask: Callable[[str, list[dict[str, Any]]], Any]
    ) -> None:
        self._connected()
        by_queue: dict[str, list[str]] = {}
        for token in tokens:
            by_queue.setdefault(token.queue, []).append(token.receipt)
        batches = [(queue, some) for queue, receipts in by_queue.items() for some in chunks(receipts, BATCH_MAX)]
        await asyncio.gather(*(self._settle_batch(queue, some, doing, ask) for queue, some in batches))

    async def _settle_batch(
        self, queue: str, receipts: list[str], doing: str, ask: Callable[[str, list[dict[str, Any]]], Any]
    ) -> None:
        entries = [{"Id": str(number), "ReceiptHandle": receipt} for number, receipt in enumerate(receipts)]
        failed: list[Mapping[str, Any]] = []
        for _ in range(ATTEMPTS_MAX):
            try:
                async with self._settling:
                    told = await ask(queue, entries)
            except Exception as error:
                raise lasting(meaning(error, f"{doing} {queue}")) from error
            failed = [one for one in told.get("Failed", ()) if not any(code in one["Code"] for code in OUT_OF_DATE)]
            again = {one["Id"] for one in failed}
            entries = [entry for entry in entries if entry["Id"] in again]
            if not entries:
                return
        raise Disconnected(f"{doing} {queue}: AWS says {failed[0]['Code']}: {failed[0].get('Message', '')}")


def no_topic(topic: str) -> ConfigurationError:
    return ConfigurationError(f"SNS topic {topic} does not exist; run: minuet topology apply")


def batches_of(entries: Iterable[tuple[dict[str, Any], int]]) -> Iterator[list[dict[str, Any]]]:
    """Batches as large as SNS takes them."""
    batch: list[dict[str, Any]] = []
    total = 0
    for entry, size in entries:
        if batch and (len(batch) == BATCH_MAX or total + size > MESSAGE_BYTES_MAX):
            yield batch
            batch, total = [], 0
        batch.append(entry)
        total += size
    if batch:
        yield batch


def chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while some := list(islice(iterator, size)):
        yield some
