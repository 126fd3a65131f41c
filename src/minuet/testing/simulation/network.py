"""Calls between the processes of a simulated world: what HTTP is to them, an answer or not.

What travels is the envelope as bytes and attributes; it is not written out as HTTP. For what HTTP itself can get wrong
there are other tests.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from minuet.core.envelope import Envelope
from minuet.core.errors import Conflict, MessageError, NotFound, NotYet, Rejected
from minuet.core.messages import Command, Query, View, name_of

if TYPE_CHECKING:
    from minuet.testing.simulation.machine import Process
    from minuet.testing.simulation.world import World

T = TypeVar("T")

WAIT_S = 20.0
TIMEOUT_S = 30.0
RETRY_S = 1.0


class Network:
    """`minuet.runtime.directory.Elsewhere`, as one of those who call sees it.

    Args:
        latency: how long its calls take; by default as the world's.
    """

    def __init__(self, world: World, caller: str, *, latency: random.Random | None = None) -> None:
        self._world = world
        self._caller = caller
        self._latency = latency or world.latency

    async def ask(self, command: type[Command], envelope: Envelope, *, key: str) -> Envelope:
        service = command.__contract__.service
        sent = envelope.unread()

        def work(process: Process) -> Coroutine[Any, Any, Envelope]:
            assert process.system is not None
            return process.system.places[service].ask(sent, key=key, wait_s=WAIT_S)

        answer = await self._call(service, name_of(command), key, work, lambda answer: answer.type)
        return answer.unread()

    async def read(self, query: Query) -> View:
        service = query.__contract__.service

        def work(process: Process) -> Coroutine[Any, Any, View]:
            assert process.system is not None
            return process.system.places[service].read(query)

        return await self._call(service, name_of(query), "", work, lambda view: type(view).__name__)

    async def _call(
        self,
        service: str,
        what: str,
        about: str,
        work: Callable[[Process], Coroutine[Any, Any, T]],
        in_words: Callable[[T], str],
    ) -> T:
        """
        Raises:
            NotYet, NotFound, Rejected: as `minuet.adapters.http_participants` says.
        """
        world, caller = self._world, self._caller
        place = f"{what}/{about}" if about else what
        try:
            async with asyncio.timeout(TIMEOUT_S):
                await asyncio.sleep(self._latency.expovariate(500.0))
                await world.turn(service, f"{what} {about}")
                world.trace(caller, service, "asks", what)
                if world.strikes("request_lost", service, place):
                    await asyncio.sleep(self._latency.choice((0.01, TIMEOUT_S)))
                    raise NotYet(f"{service} cannot be reached", retry_after_s=RETRY_S)
                answer = await self._answer(self._process_of(service), service, work)
                if world.strikes("reply_slow", service, place):
                    await asyncio.sleep(self._latency.uniform(0.5, 2 * TIMEOUT_S))
                if world.strikes("reply_lost", service, place):
                    raise NotYet(f"{service} closed the connection", retry_after_s=RETRY_S)
                if world.strikes("reply_garbage", service, place):
                    raise NotYet(f"{service} answered {what} with nonsense", retry_after_s=RETRY_S)
                await asyncio.sleep(self._latency.expovariate(500.0))
                world.trace(service, caller, "answers", in_words(answer))
                return answer
        except TimeoutError as error:
            raise NotYet(f"{service} did not answer in time", retry_after_s=RETRY_S) from error

    async def _answer(self, process: Process, service: str, work: Callable[[Process], Coroutine[Any, Any, T]]) -> T:
        try:
            return await process.serve(work(process))
        except (NotYet, NotFound):
            raise
        except (Conflict, Rejected, MessageError) as error:  # what a caller over HTTP makes of a 4xx
            raise Rejected(str(error)) from error
        except Exception as error:  # a 5xx
            raise NotYet(f"{service} failed: {error!r}", retry_after_s=RETRY_S) from error

    def _process_of(self, service: str) -> Process:
        """A process that has the service; one that is paused takes the call, and does not answer."""
        having = [
            machine.process
            for machine in self._world.machines.values()
            if machine.process is not None
            and machine.process.system is not None
            and service in machine.process.system.places
        ]
        if not having:
            raise NotYet(f"{service} cannot be reached", retry_after_s=RETRY_S)
        return self._latency.choice(having)
