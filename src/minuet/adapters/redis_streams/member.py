"""One connection as a consumer of a group.

What Redis gives out is this consumer's until it is acknowledged, whether or not we have heard of it. So one task at a
time takes, and nobody cancels it: whoever stops waiting for it ends its blocking read, waits until it has come back,
and frees what it brought.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from minuet.adapters.broker.port import Received
from minuet.adapters.redis_streams.connection import Connection, as_text
from minuet.adapters.redis_streams.scripts import CLAIM, HAND_OVER_ALL, IDLE_MS, NOBODY
from minuet.adapters.redis_streams.wire import received_from

BLOCK_S = 1.0
"""How long one read waits, and so how long it takes until somebody sees what was given back."""
UNBLOCK_S = 0.02


class Member:
    """See the top of this file.

    Args:
        group: its name in Redis.
        consumer: ours; the same over all connections of this process, so that it is known what was ours.
        streams: that the group listens to.
        give_back: what came for nobody.
    """

    def __init__(
        self,
        connection: Connection,
        *,
        group: str,
        consumer: str,
        streams: Sequence[str],
        give_back: Callable[[Sequence[Received]], Awaitable[None]],
    ) -> None:
        self.streams = tuple(streams)
        self._connection = connection
        self._group = group
        self._consumer = consumer
        self._give_back = give_back
        self._reader = connection.new_client(is_single=True)
        self._reader_id: int | None = None
        self._first = 0  # of the streams, the one to read first
        self._claimed_at = float("-inf")
        self._is_wanted = True
        self._taking: asyncio.Task[Sequence[Received]] | None = None
        self._stopping: asyncio.Task[None] | None = None

    async def fetch(self, limit: int) -> Sequence[Received]:
        """See `minuet.adapters.broker.port.Broker.fetch`."""
        while self._stopping is not None:  # for a fetch before this one
            await asyncio.wait({self._stopping})
        self._is_wanted = True
        task = self._taking = asyncio.get_running_loop().create_task(self._take(limit))
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:
            await self.stop()
            raise
        self._taking = None
        return task.result()

    async def stop(self) -> None:
        """Take nothing more, and free what was taken for nobody. Never raises but when cancelled."""
        if self._stopping is None:
            self._stopping = asyncio.get_running_loop().create_task(self._stop())
        await asyncio.wait({self._stopping})

    async def _stop(self) -> None:
        self._is_wanted = False
        task, self._taking = self._taking, None
        try:
            while task is not None and not task.done():
                if self._reader_id is not None:  # it may not be blocked yet; if we may not do this, it ends by itself
                    await self._connection.try_all([("CLIENT", "UNBLOCK", self._reader_id)])
                await asyncio.wait({task}, timeout=UNBLOCK_S)
            if task is not None and (left := task.result()):
                await self._give_back(left)
        except Exception:  # noqa: S110  the connection is gone: the next one frees them
            pass
        finally:
            self._stopping = None

    async def _take(self, limit: int) -> Sequence[Received]:
        """Empty only if nobody wants it any more."""
        loop = asyncio.get_running_loop()
        if self._reader_id is None:
            await self._free_ours()
            self._reader_id = int(await self._connection.run_on(self._reader, "CLIENT", "ID"))
        while self._is_wanted:
            if loop.time() >= self._claimed_at + BLOCK_S:
                taken = await self._claim(limit)
                if taken:
                    return taken  # and there may be more: they come before what is new
                self._claimed_at = loop.time()
            taken = await self._read(limit)
            if taken:
                return taken
        return []

    async def _free_ours(self) -> None:
        """What was ours over an earlier connection; it comes again, and before anything new."""
        free = HAND_OVER_ALL, (self._group, self._consumer, NOBODY, IDLE_MS)
        await self._connection.run([self._connection.script(free[0], stream, *free[1]) for stream in self.streams])

    async def _claim(self, limit: int) -> Sequence[Received]:
        """What others gave back, or had for too long."""
        idle_ms = self._connection.address.hold_s * 1000
        taken: list[Received] = []
        for stream in self._in_turn():
            if len(taken) >= limit:
                break
            arguments = (self._group, self._consumer, idle_ms, limit - len(taken))
            (found,) = await self._connection.run([self._connection.script(CLAIM, stream, *arguments)])
            for entry_id, deliveries, flat in found:
                fields = dict(zip(flat[::2], flat[1::2], strict=True))
                taken.append(received_from(stream, as_text(entry_id), fields, int(deliveries)))
        return taken

    async def _read(self, limit: int) -> Sequence[Received]:
        """What is new. Redis counts for each stream, so that each gets its share of the limit."""
        streams = self._in_turn()[:limit]
        found = await self._connection.run_on(
            self._reader,
            *("XREADGROUP", "GROUP", self._group, self._consumer, "COUNT", max(1, limit // len(streams))),
            *("BLOCK", int(BLOCK_S * 1000), "STREAMS", *streams, *[">" for _ in streams]),
        )
        return [
            received_from(as_text(stream), as_text(entry_id), fields, 1)
            for stream, entries in found or []
            for entry_id, fields in entries
        ]

    def _in_turn(self) -> Sequence[str]:
        self._first = (self._first + 1) % len(self.streams)
        return [*self.streams[self._first :], *self.streams[: self._first]]
