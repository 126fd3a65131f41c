"""What can be wrong with a file, a disk or a handler, and what SQLite's store then does."""

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from minuet.adapters.sqlite import SqliteStore, tables
from minuet.adapters.sqlite.schema import statements_of
from minuet.adapters.system import SystemIds
from minuet.core.errors import ConfigurationError, DefinitionError, MinuetBug
from minuet.ports import Tx
from minuet.testing.store_contract.examples import Broken, adding, finding, sending

SCHEMA = """
CREATE TABLE IF NOT EXISTS stock (item TEXT PRIMARY KEY, quantity INTEGER CHECK (quantity >= 0)); -- a comment; with one
CREATE TABLE IF NOT EXISTS log (item TEXT);
CREATE TRIGGER IF NOT EXISTS logged AFTER INSERT ON stock BEGIN INSERT INTO log VALUES (new.item); SELECT 1; END;
"""


def opening(path: Path, **options: Any) -> SqliteStore:
    return SqliteStore(path, ids=SystemIds(), **options)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = opening(tmp_path / "service.db", schema=SCHEMA)
    await store.start()
    yield store
    await store.close()


def running(sql: str, *values: Any) -> Callable[[Tx], list[Any]]:
    def work(tx: Tx) -> list[Any]:
        db: sqlite3.Connection = tx.handle(sqlite3.Connection)
        return db.execute(sql, values).fetchall()

    return work


def stocking(item: str) -> Callable[[Tx], list[Any]]:
    return running("INSERT INTO stock VALUES (?, 1)", item)


async def items(store: SqliteStore) -> list[str]:
    return [item for (item,) in await store.transact(running("SELECT item FROM stock ORDER BY rowid"))]


# Files


@pytest.mark.parametrize("content", [b"this is not a database, and long enough to be read as one" * 20, b"x" * 5000])
async def test_a_file_that_is_no_database_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "service.db"
    file.write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"service\.db is not a SQLite database, or is damaged.*backup"):
        await opening(file).start()
    assert file.read_bytes() == content


async def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "service.db"
    store = opening(file)
    await store.start()
    await asyncio.gather(*(store.transact(adding(f"e-{n}")) for n in range(500)))
    await store.close()
    content = bytearray(file.read_bytes())
    for page in range(3, len(content) // 4096):
        content[page * 4096 : page * 4096 + 512] = b"\xa5" * 512
    file.write_bytes(content)
    with pytest.raises(ConfigurationError, match="damaged"):
        await opening(file).start()


async def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "service.db").mkdir()
    with pytest.raises(ConfigurationError, match="cannot be"):
        await opening(tmp_path / "service.db").start()


async def test_a_file_of_an_earlier_version_is_brought_up_to_date(tmp_path: Path, store: SqliteStore) -> None:
    await store.transact(lambda tx: tx.read_models.put("GetOrder", "o-1", b"1", 5.0))
    await store.transact(running("ALTER TABLE minuet_read_models DROP COLUMN as_of"))
    await store.transact(running("DROP TABLE minuet_audit"))
    await store.transact(running("DROP TABLE minuet_instructions"))
    await store.transact(running("UPDATE minuet_meta SET value = '1' WHERE name = 'schema.sql'"))
    await store.close()
    again = opening(tmp_path / "service.db")
    await again.start()
    try:
        assert await again.transact(lambda tx: tx.read_models.get("GetOrder", "o-1")) == b"1"
        await again.transact(lambda tx: tx.read_models.put("GetOrder", "o-1", b"2", 1.0))
        assert await again.transact(lambda tx: tx.read_models.get("GetOrder", "o-1")) == b"2"
        assert await again.transact(lambda tx: tx.audit.recent(1)) == []
        assert await again.transact(lambda tx: tx.instructions.in_force(0.0)) == []
    finally:
        await again.close()


async def test_a_file_of_a_newer_version_is_refused(tmp_path: Path, store: SqliteStore) -> None:
    await store.transact(running("UPDATE minuet_meta SET value = '99'"))
    with pytest.raises(ConfigurationError, match=r"service\.db has version 99.*update minuet"):
        await opening(tmp_path / "service.db").start()


async def test_a_schema_that_cannot_be_applied_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="the schema for"):
        await opening(tmp_path / "service.db", schema="CREATE TABEL x (y)").start()


async def test_a_schema_is_applied_at_each_start(tmp_path: Path, store: SqliteStore) -> None:
    await store.transact(stocking("a"))
    assert await store.transact(running("SELECT * FROM log")) == [("a",)]
    second = opening(tmp_path / "service.db", schema=SCHEMA)
    await second.start()
    assert await items(second) == ["a"]
    await second.close()


def test_a_script_is_split_where_statements_end() -> None:
    assert len(list(statements_of(SCHEMA))) == 3
    assert list(statements_of("SELECT ';' -- ; \n; ; SELECT 2")) == ["SELECT ';' -- ;", "SELECT 2"]


async def test_the_log_is_checkpointed_and_stays_short(tmp_path: Path) -> None:
    store = opening(tmp_path / "service.db", frames_max=50)
    await store.start()
    sizes = []
    for n in range(300):
        await store.transact(adding(f"e-{n}"))
        sizes.append((tmp_path / "service.db-wal").stat().st_size)
    assert max(sizes) < 50 * 2 * 4120
    assert (tmp_path / "service.db").stat().st_size > 100_000
    await store.close()
    assert not (tmp_path / "service.db-wal").exists()


async def test_a_stranger_who_writes_is_waited_for(tmp_path: Path, store: SqliteStore) -> None:
    stranger = sqlite3.connect(tmp_path / "service.db", isolation_level=None)
    stranger.execute("BEGIN IMMEDIATE")
    waiting = asyncio.create_task(store.transact(stocking("a")))
    done, _ = await asyncio.wait([waiting], timeout=0.1)
    assert not done
    stranger.execute("COMMIT")
    stranger.close()
    await waiting
    assert await items(store) == ["a"]


# Disks


@contextlib.asynccontextmanager
async def full_disk(store: SqliteStore) -> AsyncIterator[None]:
    await store.transact(running("PRAGMA max_page_count = 1"))  # becomes what is in use
    yield
    await store.transact(running("PRAGMA max_page_count = 1000000"))


async def test_a_full_disk_fails_what_does_not_fit_and_nothing_else(store: SqliteStore) -> None:
    await store.transact(stocking("before"))
    async with full_disk(store):
        with pytest.raises(sqlite3.OperationalError, match="full"):
            await store.transact(stocking("x" * 100_000))
        assert await items(store) == ["before"]
    await store.transact(stocking("after"))
    assert await items(store) == ["before", "after"]
    assert await store.transact(running("PRAGMA integrity_check")) == [("ok",)]


async def test_when_a_commit_fails_every_caller_hears_it_and_nothing_remains(store: SqliteStore) -> None:
    heard: list[Any] = []
    store.committed = heard.extend
    large = sending(*(f"m-{n}" for n in range(3000)))  # written when all have run
    async with full_disk(store):
        works = [stocking("a"), large, stocking("b")]
        ends = await asyncio.gather(*map(store.transact, works), return_exceptions=True)
        assert isinstance(ends[1], sqlite3.OperationalError)
    # the first may have had a transaction of its own, before the others came
    assert await items(store) == [item for item, end in (("a", ends[0]), ("b", ends[2])) if isinstance(end, list)]
    assert not heard
    await store.transact(sending("later"))
    assert [one.envelope.id for one in heard] == ["later"]


async def test_a_work_that_takes_the_transaction_down_takes_its_neighbours_and_no_more(store: SqliteStore) -> None:
    await store.transact(stocking("taken"))
    breaking = running("INSERT OR ROLLBACK INTO stock VALUES ('taken', 1)")
    works = [stocking("a"), stocking("b"), breaking, stocking("c"), adding("e-1")]
    ends = await asyncio.gather(*map(store.transact, works), return_exceptions=True)
    assert isinstance(ends[2], sqlite3.IntegrityError)
    kept = [item for item, end in zip("abc", (ends[0], ends[1], ends[3]), strict=True) if isinstance(end, list)]
    assert await items(store) == ["taken", *kept]
    assert "c" in kept


# Handlers

REFUSED: list[Callable[[sqlite3.Connection], object]] = [
    lambda db: db.commit(),
    lambda db: db.rollback(),
    lambda db: db.close(),
    lambda db: db.execute("COMMIT"),
    lambda db: db.execute("  end transaction"),
    lambda db: db.execute("ROLLBACK"),
    lambda db: db.execute("BEGIN"),
    lambda db: db.cursor().execute("COMMIT"),
    lambda db: db.execute("RELEASE minuet"),
    lambda db: db.execute("ROLLBACK TO minuet"),
    lambda db: db.execute("PRAGMA journal_mode = DELETE"),
    lambda db: db.executescript("SELECT 1"),
    lambda db: db.__enter__(),
]


@pytest.mark.parametrize("way", REFUSED)
async def test_a_handler_cannot_end_the_transaction(
    store: SqliteStore, way: Callable[[sqlite3.Connection], object]
) -> None:
    def work(tx: Tx) -> None:
        db = tx.handle(sqlite3.Connection)
        db.execute("INSERT INTO stock VALUES ('lost', 1)")
        way(db)

    # alone, then among others, and under a savepoint
    with pytest.raises(DefinitionError, match="minuet commits"):
        await store.transact(work)
    ends = await asyncio.gather(*map(store.transact, (stocking("a"), work, stocking("b"))), return_exceptions=True)
    assert isinstance(ends[1], DefinitionError)

    def within(tx: Tx) -> str:
        with contextlib.suppress(DefinitionError), tx.savepoint():
            work(tx)
        stocking("c")(tx)
        return "done"

    assert await store.transact(within) == "done"
    assert await items(store) == ["a", "b", "c"]


async def test_a_handler_may_have_savepoints_of_its_own(store: SqliteStore) -> None:
    def work(tx: Tx) -> None:
        db = tx.handle(sqlite3.Connection)
        db.execute("INSERT INTO stock VALUES ('kept', 1)")
        db.execute("SAVEPOINT mine")
        db.execute("INSERT INTO stock VALUES ('lost', 1)")
        db.execute("ROLLBACK TO mine")
        db.execute("RELEASE mine")

    await store.transact(work)
    assert await items(store) == ["kept"]


async def test_a_cursor_left_half_read_harms_nobody(tmp_path: Path, store: SqliteStore) -> None:
    await asyncio.gather(*(store.transact(stocking(f"i-{n}")) for n in range(100)))
    kept: list[sqlite3.Cursor] = []

    def work(tx: Tx) -> None:
        kept.append(tx.handle(sqlite3.Connection).execute("SELECT * FROM stock"))
        kept[-1].fetchone()

    await store.transact(work)
    with contextlib.closing(sqlite3.connect(tmp_path / "service.db", isolation_level=None)) as stranger:
        stranger.execute("INSERT INTO stock VALUES ('strange', 1)")
    await store.transact(stocking("last"))
    assert (await items(store))[-2:] == ["strange", "last"]
    with pytest.raises(sqlite3.ProgrammingError):
        kept[0].fetchone()


async def test_a_work_that_only_reads_cannot_write(store: SqliteStore) -> None:
    with pytest.raises(MinuetBug, match="read only"):
        await store.transact(stocking("a"), reads_only=True)
    assert await items(store) == []


async def test_an_error_of_the_handler_stays_its_own(store: SqliteStore) -> None:
    with pytest.raises(sqlite3.IntegrityError, match="CHECK"):
        await store.transact(running("INSERT INTO stock VALUES ('a', -1)"))


async def test_works_after_closing_are_refused(tmp_path: Path) -> None:
    store = opening(tmp_path / "service.db")
    await store.start()
    await store.close()
    with pytest.raises(RuntimeError, match="not open"):
        await store.transact(finding("a"))


async def test_a_cancelled_caller_disturbs_nobody(store: SqliteStore) -> None:
    works = [asyncio.create_task(store.transact(stocking(f"i-{n}"))) for n in range(50)]
    await asyncio.sleep(0)
    for work in works[::2]:
        work.cancel()
    ends = await asyncio.gather(*works, return_exceptions=True)
    assert all(isinstance(end, asyncio.CancelledError) for end in ends[::2])
    assert len(await items(store)) == 50


async def test_a_strange_exception_reaches_its_caller(store: SqliteStore) -> None:
    def stopping(_: Tx) -> None:
        raise StopIteration

    with pytest.raises(RuntimeError, match="StopIteration"):
        await store.transact(stopping)
    with pytest.raises(Broken):
        await store.transact(breaking)


def breaking(_: Tx) -> None:
    raise Broken


async def test_no_verb_reads_a_whole_table_that_only_grows(store: SqliteStore) -> None:
    statements = {name: sql for name, sql in vars(tables).items() if name.isupper() and isinstance(sql, str)}
    read = {name: sql for name, sql in statements.items() if sql.startswith(("SELECT", "UPDATE", "DELETE"))}
    assert {"FIND", "TAKE", "RELEASE", "KNOWN", "RECENT", "ENTRIES_OF"} <= read.keys()
    for name, sql in read.items():
        plan = await store.transact(running(f"EXPLAIN QUERY PLAN {sql}", *[None] * sql.count("?")))
        steps = [step for *_, step in plan]
        scans = [step for step in steps if step in ("SCAN minuet_inbox", "SCAN minuet_known", "SCAN minuet_outbox")]
        assert not scans, f"{name}: {steps}"
