"""A clock that is put back makes nobody wait longer than was meant."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from minuet.app import App, Service
from minuet.bootstrap import running
from minuet.core.messages import Command, Event
from minuet.core.retry import RetryPolicy
from minuet.settings import Settings


class Tick(Event, channel="ticks"):
    n: int


class Emit(Command, service="source", answers=(Tick,)):
    n: int


class Adjusted:
    ahead_s = 0.0

    def now(self) -> float:
        return time.time() + self.ahead_s


async def test_an_attempt_that_is_taken_over_waits_no_longer_than_was_meant(tmp_path: Path) -> None:
    source, listener = Service("source"), Service("listener")
    called = asyncio.Event()
    calls = 0

    @source.handles(Emit)
    def emit(command: Emit) -> Tick:
        return Tick(n=command.n)

    @listener.on(Tick, retry=RetryPolicy(first_s=0.5))
    async def tick(event: Tick) -> None:
        nonlocal calls
        calls += 1
        called.set()
        if calls == 1:
            raise ConnectionError("later")

    app, clock = App("clock", services=[source, listener]), Adjusted()
    async with running(app, Settings(data=tmp_path), clock=clock) as system:
        await system.send(Emit(n=1))
        await called.wait()
        called.clear()
        await asyncio.sleep(0.05)
    assert calls == 1
    clock.ahead_s = -7200
    async with running(app, Settings(data=tmp_path), clock=clock), asyncio.timeout(5):
        await called.wait()
    assert calls == 2
