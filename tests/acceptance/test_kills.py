"""Processes die between any two instructions while orders come in. In the end all orders have ended, all books fit."""

import asyncio
import contextlib
import os
import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from tests.acceptance.processes import APART, GONE, Shop, mixed, shipped_of, until

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(240)]

SEED = int(os.environ.get("KILL_SEED") or random.SystemRandom().randrange(10**6))
KILLS = 16


@dataclass
class Customers:
    """Each orders something of all kinds, again and again, and waits for the end of one order before the next."""

    shop: Shop
    placed: dict[str, tuple[str, list[str]]] = field(default_factory=dict)
    is_enough: bool = False

    async def keep_ordering(self, customers: int, most: int = 5000) -> None:
        orders = mixed("KILLS", most)
        names = iter(orders)

        async def one() -> None:
            for name in names:
                self.placed[name] = orders[name]
                await self.shop.place(name, *orders[name])
                await until(lambda name=name: self._has_ended(name), what=f"{name} has ended")  # type: ignore[misc]
                if self.is_enough:
                    return

        await asyncio.gather(*(one() for _ in range(customers)))

    async def _has_ended(self, name: str) -> bool:
        answer = await self.shop.insist("GET", f"/orders/{name}")
        return bool(answer.json["status"] != "PENDING")

    async def more(self, count: int, *, within_s: float = 60) -> None:
        """Until so many more orders were placed."""
        wanted = len(self.placed) + count

        async def placed() -> bool:
            return len(self.placed) >= wanted

        await until(placed, within_s=within_s, what=f"{wanted} orders were placed")


async def everything_fits(shop: Shop, placed: dict[str, tuple[str, list[str]]]) -> None:
    ended = await shop.ended(*placed)
    assert {name for name, order in ended.items() if order.status == "SHIPPED"} == shipped_of(placed)
    await shop.at_rest()
    await shop.balanced()


@pytest.mark.grounds("postgres+rabbitmq/choreography")
async def test_each_process_is_killed_at_random_moments(
    empty: Shop, record_property: Callable[[str, object], None]
) -> None:
    shop, chance = empty, random.Random(f"{SEED} {empty.coordination}")
    running = await shop.start_apart()
    await shop.stock(GONE, 0)
    customers = Customers(shop)
    ordering = asyncio.create_task(customers.keep_ordering(customers=8))
    # Everybody twice, in any order, and the two through which all goes once more.
    victims = [*APART, *APART, "orders", "orchestrator" if shop.coordination == "orchestration" else "payment"]
    chance.shuffle(victims)
    story: list[str] = []
    try:
        for number, victim in enumerate(victims):
            await customers.more(chance.randrange(1, 8))
            await asyncio.sleep(chance.random() * 0.05)
            running[victim].kill()
            story.append(victim)
            running[victim] = shop.launch(victim)
            if chance.random() < 0.5 or number == len(victims) - 1:  # else the next one dies while this one starts
                await asyncio.gather(*(process.ready() for process in running.values()))
            elif victims[number + 1] == victim:
                await running[victim].ready()
        customers.is_enough = True
        await ordering
        await everything_fits(shop, customers.placed)
    except BaseException as error:
        error.add_note(f"seed {SEED}: KILL_SEED={SEED} does the same again; killed so far: {', '.join(story)}")
        raise
    finally:
        ordering.cancel()
    assert len(story) == KILLS
    record_property("kills", len(story))
    record_property("orders", len(customers.placed))


@pytest.mark.grounds("postgres+kafka/choreography")
async def test_two_of_a_kind_share_the_work_and_one_of_them_is_killed(empty: Shop) -> None:
    """The last one started is the one that the others find; it is killed, and its twin does everything."""
    shop = empty
    await shop.start_apart()
    second = await shop.start_apart(("payment", "inventory", "orchestrator"))
    await shop.stock(GONE, 0)
    customers = Customers(shop)
    ordering = asyncio.create_task(customers.keep_ordering(customers=12, most=150))
    try:
        for twin in second.values():
            await customers.more(40)
            twin.kill()
        await ordering
    finally:
        ordering.cancel()
    assert len(customers.placed) == 150
    await everything_fits(shop, customers.placed)


@pytest.mark.grounds("postgres+redis/choreography")
async def test_a_process_that_stood_still_does_nothing_a_second_time(empty: Shop) -> None:
    """What it has in hand it keeps: it is not dead, and the kernel keeps its locks. A twin does what else there is."""
    shop = empty
    running = await shop.start_apart()
    customers = Customers(shop)
    await shop.stock(GONE, 0)
    ordering = asyncio.create_task(customers.keep_ordering(customers=8))
    try:
        for name in ("payment", "inventory", "orchestrator"):
            await customers.more(15)
            running[name].freeze()
            twin = shop.launch(name)
            # If it stands still within a write, all who share that file wait for it, the twin too.
            with contextlib.suppress(TimeoutError):
                await customers.more(15, within_s=3)
            running[name].thaw()
            await twin.ready()
        customers.is_enough = True
        await ordering
    finally:
        ordering.cancel()
    await everything_fits(shop, customers.placed)


@pytest.mark.grounds("postgres+nats/orchestration")
async def test_a_stop_in_order_shows_nobody_an_error(empty: Shop) -> None:
    shop = empty
    running = await shop.start_apart()
    await shop.stock(GONE, 0)
    customers = Customers(shop)
    ordering = asyncio.create_task(customers.keep_ordering(customers=8))
    try:
        for name in ("orders", "payment", "orders", "orchestrator"):
            await customers.more(25)
            assert await running[name].stop() == 0
            running[name] = await shop.start(name)
        customers.is_enough = True
        await ordering
    finally:
        ordering.cancel()
    # Refused connections while nobody listens, "ask again", and, seldom, connections that are closed before anybody has
    # read what came on them: queued by the kernel and not accepted (reset), or idle until then (disconnected).
    allowed = {"ClientConnectorError", "ClientOSError", "ServerDisconnectedError", "NobodyThere", "503"}
    assert set(shop.troubles.seen) <= allowed, shop.troubles.seen
    assert shop.troubles.seen["ClientOSError"] + shop.troubles.seen["ServerDisconnectedError"] <= 4, shop.troubles.seen
    await everything_fits(shop, customers.placed)
    assert "Traceback" not in shop.said()


@pytest.mark.grounds("seed/choreography")
async def test_everything_in_one_process_is_killed_over_and_over(empty: Shop) -> None:
    shop, chance = empty, random.Random(f"{SEED} one {empty.coordination}")
    process = await shop.start()
    await shop.stock(GONE, 0)
    customers = Customers(shop)
    ordering = asyncio.create_task(customers.keep_ordering(customers=8))
    try:
        for _ in range(5):
            await customers.more(chance.randrange(5, 25))
            process.kill()
            process = await shop.start()
        customers.is_enough = True
        await ordering
        await everything_fits(shop, customers.placed)
    except BaseException as error:
        error.add_note(f"seed {SEED}: KILL_SEED={SEED} does the same again")
        raise
    finally:
        ordering.cancel()
