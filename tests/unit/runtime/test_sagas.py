"""Whole sagas, in both coordinations: the same steps, the same undos, the same end."""

from __future__ import annotations

import pytest

from minuet.core.coordinator import Status
from tests.unit.runtime.shop import (
    REFUSE, SAGA, Pay, PlaceOrder, Plan, Refund, Release, Reserve, Ship, make_shop,
)
from tests.unit.runtime.virtual_loop import in_virtual_time
from tests.unit.runtime.world import World

BOTH = pytest.mark.parametrize("how", ["choreography", "orchestration"])


@BOTH
@pytest.mark.parametrize("refusing", [None, Reserve, Pay, Ship])
@in_virtual_time
async def test_each_step_that_refuses_leaves_nothing_behind(how: str, refusing: type | None) -> None:
    plan, world = Plan(), World()
    if refusing:
        plan.always(refusing, REFUSE)
    async with world.running(make_shop(plan), coordination={SAGA: how}) as process:
        await process.send(PlaceOrder(order_id="o1"))
        status = await process.ended(SAGA, "o1")
        await process.system.drained()
    assert status == (Status.COMPENSATED if refusing else Status.COMPLETED)
    assert plan.called(Release) == (refusing in (Pay, Ship))
    assert plan.called(Refund) == (refusing is Ship)
    assert not world.left_over()
    print(world.decided("o1"))
