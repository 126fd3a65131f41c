"""Several instances on one PostgreSQL schema: each thing is claimed once, and the dead are succeeded."""

import asyncio
import json
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from minuet.adapters.postgres import Limits, PostgresStore
from minuet.core.formula import Literal, Outcome
from minuet.ports import EntryState, Tx
from minuet.testing.store_contract.examples import (
    CHARGED,
    RESERVED,
    adding,
    an_envelope,
    finding,
    found,
    ids_of,
    sending,
)
from tests.contract.postgres_server import PATIENCE_S, fresh_schema, opening

pytestmark = pytest.mark.server

WORKER = Path(__file__).with_name("postgres_worker.py")

Start = Callable[..., Awaitable[PostgresStore]]
Begin = Callable[[str], Awaitable["Worker"]]


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
            self.process.send_signal(signal.SIGCONT)
            assert self.process.stdin
            self.process.stdin.close()
            assert await asyncio.wait_for(self.process.wait(), PATIENCE_S) == 0


@pytest.fixture
def schema_name(postgres_url: str) -> Iterator[str]:
    with fresh_schema(postgres_url) as name:
        yield name


@pytest.fixture
async def start(postgres_url: str, schema_name: str) -> AsyncIterator[Start]:
    async with AsyncExitStack() as stack:

        async def one(look_s: float = 0.1, lease_s: float = 60.0) -> PostgresStore:
            limits = Limits(patience_s=PATIENCE_S, look_s=look_s, lease_s=lease_s)
            store = opening(postgres_url, schema_name, limits=limits)
            await store.start()
            stack.push_async_callback(store.close)
            return store

        yield one


@pytest.fixture
async def begin(postgres_url: str, schema_name: str) -> AsyncIterator[Begin]:
    async with AsyncExitStack() as stack:

        async def one(what: str) -> Worker:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, str(WORKER), what, postgres_url, schema_name),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
            )
            worker = Worker(process)
            stack.push_async_callback(worker.stop)
            assert "started" in await worker.hear()
            return worker

        yield one


async def until_taken(store: PostgresStore, count: int) -> list[str]:
    """Take what others left, as soon as the store says that there may be something."""
    disturbed = asyncio.Event()
    store.disturbed = disturbed.set
    taken: list[str] = []
    async with asyncio.timeout(PATIENCE_S):
        while True:
            taken += [entry.key for entry in await store.transact(lambda tx: tx.inbox.take(1000))]
            if len(taken) >= count:
                return taken
            await disturbed.wait()
            disturbed.clear()


def lock_of(store: PostgresStore, schema_name: str) -> sql.Composable:
    return sql.SQL("hashtextextended({}, 0)").format(sql.Literal(f"minuet {schema_name} {store.instance}"))


def end_session_of(store: PostgresStore, url: str, schema_name: str) -> None:
    """End the session that writes for it, and wait until it has ended."""
    with psycopg.connect(url) as connection:
        ending = sql.SQL(
            """SELECT pg_terminate_backend(pid, 60000) FROM pg_locks
            WHERE locktype = 'advisory' AND objsubid = 1 AND granted
                AND ((classid::bigint << 32) | objid::bigint) = {}"""
        )
        assert connection.execute(ending.format(lock_of(store, schema_name))).fetchall() == [(True,)]


# Claims


@pytest.mark.parametrize("instances", [2, 3])
async def test_instances_claim_each_entry_and_message_once(start: Start, instances: int) -> None:
    total = 600
    giver, *takers = [await start() for _ in range(instances + 1)]
    taken: list[list[str]] = [[] for _ in takers]
    sent: list[list[str]] = [[] for _ in takers]
    is_given = asyncio.Event()

    async def give() -> None:
        for first in range(0, total, 50):
            names = [f"{n:04}" for n in range(first, first + 50)]

            def work(tx: Tx, names: list[str] = names) -> None:
                adding(*names)(tx)
                sending(*names)(tx)
                tx.inbox.release()

            await giver.transact(work)
        await giver.close()  # and its messages are anybody's
        is_given.set()

    async def take(number: int) -> None:
        while True:
            before = is_given.is_set()
            entries = await takers[number].transact(lambda tx: tx.inbox.take(7))
            messages = await takers[number].transact(lambda tx: tx.outbox.take(7))
            taken[number] += [entry.key for entry in entries]
            sent[number] += ids_of(messages)
            if before and not entries and not messages:
                return

    await asyncio.gather(give(), *(take(number) for number in range(instances)))
    for claimed in (taken, sent):
        counted = Counter(name for one in claimed for name in one)
        assert counted == {f"{n:04}": 1 for n in range(total)}
        assert all(claimed), "each is to get something"
    for store, one in zip(takers, sent, strict=True):
        assert ids_of(await store.transact(lambda tx: tx.outbox.mine(total, 0))) == sorted(one)


async def test_each_instances_messages_are_read_in_the_order_of_its_commits(start: Start) -> None:
    stores = [await start(), await start(), await start()]

    async def send(store: PostgresStore, name: str) -> list[str]:
        heard: list[str] = []
        store.committed = lambda outgoing: heard.extend(ids_of(outgoing))
        lanes = [[f"{name}-{lane}-{n}" for n in range(30)] for lane in range(4)]

        async def lane_of(names: list[str]) -> None:
            for one in names:
                await store.transact(sending(one))

        await asyncio.gather(*map(lane_of, lanes))
        return heard

    heard = await asyncio.gather(*(send(store, f"s{n}") for n, store in enumerate(stores)))
    for store, its in zip(stores, heard, strict=True):
        read: list[str] = []
        after = 0
        while page := await store.transact(lambda tx, after=after: tx.outbox.mine(11, after)):  # type: ignore[misc]
            read += ids_of(page)
            after = page[-1].position
        assert read == its


# What a saga's rules see


async def test_of_two_instances_that_learn_for_one_saga_one_sees_both(start: Start) -> None:
    first, second = await start(), await start()
    sagas = [f"o-{n}" for n in range(300)]

    async def learn(store: PostgresStore, literal: Literal, order: Sequence[str]) -> dict[str, int]:
        def learning(saga: str) -> Callable[[Tx], int]:
            return lambda tx: len(tx.known.learn("Orders", saga, literal, an_envelope()) or ())

        seen = await asyncio.gather(*(store.transact(learning(saga)) for saga in order))
        return dict(zip(order, seen, strict=True))

    # In one order, so that they meet at each saga, and then in others, so that they deadlock too.
    shuffled = random.Random(7).sample(sagas, len(sagas))
    for one, other, orders in (
        (RESERVED, CHARGED, (sagas, sagas)),
        (Literal("a", Outcome.SUCCEEDED), Literal("b", Outcome.SUCCEEDED), (sagas[::-1], shuffled)),
    ):
        known = 0 if one == RESERVED else 2
        seen = await asyncio.gather(learn(first, one, orders[0]), learn(second, other, orders[1]))
        assert {tuple(sorted(its[saga] for its in seen)) for saga in sagas} == {(known + 1, known + 2)}
    assert len(await first.transact(lambda tx: tx.known.of("Orders", "o-0"))) == 4
    recent = await first.transact(lambda tx: tx.known.recent(1000))
    assert len({saga for _, _, saga in recent}) == len(recent) == len(sagas)


async def test_of_two_that_learn_the_same_one_learns_it(start: Start) -> None:
    first, second = await start(), await start()
    learning: Callable[[str], Callable[[Tx], bool]] = lambda saga: (  # noqa: E731
        lambda tx: tx.known.learn("Orders", saga, RESERVED, an_envelope()) is not None
    )
    sagas = [f"o-{n}" for n in range(100)]
    learnt = await asyncio.gather(*(store.transact(learning(saga)) for saga in sagas for store in (first, second)))
    assert sum(learnt) == len(sagas)


async def test_of_two_that_add_the_same_entry_one_adds_it(start: Start) -> None:
    stores = [await start(), await start()]
    keys = [f"e-{n}" for n in range(100)]
    added = await asyncio.gather(*(store.transact(adding(key)) for key in keys for store in stores))
    assert sum(one for (one,) in added) == len(keys)


# Who is there


async def test_what_a_killed_process_had_in_hand_is_taken_over(start: Start, begin: Begin) -> None:
    store = await start()
    holder = await begin("hold")
    assert await holder.hear() == {"held": 10}
    assert not await store.transact(lambda tx: tx.inbox.take(100))
    assert not await store.transact(lambda tx: tx.outbox.take(100))
    await holder.kill()
    began = time.monotonic()
    assert await until_taken(store, 10) == [f"e-{n}" for n in range(10)]
    assert len(await store.transact(lambda tx: tx.outbox.take(100))) == 10
    assert time.monotonic() - began < 15


async def test_a_stopped_process_keeps_what_it_has_as_long_as_its_lease_lasts(start: Start, begin: Begin) -> None:
    store = await start()
    holder = await begin("hold")
    await holder.hear()
    os.kill(holder.process.pid, signal.SIGSTOP)
    assert not await store.transact(lambda tx: tx.inbox.take(100))
    os.kill(holder.process.pid, signal.SIGCONT)


async def test_a_process_that_is_stopped_for_longer_than_its_lease_is_fenced(start: Start, begin: Begin) -> None:
    store = await start(lease_s=1.5)
    holder = await begin("hold")
    await holder.hear()
    os.kill(holder.process.pid, signal.SIGSTOP)
    began = time.monotonic()
    assert sorted(await until_taken(store, 10)) == [f"e-{n}" for n in range(10)]
    assert 1.0 < time.monotonic() - began < 15
    os.kill(holder.process.pid, signal.SIGCONT)
    assert holder.process.stdin
    holder.process.stdin.write(b"go on\n")
    assert await holder.hear() == {"saved": [False] * 10}
    entry = await found(store, "e-3")
    assert (entry.state, entry.owner) == (EntryState.DUE, store.instance)


async def test_who_shows_signs_of_life_is_not_fenced_however_idle(start: Start, begin: Begin) -> None:
    idle, holder = await start(lease_s=1.5), await begin("hold")
    await holder.hear()
    other = await start(lease_s=1.5)
    loop = asyncio.get_running_loop()
    until = loop.time() + 4
    while loop.time() < until:
        assert not await other.transact(lambda tx: tx.inbox.take(100))
        await asyncio.sleep(0.2)
    assert await idle.transact(adding("still here")) == [True]


async def test_a_process_that_stops_inside_a_transaction_loses_it_and_is_fenced(
    postgres_url: str, schema_name: str, start: Start, begin: Begin
) -> None:
    store = await start()
    stopped = await begin("pause")
    assert await stopped.hear() == {"pausing": True}
    os.kill(stopped.process.pid, signal.SIGSTOP)
    known = await store.transact(lambda tx: tx.known.learn("Orders", "o-1", CHARGED, an_envelope()))
    assert known is not None
    assert list(known) == [CHARGED], "what the other had learnt was not committed"
    assert sorted(await until_taken(store, 10)) == [f"e-{n}" for n in range(10)]
    os.kill(stopped.process.pid, signal.SIGCONT)
    assert stopped.process.stdin
    stopped.process.stdin.write(b"go on\n")
    # The second time it is taken for granted that they are its own still; that is found out when they are written.
    assert await stopped.hear() == {"saved": [False] * 10, "runs": 3}
    entry = await found(store, "e-3")
    assert (entry.state, entry.owner) == (EntryState.DUE, store.instance)
    assert len(await store.transact(lambda tx: tx.known.of("Orders", "o-1"))) == 2


async def test_an_instance_whose_connection_is_killed_has_lost_what_others_took(
    postgres_url: str, schema_name: str, start: Start
) -> None:
    zombie, successor = await start(look_s=600.0), await start()  # it does not look whether it is there
    await zombie.transact(adding("a"))
    stale = await found(zombie, "a")
    taken: list[str] = []
    while not taken:  # it looks around once more because the successor came; if just now, it is there again
        end_session_of(zombie, postgres_url, schema_name)
        taken = [entry.key for entry in await successor.transact(lambda tx: tx.inbox.take(1000))]
    assert taken == ["a"]
    stale.state = EntryState.DONE
    assert not await zombie.transact(lambda tx: tx.inbox.save(stale))
    assert (await found(successor, "a")).owner == successor.instance
    assert await zombie.transact(finding("a"))


async def test_an_instance_writes_again_only_when_its_session_of_before_has_ended(
    postgres_url: str, schema_name: str, start: Start
) -> None:
    store = await start(look_s=600.0)
    # As a session would that the server believes to be alive, in the middle of a transaction that may be committed yet.
    with psycopg.connect(postgres_url) as lingering:
        holding = sql.SQL("SELECT pg_try_advisory_lock({})").format(lock_of(store, schema_name))
        end_session_of(store, postgres_url, schema_name)
        while lingering.execute(holding).fetchone() != (True,):  # it looked around only just now, and is there again
            end_session_of(store, postgres_url, schema_name)
        await store.transact(adding("a"))
        with pytest.raises(psycopg.OperationalError):
            lingering.execute("SELECT 1")


async def test_others_hear_when_an_instance_is_closed(start: Start) -> None:
    first, second = await start(), await start()
    await first.transact(adding("a"))
    await first.close()
    assert await until_taken(second, 1) == ["a"]


async def test_an_instance_does_not_disturb_itself(start: Start) -> None:
    first, second = await start(), await start()
    heard: list[str] = []
    told = asyncio.Event()
    await first.transact(adding("a"))
    first.disturbed = lambda: heard.append("first")
    second.disturbed = told.set
    for n in range(20):
        await first.transact(adding(f"e-{n}"))
    await asyncio.wait_for(told.wait(), PATIENCE_S)
    assert not heard


async def test_two_schemas_of_one_database_know_nothing_of_each_other(postgres_url: str, start: Start) -> None:
    store = await start()
    with fresh_schema(postgres_url) as other_name:
        other = opening(postgres_url, other_name)
        await other.start()
        await store.transact(adding("a"))
        assert await other.transact(finding("a")) is None
        await store.transact(lambda tx: tx.inbox.release())
        assert not await other.transact(lambda tx: tx.inbox.take(10))
        await other.close()
