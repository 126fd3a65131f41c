"""Handlers that raise: tried again, refused, or parked for an operator; and deadlines."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from minuet.core.coordinator import Status
from minuet.core.errors import MessageError, NotYet, Rejected
from minuet.core.retry import RetryPolicy
from minuet.observer import NEEDS_OPERATOR
from minuet.ports import EntryState
from tests.unit.runtime.shop import (
    QUICKLY,
    REFUSE,
    SAGA,
    After,
    Boom,
    CloseOrder,
    Pay,
    PlaceOrder,
    Plan,
    Refund,
    Release,
    Reserve,
    Ship,
    make_shop,
    order_saga,
)
from tests.unit.runtime.virtual_loop import in_virtual_time
from tests.unit.runtime.world import Process, World

BOTH = pytest.mark.parametrize("how", ["choreography", "orchestration"])
LATE = timedelta(seconds=5)


async def until(process: Process, what: Any) -> None:
    """Wait, in virtual time, until something is so."""
    for _ in range(100_000):
        if what():
            return
        await asyncio.sleep(0.05)
    raise AssertionError("it never came to be")


@BOTH
@pytest.mark.parametrize("failing", [PlaceOrder, Reserve, Pay, Ship, CloseOrder])
@in_virtual_time
async def test_a_handler_that_raises_is_called_again_with_growing_delays(how: str, failing: type) -> None:
    plan, world = Plan(), World()
    plan.will(failing, Boom("once"), Boom("twice"))
    async with world.running(make_shop(plan), coordination={SAGA: how}) as process:
        await process.send(PlaceOrder(order_id="o1"))
        assert await process.ended(SAGA, "o1") == Status.COMPLETED
    assert plan.called(failing) == 3
    assert not world.left_over()


@BOTH
@pytest.mark.parametrize("failing", [Reserve, Ship])
@in_virtual_time
async def test_exhausted_attempts_of_a_def_handler_are_a_refusal(how: str, failing: type) -> None:
    plan, world = Plan(), World()
    plan.always(failing, Boom("always"))
    async with world.running(make_shop(plan), coordination={SAGA: how}) as process:
        await process.send(PlaceOrder(order_id="o1"))
        assert await process.ended(SAGA, "o1") == Status.COMPENSATED
    assert plan.called(failing) == QUICKLY.attempts_max
    assert world.decided("o1")[failing.__name__.lower()] == "StepRefused"
    assert plan.called(Release) == plan.called(Refund) == (failing is Ship)
    assert not world.left_over()


@BOTH
@in_virtual_time
async def test_exhausted_attempts_of_an_async_handler_wait_for_an_operator_and_go_on_when_reopened(how: str) -> None:
    plan, world = Plan(), World()
    plan.will(Pay, *[Boom("always")] * 3)
    async with world.running(make_shop(plan), coordination={SAGA: how}) as process:
        await process.send(PlaceOrder(order_id="o1"))
        await until(process, lambda: world.entries("payment", EntryState.PARKED))
        view = await process.system.observer.saga("o1")
        assert view.status == NEEDS_OPERATOR
        (parked,) = await process.system.observer.parked()
        assert (parked.service, parked.kind, parked.type) == ("payment", "command", "Pay")
        assert "Boom" in parked.reason
        assert await process.system.observer.reopen(parked.id)
        assert await process.ended(SAGA, "o1") == Status.COMPLETED
    assert plan.called(Pay) == 4
    assert plan.done_outside(Pay, "o1") == 1
    assert not world.left_over()


@BOTH
@in_virtual_time
async def test_a_last_resort_makes_a_refusal_possible(how: str) -> None:
    plan, world = Plan(), World()
    plan.always(Pay, After(Boom("the reply is lost")))
    async with world.running(make_shop(plan, with_last_resort=True), coordination={SAGA: how}) as process:
        await process.send(PlaceOrder(order_id="o1"))
        assert await process.ended(SAGA, "o1") == Status.COMPENSATED
    assert [name for name, *_ in plan.calls if name in ("Pay", "last resort")] == ["Pay"] * 3 + ["last resort"]
    assert plan.done_outside(Pay, "o1") == 0
    assert len({key for name, _, key in plan.calls if name in ("Pay", "last resort")}) == 1
    assert not world.left_over()


@BOTH
@in_virtual_time
async def test_a_last_resort_that_fails_is_tried_again_and_then_parked(how: str) -> None:
    plan, world = Plan(), World()
    plan.always(Pay, After(Boom("the reply is lost")))
    plan.will("last resort", Boom("so is this"))
    async with world.running(make_shop(plan, with_last_resort=True), coordination={SAGA: how}) as process:
        await process.send(PlaceOrder(order_id="o1"))
        assert await process.ended(SAGA, "o1") == Status.COMPENSATED
        plan.always("last resort", Boom("for ever"))
        await process.send(PlaceOrder(order_id="o2"))
        await until(process, lambda: world.entries("payment", EntryState.PARKED))
        assert plan.done_outside(Pay, "o2") == 1
        (parked,) = await process.system.observer.parked()
        plan.for_ever.clear()
        await process.system.observer.reopen(parked.id)
        assert await process.ended(SAGA, "o2") == Status.COMPLETED
    assert not world.left_over()


@BOTH
@pytest.mark.parametrize("undo", [Release, Refund])
@in_virtual_time
async def test_an_undo_is_never_refused_but_parked(how: str, undo: type) -> None:
    plan, world = Plan(), World()
    plan.always(Ship, REFUSE)
    plan.always(undo, Boom("always"))
    service = "inventory" if undo is Release else "payment"
    async with world.running(make_shop(plan, with_last_resort=True), coordination={SAGA: how}) as process:
        await process.send(PlaceOrder(order_id="o1"))
        await until(process, lambda: world.entries(service, EntryState.PARKED))
        assert plan.called(undo) == QUICKLY.attempts_max
        plan.for_ever.clear()
        (parked,) = await process.system.observer.parked()
        await process.system.observer.reopen(parked.id)
        assert await process.ended(SAGA, "o1") == Status.COMPENSATED
    assert not world.left_over()


@BOTH
@in_virtual_time
async def test_a_step_after_the_last_refusable_one_is_never_refused(how: str) -> None:
    plan, world = Plan(), World()
    plan.always(CloseOrder, Boom("always"))
    async with world.running(make_shop(plan), coordination={SAGA: how}) as process:
        await process.send(PlaceOrder(order_id="o1"))
        await until(process, lambda: world.entries("orders", EntryState.PARKED))
        plan.for_ever.clear()
        (parked,) = await process.system.observer.parked()
        await process.system.observer.reopen(parked.id)
        assert await process.ended(SAGA, "o1") == Status.COMPLETED
    assert plan.called(Release) == 0


@BOTH
@pytest.mark.parametrize("error", [Rejected("wrong"), MessageError("wrong too")])
@in_virtual_time
async def test_what_will_never_work_is_not_tried_again(how: str, error: Exception) -> None:
    plan, world = Plan(), World()
    plan.always(Reserve, error)
    async with world.running(make_shop(plan), coordination={SAGA: how}) as process:
        await process.send(PlaceOrder(order_id="o1"))
        assert await process.ended(SAGA, "o1") == Status.COMPENSATED
    assert plan.called(Reserve) == 1


@in_virtual_time
async def test_a_handler_whose_inner_task_was_cancelled_is_called_again() -> None:
    """`asyncio.CancelledError` is no `Exception`; it must not make the runtime forget the entry until a restart."""
    plan, world = Plan(), World()
    plan.will(Pay, asyncio.CancelledError())
    async with world.running(make_shop(plan)) as process:
        await process.send(PlaceOrder(order_id="o1"))
        assert await asyncio.wait_for(process.ended(SAGA, "o1"), 60) == Status.COMPLETED
    assert plan.called(Pay) == 2


@BOTH
@in_virtual_time
async def test_a_command_that_cannot_be_begun_in_time_is_refused(how: str) -> None:
    plan, world = Plan(), World()
    app = make_shop(plan, order_saga(deadline=LATE))
    async with world.running(
        app, services=["orders", "inventory", "shipping", "orchestrator"], coordination={SAGA: how}
    ) as process:
        await process.send(PlaceOrder(order_id="o1"))
        await until(process, lambda: plan.called(Reserve))
        if how == "choreography":  # it is payment's own rule that makes it due, when payment hears of it
            world.clock.ahead_s = 0
            plan.origin_is_down = True
        await asyncio.sleep(10)
        async with world.running(app, services=["payment"], coordination={SAGA: how}):
            if how == "choreography":
                await asyncio.sleep(10)
                plan.origin_is_down = False
            assert await process.ended(SAGA, "o1") == Status.COMPENSATED
            assert world.decided("o1")["pay"] == "StepRefused"
    assert plan.called(Pay) == 0
    assert plan.called(Release) == 1
    assert not world.left_over()


@BOTH
@in_virtual_time
async def test_a_command_that_was_begun_in_time_is_not_refused_for_being_late(how: str) -> None:
    """Only the participant decides, and not when the first call may have done its work: here its reply was lost."""
    plan, world = Plan(), World()
    plan.will(
        Pay, After(Boom("lost")), After(NotYet("lost", retry_after_s=10)), After(NotYet("lost", retry_after_s=20))
    )
    slowly = RetryPolicy(first_s=15, delay_max_s=15)
    app = make_shop(plan, order_saga(deadline=LATE, retry=slowly))
    async with world.running(app, coordination={SAGA: how}) as process:
        await process.send(PlaceOrder(order_id="o1"))
        assert await process.ended(SAGA, "o1") == Status.COMPLETED
        await asyncio.sleep(100)
        assert world.decided("o1")["pay"] == "Paid"
    assert plan.called(Pay) == 4
    assert plan.done_outside(Pay, "o1") == 1


@BOTH
@pytest.mark.parametrize("killed", [["payment"], ["orders", "inventory", "shipping", "orchestrator"]])
@in_virtual_time
async def test_a_command_is_not_refused_as_late_when_a_crash_hides_whether_it_began(
    how: str, killed: list[str]
) -> None:
    plan, world = Plan(), World()
    app = make_shop(plan, order_saga(deadline=LATE))
    others = [one for one in ("orders", "inventory", "payment", "shipping", "orchestrator") if one not in killed]
    slow = asyncio.Event()
    plan.will(Pay, slow)
    surviving = await world.start(app, services=others, coordination={SAGA: how})
    dying = await world.start(app, services=killed, coordination={SAGA: how})
    orders = surviving if "orders" in others else dying
    await orders.send(PlaceOrder(order_id="o1"))
    await plan.begun["Pay"].wait()
    plan.ledger["payment key"] = "Pay o1"
    dying.kill()
    slow.set()
    await asyncio.sleep(60)
    again = await world.start(app, services=killed, coordination={SAGA: how})
    observing = surviving if "orders" in others else again
    assert await asyncio.wait_for(observing.ended(SAGA, "o1"), 100) == Status.COMPLETED
    assert world.decided("o1")["pay"] == "Paid"
    await again.stop()
    await surviving.stop()


@BOTH
@in_virtual_time
async def test_a_deadline_that_is_met_changes_nothing(how: str) -> None:
    plan, world = Plan(), World()
    async with world.running(make_shop(plan, order_saga(deadline=LATE)), coordination={SAGA: how}) as process:
        await process.send(PlaceOrder(order_id="o1"))
        assert await process.ended(SAGA, "o1") == Status.COMPLETED
