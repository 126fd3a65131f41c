"""Apache Kafka as a `minuet.adapters.broker.port.Broker`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

from minuet.adapters.broker.port import Disconnected, Queue, Received, Sending
from minuet.adapters.kafka.failures import error_from
from minuet.adapters.kafka.receiving import Inbound, consumer_for
from minuet.adapters.kafka.sending import Outbound
from minuet.adapters.kafka.topics import Topics
from minuet.adapters.kafka.url import HEADERS_BYTES_MAX, MESSAGE_BYTES_MAX, options_from, seldom
from minuet.core.errors import ConfigurationError
from minuet.ports import Features, Ids

log = logging.getLogger("minuet.kafka")

T = TypeVar("T")

CONNECT_S = (0.5, 1.5, 3.0)
"""How long to wait for an answer before looking whether there can be one."""
LEAVE_S_MAX = 5.0


class KafkaBroker:
    """A connection to a Kafka cluster.

    Args:
        url: the server part, as `split` gives it.
        ids: only for its chance: Kafka names its clients itself.

    Raises:
        ConfigurationError: the URL makes no sense.
    """

    features = Features(
        ordered_per_key=True,
        ordered_across_members=True,
        shares_lanes=True,
        counts_deliveries=False,
        body_bytes_max=MESSAGE_BYTES_MAX - HEADERS_BYTES_MAX,
        survives_restart=True,
    )
    hold_s: float | None = None
    gathers = True

    def __init__(self, url: str, ids: Ids) -> None:
        self._options = seldom(options_from(url), ids.chance())
        self.features = replace(self.features, body_bytes_max=self._options.message_bytes_max - HEADERS_BYTES_MAX)
        self.revoked: Callable[[str, str], None] = lambda group, lane: None
        self._subscribed: dict[str, tuple[str, ...]] = {}
        self._topics: Topics | None = None
        self._outbound: Outbound | None = None
        self._inbound: dict[str, Inbound] = {}

    def __repr__(self) -> str:
        return f"KafkaBroker({self._options.servers})"

    async def connect(self) -> None:
        loop = asyncio.get_running_loop()
        heard: list[KafkaError] = []
        settings: dict[str, Any] = {**self._options.client, "error_cb": heard.append}
        try:
            admin = AdminClient(settings, logger=log)
        except (KafkaException, ValueError, TypeError) as error:
            raise error_from(error, self._options, "connecting") from None
        await asyncio.to_thread(self._reach, admin, heard)
        self._topics = Topics(admin, self._options)
        self._outbound = Outbound(self._options, loop)

    def _reach(self, admin: AdminClient, heard: Sequence[KafkaError]) -> None:
        """Returns when the cluster has answered; else the client is closed. Blocking.

        That it took too long is all that a question says; why, was said to the callback.
        """
        with contextlib.ExitStack() as closing:
            # Else it would knock on until the garbage is collected, and one more after each attempt to connect.
            closing.enter_context(admin)
            # Its settings are looked at now and not when the first one is used.
            consumer_for(self._options, "minuet").close()
            for wait_s in CONNECT_S:
                try:
                    admin.list_topics(timeout=wait_s)
                except KafkaException as error:
                    admin.poll(0)
                    reasons = [error_from(one, self._options, "connecting") for one in heard]
                    wrong = [reason for reason in reasons if isinstance(reason, ConfigurationError)]
                    if wrong:
                        raise wrong[0] from None
                    is_refused = any(one.code() == KafkaError._ALL_BROKERS_DOWN for one in heard)
                    if is_refused or wait_s == CONNECT_S[-1]:
                        reasons.append(error_from(error, self._options, "connecting"))
                        raise reasons[0] from None
                else:
                    closing.pop_all()
                    return

    async def disconnect(self) -> None:
        outbound, self._outbound = self._outbound, None
        inbound, self._inbound = list(self._inbound.values()), {}
        self._topics = None
        with contextlib.suppress(Exception):
            if outbound:
                outbound.close()
            for one in inbound:
                one.close()
            leaving = [one.closed(LEAVE_S_MAX) for one in inbound]
            if outbound:
                leaving.append(outbound.closed(LEAVE_S_MAX))
            await asyncio.gather(*leaving, return_exceptions=True)

    async def declare(self, queues: Sequence[Queue], destinations: Sequence[str], *, only_new: bool) -> None:
        topics = self._administrator()
        await asyncio.to_thread(self._declare, topics, queues, destinations)
        for queue in queues:
            if only_new and queue.group in self._subscribed:
                continue
            self._subscribed[queue.group] = queue.destinations
            if queue.group in self._inbound:
                self._inbound[queue.group].subscribe(queue.destinations)

    def _declare(self, topics: Topics, queues: Sequence[Queue], destinations: Sequence[str]) -> None:
        topics.make(destinations)
        for queue in queues:
            topics.begin(self._group_name(queue.group), queue.destinations)

    async def check(self, queues: Sequence[Queue], destinations: Sequence[str]) -> Sequence[str]:
        missing = await asyncio.to_thread(self._missing, self._administrator(), queues, destinations)
        for queue in queues:
            self._subscribed.setdefault(queue.group, queue.destinations)
        return missing

    def _missing(self, topics: Topics, queues: Sequence[Queue], destinations: Sequence[str]) -> Sequence[str]:
        options = self._options
        counts = topics.partitions()
        there = [name for name in destinations if name in counts]
        found = [f"topic {name} is missing" for name in destinations if name not in counts]
        if options.fixed_partitions:
            found += [
                f"topic {name} has {counts[name]} partitions instead of {options.partitions}"
                for name in there
                if 0 < counts[name] < options.partitions
            ]
        found += [
            f"topic {name} takes messages of {most} bytes only instead of {options.message_bytes_max}"
            for name, most in topics.bytes_max(there).items()
            if most < options.message_bytes_max
        ]
        for queue in queues:
            unheard = topics.unheard(
                self._group_name(queue.group), [name for name in queue.destinations if name in counts]
            )
            found += [f"group {self._group_name(queue.group)} has not begun on topic {name}" for name in unheard]
        return found

    async def send(self, messages: Sequence[Sending]) -> Sequence[Exception | None]:
        if self._outbound is None:
            raise self._not_connected()
        return await self._outbound.send(messages)

    async def fetch(self, group: str, limit: int) -> Sequence[Received]:
        topics = self._administrator()
        inbound = self._inbound.get(group)
        if inbound is None:
            inbound = self._inbound[group] = Inbound(
                self._options,
                asyncio.get_running_loop(),
                group=self._group_name(group),
                topics=self._subscribed[group],
                begin=partial(topics.begins, self._group_name(group)),
                revoked=lambda lane: self.revoked(group, lane),
            )
        return await inbound.fetch(limit)

    async def acknowledge(self, group: str, tokens: Sequence[Any]) -> None:
        if self._outbound is None:
            raise self._not_connected()
        inbound = self._inbound.get(group)
        if inbound is not None and tokens:
            await inbound.acknowledge(tokens)

    async def keep(self, group: str, tokens: Sequence[Any]) -> None:
        """Nothing to do: a partition is this member's while its thread polls."""

    async def give_back(self, group: str, tokens: Sequence[Any]) -> None:
        if group in self._inbound:
            self._inbound[group].give_back(tokens)

    def _group_name(self, group: str) -> str:
        return self._options.prefix + group

    def _administrator(self) -> Topics:
        if self._topics is None:
            raise self._not_connected()
        return self._topics

    def _not_connected(self) -> Disconnected:
        return Disconnected(f"Kafka at {self._options.servers} is not connected")
