"""A deployment that changes how a saga is coordinated: what has begun goes on as it began."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from minuet import NotYet, Settings, running
from minuet.core.projection import Coordination
from tests.failures.shop import DONE, SAGA, Conduct, all_effects, order_app, place


def settings_of(data: Path, coordination: Coordination, participants: str = "local") -> Settings:
    return Settings(
        data=data,
        coordination={SAGA: coordination},
        orchestration={"participants": participants, "ask_again_s": 0.2},  # type: ignore[arg-type]
        grace_s=600,  # a stop has nothing to wait for here, whoever is being asked
    )


WAYS = [
    ((Coordination.CHOREOGRAPHY, "local"), (Coordination.ORCHESTRATION, "local")),
    ((Coordination.ORCHESTRATION, "local"), (Coordination.CHOREOGRAPHY, "local")),
    ((Coordination.ORCHESTRATION, "local"), (Coordination.ORCHESTRATION, "commands")),
    ((Coordination.ORCHESTRATION, "commands"), (Coordination.ORCHESTRATION, "local")),
]


@pytest.mark.parametrize("refuses", [False, True], ids=["completes", "is refused"])
@pytest.mark.parametrize(("before", "after"), WAYS)
async def test_what_has_begun_goes_on_as_it_began(
    before: tuple[Coordination, str], after: tuple[Coordination, str], refuses: bool, tmp_path: Path
) -> None:
    was_asked = asyncio.Event()

    def not_yet() -> None:
        was_asked.set()
        raise NotYet("not now", retry_after_s=0.05)

    async with (
        asyncio.timeout(15),  # also for the stop
        running(
            order_app(), settings_of(tmp_path, *before), provided={Conduct: Conduct(now={"Ship": not_yet})}
        ) as system,
    ):
        await place(system, "old")
        await was_asked.wait()
    conduct = Conduct(now={"Ship old": lambda: refuses})
    async with running(order_app(), settings_of(tmp_path, *after), provided={Conduct: conduct}) as system:
        await place(system, "new")
        async with asyncio.timeout(20):
            ends = {name: (await system.ended(SAGA, name)).value for name in ("old", "new")}
        assert ends == {"old": "compensated" if refuses else "completed", "new": "completed"}
        views = {name: await system.observer.saga(name) for name in ("old", "new")}
        assert {name: view.coordination for name, view in views.items()} == {"old": before[0], "new": after[0]}
        effects = await all_effects(system, "old", "new")
        assert effects["new"] == DONE
        wanted = ["CANCELLED", "Pay", "Place", "Refund", "Release", "Reserve"] if refuses else DONE
        assert effects["old"] == wanted
        assert not await system.observer.parked()
