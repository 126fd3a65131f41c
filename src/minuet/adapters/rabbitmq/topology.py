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
        with ``only_new`` leave it as it is, except that it gets back what went with an exchange that was missing."""
        known = {*destinations, *(one for queue in queues for one in queue.destinations)}
        made = set()
        for exchange in _exchanges(known):
            if not await self._exists(self._look_for_exchange(exchange), f"exchange {exchange}"):
                await self._ask(self._make_exchange(exchange), f"making exchange {exchange}")
                made.add(exchange)
        for queue in queues:
            name, wanted, unwanted = self.queue_of(queue.group), set(queue.destinations), set[str]()
            if not await self._exists(self._look_for_queue(name), f"queue {name}"):
                await self._ask(self._make_queue(name), f"making queue {name}")
            elif only_new:
                wanted = {one for one in wanted if one.partition("/")[0] in made}
            else:
                unwanted = known - wanted
            if wanted or unwanted:
                await self._ask(_binding(name, wanted, unwanted), f"binding queue {name}")

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
            return "" if _is_harmless(explain(error)) else f"{what} at {shown} will not do: {explain(error)}"
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


def _binding(queue: str, wanted: Iterable[str], unwanted: Iterable[str]) -> Asking:
    """To unbind what is not bound changes nothing."""

    async def bind(channel: Channel) -> None:
        for destination in sorted(wanted):
            exchange, _, key = destination.partition("/")
            await channel.queue_bind(queue, exchange, key)
        for destination in sorted(unwanted):
            exchange, _, key = destination.partition("/")
            await channel.queue_unbind(queue, exchange, key)

    return bind


def _is_harmless(difference: str) -> bool:
    """An operator may add what he likes, for example a dead-letter exchange; only what we rely on has to be the same.

    A direct exchange routes one key like a topic exchange.
    """
    relied_on = ("'durable'", "'auto_delete'", "'exclusive'", "'type'", "'x-queue-type'", "'x-single-active-consumer'")
    return "current is 'direct'" in difference or not any(word in difference for word in relied_on)


def _exchanges(destinations: Iterable[str]) -> list[str]:
    return sorted({destination.partition("/")[0] for destination in destinations})


async def _asking(asking: Asking, channel: Channel) -> None:
    await asking(channel)


def _major(version: str) -> int:
    number = version.partition(".")[0]
    if not number.isdigit():
        raise Disconnected(f"RabbitMQ did not say its version, but {version!r}")
    return int(number)
