"""What trying to break the SQLite adapters has found, each as small as it got."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from minuet.adapters.sqlite import SqliteStore, SqliteTransport
from minuet.adapters.sqlite.transport import HANDED_MAX
from minuet.adapters.system import SystemClock, SystemIds
from minuet.core.envelope import Envelope
from minuet.core.formula import Literal, Outcome
from minuet.ports import Again, Delivery, Done, Outgoing, Subscription, Tx

SCHEMA = """CREATE TABLE IF NOT EXISTS parent (id INTEGER PRIMARY KEY);
CREATE TABLE IF NOT EXISTS child (parent INTEGER REFERENCES parent (id) DEFERRABLE INITIALLY DEFERRED);"""
BEGUN, CHARGED = Literal("begin", Outcome.SUCCEEDED), Literal("charge", Outcome.SUCCEEDED)
Open = Callable[[], Awaitable[SqliteTransport]]


def an_envelope(name: str, key: str = "") -> Envelope:
    return Envelope(id=name, type="T", source="s", time=1.0, body=b"{}", key=key)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(tmp_path / "service.db", ids=SystemIds(), schema=SCHEMA)
    await store.start()
    yield store
    await store.close()


def running(*statements: str) -> Callable[[Tx], Any]:
    def work(tx: Tx) -> list[Any]:
        connection = tx.handle(sqlite3.Connection)
        return [connection.execute(statement).fetchall() for statement in statements][-1]

    return work


def learning(literal: Literal) -> Callable[[Tx], set[Literal]]:
    return lambda tx: set(tx.known.learn("S", "1", literal, an_envelope(str(literal))) or ())


def knowing(tx: Tx) -> set[Literal]:
    return set(tx.known.of("S", "1"))


def failing(tx: Tx) -> None:
    raise ValueError


def failing_after_writing(tx: Tx) -> None:
    running("INSERT INTO parent VALUES (7)")(tx)
    raise ValueError


# -- known messages at hand --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "ruin",
    [
        failing_after_writing,
        running("INSERT INTO child VALUES (99)"),
        running(*["INSERT OR ROLLBACK INTO parent VALUES (1)"] * 2),
    ],
    ids=["it is filled again", "the commit fails", "everything is rolled back"],
)
async def test_what_was_rolled_back_is_not_at_hand_though_somebody_looked(store: SqliteStore, ruin: Any) -> None:
    await store.transact(learning(BEGUN))
    works = [learning(CHARGED), failing, knowing, ruin]
    learnt, *_ = await asyncio.gather(*map(store.transact, works), return_exceptions=True)
    if isinstance(learnt, Exception):
        learnt = await store.transact(learning(CHARGED))
    assert learnt == {BEGUN, CHARGED}
    rows = await store.transact(running("SELECT literal FROM minuet_known"))
    assert {Literal.parse(text) for (text,) in rows} == {BEGUN, CHARGED} == await store.transact(knowing)


# -- handing over ------------------------------------------------------------------------------------------------------


@pytest.fixture
async def opening(tmp_path: Path) -> AsyncIterator[Open]:
    made: list[SqliteTransport] = []

    async def one() -> SqliteTransport:
        transport = SqliteTransport(tmp_path / "broker.db", ids=SystemIds(), clock=SystemClock())
        await transport.start()
        await transport.declare([Subscription(group="g", wanted={"c": {"T": None}})])
        made.append(transport)
        return transport

    yield one
    for transport in made:
        await transport.close()


def message(number: int, key: str = "") -> Outgoing:
    return Outgoing(number, "c", an_envelope(str(number), key))


def ids_of(deliveries: Sequence[Delivery]) -> list[str]:
    return [one.attributes["id"] for one in deliveries]


async def received(transport: SqliteTransport, limit: int = 100, within_s: float = 5.0) -> list[Delivery]:
    async with asyncio.timeout(within_s):
        return list(await transport.receive("g", limit))


async def hear_nothing(transport: SqliteTransport) -> None:
    with pytest.raises(TimeoutError):
        await received(transport, within_s=0.05)


async def cut_short(work: Any) -> None:
    """Begin it, and stop waiting for it."""
    task = asyncio.ensure_future(work)
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_claim_that_failed_is_made_again(opening: Open) -> None:
    sender, receiver = await opening(), await opening()
    await hear_nothing(receiver)
    await sender.publish([message(1)])
    real = receiver._queues.claim

    def broken(*_: Any) -> Any:
        raise sqlite3.OperationalError("disk I/O error")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(receiver._queues, "claim", broken)
        with pytest.raises(sqlite3.OperationalError):
            await received(receiver)
    assert receiver._queues.claim == real
    assert ids_of(await received(receiver)) == ["1"]


async def test_a_claim_that_was_cut_short_leaves_the_alarm_of_what_is_delayed(opening: Open) -> None:
    transport = await opening()
    await transport.publish([message(1)])
    (delivery,) = await received(transport)
    await transport.settle([(delivery, Again(0.3))])
    await cut_short(transport.receive("g", 1))
    assert ids_of(await received(transport)) == ["1"]


async def test_receivers_of_one_group_share_what_was_claimed_for_it(opening: Open) -> None:
    sender, receiver = await opening(), await opening()
    both = [asyncio.create_task(received(receiver, 1)) for _ in range(2)]
    await asyncio.sleep(0)
    await sender.publish([message(1), message(2)])
    assert sorted(ids_of([one for got in await asyncio.gather(*both) for one in got])) == ["1", "2"]


async def test_what_is_published_is_heard_though_nobody_waits_for_the_publishing(opening: Open) -> None:
    transport = await opening()
    await hear_nothing(transport)
    await transport.publish([message(1, "x")])
    await transport.settle([(one, Again(30)) for one in await received(transport)])
    waiting = asyncio.create_task(received(transport))
    await asyncio.sleep(0)
    await cut_short(transport.publish([message(2, "y")]))
    assert ids_of(await waiting) == ["2"]


async def test_what_stood_behind_is_heard_though_nobody_waits_for_the_settling(opening: Open) -> None:
    transport = await opening()
    await transport.publish([message(1, "x"), message(2, "x")])
    (first,) = await received(transport, 1)
    waiting = asyncio.create_task(received(transport, 1))
    await asyncio.sleep(0)
    await cut_short(transport.settle([(first, Done())]))
    assert ids_of(await waiting) == ["2"]


async def test_no_more_is_handed_over_than_one_process_should_hold(opening: Open) -> None:
    transport = await opening()
    await hear_nothing(transport)
    batches = ([message(100 * batch + number) for number in range(100)] for batch in range(20))
    await asyncio.gather(*map(transport.publish, batches))
    assert len(transport._ears["g"].handed) <= HANDED_MAX


async def test_groups_that_were_rolled_back_are_not_remembered(opening: Open) -> None:
    one, other = await opening(), await opening()
    await one.publish([message(0, "z")])
    transaction = one._database._transaction

    def full() -> None:
        transaction._roll_back_connection()
        raise sqlite3.OperationalError("database or disk is full")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transaction, "commit", full)
        lost = Subscription(group="lost", wanted={"c": {"T": None}})
        ends = await asyncio.gather(one.declare([lost]), one.publish([message(1)]), return_exceptions=True)
    assert isinstance(ends[0], sqlite3.OperationalError)
    await other.declare([Subscription(group="new", wanted={"c": {"T": None}})])
    await one.publish([message(2)])
    async with asyncio.timeout(5):
        assert ids_of(await other.receive("new", 10)) == ["2"]
