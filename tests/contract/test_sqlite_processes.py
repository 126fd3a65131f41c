"""Several processes on the same SQLite files: nothing lost, nothing twice, and the dead are succeeded at once."""

import asyncio
import json
import os
import signal
import sqlite3
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from minuet.adapters.sqlite import SqliteStore, SqliteTransport
from minuet.adapters.system import SystemClock, SystemIds
from minuet.core.envelope import Envelope
from minuet.ports import Done, Outgoing, Subscription

WORKER = Path(__file__).with_name("sqlite_worker.py")
PATIENCE_S = 60


class Worker:
    """A process, and what it says."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def hear(self) -> dict[str, Any]:
        assert self.process.stdout
        line = await asyncio.wait_for(self.process.stdout.readline(), PATIENCE_S)
        assert line, "the worker ended"
        said: dict[str, Any] = json.loads(line)
        return said

    async def kill(self) -> None:
        self.process.kill()
        await self.process.wait()

    async def stop(self) -> None:
        if self.process.returncode is None:
            assert self.process.stdin
            self.process.stdin.close()
            assert await asyncio.wait_for(self.process.wait(), PATIENCE_S) == 0


Begin = Callable[[str], Awaitable[Worker]]


@pytest.fixture
async def begin(tmp_path: Path) -> AsyncIterator[Begin]:
    async with AsyncExitStack() as stack:

        async def one(what: str) -> Worker:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, str(WORKER), what, str(tmp_path)),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
            )
            worker = Worker(process)
            stack.push_async_callback(worker.stop)
            assert "started" in await worker.hear()
            return worker

        yield one


@pytest.fixture
async def transport(tmp_path: Path) -> AsyncIterator[SqliteTransport]:
    transport = SqliteTransport(tmp_path / "broker.db", ids=SystemIds(), clock=SystemClock())
    await transport.start()
    await transport.declare([Subscription(group="g", wanted={"c": {"T": None}})])
    yield transport
    await transport.close()


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(tmp_path / "service.db", ids=SystemIds())
    await store.start()
    yield store
    await store.close()


def messages(first: int, last: int, keys: int = 40) -> list[Outgoing]:
    return [
        Outgoing(n, "c", Envelope(id=f"{n:05}", type="T", source="s", time=1.0, body=b"{}", key=f"k{n % keys}"))
        for n in range(first, last)
    ]


def query(file: Path, sql: str) -> list[Any]:
    with closing(sqlite3.connect(file)) as connection:
        return connection.execute(sql).fetchall()


async def handled(worker: Worker, heard: list[int], wanted: int, everything: asyncio.Event) -> None:
    while True:
        heard.append((await worker.hear())["new"])
        if sum(heard) >= wanted:
            everything.set()


@pytest.mark.slow
async def test_two_processes_share_the_work_and_lose_and_repeat_nothing(
    tmp_path: Path, transport: SqliteTransport, begin: Begin
) -> None:
    total = 2000
    workers = [await begin("compete"), await begin("compete")]
    heard: list[int] = []
    everything = asyncio.Event()
    listening = [asyncio.create_task(handled(worker, heard, total, everything)) for worker in workers]
    wal_bytes = 0
    for first in range(0, total, 50):
        assert not any(await transport.publish(messages(first, first + 50)))
        wal_bytes = max(wal_bytes, *((tmp_path / f"{name}.db-wal").stat().st_size for name in ("broker", "service")))
    await asyncio.wait_for(everything.wait(), PATIENCE_S)
    for task in listening:
        task.cancel()
    await asyncio.gather(*listening, return_exceptions=True)
    for worker in workers:
        await worker.stop()

    effects = query(tmp_path / "service.db", "SELECT id, key, worker FROM effects ORDER BY position")
    assert sorted(one for one, _, _ in effects) == [f"{n:05}" for n in range(total)]
    for key in {key for _, key, _ in effects}:
        of_key = [one for one, its, _ in effects if its == key]
        assert of_key == sorted(of_key)
    shares = [sum(worker == name for _, _, worker in effects) for name in {worker for _, _, worker in effects}]
    assert len(shares) == 2
    assert min(shares) > total / 10, "the lock is to be fair"
    assert query(tmp_path / "broker.db", "SELECT count(*) FROM minuet_queue") == [(0,)]
    assert query(tmp_path / "service.db", "SELECT count(*) FROM minuet_outbox") == [(total,)]
    for name in ("broker.db", "service.db"):
        assert query(tmp_path / name, "PRAGMA integrity_check") == [("ok",)]
    assert wal_bytes < 16 * 1024 * 1024, "somebody has to checkpoint"


async def test_what_a_killed_process_had_in_hand_is_taken_over_at_once(
    transport: SqliteTransport, store: SqliteStore, begin: Begin
) -> None:
    holder = await begin("hold")
    await transport.publish(messages(0, 10))
    assert await holder.hear() == {"held": 10}
    assert not await store.transact(lambda tx: tx.inbox.take(100))
    bereft = asyncio.Event()
    store.disturbed = bereft.set
    waiting = asyncio.create_task(transport.receive("g", 100))
    await holder.kill()
    deliveries = await asyncio.wait_for(waiting, 5)
    assert [one.attributes["id"] for one in deliveries] == [f"{n:05}" for n in range(10)]
    assert {one.deliveries for one in deliveries} == {2}
    await transport.settle([(one, Done()) for one in deliveries])
    await asyncio.wait_for(bereft.wait(), 5)
    assert len(await store.transact(lambda tx: tx.inbox.take(100))) == 10
    assert len(await store.transact(lambda tx: tx.outbox.take(100))) == 10


async def test_a_stopped_process_keeps_what_it_has(
    transport: SqliteTransport, store: SqliteStore, begin: Begin
) -> None:
    holder = await begin("hold")
    await transport.publish(messages(0, 10))
    await holder.hear()
    os.kill(holder.process.pid, signal.SIGSTOP)
    try:
        assert not await store.transact(lambda tx: tx.inbox.take(100))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(transport.receive("g", 100), 0.3)
    finally:
        os.kill(holder.process.pid, signal.SIGCONT)


async def test_a_process_killed_at_any_moment_leaves_a_whole_database(
    tmp_path: Path, transport: SqliteTransport, begin: Begin
) -> None:
    total = 300
    await transport.publish(messages(0, total))
    new = 0
    for _ in range(4):
        worker = await begin("compete")
        for _ in range(3):
            await worker.hear()
        await worker.kill()
    last = await begin("compete")
    done = 0
    while done < total:
        said = await last.hear()
        new += said["new"]
        ((done,),) = query(tmp_path / "service.db", "SELECT count(DISTINCT id) FROM effects")
    assert new > 0
    assert query(tmp_path / "service.db", "SELECT count(*) FROM effects") == [(total,)]
    for name in ("broker.db", "service.db"):
        assert query(tmp_path / name, "PRAGMA integrity_check") == [("ok",)]
