from decimal import Decimal

import pytest

from minuet import Database, NewId, NotFound
from minuet_shop.catalogue import PRICES
from minuet_shop.contracts import (
    GetOrder,
    ImportOrder,
    ListOrders,
    OrderCreated,
    OrderExists,
    OrderStatusUpdated,
    PlaceOrder,
    UnknownItem,
    UpdateOrderStatus,
)
from minuet_shop.orders import end, get_order, list_orders, orders, place, take_in
from tests.unit.shop.conftest import DatabaseOf

SEED = PlaceOrder(order_id="ORD12345", customer_id="CUST987", items=["ITEM001", "ITEM005"])


@pytest.fixture
def db(database_of: DatabaseOf) -> Database:
    return database_of(orders)


def test_the_seeds_order_costs_150_75(db: Database) -> None:
    created, priced = place(SEED, db, NewId("x"))
    assert created == OrderCreated(order_id="ORD12345", customer_id="CUST987", items=["ITEM001", "ITEM005"])
    assert (priced.amount, priced.status) == (Decimal("150.75"), "PENDING")
    view = get_order(GetOrder(order_id="ORD12345"), db)
    assert (view.amount, view.status, view.items) == (Decimal("150.75"), "PENDING", ["ITEM001", "ITEM005"])


def test_an_order_without_an_id_gets_one(db: Database) -> None:
    created, _ = place(PlaceOrder(customer_id="C", items=["ITEM003"]), db, NewId("7f"))
    assert created.order_id == "ORD-7f"


def test_an_item_named_twice_costs_twice(db: Database) -> None:
    _, priced = place(PlaceOrder(customer_id="C", items=["ITEM003", "ITEM003"]), db, NewId("x"))
    assert priced.amount == Decimal("10.00")


def test_an_unknown_item_is_refused(db: Database) -> None:
    assert place(PlaceOrder(customer_id="C", items=["ITEM001", "MOON"]), db, NewId("x")) == UnknownItem(item="MOON")


def test_the_same_order_again_is_the_same_order(db: Database) -> None:
    assert place(SEED, db, NewId("x")) == place(SEED, db, NewId("y"))
    assert len(list_orders(ListOrders(), db).orders) == 1


def test_another_order_with_its_id_is_refused(db: Database) -> None:
    place(SEED, db, NewId("x"))
    for changed in ({"customer_id": "OTHER"}, {"items": ["ITEM005", "ITEM001"]}, {"items": ["ITEM001"]}):
        assert place(SEED.model_copy(update=changed), db, NewId("y")) == OrderExists(order_id="ORD12345")


def test_an_imported_order_brings_its_own_prices(db: Database) -> None:
    imported = ImportOrder(order_id="A", customer_id="C", items=["MOON", "MOON"], prices=[Decimal(3), Decimal("2.50")])
    _, priced = take_in(imported, db)
    assert priced.amount == Decimal("5.50")
    assert take_in(imported.model_copy(update={"prices": [Decimal(1), Decimal(1)]}), db) == OrderExists(order_id="A")


def test_the_first_end_stays(db: Database) -> None:
    place(SEED, db, NewId("x"))
    cancelled = OrderStatusUpdated(order_id="ORD12345", status="CANCELLED", reason="no money")
    assert end(UpdateOrderStatus(order_id="ORD12345", status="CANCELLED", reason="no money"), db) == cancelled
    assert end(UpdateOrderStatus(order_id="ORD12345", status="CANCELLED", reason="other"), db) == cancelled
    assert end(UpdateOrderStatus(order_id="ORD12345", status="SHIPPED"), db) == cancelled
    assert get_order(GetOrder(order_id="ORD12345"), db).reason == "no money"


def test_an_order_that_nobody_placed_is_not_found(db: Database) -> None:
    with pytest.raises(NotFound):
        get_order(GetOrder(order_id="NONE"), db)
    with pytest.raises(NotFound):
        end(UpdateOrderStatus(order_id="NONE", status="SHIPPED"), db)


def test_pages_lead_to_every_order(db: Database) -> None:
    ids = [f"O{number}" for number in range(7)]
    for order_id in ids:
        place(PlaceOrder(order_id=order_id, customer_id="C", items=["ITEM003"]), db, NewId("x"))
    end(UpdateOrderStatus(order_id="O3", status="SHIPPED"), db)
    found, after = [], None
    while True:
        page = list_orders(ListOrders(limit=3, after=after), db)
        found += [order.order_id for order in page.orders]
        after = page.after
        if after is None:
            break
    assert found == ids
    assert [order.order_id for order in list_orders(ListOrders(status="SHIPPED"), db).orders] == ["O3"]
    assert list_orders(ListOrders(limit=7), db).after is None


def test_a_thousand_pieces_are_priced_to_the_cent(db: Database) -> None:
    items = [*PRICES] * 125
    _, priced = place(PlaceOrder(customer_id="C", items=items), db, NewId("x"))
    assert priced.amount == sum(map(PRICES.__getitem__, items)) == 125 * sum(PRICES.values())


def test_of_several_unknown_items_the_first_is_named(db: Database) -> None:
    items = ["ITEM001", "SUN", "ITEM001", "MOON", "SUN"]
    assert place(PlaceOrder(customer_id="C", items=items), db, NewId("x")) == UnknownItem(item="SUN")
