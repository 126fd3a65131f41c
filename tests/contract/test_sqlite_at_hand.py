"""What SQLite's store keeps at hand is what the file says: after rollbacks, restarts and whatever others write."""

from __future__ import annotations

import asyncio
import contextlib
import random
import sqlite3
import sys
from collections.abc import AsyncIterator, Callable
from collections.abc import Set as AbstractSet
from contextlib import AsyncExitStack, closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from minuet.adapters.sqlite import SqliteStore, tables
from minuet.adapters.system import SystemIds
from minuet.core.envelope import Envelope
from minuet.core.formula import Literal, Outcome
from minuet.ports import Entry, EntryState, Tx

SCHEMA = """CREATE TABLE IF NOT EXISTS parents (id INTEGER PRIMARY KEY);
CREATE TABLE IF NOT EXISTS children (parent INTEGER REFERENCES parents (id) DEFERRABLE INITIALLY DEFERRED);
CREATE TABLE IF NOT EXISTS completions (worker TEXT, saga_id TEXT)"""
LITERALS = [Literal(step, Outcome.SUCCEEDED) for step in "abcde"]
SAGAS = ["1", "2", "3", "4"]
KNOWN = "SELECT literal, body FROM minuet_known WHERE saga = 'S' AND saga_id = ?"
PATIENCE_S = 60

Work = Callable[[Tx], Any]


class Broken(Exception):
    pass


def envelope(name: str, body: bytes = b"{}") -> Envelope:
    return Envelope(id=name, type="T", source="s", time=1.0, body=body)


def opening(file: Path, **arguments: Any) -> SqliteStore:
    return SqliteStore(file, ids=SystemIds(), schema=SCHEMA, **arguments)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = opening(tmp_path / "service.db")
    await store.start()
    yield store
    await store.close()


def in_file(tx: Tx, saga_id: str) -> dict[Literal, bytes]:
    """What the transaction sees in the file, read past whatever is at hand."""
    db: sqlite3.Connection = tx.handle(sqlite3.Connection)
    return {Literal.parse(literal): body for literal, body in db.execute(KNOWN, (saga_id,)).fetchall()}


def told(known: Any) -> dict[Literal, bytes]:
    return {literal: one.body for literal, one in known.items()}


def learn(tx: Tx, saga_id: str, literal: Literal, body: bytes) -> None:
    before = in_file(tx, saga_id)
    learnt = tx.known.learn("S", saga_id, literal, envelope(f"{saga_id}/{literal}", body))
    if literal in before:
        assert learnt is None
        assert in_file(tx, saga_id) == before
    else:
        assert learnt is not None, f"{literal} is not in the file, and said to be known already"
        assert told(learnt) == in_file(tx, saga_id) == before | {literal: body}


def look(tx: Tx, saga_id: str) -> None:
    assert told(tx.known.of("S", saga_id)) == in_file(tx, saga_id)


UNDONE_ALONE = {"broken"}
UNDONE_TOGETHER = {"constraint", "rollback"}


class Schedule:
    """Works drawn from a seed. Each checks what it is told against the file.

    Args:
        ruins: how works may end badly. What is `UNDONE_ALONE` may also be undone inside of a work.
    """

    def __init__(self, seed: int, ruins: AbstractSet[str]) -> None:
        self.dice = random.Random(seed)
        self.ruins = ruins

    def steps(self, depth: int = 0) -> list[Work]:
        return [self.step(depth) for _ in range(self.dice.randint(1, 4))]

    def step(self, depth: int) -> Work:
        saga_id, literal = self.dice.choice(SAGAS), self.dice.choice(LITERALS)
        body = str(self.dice.random()).encode()
        kind = self.dice.choices(["learn", "look", "inside", "change"], [6, 3, 2 if depth < 2 else 0, 1])[0]
        if kind == "inside":
            steps, breaks = self.steps(depth + 1), "broken" in self.ruins and self.dice.random() < 0.6

            def inside(tx: Tx) -> None:
                with contextlib.suppress(Broken), tx.savepoint():
                    for step in steps:
                        step(tx)
                    if breaks:
                        raise Broken

            return inside
        if kind == "look":
            return lambda tx: look(tx, saga_id)
        if kind == "change":
            # What was given out is the caller's: it must not change what the next one is told.
            return lambda tx: dict.clear(tx.known.of("S", saga_id))  # type: ignore[arg-type]
        return lambda tx: learn(tx, saga_id, literal, body)

    def work(self) -> tuple[Work, bool]:
        """A work, and whether it only reads."""
        if self.dice.random() < 0.2:
            saga_id = self.dice.choice(SAGAS)
            return (lambda tx: look(tx, saga_id)), True
        steps = self.steps()
        end = "well" if self.dice.random() < 0.7 else self.dice.choice(sorted(self.ruins))

        def work(tx: Tx) -> None:
            for step in steps:
                step(tx)
            db: sqlite3.Connection = tx.handle(sqlite3.Connection)
            if end == "broken":
                raise Broken
            if end == "constraint":
                db.execute("INSERT INTO children VALUES (99)")
            if end == "rollback":
                db.execute("INSERT OR ROLLBACK INTO parents VALUES (1), (1)")

        return work, False

    async def round(self, store: SqliteStore) -> None:
        works = [self.work() for _ in range(self.dice.randint(1, 6))]
        ends = await asyncio.gather(
            *(store.transact(work, reads_only=reads_only) for work, reads_only in works), return_exceptions=True
        )
        for end in ends:
            if isinstance(end, BaseException) and not isinstance(end, Broken | sqlite3.Error):
                raise end


@pytest.mark.parametrize("inline", [False, True], ids=["with a thread", "inline"])
@pytest.mark.parametrize(
    "ruins",
    [UNDONE_TOGETHER, UNDONE_ALONE, UNDONE_ALONE | UNDONE_TOGETHER],
    ids=["undone together", "undone alone", "undone in both ways"],
)
@pytest.mark.parametrize("seed", range(6))
async def test_two_instances_and_a_stranger_learn_of_the_same_sagas(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, ruins: AbstractSet[str], *, inline: bool
) -> None:
    if seed % 2:
        monkeypatch.setattr(tables, "AT_HAND_MAX", 2)
    schedule = Schedule(seed, ruins)
    file = tmp_path / "service.db"
    stores = [opening(file, inline=inline, frames_max=20) for _ in range(2)]
    for store in stores:
        await store.start()
    with closing(sqlite3.connect(file, isolation_level=None)) as stranger:
        for _ in range(60):
            what = schedule.dice.random()
            if what < 0.06:
                sagas = (schedule.dice.choice(SAGAS), str(schedule.dice.choice(LITERALS)))
                stranger.execute("DELETE FROM minuet_known WHERE saga_id = ? OR literal = ?", sagas)
            elif what < 0.1:
                at = schedule.dice.randrange(2)
                await stores[at].close()
                stores[at] = opening(file, inline=inline, frames_max=20)
                await stores[at].start()
            else:
                await schedule.round(schedule.dice.choice(stores))
    for store in stores:
        await store.close()


async def test_both_sides_at_once_never_miss_the_second_literal(tmp_path: Path) -> None:
    """The AND rule: of two literals of a saga, learnt by two instances at any time, exactly one sees both."""
    stores = [opening(tmp_path / "service.db") for _ in range(2)]
    for store in stores:
        await store.start()

    def both(saga_id: str, literal: Literal) -> Work:
        return lambda tx: len(tx.known.learn("S", saga_id, literal, envelope("m")) or ()) == 2

    for first in range(0, 200, 20):
        sagas = [str(number) for number in range(first, first + 20)]
        seen = await asyncio.gather(
            *(store.transact(both(saga, LITERALS[at])) for saga in sagas for at, store in enumerate(stores))
        )
        assert sum(seen) == len(sagas)
        # And once more, as after a lost settlement.
        again = [store.transact(both(saga, LITERALS[at])) for saga in sagas for at, store in enumerate(stores)]
        assert not any(await asyncio.gather(*again))
    for store in stores:
        await store.close()


WORKER_SAGAS = 150


async def working(file: Path, name: str, own: Literal, other: Literal) -> None:
    """Learn one literal of each saga; write down each saga of which both are known."""
    store = opening(file, frames_max=50)
    await store.start()

    def work(tx: Tx, saga_id: str) -> None:
        look(tx, saga_id)
        if set(tx.known.learn("S", saga_id, own, envelope(name)) or ()) == {own, other}:
            db: sqlite3.Connection = tx.handle(sqlite3.Connection)
            db.execute("INSERT INTO completions VALUES (?, ?)", (name, saga_id))

    order = list(range(WORKER_SAGAS))
    random.Random(name).shuffle(order)
    for first in range(0, WORKER_SAGAS, 5):
        some = [str(number) for number in order[first : first + 5]]
        await asyncio.gather(*(store.transact(partial(work, saga_id=one)) for one in some))
    await store.close()


def end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.kill()


@pytest.mark.slow
async def test_two_processes_complete_each_saga_once(tmp_path: Path) -> None:
    file = tmp_path / "service.db"
    async with AsyncExitStack() as stack:
        workers = []
        for name in ("a", "b"):
            process = await asyncio.create_subprocess_exec(sys.executable, __file__, str(file), name)
            stack.callback(end, process)
            workers.append(process)
        async with asyncio.timeout(PATIENCE_S):
            assert [await worker.wait() for worker in workers] == [0, 0]
    with closing(sqlite3.connect(file)) as connection:
        completed = connection.execute("SELECT saga_id FROM completions").fetchall()
    assert sorted(int(saga_id) for (saga_id,) in completed) == list(range(WORKER_SAGAS))


async def test_what_was_read_while_somebody_wrote_is_read_again(tmp_path: Path) -> None:
    one, two = opening(tmp_path / "service.db"), opening(tmp_path / "service.db")
    await one.start()
    await two.start()
    for saga_id in SAGAS:
        for literal in LITERALS:
            await two.transact(partial(learn, saga_id=saga_id, literal=literal, body=b"x"))
            await one.transact(partial(look, saga_id=saga_id), reads_only=True)
    await one.close()
    await two.close()


# Entries


def saving(entry: Entry) -> Work:
    return lambda tx: tx.inbox.save(entry)


def adding(entry: Entry) -> Work:
    return lambda tx: tx.inbox.add(entry)


async def found(store: SqliteStore, key: str) -> Entry | None:
    return await store.transact(lambda tx: tx.inbox.find(key), reads_only=True)


def an_entry(key: str = "k") -> Entry:
    return Entry(key=key, handler="h", envelope=envelope("m", b"first"))


@pytest.mark.parametrize("how", ["added", "found", "copied", "replaced", "taken"])
@pytest.mark.parametrize("new_envelope", [False, True])
async def test_what_changes_of_an_entry_is_saved(tmp_path: Path, how: str, *, new_envelope: bool) -> None:
    store, other = opening(tmp_path / "service.db"), opening(tmp_path / "service.db")
    await store.start()
    await other.start()
    entry = an_entry()
    if how == "taken":
        await other.transact(adding(an_entry()))
        await other.transact(lambda tx: tx.inbox.release())
        (entry,) = await store.transact(lambda tx: tx.inbox.take(5))
    else:
        await store.transact(adding(entry))
    if how == "found":
        again = await found(store, "k")
        assert again
        entry = again
    elif how == "copied":
        entry = entry.copy()
    elif how == "replaced":
        entry = replace(entry)
    if new_envelope:
        entry.envelope = replace(entry.envelope, body=b"second")
    entry.attempts, entry.due_at, entry.waits_for, entry.error = 3, 7.0, "Q/1", "why"
    assert await store.transact(saving(entry))
    assert not await other.transact(saving(replace(entry, attempts=9))), "it is not the other's"
    kept = await found(store, "k")
    assert kept
    assert (kept.attempts, kept.due_at, kept.waits_for, kept.error) == (3, 7.0, "Q/1", "why")
    assert kept.envelope.body == (b"second" if new_envelope else b"first")
    assert kept.owner == store.instance
    entry.state, entry.answer = EntryState.DONE, envelope("answer")
    assert await store.transact(saving(entry))
    assert not await store.transact(saving(entry)), "what is done is done"
    kept = await found(store, "k")
    assert kept
    assert (kept.state, kept.owner, kept.answer) == (EntryState.DONE, None, envelope("answer"))
    await store.close()
    await other.close()


async def test_an_entry_that_was_given_up_is_not_saved(store: SqliteStore) -> None:
    entry = an_entry()
    await store.transact(adding(entry))
    await store.transact(lambda tx: tx.inbox.release())
    for one in (entry, entry.copy(), replace(entry), replace(entry, envelope=envelope("m", b"second"))):
        assert not await store.transact(saving(one))
    kept = await found(store, "k")
    assert kept
    assert (kept.owner, kept.envelope.body) == (None, b"first")


@pytest.mark.parametrize("new_envelope", [False, True])
async def test_a_renamed_entry_is_saved_under_its_new_key(store: SqliteStore, *, new_envelope: bool) -> None:
    entry = an_entry()
    await store.transact(adding(entry))

    def work(tx: Tx) -> bool:
        assert tx.inbox.rename(entry, "new")
        entry.key = "new"
        if new_envelope:
            entry.envelope = replace(entry.envelope, body=b"second")
        entry.attempts = 2
        return tx.inbox.save(entry)

    assert await store.transact(work)
    assert await found(store, "k") is None
    kept = await found(store, "new")
    assert kept
    assert (kept.attempts, kept.envelope.body) == (2, b"second" if new_envelope else b"first")


async def test_a_change_that_was_rolled_back_can_be_saved_again(store: SqliteStore) -> None:
    entry = an_entry()
    await store.transact(adding(entry))

    def broken(tx: Tx) -> None:
        entry.envelope, entry.attempts = replace(entry.envelope, body=b"second"), 1
        entry.state = EntryState.DONE
        assert tx.inbox.save(entry)
        raise Broken

    with pytest.raises(Broken):
        await store.transact(broken)
    kept = await found(store, "k")
    assert kept
    assert (kept.state, kept.attempts, kept.owner) == (EntryState.DUE, 0, store.instance)
    assert await store.transact(saving(entry))
    kept = await found(store, "k")
    assert kept
    assert (kept.state, kept.attempts, kept.envelope.body) == (EntryState.DONE, 1, b"second")


if __name__ == "__main__":
    own, other = LITERALS[:2] if sys.argv[2] == "a" else LITERALS[1::-1]
    asyncio.run(working(Path(sys.argv[1]), sys.argv[2], own, other))
