"""A saga that is no longer wanted: whoever is next refuses, what was done is undone, and too late is too late."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from minuet import App, Command, Event, NotYet, Refusal, Saga, Service, Settings, System, running, step
from minuet.core.errors import Conflict, NotFound
from minuet.core.projection import Coordination
from minuet.runtime.reactor import IS_CANCELLED
from tests.failures.shop import DONE, SAGA, Conduct, all_effects, order_app, place
from tests.unit.runtime import shop
from tests.unit.runtime.shop import Plan
from tests.unit.runtime.virtual_loop import in_virtual_time
from tests.unit.runtime.world import Broken, World

WAYS = [
    ("choreography", "local"),
    ("orchestration", "local"),
    ("orchestration", "commands"),
]


class Gate:
    """Holds up what a handler does, as one that is asked to come again."""

    def __init__(self) -> None:
        self.is_open = False
        self.was_asked = asyncio.Event()

    def __call__(self) -> None:
        self.was_asked.set()
        if not self.is_open:
            raise NotYet("not now", retry_after_s=0.05)


@asynccontextmanager
async def at_work(way: tuple[str, str], data: Path, **now: Callable[[], bool | None]) -> AsyncIterator[System]:
    settings = Settings(
        data=data,
        coordination={SAGA: Coordination(way[0])},
        orchestration={"participants": way[1], "ask_again_s": 0.1},  # type: ignore[arg-type]
    )
    async with running(order_app(), settings, provided={Conduct: Conduct(now=dict(now))}) as system:
        yield system


async def ended(system: System, order_id: str) -> str:
    async with asyncio.timeout(20):
        return (await system.ended(SAGA, order_id)).value


@pytest.mark.parametrize("way", WAYS)
async def test_who_is_next_refuses_and_what_was_done_is_undone(way: tuple[str, str], tmp_path: Path) -> None:
    gate = Gate()
    async with at_work(way, tmp_path, Pay=gate) as system:
        await place(system, "o1")
        async with asyncio.timeout(20):
            await gate.was_asked.wait()
            while "Reserve" not in (await all_effects(system, "o1"))["o1"]:
                await asyncio.sleep(0.01)
        assert await system.cancel("o1", who="ada", why="she changed her mind")
        assert not await system.cancel("o1", who="ada", why="again")
        gate.is_open = True  # whether it was asked before or hears now that it is not wanted, it ends clean
        assert await ended(system, "o1") == "compensated"
        left = (await all_effects(system, "o1"))["o1"]
        assert {"Release", "CANCELLED"} <= set(left)
        assert "Ship" not in left
        assert left.count("Pay") == left.count("Refund")
        view = await system.observer.saga("o1")
        assert any(one.type == "SagaCancelled" and b"changed her mind" in one.body for one in view.messages)
        assert [(act.who, act.verb, act.what) for _, act in await system.observer.audit()] == [
            ("ada", "cancel", "Order/o1")
        ]


@pytest.mark.parametrize("way", WAYS)
async def test_a_step_that_has_not_been_begun_is_refused_as_cancelled(way: tuple[str, str], tmp_path: Path) -> None:
    gate = Gate()
    async with at_work(way, tmp_path, Reserve=gate) as system:
        await place(system, "o1")
        async with asyncio.timeout(20):
            await gate.was_asked.wait()
            while "Pay" not in (await all_effects(system, "o1"))["o1"]:
                await asyncio.sleep(0.01)
        await system.cancel("o1", who="ada")
        assert await ended(system, "o1") == "compensated"
        view = await system.observer.saga("o1")
        refused = [one for one in view.messages if one.type == "StepRefused"]
        assert [one.step for one in refused] == ["reserve"]
        assert b'"reason":"cancelled"' in refused[0].body


@pytest.mark.parametrize("way", WAYS)
async def test_too_late_is_too_late(way: tuple[str, str], tmp_path: Path) -> None:
    async with at_work(way, tmp_path) as system:
        await place(system, "o1")
        assert await ended(system, "o1") == "completed"
        await system.drained()
        with pytest.raises(Conflict, match="Order o1 is completed"):
            await system.cancel("o1", who="ada")
        with pytest.raises(NotFound):
            await system.cancel("nobody", who="ada")
        assert (await all_effects(system, "o1"))["o1"] == DONE


@pytest.mark.parametrize("way", WAYS)
async def test_it_races_and_always_ends_one_way_or_the_other(way: tuple[str, str], tmp_path: Path) -> None:
    names = [f"o{number}" for number in range(40)]
    async with at_work(way, tmp_path) as system:

        async def order_and_cancel(number: int, name: str) -> None:
            await place(system, name)
            for _ in range(number):  # a little later each
                await asyncio.sleep(0)
            with suppress(Conflict):
                await system.cancel(name, who="ada")

        await asyncio.gather(*(order_and_cancel(number, name) for number, name in enumerate(names)))
        ends = {name: await ended(system, name) for name in names}
        await system.drained()
        found = await all_effects(system, *names)
        for name, end in ends.items():
            if end == "completed":
                assert found[name] == DONE
            else:
                for done, undone in (("Reserve", "Release"), ("Pay", "Refund")):
                    assert found[name].count(done) == found[name].count(undone) <= 1, (name, found[name])
                assert "Ship" not in found[name]
        assert not await system.observer.parked()


@pytest.mark.parametrize("how", ["choreography", "orchestration"])
@in_virtual_time
async def test_what_an_async_handler_is_doing_is_not_refused_meanwhile(how: str) -> None:
    """Its transaction comes when it is done, so until then the store does not know that the money is being taken."""
    plan, world = Plan(), World()
    gate = asyncio.Event()
    plan.will(shop.Pay, gate)
    async with world.running(shop.make_shop(plan), coordination={shop.SAGA: how}) as process:
        await process.send(shop.PlaceOrder(order_id="o1"))
        await plan.begun["Pay"].wait()
        await process.system.cancel("o1", who="ada")
        await asyncio.sleep(5)
        assert "pay" not in world.decided("o1")
        gate.set()
        async with asyncio.timeout(60):
            assert (await process.ended(shop.SAGA, "o1")).value == "compensated"
        decided = world.decided("o1")
        assert (decided["pay"], decided["pay/undo"]) == ("Paid", "Refunded")
        await asyncio.sleep(5)
    assert not world.left_over()


@in_virtual_time
async def test_what_was_done_and_could_not_be_kept_is_not_refused_before_it_is_kept() -> None:
    plan, world = Plan(), World()
    async with world.running(shop.make_shop(plan)) as process:

        def fail(number: int) -> None:
            if plan.ledger:
                raise Broken("disk full")

        store = process.store("payment")
        store.before = fail
        await process.send(shop.PlaceOrder(order_id="o1"))
        await plan.begun["Pay"].wait()
        await asyncio.sleep(0.1)
        store.before = lambda number: None
        await process.system.cancel("o1", who="ada")
        async with asyncio.timeout(60):
            assert (await process.ended(shop.SAGA, "o1")).value == "compensated"
        decided = world.decided("o1")
        assert (decided["pay"], decided["pay/undo"]) == ("Paid", "Refunded")


class Applied(Event, channel="office"):
    name: str


class Apply(Command, service="office", answers=(Applied,), key="name"):
    name: str


class Checked(Event, channel="office"):
    name: str


class Unchecked(Event, channel="office"):
    name: str


class Rejected(Refusal, channel="office"):
    name: str


class Check(Command, service="office", answers=(Checked, Rejected)):
    name: str


class Uncheck(Command, service="office", answers=(Unchecked,)):
    name: str


class Filed(Event, channel="office"):
    name: str


class File(Command, service="office", answers=(Filed, Rejected)):
    name: str


def office(begun: asyncio.Event, may_end: asyncio.Event, did: list[str]) -> App:
    """Checks what is applied for, with somebody outside who takes his time, and files it."""
    service = Service("office")

    @service.handles(Apply)
    def apply(command: Apply) -> Applied:
        return Applied(name=command.name)

    @service.handles(Check)
    async def check(command: Check) -> Checked | Rejected:
        begun.set()
        await may_end.wait()
        did.append("check")
        return Checked(name=command.name)

    @service.handles(Uncheck)
    def uncheck(command: Uncheck) -> Unchecked:
        did.append("uncheck")
        return Unchecked(name=command.name)

    @service.handles(File)
    def file(command: File) -> Filed | Rejected:
        did.append("file")
        return Filed(name=command.name)

    saga = Saga("Application", begins_with=Applied, key="name", steps=[step(Check, undo=Uncheck), step(File)])
    return App("office", services=[service], sagas=[saga])


@pytest.mark.parametrize("way", WAYS)
async def test_what_is_under_way_outside_ends_first_and_is_undone(way: tuple[str, str], tmp_path: Path) -> None:
    """Refused meanwhile, it would be done all the same, and stay so."""
    begun, may_end, did = asyncio.Event(), asyncio.Event(), list[str]()
    settings = Settings(
        data=tmp_path,
        coordination={"Application": Coordination(way[0])},
        orchestration={"participants": way[1], "ask_again_s": 0.1},  # type: ignore[arg-type]
    )
    async with running(office(begun, may_end, did), settings) as system:
        await system.send(Apply(name="a"))
        async with asyncio.timeout(20):
            await begun.wait()
            await system.cancel("a", who="ada")
            while not await is_known_as_cancelled(system, "office"):
                await asyncio.sleep(0.01)
            may_end.set()
            assert (await system.ended("Application", "a")).value == "compensated"
        assert did == ["check", "uncheck"]


async def is_known_as_cancelled(system: System, place: str) -> bool:
    known = await system.stores[place].transact(lambda tx: tx.known.of("Application", "a"), reads_only=True)
    return IS_CANCELLED in known
