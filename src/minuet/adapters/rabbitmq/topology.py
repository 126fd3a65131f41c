"""Exchanges, queues and bindings. What exists is used as it is: an operator may have made it with arguments of his own.

The broker answers a question about what is missing by closing the channel, so each question has a channel of its own.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Final

from aiormq.channel import Channel
from aiormq.exceptions import ChannelAccessRefused, ChannelClosed, ChannelNotFoundEntity

from minuet.adapters.broker.port import Disconnected, Queue
from minuet.adapters.rabbitmq.link import Link, answered, explain, refused
from minuet.adapters.rabbitmq.url import Settings

KIND: Final = "topic"
UNLIMITED_FROM: Final = 4  # the first version that knows a quorum queue's delivery limit of -1, and has one by default

Asking = Callable[[Channel], Awaitable[Any]]


class Topology:
    """What of a broker's configuration is this app's."""

    def __init__(self, link: Link, settings: Settings) -> None:
        self._link = link
        self._settings = settings

    def queue_of(self, group: str) -> str:
        return self._settings.prefix + group

    async def declare(self, queues: Sequence[Queue], destinations: Sequence[str], *, only_new: bool) -> None:
        """Make what is missing. Of a queue that exists, bind what its group wants and unbind the other destinations;
        with ``only_new`` leave it as it is."""
        known = {*destinations, *(one for queue in queues for one in queue.destinations)}
        for exchange in _exchanges(known):
            if not await self._exists(self._look_for_exchange(exchange), f"exchange {exchange}"):
                await self._ask(self._make_exchange(exchange), f"making exchange {exchange}")
        for queue in queues:
            await self._declare_queue(queue, known, only_new=only_new)

    async def _declare_queue(self, queue: Queue, known: set[str], *, only_new: bool) -> None:
        name = self.queue_of(queue.group)
        exists = await self._exists(self._look_for_queue(name), f"queue {name}")
        if exists and only_new:
            return
        if not exists:
            await self._ask(self._make_queue(name), f"making queue {name}")
        wanted = set(queue.destinations)

        async def bind(channel: Channel) -> None:
            for destination in sorted(wanted):
                exchange, _, key = destination.partition("/")
                await channel.queue_bind(name, exchange, key)
            for destination in sorted(known - wanted) if exists else ():
                exchange, _, key = destination.partition("/")
                await channel.queue_unbind(name, exchange, key)

        await self._ask(bind, f"binding queue {name}")

    async def check(self, queues: Sequence[Queue], destinations: Sequence[str]) -> Sequence[str]:
        """What is missing or made in another way, a sentence for each."""
        known = {*destinations, *(one for queue in queues for one in queue.destinations)}
        names = [self.queue_of(queue.group) for queue in queues]
        found = [
            *[
                await self._compare(f"exchange {name}", self._look_for_exchange(name), self._make_exchange(name))
                for name in _exchanges(known)
            ],
            *[
                await self._compare(f"queue {name}", self._look_for_queue(name), self._make_queue(name))
                for name in names
            ],
        ]
        return [sentence for sentence in found if sentence]

    async def _compare(self, what: str, looking: Asking, making: Asking) -> str:
        """To make again what exists changes nothing; the broker says whether it is the same."""
        shown = self._settings.shown
        try:
            if not await self._exists(looking, what):
                return f"{what} is missing at {shown}"
            async with self._link.channel() as channel:
                await answered(_asking(making, channel), f"looking at {what}")
        except ChannelAccessRefused:
            return ""  # it is there, and whoever may not make one cannot compare it
        except ChannelClosed as error:
            return f"{what} at {shown} is not as it would be made: {explain(error)}"
        return ""

    # Questions

    async def _exists(self, looking: Asking, what: str) -> bool:
        try:
            async with self._link.channel() as channel:
                await answered(_asking(looking, channel), f"looking for {what}")
        except ChannelNotFoundEntity:
            return False
        except ChannelClosed as error:
            raise refused(error, f"looking for {what}") from error
        return True

    async def _ask(self, asking: Asking, what: str) -> None:
        try:
            async with self._link.channel() as channel:
                await answered(_asking(asking, channel), what)
        except ChannelClosed as error:
            raise refused(error, what) from error

    def _look_for_exchange(self, name: str) -> Asking:
        return lambda channel: channel.exchange_declare(name, passive=True)

    def _make_exchange(self, name: str) -> Asking:
        return lambda channel: channel.exchange_declare(name, exchange_type=KIND, durable=True)

    def _look_for_queue(self, name: str) -> Asking:
        return lambda channel: channel.queue_declare(name, passive=True)

    def _make_queue(self, name: str) -> Asking:
        arguments: dict[str, Any] = {"x-queue-type": self._settings.queue}
        if self._settings.single_active_consumer:
            arguments["x-single-active-consumer"] = True
        if self._settings.queue == "quorum" and _major(self._link.version) >= UNLIMITED_FROM:
            # From here on the broker would throw a message away after 20 deliveries. It is ours to park it.
            arguments["x-delivery-limit"] = -1
        return lambda channel: channel.queue_declare(name, durable=True, arguments=arguments)


def _exchanges(destinations: Iterable[str]) -> list[str]:
    return sorted({destination.partition("/")[0] for destination in destinations})


async def _asking(asking: Asking, channel: Channel) -> None:
    await asking(channel)


def _major(version: str) -> int:
    number = version.partition(".")[0]
    if not number.isdigit():
        raise Disconnected(f"RabbitMQ did not say its version, but {version!r}")
    return int(number)
