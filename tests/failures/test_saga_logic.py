"""What happens to sagas: refusals that come again, undos that fail, ends that race, deadlines, branches, and years.

Most of the list is looked at at every commit of the simulator, and by its mutations; here is what it does not draw.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from minuet.core.coordinator import Status
from minuet.core.retry import RetryPolicy
from minuet.core.saga import parallel, step
from minuet.observer import NEEDS_OPERATOR
from minuet.ports import EntryState
from minuet.runtime import pruner, worker
from minuet.testing.simulation import Faults
from minuet.testing.simulation import World as Simulated
from minuet_shop.contracts import PlaceOrder as PlaceShopOrder
from minuet_shop.contracts import SetStock, UpdateOrderStatus
from tests.failures.shop import Conduct, at_work, effects, ended, order_app, place, tap
from tests.simulation.shop import shop_simulation
from tests.unit.runtime import virtual_loop
from tests.unit.runtime.shop import (
    QUICKLY,
    REFUSE,
    SAGA,
    Boom,
    OrderPlaced,
    Pay,
    PlaceOrder,
    Plan,
    Refund,
    Release,
    Reserve,
    Ship,
    charge,
    make_shop,
    order_saga,
    order_saga_of,
)
from tests.unit.runtime.virtual_loop import in_virtual_time, run
from tests.unit.runtime.world import Process, World

BOTH = pytest.mark.parametrize("how", ["choreography", "orchestration"])
HOUR_S, DAY_S = 3600.0, 86_400.0


async def comes_true(what: Any, *, within_s: float = HOUR_S) -> None:
    """In virtual time."""
    until_s = asyncio.get_running_loop().time() + within_s
    while not what():
        assert asyncio.get_running_loop().time() < until_s, "it never came to be"
        await asyncio.sleep(0.05)


# 39


@BOTH
async def test_39_a_refusal_stays_one_though_the_same_would_succeed_now(tmp_path: Path, how: str) -> None:
    """The shelf is filled after the refusal; then everything that was said is said again, ten times."""
    conduct = Conduct()
    conduct.now["Reserve o1"] = lambda: True
    settings = {"coordination": {"Order": how}}
    async with at_work(order_app(), {"*": "embedded:"}, tmp_path, conduct=conduct, **settings) as system:
        told = tap(system)
        await place(system, "o1")
        assert await ended(system, "o1") == {"o1": "compensated"}
        await system.drained()
        conduct.now.clear()
        (transport,) = system.transports.values()
        for message in tuple(told) * 10:
            assert list(await transport.publish([message])) == [None]
        stock = system.places["stock"]
        (asked,) = await stock.store.transact(lambda tx: tx.records.entries_of("Order", "o1"), reads_only=True)
        again = [stock.ask(asked.envelope, key=asked.key, wait_s=1) for _ in range(10)]
        assert {answer.type for answer in await asyncio.gather(*again)} == {"SoldOut"}
        await place(system, "o2")
        assert await ended(system, "o2") == {"o2": "completed"}
        assert [one for one in await effects(system, "stock") if one[1] == "o1"] == []
        assert (await system.observer.saga("o1", "Order")).status == "compensated"


# 41, 42


@BOTH
@pytest.mark.parametrize("undo", [Release, Refund])
@in_virtual_time
async def test_41_an_undo_that_fails_for_a_while_is_tried_until_it_is_done(how: str, undo: type) -> None:
    plan, world = Plan(), World()
    plan.always(Ship, REFUSE)
    plan.will(undo, *[Boom("away")] * 7)
    patient = RetryPolicy(attempts_max=8, first_s=1.0, factor=2.0, delay_max_s=60.0)
    async with world.running(make_shop(plan, retry=patient), coordination={SAGA: how}) as process:
        await process.send(PlaceOrder(order_id="o1"))
        await comes_true(lambda: plan.called(undo) == 5)
        assert (await process.system.observer.saga("o1")).status == "compensating"
        began = asyncio.get_running_loop().time()
        assert await process.ended(SAGA, "o1") == Status.COMPENSATED
        assert asyncio.get_running_loop().time() - began > 30, "the pauses did not grow"
    assert plan.called(undo) == 8
    assert not world.left_over()


@BOTH
@in_virtual_time
async def test_42_an_undo_that_cannot_be_done_waits_for_an_operator_as_often_as_it_takes(how: str) -> None:
    """It is never given up, nor is the saga ever called compensated before; what went wrong stays to be read."""
    plan, world = Plan(), World()
    plan.always(Ship, REFUSE)
    plan.always(Refund, Boom("the account is closed"))
    async with world.running(make_shop(plan), coordination={SAGA: how}) as process:
        await process.send(PlaceOrder(order_id="o1"))
        for presses in range(1, 4):
            await comes_true(lambda: world.entries("payment", EntryState.PARKED))
            assert plan.called(Refund) == presses * QUICKLY.attempts_max, "each press gives it all its attempts"
            view = await process.system.observer.saga("o1")
            assert view.status == NEEDS_OPERATOR
            (parked,) = await process.system.observer.parked()
            assert "the account is closed" in parked.reason
            assert "compensated" not in world.decided("o1")
            assert plan.called(Release) == 0, "the reservation is undone after the payment, as the steps say"
            if presses == 3:
                plan.for_ever.pop("Refund")
            assert await process.system.observer.reopen(parked.id)
        assert await process.ended(SAGA, "o1") == Status.COMPENSATED
    assert not world.left_over()


# 45


@pytest.mark.slow
@pytest.mark.parametrize("coordination", ["choreography", "orchestration"])
def test_45_a_status_that_is_set_by_hand_at_any_moment_makes_no_second_end(coordination: str) -> None:
    """There is no verb that cancels a saga. Whoever writes the order's end himself races its own: one of them stays,
    and the other is parked or says the same."""
    ends: set[str] = set()
    for moment in range(24):
        simulation = shop_simulation(0, coordination=coordination, machines="apart", faults=Faults(), reliable=True)
        seen: list[str] = []

        @simulation.drive
        async def race(world: Simulated, moment: int = moment, seen: list[str] = seen) -> None:
            await world.send(PlaceShopOrder(order_id="o1", customer_id="c1", items=["ITEM001"]))
            await world.sleep(moment * 0.01)
            await world.send(UpdateOrderStatus(order_id="o1", status="CANCELLED", reason="I changed my mind"))
            for _ in range(20):
                (row,) = world.rows("orders", "SELECT status FROM orders WHERE order_id = 'o1'")
                seen.append(row["status"])
                await world.sleep(1.0)

        simulation._always.clear()  # the shop's books cannot agree with what was set by hand
        simulation._eventually.clear()
        report = simulation.run(moment)
        assert len(set(seen)) == 1, f"the end changed: {seen}"
        assert set(report.sagas) <= {"completed", NEEDS_OPERATOR}
        ends.add(seen[0])
    assert ends == {"CANCELLED", "SHIPPED"}, "the race had only one winner in all of these"


# 46


@BOTH
@pytest.mark.parametrize("late_s", [-0.001, 0.0, 0.001])
@in_virtual_time
async def test_46_at_the_instant_of_the_deadline_there_is_one_verdict(how: str, late_s: float) -> None:
    """Payment hears of its command just before, at, and just after the instant. It alone decides, so nobody is refused
    who was served; what is begun at the instant itself is in time."""
    plan, world = Plan(), World()
    app = make_shop(plan, order_saga(deadline=timedelta(seconds=5)))
    others = ["orders", "inventory", "shipping", "orchestrator"]
    async with world.running(app, services=others, coordination={SAGA: how}) as process:
        plan.origin_is_down = how == "choreography"  # there the command cannot be built before
        async with world.running(app, services=["payment"], coordination={SAGA: how}) as payment:
            if how == "orchestration":
                payment.system.places["payment"]._is_draining = True  # it says "ask again"
            await process.send(PlaceOrder(order_id="o1"))
            key = "payment" if how == "choreography" else "orchestrator"
            await comes_true(lambda: [one for one in world.entries(key) if one.handler == "Pay"])
            (entry,) = [one for one in world.entries(key) if one.handler == "Pay"]
            expires = entry.envelope.expires
            assert expires is not None
            world.clock.ahead_s += expires + late_s - world.clock.now()
            stopped = world.clock.now()
            world.clock.now = lambda: stopped  # type: ignore[method-assign]
            plan.origin_is_down = False
            payment.system.places["payment"]._is_draining = False
            status = await process.ended(SAGA, "o1")
            decided = world.decided("o1")
        assert decided["pay"] == ("StepRefused" if late_s > 0 else "Paid")
        assert status == (Status.COMPENSATED if late_s > 0 else Status.COMPLETED)
        assert plan.called(Pay) == (0 if late_s > 0 else 1)
        assert ("reserve/undo" in decided) == (late_s > 0)


@BOTH
@in_virtual_time
async def test_46_a_reply_that_comes_as_the_deadline_passes_stands(how: str) -> None:
    plan, world = Plan(), World()
    slow = asyncio.Event()
    plan.will(Pay, slow)
    app = make_shop(plan, order_saga(deadline=timedelta(seconds=5)))
    async with world.running(app, coordination={SAGA: how}) as one:
        await one.send(PlaceOrder(order_id="o1"))
        await plan.begun["Pay"].wait()
        (entry,) = [entry for entry in world.entries("payment") if entry.handler == "Pay"]
        if entry.envelope.expires is not None:
            await asyncio.sleep(entry.envelope.expires - world.clock.now())
        slow.set()
        assert await one.ended(SAGA, "o1") == Status.COMPLETED
        await asyncio.sleep(60)
        assert world.decided("o1")["pay"] == "Paid"
    assert plan.called(Refund) == plan.called(Release) == 0


# 47


@BOTH
@in_virtual_time
async def test_47_an_announcement_with_other_content_is_the_same_saga_with_the_first_content(how: str) -> None:
    """As twenty strangers send it at once, each with another amount; a command is told that it differs."""
    plan, world = Plan(), World()
    async with world.running(make_shop(plan, reactions=True), coordination={SAGA: how}) as process:
        await process.send(PlaceOrder(order_id="o1", amount=10))
        for number in range(20):
            await world.publish(
                "orders",
                b'{"orderId": "o1", "amount": %d}' % number,
                type="OrderPlaced",
                id=f"again-{number}",
                source="stranger",
                time="2027-01-15T08:00:00Z",
            )
        with pytest.raises(Exception, match="other content"):
            await process.send(PlaceOrder(order_id="o1", amount=11))
        assert await process.ended(SAGA, "o1") == Status.COMPLETED
        await comes_true(lambda: not world.left_over())
    assert plan.called(Reserve) == plan.called(Pay) == plan.called(Ship) == 1
    (paid,) = [entry for entry in world.entries("payment") if entry.handler == "Pay" and entry.answer is not None]
    assert b'"amount":10' in paid.envelope.body
    assert plan.called(OrderPlaced) == 21, "a reaction is no saga: it hears each message"


# 48


@BOTH
@pytest.mark.parametrize("slowly", ["succeeds", "refuses"])
@in_virtual_time
async def test_48_when_a_branch_fails_the_others_are_waited_for_and_then_undone(how: str, slowly: str) -> None:
    plan, world = Plan(), World()
    saga = order_saga_of([parallel(step(Reserve, undo=Release), step(charge, undo=Refund, name="pay")), step(Ship)])
    under_way = asyncio.Event()
    plan.always(Reserve, REFUSE)
    if slowly == "succeeds":
        plan.will(Pay, under_way)
    else:
        plan.will(Pay, Boom("not yet"), Boom("not yet"), REFUSE)
    async with world.running(make_shop(plan, saga), coordination={SAGA: how}) as process:
        await process.send(PlaceOrder(order_id="o1"))
        if slowly == "succeeds":
            await plan.begun["Pay"].wait()
            await asyncio.sleep(HOUR_S)
            assert world.decided("o1").get("reserve") == "OutOfStock"
            assert "compensated" not in world.decided("o1"), "it ended while a branch was under way"
            assert (await process.system.observer.saga("o1")).status == "compensating"
            assert plan.called(Refund) == 0, "it undid what was not done"
            under_way.set()
        assert await process.ended(SAGA, "o1") == Status.COMPENSATED
    assert plan.called(Ship) == 0
    assert plan.called(Release) == 0
    assert plan.called(Refund) == (slowly == "succeeds")
    assert not world.left_over()


# 50


@pytest.mark.slow
@pytest.mark.parametrize("coordination", ["choreography", "orchestration"])
def test_50_who_looks_between_the_steps_sees_a_pending_order_and_a_piece_that_is_set_aside(coordination: str) -> None:
    """Sagas are not isolated from each other. What an open one has done is seen, as what it is: pending, reserved. The
    one who comes for the last piece is refused, though it is free again a moment later: nobody is promised it twice."""
    simulation = shop_simulation(0, coordination=coordination, machines="apart", faults=Faults(), reliable=True)
    statuses: list[str] = []

    @simulation.drive
    async def two(world: Simulated) -> None:
        await world.send(SetStock(item="ITEM007", on_hand=1))
        await world.send(PlaceShopOrder(order_id="first", customer_id="NOADDRESS1", items=["ITEM007"]))
        while not world.rows("inventory", "SELECT 1 AS one FROM reservations WHERE order_id = 'first'"):
            await world.sleep(0.001)
        await world.send(PlaceShopOrder(order_id="second", customer_id="c1", items=["ITEM007"]))
        for _ in range(4000):
            rows = world.rows("orders", "SELECT order_id, status FROM orders")
            status = {row["order_id"]: row["status"] for row in rows}
            statuses.append(status["first"])
            (shelf,) = world.rows("inventory", "SELECT on_hand, reserved FROM stock WHERE item = 'ITEM007'")
            assert 0 <= shelf["reserved"] <= 1
            if "PENDING" not in status.values():
                break
            await world.sleep(0.005)
        assert status == {"first": "CANCELLED", "second": "CANCELLED"}
        (second,) = world.rows("orders", "SELECT reason FROM orders WHERE order_id = 'second'")
        assert second["reason"] == "ITEM007 is out of stock"
        assert shelf == {"on_hand": 1, "reserved": 0}

    report = simulation.run(1)
    assert dict(report.sagas) == {"compensated": 2}
    assert [one for number, one in enumerate(statuses) if one not in statuses[:number]] == ["PENDING", "CANCELLED"]


# 51


@pytest.fixture
def years(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Time for years. Nothing else happens here, so it is enough to look twice a day for what there is to do."""
    monkeypatch.setattr(virtual_loop, "LONGEST_S", 800 * DAY_S)
    monkeypatch.setattr(worker, "SWEEP_S", DAY_S / 2)
    monkeypatch.setattr(worker, "SWEEP_S_MAX", DAY_S / 2)
    monkeypatch.setattr(pruner, "REST_S", DAY_S / 2)
    logging.getLogger("minuet").setLevel(logging.CRITICAL)
    select = virtual_loop._Selector.select

    def a_little_longer(selector: virtual_loop._Selector, timeout: float | None = None) -> list[Any]:
        # After 97 days a float of seconds is too coarse for asyncio, which asks whether now + 1 ns is later than now.
        return select(selector, timeout + 1e-6 if timeout else timeout)

    monkeypatch.setattr(virtual_loop._Selector, "select", a_little_longer)
    yield
    logging.getLogger("minuet").setLevel(logging.NOTSET)


@pytest.mark.slow
@pytest.mark.usefixtures("years")
@pytest.mark.parametrize(("how", "days"), [("choreography", 90), ("orchestration", 1)])
def test_51_ten_thousand_retries_over_months(how: str, days: float) -> None:
    """Days only in orchestration: there the conductor asks every 20 seconds, and a year of that takes too long here."""
    retries = 10_000
    longest_s = days * DAY_S / retries * 2

    async def main() -> None:
        plan, world = Plan(), World()
        plan.will(Reserve, *[Boom("not yet")] * retries)
        patient = RetryPolicy(attempts_max=retries + 1, first_s=1.0, factor=2.0, delay_max_s=longest_s)
        async with world.running(make_shop(plan, retry=patient), coordination={SAGA: how}) as process:
            await process.send(PlaceOrder(order_id="o1"), wait_s=1)
            assert await process.ended(SAGA, "o1") == Status.COMPLETED
            assert asyncio.get_running_loop().time() > days * DAY_S
        assert plan.called(Reserve) == retries + 1
        assert not world.left_over()

    run(main())


@pytest.mark.usefixtures("years")
@pytest.mark.parametrize(("how", "days"), [("choreography", 365), ("orchestration", 3)])
def test_51_what_waits_for_a_year_is_begun_when_its_time_comes_also_by_another_process(how: str, days: float) -> None:
    async def main() -> None:
        plan, world = Plan(), World()
        plan.will(Reserve, Boom("come back next year"))
        yearly = RetryPolicy(attempts_max=3, first_s=days * DAY_S, factor=1.0, delay_max_s=days * DAY_S)
        app = make_shop(plan, retry=yearly)
        process: Process = await world.start(app, coordination={SAGA: how})
        await process.send(PlaceOrder(order_id="o1"), wait_s=1)
        await comes_true(lambda: plan.called(Reserve) == 1)
        await asyncio.sleep(days * DAY_S / 12)
        process.kill()
        await asyncio.sleep(days * DAY_S / 12)
        async with world.running(app, coordination={SAGA: how}) as successor:
            await asyncio.sleep(days * DAY_S / 4)
            assert plan.called(Reserve) == 1
            assert await successor.ended(SAGA, "o1") == Status.COMPLETED
        assert plan.called(Reserve) == 2
        assert not world.left_over()

    run(main())
