"""Two instances of everything on one PostgreSQL: what is waited for is decided once, whichever of them hears of it."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
from psycopg import sql

from minuet import Database, Settings, System, running
from minuet.core.projection import Coordination
from minuet.ports import Tx
from tests.scenarios.waiting import APPROVED_WITHIN_S, WITHIN_S, Approve, Order, app_of

pytestmark = pytest.mark.server

PACE = 0.1
ORDERS = 30
PATIENCE_S = 90.0


@pytest.fixture
def database(postgres_url: str) -> Iterator[str]:
    """A database of the test's own: schemas are called like services."""
    name = f"waiting_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    yield urlunsplit(urlsplit(postgres_url)._replace(path=f"/{name}"))
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def takes_s(order_id: str) -> float:
    """About as long as it is waited for, or not at all."""
    chance = random.Random(order_id)
    return PACE * chance.choice((0.0, WITHIN_S + chance.uniform(-1.0, 1.0), WITHIN_S + 20.0))


async def deeds(system: System) -> dict[str, Counter[str]]:
    def look(tx: Tx) -> list[tuple[str, str]]:
        rows = tx.handle(Database).all("SELECT order_id, what FROM deeds")
        return [(row["order_id"], row["what"]) for row in rows]

    found: dict[str, Counter[str]] = {}
    for service in ("stock", "money", "van"):
        for order_id, what in await system.stores[service].transact(look, reads_only=True):
            found.setdefault(order_id, Counter())[what] += 1
    return found


@pytest.mark.parametrize("how", ["choreography", "orchestration"])
async def test_two_instances_decide_once(how: str, database: str, tmp_path: Path) -> None:
    app = app_of(pay_takes_s=takes_s, pace=PACE)
    settings = Settings(data=tmp_path, stores={"default": database}, coordination={"Buying": Coordination(how)})
    names = [f"o{number}" for number in range(ORDERS)]
    async with AsyncExitStack() as stack:
        systems = [await stack.enter_async_context(running(app, settings)) for _ in range(2)]

        async def customer(number: int, name: str) -> None:
            chance = random.Random(f"customer of {name}")
            await systems[number % 2].send(Order(order_id=name))
            await asyncio.sleep(PACE * chance.choice((0.0, APPROVED_WITHIN_S + chance.uniform(-1.0, 5.0), WITHIN_S)))
            await systems[(number + 1) % 2].send(Approve(order_id=name))

        await asyncio.gather(*(customer(number, name) for number, name in enumerate(names)))
        ends: Counter[str] = Counter()
        async with asyncio.timeout(PATIENCE_S):
            for name in names:
                ends[await end_of(systems[0], name)] += 1
            while not all(map(is_whole_or_clean, (await deeds(systems[0])).values())):
                await asyncio.sleep(0.1)  # what was abandoned ends later than its saga
        for system in systems:
            await system.drained()
        for name in names:
            view = await systems[0].observer.saga(name)
            told = [(one.step, one.type) for one in view.messages if one.type in ("StepAccepted", "StepAbandoned")]
            assert len({step for step, _ in told}) == len(told), (name, told)
        assert not await systems[0].observer.parked()
    assert ends["completed"] > 2
    assert ends["compensated"] > 2


async def end_of(system: System, name: str) -> str:
    """Looked for again and again: the other instance may be the one that ends it, and nobody tells this one."""
    while (end := await system.observer.end_of("Buying", name)) is None:
        await asyncio.sleep(0.1)
    return end.value


def is_whole_or_clean(done: Counter[str]) -> bool:
    assert max(done.values()) == 1, done
    if done["sent"]:
        return done["paid"] == done["reserved"] == 1 and not done["repaid"] and not done["released"]
    return done["paid"] == done["repaid"] and done["reserved"] == done["released"]
