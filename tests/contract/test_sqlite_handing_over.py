"""Messages handed over in the publishing transaction: in order, in one pair of hands, and never lost with them."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sqlite3
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from minuet.adapters.sqlite import SqliteTransport, transport
from minuet.adapters.system import SystemClock, SystemIds
from minuet.codec import envelope_from
from minuet.core.envelope import Envelope, SagaRef
from minuet.core.projection import Coordination
from minuet.ports import Again, Delivery, Done, Outgoing, Settlement, Subscription

PATIENCE_S = 60
QUIET_S = 0.2
WANTED = Subscription(group="g", wanted={"c": {"T": None}})
KEYS = ["", "a", "b", "c", "d"]


def outgoing(name: str, key: str = "", position: int = 1) -> Outgoing:
    return Outgoing(position, "c", Envelope(id=name, type="T", source="s", time=1.0, body=b"{}", key=key))


def ids_of(deliveries: Sequence[Delivery]) -> list[str]:
    return [one.attributes["id"] for one in deliveries]


async def receive(member: SqliteTransport, limit: int = 100) -> Sequence[Delivery]:
    async with asyncio.timeout(PATIENCE_S):
        return await member.receive("g", limit)


async def hear(member: SqliteTransport, least: int) -> list[Delivery]:
    heard: list[Delivery] = []
    while len(heard) < least:
        heard += await receive(member)
    return heard


async def assert_quiet(member: SqliteTransport) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(QUIET_S):
            await member.receive("g", 100)


Open = Callable[[], Awaitable[SqliteTransport]]


@pytest.fixture
async def connect(tmp_path: Path) -> AsyncIterator[Open]:
    async with AsyncExitStack() as stack:

        async def one() -> SqliteTransport:
            member = await opened(tmp_path)
            stack.push_async_callback(member.close)
            return member

        yield one


async def opened(folder: Path, *, inline: bool = False) -> SqliteTransport:
    member = SqliteTransport(folder / "broker.db", ids=SystemIds(), clock=SystemClock(), inline=inline, frames_max=50)
    await member.start()
    await member.declare([WANTED])
    return member


# Schedules


class Schedule:
    """Members of one group that publish, receive, settle, cancel, close and come back as the dice say.

    Whatever comes is checked: in one pair of hands only, nothing before what was published earlier under its key.
    """

    def __init__(self, folder: Path, seed: int, members: int, *, inline: bool) -> None:
        self.dice = random.Random(seed)
        self.folder = folder
        self.inline = inline
        self.sent: dict[str, list[str]] = defaultdict(list)
        self.key_of: dict[str, str] = {}
        self.first_heard: dict[str, list[str]] = defaultdict(list)
        self.holder: dict[str, int] = {}
        self.times: dict[str, int] = defaultdict(int)
        self.done: set[str] = set()
        self.counts_more = False
        self.hands: list[list[Delivery]] = [[] for _ in range(members)]
        self.receiving: list[asyncio.Task[Sequence[Delivery]] | None] = [None] * members

    async def play(self, rounds: int) -> None:
        self.members = [await opened(self.folder, inline=self.inline) for _ in self.hands]
        for _ in range(rounds):
            await self.round(self.dice.randrange(len(self.members)))
            for _ in range(self.dice.choice([0, 1, 2, 5])):
                await asyncio.sleep(0)
            self.look()
        async with asyncio.timeout(PATIENCE_S):
            while len(self.done) < len(self.key_of):
                for at in range(len(self.members)):
                    self.begin_to_receive(at, 50)
                    await self.settle(at, well=1.0)
                await asyncio.sleep(0.002)
                self.look()
        for at, member in enumerate(self.members):
            await self.stop_receiving(at)
            await member.close()
        for key, sent in self.sent.items():
            assert sorted(self.first_heard[key]) == sorted(sent)
            assert not key or self.first_heard[key] == sent

    async def round(self, at: int) -> None:
        what = self.dice.choices(
            [self.publish, self.begin, self.settle, self.stop_receiving, self.come_back, self.rest],
            [35, 30, 20, 5, 2, 8],
        )[0]
        await what(at)

    async def publish(self, at: int) -> None:
        calls = [self.batch() for _ in range(self.dice.choice([1, 1, 2, 3]))]
        for problems in await asyncio.gather(*map(self.members[at].publish, calls)):
            assert not any(problems)

    def batch(self) -> list[Outgoing]:
        batch = []
        for _ in range(self.dice.choice([1, 1, 2, 5])):
            key, name = self.dice.choice(KEYS), f"{len(self.key_of):05}"
            self.key_of[name] = key
            self.sent[key].append(name)
            batch.append(outgoing(name, key))
        return batch

    async def begin(self, at: int) -> None:
        self.begin_to_receive(at, self.dice.choice([1, 2, 10, 128]))

    def begin_to_receive(self, at: int, limit: int) -> None:
        if self.receiving[at] is None:
            self.receiving[at] = asyncio.create_task(self.members[at].receive("g", limit))

    async def stop_receiving(self, at: int) -> None:
        task = self.receiving[at]
        if task is None:
            return
        # What was claimed for it goes back, and counts as delivered.
        self.counts_more = True
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        if task.cancelled():
            self.receiving[at] = None
        else:
            self.look()

    async def come_back(self, at: int) -> None:
        await self.stop_receiving(at)
        await self.members[at].close()
        for one in self.hands[at]:
            del self.holder[one.attributes["id"]]
        self.hands[at] = []
        self.counts_more = True
        self.members[at] = await opened(self.folder, inline=self.inline)

    async def rest(self, at: int) -> None:
        await asyncio.sleep(self.dice.choice([0.001, 0.02]))

    async def settle(self, at: int, well: float = 0.7) -> None:
        """A part of what is in hand. Of a key, what comes after one that is to come again comes again too."""
        hand = self.hands[at]
        some = len(hand) if well == 1.0 else self.dice.randint(0, len(hand))
        again: set[str] = set()
        settled: list[tuple[Delivery, Settlement]] = []
        left = []
        for place, one in enumerate(hand):
            key = self.key_of[one.attributes["id"]]
            if key in again:
                settled.append((one, Again()))
            elif place >= some:
                left.append(one)
            elif self.dice.random() > well:
                again |= {key} - {""}
                settled.append((one, Again(self.dice.choice([0.0, 0.0, 0.01, 0.03]))))
            else:
                settled.append((one, Done()))
        self.hands[at] = left
        for one, how in settled:
            del self.holder[one.attributes["id"]]
            if isinstance(how, Done):
                self.done.add(one.attributes["id"])
        if settled:
            await self.members[at].settle(settled)

    def look(self) -> None:
        for at, task in enumerate(self.receiving):
            if task is not None and task.done():
                self.receiving[at] = None
                for one in task.result():
                    self.check(one, at)

    def check(self, one: Delivery, at: int) -> None:
        name = one.attributes["id"]
        key = self.key_of[name]
        assert name not in self.done
        assert name not in self.holder, "it is in two pairs of hands"
        if key:
            earlier = [other for other in self.sent[key] if other < name and other not in self.done]
            assert {self.holder.get(other) for other in earlier} <= {at}, f"{name} has overtaken one of {earlier}"
        self.times[name] += 1
        assert one.deliveries >= self.times[name]
        assert self.counts_more or one.deliveries == self.times[name]
        if self.times[name] == 1:
            self.first_heard[key].append(name)
        self.holder[name] = at
        self.hands[at].append(one)


@pytest.mark.parametrize("inline", [False, True], ids=["with a thread", "inline"])
@pytest.mark.parametrize("members", [1, 2, 3])
@pytest.mark.parametrize("seed", range(3))
async def test_whatever_the_schedule_each_message_is_in_one_pair_of_hands_and_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, members: int, *, inline: bool
) -> None:
    if seed == 0:
        monkeypatch.setattr(transport, "HANDED_MAX", 3)
    await Schedule(tmp_path, seed, members, inline=inline).play(150)


# One process


async def test_what_is_handed_over_says_the_same_as_what_is_claimed(connect: Open) -> None:
    saga = SagaRef("Öl/1", "x\n\u2028", "f", Coordination.ORCHESTRATION, "pay/undo")
    whole = Envelope(
        id="m-\u4e2d\U0001f3bb",
        type="T",
        source="s/é",
        time=1_700_000_000.1234567,
        body=b'{"a": 1}',
        key="k-'\";--",
        version=3,
        saga=saga,
        begins=(saga, saga),
        correlation="c",
        causation="d",
        traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        expires=1_700_000_060.1234567,
        may_refuse=False,
        hops=7,
    )
    member = await connect()
    await assert_quiet(member)  # now it is known to hear here
    await member.publish([Outgoing(1, "c", whole)])
    (handed,) = await receive(member)
    assert handed.envelope is not None
    await member.settle([(handed, Again())])
    (claimed,) = await receive(member)
    assert (claimed.channel, claimed.attributes, claimed.body) == (handed.channel, handed.attributes, handed.body)
    assert (handed.deliveries, claimed.deliveries) == (1, 2)
    assert envelope_from(claimed.attributes, claimed.body).key == handed.envelope.key
    assert handed.envelope.message is None, "who receives it reads it himself"


async def test_when_the_commit_fails_nothing_was_handed_over(connect: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    member = await connect()
    await assert_quiet(member)
    work = member._database._transaction
    real = work.commit

    def failing() -> None:
        work._roll_back_connection()
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(work, "commit", failing)
    problems = await asyncio.gather(member.publish([outgoing("1", "k")]), member.publish([outgoing("2", "k")]))
    assert all(isinstance(problem, sqlite3.OperationalError) for (problem,) in problems)
    monkeypatch.setattr(work, "commit", real)
    await assert_quiet(member)
    for name in ("1", "2"):  # as a relay does
        assert await member.publish([outgoing(name, "k")]) == [None]
    (first,) = await receive(member)
    assert (ids_of([first]), first.deliveries) == (["1"], 1)
    await member.settle([(first, Done())])
    assert ids_of(await receive(member)) == ["2"]


async def test_whose_publishing_was_cancelled_has_published_it_all_the_same(connect: Open) -> None:
    member = await connect()
    waiting = asyncio.create_task(receive(member))
    await asyncio.sleep(QUIET_S)
    publishing = asyncio.create_task(member.publish([outgoing("1", "k")]))
    await asyncio.sleep(0)
    publishing.cancel()
    await asyncio.gather(publishing, return_exceptions=True)
    assert ids_of(await waiting) == ["1"]


async def test_what_was_handed_to_who_does_not_come_for_it_goes_to_others_when_he_closes(connect: Open) -> None:
    one = await connect()
    await assert_quiet(one)
    await one.publish([outgoing("1", "k"), outgoing("2", "k"), outgoing("3", "l")])
    other = await connect()
    await assert_quiet(other)
    await one.close()
    heard = await hear(other, 3)
    assert ids_of(heard) == ["1", "2", "3"]


async def test_a_group_that_wishes_otherwise_from_now_on_gets_what_it_wished_before(connect: Open) -> None:
    one, other = await connect(), await connect()
    waiting = asyncio.create_task(receive(one))
    await asyncio.sleep(QUIET_S)
    await one.publish([outgoing("1", "k")])
    (first,) = await waiting
    await other.declare([Subscription(group="g", wanted={"d": {"T": None}})])
    await one.publish([outgoing("2", "k")])
    await other.declare([WANTED])
    await one.publish([outgoing("3", "k")])
    await one.settle([(first, Done())])
    assert ids_of(await receive(one)) == ["3"]


# Processes


class Worker:
    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def says(self, what: str) -> None:
        assert self.process.stdout
        async with asyncio.timeout(PATIENCE_S):
            assert (await self.process.stdout.readline()).decode().strip() == what

    async def kill(self) -> None:
        if self.process.returncode is None:
            self.process.kill()
            await self.process.wait()


Begin = Callable[..., Awaitable[Worker]]


@pytest.fixture
async def begin(tmp_path: Path) -> AsyncIterator[Begin]:
    async with AsyncExitStack() as stack:

        async def one(*what: str) -> Worker:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, __file__, str(tmp_path), *what), stdout=asyncio.subprocess.PIPE
            )
            worker = Worker(process)
            stack.push_async_callback(worker.kill)
            return worker

        yield one


async def test_what_a_killed_process_was_handed_and_never_received_is_taken_over_at_once(
    connect: Open, begin: Begin
) -> None:
    holder = await begin("hold")
    await holder.says("held")
    twin = await connect()
    await assert_quiet(twin)
    waiting = asyncio.create_task(hear(twin, 10))
    await asyncio.sleep(0)
    await holder.kill()
    heard = await waiting
    assert ids_of(heard) == [f"{number:05}" for number in range(10)]
    await twin.settle([(one, Done()) for one in heard])


async def test_what_a_killed_process_was_handed_is_there_when_the_next_one_starts(connect: Open, begin: Begin) -> None:
    holder = await begin("hold")
    await holder.says("held")
    await holder.kill()
    assert ids_of(await hear(await connect(), 10)) == [f"{number:05}" for number in range(10)]


async def test_a_stopped_process_keeps_its_keys_and_holds_up_no_others(connect: Open, begin: Begin) -> None:
    holder = await begin("hold")
    await holder.says("held")
    os.kill(holder.process.pid, signal.SIGSTOP)
    try:
        twin = await connect()
        await assert_quiet(twin)
        await twin.publish([outgoing("behind", "k0"), outgoing("free", "other")])
        (free,) = await receive(twin)
        assert ids_of([free]) == ["free"]
        await twin.settle([(free, Done())])
        await assert_quiet(twin)
    finally:
        os.kill(holder.process.pid, signal.SIGCONT)
    await holder.kill()
    assert ids_of(await hear(twin, 11))[-1] == "behind"


@pytest.mark.slow
async def test_twins_that_publish_and_receive_and_are_killed_lose_nothing(tmp_path: Path, begin: Begin) -> None:
    runs = 6
    dice = random.Random(4)
    steady = await begin("both", "steady")
    await steady.says("begun")
    for run in range(runs):
        twin = await begin("both", f"twin{run}")
        await twin.says("begun")
        await asyncio.sleep(dice.uniform(0.02, 0.3))
        await twin.kill()
    await steady.kill()
    rest = await begin("rest")
    await rest.says("all heard")
    with closing(sqlite3.connect(tmp_path / "effects.db")) as connection:
        heard = connection.execute("SELECT id, key FROM effects ORDER BY position").fetchall()
        sent = {name for (name,) in connection.execute("SELECT id FROM sent")}
    assert len(sent) > 100
    assert sent <= {name for name, _ in heard}
    by_key: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name, key in heard:
        by_key[name.partition("-")[0], key].append(name)
    assert all(names == sorted(names) for names in by_key.values())
    with closing(sqlite3.connect(tmp_path / "broker.db")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def tell(what: str) -> None:
    print(what, flush=True)


async def hold(folder: Path) -> None:
    """Be handed what it publishes, and receive none of it."""
    member = await opened(folder)
    await assert_quiet(member)
    await member.publish([outgoing(f"{number:05}", f"k{number}") for number in range(10)])
    tell("held")
    await asyncio.Event().wait()


def effects_in(folder: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(folder / "effects.db", isolation_level=None, timeout=PATIENCE_S)
    connection.execute("PRAGMA synchronous = OFF")
    connection.execute("CREATE TABLE IF NOT EXISTS effects (position INTEGER PRIMARY KEY, id TEXT UNIQUE, key TEXT)")
    connection.execute("CREATE TABLE IF NOT EXISTS sent (id TEXT)")
    return connection


async def hearing(member: SqliteTransport, effects: sqlite3.Connection) -> None:
    while True:
        heard = await member.receive("g", 5)
        effects.executemany(
            "INSERT OR IGNORE INTO effects (id, key) VALUES (?, ?)",
            [(one.attributes["id"], one.attributes["partitionkey"]) for one in heard],
        )
        await member.settle([(one, Done()) for one in heard])


async def both(folder: Path, name: str) -> None:
    member, effects = await opened(folder), effects_in(folder)
    task = asyncio.create_task(hearing(member, effects))
    number = 0
    while not task.done():
        batch = [f"{name}-{number + more:05}" for more in range(4)]
        number += 4
        assert not any(await member.publish([outgoing(one, f"k{int(one[-5:]) % 7}") for one in batch]))
        effects.executemany("INSERT INTO sent VALUES (?)", [(one,) for one in batch])
        if number == 4:
            tell("begun")
        await asyncio.sleep(0.002)
    await task


async def rest(folder: Path) -> None:
    """Hear what is left."""
    member, effects = await opened(folder), effects_in(folder)
    task = asyncio.create_task(hearing(member, effects))
    with closing(sqlite3.connect(folder / "broker.db")) as connection:
        while connection.execute("SELECT count(*) FROM minuet_queue").fetchall() != [(0,)]:
            await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await member.close()
    tell("all heard")


if __name__ == "__main__":
    does: dict[str, Callable[..., Any]] = {"hold": hold, "both": both, "rest": rest}
    asyncio.run(does[sys.argv[2]](Path(sys.argv[1]), *sys.argv[3:]))
