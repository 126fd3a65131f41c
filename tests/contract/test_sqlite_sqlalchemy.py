"""The handles that SQLAlchemy gives to handlers, within the store's transaction."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from sqlalchemy import orm

from minuet.adapters.sqlite import SqliteStore
from minuet.adapters.system import SystemIds
from minuet.core.errors import ConfigurationError, DefinitionError
from minuet.ports import Tx
from minuet.testing.store_contract.examples import Broken


class Base(orm.DeclarativeBase):
    pass


class Stock(Base):
    __tablename__ = "stock"
    item: orm.Mapped[str] = orm.mapped_column(primary_key=True)
    quantity: orm.Mapped[int] = orm.mapped_column(sqlalchemy.CheckConstraint("quantity >= 0"))


INSERT = sqlalchemy.insert(Stock)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(tmp_path / "service.db", ids=SystemIds(), schema=Base.metadata)
    await store.start()
    yield store
    await store.close()


def connection_of(tx: Tx) -> sqlalchemy.Connection:
    found: sqlalchemy.Connection = tx.handle(sqlalchemy.Connection)
    return found


def session_of(tx: Tx) -> orm.Session:
    found: orm.Session = tx.handle(orm.Session)
    return found


def adding(item: str, quantity: int = 1) -> Callable[[Tx], None]:
    return lambda tx: session_of(tx).add(Stock(item=item, quantity=quantity))


def inserting(item: str) -> Callable[[Tx], Any]:
    return lambda tx: connection_of(tx).execute(INSERT, {"item": item, "quantity": 1}).rowcount


async def items(store: SqliteStore) -> list[str]:
    query = sqlalchemy.select(Stock.item).order_by(sqlalchemy.text("rowid"))
    return await store.transact(lambda tx: list(connection_of(tx).scalars(query)))


async def test_a_connection_writes_in_the_stores_transaction(store: SqliteStore) -> None:
    def lost(tx: Tx) -> None:
        inserting("lost")(tx)
        raise Broken

    ends = await asyncio.gather(*map(store.transact, (inserting("a"), lost, inserting("b"))), return_exceptions=True)
    assert isinstance(ends[1], Broken)
    assert await items(store) == ["a", "b"]


async def test_a_session_is_flushed_at_the_end_of_the_work(store: SqliteStore) -> None:
    await store.transact(adding("a"))
    assert await items(store) == ["a"]


async def test_a_session_is_flushed_at_the_end_of_a_savepoint(store: SqliteStore) -> None:
    def work(tx: Tx) -> None:
        with tx.savepoint():
            adding("kept")(tx)
        with contextlib.suppress(Broken), tx.savepoint():
            adding("lost")(tx)
            raise Broken
        adding("kept too")(tx)

    await store.transact(work)
    assert sorted(await items(store)) == ["kept", "kept too"]


async def test_what_cannot_be_flushed_fails_the_work_and_the_next_one_works(store: SqliteStore) -> None:
    with pytest.raises(sqlalchemy.exc.IntegrityError):
        await store.transact(adding("a", -1))
    ends = await asyncio.gather(
        *map(store.transact, (adding("b"), adding("c", -1), adding("d"))), return_exceptions=True
    )
    assert isinstance(ends[1], sqlalchemy.exc.IntegrityError)
    assert await items(store) == ["b", "d"]


async def test_a_session_forgets_its_objects_between_works(store: SqliteStore) -> None:
    await store.transact(adding("a"))

    def quantity(tx: Tx) -> int:
        found = session_of(tx).get(Stock, "a")
        assert found
        return found.quantity

    assert await store.transact(quantity) == 1
    await store.transact(lambda tx: connection_of(tx).execute(sqlalchemy.update(Stock).values(quantity=7)).rowcount)
    assert await store.transact(quantity) == 7


async def test_nested_transactions_of_a_session_work(store: SqliteStore) -> None:
    def work(tx: Tx) -> None:
        session = session_of(tx)
        with session.begin_nested():
            session.add(Stock(item="kept", quantity=1))
        with contextlib.suppress(Broken), session.begin_nested():
            session.add(Stock(item="lost", quantity=1))
            session.flush()
            raise Broken

    await store.transact(work)
    assert await items(store) == ["kept"]


async def test_one_connection_serves_all_works(store: SqliteStore) -> None:
    assert len({await store.transact(lambda tx: id(connection_of(tx))) for _ in range(3)}) == 1


REFUSED: list[Callable[[Tx], object]] = [
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
async def test_a_handler_cannot_end_the_transaction(store: SqliteStore, way: Callable[[Tx], object]) -> None:
    def work(tx: Tx) -> None:
        inserting("lost")(tx)
        adding("lost too")(tx)
        way(tx)

    with pytest.raises(DefinitionError, match="minuet commits"):
        await store.transact(work)
    ends = await asyncio.gather(*map(store.transact, (inserting("a"), work, adding("b"))), return_exceptions=True)
    assert isinstance(ends[1], DefinitionError)
    assert await items(store) == ["a", "b"]


async def test_what_a_handler_asks_for_must_be_there(store: SqliteStore) -> None:
    with pytest.raises(
        ConfigurationError, match=r"no sqlalchemy\.engine\.base\.Engine .* it has minuet\.Database, sqlite3\.Connection"
    ):
        await store.transact(lambda tx: tx.handle(sqlalchemy.Engine))
