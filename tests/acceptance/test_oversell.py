"""Ten orders want the last five pieces, all at once."""

import asyncio

import pytest

from tests.acceptance.processes import APART, Shop

pytestmark = pytest.mark.acceptance

LAST = "ITEM007"


@pytest.mark.grounds("seed/choreography")
@pytest.mark.asyncio(loop_scope="module")
async def test_five_of_ten_get_the_last_five_pieces(whole: Shop) -> None:
    await five_of_ten(whole)


# Not on the seed's mix: the names there are fixed, and the other test's shop runs until the module ends.
@pytest.mark.grounds("embedded", "sqlite+kafka/choreography", "postgres+redis/orchestration", only=True)
async def test_two_inventories_do_not_sell_a_piece_twice(empty: Shop) -> None:
    launched = [empty.launch(name) for name in (*APART, "inventory")]
    await asyncio.gather(*(process.ready() for process in launched))
    await five_of_ten(empty)
    # Called by hand too, and through both of them.
    await empty.stock(LAST, 10)
    urls = [process.url for process in launched if process.services == ("inventory",)]
    answers = await asyncio.gather(
        *(
            empty.insist("POST", f"{urls[n % 2]}/inventory/reserve", {"orderId": f"HAND-{n // 2}", "items": [LAST]})
            for n in range(20)
        )
    )
    assert [answer.status for answer in answers].count(200) == 10
    taken = {answer.json["orderId"] for answer in answers if answer.status == 200}
    assert len(taken) == 5
    shelf = await empty.get(f"/inventory/stock/{LAST}")
    assert shelf == {"item": LAST, "onHand": 10, "reserved": 10, "available": 0}


async def five_of_ten(shop: Shop) -> None:
    await shop.stock(LAST, 5)
    names = [f"LAST-{number}" for number in range(10)]
    await asyncio.gather(*(shop.place(name, items=[LAST, "ITEM001"]) for name in names))

    ended = await shop.ended(*names)

    assert sorted(order.status for order in ended.values()) == ["CANCELLED"] * 5 + ["SHIPPED"] * 5
    shelf = await shop.get(f"/inventory/stock/{LAST}")
    assert shelf == {"item": LAST, "onHand": 5, "reserved": 5, "available": 0}
    reasons = {order.reason for order in ended.values() if order.status == "CANCELLED"}
    assert reasons == {f"{LAST} is out of stock"}
    await shop.at_rest()
    await shop.balanced()
