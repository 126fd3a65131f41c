"""What happens to data: sold twice, a database that fails at the worst moment, a full disk, damage, money.

Deadlocks, serialization failures and commits of unknown outcome are in ``tests/contract/test_postgres_outages.py``.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import shutil
import sqlite3
import subprocess
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minuet import App, Command, Event, NotYet, Refusal, Service, Settings, System, running
from minuet.app import Database
from minuet.core.errors import ConfigurationError
from minuet_shop.contracts import ImportOrder, OrderPriced
from minuet_shop.tables import from_cents, to_cents
from tests.acceptance.grounds import PostgresDatabase
from tests.failures.shop import DONE, Place, at_work, ended, order_app, place, until
from tests.faults import REPLIES, REQUESTS, Direction, FaultProxy
from tests.servers import private_server

EMBEDDED = {"*": "embedded:"}
DOERS = ("orders", "stock", "billing", "shipping")
PIECES = 5


async def insists(system: System, *order_ids: str) -> None:
    """Place orders, each as often as it takes: "not yet" is an answer, and so is whatever a store says."""

    async def one(order_id: str) -> None:
        async with asyncio.timeout(90):
            while True:
                try:
                    await system.send(Place(order_id=order_id), wait_s=5)
                except NotYet as later:
                    await asyncio.sleep(min(later.retry_after_s, 0.2))
                else:
                    return

    await asyncio.gather(*map(one, order_ids))


async def each_step_once(system: System, *order_ids: str) -> None:
    assert set((await ended(system, *order_ids, within_s=90)).values()) == {"completed"}
    done: dict[str, list[str]] = {one: [] for one in order_ids}
    for service in DOERS:
        for row in await system.stores[service].transact(effects, reads_only=True):
            done.setdefault(row["name"], []).append(row["what"])
    assert {one: sorted(done[one]) for one in order_ids} == dict.fromkeys(order_ids, DONE)


def effects(tx: Any) -> list[Any]:
    return list(tx.handle(Database).all("SELECT what, name FROM effects"))


@pytest.fixture
def database(postgres_url: str) -> Iterator[PostgresDatabase]:
    made = PostgresDatabase(postgres_url, f"failures-{uuid.uuid4().hex}")
    yield made
    made.clear()


# 54


class Taken(Event, channel="stock"):
    order_id: str


class Gone(Refusal, channel="stock"):
    order_id: str


class Take(Command, service="stock", answers=(Taken, Gone), key="order_id"):
    order_id: str


SHELF = """
CREATE TABLE IF NOT EXISTS shelf (item TEXT PRIMARY KEY, reserved INTEGER NOT NULL);
INSERT INTO shelf (item, reserved) VALUES ('a', 0) ON CONFLICT DO NOTHING;
"""
ONE_STATEMENT = f"UPDATE shelf SET reserved = reserved + 1 WHERE item = 'a' AND reserved < {PIECES}"


def careful(database: Database) -> bool:
    """Looks and acts in one statement, as the shop does."""
    return database.execute(ONE_STATEMENT) == 1


def locking(database: Database) -> bool:
    """Looks, then acts, and lets nobody come between."""
    row = database.one("SELECT reserved FROM shelf WHERE item = 'a' FOR UPDATE")
    assert row is not None
    if row["reserved"] >= PIECES:
        return False
    return database.execute("UPDATE shelf SET reserved = :n WHERE item = 'a'", n=row["reserved"] + 1) == 1


def naive(database: Database) -> bool:
    """Looks, waits a moment, and writes what it thinks."""
    row = database.one("SELECT reserved, pg_sleep(0.01) AS pause FROM shelf WHERE item = 'a'")
    assert row is not None
    if row["reserved"] >= PIECES:
        return False
    return database.execute("UPDATE shelf SET reserved = :n WHERE item = 'a'", n=row["reserved"] + 1) == 1


def shelf_app(take_one: Callable[[Database], bool]) -> App:
    stock = Service("stock", schema=SHELF)

    @stock.handles(Take)
    def take(command: Take, database: Database) -> Taken | Gone:
        return Taken(order_id=command.order_id) if take_one(database) else Gone(order_id=command.order_id)

    return App("shelf", services=[stock])


async def taken_by_four(server: PostgresDatabase, data: Path, take_one: Callable[[Database], bool]) -> tuple[int, int]:
    """How many of forty who want one get one, from four processes' worth of stores; and what the shelf says."""
    async with contextlib.AsyncExitStack() as stack:
        four = [
            await stack.enter_async_context(
                running(shelf_app(take_one), Settings(data=data / str(n), stores={"stock": server.url}))
            )
            for n in range(4)
        ]
        answers = await asyncio.gather(*(four[n % 4].send(Take(order_id=f"o{n}"), wait_s=30) for n in range(40)))
    with psycopg.connect(server.url) as connection:
        ((reserved,),) = connection.execute("SELECT reserved FROM stock.shelf").fetchall()
    return Counter(type(answer).__name__ for answer in answers)["Taken"], reserved


@pytest.mark.server
@pytest.mark.parametrize("take_one", [careful, locking])
async def test_54_four_at_once_at_read_committed_lose_no_update(
    tmp_path: Path, database: PostgresDatabase, take_one: Callable[[Database], bool]
) -> None:
    assert await taken_by_four(database, tmp_path, take_one) == (PIECES, PIECES)


@pytest.mark.server
async def test_54_a_handler_that_looks_and_then_writes_is_not_protected(
    tmp_path: Path, database: PostgresDatabase
) -> None:
    """Transactions are READ COMMITTED, so this is the handler's affair. That it goes wrong shows that the test above
    would notice."""
    got, reserved = await taken_by_four(database, tmp_path, naive)
    assert got > PIECES >= reserved


# 56, 57


@pytest.fixture
async def proxy(postgres_url: str) -> AsyncIterator[FaultProxy]:
    host, port = postgres_url.rpartition("@")[2].rpartition("//")[2].partition("/")[0].rsplit(":", 1)
    with FaultProxy(host, int(port)) as made:
        yield made


def through(proxy: FaultProxy, url: str) -> str:
    before, _, name = url.rpartition("/")
    return f"{before.rpartition(':')[0]}:{proxy.port}/{name}"


@pytest.mark.server
@pytest.mark.timeout(300)
@pytest.mark.parametrize("direction", [REQUESTS, REPLIES], ids=["requests", "replies"])
async def test_56_a_connection_that_is_cut_anywhere_also_at_a_commit_does_nothing_twice(
    tmp_path: Path, database: PostgresDatabase, proxy: FaultProxy, direction: Direction
) -> None:
    """All services on one PostgreSQL behind a proxy that cuts after so many bytes, while orders are under way."""
    names = [f"o{number}" for number in range(60)]
    stores = {"default": through(proxy, database.url)}
    async with at_work(order_app(), EMBEDDED, tmp_path, stores=stores) as system:
        await insists(system, "first")
        cuts = 0
        for number, after_bytes in enumerate((0, 1, 7, 50, 333, 1000, 2500, 4000, 7777, 12_000)):
            proxy.cut(after_bytes=after_bytes, direction=direction)
            these = names[number * 6 : number * 6 + 6]
            await insists(system, *these)
            await asyncio.to_thread(proxy.await_cut)
            cuts += 1
        await each_step_once(system, "first", *names)
        assert proxy.seen["cuts"] >= cuts


@pytest.mark.server
@pytest.mark.timeout(300)
async def test_57_a_database_that_only_reads_and_one_that_is_restarted_leave_no_half_saga(
    tmp_path: Path, servers_path: Path
) -> None:
    """Nobody waits longer than 15 seconds for it; what was not answered may be asked again, and is done once."""
    with private_server("postgres", servers_path / "postgres") as server:
        async with at_work(order_app(), EMBEDDED, tmp_path, stores={"default": server.url}) as system:
            await place(system, "first")
            set_read_only(server.url, "on")
            began = asyncio.get_running_loop().time()

            async def refused() -> bool:
                try:
                    await system.send(Place(order_id=f"during-{uuid.uuid4().hex}"), wait_s=1)
                except NotYet:
                    return True
                return False

            await until(refused, "an order is put off while the database only reads")
            assert asyncio.get_running_loop().time() - began < 40
            set_read_only(server.url, "off")
            names = [f"o{number}" for number in range(40)]
            placing = asyncio.create_task(insists(system, *names))
            await asyncio.sleep(0.1)
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.start)
            await placing
            await each_step_once(system, "first", *names)


def set_read_only(url: str, value: str) -> None:
    with psycopg.connect(url, autocommit=True, options="-c default_transaction_read_only=off") as connection:
        connection.execute(f"ALTER SYSTEM SET default_transaction_read_only = {value}".encode())
        connection.execute(b"SELECT pg_reload_conf()")


# 58


@contextlib.contextmanager
def tmpfs(folder: Path) -> Iterator[Callable[[bool], None]]:
    """A file system of 4 MB; the function fills it, or makes room again."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder], check=True)
    ballast = folder / "ballast"

    def fill(is_full: bool) -> None:
        ballast.unlink(missing_ok=True)
        if is_full:
            with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
                while True:
                    file.write(b"x" * 4096)

    try:
        yield fill
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@contextlib.contextmanager
def files_that_grow_no_more(folder: Path) -> Iterator[Callable[[bool], None]]:
    """As a quota does it, also for who may not mount: no file gets longer than it is."""
    folder.mkdir()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(is_full: bool) -> None:
        sizes = [file.stat().st_size for file in folder.rglob("*.db-wal")]
        soft = min(sizes, default=0) if is_full else before[0]
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, before[1]))

    try:
        yield fill
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def may_mount(folder: Path) -> bool:
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    done = subprocess.run(mount, check=False, capture_output=True)
    if done.returncode == 0:
        subprocess.run(["umount", "--lazy", folder], check=True)
    return done.returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["disk", "quota"])
async def test_58_a_full_disk_refuses_and_when_there_is_room_again_all_goes_on(tmp_path: Path, kind: str) -> None:
    """Everything of all services is on it. What was not answered may be asked again, and is done once."""
    small = tmpfs if kind == "disk" and may_mount(tmp_path / "try") else files_that_grow_no_more
    names = [f"o{number}" for number in range(30)]
    with small(tmp_path / "data") as fill:
        async with at_work(order_app(), EMBEDDED, tmp_path / "data") as system:
            await place(system, "first")
            assert await ended(system, "first") == {"first": "completed"}
            fill(True)
            note = "n" * 60_000

            async def refused() -> bool:
                try:
                    await system.send(Place(order_id=f"x-{uuid.uuid4().hex}", note=note), wait_s=1)
                except NotYet:
                    return True
                return False

            await until(refused, "an order is put off because there is no room")
            fill(False)
            await insists(system, *names)
            await each_step_once(system, "first", *names)
            for service in system.stores:
                check = await system.stores[service].transact(integrity, reads_only=True)
                assert check == "ok", service


def integrity(tx: Any) -> str:
    row = tx.handle(Database).one("PRAGMA integrity_check")
    return str(row["integrity_check"])


# 59


async def one_order(data: Path, *names: str) -> None:
    async with at_work(order_app(), EMBEDDED, data) as system:
        await place(system, *names)
        await ended(system, *names)
        await system.drained()


@pytest.mark.parametrize("content", [b"\0", b"\xa5"], ids=["zeros", "rubbish"])
async def test_59_a_service_does_not_start_on_a_file_of_which_any_page_is_damaged(
    tmp_path: Path, content: bytes
) -> None:
    """Of a free page, of which nothing is read, nothing is told; then every row is as it was."""
    await one_order(tmp_path, *(f"o{number}" for number in range(20)))
    file = tmp_path / "stock.db"
    whole = file.read_bytes()
    rows = dump(file)
    page_bytes = int.from_bytes(whole[16:18], "big")
    pages = len(whole) // page_bytes
    told: list[str] = []
    for page in range(pages):
        damaged = bytearray(whole)
        damaged[page * page_bytes : (page + 1) * page_bytes] = content * page_bytes
        file.write_bytes(damaged)
        try:
            async with at_work(order_app(), EMBEDDED, tmp_path, services=["stock"]):
                pass
        except ConfigurationError as error:
            told.append(str(error))
            assert file.read_bytes() == bytes(damaged), "it was changed"
        else:
            assert dump(file) == rows, f"it started with page {page} damaged"
    assert len(told) >= 15
    assert all("stock.db is not a SQLite database, or is damaged" in one for one in told)
    assert all("restore it from a backup" in one for one in told)
    file.write_bytes(whole)
    await one_order(tmp_path, "after")


def dump(file: Path) -> list[str]:
    with contextlib.closing(sqlite3.connect(file)) as database:
        return list(database.iterdump())


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "header": lambda log: b"\0" * 32 + log[32:],
    "a page in the middle": lambda log: changed(log, len(log) // 3, 512),
    "one bit in the middle": lambda log: changed(log, len(log) // 3, 1),
}


def changed(content: bytes, at: int, count: int) -> bytes:
    return content[:at] + bytes(one ^ 0x5A for one in content[at : at + count]) + content[at + count :]


@pytest.mark.parametrize("damage", DAMAGES)
async def test_59_a_service_does_not_start_on_a_log_of_which_a_part_is_damaged(tmp_path: Path, damage: str) -> None:
    """SQLite takes the damage for the end of the log, and would leave out what stands behind it without a word."""
    crashed = await log_of_a_crash(tmp_path)
    log = crashed / "stock.db-wal"
    whole = log.read_bytes()
    log.write_bytes(DAMAGES[damage](whole))
    before = log.read_bytes()
    for _ in range(2):  # it is not the first start that takes the evidence away
        with pytest.raises(ConfigurationError, match=r"(?s)write-ahead log is damaged.*restore it from a backup"):
            async with at_work(order_app(), EMBEDDED, crashed):
                raise AssertionError("it started")
        assert log.read_bytes() == before
    log.write_bytes(whole)
    await one_order(crashed, "after")


async def test_59_a_log_that_is_cut_off_is_the_state_of_an_earlier_moment(tmp_path: Path) -> None:
    """Nobody can tell it from a crash. What was committed later is lost as by an old backup, and never half of it."""
    crashed = await log_of_a_crash(tmp_path)
    log = crashed / "stock.db-wal"
    whole = log.read_bytes()
    for part in (0.9, 0.6, 0.3):
        log.write_bytes(whole[: int(len(whole) * part)])
        for left in crashed.glob("stock.db-shm"):
            left.unlink()
        shutil.copy(tmp_path / "stock.db.whole", crashed / "stock.db")
        with contextlib.closing(sqlite3.connect(crashed / "stock.db")) as database:
            done = database.execute("SELECT count(*) FROM minuet_inbox WHERE state = 'done'").fetchall()
            rows = database.execute("SELECT count(*) FROM effects WHERE what = 'Reserve'").fetchall()
            assert done == rows, "half of a transaction"
            assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


async def log_of_a_crash(tmp_path: Path) -> Path:
    """What a process leaves behind that is killed after twenty orders: copies of its files as they are then."""
    crashed = tmp_path / "crashed"
    async with at_work(order_app(), EMBEDDED, tmp_path / "data") as system:
        for number in range(20):
            await place(system, f"o{number}")
            await ended(system, f"o{number}")
        await system.drained()
        shutil.copytree(tmp_path / "data", crashed, ignore=shutil.ignore_patterns("*.locks", "*-shm"))
    shutil.copy(crashed / "stock.db", tmp_path / "stock.db.whole")
    return crashed


# 61


@given(
    prices=st.lists(
        st.decimals(min_value=0, max_value=Decimal("9999999.99"), places=2, allow_nan=False), min_size=1, max_size=50
    )
)
def test_61_an_amount_is_the_sum_of_its_prices_to_the_cent_wherever_it_travels(prices: list[Decimal]) -> None:
    """As JSON numbers, in cents in a table, and back: nothing is rounded on the way."""
    wanted = ImportOrder(order_id="o1", customer_id="c1", items=["a"] * len(prices), prices=prices)
    read = ImportOrder.model_validate_json(wanted.model_dump_json(by_alias=True))
    assert read.amount == sum(prices)
    assert from_cents(to_cents(read.amount)) == sum(prices)
    event = OrderPriced(order_id="o1", customer_id="c1", items=["a"], amount=read.amount, status="PENDING")
    assert OrderPriced.model_validate_json(event.model_dump_json(by_alias=True)).amount == sum(prices)


@pytest.mark.parametrize(
    "price", ["0.001", "-0.01", "NaN", "Infinity", "1e3000", '"1,50"', "10000000.00", "true", "[1]"]
)
def test_61_what_is_no_price_is_no_price(price: str) -> None:
    text = f'{{"orderId": "o1", "customerId": "c1", "items": ["a"], "prices": [{price}]}}'
    with pytest.raises(ValueError, match="prices"):
        ImportOrder.model_validate_json(text)
