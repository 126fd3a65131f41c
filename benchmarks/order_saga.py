"""The order saga that every contender runs, in minuet: reserve, charge, ship, set the status; one row for each.

It is the saga of the reference system without the world outside: what is compared is what the frameworks cost, so that
the steps do what the peers' steps do, and nothing else. Refusals and undos are declared and never needed. Each event
has a channel of its own, as it has a topic of its own with the peers.
"""

from __future__ import annotations

from benchmarks.harness import STEPS, TABLE
from minuet import App, Command, Database, Event, Now, Refusal, Saga, Service, step

SAGA = "Order"


class OrderPlaced(Event, channel="orders.placed"):
    order_id: str
    customer_id: str
    sku: str
    quantity: int
    amount_cents: int
    currency: str
    address: str


class Place(Command, service="orders", http="POST /orders", key="order_id", answers=(OrderPlaced,)):
    order_id: str
    customer_id: str
    sku: str
    quantity: int
    amount_cents: int
    currency: str
    address: str


class Reserved(Event, channel="inventory.reserved"):
    order_id: str


class SoldOut(Refusal, channel="inventory.refused"):
    order_id: str


class Released(Event, channel="inventory.released"):
    order_id: str


class Charged(Event, channel="payment.charged"):
    order_id: str


class Declined(Refusal, channel="payment.refused"):
    order_id: str


class Refunded(Event, channel="payment.refunded"):
    order_id: str


class Shipped(Event, channel="shipping.shipped"):
    order_id: str


class NoAddress(Refusal, channel="shipping.refused"):
    order_id: str


class StatusSet(Event, channel="orders.status"):
    order_id: str


class Reserve(Command, service="inventory", http="POST /reserve", key="order_id", answers=(Reserved, SoldOut)):
    order_id: str
    sku: str
    quantity: int


class Release(Command, service="inventory", http="POST /release", key="order_id", answers=(Released,)):
    order_id: str


class Charge(Command, service="payment", http="POST /charge", key="order_id", answers=(Charged, Declined)):
    order_id: str
    sku: str
    amount_cents: int
    currency: str


class Refund(Command, service="payment", http="POST /refund", key="order_id", answers=(Refunded,)):
    order_id: str


class Ship(Command, service="shipping", http="POST /ship", key="order_id", answers=(Shipped, NoAddress)):
    order_id: str
    sku: str
    address: str


class SetStatus(Command, service="orders", http="POST /status", key="order_id", answers=(StatusSet,)):
    order_id: str
    sku: str


class Cancel(Command, service="orders", http="POST /cancel", key="order_id", answers=(StatusSet,)):
    order_id: str


def table(name: str) -> str:
    return TABLE.format(table=f"IF NOT EXISTS {name}") + ";"


INVENTORY, PAYMENT, SHIPPING, STATUS = (
    f"INSERT INTO {name} (order_id, detail, created) VALUES (:order_id, :detail, :created) ON CONFLICT DO NOTHING"
    for name in STEPS
)

inventory = Service("inventory", schema=table("inventory"))
payment = Service("payment", schema=table("payment"))
shipping = Service("shipping", schema=table("shipping"))
orders = Service("orders", schema=table("order_status"))


@orders.handles(Place)
def place(command: Place) -> OrderPlaced:
    return OrderPlaced(**dict(command))


@inventory.handles(Reserve)
def reserve(command: Reserve, db: Database, now: Now) -> Reserved | SoldOut:
    db.execute(INVENTORY, order_id=command.order_id, detail=command.sku, created=now)
    return Reserved(order_id=command.order_id)


@inventory.handles(Release)
def release(command: Release, db: Database) -> Released:
    db.execute("DELETE FROM inventory WHERE order_id = :order_id", order_id=command.order_id)
    return Released(order_id=command.order_id)


@payment.handles(Charge)
def charge(command: Charge, db: Database, now: Now) -> Charged | Declined:
    db.execute(PAYMENT, order_id=command.order_id, detail=command.sku, created=now)
    return Charged(order_id=command.order_id)


@payment.handles(Refund)
def refund(command: Refund, db: Database) -> Refunded:
    db.execute("DELETE FROM payment WHERE order_id = :order_id", order_id=command.order_id)
    return Refunded(order_id=command.order_id)


@shipping.handles(Ship)
def ship(command: Ship, db: Database, now: Now) -> Shipped | NoAddress:
    db.execute(SHIPPING, order_id=command.order_id, detail=command.sku, created=now)
    return Shipped(order_id=command.order_id)


@orders.handles(SetStatus)
def set_status(command: SetStatus, db: Database, now: Now) -> StatusSet:
    db.execute(STATUS, order_id=command.order_id, detail=command.sku, created=now)
    return StatusSet(order_id=command.order_id)


@orders.handles(Cancel)
def cancel(command: Cancel) -> StatusSet:
    return StatusSet(order_id=command.order_id)


app = App(
    "bench",
    services=[orders, inventory, payment, shipping],
    sagas=[
        Saga(
            SAGA,
            begins_with=OrderPlaced,
            key="order_id",
            steps=[step(Reserve, undo=Release), step(Charge, undo=Refund), step(Ship)],
            completed=SetStatus,
            compensated=Cancel,
        )
    ],
)
