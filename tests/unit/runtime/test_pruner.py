"""What is over is forgotten after its time; what goes on is not, and nothing that is kept comes undone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from minuet import Settings, running
from minuet.core.errors import DefinitionError
from minuet.runtime.pruner import Pruner
from tests.failures.shop import DONE, SAGA, Conduct, all_effects, order_app, place
from tests.unit.runtime.virtual_loop import in_virtual_time

DAY_S = 86_400.0


class Movable:
    """A clock that a test puts forward."""

    def __init__(self) -> None:
        self.at = 1_800_000_000.0

    def now(self) -> float:
        return self.at


@pytest.mark.parametrize("store", ["sqlite:", "memory:"])
@pytest.mark.parametrize("coordination", ["choreography", "orchestration"])
async def test_what_is_over_is_forgotten_and_what_goes_on_is_not(store: str, coordination: str, tmp_path: Path) -> None:
    clock, stuck = Movable(), [True]

    def stay() -> None:
        if stuck:
            raise DefinitionError("parked, for an operator")

    settings = Settings(
        data=tmp_path,
        stores={"default": "sqlite:", "orchestrator": store} if store == "memory:" else {},
        coordination={SAGA: coordination},  # type: ignore[dict-item]
    )
    conduct = Conduct(now={"Ship stays": stay})
    async with running(order_app(), settings, clock=clock, provided={Conduct: conduct}) as system:
        await place(system, "over", "stays")
        await system.ended(SAGA, "over")
        await system.drained()
        async with asyncio.timeout(20):
            while not any("stays" in one.id for one in await system.observer.parked()):
                await asyncio.sleep(0.01)
        clock.at += 10 * DAY_S
        await place(system, "young")
        await system.ended(SAGA, "young")
        await system.drained()
        stores = {name: one.store for name, one in system.places.items()}
        await Pruner(stores, clock, keep_s=5 * DAY_S).walk()
        assert {(one.id, one.status) for one in await system.observer.sagas()} == {
            ("young", "completed"),
            ("stays", "needs operator"),
        }
        stuck.clear()
        for parked in await system.observer.parked():
            await system.observer.reopen(parked.id)
        await system.ended(SAGA, "stays")
        assert await all_effects(system, "over", "stays", "young") == {"over": DONE, "stays": DONE, "young": DONE}


async def test_a_deployment_chooses_for_how_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("minuet.runtime.pruner.REST_S", 0.01)
    clock = Movable()
    settings = Settings(data=tmp_path, retention={"keep_days": 30})  # type: ignore[arg-type]
    async with running(order_app(), settings, clock=clock, provided={Conduct: Conduct()}) as system:
        await place(system, "o1")
        await system.ended(SAGA, "o1")
        await system.drained()
        clock.at += 31 * DAY_S
        async with asyncio.timeout(20):
            while await system.observer.sagas():
                await asyncio.sleep(0.01)


class Slow:
    """A store of which so many pages are old; each takes so long."""

    def __init__(self, clock: Movable, *, pages: int, page_s: float, fails: bool = False) -> None:
        self.retention = self
        self.left = {"entries": pages, "known": pages}
        self._clock, self._page_s, self._fails = clock, page_s, fails

    async def transact(self, work: Callable[[Any], Any]) -> Any:
        if self._fails:
            raise OSError("the disk is away")
        return work(self)

    def forget_entries(self, before: float, after: int, limit: int) -> int | None:
        return self._forget("entries", after, limit)

    def forget_known(self, before: float, after: int, limit: int) -> int | None:
        return self._forget("known", after, limit)

    def _forget(self, what: str, after: int, limit: int) -> int | None:
        self._clock.at += self._page_s
        self.left[what] -= 1
        return after + limit if self.left[what] else None


@in_virtual_time
async def test_stores_take_turns_and_no_more_than_their_share() -> None:
    clock = Movable()
    stores = {name: Slow(clock, pages=10, page_s=0.02) for name in ("one", "other")}
    stores["broken"] = Slow(clock, pages=10, page_s=0.02, fails=True)
    began, at = asyncio.get_running_loop().time(), clock.at
    await Pruner(stores, clock, keep_s=DAY_S).walk()  # type: ignore[arg-type]
    worked_s, rested_s = clock.at - at, asyncio.get_running_loop().time() - began
    assert [one.left for one in stores.values()] == [
        {"entries": 0, "known": 0},
        {"entries": 0, "known": 0},
        {"entries": 10, "known": 10},
    ]
    assert worked_s == pytest.approx(40 * 0.02)
    assert rested_s >= 9 * worked_s


@in_virtual_time
async def test_a_clock_that_jumps_stops_no_forgetting() -> None:
    clock, began = Movable(), asyncio.get_running_loop().time()
    await Pruner({"one": Slow(clock, pages=5, page_s=DAY_S)}, clock, keep_s=DAY_S).walk()  # type: ignore[dict-item]
    assert asyncio.get_running_loop().time() - began <= 10 * 2.0
