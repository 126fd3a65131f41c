"""The embedded broker: a transport on a SQLite file that the processes of one machine share."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Coroutine, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from minuet.adapters.sqlite.connection import Connection
from minuet.adapters.sqlite.database import SqliteDatabase
from minuet.adapters.sqlite.queues import Queues
from minuet.adapters.sqlite.schema import install
from minuet.adapters.sqlite.transaction import Rider
from minuet.adapters.sqlite.wal import FRAMES_MAX
from minuet.codec import attributes_to_text
from minuet.core.errors import MessageError
from minuet.ports import Again, Clock, Delivery, Features, Ids, Outgoing, Settlement, Subscription

JUMP_S = 1.0
# Whoever opens the file cannot know whether the clock was put back before, so longer delays end then.
DELAY_S_MAX = 60.0
FREE_AGAIN_S = 1.0
HANDED_MAX = 256
"""So many messages of a group may be in our hands without having been received; what is beyond is anybody's."""


class Ear:
    """Where a group hears in this process.

    Attributes:
        handed: what was handed over and not received yet; in our hands already.
        may_claim: there may be something to claim.
        asked: for how many messages somebody waits.
        news: there is, or something was handed over.
    """

    def __init__(self) -> None:
        self.handed: deque[Delivery] = deque()
        self.may_claim = True
        self.news = asyncio.Event()
        self.asked = 0
        self._alarm: asyncio.TimerHandle | None = None

    async def listen(self, limit: int) -> None:
        self.news.clear()
        self.asked += limit
        try:
            await self.news.wait()
        finally:
            self.asked -= limit

    def tell(self) -> None:
        self.may_claim = True
        self.news.set()

    def time(self, due_at: float | None, now: float) -> None:
        """Tell when the next delayed message is due."""
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm = (
            None if due_at is None else asyncio.get_running_loop().call_later(max(0.0, due_at - now), self.tell)
        )

    def close(self) -> None:
        self.handed.clear()
        if self._alarm is not None:
            self._alarm.cancel()


class SqliteTransport:
    """An opening of a broker's file. Its receivers, and those of other openings, compete.

    Args:
        path: of the file.
        clock: when a delayed message is due.
        ids: names this instance.
        inline: without a thread, for simulations.
        frames_max: how long the write-ahead log may get before it is checkpointed, in pages.
    """

    features = Features()

    def __init__(
        self,
        path: str | PathLike[str],
        *,
        clock: Clock,
        ids: Ids,
        inline: bool = False,
        frames_max: int = FRAMES_MAX,
    ) -> None:
        self._clock = clock
        self._instance = ids.new()
        self._ahead = float("-inf")  # how far the clock is ahead of the event loop's, which nobody puts back
        self._database = SqliteDatabase(
            Path(path),
            instance=self._instance,
            disturbed=self._disturbed,
            bereft=self._bereft,
            inline=inline,
            frames_max=frames_max,
        )
        self._ears: dict[str, Ear] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def commits(self) -> int:
        return self._database.commits

    async def start(self) -> None:
        await self._database.start(self._prepare)

    def _prepare(self, connection: Connection) -> Rider:
        install(connection, "broker.sql")
        self._queues = Queues(connection.own_cursor(), self._instance, self._database.instances.gone, self._handed_over)
        self._queues.free_the_gone()
        self._queues.end_delays(later_than=self._clock.now() + DELAY_S_MAX)
        return self._queues

    async def declare(self, subscriptions: Sequence[Subscription], *, only_new: bool = False) -> None:
        await self._database.submit(lambda: self._queues.declare(subscriptions, only_new=only_new))

    async def publish(self, messages: Sequence[Outgoing]) -> Sequence[Exception | None]:
        errors = [self._refuse(message) for message in messages]
        good = [
            (message, attributes_to_text(message.envelope))
            for message, error in zip(messages, errors, strict=True)
            if error is None
        ]
        try:
            await self._told(self._database.submit(lambda: self._queues.keep(good, self._room())))
        except Exception as failed:
            return [error or failed for error in errors]
        return errors

    async def _told(self, changing: asyncio.Future[frozenset[str]]) -> None:
        """Wait for a change, and tell the groups that have news by it, also if nobody waits for it any more."""
        changing.add_done_callback(self._tell_all)
        await asyncio.shield(changing)

    def _tell_all(self, changed: asyncio.Future[frozenset[str]]) -> None:
        if not changed.cancelled() and not changed.exception():
            for group in changed.result():
                self._tell(group)

    def _refuse(self, message: Outgoing) -> Exception | None:
        envelope, most = message.envelope, self.features.body_bytes_max
        if len(envelope.body) <= most:
            return None
        return MessageError(f"{envelope.type} {envelope.id} has {len(envelope.body)} bytes, {most} is the most")

    def _room(self) -> dict[str, int]:
        """How much may be handed over to whom. While there are others, who may be idle, only to who waits."""
        is_alone = self._database.instances.is_alone
        return {
            group: (HANDED_MAX if is_alone else ear.asked) - len(ear.handed) - self._queues.handing_over(group)
            for group, ear in self._ears.items()
        }

    def _handed_over(self, deliveries: Sequence[tuple[str, Delivery]]) -> None:
        for group, delivery in deliveries:
            ear = self._ears[group]
            ear.handed.append(delivery)
            ear.news.set()

    async def receive(self, group: str, limit: int) -> Sequence[Delivery]:
        ear = self._ears.setdefault(group, Ear())
        while True:
            if ear.handed:
                return [ear.handed.popleft() for _ in range(min(limit, len(ear.handed)))]
            if ear.may_claim:
                ear.may_claim = False
                try:
                    taken, due_at = await self._claim(group, limit)
                except BaseException:
                    ear.tell()
                    raise
                if taken:
                    ear.tell()  # there may be more, for another receiver too
                    return taken
                ear.time(due_at, self._clock.now())
                continue
            await ear.listen(limit)

    async def _claim(self, group: str, limit: int) -> tuple[Sequence[Delivery], float | None]:
        claiming = self._database.submit(lambda: self._queues.claim(group, limit, self._now()))
        try:
            return await asyncio.shield(claiming)
        except asyncio.CancelledError:  # whom it was for is gone, but it will be claimed
            claiming.add_done_callback(self._give_back)
            raise

    def _now(self) -> float:
        """What the clock says. If it was put back, what is delayed would be so for too long: then it is due at once."""
        now = self._clock.now()
        ahead = now - asyncio.get_running_loop().time()
        if ahead < self._ahead - JUMP_S:
            self._queues.end_delays()
        self._ahead = ahead
        return now

    def _give_back(self, claimed: asyncio.Future[tuple[Sequence[Delivery], float | None]]) -> None:
        if not claimed.cancelled() and not claimed.exception() and claimed.result()[0] and self._database.is_open:
            self._in_background(self._give_all_back(claimed.result()[0]))

    async def _give_all_back(self, deliveries: Sequence[Delivery]) -> None:
        with contextlib.suppress(Exception):  # closing frees them too
            await self.settle([(delivery, Again()) for delivery in deliveries])

    async def settle(self, settled: Sequence[tuple[Delivery, Settlement]]) -> None:
        await self._told(self._database.submit(lambda: self._queues.settle(settled, self._clock.now())))

    async def close(self) -> None:
        for ear in self._ears.values():
            ear.close()  # what it had is others' from now on
        if self._database.is_open:
            freed = self._database.submit(self._queues.free_mine)
            await self._database.close()
            await freed

    def _disturbed(self) -> None:
        for group in self._ears:
            self._tell(group)

    def _bereft(self) -> None:
        if self._database.is_open:
            self._in_background(self._free_the_gone())

    async def _free_the_gone(self) -> None:
        while self._database.is_open:
            try:
                await self._database.submit(self._queues.free_the_gone)
            except Exception:  # a full disk, say; nobody else may be there to do it
                await asyncio.sleep(FREE_AGAIN_S)
            else:
                break
        self._disturbed()

    def _in_background(self, doing: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(doing)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _tell(self, group: str) -> None:
        if group in self._ears:
            self._ears[group].tell()
