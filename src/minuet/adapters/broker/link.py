"""The connection to a broker, kept up: connects, notices that it is gone, connects again, for ever."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import Awaitable, Callable
from typing import TypeVar

from minuet.adapters.broker.port import Broker, Disconnected
from minuet.core.errors import ConfigurationError
from minuet.core.retry import RetryPolicy
from minuet.ports import Ids

log = logging.getLogger("minuet.broker")

T = TypeVar("T")

BACKOFF = RetryPolicy(first_s=0.1, delay_max_s=10.0)


class Link:
    """One connection. All calls to the broker go through `call`, so that whatever fails is noticed here.

    Args:
        name: of the server, for people, without a password.
        lost: called when the connection is gone, before anything else happens.
        restore: called after each reconnect, before anybody may use the connection.
        start_s: for how long the first connection is tried.
        call_s: for how long the broker may take to answer; a connection that is slower counts as lost.
    """

    def __init__(
        self,
        broker: Broker,
        ids: Ids,
        *,
        name: str,
        lost: Callable[[], None],
        restore: Callable[[], Awaitable[None]],
        start_s: float,
        call_s: float,
    ) -> None:
        self.name = name
        self.generation = 0  # counts connections, so that one that is lost twice is replaced once
        self._broker = broker
        self._ids = ids
        self._lost = lost
        self._restore = restore
        self._start_s = start_s
        self._call_s = call_s
        self._failures = 0
        self._up = asyncio.Event()
        self._calls: set[asyncio.Task[object]] = set()
        self._reconnecting: asyncio.Task[None] | None = None

    @property
    def is_up(self) -> bool:
        return self._up.is_set()

    async def up(self) -> None:
        """Wait for a connection."""
        await self._up.wait()

    async def start(self) -> None:
        """Connect, trying for a while.

        Raises:
            ConfigurationError: the server cannot be reached, or does not want us.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._start_s
        while True:
            try:
                await self._connect(min(self._call_s, max(0.1, deadline - loop.time())))
            except BaseException as error:
                await self._let_go()
                if isinstance(error, ConfigurationError) or not isinstance(error, Exception):
                    raise
                self._failures += 1
                delay_s = BACKOFF.delay_s(self._failures, self._ids.chance())
                if loop.time() + delay_s >= deadline:
                    raise ConfigurationError(
                        f"cannot connect to {self.name} within {self._start_s:g} s: {say(error)}; is it running, and "
                        f"is the address right?"
                    ) from error
                log.warning("%s: cannot connect yet: %s", self.name, say(error))
                await asyncio.sleep(delay_s)
            else:
                self._failures = 0
                self._up.set()
                return

    async def call(self, what: Callable[[], Awaitable[T]], *, is_limited: bool = True, may_refuse: bool = False) -> T:
        """Ask the broker for something. Not while another call of the same kind is under way.

        Args:
            may_refuse: a ConfigurationError is an answer, and no reason to connect again.

        Raises:
            Disconnected: there is no connection, or it was lost over this, for whatever reason; it is being replaced.
            ConfigurationError: as the broker says, if it may.
        """
        if not self._up.is_set():
            raise Disconnected(f"{self.name} is not connected")
        generation = self.generation
        task = asyncio.ensure_future(self._limited(what, self._call_s if is_limited else None))
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:
            await _end(task, self._call_s)
            raise
        if task.cancelled():
            raise Disconnected(f"the connection to {self.name} was lost meanwhile")
        error = task.exception()
        if error is None:
            if generation == self.generation:
                self._failures = 0
            return task.result()
        if (may_refuse and isinstance(error, ConfigurationError)) or not isinstance(error, Exception):
            raise error
        self.lose(error, generation)
        if isinstance(error, Disconnected):
            raise error
        raise Disconnected(f"{self.name}: {say(error)}") from error

    def lose(self, error: Exception, generation: int) -> None:
        """Give that connection up and make another. Nothing happens if that was done already."""
        if not self._up.is_set() or generation != self.generation:
            return
        # What is not a connection's failure is a bug, here or in the adapter, and wants to be found.
        unexpected = None if isinstance(error, Disconnected) else error
        log.warning("%s: connection lost, connecting again: %s", self.name, say(error), exc_info=unexpected)
        self.generation += 1
        self._up.clear()
        self._lost()
        self._reconnecting = asyncio.get_running_loop().create_task(self._reconnect(), name=f"{self.name}: reconnect")

    async def close(self) -> None:
        """Disconnect for good. May be called twice."""
        self._up.clear()
        if self._reconnecting is not None:
            await _end(self._reconnecting, self._call_s)
        await self._let_go()

    async def _reconnect(self) -> None:
        while True:
            await self._let_go()
            # Only a call that succeeds starts the count anew: a server may take connections and nothing else.
            self._failures += 1
            await asyncio.sleep(BACKOFF.delay_s(self._failures, self._ids.chance()))
            try:
                await self._connect(self._call_s)
                async with asyncio.timeout(self._call_s):
                    await self._restore()
            except Exception as error:
                log.warning("%s: cannot connect yet: %s", self.name, say(error))
            else:
                log.warning("%s: connected again", self.name)
                self._up.set()
                return

    async def _connect(self, limit_s: float) -> None:
        await self._limited(self._broker.connect, limit_s)

    async def _limited(self, what: Callable[[], Awaitable[T]], limit_s: float | None) -> T:
        limit = asyncio.timeout(limit_s)
        try:
            async with limit:
                return await what()
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise Disconnected(f"{self.name} did not answer within {limit_s:g} s") from error

    async def _let_go(self) -> None:
        for task in self._calls:
            task.cancel()
        if self._calls:
            await asyncio.wait(self._calls, timeout=self._call_s)
        try:
            async with asyncio.timeout(self._call_s):
                await self._broker.disconnect()
        except Exception as error:  # it promises not to, but we have to go on
            log.warning("%s: disconnecting failed: %s", self.name, say(error), exc_info=error)


async def _end(task: asyncio.Task[T], limit_s: float) -> None:
    task.cancel()
    await asyncio.wait({task}, timeout=limit_s)
    with contextlib.suppress(asyncio.CancelledError, asyncio.InvalidStateError):
        task.exception()  # nobody else will look at it


def say(error: BaseException) -> str:
    """The error in words, without passwords of URLs."""
    return without_password(str(error) or type(error).__name__)


def without_password(text: str) -> str:
    """With ``***`` for what stands between ``://`` and ``@``."""
    return re.sub(r"(?<=://)[^/\s]*@", "***@", text)
