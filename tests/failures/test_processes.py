"""What happens to processes and their files: one bad row, a new version, power, a backup that is put back.

Kills, stops and two of a kind are in ``tests/acceptance/test_kills.py`` and in the simulator.
"""

import asyncio
import re
import shutil
import sqlite3
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp
import psycopg
import pytest

from minuet import Database, Settings, System, running
from minuet_shop import app as shop
from minuet_shop.contracts import GetOrder, OrderView, PlaceOrder, ProcessPayment
from minuet_shop.outside import GatewayLedger
from tests.acceptance.grounds import PostgresDatabase
from tests.failures.programs import program
from tests.failures.shop import SAGA, Conduct, at_work, effects, ended, order_app, place, until

EMBEDDED = {"*": "embedded:"}
BOTH = pytest.mark.parametrize("coordination", ["choreography", "orchestration"])

# 9

BAD: dict[str, dict[str, Any]] = {
    "attributes that are not JSON": {"attributes": "{not json"},
    "attributes that say nothing": {"attributes": "{}"},
    "attributes that are a list": {"attributes": "[]"},
    "a body that is not JSON": {"body": b"\xff{"},
    "a handler that is gone": {"handler": "Gone"},
    "an answer that is none": {"answer_attributes": "nonsense", "answer_body": b"x"},
}
COLUMNS = ("key", "handler", "saga", "saga_id", "attributes", "body", "digest", "state", "attempts", "due_at", "owner")
COLUMNS += ("waits_for", "answer_attributes", "answer_body", "error", "changed_at")


def bad_row(good: Mapping[str, Any], **changed: Any) -> dict[str, Any]:
    """As if it were left behind by a process that died."""
    row = {name: good[name] for name in COLUMNS}
    row |= {"key": "Order/bad/reserve", "saga_id": "bad", "state": "due", "owner": None}
    return row | {"answer_attributes": None, "answer_body": None} | changed


async def others_go_on(system: System, kind: str) -> None:
    await place(system, "after")
    assert await ended(system, "after") == {"after": "completed"}

    async def dealt_with() -> bool:
        parked = await system.observer.parked()
        attempts = (await system.observer.saga("bad", SAGA)).attempts
        is_refused = any(one.answer == "StepRefused" for one in attempts)
        return is_refused or any(one.id == "stock:Order/bad/reserve" and one.reason for one in parked)

    await until(dealt_with, f"{kind} is parked or refused")


@pytest.mark.parametrize("kind", BAD)
async def test_9_a_row_that_cannot_be_loaded_is_parked_and_the_service_starts(tmp_path: Path, kind: str) -> None:
    async with at_work(order_app(), EMBEDDED, tmp_path) as system:
        await place(system, "before")
        await ended(system, "before")
        await system.drained()
    with closing(sqlite3.connect(tmp_path / "stock.db")) as database:
        database.row_factory = sqlite3.Row
        (good,) = database.execute("SELECT * FROM minuet_inbox WHERE handler = 'Reserve'").fetchall()
        row = bad_row(good, **BAD[kind])
        marks = ", ".join("?" * len(row))
        database.execute(f"INSERT INTO minuet_inbox ({', '.join(row)}) VALUES ({marks})", [*row.values()])
        database.commit()
    for _ in range(2):  # and again, so that nobody is only lucky the first time
        async with at_work(order_app(), EMBEDDED, tmp_path) as system:
            await others_go_on(system, kind)
            assert [one for one in await effects(system, "stock") if one[1] == "bad"] == []


async def test_9_a_message_that_cannot_be_loaded_is_parked_and_others_go_out(tmp_path: Path) -> None:
    async with at_work(order_app(), EMBEDDED, tmp_path) as system:
        await place(system, "before")
        await ended(system, "before")
        await system.drained()
    with closing(sqlite3.connect(tmp_path / "stock.db")) as database:
        database.execute("INSERT INTO minuet_outbox (channel, attributes, body) VALUES ('stock', '{bad', x'7b7d')")
        database.commit()
    async with at_work(order_app(), EMBEDDED, tmp_path) as system:
        await place(system, "after")
        assert await ended(system, "after") == {"after": "completed"}
        (parked,) = await system.observer.parked()
        assert parked.id.startswith("stock:outbox/")
        assert "cannot be read" in parked.reason
        assert (parked.body, parked.attributes) == (b"{}", {"unreadable": "{bad"})
        await system.observer.forget(parked.id)
        assert not await system.observer.parked()


@pytest.mark.server
@pytest.mark.parametrize("kind", [kind for kind in BAD if kind != "a handler that is gone"])
async def test_9_the_same_on_postgres(tmp_path: Path, postgres_url: str, kind: str) -> None:
    database = PostgresDatabase(postgres_url, f"failures-{uuid.uuid4().hex}")
    try:
        settings = Settings(data=tmp_path, channels=EMBEDDED, stores={"stock": database.url}, grace_s=5.0)
        provided: dict[type[Any], Any] = {Conduct: Conduct()}
        async with running(order_app(), settings, provided=provided) as system:
            await place(system, "before")
            await ended(system, "before")
            await system.drained()
        with psycopg.connect(database.url, autocommit=True, row_factory=psycopg.rows.dict_row) as connection:
            connection.execute(b"SET search_path = stock")
            good = connection.execute("SELECT * FROM minuet_inbox WHERE handler = 'Reserve'").fetchone()
            assert good is not None
            row = bad_row(good, **BAD[kind])
            marks = ", ".join(["%s"] * len(row))
            connection.execute(
                f"INSERT INTO minuet_inbox ({', '.join(row)}) VALUES ({marks})".encode(), [*row.values()]
            )
        async with running(order_app(), settings, provided=provided) as system:
            await others_go_on(system, kind)
    finally:
        database.clear()


# 10


@pytest.mark.slow
@pytest.mark.acceptance
@BOTH
async def test_10_sagas_that_run_while_the_app_is_replaced_finish_under_their_own_definition(
    tmp_path: Path, coordination: str
) -> None:
    """Real processes: 12 orders are in the middle when the first version is stopped, 12 more begin under the second."""
    data, way = tmp_path / "data", ("--coordination", f"Order={coordination}")
    early, late = [f"early-{n}" for n in range(12)], [f"late-{n}" for n in range(12)]
    with program("tests.failures.upgrade:before", data, *way) as first:
        await first.ready()
        for order in early:
            assert (await first.ask("POST", "/orders", {"orderId": order})).status == 200
        await until(lambda: done_in(data, "works", early, 1), "the first step of each order is done")
        assert await first.stop() == 0
    with program("tests.failures.upgrade:after", data, *way) as second:
        await second.ready()
        for order in late:
            assert (await second.ask("POST", "/orders", {"orderId": order})).status == 200
        await until(lambda: done_in(data, "works", late, 1), "the first step of each new order is done")
        (data / "open").touch()
        await until(lambda: done_in(data, "orders", [*early, *late], 1), "all orders are closed")
        assert await second.stop() == 0
    steps = steps_of(data, "works")
    assert {steps[order] for order in early} == {("Reserve", "Charge")}
    assert {steps[order] for order in late} == {("Charge", "Reserve")}
    assert steps_of(data, "orders") == dict.fromkeys([*early, *late], ("Close",))


def steps_of(data: Path, service: str) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    with closing(sqlite3.connect(f"file:{data / service}.db?mode=ro", uri=True, timeout=10)) as database:
        for what, name in database.execute("SELECT what, name FROM effects ORDER BY position"):
            found[name] = (*found.get(name, ()), what)
    return found


async def done_in(data: Path, service: str, orders: list[str], count: int) -> bool:
    steps = steps_of(data, service)
    return all(len(steps.get(order, ())) == count for order in orders)


# 11


async def test_11_every_database_is_synchronous(tmp_path: Path) -> None:
    """What SQLite promises then: a commit returns when the disk has it."""
    async with at_work(order_app(), EMBEDDED, tmp_path) as system:
        for service, store in system.stores.items():

            def look(tx: Any) -> tuple[int, str]:
                database = tx.handle(Database)
                synchronous, mode = database.one("PRAGMA synchronous"), database.one("PRAGMA journal_mode")
                return synchronous["synchronous"], mode["journal_mode"]

            assert await store.transact(look, reads_only=True) == (2, "wal"), service
        (transport,) = system.transports.values()
        cursor = transport._database._transaction  # type: ignore[attr-defined]
        assert cursor.execute("PRAGMA synchronous").fetchall() == [(2,)]


CALL = re.compile(r"^(?P<pid>\d+) +(?P<call>.*)$")


@pytest.mark.server  # it needs a program from outside: strace
@pytest.mark.acceptance
async def test_11_the_disk_has_it_before_anybody_hears_of_it(tmp_path: Path) -> None:
    """Seen from the kernel: of what was written to the log of the service that took the order, nothing is unsynced when
    the reply goes out."""
    assert shutil.which("strace"), "install strace: it shows what the kernel is asked for"
    record = tmp_path / "calls"
    watch = ["strace", "-f", "-y", "-s", "40", "-o", str(record), "-e", "trace=pwrite64,fdatasync,fsync,sendto,sendmsg"]
    with program("tests.failures.upgrade:before", tmp_path / "data", under=watch) as watched:
        await watched.ready()
        for number in range(5):
            answer = await watched.ask("POST", "/orders", {"orderId": f"o{number}"})
            assert answer.status == 200, answer
        await watched.stop()
    replies, unsynced, syncs = 0, 0, 0
    for line in completed(record.read_text().splitlines()):
        if line.startswith("pwrite64(") and "/orders.db-wal>" in line:
            unsynced += 1
        elif line.startswith(("fdatasync(", "fsync(")) and "/orders.db-wal>" in line and line.endswith("= 0"):
            unsynced, syncs = 0, syncs + 1
        elif line.startswith(("sendto(", "sendmsg(")) and '"HTTP/1.1 200' in line:
            replies += 1
            assert not unsynced, f"reply {replies} went out while {unsynced} pages were not on the disk"
            assert syncs, f"nothing was synced before reply {replies}"
            syncs = 0
    assert replies == 5


def completed(lines: list[str]) -> list[str]:
    """The calls in the order in which they began, but for what syncs: that counts when it has ended."""
    begun: dict[str, str] = {}
    found = []
    for line in lines:
        match = CALL.match(line)
        if match is None:
            continue
        pid, call = match["pid"], match["call"]
        if call.endswith("<unfinished ...>"):
            begun[pid] = call.removesuffix("<unfinished ...>").strip()
            if "sync(" not in call:
                found.append(begun[pid])
        elif call.startswith("<... "):
            resumed = begun.pop(pid, "") + call.partition("resumed>")[2].strip()
            if "sync(" in resumed:
                found.append(resumed)
        else:
            found.append(call)
    return found


# 12


@asynccontextmanager
async def shop_at_work(data: Path, coordination: str) -> AsyncIterator[System]:
    settings = Settings(data=data, coordination={"OrderProcessing": coordination}, port=0, grace_s=5.0)  # type: ignore[dict-item]
    async with running(shop, settings, serve=True) as system:
        yield system


async def order(system: System, *names: str) -> None:
    wishes = [PlaceOrder(order_id=name, customer_id="C1", items=["ITEM001"]) for name in names]
    await asyncio.gather(*map(system.send, wishes))


async def shipped(system: System, *names: str) -> bool:
    async with asyncio.timeout(40):
        for name in names:
            await system.ended("OrderProcessing", name)
    views = [await system.ask(GetOrder(order_id=name)) for name in names]
    return all(isinstance(view, OrderView) and view.status == "SHIPPED" for view in views)


async def charges(system: System) -> dict[str, list[Decimal]]:
    """What the payment company took for each order."""
    async with aiohttp.ClientSession() as http, http.get(f"{system.url}/sandbox/gateway/ledger") as reply:
        ledger = GatewayLedger.model_validate_json(await reply.text())
    found: dict[str, list[Decimal]] = {}
    for one in ledger.charges:
        found.setdefault(one.order_id, []).append(one.amount)
    return found


async def behave(system: System, **behaviour: float) -> None:
    async with (
        aiohttp.ClientSession() as http,
        http.put(f"{system.url}/sandbox/gateway/behaviour", json=behaviour) as reply,
    ):
        assert reply.status == 200, await reply.text()


def copied(data: Path, service: str, to: Path) -> None:
    assert not (data / f"{service}.db-wal").exists(), "a clean stop leaves one file"
    shutil.copy(data / f"{service}.db", to)


@pytest.mark.slow
@BOTH
@pytest.mark.parametrize("service", ["orders", "payment", "inventory", "shipping"])
async def test_12_a_store_that_is_put_back_from_a_backup_charges_nobody_twice(
    tmp_path: Path, coordination: str, service: str
) -> None:
    """What it had done since is gone from its books, but not from the world: asked again, it is not done again.

    Orders has forgotten how b1 and b2 ended, and nobody who knows is asked; see docs/failures.md.
    """
    data, backup = tmp_path / "data", tmp_path / "backup"
    async with shop_at_work(data, coordination) as system:
        await order(system, "a1", "a2")
        assert await shipped(system, "a1", "a2")
        await system.drained()
    copied(data, service, backup)
    async with shop_at_work(data, coordination) as system:
        await order(system, "b1", "b2")
        assert await shipped(system, "b1", "b2")
        await system.drained()
    shutil.copy(backup, data / f"{service}.db")
    async with shop_at_work(data, coordination) as system:
        await order(system, "b1", "b2", "c1")  # the customers of what is lost ask again
        for name in ("b1", "b2"):  # and so does somebody at payment
            amount = (await charges(system))[name][0]
            await system.send(ProcessPayment(order_id=name, customer_id="C1", amount=amount))
        assert await shipped(system, "a1", "a2", "c1", *(() if service == "orders" else ("b1", "b2")))
        assert {name: len(found) for name, found in (await charges(system)).items()} == dict.fromkeys(
            ["a1", "a2", "b1", "b2", "c1"], 1
        )


@pytest.mark.slow
async def test_12_an_orchestrator_that_is_put_back_asks_again_and_ends_every_saga(tmp_path: Path) -> None:
    """The backup is from the middle of two orders; whoever is asked again answers what he answered before."""
    data, backup = tmp_path / "data", tmp_path / "backup"
    async with shop_at_work(data, "orchestration") as system:
        await behave(system, failBefore=1.0)
        await order(system, "a1", "a2")

        async def at_payment() -> bool:
            views = [await system.observer.saga(name) for name in ("a1", "a2")]
            return all(any("ProcessPayment" in one.command for one in view.waiting) for view in views)

        await until(at_payment, "both wait for the payment company")
    copied(data, "orchestrator", backup)
    async with shop_at_work(data, "orchestration") as system:
        await order(system, "b1")
        assert await shipped(system, "a1", "a2", "b1")
        await system.drained()
    shutil.copy(backup, data / "orchestrator.db")
    async with shop_at_work(data, "orchestration") as system:

        async def nothing_waits() -> bool:
            views = [await system.observer.saga(name) for name in ("a1", "a2")]
            rows = await system.stores["orchestrator"].transact(
                lambda tx: tx.handle(Database).one("SELECT count(*) AS due FROM minuet_inbox WHERE state = 'due'"),
                reads_only=True,
            )
            return rows["due"] == 0 and all(view.status == "completed" for view in views)

        await until(nothing_waits, "the orchestrator has asked again and heard the same")
        assert {name: len(found) for name, found in (await charges(system)).items()} == {"a1": 1, "a2": 1, "b1": 1}
        assert not await system.observer.parked()
