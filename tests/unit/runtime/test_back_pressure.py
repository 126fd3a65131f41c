"""A service that is far behind takes in no more than it can hold; the rest stays in the transport."""

from __future__ import annotations

import asyncio

import pytest

from minuet.core.coordinator import Status
from minuet.core.errors import NotYet
from minuet.runtime import place as place_module
from tests.unit.runtime.shop import SAGA, Pay, PlaceOrder, Plan, make_shop
from tests.unit.runtime.virtual_loop import in_virtual_time
from tests.unit.runtime.world import World

ORDERS = 400


@pytest.mark.parametrize(("limit", "most"), [("DUE_MAX", 150), ("DUE_BYTES_MAX", 150 * 90)])
@in_virtual_time
async def test_what_does_not_fit_waits_in_the_transport_and_is_done_later(limit: str, most: int) -> None:
    plan, world = Plan(), World()
    gate = asyncio.Event()
    plan.always(Pay, gate)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(place_module, limit, most)
        async with world.running(make_shop(plan)) as process:
            for number in range(ORDERS):
                await process.send(PlaceOrder(order_id=f"o{number}"))
            await asyncio.sleep(60)
            payment = process.system.places["payment"]
            assert payment.is_full
            assert 100 < len(payment._under_way) <= 150 + 128, "a batch may come on top, no more"
            with pytest.raises(NotYet, match="too much to do"):
                await process.send(Pay(order_id="another", amount=1))
            gate.set()
            for number in range(ORDERS):
                assert await process.ended(SAGA, f"o{number}") == Status.COMPLETED
            assert payment._under_way_bytes + payment._timers.weight == 0
    assert not world.left_over()


@in_virtual_time
async def test_who_was_full_looks_again_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """What others left may be waiting, although nothing was found."""
    plan, world = Plan(), World()
    looks: list[float] = []
    loop = asyncio.get_running_loop()

    async def look(self: place_module.Place) -> bool:
        if self.name == "payment":
            looks.append(loop.time())
        return False

    monkeypatch.setattr(place_module.Place, "look_for_views", look)
    monkeypatch.setattr(place_module.Place, "is_full", property(lambda self: self.name == "payment"))
    async with world.running(make_shop(plan), services=["payment"]):
        await asyncio.sleep(60)
        assert len([at for at in looks if at > loop.time() - 30]) >= 29
