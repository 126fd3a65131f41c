"""Killed at any commit, taken for dead, two at a time, stopped and started: what was promised is kept."""

from __future__ import annotations

import asyncio
from unittest.mock import patch

import pytest

from minuet.core.coordinator import Status
from minuet.core.envelope import Envelope
from minuet.core.retry import RetryPolicy
from minuet.ports import EntryState
from minuet.runtime import place as place_module
from minuet.runtime.worker import Worker
from tests.unit.runtime.shop import (
    REFUSE,
    SAGA,
    OrderPlaced,
    Paid,
    Pay,
    PlaceOrder,
    Plan,
    Refund,
    Ship,
    make_shop,
)
from tests.unit.runtime.virtual_loop import in_virtual_time, run
from tests.unit.runtime.world import Broken, Process, World

COORDINATIONS = ("choreography", "orchestration")
BOTH = pytest.mark.parametrize("how", COORDINATIONS)
EVERY = ("orders", "inventory", "payment", "shipping", "orchestrator")


class Killed(Exception):
    pass


async def crash_once(how: str, refuses: bool, service: str, number: int, *, after: bool, alone: bool) -> bool:
    """Run an order, and kill a service's process at its n-th transaction. False: it never came to that."""
    plan, world = Plan(), World()
    if refuses:
        plan.always(Ship, REFUSE)
    app = make_shop(plan, reactions=True)
    names = [*app.services, "orchestrator"]
    groups = [[service], [one for one in names if one != service]] if alone else [names]
    processes = [await world.start(app, services=group, coordination={SAGA: how}) for group in groups]
    victim = processes[0]
    died = asyncio.Event()
    begun = victim.store(service).transactions

    def kill(at: int) -> None:
        if at == begun + number and victim.is_alive:
            victim.kill()
            died.set()
            raise Killed

    setattr(victim.store(service), "after" if after else "before", kill)
    for _ in range(50):
        try:
            orders = next(one for one in processes if "orders" in one.system.places)
            await orders.send(PlaceOrder(order_id="o1"), key="k")
            break
        except Exception:
            await asyncio.sleep(1)
            processes = await _revived(world, processes)
    for _ in range(200):
        await asyncio.sleep(0.5)
        processes = await _revived(world, processes)
        if world.decided("o1").keys() & {"completed", "compensated"} and not world.left_over():
            break
    found = world.decided("o1")
    assert ("compensated" if refuses else "completed") in found, (found, world.left_over())
    assert found["ship"] == ("NoAddress" if refuses else "Shipped")
    assert plan.done_outside(Pay, "o1") == 1
    assert plan.done_outside(Refund, "o1") == refuses
    assert not world.left_over()
    for process in processes:
        await process.stop()
    return died.is_set()


async def _revived(world: World, processes: list[Process]) -> list[Process]:
    return [
        one
        if one.is_alive
        else await world.start(one.app, services=one.services, coordination=one.settings.coordination)
        for one in processes
    ]


@BOTH
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("service", [*EVERY, "notices"])
@pytest.mark.parametrize("alone", [False, True])
def test_a_crash_at_any_commit_changes_nothing(how: str, after: bool, service: str, alone: bool) -> None:
    reached: list[bool] = []

    async def main(number: int) -> None:
        refuses = number % 2 == 1  # with all the undos: these go through more commits
        reached.append(await crash_once(how, refuses, service, number, after=after, alone=alone))

    for number in (1, 2, 3, 4, 5, 7, 9, 11):
        run(main(number))
        if not reached[-1]:
            break
    assert reached[0], "a property that never had its chance is not tested"


# -- two of a kind -----------------------------------------------------------------------------------------------------


@BOTH
@in_virtual_time
async def test_two_processes_with_everything_do_each_thing_once(how: str) -> None:
    plan, world = Plan(), World()
    orders = [f"o{number}" for number in range(200)]
    for order in orders[::5]:
        plan.always(f"Ship {order}", REFUSE)
    app = make_shop(plan, reactions=True)
    async with (
        world.running(app, coordination={SAGA: how}) as one,
        world.running(app, coordination={SAGA: how}) as other,
    ):
        await asyncio.gather(
            *(process.send(PlaceOrder(order_id=order), wait_s=30) for order in orders for process in (one, other))
        )
        while world.left_over():
            await asyncio.sleep(1)
    for number, order in enumerate(orders):
        assert ("completed" in world.decided(order)) == bool(number % 5)
        assert plan.called(PlaceOrder, order) == plan.called(Pay, order) == plan.called(OrderPlaced, order) == 1
        assert plan.done_outside(Refund, order) == (number % 5 == 0)


def _taken_for_dead(process: Process, service: str) -> None:
    store = process.store(service)
    store._database.openings.pop(store.instance)


@in_virtual_time
async def test_whoever_was_taken_for_dead_cannot_record_what_he_did() -> None:
    plan, world = Plan(), World()
    slow = asyncio.Event()
    plan.will(Pay, slow)
    app = make_shop(plan)
    zombie = await world.start(app, services=["payment"])
    asking = asyncio.get_running_loop().create_task(zombie.send(Pay(order_id="o1", amount=1), wait_s=5))
    await plan.begun["Pay"].wait()
    _taken_for_dead(zombie, "payment")
    async with world.running(app, services=["payment"]) as successor:
        assert await successor.send(Pay(order_id="o1", amount=1)) == Paid(order_id="o1", amount=1)
        slow.set()
        await asyncio.sleep(1)
        with pytest.raises(Exception, match=r"under way|ask again"):
            await asking
        assert await zombie.send(Pay(order_id="o1", amount=1)) == Paid(order_id="o1", amount=1)
        assert len([one for one in world.entries("payment") if one.handler == "Pay"]) == 1
        zombie.kill()
    published = [one.envelope.id for one in successor.transport.published]
    assert published == ["Pay/o1"]
    assert plan.done_outside(Pay, "o1") == 1


@in_virtual_time
async def test_two_who_fail_in_turn_do_not_disturb_each_other() -> None:
    """The zombie's failed attempt is not kept either, nor its timer of any use."""
    plan, world = Plan(), World()
    slow = asyncio.Event()
    plan.will(Pay, slow, Broken("the successor's first attempt"))
    app = make_shop(plan, retry=RetryPolicy(first_s=10))
    zombie = await world.start(app, services=["payment"])
    asking = asyncio.get_running_loop().create_task(zombie.send(Pay(order_id="o1", amount=1), wait_s=1))
    await plan.begun["Pay"].wait()
    _taken_for_dead(zombie, "payment")
    async with world.running(app, services=["payment"]) as successor:
        await asyncio.sleep(2)
        slow.set()
        assert await successor.send(Pay(order_id="o1", amount=1), wait_s=60) == Paid(order_id="o1", amount=1)
        await asyncio.gather(asking, return_exceptions=True)
        (entry,) = world.entries("payment")
        assert entry.owner is None
        zombie.kill()


# -- stop and start ----------------------------------------------------------------------------------------------------


@BOTH
@in_virtual_time
async def test_a_stop_in_the_middle_and_a_start_lose_nothing(how: str) -> None:
    plan, world = Plan(), World()
    app = make_shop(plan)
    orders = [f"o{number}" for number in range(30)]
    slow = asyncio.Event()
    for order in orders[::3]:
        plan.will(f"Pay {order}", slow)  # these are cut off when the grace is over
    process = await world.start(app, coordination={SAGA: how}, grace_s=3)
    await asyncio.gather(*(process.send(PlaceOrder(order_id=order)) for order in orders))
    await plan.begun["Pay"].wait()
    await process.stop()
    plan.scripts.clear()
    async with world.running(app, coordination={SAGA: how}) as again:
        for order in orders:
            assert await asyncio.wait_for(again.ended(SAGA, order), 600) == Status.COMPLETED
        await asyncio.sleep(5)
    assert not world.left_over()
    assert all(plan.done_outside(Pay, order) == 1 for order in orders)


@in_virtual_time
async def test_a_stop_does_not_begin_what_only_waits_for_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(place_module, "UNDER_WAY_MAX", 2)
    plan, world = Plan(), World()
    slow = asyncio.Event()
    plan.always(Pay, slow)
    process = await world.start(make_shop(plan), services=["payment"])
    asking = [asyncio.get_running_loop().create_task(process.send(Pay(order_id=f"o{n}", amount=1))) for n in range(9)]
    await asyncio.sleep(1)
    assert plan.called(Pay) == 2
    stopping = asyncio.get_running_loop().create_task(process.stop())
    await asyncio.sleep(1)
    slow.set()
    await stopping
    await asyncio.gather(*asking, return_exceptions=True)
    assert plan.called(Pay) == 2
    assert len(world.entries("payment", EntryState.DUE)) == 7


@in_virtual_time
async def test_a_participant_that_hangs_does_not_keep_the_orchestrator_from_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(place_module, "UNDER_WAY_MAX", 2)
    plan, world = Plan(), World()
    hangs = asyncio.Event()
    for number in range(5):
        plan.always(f"Ship o{number}", lambda command: hangs)  # no event: it fails, and is tried again for ever
    app = make_shop(plan, retry=RetryPolicy(attempts_max=1000, first_s=1000, delay_max_s=1000))
    async with world.running(app, coordination={SAGA: "orchestration"}) as process:
        for number in range(5):
            await process.send(PlaceOrder(order_id=f"o{number}"))
        await asyncio.sleep(60)
        await process.send(PlaceOrder(order_id="o9"))
        for _ in range(50):
            await asyncio.sleep(0.1)
        assert plan.called(Pay, "o9") == 1
        process.kill()
        await asyncio.sleep(1)


# -- stores that fail --------------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("service", EVERY)
@in_virtual_time
async def test_a_store_that_fails_for_a_while_fails_no_saga(how: str, service: str) -> None:
    plan, world = Plan(), World()
    async with world.running(make_shop(plan), coordination={SAGA: how}) as process:
        await process.send(PlaceOrder(order_id="o1"))

        def fail(number: int) -> None:
            raise Broken("disk full")

        process.store(service).before = fail
        await asyncio.sleep(120)
        process.store(service).before = lambda number: None
        assert await asyncio.wait_for(process.ended(SAGA, "o1"), 600) == Status.COMPLETED
        await asyncio.sleep(60)
    assert not world.left_over()


@in_virtual_time
async def test_what_is_handed_in_before_the_place_has_begun_is_published_all_the_same() -> None:
    """HTTP answers before the last provider is open; nothing looks into a live instance's own outbox later."""
    plan, world = Plan(), World()
    early: list[asyncio.Task[object]] = []
    begin = Worker.start

    async def start(worker: Worker) -> None:
        if worker.place.name == "orders":
            envelope = Envelope(id="1", type="PlaceOrder", source="client", time=0.0, body=b'{"orderId": "o1"}')
            early.append(asyncio.get_running_loop().create_task(worker.place.ask(envelope, key="", wait_s=1)))
            await asyncio.sleep(1)
        await begin(worker)

    with patch.object(Worker, "start", start):
        async with world.running(make_shop(plan)) as process:
            assert await asyncio.wait_for(process.ended(SAGA, "o1"), 60) == Status.COMPLETED
    await asyncio.gather(*early)
