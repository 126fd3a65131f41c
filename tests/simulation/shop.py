"""The reference system in a simulated world: what is ordered there, and what must hold whatever goes wrong."""

from __future__ import annotations

import asyncio
import json
from functools import partial
from typing import Any

from minuet import App
from minuet.testing.simulation import Simulation, World
from minuet_shop.audit import balance
from minuet_shop.contracts import (
    OrderView,
    PaymentView,
    PlaceOrder,
    ReservationView,
    SetStock,
    ShipmentView,
    StockView,
)
from minuet_shop.inventory import inventory
from minuet_shop.notifications import notifications
from minuet_shop.orders import orders
from minuet_shop.outside import Carrier, Charge, Gateway, Parcel
from minuet_shop.payment import payment
from minuet_shop.process import order_processing, order_view
from minuet_shop.shipping import shipping
from minuet_shop.tables import from_cents
from tests.simulation.outside import Bank, Courier

# Without the sandbox: here the world outside is simulated.
shop = App(
    "shop",
    services=[orders, inventory, payment, shipping, notifications],
    sagas=[order_processing],
    read_models=[order_view],
)
RARE, NONE = "ITEM008", "ITEM007"
RARE_PIECES = 3
CUSTOMERS = ("c1", "c2", "c3", "c4", "DECLINE1", "NOADDRESS1")
ITEMS = ("ITEM001", "ITEM002", "ITEM003", "ITEM004", "ITEM005", "ITEM006", RARE, RARE, NONE)
ORDERS_WITHIN_S = 15.0


def outside(world: World, *, is_reliable: bool = False) -> dict[type[Any], Any]:
    return {
        Gateway: Bank(world, "bank", is_reliable=is_reliable),
        Carrier: Courier(world, "courier", is_reliable=is_reliable),
    }


def shop_simulation(
    orders: int = 10, *, rare: bool = True, reliable: bool = False, app: App | None = None, **settings: Any
) -> Simulation:
    """So many orders, some of which cannot be delivered, paid or brought.

    Args:
        rare: whether an item is ordered of which there are not enough, so that it depends on chance who gets it.
        reliable: whether the world outside always answers. If it does not, it depends on chance which attempt is the
            last, and so whether a step is refused.
    """
    simulation = Simulation(app or shop, provided=partial(outside, is_reliable=reliable), **settings)

    @simulation.drive
    async def customers(world: World) -> None:
        await world.send(SetStock(item=RARE, on_hand=RARE_PIECES))
        await world.send(SetStock(item=NONE, on_hand=0))
        await asyncio.gather(*(order(world, number) for number in range(orders)))

    async def order(world: World, number: int) -> None:
        choose = world.random
        items = [choose.choice(ITEMS) for _ in range(choose.randint(1, 2))]
        wanted = PlaceOrder(
            order_id=f"o{number}",
            customer_id=choose.choice(CUSTOMERS),
            items=items if rare else [item for item in items if item != RARE] or ["ITEM001"],
        )
        await world.sleep(choose.uniform(0.0, ORDERS_WITHIN_S))
        await asyncio.gather(*(world.send(wanted) for _ in range(choose.choice((1, 1, 1, 2)))))

    simulation.always(of="inventory")(shelves_agree)
    simulation.always(of="payment")(nobody_pays_twice)
    simulation.always(of="orders")(ends_are_true)
    simulation.eventually(books_balance)
    simulation.eventually(customers_hear_once)
    return simulation


def shelves_agree(world: World) -> None:
    """Stock is never negative, and what is set aside is what orders hold."""
    held: dict[str, int] = {}
    for row in world.rows("inventory", "SELECT items FROM reservations WHERE status = 'RESERVED'"):
        for item in json.loads(row["items"]):
            held[item] = held.get(item, 0) + 1
    for row in world.rows("inventory", "SELECT item, on_hand, reserved FROM stock"):
        assert 0 <= row["reserved"] <= row["on_hand"], row
        assert row["reserved"] == held.get(row["item"], 0), row


def nobody_pays_twice(world: World) -> None:
    """Charges less refunds are nothing, or what the order costs."""
    bank = world.provided[Gateway]
    for charge in bank.done.values():
        charged = [one.amount for one in bank.of(charge.order_id)]
        assert len(charged) <= 1, (charge.order_id, charged)


def ends_are_true(world: World) -> None:
    """An order that is SHIPPED is paid and on its way, one that is CANCELLED is neither: at that very instant."""
    bank, courier = world.provided[Gateway], world.provided[Carrier]
    for row in world.rows("orders", "SELECT order_id, status, amount FROM orders WHERE status <> 'PENDING'"):
        order_id, goes = row["order_id"], row["status"] == "SHIPPED"
        total = from_cents(row["amount"])
        assert [one.amount for one in bank.of(order_id)] == ([total] if goes else []), (order_id, row["status"])
        assert len(courier.of(order_id)) == goes, (order_id, row["status"])


def books_balance(world: World) -> None:
    """The books of all services and of the world outside agree, and no order is left pending."""
    rows, bank, courier = world.rows, world.provided[Gateway], world.provided[Carrier]
    found = balance(
        orders=[
            OrderView(**(row | {"items": json.loads(row["items"]), "amount": from_cents(row["amount"])}))
            for row in rows("orders", "SELECT order_id, customer_id, items, amount, status FROM orders")
        ],
        stock=[
            StockView(**row)
            for row in rows("inventory", "SELECT item, on_hand, reserved, on_hand - reserved AS available FROM stock")
        ],
        reservations=[
            ReservationView(**(row | {"items": json.loads(row["items"])}))
            for row in rows("inventory", "SELECT order_id, items, status FROM reservations")
        ],
        payments=[
            PaymentView(**(row | {"amount": from_cents(row["amount"])}))
            for row in rows("payment", "SELECT order_id, amount, status FROM payments")
        ],
        shipments=[
            ShipmentView(**row) for row in rows("shipping", "SELECT order_id, tracking_number, status FROM shipments")
        ],
        charges=[
            Charge(
                charge_id=one.key,
                order_id=one.order_id,
                customer_id=one.customer_id,
                amount=one.amount,
                refunded=one.is_taken_back,
            )
            for one in bank.done.values()
        ],
        parcels=[
            Parcel(
                tracking_number=f"T-{one.order_id}",
                order_id=one.order_id,
                customer_id=one.customer_id,
                cancelled=one.is_taken_back,
            )
            for one in courier.done.values()
        ],
    )
    assert found.is_even, found.differences
    assert not found.pending, f"{found.pending} orders are pending"


def customers_hear_once(world: World) -> None:
    """Every customer has been told how his order ended."""
    told = {row["order_id"] for row in world.rows("notifications", "SELECT order_id FROM notes")}
    ordered = {row["order_id"] for row in world.rows("orders", "SELECT order_id FROM orders")}
    assert told == ordered, told ^ ordered
