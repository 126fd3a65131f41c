"""Inventory: sets pieces aside for orders, and never more than there are."""

from collections import Counter
from typing import Any

from minuet import Database, NotFound, Service
from minuet_shop.catalogue import PIECES, PRICES
from minuet_shop.contracts import (
    AlreadyReleased,
    GetStock,
    InventoryReleased,
    InventoryReserved,
    ListReservations,
    ListStock,
    OutOfStock,
    ReleaseInventory,
    ReservationPage,
    ReservationView,
    ReserveInventory,
    SetStock,
    StockHeld,
    StockPage,
    StockSet,
    StockView,
)
from minuet_shop.tables import begin_with, from_json, page, to_json

SCHEMA = """
CREATE TABLE IF NOT EXISTS stock (
    item TEXT NOT NULL PRIMARY KEY,
    on_hand INTEGER NOT NULL,
    reserved INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS reservations (
    order_id TEXT NOT NULL PRIMARY KEY,
    items TEXT NOT NULL,
    status TEXT NOT NULL
);
""" + begin_with("stock", [{"item": item, "on_hand": PIECES, "reserved": 0} for item in PRICES])

# Each looks and acts in one statement, so that nobody can come between.
TAKE = """
UPDATE stock SET reserved = reserved + :pieces
WHERE item = :item AND on_hand - reserved >= :pieces
"""
PUT_BACK = "UPDATE stock SET reserved = reserved - :pieces WHERE item = :item"
COUNT = "UPDATE stock SET on_hand = :pieces WHERE item = :item AND reserved <= :pieces"
NEW_SHELF = "INSERT INTO stock (item, on_hand, reserved) VALUES (:item, :pieces, 0) ON CONFLICT DO NOTHING"
SHELVES = "SELECT item, on_hand, reserved, on_hand - reserved AS available FROM stock"
SHELF = f"{SHELVES} WHERE item = :item"

NEW_RESERVATION = """
INSERT INTO reservations (order_id, items, status) VALUES (:order_id, :items, :status)
ON CONFLICT DO NOTHING
"""
RESERVATIONS = "SELECT order_id, items, status FROM reservations"
RESERVATION = f"{RESERVATIONS} WHERE order_id = :order_id"
RELEASE = """
UPDATE reservations SET status = 'RELEASED'
WHERE order_id = :order_id AND status = 'RESERVED'
RETURNING items
"""

inventory = Service("inventory", schema=SCHEMA)


@inventory.handles(ReserveInventory)
def reserve(command: ReserveInventory, db: Database) -> InventoryReserved | OutOfStock | AlreadyReleased:
    """Set aside one piece of each item, or refuse the whole order."""
    items = to_json(command.items)
    if db.execute(NEW_RESERVATION, order_id=command.order_id, items=items, status="RESERVED") == 0:
        (known,) = db.all(RESERVATION, order_id=command.order_id)
        if known["status"] == "RELEASED":
            return AlreadyReleased(order_id=command.order_id)
        return InventoryReserved(order_id=command.order_id, reserved_items=from_json(known["items"]))
    # In the order of their names, so that two orders never wait for each other's shelves.
    for item, pieces in sorted(Counter(command.items).items()):
        if db.execute(TAKE, item=item, pieces=pieces) == 0:
            return OutOfStock(order_id=command.order_id, item=item)
    return InventoryReserved(order_id=command.order_id, reserved_items=command.items)


@inventory.handles(ReleaseInventory)
def release(command: ReleaseInventory, db: Database) -> InventoryReleased:
    """Put back what the order has set aside. If that is nothing yet, it will get nothing later."""
    released = db.one(RELEASE, order_id=command.order_id)
    if released is None:
        db.execute(NEW_RESERVATION, order_id=command.order_id, items=to_json([]), status="RELEASED")
    else:
        for item, pieces in sorted(Counter(from_json(released["items"])).items()):
            db.execute(PUT_BACK, item=item, pieces=pieces)
    return InventoryReleased(order_id=command.order_id)


@inventory.handles(SetStock)
def set_stock(command: SetStock, db: Database) -> StockSet | StockHeld:
    """Say how many pieces there are; not fewer than are reserved."""
    counted = db.execute(COUNT, item=command.item, pieces=command.on_hand) == 1
    if not counted and db.execute(NEW_SHELF, item=command.item, pieces=command.on_hand) == 0:
        return StockHeld(item=command.item, reserved=_stock(command.item, db).reserved)
    return StockSet(item=command.item, on_hand=command.on_hand)


@inventory.answers(GetStock)
def get_stock(query: GetStock, db: Database) -> StockView:
    return _stock(query.item, db)


@inventory.answers(ListStock)
def list_stock(query: ListStock, db: Database) -> StockPage:
    stock, after = page(db, SHELVES, StockView, key="item", after=query.after, limit=query.limit)
    return StockPage(stock=stock, after=after)


@inventory.answers(ListReservations)
def list_reservations(query: ListReservations, db: Database) -> ReservationPage:
    reservations, after = page(
        db, RESERVATIONS, _reservation, key="order_id", after=query.after, limit=query.limit, order_id=query.order_id
    )
    return ReservationPage(reservations=reservations, after=after)


def _stock(item: str, db: Database) -> StockView:
    row = db.one(SHELF, item=item)
    if row is None:
        raise NotFound(f"there is no item {item}")
    return StockView(**row)


def _reservation(*, items: str, **columns: Any) -> ReservationView:
    return ReservationView(items=from_json(items), **columns)
