"""Orders: takes them, prices them, and remembers how they ended."""

from collections import Counter
from decimal import Decimal
from typing import Any

from minuet import Database, NewId, NotFound, Service
from minuet_shop.catalogue import PRICES
from minuet_shop.contracts import (
    GetOrder,
    ImportOrder,
    ListOrders,
    OrderCreated,
    OrderExists,
    OrderPage,
    OrderPriced,
    OrderStatusUpdated,
    OrderView,
    PlaceOrder,
    UnknownItem,
    UpdateOrderStatus,
)
from minuet_shop.tables import begin_with, from_cents, from_json, page, to_cents, to_json

# Prices and amounts are in cents.
SCHEMA = """
CREATE TABLE IF NOT EXISTS price_list (
    item TEXT NOT NULL PRIMARY KEY,
    price BIGINT NOT NULL
);
CREATE TABLE IF NOT EXISTS orders (
    order_id TEXT NOT NULL PRIMARY KEY,
    customer_id TEXT NOT NULL,
    items TEXT NOT NULL,
    amount BIGINT NOT NULL,
    status TEXT NOT NULL,
    reason TEXT
);
CREATE INDEX IF NOT EXISTS orders_by_status ON orders (status, order_id);
""" + begin_with("price_list", [{"item": item, "price": to_cents(price)} for item, price in PRICES.items()])

PRICE = "SELECT price FROM price_list WHERE item = :item"
NEW_ORDER = """
INSERT INTO orders (order_id, customer_id, items, amount, status)
VALUES (:order_id, :customer_id, :items, :amount, 'PENDING')
ON CONFLICT DO NOTHING
"""
ORDERS = "SELECT order_id, customer_id, items, amount, status, reason FROM orders"
ORDER = f"{ORDERS} WHERE order_id = :order_id"
END = """
UPDATE orders SET status = :status, reason = :reason
WHERE order_id = :order_id AND status = 'PENDING'
"""

orders = Service("orders", schema=SCHEMA)


@orders.handles(PlaceOrder)
def place(
    command: PlaceOrder, db: Database, new_id: NewId
) -> tuple[OrderCreated, OrderPriced] | UnknownItem | OrderExists:
    """Take the order at the prices of the list."""
    cents = 0
    for item, pieces in Counter(command.items).items():
        listed = db.one(PRICE, item=item)
        if listed is None:
            return UnknownItem(item=item)
        cents += pieces * listed["price"]
    return _take(db, command.order_id or f"ORD-{new_id}", command.customer_id, command.items, from_cents(cents))


@orders.handles(ImportOrder)
def take_in(command: ImportOrder, db: Database) -> tuple[OrderCreated, OrderPriced] | OrderExists:
    """Take the order at the prices it brings."""
    return _take(db, command.order_id, command.customer_id, command.items, command.amount)


def _take(
    db: Database, order_id: str, customer_id: str, items: list[str], amount: Decimal
) -> tuple[OrderCreated, OrderPriced] | OrderExists:
    """Write the order down. One that is there already with the same content is the same order."""
    content = {"customer_id": customer_id, "items": to_json(items), "amount": to_cents(amount)}
    if db.execute(NEW_ORDER, order_id=order_id, **content) == 0:
        known = _order(order_id, db)
        if (known.customer_id, known.items, known.amount) != (customer_id, items, amount):
            return OrderExists(order_id=order_id)
    return (
        OrderCreated(order_id=order_id, customer_id=customer_id, items=items),
        OrderPriced(order_id=order_id, customer_id=customer_id, items=items, amount=amount, status="PENDING"),
    )


@orders.handles(UpdateOrderStatus)
def end(command: UpdateOrderStatus, db: Database) -> OrderStatusUpdated:
    """Write down how the order ended, unless it has ended already; answer how it did."""
    if db.execute(END, order_id=command.order_id, status=command.status, reason=command.reason) == 1:
        return OrderStatusUpdated(order_id=command.order_id, status=command.status, reason=command.reason)
    known = _order(command.order_id, db)
    return OrderStatusUpdated(order_id=known.order_id, status=known.status, reason=known.reason)


@orders.answers(GetOrder)
def get_order(query: GetOrder, db: Database) -> OrderView:
    return _order(query.order_id, db)


@orders.answers(ListOrders)
def list_orders(query: ListOrders, db: Database) -> OrderPage:
    found, after = page(db, ORDERS, _view, key="order_id", after=query.after, limit=query.limit, status=query.status)
    return OrderPage(orders=found, after=after)


def _order(order_id: str, db: Database) -> OrderView:
    row = db.one(ORDER, order_id=order_id)
    if row is None:
        raise NotFound(f"there is no order {order_id}")
    return _view(**row)


def _view(*, items: str, amount: int, **columns: Any) -> OrderView:
    return OrderView(items=from_json(items), amount=from_cents(amount), **columns)
