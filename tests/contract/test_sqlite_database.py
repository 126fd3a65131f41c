"""What `minuet.Database` promises to handlers, on SQLite."""

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from minuet import Database
from minuet.adapters.sqlite import SqliteStore
from minuet.adapters.system import SystemIds
from minuet.core.errors import DefinitionError
from minuet.ports import Tx
from minuet.testing.store_contract.examples import Broken

SCHEMA = """
CREATE TABLE IF NOT EXISTS stock (item TEXT NOT NULL PRIMARY KEY, pieces BIGINT NOT NULL CHECK (pieces >= 0));
CREATE TABLE IF NOT EXISTS things (name TEXT NOT NULL PRIMARY KEY, thing BLOB);
INSERT INTO stock (item, pieces) VALUES ('first', 1) ON CONFLICT DO NOTHING;
"""
ADD = "INSERT INTO stock (item, pieces) VALUES (:item, :pieces)"
ADD_NEW = f"{ADD} ON CONFLICT DO NOTHING"
STOCK = "SELECT item, pieces FROM stock ORDER BY item"
KEEP = "INSERT INTO things (name, thing) VALUES (:name, :thing)"
THING = "SELECT thing FROM things WHERE name = :name"
WITH_RESULT = "INSERT INTO things (name) VALUES ('a'), ('b'), ('c') RETURNING name"
FAILS_HALFWAY = "SELECT abs(n) FROM (SELECT 1 AS n UNION ALL SELECT -9223372036854775807 - 1)"
LOSE = "INSERT OR ROLLBACK INTO stock (item, pieces) VALUES ('first', 1)"

Use = Callable[[Database], object]
Way = Callable[[Database, str], object]
WAYS: dict[str, Way] = {
    "execute": lambda db, statement: db.execute(statement),
    "one": lambda db, statement: db.one(statement),
    "all": lambda db, statement: db.all(statement),
}
each_way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(tmp_path / "service.db", ids=SystemIds(), schema=SCHEMA)
    await store.start()
    yield store
    await store.close()


def using(use: Use) -> Callable[[Tx], Any]:
    return lambda tx: use(tx.handle(Database))


async def within(store: SqliteStore, use: Use) -> Any:
    """What the use of the database returns, once it is committed."""
    return await store.transact(using(use))


async def items(store: SqliteStore) -> list[str]:
    return [row["item"] for row in await within(store, lambda db: db.all(STOCK))]


def adding(item: str) -> Callable[[Tx], Any]:
    return using(lambda db: db.execute(ADD, item=item, pieces=1))


# -- values ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        None,
        "",
        'it\'s :name -- and 100% "quoted"; %s %(name)s ? $1 \u00e9\u4e2d\U0001f3bb',
        b"",
        b"\x00\xff':name",
        0,
        2**31,
        2**63 - 1,
        -(2**63),
        0.1,
    ],
)
async def test_values_come_back_as_they_were(store: SqliteStore, value: Any) -> None:
    await within(store, lambda db: db.execute(KEEP, name="n", thing=value))
    row = await within(store, lambda db: db.one(THING, name="n"))
    assert row["thing"] == value
    assert type(row["thing"]) is type(value)


@pytest.mark.parametrize("value", [2**63, -(2**63) - 1, object(), [1]])
async def test_a_value_that_the_database_cannot_keep_is_an_error(store: SqliteStore, value: Any) -> None:
    with pytest.raises((OverflowError, sqlite3.Error)):
        await within(store, lambda db: db.execute(KEEP, name="n", thing=value))
    assert await within(store, lambda db: db.one(THING, name="n")) is None


async def test_a_value_is_not_a_part_of_the_text(store: SqliteStore) -> None:
    item = "'); DELETE FROM stock; --"
    await within(store, lambda db: db.execute(ADD, item=item, pieces=1))
    assert await items(store) == [item, "first"]


async def test_a_name_may_stand_in_several_places_and_be_any_name(store: SqliteStore) -> None:
    def use(db: Database) -> Any:
        row = db.one(
            "SELECT :statement AS a, :self AS b, :values AS c, :statement AS d",
            **{"statement": 1, "self": 2, "values": 3},
        )
        return row and dict(row)

    assert await within(store, use) == {"a": 1, "b": 2, "c": 3, "d": 1}


async def test_a_colon_in_a_string_a_name_or_a_comment_names_nothing(store: SqliteStore) -> None:
    statement = """
        SELECT ':a' AS text, 'it''s :b' AS ":c", :d AS d -- :e
        /* :f and 100% of 'them */
    """
    row = await within(store, lambda db: db.one(statement, d=1))
    assert dict(row) == {"text": ":a", ":c": "it's :b", "d": 1}


async def test_a_missing_name_is_an_error_and_a_surplus_one_is_not(store: SqliteStore) -> None:
    with pytest.raises(sqlite3.ProgrammingError, match="pieces"):
        await within(store, lambda db: db.execute(ADD, item="a"))
    assert await within(store, lambda db: db.execute(ADD, item="b", pieces=1, colour="red")) == 1
    assert await items(store) == ["b", "first"]


@each_way
async def test_values_without_a_name_and_several_statements_are_errors(store: SqliteStore, way: Way) -> None:
    for statement in ("SELECT ?", "DELETE FROM stock; DELETE FROM stock"):
        with pytest.raises((sqlite3.Error, sqlite3.Warning)):
            await within(store, lambda db, statement=statement: way(db, statement))  # type: ignore[misc]
    assert await items(store) == ["first"]


# -- results -----------------------------------------------------------------------------------------------------------


async def test_execute_says_how_many_rows_it_changed(store: SqliteStore) -> None:
    def use(db: Database) -> list[int]:
        return [
            db.execute(ADD, item="a", pieces=1),
            db.execute(ADD_NEW, item="a", pieces=2),
            db.execute(ADD_NEW, item="b", pieces=2),
            db.execute("UPDATE stock SET pieces = pieces + :more", more=1),
            db.execute("UPDATE stock SET pieces = 0 WHERE item = :item", item="none"),
            db.execute(f"{ADD} ON CONFLICT (item) DO UPDATE SET pieces = :pieces", item="a", pieces=9),
            db.execute("  -- all but one\n  UPDATE stock SET pieces = 5 WHERE item <> 'a' RETURNING item, pieces"),
            db.execute("DELETE FROM stock"),
            db.execute("DELETE FROM stock RETURNING item"),
            db.execute("WITH more AS (SELECT 'x' AS item) INSERT INTO stock SELECT item, 1 FROM more"),
            db.execute("WITH more AS (SELECT 'x' AS item) SELECT item FROM more"),
            db.execute(STOCK),
            db.execute("CREATE TABLE other (a INTEGER)"),
            db.execute("SAVEPOINT mine"),
        ]

    assert await within(store, use) == [1, 0, 1, 3, 0, 1, 2, 3, 0, 1, 0, 0, 0, 0]


async def test_one_is_the_first_row_or_none(store: SqliteStore) -> None:
    def use(db: Database) -> None:
        for item in "cab":
            db.execute(ADD, item=item, pieces=1)
        first = db.one(STOCK)
        assert first is not None
        assert first["item"] == "a"
        assert db.one("SELECT item FROM stock WHERE item = :item", item="none") is None
        assert db.one(ADD_NEW, item="a", pieces=1) is None

    await within(store, use)


async def test_what_a_statement_returns_is_what_it_changed(store: SqliteStore) -> None:
    def use(db: Database) -> None:
        added = db.one(f"{ADD} RETURNING pieces + 1 AS more, item", item="a", pieces=2)
        assert added is not None
        assert dict(added) == {"more": 3, "item": "a"}
        assert db.one(f"{ADD_NEW} RETURNING item", item="a", pieces=2) is None
        changed = db.all("UPDATE stock SET pieces = pieces + 1 WHERE item <> :item RETURNING item", item="none")
        assert sorted(row["item"] for row in changed) == ["a", "first"]
        assert db.one("DELETE FROM stock RETURNING item") is not None

    await within(store, use)
    assert await items(store) == [], "all that the statement was about, not only what was looked at"


async def test_rows_have_their_columns_by_name(store: SqliteStore) -> None:
    def named(**columns: Any) -> dict[str, Any]:
        return columns

    rows = await within(store, lambda db: db.all("SELECT item, pieces * 2 AS twice, NULL AS empty FROM stock"))
    (row,) = rows
    assert (len(rows), rows[0]["item"]) == (1, "first")
    assert (row["item"], row["twice"], row["empty"]) == ("first", 2, None)
    assert [*row.keys()] == ["item", "twice", "empty"]
    assert dict(row) == {**row} == named(**row) == {"item": "first", "twice": 2, "empty": None}
    with pytest.raises(LookupError):
        row["pieces"]
    assert [*await within(store, lambda db: db.all("SELECT item FROM stock WHERE FALSE"))] == []


@each_way
@pytest.mark.parametrize("statement", [STOCK, WITH_RESULT, FAILS_HALFWAY])
async def test_results_are_read_to_the_end_so_that_nothing_stays_open(
    store: SqliteStore, way: Way, statement: str
) -> None:
    def drop(tx: Tx) -> None:
        tx.handle(sqlite3.Connection).execute("DROP TABLE stock")  # SQLite refuses while anybody reads anything

    def half_read(tx: Tx) -> None:
        left_open = tx.handle(sqlite3.Connection).execute(STOCK)
        assert left_open.fetchone()
        drop(tx)

    def use(tx: Tx) -> None:
        with contextlib.suppress(sqlite3.OperationalError):
            way(tx.handle(Database), statement)
        drop(tx)

    await within(store, lambda db: [db.execute(ADD, item=item, pieces=1) for item in "abc"])
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        await store.transact(half_read)
    await store.transact(use)


async def test_rows_may_be_changed_while_one_goes_through_them(store: SqliteStore) -> None:
    def use(db: Database) -> None:
        for number in range(5):
            db.execute(ADD, item=f"i{number}", pieces=number)
        for row in db.all(STOCK):
            db.execute("DELETE FROM stock WHERE item = :item", item=row["item"])
            db.execute(ADD, item=f"new {row['item']}", pieces=row["pieces"])

    await within(store, use)
    assert await items(store) == ["new first", *(f"new i{number}" for number in range(5))]


# -- the transaction ---------------------------------------------------------------------------------------------------


async def test_an_error_undoes_what_this_work_wrote_and_no_more(store: SqliteStore) -> None:
    def lost(tx: Tx) -> None:
        adding("lost")(tx)
        raise Broken

    def refused(tx: Tx) -> None:
        adding("lost")(tx)
        tx.handle(Database).execute(ADD, item="refused", pieces=-1)

    works = [adding("a"), lost, adding("b"), refused, adding("c")]
    ends = await asyncio.gather(*map(store.transact, works), return_exceptions=True)
    assert [type(end) for end in ends] == [int, Broken, int, sqlite3.IntegrityError, int]
    assert await items(store) == ["a", "b", "c", "first"]


async def test_an_error_that_is_caught_leaves_what_was_written_before(store: SqliteStore) -> None:
    def use(tx: Tx) -> None:
        adding("kept")(tx)
        with pytest.raises(sqlite3.IntegrityError):
            adding("first")(tx)
        with contextlib.suppress(Broken), tx.savepoint():
            adding("lost")(tx)
            raise Broken
        adding("kept too")(tx)

    await store.transact(use)
    assert await items(store) == ["first", "kept", "kept too"]


@each_way
@pytest.mark.parametrize(
    "statement",
    [
        "COMMIT",
        "  end transaction",
        "ROLLBACK",
        "BEGIN",
        "BEGIN IMMEDIATE",
        "SAVEPOINT minuet",
        "RELEASE minuet",
        "ROLLBACK TO minuet",
        "PRAGMA journal_mode = DELETE",
        "PRAGMA synchronous = OFF",
    ],
)
async def test_a_statement_that_ends_the_transaction_is_refused(store: SqliteStore, way: Way, statement: str) -> None:
    def work(tx: Tx) -> None:
        adding("lost")(tx)
        way(tx.handle(Database), statement)

    with pytest.raises(DefinitionError, match="minuet commits"):
        await store.transact(work)
    ends = await asyncio.gather(*map(store.transact, (adding("a"), work, adding("b"))), return_exceptions=True)
    assert isinstance(ends[1], DefinitionError)
    assert await items(store) == ["a", "b", "first"]


async def test_savepoints_of_ones_own_are_no_end(store: SqliteStore) -> None:
    def use(db: Database) -> None:
        db.execute("SAVEPOINT mine")
        db.execute(ADD, item="lost", pieces=1)
        db.execute("ROLLBACK TO mine")
        db.execute("RELEASE mine")
        db.execute(ADD, item="kept", pieces=1)

    await within(store, use)
    assert await items(store) == ["first", "kept"]


@each_way
async def test_after_the_database_rolled_back_by_itself_nothing_more_is_done(store: SqliteStore, way: Way) -> None:
    def work(tx: Tx) -> str:
        adding("lost")(tx)
        db = tx.handle(Database)
        with pytest.raises(sqlite3.IntegrityError):
            way(db, LOSE)
        for after in ("SELECT 1", "INSERT INTO stock (item, pieces) VALUES ('alone', 1)"):
            with pytest.raises(sqlite3.OperationalError, match="rolled the transaction back"):
                way(db, after)
        return "as if nothing had happened"

    with pytest.raises(sqlite3.OperationalError, match="ended the transaction"):
        await store.transact(work)
    works = [adding("a"), work, adding("b")]
    ends = await asyncio.gather(*map(store.transact, works), return_exceptions=True)
    assert isinstance(ends[1], sqlite3.OperationalError)
    kept = [item for item, end in zip("ab", (ends[0], ends[2]), strict=True) if end == 1]
    assert "b" in kept
    assert await items(store) == [*kept, "first"]


async def test_it_is_in_the_transaction_of_the_other_handles(store: SqliteStore) -> None:
    def use(tx: Tx) -> Any:
        adding("a")(tx)
        tx.handle(sqlite3.Connection).execute("INSERT INTO stock VALUES ('b', 1)")
        return tx.handle(sqlite3.Connection).execute("SELECT COUNT(*) FROM stock").fetchone()

    assert await store.transact(use) == (3,)
    assert await items(store) == ["a", "b", "first"]


async def test_what_is_read_without_writing_needs_no_commit(store: SqliteStore) -> None:
    before = store.commits
    rows = await store.transact(using(lambda db: db.all(STOCK)), reads_only=True)
    assert [row["item"] for row in rows] == ["first"]
    assert store.commits == before
