"""What one message, one handler or one failing commit does to what shares its transaction: nothing."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from sqlalchemy import orm

from minuet.app import App, Service
from minuet.bootstrap import running
from minuet.core.coordinator import Status
from minuet.core.errors import NotYet
from minuet.core.messages import Command, Event
from minuet.core.retry import RetryPolicy
from minuet.ports import Delivery, EntryState, Settlement, Tx
from minuet.settings import Settings
from tests.unit.runtime.shop import SAGA, PlaceOrder, Plan, make_shop
from tests.unit.runtime.virtual_loop import in_virtual_time
from tests.unit.runtime.world import Broken, World

ALL = 40
BAD = 17


class Tick(Event, channel="ticks"):
    n: int


class Tock(Event, channel="tocks"):
    n: int


class Emit(Command, service="source", answers=(Tick,)):
    n: int


SCHEMA = """
CREATE TABLE IF NOT EXISTS seen (n INTEGER PRIMARY KEY);
CREATE TABLE IF NOT EXISTS parents (n INTEGER PRIMARY KEY);
CREATE TABLE IF NOT EXISTS children (n INTEGER REFERENCES parents (n) DEFERRABLE INITIALLY DEFERRED);
INSERT OR IGNORE INTO parents VALUES (1);
"""
TAKEN = "INSERT OR ROLLBACK INTO parents VALUES (1)"
RETRY = RetryPolicy(first_s=0.001, attempts_max=2)


def loses_the_transaction(db: sqlite3.Connection) -> None:
    db.execute(TAKEN)


def loses_it_and_goes_on(db: sqlite3.Connection) -> None:
    for _ in range(2):
        try:
            db.execute(TAKEN)
            db.execute("INSERT INTO parents VALUES (2)")
        except sqlite3.Error:
            pass
    db.executemany("INSERT INTO parents VALUES (?)", [(3,), (4,)])


def breaks_a_deferred_constraint(db: sqlite3.Connection) -> None:
    db.execute("INSERT INTO children VALUES (77)")


def loses_it_in_a_session(db: orm.Session) -> None:
    with db.begin_nested():
        db.execute(sqlalchemy.text(TAKEN))


def leaves_a_session_open(db: orm.Session) -> None:
    db.begin_nested()


def leaves_a_connection_open(db: sqlalchemy.Connection) -> None:
    db.begin_nested()
    db.execute(sqlalchemy.text("INSERT INTO parents VALUES (5)"))


BREAKERS = [
    (loses_the_transaction, sqlite3.Connection),
    (loses_it_and_goes_on, sqlite3.Connection),
    (breaks_a_deferred_constraint, sqlite3.Connection),
    (loses_it_in_a_session, orm.Session),
    (leaves_a_session_open, orm.Session),
    (leaves_a_connection_open, sqlalchemy.Connection),
]


def app_with(breaker: Any, handle: type[Any], heard: list[int]) -> App:
    source, middle, end = Service("source"), Service("middle", schema=SCHEMA), Service("end")

    @source.handles(Emit)
    def emit(command: Emit) -> Tick:
        return Tick(n=command.n)

    def tick(event: Tick, db: Any) -> Tock:
        statement = "INSERT INTO seen VALUES (:n)"
        db.execute(statement if handle is sqlite3.Connection else sqlalchemy.text(statement), {"n": event.n})
        if event.n == BAD:
            breaker(db)
        return Tock(n=event.n)

    tick.__annotations__ = {"event": Tick, "db": handle, "return": Tock}
    middle.on(Tick, retry=RETRY)(tick)

    @end.on(Tock)
    def tock(event: Tock) -> None:
        heard.append(event.n)

    return App("neighbours", services=[source, middle, end])


@pytest.mark.parametrize(("breaker", "handle"), BREAKERS)
async def test_a_handler_that_breaks_the_transaction_breaks_its_own_attempt_only(
    tmp_path: Path, breaker: Any, handle: type[Any]
) -> None:
    heard: list[int] = []
    app, settings = app_with(breaker, handle, heard), Settings(data=tmp_path)
    async with running(app, settings, services=["source"]) as system:  # so that all of them come in one batch
        await asyncio.gather(*(system.send(Emit(n=n)) for n in range(ALL)))
        await system.drained()
    good = [n for n in range(ALL) if n != BAD]
    async with running(app, settings) as system:

        def parked(tx: Tx) -> list[str]:
            return [entry.key for entry in tx.parked.entries(10)]

        async with asyncio.timeout(10):
            while len(set(heard)) < len(good) or not await system.stores["middle"].transact(parked):
                await asyncio.sleep(0.01)
        assert len(await system.stores["middle"].transact(parked)) == 1
        await system.send(Emit(n=ALL))
        async with asyncio.timeout(10):
            while ALL not in heard:
                await asyncio.sleep(0.01)
    assert sorted(set(heard)) == [*good, ALL]
    with sqlite3.connect(tmp_path / "middle.db") as db:
        assert [n for (n,) in db.execute("SELECT n FROM seen ORDER BY n")] == [*good, ALL]
        assert db.execute("SELECT n FROM parents").fetchall() == [(1,)]
        assert db.execute("SELECT count(*) FROM children").fetchall() == [(0,)]


@pytest.mark.parametrize(("breaker", "handle"), BREAKERS)
async def test_a_command_that_breaks_the_transaction_is_an_attempt_that_failed(
    tmp_path: Path, breaker: Any, handle: type[Any]
) -> None:
    service = Service("source", schema=SCHEMA)

    def emit(command: Emit, db: Any) -> Tick:
        if command.n == BAD:
            breaker(db)
        return Tick(n=command.n)

    emit.__annotations__ = {"command": Emit, "db": handle, "return": Tick}
    service.handles(Emit, retry=RETRY)(emit)
    async with running(App("asked", services=[service]), Settings(data=tmp_path)) as system:
        sent = [system.send(Emit(n=n), key=f"k{n}", wait_s=5) for n in range(ALL)]
        ends = await asyncio.gather(*sent, return_exceptions=True)
    assert [one.n for one in ends if isinstance(one, Tick)] == [n for n in range(ALL) if n != BAD]
    assert isinstance(ends[BAD], NotYet)
    assert "waits for an operator" in str(ends[BAD])


@in_virtual_time
@pytest.mark.parametrize("how", ["choreography", "orchestration"])
async def test_a_command_whose_building_cannot_be_kept_is_built_again(how: str) -> None:
    plan, world = Plan(), World()
    async with world.running(make_shop(plan), coordination={SAGA: how}) as process:
        left = dict.fromkeys(process.system.places, 3)

        def failing(name: str) -> Any:
            def fail(number: int) -> None:
                if number % 2 and left[name]:
                    left[name] -= 1
                    raise Broken("disk full")

            return fail

        for name in left:
            process.store(name).before = failing(name)
        for n in range(4):
            while True:
                try:
                    await process.send(PlaceOrder(order_id=f"o{n}"))
                    break
                except Broken:
                    pass
            assert await process.ended(SAGA, f"o{n}") == Status.COMPLETED
        await asyncio.sleep(10)
        for name in world.databases:
            assert not [one.key for one in world.entries(name, EntryState.DUE)]
    assert not world.left_over()


@in_virtual_time
async def test_what_cannot_be_settled_or_forgotten_yet_is_later() -> None:
    plan, world = Plan(), World()
    async with world.running(make_shop(plan)) as process:
        transport = process.transport
        settle, failures = transport.settle, 3

        async def failing(settled: list[tuple[Delivery, Settlement]]) -> None:
            nonlocal failures
            if failures:
                failures -= 1
                raise Broken("disk full")
            await settle(settled)

        transport.settle = failing  # type: ignore[method-assign,assignment]
        for store in process.system.stores.values():
            _fail_to_forget(store, 2)
        await process.send(PlaceOrder(order_id="o1"))
        assert await process.ended(SAGA, "o1") == Status.COMPLETED
        await asyncio.sleep(30)
        assert not failures
        assert not world.left_over()


def _fail_to_forget(store: Any, times: int) -> None:
    transact, left = store.transact, times

    async def flaky(work: Any, *, reads_only: bool = False, lazily: bool = False) -> Any:
        nonlocal left
        if lazily and left:
            left -= 1
            raise Broken("disk full")
        return await transact(work, reads_only=reads_only, lazily=lazily)

    store.transact = flaky
