"""Processes die between any two instructions while orders come in. In the end every order has ended, and all books fit."""

import asyncio
import os
import random
from dataclasses import dataclass, field

import pytest

from tests.acceptance.processes import APART, GONE, Process, Shop, mixed, shipped_of, until

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(240)]

SEED = int(os.environ.get("MINUET_KILL_SEED") or random.SystemRandom().randrange(10**6))
KILLS = 16


@dataclass
class Customers:
    """Place orders of all kinds until they are told to stop; how many are in hand at once is the load."""

    shop: Shop
    placed: dict[str, tuple[str, list[str]]] = field(default_factory=dict)
    is_enough: bool = False

    async def keep_ordering(self, at_once: int, most: int) -> None:
        orders = mixed("KILLS", most)
        names = iter(orders)

        async def one() -> None:
            for name in names:
                if self.is_enough:
                    return
                self.placed[name] = orders[name]
                await self.shop.place(name, *orders[name])

        await asyncio.gather(*(one() for _ in range(at_once)))


async def everything_fits(shop: Shop, placed: dict[str, tuple[str, list[str]]]) -> None:
    ended = await shop.ended(*placed)
    assert {name for name, order in ended.items() if order.status == "SHIPPED"} == shipped_of(placed)
    await shop.at_rest()
    await shop.balanced()


async def test_each_process_is_killed_at_random_moments(empty: Shop, record_property: pytest.RecordProperty) -> None:
    shop, chance = empty, random.Random(f"{SEED} {empty.coordination}")
    running = await shop.start_apart()
    await shop.stock(GONE, 0)
    customers = Customers(shop)
    ordering = asyncio.create_task(customers.keep_ordering(at_once=4, most=400))
    # Everybody twice, in any order, and the two through which all goes once more.
    victims = [*APART, *APART, "orders", "orchestrator" if shop.coordination == "orchestration" else "payment"]
    chance.shuffle(victims)
    story: list[str] = []
    try:
        for number, victim in enumerate(victims):
            await until(lambda wanted=len(customers.placed) + chance.randrange(1, 8): _placed(customers, wanted), what="some more orders came in")  # type: ignore[misc]
            await asyncio.sleep(chance.random() * 0.05)
            running[victim].kill()
            story.append(victim)
            running[victim] = shop.launch(victim)
            if chance.random() < 0.5 or number == len(victims) - 1:  # else the next one dies while this one starts
                await asyncio.gather(*(process.ready() for process in running.values()))
            else:
                await running[victim].ready() if victims[number + 1] == victim else None
        customers.is_enough = True
        await ordering
        await everything_fits(shop, customers.placed)
    except BaseException as error:
        error.add_note(f"seed {SEED}: MINUET_KILL_SEED={SEED} does the same again; killed so far: {', '.join(story)}")
        raise
    finally:
        ordering.cancel()
    assert len(story) == KILLS
    record_property("kills", len(story))
    record_property("orders", len(customers.placed))


async def test_two_of_a_kind_share_the_work_and_one_of_them_is_killed(empty: Shop) -> None:
    """The last one started is the one that the others find; it is killed, and its twin does everything."""
    shop = empty
    twins = ("payment", "inventory", "orchestrator")
    launched = [shop.launch(name) for name in (*APART, *twins)]
    await asyncio.gather(*(process.ready() for process in launched))
    second = {name: await shop.start(name) for name in twins} if False else _second(launched, twins)
    await shop.stock(GONE, 0)
    customers = Customers(shop)
    ordering = asyncio.create_task(customers.keep_ordering(at_once=8, most=150))
    try:
        for number, name in enumerate(twins, start=1):
            await until(lambda number=number: _placed(customers, 40 * number), what="some more orders came in")  # type: ignore[misc]
            second[name].kill()
        await ordering
    finally:
        ordering.cancel()
    assert len(customers.placed) == 150
    await everything_fits(shop, customers.placed)


async def test_a_frozen_twin_does_not_hold_up_the_others_for_good(empty: Shop) -> None:
    """A process that stands still keeps what it had in hand. When it wakes up, it must not do it a second time."""
    shop = empty
    running = await shop.start_apart()
    customers = Customers(shop)
    await shop.stock(GONE, 0)
    ordering = asyncio.create_task(customers.keep_ordering(at_once=8, most=80))
    await until(lambda: _placed(customers, 30), what="some orders came in")
    frozen = running["payment"]
    frozen.freeze()
    try:
        await shop.start("payment")
        await ordering
    finally:
        frozen.thaw()
        ordering.cancel()
    await everything_fits(shop, customers.placed)


async def test_a_stop_in_order_shows_nobody_an_error(empty: Shop) -> None:
    shop = empty
    running = await shop.start_apart()
    await shop.stock(GONE, 0)
    customers = Customers(shop)
    ordering = asyncio.create_task(customers.keep_ordering(at_once=8, most=400))
    try:
        for number, name in enumerate(("orders", "payment", "orders", "orchestrator"), start=1):
            await until(lambda number=number: _placed(customers, 25 * number), what="some more orders came in")  # type: ignore[misc]
            assert await running[name].stop() == 0
            running[name] = await shop.start(name)
        customers.is_enough = True
        await ordering
    finally:
        ordering.cancel()
    # Refused connections while nobody listens, and "ask again": nothing else, and no answer cut off.
    assert set(shop.troubles.seen) <= {"ClientConnectorError", "NobodyThere", "503"}, shop.troubles.seen
    await everything_fits(shop, customers.placed)
    assert "Traceback" not in shop.said()


async def test_everything_in_one_process_is_killed_over_and_over(empty: Shop) -> None:
    shop, chance = empty, random.Random(f"{SEED} one {empty.coordination}")
    process: Process = await shop.start()
    await shop.stock(GONE, 0)
    customers = Customers(shop)
    ordering = asyncio.create_task(customers.keep_ordering(at_once=8, most=400))
    try:
        for _ in range(5):
            await until(lambda wanted=len(customers.placed) + chance.randrange(5, 25): _placed(customers, wanted), what="some more orders came in")  # type: ignore[misc]
            process.kill()
            process = await shop.start()
        customers.is_enough = True
        await ordering
        await everything_fits(shop, customers.placed)
    except BaseException as error:
        error.add_note(f"seed {SEED}: MINUET_KILL_SEED={SEED} does the same again")
        raise
    finally:
        ordering.cancel()


def _second(launched: list[Process], names: tuple[str, ...]) -> dict[str, Process]:
    return {process.services[0]: process for process in launched[-len(names) :]}


async def _placed(customers: Customers, count: int) -> bool:
    return len(customers.placed) >= count
