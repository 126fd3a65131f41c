"""The same orders and the same faults end in the same state, whatever conducts them, keeps them and asks for them.

The engine (our orchestrator, or Temporal), the stores (SQLite, PostgreSQL) and how participants are asked (in process,
over HTTP, by messages) are settings. Usually each of them is tried with some of the others; with
``ACCEPTANCE_GROUNDS=all`` each is tried with each.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import sqlite3
import uuid
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
import pytest

from tests.acceptance.grounds import PostgresDatabase
from tests.acceptance.processes import GONE, SEED_ITEMS, SERVICES, Shop, shop, until
from tests.servers import server_url

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(300)]

ENGINES = ("embedded", "temporal")
STORES = ("sqlite", "postgres")
PARTICIPANTS = ("local", "http", "commands")
WITHOUT_SERVERS = [("embedded", "sqlite", way) for way in PARTICIPANTS]
USUAL = [
    *WITHOUT_SERVERS,
    ("embedded", "postgres", "commands"),
    ("temporal", "sqlite", "http"),
    ("temporal", "postgres", "commands"),
]
ENDED_S = 120.0

REFUSALS = ("OutOfStock", "PaymentDeclined", "AddressRefused", "StepRefused")
SHAKY = {"failBefore": 0.2, "failAfter": 0.2, "latencyMs": 20}
SLOW = {"latencyMs": 1500}
POISON = "POISON"
"""Inventory cannot write down an order with this in its name: each attempt fails."""


class Setting(NamedTuple):
    engine: str
    stores: str
    participants: str


class Books(NamedTuple):
    """What all books say of an order in the end."""

    order: str
    reason: str
    stock: str
    payment: str
    charges: tuple[str, ...]
    shipment: str
    parcels: tuple[str, ...]


@dataclass(frozen=True)
class Case:
    """An order, and how it has to end.

    Attributes:
        told: by the participants, in their order: what was done, and what was undone.
        when: what happens meanwhile.
    """

    books: Books
    told: tuple[str, ...]
    customer: str = "CUST1"
    items: tuple[str, ...] = tuple(SEED_ITEMS)
    when: str = "shaky"


SHIPPED = Books("SHIPPED", "", "RESERVED", "PAID", ("kept",), "SHIPPED", ("kept",))
DONE = ("InventoryReserved", "PaymentProcessed", "OrderShipped", "OrderStatusUpdated")


def cancelled(reason: str, *, stock: str = "", payment: str = "", charges: tuple[str, ...] = ()) -> Books:
    return Books("CANCELLED", reason, stock, payment, charges, "", ())


CASES = {
    # The outside world fails now and then, before or after it did its work: nobody sees it.
    "GOOD1": Case(SHIPPED, DONE),
    "GOOD2": Case(SHIPPED, DONE, items=("ITEM002", "ITEM002")),
    "GOOD3": Case(SHIPPED, DONE),
    # Each step refuses.
    "SOLDOUT": Case(
        cancelled(f"{GONE} is out of stock"), ("OrderStatusUpdated",), items=(GONE,)
    ),
    "DECLINED": Case(
        cancelled("the card was declined", stock="RELEASED"),
        ("InventoryReserved", "InventoryReleased", "OrderStatusUpdated"),
        customer="DECLINE1",
    ),
    "NOWHERE": Case(
        cancelled("there is no such address", stock="RELEASED", payment="REFUNDED", charges=("refunded",)),
        (
            "InventoryReserved", "PaymentProcessed", "PaymentRefunded",
            "InventoryReleased", "OrderStatusUpdated",
        ),
        customer="NOADDRESS1",
    ),
    # A handler fails until nobody tries any more.
    POISON: Case(
        cancelled("inventory could not do its part: retries exhausted"),
        ("OrderStatusUpdated",),
    ),
    # The payment company takes its time; meanwhile the customer does not want it any more, or waits.
    "UNWANTED": Case(
        cancelled(
            "shipping could not do its part: cancelled", stock="RELEASED", payment="REFUNDED", charges=("refunded",)
        ),
        (
            "InventoryReserved", "PaymentProcessed", "PaymentRefunded",
            "InventoryReleased", "OrderStatusUpdated",
        ),
        when="slow",
    ),
    "PATIENT": Case(SHIPPED, DONE, when="slow"),
}  # fmt: skip


def settings() -> list[Any]:
    chosen = (
        itertools.product(ENGINES, STORES, PARTICIPANTS) if os.environ.get("ACCEPTANCE_GROUNDS") == "all" else USUAL
    )
    return [
        pytest.param(Setting(*one), id="-".join(one), marks=() if one in WITHOUT_SERVERS else (pytest.mark.server,))
        for one in chosen
    ]


@pytest.mark.parametrize("setting", settings())
async def test_the_same_orders_and_faults_end_the_same(setting: Setting, tmp_path: Path) -> None:
    engine = "embedded"
    if setting.engine == "temporal":
        engine = f"{server_url('temporal')}?task_queue=ends-{uuid.uuid4().hex[:10]}"
    # What is asked by a message and gets no answer is asked again: seldom, for nothing gets lost here.
    config = f'[orchestration]\nengine = "{engine}"\nparticipants = "{setting.participants}"\nask_again_s = 5.0\n'
    async with shop(tmp_path, "orchestration", f"{setting.stores}+embedded", config=config) as made:
        if setting.participants == "local":
            await made.start()
        else:
            await asyncio.gather(made.launch(*SERVICES, "sandbox").ready(), made.launch("orchestrator").ready())
        found = await _ends(made, f"E{uuid.uuid4().hex[:8]}-".upper())
        assert {name: books for name, (books, _) in found.items()} == {name: one.books for name, one in CASES.items()}
        assert {name: told for name, (_, told) in found.items()} == {name: one.told for name, one in CASES.items()}
        await made.at_rest()
        books = await made.balanced()
        assert (books.shipped, books.cancelled) == (4, 5)


async def _ends(made: Shop, prefix: str) -> dict[str, tuple[Books, tuple[str, ...]]]:
    """Place the orders, and do what is to be done meanwhile; how each ended."""
    await made.stock(GONE, 0)
    await asyncio.to_thread(_poison, made)
    await asyncio.gather(made.behave("gateway", seed=7, **SHAKY), made.behave("carrier", seed=8, **SHAKY))
    await made.place_all(_orders(prefix, "shaky"))
    await made.ended(
        *(f"{prefix}{name}" for name, one in CASES.items() if one.when == "shaky" and name != POISON), within_s=ENDED_S
    )

    await asyncio.gather(made.behave("gateway", **SLOW), made.behave("carrier", **SLOW))
    await made.place_all(_orders(prefix, "slow"))
    await until(lambda: _is_paying(made, f"{prefix}UNWANTED"), what="the payment company is asked")
    cancels = f"{made.url('orchestrator')}/sagas/{prefix}UNWANTED/cancel"
    answer = await made.ask("POST", cancels, {"who": "ada", "why": "by phone"})
    assert answer.status == 202, answer.text

    ended = await made.ended(*(f"{prefix}{name}" for name in CASES), within_s=ENDED_S)
    assert len(ended) == len(CASES)
    return {name: (await _books(made, f"{prefix}{name}"), await _told(made, f"{prefix}{name}")) for name in CASES}


def _orders(prefix: str, when: str) -> dict[str, tuple[str, tuple[str, ...]]]:
    return {f"{prefix}{name}": (one.customer, one.items) for name, one in CASES.items() if one.when == when}


def _poison(made: Shop) -> None:
    """Make a table of inventory's refuse an order, as a mistake in its code would."""
    if isinstance(made.ground.stores, PostgresDatabase):
        with psycopg.connect(made.ground.stores.url, autocommit=True) as connection:
            connection.execute(
                f"""CREATE FUNCTION inventory.poison() RETURNS TRIGGER LANGUAGE plpgsql AS
                    $$ BEGIN RAISE EXCEPTION 'poisoned'; END $$;
                CREATE TRIGGER poison BEFORE INSERT ON inventory.reservations FOR EACH ROW
                    WHEN (NEW.order_id LIKE '%{POISON}') EXECUTE FUNCTION inventory.poison()"""
            )
        return
    with closing(sqlite3.connect(made.data / "inventory.db", timeout=10)) as database:
        database.execute(
            f"""CREATE TRIGGER poison BEFORE INSERT ON reservations WHEN NEW.order_id LIKE '%{POISON}'
                BEGIN SELECT RAISE(ABORT, 'poisoned'); END"""
        )


async def _is_paying(made: Shop, order_id: str) -> bool:
    """Payment has begun, and waits for the payment company."""
    entries = await asyncio.to_thread(_entries, made, "payment", order_id)
    return any(state == "due" for state, *_ in entries)


async def _told(made: Shop, order_id: str) -> tuple[str, ...]:
    found: list[tuple[float, str]] = []
    for service in SERVICES:
        for _, answer, at in await asyncio.to_thread(_entries, made, service, order_id):
            found.append((at, json.loads(answer)["type"]))
    # Who refuses what nobody has begun, its service or the engine, is the engine's affair; what is done and undone is
    # not.
    return tuple(kind for _, kind in sorted(found) if kind not in REFUSALS)


def _entries(made: Shop, service: str, order_id: str) -> list[tuple[str, str, float]]:
    """What the service was asked for by the order's saga: its state, its answer's attributes, and when that was."""
    of_saga = f"FROM minuet_inbox WHERE saga_id = '{order_id}' AND handler NOT LIKE 'on/%'"
    query = f"SELECT state, answer_attributes, changed_at {of_saga}"
    if isinstance(made.ground.stores, PostgresDatabase):
        with psycopg.connect(made.ground.stores.url, options=f"-c search_path={service}") as connection:
            return connection.execute(query.encode()).fetchall()
    with closing(sqlite3.connect(f"file:{made.data / service}.db?mode=ro", uri=True, timeout=10)) as database:
        return database.execute(query).fetchall()


async def _books(made: Shop, order_id: str) -> Books:
    async def one_of(path: str, name: str) -> dict[str, Any]:
        rows = (await made.get(f"{path}?orderId={order_id}"))[name]
        assert len(rows) <= 1
        return rows[0] if rows else {}

    order = await made.get(f"/orders/{order_id}")
    reserved = await one_of("/inventory/reservations", "reservations")
    paid = await one_of("/payment/payments", "payments")
    shipment = await one_of("/shipping/shipments", "shipments")
    charges, parcels = await made.ledgers()
    return Books(
        order["status"],
        order.get("reason") or "",
        reserved.get("status", ""),
        paid.get("status", ""),
        tuple("refunded" if one.refunded else "kept" for one in charges.charges if one.order_id == order_id),
        shipment.get("status", ""),
        tuple("cancelled" if one.cancelled else "kept" for one in parcels.parcels if one.order_id == order_id),
    )
