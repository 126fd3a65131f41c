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

from aiormq.abc import ChannelFrame
from aiormq.channel import Channel
from aiormq.exceptions import ChannelClosed

from minuet.adapters.broker.port import Disconnected, Received
from minuet.adapters.rabbitmq.frames import (
    DELIVER,
    QOS_OK,
    acknowledging,
    asking_for_prefetch,
    delivery_in,
    putting_back,
)
from minuet.adapters.rabbitmq.link import Link, answered, explain, look_at, refused
from minuet.adapters.rabbitmq.wire import properties_in

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
        self._consumer = ""  # the broker's name for us while it sends messages
        self._turning = asyncio.Lock()  # held while we begin or end to consume
        self._is_fetching = False
        self._idle: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._ahead: deque[tuple[int, Received]] = deque()
        self._unsettled: dict[int, None] = {}  # delivery tags, in the order in which they came
        self._asked: deque[asyncio.Future[None]] = deque()  # whether the broker has read what we sent
        self._news = asyncio.Event()
        self._lost = ""

    async def take(self, limit: int) -> Sequence[Received]:
        """At least one message; from the first call on, messages are sent here.

        Raises:
            Disconnected: the connection, the channel or the queue is gone.
        """
        self._stay()
        self._is_fetching = True
        try:
            while not self._ahead:
                if self._lost:
                    raise Disconnected(self._lost)
                if not self._consumer or self._turning.locked():
                    await asyncio.shield(self._in_background(self._join()))  # who is cancelled does not cancel that
                else:
                    self._news.clear()
                    await self._news.wait()
        except asyncio.CancelledError:
            if not self._lost:
                self._idle = asyncio.get_running_loop().call_later(IDLE_S_MAX, self._leave_soon)
            raise
        finally:
            self._is_fetching = False
        self._check()
        return [self._ahead.popleft()[1] for _ in range(min(limit, len(self._ahead)))]

    async def acknowledge(self, tokens: Iterable[Token]) -> None:
        """The broker has understood that these are done, as far as they are this member's."""
        tags = self._own(tokens)
        if not tags:
            return
        channel = self._check()
        first = list(takewhile(tags.__contains__, self._unsettled))  # everything up to here is done
        for tag in tags:
            del self._unsettled[tag]
        frames = [acknowledging(channel.number, first[-1], multiple=True)] if first else []
        frames += [acknowledging(channel.number, tag) for tag in tags.difference(first)]
        await self._send(frames, channel)

    async def give_back(self, tokens: Iterable[Token]) -> None:
        """These may go to others. When nobody fetches here any more, nothing comes back here either."""
        tags = self._own(tokens)
        if self._is_fetching:
            await self._put_back(tags)
        else:
            await self._leave(tags)

    def lose(self, why: str) -> None:
        """Nothing that is here counts any more: the broker gives it out again."""
        self._lost = self._lost or why
        self._stay()
        self._ahead.clear()
        self._unsettled.clear()
        self._news.set()

    def _own(self, tokens: Iterable[Token]) -> set[int]:
        return {tag for number, tag in tokens if number == self._number and tag in self._unsettled}

    def _check(self) -> Channel:
        if self._lost or self._channel is None:
            raise Disconnected(self._lost or f"queue {self._queue} is not consumed")
        return self._channel

    # Joining and leaving

    async def _join(self) -> None:
        what = f"consuming queue {self._queue}"
        async with self._turning:
            if self._consumer:
                return
            try:
                if self._channel is None:
                    self._channel = await self._link.open_channel()
                    self._link.hear(self._channel, self)
                    self._channel.closing.add_done_callback(self._closed)
                    self._channel.on_consumer_cancel_callbacks.add(self._cancelled)
                    await answered(self._channel.basic_qos(prefetch_count=self._prefetch), what)
                started = await answered(self._check().basic_consume(self._queue, _came_past_us), what)
            except ChannelClosed as error:
                raise refused(error, what) from error
            self._consumer = started.consumer_tag or ""

    async def _leave(self, tags: set[int]) -> None:
        """Have no more sent here, and put back what was sent ahead, with these. The next `take` joins again."""
        async with self._turning:
            if self._consumer and not self._lost:
                await answered(self._check().basic_cancel(self._consumer), f"leaving queue {self._queue}")
            self._consumer = ""
            self._news.set()  # who waits for a message has to join again
            tags = tags | {tag for tag, _ in self._ahead}
            self._ahead.clear()
            await self._put_back(tags)

    async def _put_back(self, tags: set[int]) -> None:
        if not tags:
            return
        channel = self._check()
        for tag in tags:
            self._unsettled.pop(tag, None)
        # In their order: a quorum queue gives them out again in the order in which they were put back.
        await self._send([putting_back(channel.number, tag) for tag in sorted(tags)], channel)

    def _stay(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None

    def _leave_soon(self) -> None:
        self._idle = None
        _ = self._in_background(self._leave_quietly())

    async def _leave_quietly(self) -> None:
        try:
            await self._leave(set())
        except (ChannelClosed, Disconnected) as error:
            self.lose(explain(error))

    def _in_background(self, doing: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(doing)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(look_at)
        return task

    # What the broker tells us

    def came(self, method: bytes, header: bytes, body: bytes) -> None:
        if self._lost or not method.startswith(DELIVER):
            return
        delivery = delivery_in(method)
        attributes, deliveries = properties_in(header, redelivered=delivery.is_redelivered)
        received = Received(
            destination=delivery.destination,
            attributes=attributes,
            body=body,
            token=(self._number, delivery.tag),
            deliveries=deliveries,
        )
        self._unsettled[delivery.tag] = None
        self._ahead.append((delivery.tag, received))
        self._news.set()

    def told(self, method: bytes) -> bool:
        if not method.startswith(QOS_OK) or not self._asked:
            return False
        asked = self._asked.popleft()
        if not asked.done():
            asked.set_result(None)
        return True

    def _closed(self, closing: asyncio.Future[object]) -> None:
        error = None if closing.cancelled() else closing.exception()
        self.lose(f"the channel of queue {self._queue} was closed: {explain(error) if error else 'connection lost'}")

    def _cancelled(self, _: object) -> None:
        self.lose(f"queue {self._queue} is gone, or its node is")

    async def _send(self, frames: Sequence[bytes], channel: Channel) -> None:
        """Send them and wait until the broker has read them: it answers a channel's frames in their order."""
        payload = b"".join((*frames, asking_for_prefetch(channel.number, self._prefetch)))

        async def all_of_them() -> None:
            if channel.is_closed:
                raise Disconnected(f"the channel of queue {self._queue} is closed")
            answer = channel.create_future()  # the client ends it with the channel
            await channel.write_queue.put(ChannelFrame(payload=payload, should_close=False))
            self._asked.append(answer)
            await answer

        try:
            await answered(all_of_them(), f"settling messages of queue {self._queue}")
        except ChannelClosed as error:
            raise refused(error, f"settling messages of queue {self._queue}") from error


async def _came_past_us(_: object) -> None:
    """Nothing does: messages are heard before the client sees them."""
