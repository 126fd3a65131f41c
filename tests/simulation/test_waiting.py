"""What waits, under every fault: an order is whole or nothing remains of it, whoever crashes while it decides."""

from __future__ import annotations

import asyncio
import random
from collections import Counter, defaultdict
from datetime import timedelta
from typing import Any

import pytest

from minuet.testing.simulation import Faults, Simulation, World
from tests.scenarios.waiting import APPROVED_WITHIN_S, WITHIN_S, Approve, Approved, Disapproved, Order, app_of

SEEDS = range(30)
ORDERS = 6
WHOLE = ["paid", "reserved", "sent"]


def takes_s(order_id: str) -> float:
    """Mostly nothing; sometimes just about as long as anybody waits, and sometimes longer."""
    chance = random.Random(order_id)
    return chance.choice((0.0, 0.0, 1.0, WITHIN_S + chance.uniform(-0.3, 0.3), WITHIN_S + 20.0))


def waiting(**settings: Any) -> Simulation:
    chosen = {name: settings.pop(name) for name in ("is_parallel", "is_sync", "deadline", "within") if name in settings}
    simulation = Simulation(app_of(pay_takes_s=takes_s, **chosen), **settings)

    async def customer(world: World, number: int) -> None:
        order_id, chance = f"{world.seed}-{number}", world.random
        await world.sleep(chance.uniform(0.0, 5.0))
        says = chance.choice(
            (Approved, Approved, Approve, Disapproved, None if chosen.get("within", True) else Approved)
        )
        after_s = chance.choice(
            (-3.0, 1.0, 20.0, APPROVED_WITHIN_S + chance.uniform(-0.3, 0.3), APPROVED_WITHIN_S + 50.0)
        )

        async def say() -> None:
            await world.sleep(max(0.0, after_s))
            if says is Approve:
                await world.send(Approve(order_id=order_id))
            elif says is not None:
                for _ in range(chance.choice((1, 1, 2))):
                    world.tell(says(order_id=order_id))

        async def place() -> None:
            await world.sleep(max(0.0, -after_s))
            await world.send(Order(order_id=order_id))

        await asyncio.gather(say(), place())

    @simulation.drive
    async def customers(world: World) -> None:
        await asyncio.gather(*(customer(world, number) for number in range(ORDERS)))

    @simulation.eventually
    def whole_or_clean(world: World) -> None:
        """Everything of an order is done, or nothing of it remains."""
        done: defaultdict[str, list[str]] = defaultdict(list)
        for service in ("stock", "money", "van"):
            for row in world.rows(service, "SELECT order_id, what FROM deeds ORDER BY rowid"):
                done[row["order_id"]].append(row["what"])
        for order_id, found in done.items():
            if "sent" in found:
                assert sorted(found) == WHOLE, (order_id, found)
            else:
                assert found.count("reserved") == found.count("released") <= 1, (order_id, found)
                assert found.count("paid") == found.count("repaid") <= 1, (order_id, found)

    return simulation


@pytest.mark.parametrize("seed", SEEDS)
def test_whatever_happens_an_order_is_whole_or_clean(seed: int) -> None:
    chance = random.Random(seed)
    simulation = waiting(
        is_parallel=chance.random() < 0.5,
        is_sync=chance.random() < 0.3,
        within=chance.random() < 0.7,
        deadline=chance.choice((None, timedelta(seconds=45), timedelta(minutes=30))),
        coordination=chance.choice(("choreography", "orchestration")),
        patience_s=1200.0,
    )
    report = simulation.run(seed, faults=Faults.swarm(random.Random(seed)))
    assert report.sagas.total() == ORDERS
    assert set(report.sagas) <= {"completed", "compensated"}


def test_the_seeds_are_worth_running() -> None:
    """Guards the guard: while nothing goes wrong, orders end both ways, and what waits decides both ways."""
    ends: Counter[str] = Counter()
    decisions: Counter[str] = Counter()
    for seed in range(4):
        for coordination in ("choreography", "orchestration"):
            report = waiting(coordination=coordination, patience_s=1200.0).run(seed, faults=Faults(until_s=0.0))
            ends += report.sagas
            decisions += Counter(kind for decided in report.outcomes.values() for kind in decided.values())
    assert ends["completed"] > 4, ends
    assert ends["compensated"] > 4, ends
    assert decisions["StepAccepted"] > 8, decisions
    assert decisions["StepAbandoned"] > 4, decisions
    assert decisions["Repaid"] > 2, decisions
