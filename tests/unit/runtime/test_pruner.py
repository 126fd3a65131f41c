"""What is over is forgotten after its time; what goes on is not, and nothing that is kept comes undone."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from minuet import Settings, running
from minuet.core.errors import DefinitionError
from minuet.runtime.pruner import Pruner
from tests.failures.shop import DONE, SAGA, Conduct, all_effects, order_app, place

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
        for name, one in system.places.items():
            await Pruner(name, one.store, clock, keep_s=5 * DAY_S).walk()
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
