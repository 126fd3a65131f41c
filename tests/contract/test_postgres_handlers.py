"""The handles that PostgreSQL's store gives to handlers, and what they may not do with them."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import psycopg
import pytest
import sqlalchemy
from sqlalchemy import orm

from minuet.adapters.postgres import PostgresStore
from minuet.adapters.postgres.statements import ends_transaction, numbered, only_reads
from minuet.app import Database
from minuet.core.errors import ConfigurationError, DefinitionError, MinuetBug
from minuet.ports import Tx
from minuet.testing.store_contract.examples import Broken, adding, finding, sending
from tests.contract.postgres_server import fresh_schema, opening, running

pytestmark = pytest.mark.server


class Base(orm.DeclarativeBase):
    pass


class Stock(Base):
    __tablename__ = "stock"
    item: orm.Mapped[str] = orm.mapped_column(primary_key=True)
    quantity: orm.Mapped[int] = orm.mapped_column(sqlalchemy.CheckConstraint("quantity >= 0"))
    position: orm.Mapped[int] = orm.mapped_column(sqlalchemy.Identity())


INSERT = sqlalchemy.insert(Stock)


@pytest.fixture
def schema_name(postgres_url: str) -> Iterator[str]:
    with fresh_schema(postgres_url) as name:
        yield name


@pytest.fixture
async def store(postgres_url: str, schema_name: str) -> AsyncIterator[PostgresStore]:
    store = opening(postgres_url, schema_name, schema=Base.metadata)
    await store.start()
    yield store
    await store.close()


def database_of(tx: Tx) -> Database:
    found: Database = tx.handle(Database)
    return found


def driver_of(tx: Tx) -> psycopg.Connection[Any]:
    found: psycopg.Connection[Any] = tx.handle(psycopg.Connection)
    return found


def connection_of(tx: Tx) -> sqlalchemy.Connection:
    found: sqlalchemy.Connection = tx.handle(sqlalchemy.Connection)
    return found


def session_of(tx: Tx) -> orm.Session:
    found: orm.Session = tx.handle(orm.Session)
    return found


def stocking(item: str, quantity: int = 1) -> Callable[[Tx], int]:
    return running("INSERT INTO stock (item, quantity) VALUES (:item, :quantity)", item=item, quantity=quantity)


def adding_object(item: str, quantity: int = 1) -> Callable[[Tx], None]:
    return lambda tx: session_of(tx).add(Stock(item=item, quantity=quantity))


def inserting(item: str) -> Callable[[Tx], Any]:
    return lambda tx: connection_of(tx).execute(INSERT, {"item": item, "quantity": 1}).rowcount


def by_driver(item: str) -> Callable[[Tx], Any]:
    return lambda tx: driver_of(tx).execute("INSERT INTO stock (item, quantity) VALUES (%s, 1)", (item,)).rowcount


async def items(store: PostgresStore) -> list[str]:
    rows = await store.transact(lambda tx: database_of(tx).all("SELECT item FROM stock ORDER BY position"))
    return [row["item"] for row in rows]


def failing_with(work: Callable[[Tx], object]) -> Callable[[Tx], None]:
    def broken(tx: Tx) -> None:
        work(tx)
        raise Broken

    return broken


# What they are for


@pytest.mark.parametrize("way", [stocking, adding_object, inserting, by_driver])
async def test_a_handle_writes_in_the_stores_transaction(
    store: PostgresStore, way: Callable[[str], Callable[[Tx], object]]
) -> None:
    works = [way("a"), failing_with(way("lost")), way("b")]
    ends = await asyncio.gather(*map(store.transact, works), return_exceptions=True)
    assert [type(end) for end in ends if isinstance(end, Exception)] == [Broken]
    assert await items(store) == ["a", "b"]


async def test_rows_are_read_by_the_names_of_their_columns(store: PostgresStore) -> None:
    await store.transact(stocking("a", 7))

    def work(tx: Tx) -> tuple[Any, ...]:
        db = database_of(tx)
        one = db.one(
            "SELECT item, quantity FROM stock WHERE item = :item AND quantity::int = :quantity", item="a", quantity=7
        )
        return one and dict(one), db.one("SELECT item FROM stock WHERE item = ':item'"), db.execute("SELECT 1 AS x")

    assert await store.transact(work, reads_only=True) == ({"item": "a", "quantity": 7}, None, 1)


async def test_execute_tells_how_many_rows_were_changed(store: PostgresStore) -> None:
    await store.transact(stocking("a"))
    assert await store.transact(running("UPDATE stock SET quantity = quantity + :n", n=1)) == 1
    assert await store.transact(running("UPDATE stock SET quantity = 0 WHERE item = :item", item="z")) == 0


async def test_a_value_that_is_not_given_is_named(store: PostgresStore) -> None:
    with pytest.raises(psycopg.ProgrammingError, match=":item"):
        await store.transact(running("DELETE FROM stock WHERE item = :item"))


async def test_a_session_is_flushed_at_the_end_of_a_savepoint(store: PostgresStore) -> None:
    def work(tx: Tx) -> None:
        with tx.savepoint():
            adding_object("kept")(tx)
        with contextlib.suppress(Broken), tx.savepoint():
            adding_object("lost")(tx)
            raise Broken
        adding_object("kept too")(tx)

    await store.transact(work)
    assert sorted(await items(store)) == ["kept", "kept too"]


async def test_what_cannot_be_flushed_fails_the_work_and_the_next_one_works(store: PostgresStore) -> None:
    with pytest.raises(sqlalchemy.exc.IntegrityError):
        await store.transact(adding_object("a", -1))
    works = [adding_object("b"), adding_object("c", -1), adding_object("d")]
    ends = await asyncio.gather(*map(store.transact, works), return_exceptions=True)
    assert isinstance(ends[1], sqlalchemy.exc.IntegrityError)
    assert await items(store) == ["b", "d"]


async def test_a_session_forgets_its_objects_between_works(store: PostgresStore) -> None:
    await store.transact(adding_object("a"))

    def quantity(tx: Tx) -> int:
        found = session_of(tx).get(Stock, "a")
        assert found
        return found.quantity

    assert await store.transact(quantity) == 1
    await store.transact(running("UPDATE stock SET quantity = 7"))
    assert await store.transact(quantity) == 7


async def test_nested_transactions_work(store: PostgresStore) -> None:
    def work(tx: Tx) -> None:
        session, driver = session_of(tx), driver_of(tx)
        with session.begin_nested():
            session.add(Stock(item="a", quantity=1))
        with contextlib.suppress(Broken), session.begin_nested():
            session.add(Stock(item="lost", quantity=1))
            session.flush()
            raise Broken
        with driver.transaction():
            by_driver("b")(tx)
        with contextlib.suppress(psycopg.errors.UniqueViolation), driver.transaction():
            by_driver("b")(tx)
        driver.execute("SAVEPOINT mine")
        by_driver("lost")(tx)
        driver.execute("ROLLBACK TO mine")

    await store.transact(work)
    assert await items(store) == ["a", "b"]


async def test_an_error_that_is_caught_without_a_savepoint_fails_its_work_alone(store: PostgresStore) -> None:
    await store.transact(stocking("taken"))

    def careless(tx: Tx) -> str:
        stocking("lost")(tx)
        with contextlib.suppress(psycopg.errors.UniqueViolation):
            stocking("taken")(tx)
        return "done"

    works = [stocking("a"), careless, stocking("b")]
    ends = await asyncio.gather(*map(store.transact, works), return_exceptions=True)
    assert isinstance(ends[1], psycopg.errors.InFailedSqlTransaction)
    assert "savepoint" in str(ends[1])
    assert await items(store) == ["taken", "a", "b"]


async def test_a_savepoint_of_the_store_heals_a_failed_statement(store: PostgresStore) -> None:
    await store.transact(stocking("taken"))

    def careful(tx: Tx) -> str:
        with contextlib.suppress(psycopg.errors.UniqueViolation), tx.savepoint():
            stocking("taken")(tx)
        stocking("b")(tx)
        return "done"

    assert await store.transact(careful) == "done"
    assert await items(store) == ["taken", "b"]


async def test_what_handlers_ask_for_must_be_there(store: PostgresStore) -> None:
    with pytest.raises(
        ConfigurationError, match=r"no sqlalchemy\.engine\.base\.Engine .* it has minuet\.Database, psycopg"
    ):
        await store.transact(lambda tx: tx.handle(sqlalchemy.Engine))


async def test_what_only_reads_cannot_write(store: PostgresStore) -> None:
    for work in (stocking("a"), sending("m-1"), adding("e-1")):
        with pytest.raises(MinuetBug, match="read only"):
            await store.transact(work, reads_only=True)
    assert await items(store) == []
    assert await store.transact(lambda tx: tx.outbox.mine(10, 0)) == []


async def test_a_reader_that_fails_harms_none_of_its_neighbours(store: PostgresStore) -> None:
    await store.transact(adding("a"))
    wrong = running("SELECT nothing FROM nowhere")
    works: list[Callable[[Tx], object]] = [finding("a"), wrong, finding("a")]
    ends = await asyncio.gather(*(store.transact(one, reads_only=True) for one in works), return_exceptions=True)
    assert isinstance(ends[1], psycopg.errors.UndefinedTable)
    assert all(ends[place] for place in (0, 2))


async def test_a_commit_that_fails_harms_only_the_one_to_blame(store: PostgresStore) -> None:
    await store.transact(running("CREATE TABLE late (n int, CONSTRAINT once UNIQUE (n) DEFERRABLE INITIALLY DEFERRED)"))
    twice = running("INSERT INTO late VALUES (1), (1)")
    heard: list[Any] = []
    store.committed = heard.extend
    works = [stocking("a"), twice, sending("m-1"), stocking("b")]
    ends = await asyncio.gather(*map(store.transact, works), return_exceptions=True)
    assert isinstance(ends[1], psycopg.errors.UniqueViolation)
    assert await items(store) == ["a", "b"]
    assert len(heard) == 1


# What they must not do

REFUSED: list[Callable[[Tx], object]] = [
    lambda tx: database_of(tx).execute("COMMIT"),
    lambda tx: database_of(tx).execute("  rollback"),
    lambda tx: driver_of(tx).commit(),
    lambda tx: driver_of(tx).rollback(),
    lambda tx: driver_of(tx).close(),
    lambda tx: setattr(driver_of(tx), "autocommit", False),
    lambda tx: driver_of(tx).__enter__(),
    lambda tx: driver_of(tx).execute("COMMIT"),
    lambda tx: driver_of(tx).execute(b"/* so what */ end"),
    lambda tx: driver_of(tx).execute("SELECT 1; COMMIT; BEGIN"),
    lambda tx: driver_of(tx).execute("ROLLBACK AND CHAIN"),
    lambda tx: driver_of(tx).execute(psycopg.sql.SQL("ABORT")),
    lambda tx: driver_of(tx).cursor().execute("PREPARE TRANSACTION 'x'"),
    lambda tx: driver_of(tx).cursor().executemany("COMMIT", [()]),
    lambda tx: driver_of(tx).execute("ROLLBACK TO SAVEPOINT minuet_work"),
    lambda tx: driver_of(tx).execute('RELEASE "minuet"'),
    lambda tx: connection_of(tx).commit(),
    lambda tx: connection_of(tx).rollback(),
    lambda tx: connection_of(tx).begin(),
    lambda tx: connection_of(tx).close(),
    lambda tx: connection_of(tx).execute(sqlalchemy.text("COMMIT")),
    lambda tx: session_of(tx).commit(),
    lambda tx: session_of(tx).rollback(),
    lambda tx: session_of(tx).begin(),
    lambda tx: session_of(tx).close(),
    lambda tx: session_of(tx).execute(sqlalchemy.text("ROLLBACK")),
]


@pytest.mark.parametrize("way", REFUSED)
async def test_a_handler_cannot_end_the_transaction(store: PostgresStore, way: Callable[[Tx], object]) -> None:
    def work(tx: Tx) -> None:
        inserting("lost")(tx)
        adding_object("lost too")(tx)
        way(tx)

    with pytest.raises(DefinitionError, match="minuet commits"):
        await store.transact(work)
    ends = await asyncio.gather(*map(store.transact, (stocking("a"), work, adding("e-1"))), return_exceptions=True)
    assert isinstance(ends[1], DefinitionError)

    def within(tx: Tx) -> str:
        with contextlib.suppress(DefinitionError), tx.savepoint():
            work(tx)
        stocking("b")(tx)
        return "done"

    assert await store.transact(within) == "done"
    assert await items(store) == ["a", "b"]
    assert await store.transact(finding("e-1"))


@pytest.mark.parametrize("statement", [b"ROLLBACK", b"ROLLBACK; BEGIN"])
async def test_whoever_ends_it_past_all_guards_takes_no_neighbour_along(store: PostgresStore, statement: bytes) -> None:
    ran: list[str] = []

    def ending(tx: Tx) -> None:
        stocking("lost")(tx)
        driver_of(tx).pgconn.exec_(statement)

    def counted(item: str) -> Callable[[Tx], object]:
        def work(tx: Tx) -> object:
            ran.append(item)
            return stocking(item)(tx)

        return work

    works = [counted("a"), ending, counted("b"), adding("e-1")]
    ends = await asyncio.gather(*map(store.transact, works), return_exceptions=True)
    assert isinstance(ends[1], DefinitionError | psycopg.OperationalError)
    assert sorted(await items(store)) == ["a", "b"]
    assert len(ran) > 2
    assert await store.transact(finding("e-1"))


@pytest.mark.parametrize(
    ("text", "ends"),
    [
        ("commit", True),
        ("-- why\n COMMIT", True),
        ("/* x */ROLLBACK WORK", True),
        ("SELECT 1;commit", True),
        ("START TRANSACTION", True),
        ("rollback transaction to savepoint minuet", True),
        ("SELECT 'a; commit'", False),
        ("SELECT $x$; commit $x$", False),
        ('SELECT 1 AS "; commit"', False),
        ("SELECT E'\\'; commit'", False),
        ("ROLLBACK TO SAVEPOINT sa_savepoint_1", False),
        ("ROLLBACK TO mine", False),
        ("UPDATE t SET ending = 1", False),
        ("SELECT commit FROM t", False),
        ("CREATE FUNCTION f() RETURNS void LANGUAGE plpgsql AS $$ BEGIN PERFORM 1; END $$", False),
    ],
)
def test_what_ends_a_transaction_is_seen_in_the_text(text: str, ends: bool) -> None:
    assert ends_transaction(text) == ends


@pytest.mark.parametrize(
    ("text", "reads"),
    [
        ("SELECT item FROM stock WHERE item IN ('a') AND (quantity > 1)", True),
        ("select count(*) from stock", True),
        ("SELECT 'f(x)'", True),
        ("SELECT nextval('s')", False),
        ("SELECT my_function(1)", False),
        ("SELECT * INTO other FROM stock", False),
        ("WITH x AS (DELETE FROM stock RETURNING 1) SELECT * FROM x", False),
        ("SELECT 1; DELETE FROM stock", False),
        ("UPDATE stock SET quantity = 1", False),
    ],
)
def test_only_what_surely_reads_counts_as_reading(text: str, reads: bool) -> None:
    assert only_reads(text) == reads


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("SELECT :a, :b, :a", ("SELECT $1, $2, $1", ("a", "b"))),
        ("SELECT :a::int, x::text", ("SELECT $1::int, x::text", ("a",))),
        ("SELECT ':a', \":b\", $$:c$$ -- :d\n/* :e */", ("SELECT ':a', \":b\", $$:c$$ -- :d\n/* :e */", ())),
        ("SELECT 1", ("SELECT 1", ())),
    ],
)
def test_named_values_are_numbered(text: str, expected: tuple[str, tuple[str, ...]]) -> None:
    assert numbered(text) == expected


async def test_a_refusal_that_has_written_nothing_makes_nobody_run_twice(store: PostgresStore) -> None:
    runs: list[str] = []

    def refusing(tx: Tx) -> None:
        database_of(tx).one("SELECT item FROM stock WHERE item = :item", item="a")
        assert database_of(tx).execute("UPDATE stock SET quantity = 0 WHERE item = 'nothing'") == 0
        raise Broken

    def counted(tx: Tx) -> int:
        runs.append("ran")
        return stocking(f"item {len(runs)}")(tx)

    await asyncio.gather(*map(store.transact, (counted, refusing, counted)), return_exceptions=True)
    assert len(runs) == 2


async def test_with_triggers_nothing_is_taken_for_harmless(postgres_url: str, schema_name: str) -> None:
    schema = """
        CREATE TABLE stock (item TEXT PRIMARY KEY, quantity INT, position INT GENERATED ALWAYS AS IDENTITY);
        CREATE TABLE log (said TEXT);
        CREATE FUNCTION said() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN INSERT INTO log VALUES ('updated'); RETURN NULL; END $$;
        CREATE TRIGGER said AFTER UPDATE ON stock FOR EACH STATEMENT EXECUTE FUNCTION said();
    """
    store = opening(postgres_url, schema_name, schema=schema)
    await store.start()
    try:
        nothing = failing_with(running("UPDATE stock SET quantity = 1 WHERE item = 'nothing'"))
        await asyncio.gather(*map(store.transact, (stocking("a"), nothing)), return_exceptions=True)
        assert await items(store) == ["a"]
        assert await store.transact(lambda tx: database_of(tx).all("SELECT said FROM log")) == []
    finally:
        await store.close()
