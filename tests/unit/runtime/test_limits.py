"""A participant gets no more at a time, and no faster, than the deployment says; the others go their way."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from minuet.core.coordinator import Status
from minuet.core.errors import NotYet
from minuet.core.messages import Event
from minuet.runtime import place as place_module
from minuet.runtime.limits import BURST_S, Pace
from tests.unit.runtime.shop import SAGA, Paid, Pay, PlaceOrder, Plan, Reserve, Reserved, Ship, make_shop
from tests.unit.runtime.virtual_loop import in_virtual_time
from tests.unit.runtime.world import World

HOW = [("choreography", "local"), ("orchestration", "local"), ("orchestration", "commands")]
ORDERS = 60


class Watched(Plan):
    """Notes when each handler was called and how many of its kind were at it."""

    def __init__(self, takes_s: float = 0.5) -> None:
        super().__init__()
        self.takes_s = takes_s
        self.at_it = 0
        self.most = 0
        self.times: dict[str, list[float]] = {}

    def next(self, message: Any, key: str = "") -> Any:
        self.times.setdefault(type(message).__name__, []).append(asyncio.get_running_loop().time())
        return super().next(message, key)

    async def outside(self, message: Any, key: str, happy: Any, unhappy: Any = None) -> Any:
        self.at_it += 1
        self.most = max(self.most, self.at_it)
        try:
            await asyncio.sleep(self.takes_s)
            return await super().outside(message, key, happy, unhappy)
        finally:
            self.at_it -= 1


def settings(how: tuple[str, str], **limits: Any) -> dict[str, Any]:
    return {
        "coordination": {SAGA: how[0]},
        "orchestration": {"participants": how[1], "ask_again_s": 600.0},
        "limits": {"payment": limits},
    }


async def place_and_wait(process: Any, orders: int = ORDERS) -> None:
    for number in range(orders):
        await process.send(PlaceOrder(order_id=f"o{number}"))
    for number in range(orders):
        assert await process.ended(SAGA, f"o{number}") == Status.COMPLETED
    await asyncio.sleep(5)


@pytest.mark.parametrize("how", HOW)
@in_virtual_time
async def test_never_more_are_in_flight(how: tuple[str, str]) -> None:
    plan, world = Watched(), World()
    async with world.running(make_shop(plan), **settings(how, in_flight=3)) as process:
        before = asyncio.get_running_loop().time()
        await place_and_wait(process)
        took_s = asyncio.get_running_loop().time() - before - 5
    assert plan.most == 3
    assert plan.called(Pay) == ORDERS
    assert took_s >= ORDERS / 3 * plan.takes_s
    assert not world.left_over()


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("rate", [2.0, 25.0])
@in_virtual_time
async def test_they_are_not_begun_faster(how: tuple[str, str], rate: float) -> None:
    plan, world = Watched(takes_s=0.01), World()
    async with world.running(make_shop(plan), **settings(how, rate_per_s=rate)) as process:
        await place_and_wait(process)
    times = plan.times["Pay"]
    assert len(times) == ORDERS
    for begin, first in enumerate(times):
        within = sum(first <= one < first + 1.0 for one in times[begin:])
        assert within <= rate * (1 + BURST_S) + 1
    assert times[-1] - times[0] <= ORDERS / rate + 1.0, "nor slower"


@in_virtual_time
async def test_a_handler_within_the_transaction_counts_too() -> None:
    plan, world = Watched(), World()
    limits = {"inventory": {"rate_per_s": 5.0}}
    async with world.running(make_shop(plan), limits=limits) as process:
        await place_and_wait(process, 20)
    times = plan.times["Reserve"]
    assert times[-1] - times[0] >= 19 / 5.0 - BURST_S - 0.01
    assert len(times) == 20


@pytest.mark.parametrize("how", HOW)
@in_virtual_time
async def test_other_participants_and_other_sagas_are_not_held_up(how: tuple[str, str]) -> None:
    """Payment hangs with all it may have; what does not need it goes on, at the orchestrator too."""
    plan, world = Plan(), World()
    gate = asyncio.Event()
    plan.always(Pay, gate)
    async with world.running(make_shop(plan), **settings(how, in_flight=1, rate_per_s=1.0)) as process:
        for number in range(ORDERS):
            await process.send(PlaceOrder(order_id=f"o{number}"))
        await asyncio.sleep(10)
        assert plan.called(Pay) == 1
        assert plan.called(Reserve) == ORDERS
        reserved: Event = await process.send(Reserve(order_id="another"), key="k")
        assert isinstance(reserved, Reserved)
        gate.set()
        for number in range(ORDERS):
            assert await process.ended(SAGA, f"o{number}") == Status.COMPLETED
        await asyncio.sleep(5)
    assert plan.called(Ship) == ORDERS
    assert not world.left_over()


@in_virtual_time
async def test_what_waits_for_its_turn_makes_the_place_full() -> None:
    plan, world = Watched(takes_s=0.0), World()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(place_module, "DUE_MAX", 50)
        async with world.running(make_shop(plan), limits={"payment": {"rate_per_s": 10.0}}) as process:
            for number in range(400):
                await process.send(PlaceOrder(order_id=f"o{number}"))
            payment = process.system.places["payment"]
            await asyncio.sleep(1)
            assert payment.is_full
            assert len(payment._under_way) <= 50 + 128
            with pytest.raises(NotYet, match="too much to do"):
                await process.send(Pay(order_id="another", amount=1))
            for number in range(400):
                assert await process.ended(SAGA, f"o{number}") == Status.COMPLETED
    assert not world.left_over()


@in_virtual_time
async def test_a_stop_does_not_wait_for_turns_and_nothing_is_lost() -> None:
    plan, world = Watched(takes_s=0.0), World()
    app = make_shop(plan)
    limits = {"payment": {"rate_per_s": 0.01}}
    process = await world.start(app, limits=limits)
    for number in range(5):
        await process.send(PlaceOrder(order_id=f"o{number}"))
    await asyncio.sleep(1)
    before = asyncio.get_running_loop().time()
    await process.stop()
    assert asyncio.get_running_loop().time() - before < 1.0
    assert plan.called(Pay) == 1
    async with world.running(app) as again:
        await asyncio.sleep(10)
        assert plan.called(Pay) == 5
        answer = await again.send(Pay(order_id="o1", amount=10))
        assert isinstance(answer, Paid)


@in_virtual_time
async def test_what_is_paused_while_it_waits_for_its_turn_is_not_begun() -> None:
    plan, world = Watched(takes_s=0.0), World()
    async with world.running(make_shop(plan), limits={"payment": {"rate_per_s": 1.0}}) as process:
        for number in range(30):
            await process.send(PlaceOrder(order_id=f"o{number}"))
        await asyncio.sleep(5)
        await process.system.pause(service="payment", who="ada")
        await asyncio.sleep(0.5)
        begun = plan.called(Pay)
        assert 4 <= begun <= 7
        await asyncio.sleep(60)
        assert plan.called(Pay) == begun
        await process.system.resume(service="payment", who="ada")
        for number in range(30):
            assert await process.ended(SAGA, f"o{number}") == Status.COMPLETED


def test_a_bucket_that_was_not_used_gives_a_tenth_of_a_second_at_once_and_no_more() -> None:
    pace = Pace(50.0)
    assert [round(pace.delay_s(100.0), 3) for _ in range(8)] == [0, 0, 0, 0, 0, 0.02, 0.04, 0.06]
    assert [round(pace.delay_s(1000.0), 3) for _ in range(6)] == [0, 0, 0, 0, 0, 0.02]
    slow = Pace(0.5)
    assert [slow.delay_s(0.0) for _ in range(3)] == [0.0, 2.0, 4.0]
