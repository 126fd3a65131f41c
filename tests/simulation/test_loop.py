"""The simulated loop: no time but the virtual one, no order but the seed's, and asyncio's promises are kept."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine
from contextvars import copy_context
from typing import Any

import pytest

from minuet.testing.simulation.loop import HOST, Host, SimulatedLoop, Stuck

SEEDS = range(30)


def run(work: Coroutine[Any, Any, Any], seed: int = 0, *, put_off: float = 0.0) -> Any:
    loop = SimulatedLoop(random.Random(seed), put_off=put_off)
    try:
        return loop.run_until_complete(work)
    finally:
        loop.close()


def the_loop() -> SimulatedLoop:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, SimulatedLoop)
    return loop


async def three_tasks() -> str:
    order: list[str] = []

    async def step(name: str) -> None:
        for _ in range(3):
            order.append(name)
            await asyncio.sleep(0)

    await asyncio.gather(*(step(name) for name in "abc"))
    return "".join(order)


async def three_timers() -> str:
    order: list[str] = []
    for name in "abc":
        the_loop().call_later(1.0, order.append, name)
    await asyncio.sleep(2.0)
    return "".join(order)


def test_months_pass_at_once() -> None:
    async def wait() -> float:
        await asyncio.sleep(30 * 86_400)
        return the_loop().time()

    assert run(wait()) == 30 * 86_400


@pytest.mark.parametrize("work", [three_tasks, three_timers])
def test_the_order_is_the_seeds_and_always_the_same(work: Any) -> None:
    found = {seed: run(work(), seed) for seed in SEEDS}
    assert found == {seed: run(work(), seed) for seed in SEEDS}
    assert len(set(found.values())) >= 6  # all orders of three, or more


def test_callbacks_keep_the_order_in_which_they_were_registered() -> None:
    async def register() -> list[int]:
        order: list[int] = []
        tasks = []
        for number in range(50):
            the_loop().call_soon(order.append, number)
            tasks.append(asyncio.ensure_future(asyncio.sleep(0)))
        await asyncio.gather(*tasks)
        return order

    for seed in SEEDS:
        assert run(register(), seed, put_off=0.3) == list(range(50))


def test_an_alarm_changes_nothing_but_what_it_does() -> None:
    async def tasks_and_alarms(at_s: tuple[float, ...]) -> tuple[str, list[float]]:
        rung: list[float] = []
        for number, when in enumerate(at_s):
            tie = number / len(at_s) - 1.0
            the_loop().alarm(when, tie, lambda: rung.append(the_loop().time()), copy_context())
        told = await three_tasks()
        await asyncio.sleep(1.0)
        return told + await three_tasks(), rung

    for seed in SEEDS:
        usual, _ = run(tasks_and_alarms(()), seed, put_off=0.2)
        disturbed, rung = run(tasks_and_alarms((0.0, 0.0, 0.5, 1.0)), seed, put_off=0.2)
        assert disturbed == usual
        assert rung == [0.0, 0.0, 0.5, 1.0]


def test_earlier_timers_come_first() -> None:
    async def wait() -> list[float]:
        order: list[float] = []
        for delay in (3.0, 1.0, 2.0, 1.5):
            the_loop().call_later(delay, order.append, delay)
        await asyncio.sleep(5)
        return order

    for seed in SEEDS:
        assert run(wait(), seed) == [1.0, 1.5, 2.0, 3.0]


def test_the_order_of_a_set_does_not_matter() -> None:
    """Tasks are put into the order in which they were made before they are shuffled."""

    async def wake(backwards: bool) -> str:
        order: list[str] = []
        gate = asyncio.get_running_loop().create_future()

        async def wait(name: str) -> None:
            try:
                await asyncio.shield(gate)
            except asyncio.CancelledError:
                order.append(name)

        tasks = [asyncio.ensure_future(wait(name)) for name in "abcdef"]
        await asyncio.sleep(1)
        for task in reversed(tasks) if backwards else tasks:
            task.cancel()
        await asyncio.sleep(1)
        return "".join(order)

    for seed in SEEDS:
        assert run(wake(backwards=False), seed) == run(wake(backwards=True), seed)


def test_a_task_that_is_put_off_comes_in_the_end() -> None:
    for seed in SEEDS:
        assert sorted(run(three_tasks(), seed, put_off=0.9)) == list("aaabbbccc")


def test_waiting_for_nothing_is_told_at_once() -> None:
    async def wait() -> None:
        await the_loop().create_future()

    with pytest.raises(Stuck, match="nothing will ever happen again"):
        run(wait())


def test_an_endless_loop_in_which_no_time_passes_is_told() -> None:
    async def turn() -> None:
        while True:
            await asyncio.sleep(0)

    with pytest.raises(Stuck, match="circle"):
        run(turn())


def test_there_are_no_threads() -> None:
    async def hop() -> None:
        await asyncio.to_thread(print)

    with pytest.raises(RuntimeError, match="no threads in a simulation"):
        run(hop())


def test_what_nobody_caught_is_kept() -> None:
    async def fail() -> None:
        raise ValueError("unseen")

    async def careless() -> list[str]:
        task = asyncio.ensure_future(fail())
        await asyncio.sleep(1)
        del task
        return the_loop().problems

    (problem,) = run(careless())
    assert "unseen" in problem


# -- hosts -------------------------------------------------------------------------------------------------------------


async def halted(for_s: float) -> list[Any]:
    host, seen = Host("h"), []
    context = copy_context()
    context.run(HOST.set, host)
    loop = the_loop()

    async def tick() -> None:
        try:
            while True:
                seen.append(loop.time())
                await asyncio.sleep(1.0)
        finally:
            seen.append("finally")

    task = loop.create_task(tick(), context=context)
    await asyncio.sleep(2.5)
    host.is_halted = True
    task.cancel()  # it does not even hear of that
    await asyncio.sleep(for_s)
    before = list(seen)
    loop.go_on(host)
    await asyncio.sleep(0.5)
    assert task.cancelled()
    return [before, seen]


def test_a_halted_host_does_nothing_and_then_goes_on_where_it_was() -> None:
    before, after = run(halted(100.0))
    assert before == [0.0, 1.0, 2.0]
    assert after == [0.0, 1.0, 2.0, "finally"]


def test_what_a_host_starts_belongs_to_it_too() -> None:
    async def family() -> list[str]:
        host, seen, children = Host("h"), [], []
        context = copy_context()
        context.run(HOST.set, host)
        loop = the_loop()

        async def parent() -> None:
            loop.call_later(2.0, seen.append, "timer")
            children.append(loop.create_task(child()))

        async def child() -> None:
            await asyncio.sleep(2.0)
            seen.append("child")

        loop.create_task(parent(), context=context)
        await asyncio.sleep(1.0)
        host.is_halted = True
        await asyncio.sleep(10.0)
        assert not seen
        loop.go_on(host)
        await asyncio.sleep(1.0)
        return sorted(seen)

    assert run(family()) == ["child", "timer"]
