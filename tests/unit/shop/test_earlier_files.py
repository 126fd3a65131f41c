"""Database files that the shop made when it still described its tables to SQLAlchemy: they go on as they are."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from decimal import Decimal
from pathlib import Path

import pytest

from minuet import Database, NewId, Service
from minuet_shop.contracts import (
    AlreadyReleased,
    GetOrder,
    GetStock,
    ImportOrder,
    InventoryReserved,
    ListNotes,
    ListOrders,
    ListPayments,
    ListReservations,
    ListShipments,
    NoteView,
    OrderExists,
    OrderShipped,
    OrderView,
    PaymentProcessed,
    PaymentRefunded,
    PaymentView,
    PlaceOrder,
    ReleaseInventory,
    ReservationView,
    ReserveInventory,
    SetStock,
    ShipmentCancelled,
    ShipmentView,
    StockSet,
    StockView,
)
from minuet_shop.inventory import get_stock, inventory, list_reservations, release, reserve, set_stock
from minuet_shop.notifications import list_notes, notifications, tell_shipped
from minuet_shop.orders import get_order, list_orders, orders, place, take_in
from minuet_shop.payment import list_payments, payment, record, record_refund
from minuet_shop.shipping import list_shipments, record_cancel, shipping
from tests.unit.shop.conftest import DatabaseOf

FILES = {
    "orders": """
        CREATE TABLE price_list (item VARCHAR NOT NULL, price BIGINT NOT NULL, PRIMARY KEY (item));
        CREATE TABLE orders (order_id VARCHAR NOT NULL, customer_id VARCHAR NOT NULL, items JSON NOT NULL,
            amount BIGINT NOT NULL, status VARCHAR NOT NULL, reason VARCHAR, PRIMARY KEY (order_id));
        CREATE INDEX orders_by_status ON orders (status, order_id);
        INSERT INTO price_list VALUES ('ITEM001', 10025), ('ITEM002', 1999), ('ITEM003', 500), ('ITEM004', 24990),
            ('ITEM005', 5050), ('ITEM006', 1245), ('ITEM007', 7400), ('ITEM008', 99);
        INSERT INTO orders VALUES
            ('OLD0', 'CUST987', '["ITEM001", "ITEM005", "ITEM001"]', 25100, 'SHIPPED', NULL),
            ('OLD1', 'C', '["ITEM001", "\\u00e9''x"]', 1000000009, 'CANCELLED', 'it is out of stock');
    """,
    "inventory": """
        CREATE TABLE stock (item VARCHAR NOT NULL, on_hand INTEGER NOT NULL, reserved INTEGER NOT NULL,
            PRIMARY KEY (item));
        CREATE TABLE reservations (order_id VARCHAR NOT NULL, items JSON NOT NULL, status VARCHAR NOT NULL,
            PRIMARY KEY (order_id));
        INSERT INTO stock VALUES ('ITEM001', 100000, 2), ('ITEM002', 100000, 0), ('ITEM003', 100000, 0),
            ('ITEM004', 100000, 0), ('ITEM005', 100000, 1), ('ITEM006', 100000, 0), ('ITEM007', 100000, 0),
            ('ITEM008', 7, 0);
        INSERT INTO reservations VALUES ('OLD0', '["ITEM001", "ITEM005", "ITEM001"]', 'RESERVED'),
            ('OLD1', '[]', 'RELEASED');
    """,
    "payment": """
        CREATE TABLE payments (order_id VARCHAR NOT NULL, amount BIGINT NOT NULL, status VARCHAR NOT NULL,
            PRIMARY KEY (order_id));
        INSERT INTO payments VALUES ('OLD0', 25100, 'PAID'), ('OLD2', 500, 'REFUNDED');
    """,
    "shipping": """
        CREATE TABLE shipments (order_id VARCHAR NOT NULL, tracking_number VARCHAR, status VARCHAR NOT NULL,
            PRIMARY KEY (order_id));
        INSERT INTO shipments VALUES ('OLD0', 'TRK998877', 'SHIPPED'), ('OLD2', NULL, 'CANCELLED');
    """,
    "notifications": """
        CREATE TABLE notes (order_id VARCHAR NOT NULL, text VARCHAR NOT NULL, PRIMARY KEY (order_id));
        INSERT INTO notes VALUES ('OLD0', 'Your order OLD0 is on its way: TRK998877.');
    """,
}
ITEMS = ["ITEM001", "ITEM005", "ITEM001"]


@pytest.fixture
def earlier(tmp_path: Path, database_of: DatabaseOf) -> Callable[[Service], Database]:
    def open_one(service: Service) -> Database:
        with closing(sqlite3.connect(tmp_path / f"{service.name}.db")) as file:
            file.executescript(FILES[service.name])
        return database_of(service)

    return open_one


def test_orders(earlier: DatabaseOf) -> None:
    db = earlier(orders)
    shipped, cancelled = list_orders(ListOrders(), db).orders
    assert shipped == OrderView(
        order_id="OLD0", customer_id="CUST987", items=ITEMS, amount=Decimal("251.00"), status="SHIPPED"
    )
    assert (cancelled.items, cancelled.amount) == (["ITEM001", "\u00e9'x"], Decimal("10000000.09"))
    assert list_orders(ListOrders(status="CANCELLED"), db).orders == [cancelled]

    same = PlaceOrder(order_id="OLD0", customer_id="CUST987", items=ITEMS)
    _, priced = place(same, db, NewId("x"))
    assert priced.amount == Decimal("251.00")
    assert place(same.model_copy(update={"items": ITEMS[:2]}), db, NewId("x")) == OrderExists(order_id="OLD0")
    prices = [Decimal("0.10"), Decimal("9999999.99")]
    _, priced = take_in(ImportOrder(order_id="OLD1", customer_id="C", items=cancelled.items, prices=prices), db)
    assert priced.amount == cancelled.amount
    place(same.model_copy(update={"order_id": "NEW"}), db, NewId("x"))
    assert get_order(GetOrder(order_id="NEW"), db).items == ITEMS


def test_inventory(earlier: DatabaseOf) -> None:
    db = earlier(inventory)
    assert get_stock(GetStock(item="ITEM008"), db) == StockView(item="ITEM008", on_hand=7, reserved=0, available=7)
    assert set_stock(SetStock(item="NEW", on_hand=3), db) == StockSet(item="NEW", on_hand=3)
    assert get_stock(GetStock(item="NEW"), db).reserved == 0
    held = ReserveInventory(order_id="OLD0", items=ITEMS)
    assert reserve(held, db) == InventoryReserved(order_id="OLD0", reserved_items=ITEMS)
    assert reserve(ReserveInventory(order_id="OLD1", items=ITEMS), db) == AlreadyReleased(order_id="OLD1")
    release(ReleaseInventory(order_id="OLD0"), db)
    assert get_stock(GetStock(item="ITEM001"), db).reserved == get_stock(GetStock(item="ITEM005"), db).reserved == 0
    assert list_reservations(ListReservations(), db).reservations == [
        ReservationView(order_id="OLD0", items=ITEMS, status="RELEASED"),
        ReservationView(order_id="OLD1", items=[], status="RELEASED"),
    ]


def test_payment(earlier: DatabaseOf) -> None:
    db = earlier(payment)
    record(PaymentProcessed(order_id="OLD2", amount=Decimal(5)), db)
    record_refund(PaymentRefunded(order_id="OLD0", amount=Decimal(251)), db)
    assert list_payments(ListPayments(), db).payments == [
        PaymentView(order_id="OLD0", amount=Decimal("251.00"), status="REFUNDED"),
        PaymentView(order_id="OLD2", amount=Decimal("5.00"), status="REFUNDED"),
    ]


def test_shipping(earlier: DatabaseOf) -> None:
    db = earlier(shipping)
    record_cancel(ShipmentCancelled(order_id="OLD0"), db)
    assert list_shipments(ListShipments(), db).shipments == [
        ShipmentView(order_id="OLD0", tracking_number="TRK998877", status="CANCELLED"),
        ShipmentView(order_id="OLD2", tracking_number=None, status="CANCELLED"),
    ]


def test_notifications(earlier: DatabaseOf) -> None:
    db = earlier(notifications)
    tell_shipped(OrderShipped(order_id="OLD0", tracking_number="TRK1"), db)
    assert list_notes(ListNotes(), db).notes == [
        NoteView(order_id="OLD0", text="Your order OLD0 is on its way: TRK998877.")
    ]
