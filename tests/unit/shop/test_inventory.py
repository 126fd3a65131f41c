import pytest

from minuet import Database, NotFound
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
    ReserveInventory,
    SetStock,
    StockHeld,
    StockSet,
)
from minuet_shop.inventory import (
    get_stock,
    inventory,
    list_reservations,
    list_stock,
    release,
    reserve,
    set_stock,
)
from tests.unit.shop.conftest import DatabaseOf


@pytest.fixture
def db(database_of: DatabaseOf) -> Database:
    return database_of(inventory)


def stock(db: Database, item: str) -> tuple[int, int, int]:
    view = get_stock(GetStock(item=item), db)
    return view.on_hand, view.reserved, view.available


def test_the_shop_opens_with_stock_of_everything_it_sells(db: Database) -> None:
    shelves = list_stock(ListStock(), db).stock
    assert {shelf.item: shelf.available for shelf in shelves} == dict.fromkeys(PRICES, PIECES)


def test_each_time_an_item_is_named_is_one_piece(db: Database) -> None:
    answer = reserve(ReserveInventory(order_id="A", items=["ITEM001", "ITEM005", "ITEM001"]), db)
    assert answer == InventoryReserved(order_id="A", reserved_items=["ITEM001", "ITEM005", "ITEM001"])
    assert stock(db, "ITEM001") == (PIECES, 2, PIECES - 2)
    assert stock(db, "ITEM005") == (PIECES, 1, PIECES - 1)


def test_an_order_reserves_once(db: Database) -> None:
    command = ReserveInventory(order_id="A", items=["ITEM001"])
    assert reserve(command, db) == reserve(command, db)
    assert stock(db, "ITEM001")[1] == 1


def test_the_last_pieces_go_to_whoever_comes_first(db: Database) -> None:
    set_stock(SetStock(item="RARE", on_hand=5), db)
    answers = []
    for number in range(10):
        db.execute("SAVEPOINT before")
        answers.append(reserve(ReserveInventory(order_id=f"O{number}", items=["RARE"]), db))
        if isinstance(answers[-1], OutOfStock):
            db.execute("ROLLBACK TO before")
        db.execute("RELEASE before")
    assert [type(answer) for answer in answers] == [InventoryReserved] * 5 + [OutOfStock] * 5
    assert stock(db, "RARE") == (5, 5, 0)
    assert len(list_reservations(ListReservations(), db).reservations) == 5


def test_what_was_never_there_is_out_of_stock(db: Database) -> None:
    assert reserve(ReserveInventory(order_id="A", items=["MOON"]), db) == OutOfStock(order_id="A", item="MOON")


def test_a_release_puts_everything_back_once(db: Database) -> None:
    reserve(ReserveInventory(order_id="A", items=["ITEM001", "ITEM001", "ITEM005"]), db)
    for _ in range(2):
        assert release(ReleaseInventory(order_id="A"), db) == InventoryReleased(order_id="A")
    assert stock(db, "ITEM001")[1] == stock(db, "ITEM005")[1] == 0


def test_a_release_that_comes_first_leaves_nothing_to_reserve(db: Database) -> None:
    release(ReleaseInventory(order_id="A"), db)
    assert reserve(ReserveInventory(order_id="A", items=["ITEM001"]), db) == AlreadyReleased(order_id="A")
    assert stock(db, "ITEM001")[1] == 0
    (left,) = list_reservations(ListReservations(order_id="A"), db).reservations
    assert (left.status, left.items) == ("RELEASED", [])


def test_stock_is_not_set_below_what_is_reserved(db: Database) -> None:
    assert set_stock(SetStock(item="RARE", on_hand=2), db) == StockSet(item="RARE", on_hand=2)
    reserve(ReserveInventory(order_id="A", items=["RARE", "RARE"]), db)
    assert set_stock(SetStock(item="RARE", on_hand=1), db) == StockHeld(item="RARE", reserved=2)
    assert set_stock(SetStock(item="RARE", on_hand=3), db) == StockSet(item="RARE", on_hand=3)
    assert stock(db, "RARE") == (3, 2, 1)


def test_an_item_without_a_shelf_is_not_found(db: Database) -> None:
    with pytest.raises(NotFound):
        get_stock(GetStock(item="MOON"), db)
