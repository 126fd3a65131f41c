"""A failure becomes small: what is sent is left out, and drivers get along without it; faults are text and back.

And one that cannot become smaller is left after few more runs, with round times.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minuet import NotFound
from minuet.testing.simulation import At, Faults, LeftOut, Nth, Simulation, SimulationFailed, World
from minuet.testing.simulation.faults import KINDS, POINTS
from minuet.testing.simulation.shrinking import ELSEWHERE, Shrinking
from minuet_shop.contracts import GetOrder, OrderCreated, PlaceOrder
from tests.simulation.shop import outside, shop, shop_simulation

ORDERS = 6


def placed(number: int) -> PlaceOrder:
    return PlaceOrder(order_id=f"o{number}", customer_id="c1", items=["ITEM001"])


async def one_after_the_other(world: World) -> None:
    for number in range(ORDERS):
        await world.send(placed(number))


async def all_at_once(world: World) -> None:
    await asyncio.gather(*(world.send(placed(number)) for number in range(ORDERS)))


async def in_a_group_that_looks(world: World) -> None:
    async def order(number: int) -> None:
        answer = await world.send(placed(number))
        assert isinstance(answer, OrderCreated)
        assert answer.order_id == f"o{number}"

    async with asyncio.TaskGroup() as group:
        for number in range(ORDERS):
            group.create_task(order(number))


async def gathered_and_matched(world: World) -> None:
    async def order(number: int) -> str:
        await world.sleep(number / 10)
        match await world.send(placed(number)):
            case OrderCreated(order_id=order_id):
                return order_id
        raise AssertionError("nothing else can be the answer")

    await asyncio.gather(*(order(number) for number in range(ORDERS)))


async def asked_for(world: World) -> None:
    async def order(number: int) -> None:
        await world.send(placed(number))
        await world.ask(GetOrder(order_id=f"o{number}"))  # NotFound, if it was not placed

    await asyncio.gather(*(order(number) for number in range(ORDERS)))


DRIVERS = [one_after_the_other, all_at_once, in_a_group_that_looks, gathered_and_matched, asked_for]


def simulation_of(driver: Callable[[World], Coroutine[Any, Any, None]], **settings: Any) -> Simulation:
    simulation = Simulation(shop, provided=outside, **settings)
    simulation.drive(driver)
    return simulation


def orders_in(world: World) -> list[str]:
    return [row["order_id"] for row in world.rows("orders", "SELECT order_id FROM orders ORDER BY order_id")]


@pytest.mark.slow
@pytest.mark.parametrize("driver", DRIVERS)
def test_only_what_is_asked_for_is_sent_whatever_the_driver_does(driver: Any) -> None:
    simulation = simulation_of(driver, faults=Faults())
    seen: list[list[str]] = []
    simulation.eventually(lambda world: seen.append(orders_in(world)))
    assert simulation.run(1).sagas.total() == ORDERS
    for orders in (["o2"], ["o3", "o5"], []):
        report = simulation.run(1, only=[f"PlaceOrder/{order}" for order in orders])
        assert sorted(saga_id for _, saga_id in report.outcomes) == seen[-1] == orders
    assert len(seen[0]) == ORDERS


def test_who_looks_at_the_answer_to_what_was_not_sent_is_not_there() -> None:
    simulation = simulation_of(one_after_the_other, faults=Faults())
    looked: list[str] = []

    @simulation.drive
    async def look(world: World) -> None:
        answer = await world.send(placed(1))
        assert "no answer to PlaceOrder/o1" in repr(answer)
        for at in (lambda: answer.order_id, lambda: str(answer), lambda: bool(answer), lambda: isinstance(answer, int)):
            with pytest.raises(LeftOut, match="not sent in this run"):
                at()
            looked.append("once")
        with pytest.raises(NotFound):
            await world.ask(GetOrder(order_id="o1"))

    simulation.run(0, only=[])
    assert len(looked) == 4


def test_a_driver_that_fails_with_everything_there_still_fails() -> None:
    simulation = simulation_of(one_after_the_other, faults=Faults())

    @simulation.drive
    async def fail(world: World) -> None:
        await world.send(placed(1))
        raise RuntimeError("a mistake in the driver")

    with pytest.raises(RuntimeError, match="a mistake in the driver"):
        simulation.run(0)
    assert simulation.run(0, only=[]).sagas.total() == 0


@pytest.mark.slow
@pytest.mark.parametrize("driver", DRIVERS)
def test_a_failure_keeps_only_the_order_that_it_is_about(driver: Any) -> None:
    simulation = simulation_of(driver)

    @simulation.always(of="shipping")
    def o4_is_never_shipped(world: World) -> None:
        """Order o4 is never shipped."""
        assert not world.rows("shipping", "SELECT order_id FROM shipments WHERE order_id = 'o4'")

    with pytest.raises(SimulationFailed) as found:
        simulation.run_many(range(20))
    small = simulation.shrink(found.value, runs_max=60)
    assert small.sent == ("PlaceOrder/o4",)
    assert small.faults.count == 0


def test_a_call_takes_as_long_whoever_else_calls() -> None:
    simulation = simulation_of(all_at_once, faults=Faults(), machines="apart")

    def calls(*orders: int) -> list[float]:
        report = simulation.run(3, only=[f"PlaceOrder/o{number}" for number in orders])
        return [one.at_s for one in report.trace.moments if one.kind == "asks" and one.who == "client"]

    assert sorted(calls(4) + calls(5)) == calls(4, 5)


# -- what cannot become smaller ----------------------------------------------------------------------------------------

MACHINES = {"inventory": 1.23456, "payment": 2.34567, "shipping": 3.45678}
ALL_KILLED = Faults(schedule=tuple(At(at_s, "kill", name) for name, at_s in MACHINES.items()))


def failed_by(faults: Faults, mix: Faults, only: Collection[str] | None = None) -> SimulationFailed:
    failed = SimulationFailed.__new__(SimulationFailed)
    failed.seed, failed.promise = 1, "it holds"
    failed.sent, failed.only = ("one",) if only is None else tuple(only), only
    failed.faults, failed.mix = faults, mix
    return failed


@pytest.fixture
def redrawn(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Runs that break the promise when all are killed, or by every other drawing elsewhere. Which were drawn anew."""
    found = []

    class Run:
        def __init__(self, _: object, seed: int, *, faults: Faults, only: Any, redrawn: int = 0) -> None:
            self.faults, self.only, self.redrawn = faults, only, redrawn

        def run(self) -> None:
            if self.redrawn:
                found.append(self.redrawn)
            if self.redrawn > 100 and self.redrawn % 2:
                raise failed_by(ALL_KILLED, self.faults, self.only)
            if {one.machine for one in self.faults.schedule} == {*MACHINES}:
                raise failed_by(self.faults, self.faults, self.only)

    monkeypatch.setattr("minuet.testing.simulation.shrinking.Run", Run)
    return found


@pytest.mark.parametrize("mix", [Faults(kill_per_minute=3.0), ALL_KILLED], ids=["rates", "exact"])
def test_what_needs_three_faults_is_left_with_three_and_round_times(mix: Faults, redrawn: list[int]) -> None:
    shrinking = Shrinking(cast("Any", None), failed_by(ALL_KILLED, mix), 300)
    small = shrinking.run()
    assert {one.machine: one.at_s for one in small.faults.schedule} == {"inventory": 1, "payment": 2, "shipping": 3}
    assert shrinking.runs < 60
    assert len(set(redrawn)) >= ELSEWHERE if mix.has_rates else not redrawn


def test_no_more_runs_than_are_allowed(redrawn: list[int]) -> None:
    for most in range(12):
        shrinking = Shrinking(cast("Any", None), failed_by(ALL_KILLED, Faults(kill_per_minute=3.0)), most)
        shrinking.run()
        assert shrinking.runs <= most


# -- faults as text ----------------------------------------------------------------------------------------------------

names = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)
seconds = st.floats(allow_nan=False, allow_infinity=False)
ats = st.builds(At, seconds, st.sampled_from([kind for kind in KINDS if kind not in POINTS]), names, seconds)
nths = st.builds(Nth, st.sampled_from(POINTS), st.integers(1, 10**6), names)


@given(st.lists(ats, max_size=4), st.lists(nths, max_size=4), st.sampled_from([20.0, 0.1, 3600.0]))
def test_faults_are_text_and_back(schedule: list[At], exactly: list[Nth], until_s: float) -> None:
    faults = Faults(schedule=tuple(schedule), exactly=tuple(exactly), until_s=until_s)
    text = faults.to_text()
    assert Faults.from_text(text) == faults
    assert not set(text) & set(" \t\n'\"\\$`")  # it is copied into a shell


@pytest.mark.parametrize("text", ["kill", "flood#1", "kill@payment#1", "disk_full@x#0", "pause@x~soon:1", "until~late"])
def test_what_is_no_fault_is_told(text: str) -> None:
    with pytest.raises(ValueError, match="is no fault"):
        Faults.from_text(f"disk_full@orders#1,{text}")


def test_an_opportunity_is_counted_at_its_place_or_everywhere() -> None:
    simulation = shop_simulation(2, machines="apart")
    third = simulation.run(0, faults=Faults(exactly=(Nth("crash_after_commit", 3),)))
    there = simulation.run(0, faults=Faults.from_text("crash_after_commit@orders#1"))
    for report in (third, there):
        assert report.fired == {"crash_after_commit": 1}
    (fault,) = (one for one in there.trace.moments if one.kind == "fault")
    assert fault.who == "orders"
