"""What is waited for, on a real Temporal server: the workflow waits and decides as the embedded engine does.

To record the histories anew: see `tests.contract.test_temporal`.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from temporalio.client import WorkflowHistory

from minuet import App, System
from minuet.adapters.temporal import definitions
from tests.contract.test_temporal import HISTORIES, Site, nameless, replayer, site
from tests.failures.shop import until
from tests.scenarios.waiting import Approve, Disapproved, Order, app_of, saga_of

__all__ = ["site"]

server = pytest.mark.server
PATIENCE_S = 90.0
PACE = 0.1
"""The times of the saga are 3 s, 6 s and 2 s."""


def waiting(**more: Any) -> App:
    return app_of(pace=PACE, **more)


async def ended(system: System, name: str) -> str:
    async with asyncio.timeout(PATIENCE_S):
        return (await system.ended("Buying", name)).value


async def told(system: System, name: str, kind: str) -> list[dict[str, Any]]:
    await system.drained()
    return [json.loads(one.body) for one in (await system.observer.saga(name)).messages if one.type == kind]


async def is_accepted(system: System, name: str) -> None:
    async def accepted() -> bool:
        return bool(await told(system, name, "StepAccepted"))

    await until(accepted, "the payment is accepted")


def late(*names: str) -> Callable[[str], float]:
    return lambda order_id: 6.0 if order_id in names else 0.0


@server
async def test_each_end_is_the_same_as_without_temporal(site: Site) -> None:
    names = good, early, slow, silent, refused, cancelled = site.of(
        "good", "early", "slow", "silent", "refused", "cancelled"
    )
    async with site.at_work(waiting(pay_takes_s=late(slow))) as system:
        await system.send(Approve(order_id=early))
        for name in names:
            await system.send(Order(order_id=name))

        async def says(name: str) -> None:
            await is_accepted(system, name)
            if name == good:
                await system.send(Approve(order_id=name))
            elif name == refused:
                office = system.places["office"].participant
                await system.places["office"]._handed_in(
                    lambda tx, after: office.announce(tx, f"no/{name}", Disapproved(order_id=name), name) and None
                )
            elif name == cancelled:
                await system.cancel(name, who="ada")

        await asyncio.gather(*map(says, (good, refused, cancelled)))
        ends = dict(zip(names, await asyncio.gather(*(ended(system, name) for name in names)), strict=True))
        for name in names:
            async with asyncio.timeout(PATIENCE_S):
                assert await (await site.workflow(name, "Buying")).result() == ends[name]
        reasons = {name: [one["reason"] for one in await told(system, name, "StepAbandoned")] for name in names}
        repaid = {name: len(await told(system, name, "Repaid")) for name in names}
        assert not await system.observer.parked()
    undone = dict.fromkeys((slow, silent, refused, cancelled), "compensated")
    assert ends == {good: "completed", early: "completed", **undone}
    assert reasons == {
        good: [],
        early: [],
        slow: ["time is up"],
        silent: ["time is up"],
        refused: ["refused by Disapproved"],
        cancelled: ["cancelled"],
    }
    assert repaid == {good: 0, early: 0, slow: 1, silent: 1, refused: 1, cancelled: 1}


@server
async def test_the_deadline_of_a_saga_ends_its_waiting(site: Site) -> None:
    (name,) = site.of("a")
    async with site.at_work(waiting(within=False, deadline=timedelta(seconds=4))) as system:
        await system.send(Order(order_id=name))
        assert await ended(system, name) == "compensated"
        assert [one["reason"] for one in await told(system, name, "StepAbandoned")] == ["the saga's deadline passed"]


@server
async def test_a_wait_goes_on_where_another_worker_left_it(site: Site) -> None:
    (name,) = site.of("a")
    app = waiting(within=False)
    async with site.at_work(app) as system:
        await system.send(Order(order_id=name))
        await is_accepted(system, name)
    async with site.at_work(app) as system:
        await system.send(Approve(order_id=name))
        assert await ended(system, name) == "completed"


@server
async def test_histories_with_waits_can_be_recorded(site: Site) -> None:
    accepted, abandoned = site.of("accepted", "abandoned")
    async with site.at_work(waiting()) as system:
        for name in (accepted, abandoned):
            await system.send(Order(order_id=name))
        await is_accepted(system, accepted)
        await system.send(Approve(order_id=accepted))
        assert [await ended(system, name) for name in (accepted, abandoned)] == ["completed", "compensated"]
        for name in (accepted, abandoned):
            await (await site.workflow(name, "Buying")).result()
    for name, end in ((accepted, "accepted"), (abandoned, "abandoned")):
        text = (await site.history(name, "Buying")).to_json()
        await replayer().replay_workflow(WorkflowHistory.from_json(f"Buying/{name}", text))
        if os.environ.get("RECORD"):
            (HISTORIES / f"{end}.json").write_text(json.dumps(nameless(json.loads(text)), indent=1) + "\n")


@pytest.mark.parametrize("end", ["accepted", "abandoned"])
async def test_a_recorded_history_with_a_wait_is_replayed_by_the_workflow_of_today(end: str) -> None:
    definitions.know([saga_of(pace=PACE)])
    text = (HISTORIES / f"{end}.json").read_text()
    await replayer().replay_workflow(WorkflowHistory.from_json("Buying/recorded", text))
