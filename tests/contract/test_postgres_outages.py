"""What PostgreSQL, or what is between us and it, can do to a transaction: nothing is lost, doubled or half done."""

import asyncio
import contextlib
import functools
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest

from dev.servers.base import Server, free_port
from minuet.adapters.postgres import CommitUnknown, Limits, PostgresStore, Unavailable
from minuet.core.errors import ConfigurationError
from minuet.ports import Outgoing, Tx
from minuet.testing.store_contract.examples import Broken, adding, an_entry, an_envelope, finding, found, ids_of
from tests.contract.postgres_server import PATIENCE_S, fresh_schema, opening, query, running
from tests.faults import REPLIES, REQUESTS, FaultProxy
from tests.servers import private_server

pytestmark = pytest.mark.server

SCHEMA = "CREATE TABLE IF NOT EXISTS effects (id TEXT)"
PATIENT = Limits(patience_s=PATIENCE_S, connect_s=2)
HASTY = Limits(patience_s=0.5, connect_s=2, look_s=0.1)
# The connection that listens is silent, so that what happens to the proxy's next bytes happens to the one that writes.
SILENT = {"look_s": 600.0, "notify_s": 600.0}

Start = Callable[..., Awaitable[PostgresStore]]


@pytest.fixture
def schema_name(postgres_url: str) -> Iterator[str]:
    with fresh_schema(postgres_url) as name:
        yield name


@pytest.fixture
async def start(postgres_url: str, schema_name: str, proxy: FaultProxy) -> AsyncIterator[Start]:
    """Opens one more instance; it is closed while the proxy is still there."""
    async with AsyncExitStack() as stack:

        async def one(url: str = "", limits: Limits = PATIENT) -> PostgresStore:
            store = opening(url or postgres_url, schema_name, schema=SCHEMA, limits=limits)
            listens = asyncio.Event()
            store.disturbed = listens.set
            await store.start()
            stack.push_async_callback(store.close)
            await asyncio.wait_for(listens.wait(), PATIENCE_S)
            return store

        yield one


@pytest.fixture
def proxy(postgres_url: str) -> Iterator[FaultProxy]:
    port = int(postgres_url.rpartition(":")[2].partition("/")[0])
    with FaultProxy("127.0.0.1", port) as proxy:
        yield proxy


@pytest.fixture
def url_through(postgres_url: str, proxy: FaultProxy) -> str:
    head, _, tail = postgres_url.rpartition(":")
    return f"{head}:{proxy.port}/{tail.partition('/')[2]}"


@pytest.fixture
def server(servers_path: Path) -> Iterator[Server]:
    with private_server("postgres", servers_path / "postgres") as server:
        yield server


def effect(name: str) -> Callable[[Tx], int]:
    return running("INSERT INTO effects VALUES (:name)", name=name)


def effects(url: str, schema_name: str) -> list[str]:
    return [name for (name,) in query(url, "SELECT id FROM effects ORDER BY id", schema_name)]


async def until_it_works(store: PostgresStore, work: Callable[[Tx], object]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            with contextlib.suppress(Unavailable):
                await store.transact(work)
                return


class Once:
    """A work that keeps an entry, an effect and a message, and does something else the first time that it is run."""

    def __init__(self, first: Callable[[], object], name: str = "a", *, writes_before: bool = True) -> None:
        self.runs = 0
        self._first = first
        self._name = name
        self._writes_before = writes_before

    def __call__(self, tx: Tx) -> str:
        self.runs += 1
        effect(self._name)(tx)
        tx.inbox.add(an_entry(self._name))
        tx.outbox.add("orders", an_envelope(self._name))
        if self._writes_before:
            tx.outbox.mine(1, 0)  # what is added is written now, so that the next thing to happen is the commit
        if self.runs == 1:
            self._first()
        return "done"


# The outcome of a commit is not known


@pytest.mark.parametrize("writes_before", [True, False], ids=["commit alone", "with what was kept back"])
@pytest.mark.parametrize(
    ("direction", "after_bytes", "runs"),
    [(REPLIES, 0, 1), (REQUESTS, 0, 2), (REQUESTS, 20, 2)],
    ids=["committed, unheard", "never committed", "cut in the middle"],
)
async def test_whether_a_commit_was_one_is_asked_when_the_connection_was_cut_in_it(
    postgres_url: str,
    schema_name: str,
    start: Start,
    proxy: FaultProxy,
    url_through: str,
    direction: Any,
    after_bytes: int,
    runs: int,
    writes_before: bool,
) -> None:
    store = await start(url_through, Limits(patience_s=PATIENCE_S, connect_s=2, **SILENT))
    heard: list[Outgoing] = []
    store.committed = heard.extend
    cut = functools.partial(proxy.cut, after_bytes=after_bytes, direction=direction)
    work = Once(cut, writes_before=writes_before)
    neighbour = effect("b")
    assert await asyncio.gather(store.transact(neighbour), store.transact(work)) == [1, "done"]
    assert proxy.seen["cuts"] == 1
    assert work.runs == runs
    assert effects(postgres_url, schema_name) == ["a", "b"]
    assert ids_of(heard) == ["a"]
    assert await store.transact(lambda tx: tx.outbox.mine(10, 0)) == heard
    assert (await found(store, "a")).owner == store.instance
    assert await store.transact(finding("a"))


@pytest.mark.parametrize("direction", [REPLIES, REQUESTS], ids=["committed", "never committed"])
async def test_an_unknown_commit_is_reported_and_settled_later(
    postgres_url: str, schema_name: str, start: Start, proxy: FaultProxy, url_through: str, direction: Any
) -> None:
    store = await start(url_through, Limits(patience_s=0.5, connect_s=2, **SILENT))
    heard: list[Outgoing] = []
    store.committed = heard.extend
    told = asyncio.Event()
    (await start()).disturbed = told.set
    await store.transact(adding("before"))
    await asyncio.wait_for(told.wait(), PATIENCE_S)  # now the connection that listens has said all that it will

    def cut_off() -> None:
        proxy.refuse()
        proxy.cut(after_bytes=0, direction=direction)

    with pytest.raises(CommitUnknown, match="lost during the commit"):
        await store.transact(Once(cut_off))
    disturbed = asyncio.Event()
    store.disturbed = disturbed.set
    proxy.heal()
    await until_it_works(store, lambda _: None)
    await asyncio.wait_for(disturbed.wait(), PATIENCE_S)
    # Nobody here works on what was kept, so it is there for the taking; what was this instance's before still is.
    was_kept = direction is REPLIES
    taken = await store.transact(lambda tx: tx.inbox.take(10))
    assert [entry.key for entry in taken] == (["a"] if was_kept else [])
    assert ids_of(await store.transact(lambda tx: tx.outbox.take(10))) == (["a"] if was_kept else [])
    assert effects(postgres_url, schema_name) == (["a"] if was_kept else [])
    assert (await found(store, "before")).owner == store.instance
    assert not heard


async def test_a_connection_lost_within_a_transaction_is_made_again(
    postgres_url: str, schema_name: str, start: Start, proxy: FaultProxy, url_through: str
) -> None:
    store = await start(url_through)
    work = Once(proxy.reset)

    def careless(tx: Tx) -> str:
        """As the runtime does: the handler's failure is recorded, in the same transaction."""
        try:
            with tx.savepoint():
                if work.runs == 0:
                    proxy.reset()
                work(tx)
        except Exception as error:
            raise AssertionError("a handler's failure it is not") from error
        return "done"

    assert await store.transact(careless) == "done"
    assert effects(postgres_url, schema_name) == ["a"]
    assert work.runs >= 2


async def test_an_idle_connection_that_is_lost_is_made_again_before_anybody_needs_it(
    postgres_url: str, schema_name: str, start: Start
) -> None:
    store = await start(limits=HASTY)
    await store.transact(adding("a"))
    sessions = f"SELECT pid FROM pg_stat_activity WHERE application_name = 'minuet {schema_name}'"
    before = query(postgres_url, sessions)
    assert len(before) == 1
    query(
        postgres_url,
        f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'minuet {schema_name}'",
    )
    async with asyncio.timeout(PATIENCE_S):
        while query(postgres_url, sessions) in ([], before):
            await asyncio.sleep(0.02)
    other = await start()
    assert not await other.transact(lambda tx: tx.inbox.take(10))
    assert (await found(other, "a")).owner == store.instance


async def test_a_server_that_says_nothing_is_waited_for_only_so_long(
    postgres_url: str, schema_name: str, start: Start, proxy: FaultProxy, url_through: str
) -> None:
    limits = Limits(patience_s=1, connect_s=2, statement_s=0.5)
    store = await start(url_through, limits)
    await store.transact(effect("before"))
    proxy.black_hole()
    began = time.monotonic()
    with pytest.raises(Unavailable):
        await store.transact(effect("lost"))
    assert time.monotonic() - began < 25
    proxy.heal()
    await until_it_works(store, effect("later"))
    assert effects(postgres_url, schema_name) == ["before", "later"]


# The server goes


async def test_a_server_that_is_killed_and_started_again_loses_and_doubles_nothing(server: Server) -> None:
    store = opening(server.url, "orders", schema=SCHEMA, limits=PATIENT)
    await store.start()
    heard: list[Outgoing] = []
    store.committed = heard.extend
    total, done = 2000, 0

    async def one(number: int) -> str | None:
        nonlocal done
        name = f"{number:05}"

        def work(tx: Tx) -> str:
            effect(name)(tx)
            tx.outbox.add("orders", an_envelope(name))
            return name

        try:
            return await store.transact(work)
        except Unavailable:
            return None
        finally:
            done += 1

    async def lane(first: int) -> list[str | None]:
        return [await one(number) for number in range(first, total, 20)]

    async def killing() -> None:
        for part in (0.25, 0.5, 0.75):
            while done < total * part:
                await asyncio.sleep(0.001)
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.start)

    lanes, _ = await asyncio.gather(asyncio.gather(*map(lane, range(20))), killing())
    said = sorted(name for one_lane in lanes for name in one_lane if name)
    assert len(said) == total
    assert effects(server.url, "orders") == said
    assert sorted(ids_of(heard)) == said
    assert len(await store.transact(lambda tx: tx.outbox.mine(total + 1, 0))) == total
    await store.close()


async def test_while_the_server_is_away_callers_wait_only_so_long_and_then_all_is_well(server: Server) -> None:
    store = opening(server.url, "orders", schema=SCHEMA, limits=HASTY)
    await store.start()
    await store.transact(adding("mine"))
    await asyncio.to_thread(server.kill)
    began = time.monotonic()
    ends = await asyncio.gather(*(store.transact(effect(f"{n}")) for n in range(5)), return_exceptions=True)
    assert all(isinstance(end, Unavailable) for end in ends)
    assert time.monotonic() - began < 10
    disturbed = asyncio.Event()
    store.disturbed = disturbed.set
    await asyncio.to_thread(server.start)
    await asyncio.wait_for(disturbed.wait(), PATIENCE_S)
    await until_it_works(store, effect("after"))
    assert effects(server.url, "orders") == ["after"]
    assert (await found(store, "mine")).owner == store.instance
    await store.close()


async def test_closing_while_the_server_is_away_ends(server: Server) -> None:
    store = opening(server.url, "orders", schema=SCHEMA, limits=HASTY)
    await store.start()
    await asyncio.to_thread(server.kill)
    lost = asyncio.ensure_future(store.transact(effect("lost")))
    await asyncio.sleep(0)
    async with asyncio.timeout(PATIENCE_S):
        await store.close()
    with pytest.raises(Unavailable):
        await lost


async def test_a_server_that_only_reads_is_waited_for(server: Server) -> None:
    store = opening(server.url, "orders", schema=SCHEMA, limits=HASTY)
    await store.start()
    await store.transact(effect("before"))

    def set_read_only(value: str) -> None:
        with psycopg.connect(server.url, autocommit=True, options="-c default_transaction_read_only=off") as connection:
            connection.execute(f"ALTER SYSTEM SET default_transaction_read_only = {value}")  # type: ignore[call-overload]
            connection.execute("SELECT pg_reload_conf()")

    set_read_only("on")
    async with asyncio.timeout(PATIENCE_S):
        while (await asyncio.gather(store.transact(effect("before")), return_exceptions=True)) == [1]:
            pass
    began = time.monotonic()
    with pytest.raises(Unavailable):
        await store.transact(effect("lost"))
    assert time.monotonic() - began < 10
    set_read_only("off")
    await until_it_works(store, effect("later"))
    assert set(effects(server.url, "orders")) == {"before", "later"}
    await store.close()


async def test_a_database_that_cannot_be_reached_is_named_at_the_start_without_its_password() -> None:
    port = free_port()
    store = opening(f"postgresql://user:s3cret@127.0.0.1:{port}/orders", "orders", limits=HASTY)
    with pytest.raises(ConfigurationError, match=rf"//127\.0\.0\.1:{port}/orders cannot be reached") as caught:
        await store.start()
    assert "s3cret" not in "".join(map(repr, (caught.value, caught.value.__cause__, store)))


# Transactions that get in each other's way


async def test_a_deadlock_makes_one_of_the_two_begin_anew(postgres_url: str, schema_name: str, start: Start) -> None:
    first, second = await start(), await start()
    await first.transact(running("CREATE TABLE pair (name TEXT PRIMARY KEY, n INT)"))
    await first.transact(running("INSERT INTO pair VALUES ('a', 0), ('b', 0)"))
    both = threading.Barrier(2)

    def crossing(one: str, other: str) -> Callable[[Tx], int]:
        runs: list[int] = []

        def work(tx: Tx) -> int:
            runs.append(1)
            try:
                with tx.savepoint():
                    running("UPDATE pair SET n = n + 1 WHERE name = :name", name=one)(tx)
                    if len(runs) == 1:
                        both.wait(PATIENCE_S)
                    running("UPDATE pair SET n = n + 1 WHERE name = :name", name=other)(tx)
            except Exception as error:
                raise AssertionError("it is not the handler's") from error
            return len(runs)

        return work

    runs = await asyncio.gather(first.transact(crossing("a", "b")), second.transact(crossing("b", "a")))
    assert sorted(runs) == [1, 2]
    assert query(postgres_url, "SELECT name, n FROM pair ORDER BY name", schema_name) == [("a", 2), ("b", 2)]


FAILING = """
    CREATE SEQUENCE tries;
    CREATE FUNCTION fails(times INT) RETURNS VOID LANGUAGE plpgsql AS $$ BEGIN
        IF nextval('tries') <= times THEN RAISE EXCEPTION 'on purpose' USING ERRCODE = '40001'; END IF;
    END $$;
"""


@pytest.mark.parametrize("is_caught", [False, True])
async def test_a_serialization_failure_is_run_again_with_its_neighbours(
    postgres_url: str, schema_name: str, start: Start, is_caught: bool
) -> None:
    store = await start()
    await store.transact(running(FAILING))

    def failing(tx: Tx) -> str:
        effect("b")(tx)
        if is_caught:
            with contextlib.suppress(Exception), tx.savepoint():
                running("SELECT fails(2)")(tx)
        else:
            running("SELECT fails(2)")(tx)
        return "done"

    ends = await asyncio.gather(store.transact(effect("a")), store.transact(failing), store.transact(effect("c")))
    assert ends == [1, "done", 1]
    assert effects(postgres_url, schema_name) == ["a", "b", "c"]
    assert query(postgres_url, "SELECT last_value FROM tries", schema_name) == [(3,)]


async def test_who_fails_to_serialize_for_ever_fails_alone(postgres_url: str, schema_name: str, start: Start) -> None:
    store = await start()
    await store.transact(running(FAILING))
    works = [effect("a"), running("SELECT fails(1000000)"), effect("c")]
    ends = await asyncio.gather(*map(store.transact, works), return_exceptions=True)
    assert isinstance(ends[1], psycopg.errors.SerializationFailure)
    assert effects(postgres_url, schema_name) == ["a", "c"]


async def test_who_kills_the_connection_each_time_fails_alone(
    postgres_url: str, schema_name: str, start: Start
) -> None:
    store = await start()
    works = [effect("a"), running("SELECT pg_terminate_backend(pg_backend_pid())"), effect("c")]
    ends = await asyncio.gather(*map(store.transact, works), return_exceptions=True)
    assert isinstance(ends[1], psycopg.OperationalError)
    assert effects(postgres_url, schema_name) == ["a", "c"]


async def test_a_statement_that_takes_too_long_fails_alone(postgres_url: str, schema_name: str, start: Start) -> None:
    store = await start(limits=Limits(statement_s=0.5))
    works = [effect("a"), running("SELECT pg_sleep(60)"), effect("c")]
    ends = await asyncio.gather(*map(store.transact, works), return_exceptions=True)
    assert isinstance(ends[1], psycopg.errors.QueryCanceled)
    assert effects(postgres_url, schema_name) == ["a", "c"]


async def test_a_failure_in_a_crowd_that_has_written_is_undone_alone(
    postgres_url: str, schema_name: str, start: Start
) -> None:
    store = await start()

    def broken(tx: Tx) -> None:
        effect("lost")(tx)
        raise Broken

    works = [broken if n % 7 == 3 else effect(f"{n:03}") for n in range(100)]
    ends = await asyncio.gather(*map(store.transact, works), return_exceptions=True)
    assert [isinstance(end, Broken) for end in ends] == [n % 7 == 3 for n in range(100)]
    assert effects(postgres_url, schema_name) == [f"{n:03}" for n in range(100) if n % 7 != 3]
