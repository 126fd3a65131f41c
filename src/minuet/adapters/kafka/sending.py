"""A producer behind the event loop: confirmed by delivery report, one wake-up of the loop for a whole call."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Sequence
from functools import partial
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer

from minuet.adapters.broker.port import Disconnected, Sending
from minuet.adapters.kafka.failures import TOO_LARGE, error_from
from minuet.adapters.kafka.headers import headers_of
from minuet.adapters.kafka.url import Options

log = logging.getLogger("minuet.kafka")

DELIVERY_MS_MAX = 15_000
TOPIC_LOOKUP_MS_MAX = 5_000
POLL_S = 0.1

Report = KafkaError | Exception | None


class Outbound:
    """One producer and the thread that serves its delivery reports.

    Raises:
        ConfigurationError: a setting that librdkafka does not know or take.
    """

    def __init__(self, options: Options, loop: asyncio.AbstractEventLoop) -> None:
        self._options = options
        self._loop = loop
        self._fatal: KafkaError | None = None
        self._trying_again = asyncio.Lock()
        self._stopping = threading.Event()
        settings: dict[str, Any] = {
            "linger.ms": 1,
            "topic.metadata.propagation.max.ms": TOPIC_LOOKUP_MS_MAX,
            "delivery.timeout.ms": DELIVERY_MS_MAX,
            **options.client,
            "acks": "all",
            "enable.idempotence": True,
            "message.max.bytes": options.message_bytes_max,
            "partitioner": "murmur2_random",  # as Java's clients, so that a key lies in the same partition for all
            "error_cb": self._heard,
        }
        try:
            self._producer = Producer(settings, logger=log)
        except (KafkaException, ValueError, TypeError) as error:
            raise error_from(error, options, "making a producer") from None
        self._thread = threading.Thread(target=self._serve, name=f"kafka {options.servers}: reports", daemon=True)
        self._thread.start()

    async def send(self, messages: Sequence[Sending]) -> list[Exception | None]:
        reports = await self._try(messages)
        outcomes: list[Exception | None] = []
        for message, report in zip(messages, reports, strict=True):
            if isinstance(report, KafkaError) and report.code() in TOO_LARGE:
                # The broker refuses whole batches for one message in it, or because together they are too large. Other
                # calls' messages may be in it, too, and be tried again just now: not together once more.
                async with self._trying_again:
                    report = (await self._try([message]))[0]
            doing = f"sending to {message.destination}"
            outcomes.append(None if report is None else error_from(report, self._options, doing))
        return outcomes

    async def _try(self, messages: Sequence[Sending]) -> Sequence[Report]:
        if self._stopping.is_set():
            return [Disconnected("the connection was closed")] * len(messages)
        call = Call(len(messages), self._loop)
        for index, message in enumerate(messages):
            try:
                self._producer.produce(
                    message.destination,
                    message.body,
                    key=message.key.encode() or None,
                    headers=headers_of(message.attributes),
                    on_delivery=partial(call.reported, index),
                )
            except KafkaException as error:
                call.reported(index, error.args[0], None)
            except Exception as error:  # its queue is full, for example
                call.reported(index, error, None)
        await call.all_reported
        return [self._fatal or report if report else None for report in call.reports]

    def close(self) -> None:
        """Forget what is not confirmed. Returns at once."""
        with contextlib.suppress(Exception):
            self._producer.purge()
        self._stopping.set()  # from now on only its own thread may touch it

    async def closed(self, timeout_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.to_thread(self._thread.join, timeout_s), timeout_s + 1)

    def _serve(self) -> None:
        while not self._stopping.is_set():
            self._producer.poll(POLL_S)
        with contextlib.suppress(Exception):
            self._producer.flush(1)  # those who wait hear that it was forgotten
            self._producer.close()  # else it would knock on until the garbage is collected

    def _heard(self, error: KafkaError) -> None:
        if error.fatal():
            self._fatal = error  # this producer is of no use any more


class Call:
    """The delivery reports of one call. They come on the producer's thread, or on the loop's for what never left."""

    def __init__(self, count: int, loop: asyncio.AbstractEventLoop) -> None:
        self.reports: list[Report] = [None] * count
        self.all_reported: asyncio.Future[None] = loop.create_future()
        self._loop = loop
        self._missing = count
        self._lock = threading.Lock()
        if not count:
            self._finish()

    def reported(self, index: int, report: Report, _: object) -> None:
        self.reports[index] = report
        with self._lock:
            self._missing -= 1
            if self._missing:
                return
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._finish)

    def _finish(self) -> None:
        if not self.all_reported.done():
            self.all_reported.set_result(None)
