from decimal import Decimal
from typing import Any

import pytest

from minuet import Service
from minuet.adapters.sqlite.schema import statements_of
from minuet_shop.catalogue import PIECES, PRICES
from minuet_shop.contracts import GetStock, ListStock, ReservationView, ReserveInventory, SetStock, StockView
from minuet_shop.inventory import get_stock, inventory, list_stock, reserve, set_stock
from minuet_shop.orders import orders
from minuet_shop.tables import begin_with, from_cents, from_json, page, to_cents, to_json
from tests.unit.shop.conftest import DatabaseOf

PEOPLE = """
CREATE TABLE people (name TEXT NOT NULL PRIMARY KEY, town TEXT NOT NULL, age INTEGER NOT NULL);
INSERT INTO people (name, town, age) VALUES ('Ann; :O''Hara', 'here', 40);
"""


@pytest.mark.parametrize("text", ["0.00", "0.01", "0.29", "1.15", "19.99", "150.75", "9999999.99", "9999999999.99"])
def test_money_is_kept_to_the_cent(text: str) -> None:
    assert to_cents(Decimal(text)) == int(text.replace(".", ""))
    assert str(from_cents(to_cents(Decimal(text)))) == text


@pytest.mark.parametrize(
    "items", [[], ["ITEM001", "ITEM005", "ITEM001"], ["it's", 'a "quoted" one', "\u00e9\u4e2d\U0001f3bb"]]
)
def test_items_come_back_in_their_order(items: list[str]) -> None:
    assert from_json(to_json(items)) == items


def test_a_table_begins_with_rows_and_keeps_those_it_has(database_of: DatabaseOf) -> None:
    rows: list[dict[str, str | int]] = [
        {"name": "Ann; :O'Hara", "town": "there", "age": 41},
        {"name": "Bob", "town": "-- 100% ':here'", "age": 30},
    ]
    db = database_of(Service("people", schema=PEOPLE + begin_with("people", rows)))
    assert [dict(row) for row in db.all("SELECT * FROM people ORDER BY name")] == [
        {"name": "Ann; :O'Hara", "town": "here", "age": 40},
        rows[1],
    ]


def test_a_schema_runs_at_each_start_and_changes_nothing_then(database_of: DatabaseOf) -> None:
    db = database_of(inventory)
    set_stock(SetStock(item="ITEM001", on_hand=7), db)
    set_stock(SetStock(item="ITEM002", on_hand=0), db)
    reserve(ReserveInventory(order_id="A", items=["ITEM001", "ITEM003"]), db)
    before = list_stock(ListStock(), db)
    for statement in statements_of(inventory.schema):
        db.execute(statement)
    assert list_stock(ListStock(), db) == before
    assert get_stock(GetStock(item="ITEM001"), db) == StockView(item="ITEM001", on_hand=7, reserved=1, available=6)
    assert get_stock(GetStock(item="ITEM004"), db).on_hand == PIECES


def test_the_price_list_is_the_catalogues(database_of: DatabaseOf) -> None:
    listed = database_of(orders).all("SELECT item, price FROM price_list")
    assert {row["item"]: from_cents(row["price"]) for row in listed} == PRICES


def test_pages_end_exactly_and_keep_to_what_is_asked_for(database_of: DatabaseOf) -> None:
    db = database_of(inventory)
    for number in range(6):
        reserve(ReserveInventory(order_id=f"O{number}", items=["ITEM001"]), db)
    db.execute("UPDATE reservations SET status = 'RELEASED' WHERE order_id = 'O2'")

    def ids(after: str | None, limit: int, status: str | None = None) -> tuple[list[str], str | None]:
        rows = "SELECT order_id, '[]' AS items, status FROM reservations"
        found, goes_on = page(db, rows, view, key="order_id", after=after, limit=limit, status=status)
        return [one.order_id for one in found], goes_on

    def view(*, items: str, **columns: Any) -> ReservationView:
        return ReservationView(items=from_json(items), **columns)

    assert ids(None, 2) == (["O0", "O1"], "O1")
    assert ids("O1", 4) == (["O2", "O3", "O4", "O5"], None)
    assert ids("O1", 3, "RESERVED") == (["O3", "O4", "O5"], None)
    assert ids("O1", 2, "RESERVED") == (["O3", "O4"], "O4")
    assert ids("O5", 2) == ([], None)
    assert ids(None, 2, "RESERVED' OR 'a' = 'a") == ([], None)
