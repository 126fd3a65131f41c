"""The reference system with Temporal as its conductor: the ends, books and notes that it has with every other."""

from __future__ import annotations

import json
import subprocess
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from temporalio.client import Client

from minuet.adapters.temporal.address import parse
from minuet.adapters.temporal.values import workflow_id
from tests.acceptance.processes import GONE, MINUET, SEED_ITEMS, Shop, mixed, shipped_of, shop, until

pytestmark = [pytest.mark.server, pytest.mark.acceptance, pytest.mark.timeout(300)]


@pytest.fixture(params=["local", "http", "read_model"])
async def conducted(request: pytest.FixtureRequest, temporal_url: str, tmp_path: Path) -> AsyncIterator[Shop]:
    """One process for everything, or one for each service: then the conductor asks over HTTP. Or it looks into a read
    model of its own for what commands are built from."""
    config = f'[orchestration]\nengine = "{temporal_url}?task_queue=shop-{uuid.uuid4().hex[:10]}"\n'
    if request.param == "read_model":
        config += '[queries]\nGetOrder = "read_model"\n'
    async with shop(tmp_path, "orchestration", config=config) as made:
        await (made.start_apart() if request.param == "http" else made.start())
        yield made


@pytest.fixture
def prefix() -> str:
    """Workflows of all tests share a namespace."""
    return f"T{uuid.uuid4().hex[:8]}".upper()


async def _note(made: Shop, order_id: str) -> str:
    notes = (await made.get(f"/notifications?orderId={order_id}"))["notes"]
    return notes[0]["text"] if notes else ""


async def test_orders_of_every_kind_end_as_they_do_everywhere(conducted: Shop, prefix: str, temporal_url: str) -> None:
    await conducted.stock(GONE, 0)
    orders = mixed(prefix, 16)
    await conducted.place_all(orders)
    ended = await conducted.ended(*orders, within_s=120)

    expected = shipped_of(orders)
    assert {name for name, order in ended.items() if order.status == "SHIPPED"} == expected
    assert all(order.reason for order in ended.values() if order.status == "CANCELLED")
    await conducted.at_rest()
    books = await conducted.balanced()
    assert (books.shipped, books.cancelled) == (len(expected), len(orders) - len(expected))

    address = parse(temporal_url)
    client = await Client.connect(address.target, namespace=address.namespace)
    for name in orders:  # it was Temporal indeed
        end = await client.get_workflow_handle(workflow_id("OrderProcessing", name)).result()
        assert end == ("completed" if name in expected else "compensated")


async def test_what_is_refused_is_undone_and_the_customer_is_told_why(conducted: Shop, prefix: str) -> None:
    await conducted.stock("ITEM007", 0)
    cases = {
        "STOCK": ("CUST1", ["ITEM001", "ITEM007"], "ITEM007 is out of stock"),
        "DECLINED": ("DECLINE-1", SEED_ITEMS, "the card was declined"),
        "NOWHERE": ("NOADDRESS-1", SEED_ITEMS, "there is no such address"),
    }
    for name, (customer, items, _) in cases.items():
        await conducted.place(f"{prefix}-{name}", customer, items)
    ended = await conducted.ended(*(f"{prefix}-{name}" for name in cases), within_s=120)
    for name, (_, _, reason) in cases.items():
        order_id = f"{prefix}-{name}"
        assert (ended[order_id].status, ended[order_id].reason) == ("CANCELLED", reason)
        reserved = (await conducted.get(f"/inventory/reservations?orderId={order_id}"))["reservations"]
        assert all(one["status"] == "RELEASED" for one in reserved)
        paid = (await conducted.get(f"/payment/payments?orderId={order_id}"))["payments"]
        assert [one["status"] for one in paid] == (["REFUNDED"] if name == "NOWHERE" else [])
        assert (await conducted.get(f"/shipping/shipments?orderId={order_id}"))["shipments"] == []
        note = await until(lambda order_id=order_id: _note(conducted, order_id), what="the customer is told")
        assert reason in note


async def test_the_command_line_shows_a_saga_of_temporal(conducted: Shop, prefix: str) -> None:
    await conducted.place(prefix, "DECLINE-1", SEED_ITEMS)
    await conducted.ended(prefix, within_s=120)
    shown = subprocess.run(
        [MINUET, "sagas", "show", prefix, "--data", conducted.data, "--json"],
        capture_output=True,
        text=True,
        check=True,
        cwd=conducted.folder,
        env=dict(conducted.environment),
    )
    said = json.loads(shown.stdout)
    assert (said["status"], said["coordination"]) == ("compensated", "orchestration")
    assert said["waiting"] == []
