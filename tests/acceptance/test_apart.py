"""Each service in a process of its own. "If the Payment Service is down, other services can still publish their events,
and it will catch up when it restarts." """

import asyncio

import pytest

from tests.acceptance.grounds import BY_TURNS
from tests.acceptance.processes import GONE, Shop, mixed, shipped_of, until

pytestmark = [pytest.mark.acceptance, pytest.mark.grounds(*BY_TURNS), pytest.mark.timeout(240)]


async def test_payment_is_killed_in_the_middle_and_catches_up(empty: Shop) -> None:
    shop = empty
    running = await shop.start_apart()
    await shop.stock(GONE, 0)
    many = shop.ground.fewer(150)
    before, meanwhile = mixed("BEFORE", many), mixed("MEANWHILE", many)

    placing = asyncio.create_task(shop.place_all(before))
    await until(lambda: _some(shop, "SHIPPED", shop.ground.fewer(20)), what="the first orders are shipped")
    running["payment"].kill()
    await placing
    paid = len((await shop.ledgers())[0].charges)

    await shop.place_all(meanwhile)

    if shop.coordination == "choreography":
        # Nobody waits for payment: inventory goes on by itself, orders it had refused end.
        refused = {name for name, (_, items) in meanwhile.items() if GONE in items}
        await shop.ended(*refused)
        await until(lambda: _reserved(shop, set(meanwhile) - refused), what="inventory has reserved all others")
    else:
        await until(lambda: _reserved(shop, shipped_of(meanwhile)), what="the orchestrator had them reserved")
    pending = await shop.orders("PENDING")
    assert {order.order_id for order in pending} >= shipped_of(meanwhile)
    assert len((await shop.ledgers())[0].charges) == paid

    await shop.start("payment")
    ended = await shop.ended(*before, *meanwhile)

    expected = shipped_of(before | meanwhile)
    assert {name for name, order in ended.items() if order.status == "SHIPPED"} == expected
    assert all(order.reason for order in ended.values() if order.status == "CANCELLED")
    await shop.at_rest()
    books = await shop.balanced()
    assert (books.shipped, books.cancelled) == (len(expected), 2 * many - len(expected))
    assert await _notes(shop) == set(ended)


async def _some(shop: Shop, status: str, count: int) -> bool:
    return len(await shop.orders(status)) >= count


async def _reserved(shop: Shop, wanted: set[str]) -> bool:
    found: set[str] = set()
    after = ""
    while True:
        page = await shop.get(f"/inventory/reservations?limit=500{after}")
        found |= {one["orderId"] for one in page["reservations"]}
        if page["after"] is None:
            return wanted <= found
        after = f"&after={page['after']}"


async def _notes(shop: Shop) -> set[str]:
    found: set[str] = set()
    after = ""
    while True:
        page = await shop.get(f"/notifications?limit=500{after}")
        found |= {one["orderId"] for one in page["notes"]}
        if page["after"] is None:
            return found
        after = f"&after={page['after']}"
