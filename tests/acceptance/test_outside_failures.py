"""The payment company and the carrier have a bad day: slow, gone before they did it, gone after they did it."""

import asyncio

import pytest

from tests.acceptance.processes import GONE, Shop, mixed, shipped_of

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.grounds("seed/orchestration"),
    pytest.mark.asyncio(loop_scope="module"),
]

MOODS = {
    "fails-before": ({"failBefore": 0.3}, {"failBefore": 0.3}),
    "fails-after": ({"failAfter": 0.3}, {"failAfter": 0.3}),
    "slow": ({"latencyMs": 300}, {"latencyMs": 200}),
    "all-at-once": (
        {"failBefore": 0.2, "failAfter": 0.2, "latencyMs": 20},
        {"failBefore": 0.2, "failAfter": 0.2, "latencyMs": 20},
    ),
}


@pytest.mark.parametrize("mood", MOODS)
async def test_everything_ends_and_balances(whole: Shop, mood: str) -> None:
    gateway, carrier = MOODS[mood]
    await whole.stock(GONE, 0)
    orders = mixed(mood, 40)
    await asyncio.gather(whole.behave("gateway", seed=7, **gateway), whole.behave("carrier", seed=8, **carrier))
    try:
        await whole.place_all(orders)
        ended = await whole.ended(*orders)
    finally:
        await asyncio.gather(whole.behave("gateway"), whole.behave("carrier"))

    assert {name for name, order in ended.items() if order.status == "SHIPPED"} == shipped_of(orders)
    reasons = {order.reason for order in ended.values() if order.status == "CANCELLED"}
    assert reasons == {"the card was declined", "there is no such address", f"{GONE} is out of stock"}
    await whole.at_rest()
    await whole.balanced()
