"""What is kept back until the commit, and what is read ahead: nobody may notice, but by the time that it takes."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from typing import Any

import psycopg
import pytest
import sqlalchemy

from minuet.adapters.postgres import PostgresStore
from minuet.adapters.postgres.connection import BoundedConnection
from minuet.adapters.postgres.watch import HERE, channel_of
from minuet.app import Database
from minuet.core.compile import BEGUN
from minuet.ports import EntryState, LooksAt, ReadAhead, Tx
from minuet.testing.store_contract.examples import (
    CHARGED,
    RESERVED,
    Broken,
    adding,
    an_entry,
    an_envelope,
    finding,
    found,
    ids_of,
    sending,
    then_breaking,
)
from tests.contract.postgres_server import PATIENCE_S, fresh_schema, opening, query, running

pytestmark = pytest.mark.server


@pytest.fixture
def schema_name(postgres_url: str) -> Iterator[str]:
    with fresh_schema(postgres_url) as name:
        yield name


@pytest.fixture
async def store(postgres_url: str, schema_name: str) -> AsyncIterator[PostgresStore]:
    store = opening(postgres_url, schema_name, schema="CREATE TABLE IF NOT EXISTS rows (id TEXT PRIMARY KEY)")
    await store.start()
    yield store
    await store.close()


class Trips:
    """Counts those of the thread that writes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        wait = BoundedConnection.wait

        def counted(connection: BoundedConnection, *args: Any, **options: Any) -> Any:
            self.count += hasattr(connection, "writes")  # the connection that listens has none
            return wait(connection, *args, **options)

        monkeypatch.setattr(BoundedConnection, "wait", counted)


@pytest.fixture
def trips(monkeypatch: pytest.MonkeyPatch) -> Trips:
    return Trips(monkeypatch)


def inserting(name: str) -> Callable[[Tx], int]:
    return running("INSERT INTO rows VALUES (:name)", name=name)


async def all_of(store: PostgresStore, *works: Callable[[Tx], object]) -> list[Any]:
    """Run them in one transaction."""
    return await asyncio.gather(*map(store.transact, works), return_exceptions=True)


class Interfering:
    """A work that runs another one, and something else in the middle of it, past the store, the first time.

    Attributes:
        runs: how often it was run.
    """

    def __init__(self, work: Callable[[Tx], object], interfere: Callable[[], object]) -> None:
        self.runs = 0
        self._work = work
        self._interfere = interfere

    def __call__(self, tx: Tx) -> object:
        self.runs += 1
        if self.runs == 1:
            self._interfere()
        return self._work(tx)


# What it saves


async def test_works_that_say_what_they_look_at_share_two_round_trips(store: PostgresStore, trips: Trips) -> None:
    def work(number: int) -> ReadAhead[bool]:
        key, saga = f"e-{number}", f"o-{number // 2}"

        def run(tx: Tx) -> bool:
            assert tx.inbox.find(key) is None
            entry = an_entry(key)
            tx.outbox.add("orders", an_envelope(key))
            literal = RESERVED if number % 2 else CHARGED
            assert len(tx.known.learn("Orders", saga, literal, an_envelope(key)) or ()) == 1 + number % 2
            return tx.inbox.save(entry)

        return ReadAhead(run, lambda: LooksAt([key], [("Orders", saga)]))

    before = trips.count
    assert await all_of(store, *map(work, range(100))) == [True] * 100
    assert trips.count - before == 2
    entries = [await found(store, f"e-{number}") for number in range(100)]

    def finish(number: int) -> Callable[[Tx], bool]:
        entries[number].state = EntryState.DONE
        return lambda tx: tx.inbox.save(entries[number])

    before = trips.count
    assert await all_of(store, *map(finish, range(100))) == [True] * 100
    assert trips.count - before == 2
    assert (await found(store, "e-99")).state is EntryState.DONE


# What handlers see


def by_handle(tx: Tx, statement: str) -> list[str]:
    return [str(row["id"]) for row in tx.handle(Database).all(statement)]


def by_driver(tx: Tx, statement: str) -> list[str]:
    return [row[0] for row in tx.handle(psycopg.Connection).execute(statement)]


def by_cursor_of_the_server(tx: Tx, statement: str) -> list[str]:
    with tx.handle(psycopg.Connection).cursor("named") as cursor:
        return [row[0] for row in cursor.execute(statement)]


def by_pipeline(tx: Tx, statement: str) -> list[str]:
    connection = tx.handle(psycopg.Connection)
    with connection.pipeline():
        return [row[0] for row in connection.execute(statement)]


def by_sqlalchemy(tx: Tx, statement: str) -> list[str]:
    return list(tx.handle(sqlalchemy.Connection).execute(sqlalchemy.text(statement)).scalars())


@pytest.mark.parametrize("look", [by_handle, by_driver, by_cursor_of_the_server, by_pipeline, by_sqlalchemy])
async def test_a_handler_that_looks_at_our_tables_sees_what_was_kept_back(
    store: PostgresStore, look: Callable[[Tx, str], list[str]]
) -> None:
    def work(tx: Tx) -> tuple[list[str], ...]:
        tx.inbox.add(an_entry("b"))
        tx.known.learn("Orders", "o-1", BEGUN, an_envelope())
        entries = look(tx, "SELECT key AS id FROM minuet_inbox ORDER BY position")
        return entries, look(tx, "SELECT saga_id AS id FROM minuet_known")

    ends = await all_of(store, adding("a"), work, adding("c"))
    assert ends == [[True], (["a", "b"], ["o-1"]), [True]]
    assert await store.transact(lambda tx: look(tx, "SELECT key AS id FROM minuet_inbox ORDER BY position")) == [*"abc"]


async def test_a_trigger_sees_what_was_kept_back(postgres_url: str, schema_name: str) -> None:
    schema = """
        CREATE TABLE rows (id TEXT PRIMARY KEY);
        CREATE TABLE log (id TEXT);
        CREATE FUNCTION looks() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN INSERT INTO log SELECT key FROM minuet_inbox; RETURN NULL; END $$;
        CREATE TRIGGER looks AFTER INSERT ON rows FOR EACH STATEMENT EXECUTE FUNCTION looks();
    """
    store = opening(postgres_url, schema_name, schema=schema)
    await store.start()
    try:
        assert await all_of(store, adding("a"), inserting("r")) == [[True], 1]
        assert query(postgres_url, "SELECT id FROM log", schema_name) == [("a",)]
    finally:
        await store.close()


async def test_what_was_written_for_a_handler_to_see_is_undone_with_its_work(store: PostgresStore) -> None:
    def work(tx: Tx) -> None:
        tx.inbox.add(an_entry("b"))
        assert by_handle(tx, "SELECT key AS id FROM minuet_inbox WHERE key = 'b'") == ["b"]
        raise Broken

    ends = await all_of(store, adding("a"), work, adding("c"))
    assert [type(end) for end in ends] == [list, Broken, list]
    assert [bool(await store.transact(finding(key))) for key in "abc"] == [True, False, True]


async def test_a_handler_that_has_the_server_forget_what_is_prepared_harms_nobody(store: PostgresStore) -> None:
    works = [adding("a"), running("DEALLOCATE ALL"), adding("b")]
    for _ in range(2):
        ends = await all_of(store, *works)
        assert not any(isinstance(end, Exception) for end in ends)
    assert await store.transact(finding("b"))


# When it is not as it was thought to be


async def test_an_entry_that_another_adds_meanwhile_is_not_added(
    postgres_url: str, schema_name: str, store: PostgresStore
) -> None:
    copy = """INSERT INTO minuet_inbox OVERRIDING USER VALUE SELECT * FROM minuet_inbox WHERE key = 'model'"""
    await store.transact(adding("model"))

    def interfere() -> None:
        query(postgres_url, copy.replace("*", columns_of_another("b")), schema_name)

    work = Interfering(ReadAhead(adding("b"), lambda: LooksAt(["b"])), interfere)
    ends = await all_of(store, adding("a"), sending("m-1"), work, inserting("r"), adding("c"))
    assert ends == [[True], None, [False], 1, [True]]
    assert work.runs == 2
    assert all([await store.transact(finding(key)) for key in "abc"])
    assert ids_of(await store.transact(lambda tx: tx.outbox.mine(10, 0))) == ["m-1"]


def columns_of_another(key: str) -> str:
    return (
        f"position, '{key}', handler, saga, saga_id, attributes, body, digest, state, attempts, due_at, 'stranger', "
        "waits_for, answer_attributes, answer_body, error, changed_at"
    )


async def test_an_entry_that_another_takes_meanwhile_is_not_saved(
    postgres_url: str, schema_name: str, store: PostgresStore
) -> None:
    entries = [an_entry(key) for key in "abc"]
    for entry in entries:
        await store.transact(lambda tx, entry=entry: tx.inbox.add(entry))  # type: ignore[misc]

    def saving(number: int) -> Callable[[Tx], bool]:
        def work(tx: Tx) -> bool:
            copy = entries[number].copy()
            copy.state = EntryState.DONE
            return tx.inbox.save(copy)

        return work

    take = "UPDATE minuet_inbox SET owner = 'stranger' WHERE key = 'b'"
    work = Interfering(saving(1), lambda: query(postgres_url, take, schema_name))
    assert await all_of(store, saving(0), work, saving(2)) == [True, False, True]
    states = [(await found(store, key)).state for key in "abc"]
    assert states == [EntryState.DONE, EntryState.DUE, EntryState.DONE]


@pytest.mark.parametrize("is_said", [True, False])
async def test_whoever_begins_a_saga_that_is_known_learns_nothing(store: PostgresStore, is_said: bool) -> None:
    def beginning(saga_id: str) -> ReadAhead[Any]:
        sagas = [("Orders", saga_id)] if is_said else []
        return ReadAhead(
            lambda tx: tx.known.learn("Orders", saga_id, BEGUN, an_envelope(saga_id)), lambda: LooksAt(sagas=sagas)
        )

    await store.transact(beginning("o-1"))
    first, second, third = await all_of(store, beginning("o-0"), beginning("o-1"), beginning("o-2"))
    assert (first, second, third) == ({BEGUN: an_envelope("o-0")}, None, {BEGUN: an_envelope("o-2")})
    assert await store.transact(lambda tx: tx.known.of("Orders", "o-1")) == {BEGUN: an_envelope("o-1")}


async def test_a_saga_that_another_begins_meanwhile_is_learnt_of_once(
    postgres_url: str, schema_name: str, store: PostgresStore
) -> None:
    await store.transact(lambda tx: tx.known.learn("Orders", "model", RESERVED, an_envelope("m-1")))
    begin = """INSERT INTO minuet_known (saga, saga_id, literal, is_first, attributes, body)
        SELECT saga, 'o-1', literal, is_first, attributes, body FROM minuet_known WHERE saga_id = 'model'"""
    learning = ReadAhead(
        lambda tx: len(tx.known.learn("Orders", "o-1", CHARGED, an_envelope("m-2")) or ()),
        lambda: LooksAt(sagas=[("Orders", "o-1")]),
    )
    work = Interfering(learning, lambda: query(postgres_url, begin, schema_name))
    as_said = ReadAhead(work, learning.looks_at)
    assert await all_of(store, adding("a"), as_said, adding("b")) == [[True], 2, [True]]
    assert work.runs == 2


async def test_an_error_of_what_was_kept_back_is_its_works_alone(
    postgres_url: str, schema_name: str, store: PostgresStore
) -> None:
    query(postgres_url, "ALTER TABLE minuet_inbox ADD CHECK (key <> 'b')", schema_name)
    query(postgres_url, "ALTER TABLE minuet_known ADD CHECK (saga_id <> 'o-b')", schema_name)
    query(postgres_url, "ALTER TABLE minuet_outbox ADD CHECK (channel <> 'wrong')", schema_name)
    heard: list[Any] = []
    store.committed = heard.extend

    def learning(saga_id: str) -> Callable[[Tx], bool]:
        return lambda tx: tx.known.learn("Orders", saga_id, BEGUN, an_envelope()) is not None

    works = [
        adding("a"),
        adding("b"),
        sending("m-1"),
        learning("o-a"),
        learning("o-b"),
        lambda tx: tx.outbox.add("wrong", an_envelope("m-2")),
        adding("c"),
        sending("m-3"),
    ]
    ends = await all_of(store, *works)
    wrong = [place for place, end in enumerate(ends) if isinstance(end, psycopg.errors.CheckViolation)]
    assert wrong == [1, 4, 5]
    assert [ends[place] for place in (0, 3, 6)] == [[True], True, [True]]
    assert sorted(ids_of(heard)) == ["m-1", "m-3"]
    kept = [bool(await store.transact(finding(key))) for key in "abc"]
    assert kept == [True, False, True]


async def test_an_entry_is_not_judged_by_what_was_before(store: PostgresStore) -> None:
    """It is changed after it was added, in one transaction, by several works."""
    entry = an_entry("a")

    def finish(tx: Tx) -> bool:
        copy = entry.copy()
        copy.state = EntryState.DONE
        return tx.inbox.save(copy)

    ends = await all_of(store, lambda tx: tx.inbox.add(entry), finish, finish, finding("a"))
    assert ends[:3] == [True, True, False]
    assert ends[3].state is EntryState.DONE


# What is undone


async def test_what_was_kept_back_is_undone_without_running_anybody_twice(store: PostgresStore, trips: Trips) -> None:
    runs: list[str] = []

    def work(tx: Tx) -> list[bool]:
        runs.append("ran")
        with suppress(Broken), tx.savepoint():
            tx.inbox.add(an_entry("lost"))
            tx.known.learn("Orders", "o-1", BEGUN, an_envelope("lost"))
            tx.outbox.add("orders", an_envelope("lost"))
            raise Broken
        known = tx.known.learn("Orders", "o-1", BEGUN, an_envelope("m-1"))
        return [known == {BEGUN: an_envelope("m-1")}, tx.inbox.add(an_entry("kept"))]

    ends = await all_of(store, work, then_breaking(adding("b")), adding("c"))
    assert ends[0] == [True, True]
    assert runs == ["ran"]
    kept = [bool(await store.transact(finding(key))) for key in ("lost", "kept", "b", "c")]
    assert kept == [False, True, False, True]
    assert await store.transact(lambda tx: tx.known.of("Orders", "o-1")) == {BEGUN: an_envelope("m-1")}
    assert await store.transact(lambda tx: tx.outbox.mine(10, 0)) == []


# Who is told


async def test_who_is_alone_tells_nobody_and_who_comes_is_told(
    postgres_url: str, schema_name: str, store: PostgresStore
) -> None:
    with psycopg.connect(postgres_url, autocommit=True) as listener:
        listener.execute(psycopg.sql.SQL("LISTEN {}").format(psycopg.sql.Identifier(channel_of(schema_name))))
        for number in range(20):
            await store.transact(adding(f"e-{number}"))
        other = opening(postgres_url, schema_name)
        await other.start()
        try:
            heard = asyncio.Event()
            other.disturbed = heard.set
            await store.transact(adding("last"))
            await asyncio.wait_for(heard.wait(), PATIENCE_S)
            said: list[str] = []
            for one in listener.notifies(timeout=PATIENCE_S):
                said.append(one.payload)
                if one.payload == store.instance:
                    break
        finally:
            await other.close()
    assert said[-1] == store.instance
    assert HERE + other.instance in said
