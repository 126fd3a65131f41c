"""An event loop in which no time passes but the virtual one, and whose every choice comes from a seed.

**Time.** When nothing is ready, the loop jumps to the next timer. An hour of retries costs milliseconds, and whoever
waits for something that can never happen is told so at once.

**Order.** asyncio promises that callbacks run in the order in which they were registered. It promises nothing about
which of two tasks that were woken in the same turn goes on first, nor about timers that are due at the same instant:
on a real machine that depends on the network and the disk. Here it depends on the seed. A task may also be put off for
some turns, as if what it waited for had come a little later.

**The same seed, the same run.** Before they are shuffled, tasks are put into the order in which they were made. So the
order of a `set`, which differs from one process to the next, cannot find its way into a run.

**Hosts.** Whatever is scheduled within the context of a `Host` belongs to it: tasks, callbacks, timers. A host that is
halted does nothing at all until it goes on: no ``finally`` runs, nothing is cancelled, nobody is told. That is what
SIGSTOP does to a process, and, if it never goes on, SIGKILL.

There are no threads, no sockets and no signals.
"""

from __future__ import annotations

import asyncio
import heapq
import random
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar
from typing import Any, NoReturn, TypeVarTuple

Ts = TypeVarTuple("Ts")

STEPS_PER_INSTANT_MAX = 200_000
"""So many callbacks without any time passing are taken for an endless loop."""


class Stuck(Exception):
    """Nothing will ever happen again, or too much happens without time passing."""


class Host:
    """Something that runs callbacks, and may be halted: a process.

    Attributes:
        is_halted: nothing of it runs.
        held: what would have run since it was halted.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.is_halted = False
        self.held: list[asyncio.Handle] = []


HOST: ContextVar[Host | None] = ContextVar("minuet_simulated_host", default=None)
FAMILY: ContextVar[list[asyncio.Task[Any]] | None] = ContextVar("minuet_simulated_family", default=None)
"""Where it is set, every task that is made is put into it, and so are those that they make."""


class _Task(asyncio.Task[Any]):
    """Knows how many tasks were made before it."""

    number: int


class _Timer(asyncio.TimerHandle):
    """Of those that are due at the same instant the seed chooses."""

    due: tuple[float, float]
    is_alarm = False

    def __lt__(self, other: object) -> bool:
        return self.due < other.due  # type: ignore[attr-defined, no-any-return]


class SimulatedLoop(asyncio.BaseEventLoop):
    """
    Args:
        chance: decides everything that asyncio leaves open.
        put_off: how often a task that could go on is put off for a turn.

    Attributes:
        steps: callbacks run so far.
        problems: exceptions that nobody caught or looked at.
        before_time_passes: called when nothing is ready, each time again until it makes nothing ready any more.
    """

    # asyncio's own, which are not in its type stubs.
    _ready: deque[asyncio.Handle]
    _scheduled: list[_Timer]
    _stopping: bool

    def __init__(self, chance: random.Random, *, put_off: float = 0.0) -> None:
        super().__init__()
        self.steps = 0
        self.problems: list[str] = []
        self.before_time_passes: Callable[[], None] | None = None
        self._now = 0.0
        self._steps_until = STEPS_PER_INSTANT_MAX
        self._chance = chance
        self._put_off = put_off
        self._tasks_made = 0
        self.set_task_factory(self._make_task)  # type: ignore[arg-type]
        self.set_exception_handler(_note_problem)

    def time(self) -> float:
        return self._now

    def _make_task(self, loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, Any], **named: Any) -> _Task:
        task = _Task(work, loop=loop, **named)
        self._tasks_made += 1
        task.number = self._tasks_made
        context = named.get("context")
        family = FAMILY.get() if context is None else context.get(FAMILY)
        if family is not None:
            family.append(task)
        return task

    def call_at(
        self, when: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        timer = _Timer(when, callback, args, self, context)
        self._push(timer, self._chance.random())
        return timer

    def alarm(self, when: float, tie: float, callback: Callable[[], object], context: Context) -> None:
        """As `call_at`, but nothing else goes another way because of it: it comes before everything that is ready then,
        and of several the one with the lower ``tie``, which is below 0."""
        timer = _Timer(when, callback, (), self, context)
        timer.is_alarm = True
        self._push(timer, tie)

    def _push(self, timer: _Timer, tie: float) -> None:
        timer.due = (timer.when(), tie)
        heapq.heappush(self._scheduled, timer)
        timer._scheduled = True  # type: ignore[attr-defined]

    def go_on(self, host: Host) -> None:
        """Let a host that was halted run again, beginning with what it has missed."""
        host.is_halted = False
        self._ready.extend(host.held)
        host.held = []

    # -- one turn ------------------------------------------------------------------------------------------------------

    def _run_once(self) -> None:
        self._look_at_timers()
        turn = self._in_some_order()
        for at, handle in enumerate(turn):
            if self._stopping:
                self._ready.extendleft(reversed(turn[at:]))
                return
            if handle.cancelled():
                continue
            host = handle._context.get(HOST)  # type: ignore[attr-defined]
            if host is not None and host.is_halted:
                host.held.append(handle)
                continue
            self.steps += 1
            handle._run()
        if self.steps > self._steps_until:
            raise Stuck(f"{STEPS_PER_INSTANT_MAX} callbacks ran and no time has passed: something turns in a circle")

    def _look_at_timers(self) -> None:
        timers = self._scheduled
        while timers and timers[0].cancelled():
            heapq.heappop(timers)._scheduled = False  # type: ignore[attr-defined]
        if not self._ready and not self._stopping and self.before_time_passes is not None:
            self.before_time_passes()
        if not self._ready and not self._stopping:
            if not timers:
                raise Stuck("everything waits, and no timer is set: nothing will ever happen again")
            if timers[0].when() > self._now:
                self._now = timers[0].when()
                self._steps_until = self.steps + STEPS_PER_INSTANT_MAX
        while timers and timers[0].when() <= self._now:
            timer = heapq.heappop(timers)
            timer._scheduled = False  # type: ignore[attr-defined]
            self._ready.append(timer)

    def soon(self, within_s: float) -> tuple[bool, set[Host]]:
        """Whether something is to run within so many seconds, and of which hosts."""
        until = self._now + within_s
        timers = [one for one in self._scheduled if one.when() <= until and not one.cancelled()]
        hosts = (one._context.get(HOST) for one in timers)  # type: ignore[attr-defined]
        return bool(timers), {host for host in hosts if host is not None}

    def _in_some_order(self) -> list[asyncio.Handle]:
        """What is ready, tasks shuffled among everything else, which keeps its order."""
        every = list(self._ready)
        self._ready.clear()
        if len(every) < 2:
            return every
        alarms = [handle for handle in every if type(handle) is _Timer and handle.is_alarm]
        ready = [handle for handle in every if handle not in alarms] if alarms else every
        return [*alarms, *self._mixed(ready)] if alarms else self._mixed(ready)

    def _mixed(self, ready: list[asyncio.Handle]) -> list[asyncio.Handle]:
        if len(ready) < 2:
            return ready
        tasks: list[tuple[int, asyncio.Handle]] = []
        others: deque[asyncio.Handle] = deque()
        for handle in ready:
            owner = getattr(handle._callback, "__self__", None)  # type: ignore[attr-defined]
            if type(owner) is _Task:
                tasks.append((owner.number, handle))
            else:
                others.append(handle)
        if not tasks:
            return ready
        tasks.sort(key=lambda one: one[0])
        mixed = [handle for _, handle in tasks]
        if self._put_off:
            mixed = [handle for handle in mixed if not self._is_put_off(handle)]
        places: list[asyncio.Handle | None] = [*mixed, *([None] * len(others))]
        self._chance.shuffle(places)
        return [others.popleft() if one is None else one for one in places]

    def _is_put_off(self, handle: asyncio.Handle) -> bool:
        if self._chance.random() >= self._put_off:
            return False
        self._ready.append(handle)
        return True

    # -- what there is not ---------------------------------------------------------------------------------------------

    def run_in_executor(self, *_: Any) -> NoReturn:  # type: ignore[override]
        raise RuntimeError(
            "there are no threads in a simulation: what a thread would do depends on the machine. Call it directly, or "
            "give the simulation something else with provided=..."
        )

    def _write_to_self(self) -> None:
        """Wakes a loop that waits for the network; this one never does."""


def _note_problem(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    assert isinstance(loop, SimulatedLoop)
    loop.problems.append(f"{context.get('message')}: {context.get('exception')!r}")
