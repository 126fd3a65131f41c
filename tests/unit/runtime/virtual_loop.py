"""An event loop on which no time passes but the virtual one: when nothing is ready, it jumps to the next timer.

So a test may retry for minutes and wait for hours at no cost, and the same test always takes the same steps. A test
that waits for something that can never happen fails at once instead of hanging.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import random
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec

P = ParamSpec("P")

EPOCH = 1_800_000_000.0
LONGEST_S = 6 * 3600.0


class _Selector(selectors.SelectSelector):
    """Never waits: the time that would be waited is added to the loop's own."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise AssertionError("everything waits and no timer is set: nothing will ever happen again")
        self.now += max(0.0, timeout)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """Keeps its own time, and what nobody caught."""

    def __init__(self) -> None:
        self._virtual = _Selector()
        super().__init__(self._virtual)
        # After months a float no longer tells nanoseconds apart, and a timer would wait for itself.
        self._clock_resolution = 1e-6
        self.problems: list[str] = []
        self.set_exception_handler(
            lambda loop, context: self.problems.append(f"{context.get('message')}: {context.get('exception')!r}")
        )

    def time(self) -> float:
        return self._virtual.now


class VirtualClock:
    """The clock of stamps and deadlines, moving with the loop that runs."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def now(self) -> float:
        return EPOCH + asyncio.get_running_loop().time() + self.ahead_s


class SeededIds:
    def __init__(self, seed: int = 0) -> None:
        self._count = 0
        self._random = random.Random(seed)

    def new(self) -> str:
        self._count += 1
        return f"id-{self._count}"

    def chance(self) -> float:
        return self._random.random()


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run to the end, and fail if anything went wrong unseen."""
    gc.freeze()  # what is there already need not be looked through at the end
    loop = VirtualLoop()
    try:
        loop.run_until_complete(asyncio.wait_for(main, LONGEST_S))
        left = [task for task in asyncio.all_tasks(loop) if not task.done()]
        assert not left, f"left behind: {left}"
        gc.collect()  # a task whose exception nobody looked at says so when it is collected
        assert not loop.problems, loop.problems
    finally:
        loop.run_until_complete(_cancel_the_rest())
        loop.close()
        gc.unfreeze()


async def _cancel_the_rest() -> None:
    rest = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in rest:
        task.cancel()
    await asyncio.gather(*rest, return_exceptions=True)


def in_virtual_time(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Run an ``async`` test on a loop of its own."""

    @functools.wraps(test)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> None:
        run(test(*args, **kwargs))

    return wrapper
