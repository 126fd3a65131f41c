"""Inventory: sets pieces aside for orders, and never more than there are."""

from collections import Counter

from sqlalchemy import JSON, Column, Connection, Integer, MetaData, String, Table, bindparam, select, update

from minuet import NotFound, Service
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
from minuet_shop.tables import begin_with, insert_new, page

schema = MetaData()
shelves = Table(
    "stock",
    schema,
    Column("item", String, primary_key=True),
    Column("on_hand", Integer, nullable=False),
    Column("reserved", Integer, nullable=False, default=0),
)
reservations = Table(
    "reservations",
    schema,
    Column("order_id", String, primary_key=True),
    Column("items", JSON, nullable=False),
    Column("status", String, nullable=False),
)
begin_with(shelves, [{"item": item, "on_hand": PIECES} for item in PRICES])

# Each looks and acts in one statement, so that nobody can come between.
IS_ITEM = shelves.c.item == bindparam("the_item")
PIECES_WANTED = bindparam("pieces", type_=Integer)
TAKE = (
    update(shelves)
    .where(IS_ITEM, shelves.c.on_hand - shelves.c.reserved >= PIECES_WANTED)
    .values(reserved=shelves.c.reserved + PIECES_WANTED)
)
PUT_BACK = update(shelves).where(IS_ITEM).values(reserved=shelves.c.reserved - PIECES_WANTED)
COUNT = update(shelves).where(IS_ITEM, shelves.c.reserved <= PIECES_WANTED).values(on_hand=PIECES_WANTED)
NEW_SHELF = insert_new(shelves)
SHELF = select(*shelves.c, (shelves.c.on_hand - shelves.c.reserved).label("available"))
ONE_SHELF = SHELF.where(IS_ITEM)

NEW_RESERVATION = insert_new(reservations)
RESERVATION = select(reservations).where(reservations.c.order_id == bindparam("order_id"))
RELEASE = (
    update(reservations)
    .where(reservations.c.order_id == bindparam("the_order"), reservations.c.status == "RESERVED")
    .values(status="RELEASED")
    .returning(reservations.c["items"])
)

inventory = Service("inventory", schema=schema)


@inventory.handles(ReserveInventory)
def reserve(command: ReserveInventory, db: Connection) -> InventoryReserved | OutOfStock | AlreadyReleased:
    """Set aside one piece of each item, or refuse the whole order."""
    wanted = {"order_id": command.order_id, "items": command.items, "status": "RESERVED"}
    if db.execute(NEW_RESERVATION, wanted).rowcount == 0:
        known = db.execute(RESERVATION, {"order_id": command.order_id}).one()
        if known.status == "RELEASED":
            return AlreadyReleased(order_id=command.order_id)
        return InventoryReserved(order_id=command.order_id, reserved_items=known.items)
    # In the order of their names, so that two orders never wait for each other's shelves.
    for item, pieces in sorted(Counter(command.items).items()):
        if db.execute(TAKE, {"the_item": item, "pieces": pieces}).rowcount == 0:
            return OutOfStock(order_id=command.order_id, item=item)
    return InventoryReserved(order_id=command.order_id, reserved_items=command.items)


@inventory.handles(ReleaseInventory)
def release(command: ReleaseInventory, db: Connection) -> InventoryReleased:
    """Put back what the order has set aside. If that is nothing yet, it will get nothing later."""
    released = db.execute(RELEASE, {"the_order": command.order_id}).one_or_none()
    if released is None:
        db.execute(NEW_RESERVATION, {"order_id": command.order_id, "items": [], "status": "RELEASED"})
    else:
        for item, pieces in sorted(Counter(released.items).items()):
            db.execute(PUT_BACK, {"the_item": item, "pieces": pieces})
    return InventoryReleased(order_id=command.order_id)


@inventory.handles(SetStock)
def set_stock(command: SetStock, db: Connection) -> StockSet | StockHeld:
    """Say how many pieces there are; not fewer than are reserved."""
    counted = db.execute(COUNT, {"the_item": command.item, "pieces": command.on_hand}).rowcount == 1
    if not counted and db.execute(NEW_SHELF, {"item": command.item, "on_hand": command.on_hand}).rowcount == 0:
        return StockHeld(item=command.item, reserved=_stock(command.item, db).reserved)
    return StockSet(item=command.item, on_hand=command.on_hand)


@inventory.answers(GetStock)
def get_stock(query: GetStock, db: Connection) -> StockView:
    return _stock(query.item, db)


@inventory.answers(ListStock)
def list_stock(query: ListStock, db: Connection) -> StockPage:
    rows, after = page(db, SHELF, shelves.c.item, after=query.after, limit=query.limit)
    return StockPage(stock=[StockView.model_validate(row, from_attributes=True) for row in rows], after=after)


@inventory.answers(ListReservations)
def list_reservations(query: ListReservations, db: Connection) -> ReservationPage:
    found = select(reservations)
    if query.order_id is not None:
        found = found.where(reservations.c.order_id == query.order_id)
    rows, after = page(db, found, reservations.c.order_id, after=query.after, limit=query.limit)
    views = [ReservationView.model_validate(row, from_attributes=True) for row in rows]
    return ReservationPage(reservations=views, after=after)


def _stock(item: str, db: Connection) -> StockView:
    row = db.execute(ONE_SHELF, {"the_item": item}).one_or_none()
    if row is None:
        raise NotFound(f"there is no item {item}")
    return StockView.model_validate(row, from_attributes=True)
