"""No saga, and no type of saga, keeps the others from going on: neither by its number nor by its failures."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from minuet.app import App, Service
from minuet.core.coordinator import Status
from minuet.core.messages import Command, Event
from minuet.core.retry import RetryPolicy
from minuet.core.saga import Saga, parallel, step
from minuet.runtime import place as place_module
from minuet.runtime.room import Room
from tests.unit.runtime.virtual_loop import in_virtual_time
from tests.unit.runtime.world import Process, World

BOTH = pytest.mark.parametrize("how", ["choreography", "orchestration"])
WAYS = pytest.mark.parametrize("how", ["choreography", "commands"])
"""By messages, the orchestrator keeps no place for a participant that is asked and tries again and again."""
MANY = 300
AT_ONCE = 4
TAKES_S = 0.05
STUBBORN = RetryPolicy(attempts_max=100_000, first_s=0.01, delay_max_s=0.1)
PARTS = 40


class Ordered(Event, channel="desk"):
    name: str


class Order(Command, service="desk", answers=(Ordered,), key="name"):
    name: str


class Complained(Event, channel="desk"):
    name: str


class Complain(Command, service="desk", answers=(Complained,), key="name"):
    name: str


class Printed(Event, channel="printer"):
    name: str


class Print(Command, service="printer", answers=(Printed,)):
    name: str


def print_order(ordered: Ordered) -> Print:
    return Print(name=ordered.name)


def print_complaint(complained: Complained) -> Print:
    return Print(name=complained.name)


class Printer:
    """Takes its time for each page; those named so it can never print."""

    def __init__(self) -> None:
        self.pages: list[str] = []
        self.failures = 0

    async def print(self, name: str) -> None:
        await asyncio.sleep(TAKES_S)
        if name.startswith("bad"):
            self.failures += 1
            raise RuntimeError("out of ink")
        self.pages.append(name)


def office(printer: Printer) -> App:
    """Two types of sagas that want the same printer; an order wants many pages of it at once."""
    desk, prints = Service("desk"), Service("printer")

    @desk.handles(Order)
    def order(command: Order) -> Ordered:
        return Ordered(name=command.name)

    @desk.handles(Complain)
    def complain(command: Complain) -> Complained:
        return Complained(name=command.name)

    @prints.handles(Print, retry=STUBBORN)
    async def print_page(command: Print) -> Printed:
        await printer.print(command.name)
        return Printed(name=command.name)

    pages = parallel(*(step(print_order, name=f"page{number}") for number in range(PARTS)))
    orders = Saga("Ordering", begins_with=Ordered, key="name", steps=[pages])
    complaints = Saga("Complaining", begins_with=Complained, key="name", steps=[step(print_complaint, name="page")])
    return App("office", services=[desk, prints], sagas=[orders, complaints])


async def seconds_until_ended(process: Process, saga: str, command: Command) -> float:
    """Virtual ones."""
    began = asyncio.get_running_loop().time()
    await process.send(command)
    assert await process.ended(saga, command.name) == Status.COMPLETED  # type: ignore[attr-defined]
    return asyncio.get_running_loop().time() - began


def settings(how: str) -> dict[str, Any]:
    way = "choreography" if how == "choreography" else "orchestration"
    orchestration = {"participants": "commands" if how == "commands" else "local"}
    return {"coordination": {"Ordering": way, "Complaining": way}, "orchestration": orchestration}


@pytest.fixture
def few_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(place_module, "UNDER_WAY_MAX", AT_ONCE)


@BOTH
@pytest.mark.usefixtures("few_at_once")
@in_virtual_time
async def test_a_flood_of_one_type_does_not_keep_the_other_from_going_on(how: str) -> None:
    printer, world = Printer(), World()
    async with world.running(office(printer), **settings(how)) as process:
        await asyncio.gather(*(process.send(Complain(name=f"c{number}")) for number in range(MANY)))
        took_s = await seconds_until_ended(process, "Ordering", Order(name="o1"))
        # Of the places at the printer it has every second one, as if there were one complaint for each of its pages.
        assert took_s < 3 * PARTS * TAKES_S / AT_ONCE, took_s
        assert len(printer.pages) < PARTS + MANY / 2, "the flood is not over by far"


@WAYS
@pytest.mark.usefixtures("few_at_once")
@in_virtual_time
async def test_one_saga_that_fails_again_and_again_does_not_keep_its_like_from_going_on(how: str) -> None:
    printer, world = Printer(), World()
    async with world.running(office(printer), **settings(how)) as process:
        await process.send(Order(name="bad"))
        while printer.failures < 10 * PARTS:
            await asyncio.sleep(TAKES_S)
        took_s = await seconds_until_ended(process, "Ordering", Order(name="good"))
        assert took_s < 3 * PARTS * TAKES_S / AT_ONCE, took_s


@WAYS
@pytest.mark.usefixtures("few_at_once")
@in_virtual_time
async def test_hundreds_of_sagas_that_fail_again_and_again_do_not_keep_one_from_going_on(how: str) -> None:
    printer, world = Printer(), World()
    async with world.running(office(printer), **settings(how)) as process:
        await asyncio.gather(*(process.send(Complain(name=f"bad{number}")) for number in range(MANY)))
        while printer.failures < 2 * MANY:
            await asyncio.sleep(TAKES_S)
        took_s = await seconds_until_ended(process, "Complaining", Complain(name="good"))
        assert took_s < 3 * MANY * TAKES_S / AT_ONCE, "each of them has its turn, and this one too"
        took_s = await seconds_until_ended(process, "Ordering", Order(name="good"))
        assert took_s < 3 * PARTS * TAKES_S / AT_ONCE, took_s


@in_virtual_time
async def test_hundreds_that_are_asked_for_again_and_again_do_not_keep_one_from_being_asked_for() -> None:
    """In process and over HTTP each that is tried again holds one of the orchestrator's 256 places for 20 seconds."""
    printer, world = Printer(), World()
    async with world.running(office(printer), **settings("orchestration")) as process:
        await asyncio.gather(*(process.send(Complain(name=f"bad{number}")) for number in range(200)))
        while printer.failures < 400:
            await asyncio.sleep(TAKES_S)
        assert await seconds_until_ended(process, "Complaining", Complain(name="good")) < 1
        assert await seconds_until_ended(process, "Ordering", Order(name="good")) < 1


# -- the room ----------------------------------------------------------------------------------------------------------


@in_virtual_time
async def test_who_waits_is_let_in_by_turns() -> None:
    room, inside = Room(1), list[str]()
    await room.enter("A", "a0")

    async def visit(kind: str, name: str, what: str) -> None:
        await room.enter(kind, name)
        inside.append(what)
        room.leave()

    waiting = [("A", "a1", "a1"), ("A", "a1", "a1 again"), ("A", "a2", "a2"), ("A", "a3", "a3"), ("B", "b1", "b1")]
    visits = [asyncio.create_task(visit(*one)) for one in waiting]
    await asyncio.sleep(1)
    assert inside == []
    room.leave()
    await asyncio.gather(*visits)
    assert inside == ["a1", "b1", "a2", "a3", "a1 again"]


@in_virtual_time
async def test_whoever_is_cancelled_while_he_waits_or_is_let_in_takes_no_place() -> None:
    room = Room(1)
    await room.enter("A", "a0")
    first, second, third = (asyncio.create_task(room.enter("A", f"a{number}")) for number in (1, 2, 3))
    await asyncio.sleep(1)
    first.cancel()
    await asyncio.sleep(1)
    room.leave()  # the second is let in, and cancelled before it hears of that
    second.cancel()
    await asyncio.wait_for(third, 5)
    fourth = asyncio.create_task(room.enter("A", "a4"))
    await asyncio.sleep(1)
    assert not fourth.done()
    room.leave()
    await fourth
    room.leave()
    await room.enter("A", "a5")
    assert first.cancelled()
    assert second.cancelled()
