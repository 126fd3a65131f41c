"""Three orchestrators on one PostgreSQL database. Each second one is killed or stopped in the middle of its work.

In CI there are some hundred orders; ``make test-orchestrators`` has 1,000 of them, asked over HTTP and by messages. It
tells how long it took until others went on with what one of them had in its hands.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.acceptance.processes import GONE, SERVICES, Process, Shop, mixed, shipped_of, shop, until
from tests.acceptance.takeovers import Takeover, Takeovers, asked_twice
from tests.servers import private_server

pytestmark = [pytest.mark.acceptance, pytest.mark.server]

ORDERS = int(os.environ.get("ORCHESTRATED_ORDERS") or 240)
SEED = int(os.environ.get("KILL_SEED") or random.SystemRandom().randrange(10**6))
EVERY_S = 1.0
ORDERS_PER_S = 16.0
ORCHESTRATORS = 3
LEASE_S = 10.0
"""`minuet.adapters.postgres.limits.Limits.lease_s`."""
KILLED_S = 15.0
STOPPED_S = LEASE_S + 10.0
"""Within which others must go on, also on a machine that has other things to do. Of those who were killed it takes a
second; but then it may be that the only one left has just been started, and is not at work yet."""
STOPS = 0.05  # instead of a kill; the first one is always stopped, for that takes longest
LATENCY = {"latencyMs": 150}  # of the payment company and the carrier: so there is always something under way


@dataclass(kw_only=True)
class Disturbance:
    """One orchestrator was killed or stopped.

    Attributes:
        at: seconds since 1970.
        owners: its names in the database. left: what it had in its hands then.
        sessions: that it had then.
    """

    what: str
    process: Process
    at: float
    sessions: set[int]
    owners: list[str]
    left: set[str] = field(default_factory=set)


class Trouble:
    """Kills and stops orchestrators, never the last one that is at work, and starts others for the dead ones."""

    def __init__(self, made: Shop, watched: Takeovers, running: list[Process], chance: random.Random) -> None:
        self.shop = made
        self.watched = watched
        self.running = running
        self.chance = chance
        self.past: list[Disturbance] = []
        self._thawing: asyncio.Task[None] | None = None

    async def every_second(self) -> None:
        """Until it is cancelled. One at a time stands still, and meanwhile the others are killed."""
        while True:
            began = asyncio.get_running_loop().time()
            stops = self._thawing is None or (self._thawing.done() and self.chance.random() < STOPS)
            # Somebody who stands still is only of interest with something in his hands.
            victim = await until(self._busy_victim if stops else self._victim, what="another orchestrator is at work")
            self.stop(victim) if stops else self.kill(victim)
            await asyncio.sleep(max(0.0, began + EVERY_S - asyncio.get_running_loop().time()))

    async def _victim(self) -> Process | None:
        at_work = [one for one in self.running if one.is_alive and one.url and one is not self._stopped]
        chosen = self.chance.choice(at_work) if len(at_work) > 1 else None
        # Who has just woken up has no session yet.
        return chosen if chosen is not None and self.watched.sessions(chosen) else None

    async def _busy_victim(self) -> Process | None:
        found = await self._victim()
        if found is None:
            return None
        found.freeze()
        if self.watched.left(self.watched.owners(self.watched.sessions(found))):
            return found
        found.thaw()
        return None

    @property
    def _stopped(self) -> Process | None:
        is_over = self._thawing is None or self._thawing.done()
        return None if is_over else next(one.process for one in reversed(self.past) if one.what == "stopped")

    def _disturb(self, what: str, victim: Process, act: Callable[[], None]) -> Disturbance:
        sessions = self.watched.sessions(victim)
        assert sessions, f"{victim} has no session"
        at = time.time()
        act()
        owners = self.watched.owners(sessions)
        one = Disturbance(
            what=what, process=victim, at=at, sessions=sessions, owners=owners, left=self.watched.left(owners)
        )
        self.past.append(one)
        return one

    def kill(self, victim: Process) -> None:
        self._disturb("killed", victim, victim.kill)
        self.running.remove(victim)
        self.running.append(self.shop.launch("orchestrator"))

    def stop(self, victim: Process) -> None:
        self._thawing = asyncio.create_task(self._thaw(self._disturb("stopped", victim, victim.freeze)))

    async def _thaw(self, one: Disturbance) -> None:
        """When it has no session to write with and others own all that it had: the fence, or before it the limit for
        a transaction in which nothing happens."""

        async def others_have_it() -> bool:
            return not self.watched.are_there(one.sessions) and not self.watched.left(one.owners)

        def why() -> str:
            return f"others take over from {one.process}: {self.watched.story(one.sessions, one.owners)}"

        try:
            await until(others_have_it, within_s=STOPPED_S, what=why)
        finally:
            one.process.thaw()

    async def over(self) -> None:
        """All orchestrators are at work again."""
        if self._thawing is not None:
            await self._thawing
        await asyncio.gather(*(one.ready() for one in self.running))


async def keep_ordering(made: Shop, orders: dict[str, tuple[str, list[str]]]) -> None:
    began = asyncio.get_running_loop().time()
    async with asyncio.TaskGroup() as placing:
        for number, (name, rest) in enumerate(orders.items()):
            await asyncio.sleep(max(0.0, began + number / ORDERS_PER_S - asyncio.get_running_loop().time()))
            placing.create_task(made.place(name, *rest))


def ways() -> tuple[str, ...]:
    return ("http", "commands") if ORDERS >= 1000 else ("http",)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("participants", ways())
async def test_every_second_one_of_three_is_killed_or_stopped(
    participants: str,
    tmp_path: Path,
    servers_path: Path,
    record_property: Callable[[str, object], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    with private_server("postgres", servers_path) as server:
        config = f'[orchestration]\nparticipants = "{participants}"\nask_again_s = 5.0\n'
        async with shop(
            tmp_path, "orchestration", "postgres+nats", servers={"postgres": server.url}, config=config
        ) as made:
            try:
                trouble = await _orders_among_trouble(made, participants)
            except BaseException as error:
                error.add_note(f"seed {SEED}: KILL_SEED={SEED} kills the same ones again")
                raise
            report = _report(trouble, participants)
            with capsys.disabled():
                print(f"\n{report.text}")
            for name, value in report.figures.items():
                record_property(name, value)
            assert report.figures["stopped"] >= 1
            assert report.figures["killed"] >= ORDERS // 100  # how many it comes to is up to the machine
            assert report.figures["longest_after_kill_s"] < KILLED_S, report.text
            assert report.figures["longest_after_stop_s"] < STOPPED_S, report.text


async def _orders_among_trouble(made: Shop, participants: str) -> Trouble:
    everything_else = made.launch(*SERVICES, "sandbox")
    running = [made.launch("orchestrator") for _ in range(ORCHESTRATORS)]
    await asyncio.gather(*(one.ready() for one in (everything_else, *running)))
    await made.stock(GONE, 0)
    await made.behave("gateway", **LATENCY)
    await made.behave("carrier", **LATENCY)
    watched = Takeovers(made.ground.stores.url)
    trouble = Trouble(made, watched, running, random.Random(f"{SEED} orchestrators"))
    orders = mixed("MANY", ORDERS)
    disturbing = asyncio.create_task(trouble.every_second())
    try:
        await keep_ordering(made, orders)
        if disturbing.done():
            await disturbing  # it has failed
        disturbing.cancel()
        await trouble.over()
        ended = await made.ended(*orders, within_s=120)

        # All ended, each as it should; no book shows anything twice, nobody needs an operator.
        assert {name for name, order in ended.items() if order.status == "SHIPPED"} == shipped_of(orders)
        await made.at_rest()
        books = await made.balanced()
        assert (books.shipped + books.cancelled, books.shipped) == (ORDERS, len(shipped_of(orders)))
        # Nothing was decided twice, nor asked for under another key.
        assert watched.done_twice() == []
        assert asked_twice(made.ground.stores.url, SERVICES) == []
        # Whoever woke up left alone what was another's by then. By messages, any of them hears the answer.
        assert participants == "commands" or watched.meddled() == []
        for one in trouble.past:
            assert not watched.left(one.owners), f"{one.process} has kept what it had"
        return trouble
    finally:
        disturbing.cancel()


@dataclass
class Report:
    text: str
    figures: dict[str, float]


def _report(trouble: Trouble, participants: str) -> Report:
    found: dict[str, list[tuple[Disturbance, Takeover]]] = {"killed": [], "stopped": []}
    for one in trouble.past:
        taken = trouble.watched.of(one.left, one.owners, one.at)
        if taken is not None:
            found[one.what].append((one, taken))
    times = {what: [taken.first_s for _, taken in those] for what, those in found.items()}
    whole = {what: [taken.last_s for _, taken in those] for what, those in found.items()}
    trouble.watched.close()
    counts = {what: sum(one.what == what for one in trouble.past) for what in found}
    figures: dict[str, float] = {
        "seed": SEED,
        "orders": ORDERS,
        "killed": counts["killed"],
        "stopped": counts["stopped"],
        "seconds": trouble.past[-1].at - trouble.past[0].at,
        "entries_taken_over": sum(taken.entries for those in found.values() for _, taken in those),
        "longest_after_kill_s": max(times["killed"], default=0.0),
        "longest_after_stop_s": max(times["stopped"], default=0.0),
    }
    lines = [
        f"{ORDERS} orders, participants asked by {participants}, seed {SEED}: in {figures['seconds']:.0f} s "
        f"{counts['killed']} orchestrators killed and {counts['stopped']} stopped; "
        f"{figures['entries_taken_over']} entries taken over",
    ]
    lines += [
        f"  {what}: {len(those)} had work in hand; until another had begun the first of it: median "
        f"{sorted(times[what])[len(those) // 2]:.2f} s, longest {max(times[what]):.2f} s; all of it: longest "
        f"{max(whole[what]):.2f} s"
        for what, those in found.items()
        if those
    ]
    return Report("\n".join(lines), figures)
