"""Payment needs what an order costs. It asks orders, or keeps a copy of its own: a deployment chooses."""

import asyncio
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.acceptance.conftest import Site
from tests.acceptance.processes import APART, Shop, shop, until

pytestmark = [pytest.mark.acceptance, pytest.mark.grounds("postgres+kafka/choreography")]

NAMES = [f"ORDER-{number}" for number in range(20)]
READ_MODEL = '[queries]\nGetOrder = "read_model"\n'


@pytest.mark.parametrize("how", ["read_model", "origin"])
async def test_payment_goes_on_without_orders_if_it_keeps_a_copy(
    tmp_path: Path, site: Site, servers: Mapping[str, str], how: str
) -> None:
    config = READ_MODEL if how == "read_model" else ""
    async with shop(tmp_path, site.coordination, site.ground, servers=servers, config=config) as made:
        # Who asks for the amount: payment's own rule, or the orchestrator. It is not there while the orders are placed.
        asks = "payment" if site.coordination == "choreography" else "orchestrator"
        running = await made.start_apart([name for name in APART if name != asks])
        await asyncio.gather(*(made.place(name) for name in NAMES))
        await until(lambda: _published(made), what="orders has published everything")
        running["orders"].kill()

        await made.start(asks)
        if how == "read_model":
            await until(lambda: _shipped(made), what="all is paid and shipped while orders is down")
        else:
            await until(lambda: _reserved(made), what="all is reserved")
            assert (await made.get("/payment/payments"))["payments"] == []
            assert (await made.ledgers())[0].charges == []

        await made.start("orders")
        ended = await made.ended(*NAMES)
        assert {order.status for order in ended.values()} == {"SHIPPED"}
        assert {order.amount for order in ended.values()} == {ended[NAMES[0]].amount}
        await made.at_rest()
        books = await made.balanced()
        assert books.shipped == len(NAMES)


async def _published(made: Shop) -> bool:
    return "orders unpublished" not in made.left_over()


async def _reserved(made: Shop) -> bool:
    return len((await made.get("/inventory/reservations"))["reservations"]) == len(NAMES)


async def _shipped(made: Shop) -> bool:
    return len((await made.get("/shipping/shipments"))["shipments"]) == len(NAMES)
