"""A member of a group: one consumer on one channel, and the messages that the broker has sent ahead.

The broker sends up to ``prefetch`` messages that are not acknowledged; they wait here until somebody fetches them. When
nobody fetches for a while, they go back, so that no message is in nobody's hands.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Coroutine, Iterable, Sequence
from itertools import takewhile
from typing import Any, Final

from aiormq import spec
from aiormq.abc import DeliveredMessage
from aiormq.channel import Channel
from aiormq.exceptions import ChannelClosed

from minuet.adapters.broker.port import Disconnected, Received
from minuet.adapters.rabbitmq.link import Link, answered, explain, refused
from minuet.adapters.rabbitmq.wire import attributes_in, deliveries_in

IDLE_S_MAX: Final = 1.0
"""To hold what was sent ahead after a fetch was cancelled and before the next one."""

Token = tuple[int, int]


class Member:
    """Consumes one queue.

    Args:
        number: distinguishes it from members of earlier connections, whose delivery tags begin anew.
    """

    def __init__(self, link: Link, queue: str, *, number: int, prefetch: int) -> None:
        self._link = link
        self._queue = queue
        self._number = number
        self._prefetch = prefetch
        self._channel: Channel | None = None
        self._consumer = ""
        self._ahead: deque[tuple[int, Received]] = deque()
        self._unsettled: dict[int, None] = {}  # delivery tags, in the order in which they came
        self._news = asyncio.Event()
        self._lost: Exception | None = None
        self._joining: asyncio.Task[None] | None = None
        self._idle: asyncio.TimerHandle | None = None
        self._leaving: asyncio.Task[None] | None = None

    async def take(self, limit: int) -> Sequence[Received]:
        """At least one message; from the first call on, messages are sent here.

        Raises:
            Disconnected: the connection, the channel or the queue is gone.
        """
        self._stay()
        try:
            await self._join()
            while not self._ahead:
                self._check()
                self._news.clear()
                await self._news.wait()
        except asyncio.CancelledError:
            self._idle = asyncio.get_running_loop().call_later(IDLE_S_MAX, self._leave)
            raise
        self._check()
        return [self._ahead.popleft()[1] for _ in range(min(limit, len(self._ahead)))]

    async def acknowledge(self, tokens: Iterable[Token]) -> None:
        """The broker has understood that these are done, as far as they are this member's."""
        tags = self._own(tokens)
        if not tags:
            return
        channel = self._check()
        first = list(takewhile(tags.__contains__, self._unsettled))  # everything up to here is done
        frames = [channel.basic_ack(first[-1], multiple=True, wait=False)] if first else []
        frames += [channel.basic_ack(tag, wait=False) for tag in tags - set(first)]
        for tag in tags:
            del self._unsettled[tag]
        await self._sent(frames, channel)

    async def give_back(self, tokens: Iterable[Token]) -> None:
        """These are for others, or for us again."""
        tags = self._own(tokens)
        if tags:
            channel = self._check()
            for tag in tags:
                del self._unsettled[tag]
            await self._sent([channel.basic_nack(tag, requeue=True, wait=False) for tag in sorted(tags)], channel)

    def lose(self, why: str) -> None:
        """Nothing that is here counts any more: the broker gives it out again."""
        if self._lost is None:
            self._lost = Disconnected(why)
        self._stay()
        self._ahead.clear()
        self._unsettled.clear()
        self._news.set()

    def _own(self, tokens: Iterable[Token]) -> set[int]:
        return {tag for number, tag in tokens if number == self._number and tag in self._unsettled}

    def _check(self) -> Channel:
        if self._lost is not None:
            raise Disconnected(str(self._lost)) from self._lost
        assert self._channel is not None
        return self._channel

    # Joining and leaving

    async def _join(self) -> None:
        """Begin to consume, or wait until that has been done. Whoever stops waiting does not stop it."""
        if self._joining is None or (self._joining.done() and self._joining.exception()):
            self._joining = asyncio.get_running_loop().create_task(self._consume())
        await asyncio.shield(self._joining)

    async def _consume(self) -> None:
        if self._leaving is not None:
            await self._leaving
            self._leaving = None
        what = f"consuming queue {self._queue}"
        try:
            if self._channel is None:
                self._channel = await self._link.open_channel()
                self._channel.closing.add_done_callback(self._closed)
                self._channel.on_consumer_cancel_callbacks.add(self._cancelled)
                await answered(self._channel.basic_qos(prefetch_count=self._prefetch), what)
            started = await answered(self._check().basic_consume(self._queue, self._came), what)
        except ChannelClosed as error:
            raise refused(error, what) from error
        assert started.consumer_tag is not None
        self._consumer = started.consumer_tag

    async def _came(self, message: DeliveredMessage) -> None:
        delivery = message.delivery
        if self._lost is not None or not isinstance(delivery, spec.Basic.Deliver) or delivery.delivery_tag is None:
            return
        tag, properties = delivery.delivery_tag, message.header.properties
        self._unsettled[tag] = None
        received = Received(
            destination=f"{delivery.exchange}/{delivery.routing_key}",
            attributes=attributes_in(properties),
            body=message.body,
            token=(self._number, tag),
            deliveries=deliveries_in(properties, redelivered=bool(delivery.redelivered)),
        )
        self._ahead.append((tag, received))
        self._news.set()

    def _stay(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None

    def _leave(self) -> None:
        """Nobody has fetched for a while: let others have what is here. The next fetch joins again."""
        self._idle = None
        if self._lost is None and self._joining is not None and self._joining.done() and not self._joining.exception():
            self._joining = None
            self._leaving = asyncio.get_running_loop().create_task(self._stop_consuming())

    async def _stop_consuming(self) -> None:
        try:
            await answered(self._check().basic_cancel(self._consumer), f"leaving queue {self._queue}")
            ahead = [(self._number, tag) for tag, _ in self._ahead]
            self._ahead.clear()
            await self.give_back(ahead)
        except (ChannelClosed, Disconnected) as error:
            self.lose(explain(error))

    # What the client tells us

    def _closed(self, closing: asyncio.Future[object]) -> None:
        error = None if closing.cancelled() else closing.exception()
        self.lose(f"the channel of queue {self._queue} was closed: {explain(error) if error else 'connection lost'}")

    def _cancelled(self, _: object) -> None:
        self.lose(f"queue {self._queue} is gone, or its node is")

    async def _sent(self, frames: Sequence[Coroutine[Any, Any, None]], channel: Channel) -> None:
        """Send them and wait until the broker has read them: it answers a channel's frames in their order."""

        async def all_of_them() -> None:
            for frame in frames:
                await frame
            await channel.basic_qos(prefetch_count=self._prefetch)

        try:
            await answered(all_of_them(), f"settling messages of queue {self._queue}")
        except ChannelClosed as error:
            raise refused(error, f"settling messages of queue {self._queue}") from error
