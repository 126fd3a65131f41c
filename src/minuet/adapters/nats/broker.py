"""`NatsBroker`: a `minuet.adapters.broker.port.Broker` on a stream of NATS JetStream."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from nats.js.api import ConsumerConfig, StreamConfig

from minuet.adapters.broker.port import Disconnected, Queue, Received, Sending
from minuet.adapters.nats.address import Address, parse
from minuet.adapters.nats.connection import Connection, NoStream, Request
from minuet.adapters.nats.pulling import Puller
from minuet.adapters.nats.topology import (
    changed_consumer,
    changed_stream,
    consumer_differs,
    consumer_name,
    new_consumer,
    new_stream,
    stream_differs,
    unfit_consumer,
    unfit_stream,
)
from minuet.adapters.nats.wire import Heard, headers_of, received_from
from minuet.core.errors import ConfigurationError, MessageError
from minuet.ports import Features, Ids

HEADERS_BYTES = 64 * 1024
"""Of the server's limit for a message, left for the attributes."""
PAYLOAD_BYTES = 1024 * 1024  # the server's default
DONE = b"+ACK"
IN_WORK = b"+WPI"
NOT_HANDLED = b"-NAK"
NOT_FOUND = 404
TRY_LATER = {500, 503}
NOT_ALLOWED = {10039, 10076}  # JetStream is not enabled for this account, or at all
TOO_LARGE = 10054
FINISH_S = 2.0


class NotKept(Exception):
    """The server did not keep a message, and says why."""


class NatsBroker:
    """One connection to one stream.

    Args:
        url: as `split` gives it.
        ids: names this client, for the server's monitoring.

    Raises:
        ConfigurationError: the URL makes no sense.
    """

    features = Features(
        ordered_across_members=False, counts_deliveries=True, body_bytes_max=PAYLOAD_BYTES - HEADERS_BYTES
    )
    gathers = False
    revoked: Callable[[str, str], None]

    def __init__(self, url: str, ids: Ids) -> None:
        self.address: Address = parse(url)
        self.hold_s: float | None = float(self.address.hold_s)
        self._name = f"minuet-{ids.new()}"
        self._api = f"$JS.{self.address.domain}.API" if self.address.domain else "$JS.API"
        self._connection: Connection | None = None
        self._pullers: dict[str, Puller] = {}
        self._held: dict[str, dict[str, None]] = {}  # per group, in the order in which they came

    async def connect(self) -> None:
        await self.disconnect()
        connection = await Connection.to(self.address, self._name)
        self.features = replace(
            self.features, body_bytes_max=max(connection.bytes_max - HEADERS_BYTES, connection.bytes_max // 2)
        )
        self._connection = connection
        # What came over an earlier connection would otherwise be nobody's until its time is over.
        held, self._held = self._held, {}
        for tokens in held.values():
            await self._say(NOT_HANDLED, list(tokens), confirmed=False)

    async def disconnect(self) -> None:
        pullers, self._pullers = self._pullers, {}
        connection = self._connection
        if connection is None:
            return
        try:
            if pullers and not connection.lost.done():
                finishing = [asyncio.ensure_future(puller.finish()) for puller in pullers.values()]
                await asyncio.wait(finishing, timeout=FINISH_S)
                for task in finishing:
                    task.cancel()
                await asyncio.gather(*finishing, return_exceptions=True)
        finally:
            self._connection = None
            await connection.close()

    async def declare(self, queues: Sequence[Queue], destinations: Sequence[str], *, only_new: bool) -> None:
        address = self.address
        stream = await self._stream()
        if stream is None:
            await self._api_call(f"STREAM.CREATE.{address.stream}", new_stream(address, destinations).as_dict())
        else:
            self._refuse(f"stream {address.stream}", unfit_stream(stream))
        if stream is not None and stream_differs(address, stream, destinations):
            changed = changed_stream(address, stream, destinations)
            await self._api_call(f"STREAM.UPDATE.{address.stream}", changed.as_dict())
        for queue in queues:
            consumer = await self._consumer(queue.group)
            if consumer is None:
                await self._save_consumer(new_consumer(address, queue))
                continue
            self._refuse(f"consumer {consumer_name(queue.group)}", unfit_consumer(consumer))
            if not only_new and consumer_differs(address, consumer, queue):
                await self._save_consumer(changed_consumer(address, consumer, queue))

    async def check(self, queues: Sequence[Queue], destinations: Sequence[str]) -> Sequence[str]:
        stream = await self._stream()
        if stream is None:
            return [f"there is no stream {self.address.stream}"]
        missing = [f"stream {self.address.stream} cannot be used: {wrong}"] if (wrong := unfit_stream(stream)) else []
        missing += stream_differs(self.address, stream, destinations)
        for queue in queues:
            consumer = await self._consumer(queue.group)
            if consumer is None:
                missing.append(f"stream {self.address.stream} has no consumer {consumer_name(queue.group)}")
            else:
                wrong = unfit_consumer(consumer)
                missing += [f"consumer {consumer_name(queue.group)} cannot be used: {wrong}"] if wrong else []
                missing += consumer_differs(self.address, consumer, queue)
        return missing

    def _refuse(self, what: str, wrong: str | None) -> None:
        if wrong:
            raise ConfigurationError(
                f"{self.address.name}: {what} cannot be used: {wrong}; delete it if nobody needs it, or name another "
                "stream"
            )

    async def send(self, messages: Sequence[Sending]) -> Sequence[Exception | None]:
        connection = self._connected()
        outcomes: list[Exception | None] = [None] * len(messages)
        requests: list[Request] = []
        indexes: list[int] = []
        for index, message in enumerate(messages):
            try:
                headers = headers_of(message, self.address.stream)
            except MessageError as error:
                outcomes[index] = error
                continue
            size = len(headers) + len(message.body)
            if size > connection.bytes_max:  # the server would end the connection
                outcomes[index] = MessageError(
                    f"{message.attributes.get('type', 'a message')} {message.attributes.get('id', '')} has {size} "
                    f"bytes with its attributes; max_payload of {self.address.name} is {connection.bytes_max}"
                )
            else:
                requests.append(Request(message.destination, message.body, headers))
                indexes.append(index)
        for index, answer in zip(indexes, await connection.ask_all(requests), strict=True):
            outcomes[index] = self._outcome(messages[index], answer)
        return outcomes

    def _outcome(self, message: Sending, answer: Heard | Exception) -> Exception | None:
        if isinstance(answer, NoStream):
            return NotKept(f"{self.address.name}: no stream takes messages of subject {message.destination}")
        if isinstance(answer, Exception):
            return answer
        try:
            said = json.loads(answer.body)
            error = said.get("error")
            stream = said.get("stream")
        except (ValueError, AttributeError):
            error, stream = None, None
        if error:
            text = f"{self.address.name} does not keep a message of {message.destination}: {error.get('description')}"
            return MessageError(text) if error.get("err_code") == TOO_LARGE else NotKept(text)
        if stream != self.address.stream:
            return NotKept(
                f"{self.address.name}: somebody who is not stream {self.address.stream} answers to subject "
                f"{message.destination}"
            )
        return None

    async def fetch(self, group: str, limit: int) -> Sequence[Received]:
        connection = self._connected()
        puller = self._pullers.get(group)
        if puller is None:
            held = self._held.setdefault(group, {})
            puller = self._pullers[group] = Puller(
                connection,
                f"{self._api}.CONSUMER.MSG.NEXT.{self.address.stream}.{consumer_name(group)}",
                came=lambda message: held.setdefault(message.reply),
                give_back=lambda messages: self.give_back(group, [message.reply for message in messages]),
            )
        return [received_from(message) for message in await puller.fetch(limit)]

    async def acknowledge(self, group: str, tokens: Sequence[Any]) -> None:
        await self._say(DONE, tokens)
        self._forget(group, tokens)

    async def keep(self, group: str, tokens: Sequence[Any]) -> None:
        await self._say(IN_WORK, tokens)

    async def give_back(self, group: str, tokens: Sequence[Any]) -> None:
        await self._say(NOT_HANDLED, tokens)
        self._forget(group, tokens)

    async def _say(self, what: bytes, tokens: Sequence[str], *, confirmed: bool = True) -> None:
        connection = self._connected()
        requests = [Request(token, what) for token in tokens]
        try:
            if not confirmed:
                await connection.publish(requests)
            elif requests:
                await connection.tell(requests)
        except NoStream as error:
            raise Disconnected(f"{self.address.name}: the consumer of these messages was deleted: {error}") from error

    def _forget(self, group: str, tokens: Sequence[str]) -> None:
        held = self._held.get(group, {})
        for token in tokens:
            held.pop(token, None)

    def _connected(self) -> Connection:
        if self._connection is None:
            raise Disconnected(f"{self.address.name} is not connected")
        return self._connection

    # The JetStream API, over our own connection: nats-py's would wait on when the connection is gone

    async def _stream(self) -> StreamConfig | None:
        found = await self._api_call(f"STREAM.INFO.{self.address.stream}", may_miss=True)
        return StreamConfig.from_response(found["config"]) if found else None

    async def _consumer(self, group: str) -> ConsumerConfig | None:
        subject = f"CONSUMER.INFO.{self.address.stream}.{consumer_name(group)}"
        found = await self._api_call(subject, may_miss=True)
        return ConsumerConfig.from_response(found["config"]) if found else None

    async def _save_consumer(self, config: ConsumerConfig) -> None:
        subject = f"CONSUMER.CREATE.{self.address.stream}.{config.durable_name}"
        config = replace(config, name=config.durable_name)
        await self._api_call(subject, {"stream_name": self.address.stream, "config": config.as_dict()})

    async def _api_call(
        self, subject: str, what: dict[str, Any] | None = None, *, may_miss: bool = False
    ) -> dict[str, Any]:
        """The answer; empty if it is that there is no such thing."""
        payload = json.dumps(what).encode() if what is not None else b""
        try:
            answer = await self._connected().ask(Request(f"{self._api}.{subject}", payload))
        except NoStream as error:
            raise Disconnected(f"{self.address.name}: JetStream does not answer: {error}") from error
        said: dict[str, Any] = json.loads(answer.body)
        refused = said.get("error")
        if not refused:
            return said
        if refused["code"] == NOT_FOUND and may_miss:
            return {}
        text = f"{self.address.name}: {subject.partition('.')[0].lower()}: {refused.get('description')}"
        if refused["code"] in TRY_LATER and refused.get("err_code") not in NOT_ALLOWED:
            raise Disconnected(text)
        raise ConfigurationError(text)
