"""What waits, on real stores: cancelled, answered by an operator, restarted, and begun before something changed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from minuet import App, Conflict, NotYet, Rejected, Saga, Settings, System, running, step
from minuet.core.projection import Coordination
from minuet.ports import Act
from minuet.runtime import directory
from minuet.testing.simulation import Faults, Simulation, World
from minuet.testing.simulation.faults import Nth
from tests.scenarios.waiting import (
    WITHIN_S,
    Approve,
    Approved,
    Close,
    Disapproved,
    Order,
    Ordered,
    Paid,
    Pay,
    Release,
    Repaid,
    Repay,
    Reserve,
    app_of,
    drop,
    saga_of,
    services,
)

COORDINATIONS = ("choreography", "orchestration")
BOTH = pytest.mark.parametrize("how", COORDINATIONS)
DECIDER = {"choreography": "van", "orchestration": "orchestrator"}
ACT = Act(at=0.0, who="ada", verb="answer", what="approval")


def app(**more: Any) -> App:
    return App("waiting", services=services(**more), sagas=[saga_of(within=False)])


@asynccontextmanager
async def at_work(how: str, data: Path, of: App | None = None, *, asked: str = "local") -> AsyncIterator[System]:
    settings = Settings(
        data=data,
        coordination={"Buying": Coordination(how)},
        orchestration={"participants": asked, "ask_again_s": 0.2},  # type: ignore[arg-type]
        grace_s=0.5,
    )
    async with running(of or app(), settings) as system:
        yield system


async def until_it_waits(system: System, what: str = "approval", order_id: str = "o1") -> str:
    """Why, in the words that a person sees."""
    async with asyncio.timeout(30):
        while True:
            for one in (await system.observer.saga(order_id)).waiting:
                if one.step == what and "waits for" in one.why:
                    return one.why
            await asyncio.sleep(0.02)


async def ended(system: System, order_id: str = "o1") -> str:
    async with asyncio.timeout(60):
        return (await system.ended("Buying", order_id)).value


async def test_of_a_saga_that_is_over_what_is_still_to_be_undone_can_be_tried_again(tmp_path: Path) -> None:
    late, undone, is_away = app_of(pay_takes_s=lambda order_id: 2.5, pace=0.03), asyncio.Event(), [True]
    repaying = late.services["money"].commands[Repay]

    async def repay(command: Repay) -> Repaid:
        if is_away:
            raise NotYet("the bank is away", retry_after_s=600)
        undone.set()
        return Repaid(order_id=command.order_id)

    late.services["money"].commands[Repay] = replace(repaying, function=repay, wants={}, is_async=True)
    async with at_work("choreography", tmp_path, late) as system, asyncio.timeout(30):
        await system.send(Order(order_id="o1"))
        assert await ended(system) == "compensated"
        while not any("the bank is away" in one.why for one in (await system.observer.saga("o1")).waiting):
            await asyncio.sleep(0.02)
        is_away.clear()
        await system.retry("o1", who="ada")
        await undone.wait()
        while (await system.observer.saga("o1")).waiting:
            await asyncio.sleep(0.02)
        with pytest.raises(Conflict, match="there is nothing to retry"):
            await system.retry("o1", who="ada")


async def told(system: System, kind: str) -> list[bytes]:
    await system.drained()
    return [one.body for one in (await system.observer.saga("o1")).messages if one.type == kind]


@BOTH
async def test_whoever_looks_sees_what_it_waits_for_and_until_when(how: str, tmp_path: Path) -> None:
    async with at_work(how, tmp_path, app(pay_takes_s=lambda order_id: 3600.0)) as system:
        await system.send(Order(order_id="o1"))
        why = await until_it_waits(system, "pay/within")
        assert why.startswith(f"{DECIDER[how]} waits for the outcome of pay until 20")


@BOTH
async def test_a_saga_that_is_cancelled_does_not_wait_any_longer(how: str, tmp_path: Path) -> None:
    async with at_work(how, tmp_path) as system:
        await system.send(Order(order_id="o1"))
        assert "minuet parked answer" in await until_it_waits(system)
        assert await system.cancel("o1", who="ada")
        assert await ended(system) == "compensated"
        assert b'"reason":"cancelled"' in (await told(system, "StepAbandoned"))[0]


@BOTH
async def test_what_is_under_way_when_it_is_cancelled_is_not_refused_but_undone(how: str, tmp_path: Path) -> None:
    begun = asyncio.Event()

    def takes_s(order_id: str) -> float:
        begun.set()
        return 1.0

    async with at_work(how, tmp_path, app(pay_takes_s=takes_s)) as system:
        await system.send(Order(order_id="o1"))
        async with asyncio.timeout(30):
            await begun.wait()
        await system.cancel("o1", who="ada")
        assert await ended(system) == "compensated"
        async with asyncio.timeout(30):
            while not await told(system, "Repaid"):
                await asyncio.sleep(0.02)
        assert not await told(system, "StepRefused")


WAYS = pytest.mark.parametrize(
    ("how", "asked"),
    [
        ("choreography", "local"),
        ("orchestration", "local"),
        ("orchestration", "commands"),
    ],
)


@WAYS
async def test_what_succeeds_after_it_was_abandoned_is_undone(how: str, asked: str, tmp_path: Path) -> None:
    late = app_of(pay_takes_s=lambda order_id: 2.5, pace=0.03)
    async with at_work(how, tmp_path, late, asked=asked) as system:
        await system.send(Order(order_id="o1"))
        assert await ended(system) == "compensated"
        async with asyncio.timeout(30):
            while not await told(system, "Repaid"):
                await asyncio.sleep(0.02)
        assert b'"reason":"time is up"' in (await told(system, "StepAbandoned"))[0]
        assert len(await told(system, "Paid")) == len(await told(system, "Repaid")) == 1


@WAYS
async def test_what_was_not_begun_when_it_was_abandoned_is_refused(
    how: str, asked: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Whoever is asked in this process is waited for so long, before it hears that nobody does any more.
    monkeypatch.setattr(directory, "WAIT_S", 2.0)
    busy = app_of(is_sync=True, pace=0.03)
    money = busy.services["money"]

    def not_yet(command: Pay) -> Paid:
        raise NotYet("the till is locked", retry_after_s=0.1)

    money.commands[Pay] = replace(money.commands[Pay], function=not_yet, wants={})
    async with at_work(how, tmp_path, busy, asked=asked) as system:
        await system.send(Order(order_id="o1"))
        assert await ended(system) == "compensated"
        async with asyncio.timeout(30):
            while not await told(system, "StepRefused"):
                await asyncio.sleep(0.02)
        assert b'"reason":"cancelled"' in (await told(system, "StepRefused"))[0]
        assert not await told(system, "Repaid")


@BOTH
async def test_an_operator_answers_in_the_place_of_the_outside(how: str, tmp_path: Path) -> None:
    async with at_work(how, tmp_path) as system:
        await system.send(Order(order_id="o1"))
        await until_it_waits(system)
        parked = await system.observer.parked_one(f"{DECIDER[how]}:Buying/o1/approval")
        assert (parked.kind, parked.type) == ("wait", "AwaitOutcome")
        place = system.places[DECIDER[how]]
        for wrong, says in (
            (None, "waits for Approved or Disapproved, not for nothing"),
            (Order(order_id="o1"), "not for Order"),
            (Approved(order_id="o2"), "order_id is 'o2', but this is about Buying o1"),
        ):
            with pytest.raises(Rejected, match=says):
                await place.answer_for("Buying/o1/approval", wrong, ACT)  # type: ignore[arg-type]
        await place.answer_for("Buying/o1/approval", Disapproved(order_id="o1"), ACT)
        assert await ended(system) == "compensated"
        assert [act.who for _, act in await system.observer.audit()] == ["ada"]
        assert len(await told(system, "Disapproved")) == 1


@BOTH
async def test_who_waits_is_named_and_only_his_pause_is_told(how: str, tmp_path: Path) -> None:
    async with at_work(how, tmp_path) as system:
        await system.send(Order(order_id="o1"))
        why = await until_it_waits(system)
        assert f"minuet parked answer {DECIDER[how]}:Buying/o1/approval --event Approved --body '{{...}}'" in why
        await system.pause(service="van", who="ada")
        (waiting,) = (await system.observer.saga("o1")).waiting
        assert waiting.service == DECIDER[how]
        assert ("was paused by ada" in waiting.why) == (how == "choreography")


@BOTH
async def test_what_was_only_said_something_for_has_not_begun(how: str, tmp_path: Path) -> None:
    async with at_work(how, tmp_path) as system:
        await system.send(Approve(order_id="nobody's"))
        async with asyncio.timeout(30):
            while not (views := await system.observer.sagas()):
                await asyncio.sleep(0.02)
        ((waiting,),) = [view.waiting for view in views]
        assert (waiting.step, waiting.service, waiting.command) == ("begin", "", "Ordered")
        assert "no service here has heard Ordered, which begins it" in waiting.why


@BOTH
async def test_it_goes_on_waiting_after_a_restart_and_hears_of_what_came_meanwhile(how: str, tmp_path: Path) -> None:
    async with at_work(how, tmp_path) as system:
        await system.send(Order(order_id="o1"))
        await until_it_waits(system)
    async with at_work(how, tmp_path) as system:
        await until_it_waits(system)
        await system.send(Approve(order_id="o1"))
        async with asyncio.timeout(30):
            while not [one for one in (await system.observer.saga("o1")).waiting if "begins it at" in one.why]:
                await asyncio.sleep(0.02)
        assert not await system.observer.parked()


def later_app(delay: timedelta) -> App:
    """A payment that is due later, and may be refused."""
    saga = Saga(
        "Buying",
        begins_with=Ordered,
        key="order_id",
        steps=[step(Reserve, undo=Release), step(Pay, undo=Repay, delay=delay)],
        completed=Close,
        compensated=drop,
    )
    return App("later", services=services(), sagas=[saga])


@BOTH
async def test_a_delayed_step_is_refused_at_once_when_it_is_cancelled_whoever_owns_it(how: str, tmp_path: Path) -> None:
    names = [f"o{number}" for number in range(6)]
    of = later_app(timedelta(hours=1))
    async with at_work(how, tmp_path, of) as one, at_work(how, tmp_path, of) as other:
        for name in names:
            await one.send(Order(order_id=name))
        for number, name in enumerate(names):
            async with asyncio.timeout(30):
                while not any("begins it at" in step.why for step in (await one.observer.saga(name)).waiting):
                    await asyncio.sleep(0.02)
            await (one, other)[number % 2].cancel(name, who="ada")
        async with asyncio.timeout(30):
            while not all([await one.observer.end_of("Buying", name) for name in names]):
                await asyncio.sleep(0.05)
        for name in names:
            view = await one.observer.saga(name)
            assert view.status == "compensated"
            assert [one.step for one in view.messages if one.type == "StepRefused"] == ["pay"]


@BOTH
async def test_a_delay_goes_on_after_a_restart(how: str, tmp_path: Path) -> None:
    of = later_app(timedelta(seconds=4))
    async with at_work(how, tmp_path, of) as system:
        await system.send(Order(order_id="o1"))
        async with asyncio.timeout(30):
            while not any("begins it at" in step.why for step in (await system.observer.saga("o1")).waiting):
                await asyncio.sleep(0.02)
        began_at = (await system.observer.saga("o1")).began_at
    async with at_work(how, tmp_path, of) as system:
        assert await ended(system) == "completed"
        (paid,) = [one.time for one in (await system.observer.saga("o1")).messages if one.type == "Paid"]
        assert paid - began_at >= 4.0


@BOTH
async def test_what_was_begun_in_one_coordination_waits_in_it(how: str, tmp_path: Path) -> None:
    (other,) = {*COORDINATIONS} - {how}
    async with at_work(how, tmp_path) as system:
        await system.send(Order(order_id="o1"))
        await until_it_waits(system)
    async with at_work(other, tmp_path) as system:
        await system.send(Approve(order_id="o1"))
        async with asyncio.timeout(30):
            while not await told(system, "StepAccepted"):
                await asyncio.sleep(0.02)
            while any(one.step == "approval" for one in (await system.observer.saga("o1")).waiting):
                await asyncio.sleep(0.02)
        assert (await system.observer.saga("o1")).coordination == how


@BOTH
async def test_what_was_begun_under_an_older_definition_waits_under_it(how: str, tmp_path: Path) -> None:
    async with at_work(how, tmp_path) as system:
        await system.send(Order(order_id="o1"))
        await until_it_waits(system)
    older = saga_of(within=False)
    newer = Saga(
        "Buying",
        begins_with=older.begins_with,
        key=older.key,
        steps=[step(Pay, undo=Repay, within=timedelta(hours=1))],
        completed=Close,
        compensated=drop,
    )
    both = App("waiting", services=services(), sagas=[newer, older])
    async with at_work(how, tmp_path, both) as system:
        await system.send(Approve(order_id="o1"))
        async with asyncio.timeout(30):
            while any(one.step == "approval" for one in (await system.observer.saga("o1")).waiting):
                await asyncio.sleep(0.02)
        await system.send(Order(order_id="o2"))
        assert await ended(system, "o2") == "completed"


@BOTH
async def test_many_that_only_wait_are_no_load(how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("minuet.runtime.place.DUE_MAX", 10)
    async with at_work(how, tmp_path) as system:
        for number in range(30):
            await system.send(Order(order_id=f"o{number}"))
        for number in range(30):
            await until_it_waits(system, order_id=f"o{number}")
        assert not any(place.is_full for place in system.places.values())


# -- who decides, killed at each commit --------------------------------------------------------------------------------


def orders_that_wait(how: str, *, answers: bool) -> Simulation:
    """One order whose payment is late, or whose approval comes just in time."""
    late = WITHIN_S + 5.0
    simulation = Simulation(
        App("waiting", services=services(pay_takes_s=lambda order_id: 1.0 if answers else late), sagas=[saga_of()]),
        coordination=how,
        machines="apart",
        patience_s=600.0,
    )

    @simulation.drive
    async def customer(world: World) -> None:
        await world.send(Order(order_id="o1"))
        await world.sleep(5.0)
        world.tell(Approved(order_id="o1"))

    return simulation


@pytest.mark.slow
@BOTH
@pytest.mark.parametrize("kind", ["crash_before_commit", "crash_after_commit"])
@pytest.mark.parametrize("answers", [True, False], ids=["in time", "too late"])
def test_who_decides_may_be_killed_at_any_commit(how: str, kind: str, answers: bool) -> None:
    for who in (DECIDER[how], "money"):
        struck = 0
        for number in range(1, 9):
            faults = Faults(until_s=60.0, exactly=(Nth(kind, number, who),))
            report = orders_that_wait(how, answers=answers).run(1, faults=faults)
            assert report.sagas == {"completed" if answers else "compensated": 1}, (who, number)
            struck += report.fired[kind]
        assert struck, f"{who} was never killed"
