"""The loop that measures a contender: so many in flight, nothing measured but what was done, failures not hidden."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks.harness import Asked, arguments, asked, cpu_s, measured, measured_in_threads, milliseconds, order


@pytest.fixture
def given(tmp_path: Path) -> Asked:
    return Asked(in_flight=4, warm_up_s=0.05, seconds=0.2, folder=tmp_path, servers=())


class Shop:
    """Does orders in ten milliseconds each."""

    def __init__(self) -> None:
        self.done: list[int] = []
        self.in_flight = self.in_flight_max = 0

    async def place(self, number: int) -> None:
        self.in_flight += 1
        self.in_flight_max = max(self.in_flight_max, self.in_flight)
        await asyncio.sleep(0.01)
        self.in_flight -= 1
        self.done.append(number)


async def test_customers_keep_so_many_orders_in_flight(given: Asked) -> None:
    shop = Shop()
    found = await measured(
        shop.place, given, counters=lambda: {"messages": 5 * len(shop.done)}, rows=lambda: len(shop.done)
    )
    assert shop.in_flight_max == 4
    assert sorted(shop.done) == list(range(1, len(shop.done) + 1))
    assert 20 <= found["orders"] < len(shop.done)  # the warm-up and the tail are not in it
    assert found["p50_ms"] >= 10
    assert found["p999_ms"] is None
    assert found["messages_per_order"] == pytest.approx(5, rel=0.5)


async def test_rows_that_are_missing_are_an_error(given: Asked) -> None:
    async def rows() -> int:
        return 3

    with pytest.raises(AssertionError, match="3 orders have all their rows"):
        await measured(Shop().place, given, rows=rows)


async def test_an_order_that_fails_ends_the_measurement(given: Asked) -> None:
    async def place(number: int) -> None:
        await asyncio.sleep(0)
        if number == 7:
            raise ValueError("no")

    with pytest.raises(ExceptionGroup) as raised:
        await measured(place, given)
    assert raised.group_contains(ValueError, match="no")


def test_threads_are_customers_too(given: Asked) -> None:
    done: list[int] = []

    def place(number: int) -> None:
        time.sleep(0.005)
        done.append(number)

    found = measured_in_threads(place, given, rows=lambda: len(done))
    assert 20 <= found["orders"] < len(done)

    def fail(number: int) -> None:
        raise ValueError(number)

    with pytest.raises(ValueError, match="1"):
        measured_in_threads(fail, given)


def test_latencies_are_read_from_the_sorted_list() -> None:
    taken = [number / 1000 for number in range(1, 1001)]
    assert [milliseconds(taken, part) for part in (0.5, 0.99, 0.999)] == [501, 991, 1000]
    assert milliseconds([0.002], 0.99) == 2


def test_servers_are_named_by_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BENCH_SERVER_PIDS", "12,34")
    found = asked(arguments("").parse_args(["--dir", str(tmp_path), "--in-flight", "16"]), 56)
    assert (found.in_flight, found.folder, found.servers) == (16, tmp_path, (12, 34, 56))


def test_the_processor_time_of_children_counts() -> None:
    busy = "import time\nwhile time.process_time() < 0.3: pass\nprint('busy', flush=True)\ninput()"
    with subprocess.Popen([sys.executable, "-c", busy], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert cpu_s([child.pid]) >= 0.28
        child.communicate(b"\n")


def test_orders_differ() -> None:
    orders: list[dict[str, Any]] = [order(number) for number in range(100)]
    assert len({one["order_id"] for one in orders}) == 100
