"""What every contender shares: a closed loop of customers, and the reading of clocks, processors and memory.

It needs nothing but the standard library, because peers run it in environments of their own. A contender is a program
that takes the arguments of `arguments`, hands `measured` a function that does one order, and prints one JSON line.

So many orders are in flight all the time: each customer places an order, waits for its end and places the next. The
warm-up runs into the measured time without a pause, so that neither a ramp nor a tail is measured.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

STEPS = ("inventory", "payment", "shipping", "order_status")
"""The tables, one for each step: reserve, charge, ship, set the status."""
TABLE = (
    "CREATE TABLE {table} (order_id TEXT NOT NULL PRIMARY KEY, detail TEXT NOT NULL, created DOUBLE PRECISION NOT NULL)"
)
"""The business table of a step, on SQLite and on PostgreSQL; every contender writes one row of it for each step."""
SYNCHRONOUS = "FULL"
WARM_UP_S_MAX = 90.0
ORDERS_MIN = 20
STRETCH_MAX = 6
"""So many times the measured time at most, until `ORDERS_MIN` orders have ended, and twice as many as are in flight."""
DRAIN_S_MAX = 120.0
LOOK_S = 0.05
WAVE_S_MAX = 2.0
TAIL_MIN = 1000
"""With fewer latencies than these, one in a thousand means nothing."""
SERVERS = "BENCH_SERVER_PIDS"
"""The variable that names the first processes of the servers that take part."""
PROC = Path("/proc")
TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Asked:
    """One measurement, as the command line asks for it.

    Attributes:
        folder: for whatever the contender writes; it is empty, and removed afterwards.
        servers: first processes of servers that work for it; their CPU time and memory count.
        first: the number of the first order.
    """

    in_flight: int
    warm_up_s: float
    seconds: float
    folder: Path
    servers: tuple[int, ...]
    first: int = 1


def arguments(description: str | None) -> argparse.ArgumentParser:
    """The arguments that every contender takes; it may add some."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--in-flight", type=int, default=64, help="orders under way at any time")
    parser.add_argument("--warm-up-s", type=float, default=2.0)
    parser.add_argument("--seconds", type=float, default=5.0, help="how long is measured")
    parser.add_argument("--dir", type=Path, required=True, help="an empty folder for databases and the like")
    return parser


def asked(given: argparse.Namespace, *more_servers: int) -> Asked:
    """What the arguments and the environment ask for."""
    named = tuple(int(pid) for pid in os.environ.get(SERVERS, "").split(",") if pid)
    return Asked(given.in_flight, given.warm_up_s, given.seconds, given.dir, named + more_servers)


def order(number: int) -> dict[str, Any]:
    """The order with this number; each is another one."""
    return {
        "order_id": f"o-{number:08d}",
        "customer_id": f"c-{number % 997}",
        "sku": f"sku-{number % 101}",
        "quantity": 1 + number % 5,
        "amount_cents": 1999,
        "currency": "EUR",
        "address": "1 Long Lane, 1000 Anytown",
    }


# -- the loop ----------------------------------------------------------------------------------------------------------


class Loop:
    """What the customers share. A number is handed out, and an end noted down, in one operation: threads may do so."""

    def __init__(self, first: int) -> None:
        self.numbers: Iterator[int] = itertools.count(first)
        self.ends: list[tuple[float, float]] = []  # when it ended, how long it took
        self.began = time.monotonic()
        self.is_over = False

    def next(self) -> int:
        return next(self.numbers)

    def note(self, began: float) -> None:
        now = time.perf_counter()
        self.ends.append((now, now - began))


class Wave:
    """Orders that share commits end in waves. Measured is from behind one wave to behind another one: what else is
    counted meanwhile, messages or processor time, was done for the orders that have ended."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._ends = len(loop.ends)
        self._has_begun = False

    def is_over(self) -> bool:
        """Whether some have ended since, and none since the last look. If they end all the time, it never is."""
        before, self._ends = self._ends, len(self._loop.ends)
        is_growing = self._ends > before
        self._has_begun = self._has_begun or is_growing
        return self._has_begun and not is_growing


async def measured(
    place: Callable[[int], Awaitable[Any]],
    given: Asked,
    *,
    counters: Callable[[], Mapping[str, float]] = dict,
    rows: Callable[[], Any] | None = None,
) -> dict[str, Any]:
    """Let customers place orders, and measure them.

    Args:
        place: does the order with that number to its very end, or raises.
        counters: what has been counted so far, for example ``{"commits": 17}``; becomes ``commits_per_order``.
        rows: how many orders have all their rows, asked when all are done; may be a coroutine function.

    Raises:
        AssertionError: rows are missing, so that what was measured was not the work.
    """
    loop = Loop(given.first)

    async def customer() -> None:
        while not loop.is_over:
            number, began = loop.next(), time.perf_counter()
            await place(number)
            loop.note(began)

    async with asyncio.timeout(None) as limit, asyncio.TaskGroup() as customers:
        for _ in range(given.in_flight):
            customers.create_task(customer())
        for _ in _until(lambda: _is_warm(loop, given), WARM_UP_S_MAX):
            await asyncio.sleep(LOOK_S)
        for _ in _until(Wave(loop).is_over, WAVE_S_MAX):
            await asyncio.sleep(LOOK_S / 10)
        before = Snapshot.take(given, counters())
        for _ in _until(lambda: _is_enough(loop, given, before.at), given.seconds * STRETCH_MAX):
            await asyncio.sleep(LOOK_S)
        for _ in _until(Wave(loop).is_over, WAVE_S_MAX):
            await asyncio.sleep(LOOK_S / 10)
        found = before.result(loop, given, counters())
        loop.is_over = True
        limit.reschedule(asyncio.get_running_loop().time() + DRAIN_S_MAX)
    if rows is not None:
        there = rows()
        _check(await there if isinstance(there, Awaitable) else there, loop)
    return found


def measured_in_threads(
    place: Callable[[int], Any],
    given: Asked,
    *,
    counters: Callable[[], Mapping[str, float]] = dict,
    rows: Callable[[], int] | None = None,
) -> dict[str, Any]:
    """The same for a contender whose orders block: each customer is a thread."""
    loop = Loop(given.first)
    failed: list[BaseException] = []

    def customer() -> None:
        try:
            while not loop.is_over:
                number, began = loop.next(), time.perf_counter()
                place(number)
                loop.note(began)
        except BaseException as error:
            failed.append(error)

    customers = [threading.Thread(target=customer, daemon=True) for _ in range(given.in_flight)]
    for one in customers:
        one.start()
    for _ in _until(lambda: bool(failed) or _is_warm(loop, given), WARM_UP_S_MAX):
        time.sleep(LOOK_S)
    for _ in _until(Wave(loop).is_over, WAVE_S_MAX):
        time.sleep(LOOK_S / 10)
    before = Snapshot.take(given, counters())
    for _ in _until(lambda: bool(failed) or _is_enough(loop, given, before.at), given.seconds * STRETCH_MAX):
        time.sleep(LOOK_S)
    for _ in _until(Wave(loop).is_over, WAVE_S_MAX):
        time.sleep(LOOK_S / 10)
    if failed:
        raise failed[0]
    found = before.result(loop, given, counters())
    loop.is_over = True
    deadline = time.monotonic() + DRAIN_S_MAX
    for one in customers:
        one.join(max(0.0, deadline - time.monotonic()))
    if failed:
        raise failed[0]
    if any(one.is_alive() for one in customers):
        raise TimeoutError(f"orders are still under way after {DRAIN_S_MAX:.0f} s")
    if rows is not None:
        _check(rows(), loop)
    return found


def _until(is_so: Callable[[], bool], seconds_max: float) -> Iterator[None]:
    """Go round until it is so, or for so long."""
    deadline = time.monotonic() + seconds_max
    while not is_so() and time.monotonic() < deadline:
        yield


def _is_warm(loop: Loop, given: Asked) -> bool:
    return time.monotonic() - loop.began >= given.warm_up_s and len(loop.ends) >= given.in_flight


def _is_enough(loop: Loop, given: Asked, since: float) -> bool:
    if time.perf_counter() - since < given.seconds:
        return False
    return sum(1 for ended, _ in loop.ends if ended > since) >= max(ORDERS_MIN, 2 * given.in_flight)


def _check(there: int, loop: Loop) -> None:
    assert there == len(loop.ends), f"{there} orders have all their rows, but {len(loop.ends)} have ended"


# -- what is measured --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Where all counters stand at one time."""

    at: float
    cpu_s: float
    busy_s: float
    counters: Mapping[str, float]

    @classmethod
    def take(cls, given: Asked, counters: Mapping[str, float]) -> Snapshot:
        return cls(time.perf_counter(), cpu_s((os.getpid(), *given.servers)), machine_busy_s(), dict(counters))

    def result(self, loop: Loop, given: Asked, counters: Mapping[str, float]) -> dict[str, Any]:
        """What happened since."""
        now = Snapshot.take(given, counters)
        wall_s, used_s = now.at - self.at, now.cpu_s - self.cpu_s
        ends = list(loop.ends)
        taken = sorted(took for ended, took in ends if self.at < ended <= now.at)
        orders = len(taken)
        if not orders:
            raise TimeoutError(f"no order ended within {wall_s:.0f} s")
        # Orders that share commits end in waves, so the time is taken from an end to an end.
        first = max((ended for ended, _ in ends if ended <= self.at), default=self.at)
        last = max(ended for ended, _ in ends if ended <= now.at)
        return {
            "in_flight": given.in_flight,
            "orders": orders,
            "seconds": round(wall_s, 2),
            "orders_per_s": significant(orders / (last - first)),
            "p50_ms": milliseconds(taken, 0.5),
            "p99_ms": milliseconds(taken, 0.99),
            "p999_ms": milliseconds(taken, 0.999) if orders >= TAIL_MIN else None,
            "cpu_ms_per_order": significant(used_s / orders * 1e3),
            "peak_memory_mb": round(memory_mb(given.servers), 1),
            "others_busy_cores": round(max(0.0, now.busy_s - self.busy_s - used_s) / wall_s, 2),
            **{
                f"{name}_per_order": significant((value - self.counters.get(name, 0)) / orders)
                for name, value in now.counters.items()
            },
        }


def significant(value: float) -> float:
    """Four digits: more would be noise."""
    return float(f"{value:.4g}")


def milliseconds(taken: Sequence[float], part: float) -> float:
    """The latency that this part of the orders does not exceed; sorted seconds in, milliseconds out."""
    return significant(taken[min(len(taken) - 1, int(len(taken) * part))] * 1e3)


def report(found: Mapping[str, Any], **more: Any) -> None:
    """The one line that a contender prints."""
    print(json.dumps({**found, **more}), flush=True)


# -- processes ---------------------------------------------------------------------------------------------------------


def cpu_s(roots: Sequence[int]) -> float:
    """CPU seconds of these processes and of all that descend from them, those that have ended included."""
    rows = _processes()
    return sum(rows[pid][1] for pid in _family(rows, roots)) / TICK


def memory_mb(servers: Sequence[int]) -> float:
    """The peak of this process and its children, and what the servers hold now, pages that they share counted once."""
    rows = _processes()
    own = sum(_field(pid, "status", "VmHWM:") for pid in _family(rows, [os.getpid()]))
    return (own + sum(_field(pid, "smaps_rollup", "Pss:") for pid in _family(rows, servers))) / 1024


def machine_busy_s() -> float:
    """CPU seconds that the whole machine was busy; time stolen by its host counts."""
    fields = [int(field) for field in (PROC / "stat").read_text().splitlines()[0].split()[1:9]]
    return (sum(fields) - fields[3] - fields[4]) / TICK


def _processes() -> dict[int, tuple[int, int]]:
    """The parent of each process, and its clock ticks with those of its children that have ended."""
    found = {}
    for name in os.listdir(PROC):
        if name.isdigit():
            with contextlib.suppress(OSError):
                fields = (PROC / name / "stat").read_text().rpartition(")")[2].split()
                found[int(name)] = (int(fields[1]), sum(int(field) for field in fields[11:15]))
    return found


def _family(rows: Mapping[int, tuple[int, int]], roots: Sequence[int]) -> set[int]:
    family = {pid for pid in roots if pid in rows}
    while more := {pid for pid, (parent, _) in rows.items() if parent in family} - family:
        family |= more
    return family


def _field(pid: int, file: str, name: str) -> int:
    """A number of kilobytes."""
    with contextlib.suppress(OSError):
        for line in (PROC / str(pid) / file).read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1])
    return 0
