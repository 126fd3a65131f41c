"""Messages as they come: from strangers, malformed, too new, twice, early, in a circle."""

from __future__ import annotations

import asyncio
import itertools
import json
from dataclasses import replace
from typing import Any

import pytest
from pydantic import create_model

from minuet.app import App, Service, read_model
from minuet.codec import HOPS_MAX, attributes_of
from minuet.core.compile import Rule
from minuet.core.coordinator import Status
from minuet.core.envelope import Envelope, SagaRef
from minuet.core.messages import Command, Event
from minuet.core.saga import Saga, step
from minuet.ports import Delivery, EntryState
from minuet.runtime.reactor import Reactor
from tests.unit.runtime.shop import (
    REFUSE,
    SAGA,
    Boom,
    GetOrder,
    OrderNoted,
    OrderPlaced,
    OrderView,
    Pay,
    PlaceOrder,
    Plan,
    Release,
    Reserve,
    Reserved,
    Ship,
    make_shop,
    order_saga_of,
)
from tests.unit.runtime.virtual_loop import in_virtual_time
from tests.unit.runtime.world import Broken, FlakyTransport, World

BOTH = pytest.mark.parametrize("how", ["choreography", "orchestration"])


def body(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


PLACED = {"orderId": "o1", "amount": 10}


# -- strangers ---------------------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("times", [1, 5])
@in_virtual_time
async def test_a_stranger_begins_a_saga_exactly_once(how: str, named: bool, times: int) -> None:
    plan, world = Plan(), World()
    async with world.running(
        make_shop(plan, reactions=True), coordination={SAGA: how}, queries={"GetOrder": "read_model"}
    ) as process:
        for _ in range(times):
            await world.publish("orders", body(**({"eventType": "OrderPlaced"} if named else {}), **PLACED))
        assert await process.ended(SAGA, "o1") == Status.COMPLETED
        await asyncio.sleep(5)
    assert [plan.called(one) for one in (Reserve, Pay, Ship, OrderPlaced)] == [1, 1, 1, 1]
    assert not world.left_over()
    assert not any(map(world.parked, tuple(world.databases)))


@pytest.mark.parametrize(
    "attributes", [{}, {"type": "Reserved", "partitionkey": "customer-7", "id": "1", "source": "/legacy/stock"}]
)
@in_virtual_time
async def test_a_stranger_in_the_middle_of_a_saga_is_understood(attributes: dict[str, str]) -> None:
    """The field of the saga's key says which one it is; the stranger's partition key is his own affair."""
    plan, world = Plan(), World()
    app = make_shop(plan)
    async with world.running(app, services=["orders", "payment", "shipping"]) as process:
        await process.send(PlaceOrder(order_id="o1"))
        await world.publish("inventory", body(eventType="Reserved", orderId="o1"), **attributes)
        assert await asyncio.wait_for(process.ended(SAGA, "o1"), 100) == Status.COMPLETED


@in_virtual_time
async def test_a_message_that_several_steps_can_have_caused_is_parked_with_the_reason() -> None:
    plan, world = Plan(), World()
    saga = Saga(
        SAGA,
        begins_with=OrderPlaced,
        key="order_id",
        steps=[step(Reserve, name="one", undo=Release), step(Reserve, name="two", undo=Release), step(Ship)],
    )
    async with world.running(make_shop(plan, saga), services=["orders", "shipping", "payment"]):
        await world.publish("inventory", body(eventType="Reserved", orderId="o1"))
        await asyncio.sleep(1)
    (reason,) = world.parked("shipping")
    assert "one, two" in reason or "sagastep" in reason


@in_virtual_time
async def test_two_messages_with_one_id_from_two_sources_are_two() -> None:
    plan, world = Plan(), World()
    async with world.running(make_shop(plan, reactions=True), services=["notices"]):
        for source in ("a", "b", "a"):
            await world.publish("orders", body(**PLACED), type="OrderPlaced", source=source, id="7")
        # Ids and sources with slashes must not run into each other either.
        await world.publish("orders", body(**PLACED), type="OrderPlaced", source="x/y", id="z")
        await world.publish("orders", body(**PLACED), type="OrderPlaced", source="x", id="y/z")
        await asyncio.sleep(1)
        assert plan.called(OrderPlaced) == 4


@in_virtual_time
async def test_two_wrong_messages_with_one_id_from_two_sources_are_both_parked() -> None:
    plan, world = Plan(), World()
    async with world.running(make_shop(plan, reactions=True), services=["notices"]):
        for source in ("a", "b"):
            await world.publish("orders", body(), type="OrderPlaced", source=source, id="7")
        await world.publish("orders", body(nothing=source), type="OrderPlaced", source=source, id="7")
        await asyncio.sleep(1)
    assert len(world.parked("notices")) >= 2


# -- what cannot be handled --------------------------------------------------------------------------------------------


class Versioned(Event, channel="orders", version=3, upcasts={2: lambda old: {"orderId": old["order"]}}):
    order_id: str


WRONG = {
    "unknown type": ({"type": "Unheard"}, body(orderId="o1"), "Unheard"),
    "not JSON": ({"type": "OrderPlaced"}, b"\x00\xff", "OrderPlaced"),
    "no type at all": ({}, b"not json", "not JSON"),
    "JSON of no use": ({}, b"[]", "neither ce-type nor eventType"),
    "a field is missing": ({"type": "OrderPlaced"}, body(orderId="o1"), "amount"),
    "deeply nested": ({"type": "OrderPlaced"}, b"[" * 100_000, "OrderPlaced"),
    "too new": ({"type": "Versioned", "dataversion": "4"}, body(orderId="o1"), "version 4"),
    "too old": ({"type": "Versioned", "dataversion": "1"}, body(orderId="o1"), "version 1"),
    "an upcast that raises": ({"type": "Versioned", "dataversion": "2"}, body(), "order"),
    "version is no number": ({"type": "OrderPlaced", "dataversion": "x"}, body(**PLACED), "cannot be read"),
    "time has no zone": ({"type": "OrderPlaced", "time": "2026-01-01T00:00:00"}, body(**PLACED), "zone"),
    "a coordination nobody knows": (
        {"type": "OrderPlaced", "saga": "Order", "sagaid": "o", "sagastep": "begin", "sagacoordination": "anarchy"},
        body(**PLACED),
        "anarchy",
    ),
    "begins nonsense": ({"type": "OrderPlaced", "sagabegins": "[[1]]"}, body(**PLACED), "cannot be read"),
    "begins a number": ({"type": "OrderPlaced", "sagabegins": "7"}, body(**PLACED), "cannot be read"),
    "a definition nobody has": (
        {"type": "OrderPlaced", "sagabegins": '[["Order", "o1", "0123456789ab", "choreography"]]'},
        body(**PLACED),
        "0123456789ab",
    ),
    "in a circle": ({"type": "OrderPlaced", "hops": str(HOPS_MAX + 1)}, body(**PLACED), "circle"),
    "a command": ({"type": "PlaceOrder"}, body(**PLACED), "nobody's saga"),
}


def shop_with_versions(plan: Plan) -> App:
    app = make_shop(plan)
    app.services["inventory"].on(Versioned)(_versioned(plan))
    return app


def _versioned(plan: Plan) -> Any:
    def versioned(event: Versioned) -> None:
        plan.next(event)

    return versioned


@pytest.mark.parametrize("wrong", WRONG)
@in_virtual_time
async def test_what_nobody_understands_is_parked_once_and_holds_up_nothing(wrong: str) -> None:
    plan, world = Plan(), World()
    attributes, content, reason = WRONG[wrong]
    async with world.running(shop_with_versions(plan)) as process:
        for number in range(3):
            await world.publish("orders", body(eventType="OrderPlaced", orderId=f"before{number}", amount=1))
        for _ in range(2):
            await world.publish("orders", content, **({"id": "1", "source": "s"} | attributes if attributes else {}))
        plan.views.clear()
        await world.publish("orders", body(eventType="OrderPlaced", orderId="after", amount=1))
        await asyncio.sleep(5)
        assert [one for one in world.parked("inventory") if reason in one] == world.parked("inventory")
        assert len(world.parked("inventory")) == 1
        views = [
            one
            for one in await process.system.observer.parked()
            if one.service == "inventory" and one.kind == "message"
        ]
        assert [one.body for one in views] == [content]
    assert plan.called(Reserve) == 4


@in_virtual_time
async def test_a_message_on_which_minuet_itself_fails_is_parked_and_holds_up_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plan, world = Plan(), World()
    envelope_of = Reactor.envelope_of

    def no_such_time(self: Reactor, rule: Rule, ref: SagaRef, *args: Any, **named: Any) -> Envelope:
        if ref.id == "o1" and rule.id == "pay":
            raise OverflowError("date value out of range")
        return envelope_of(self, rule, ref, *args, **named)

    monkeypatch.setattr(Reactor, "envelope_of", no_such_time)
    async with world.running(make_shop(plan)) as process:
        for order_id in ("o1", "o2"):
            await process.send(PlaceOrder(order_id=order_id))
        assert await process.ended(SAGA, "o2") == Status.COMPLETED
        await asyncio.sleep(5)
        assert world.parked("payment") == [
            "minuet cannot take it in, which is a bug: OverflowError: date value out of range"
        ]
        monkeypatch.setattr(Reactor, "envelope_of", envelope_of)
        ((parked_id, message),) = world.databases["payment"].parked.items()
        delivery = Delivery(message.channel, message.attributes, message.body, 1, None)
        await process.within(process.system.places["payment"].hear_again(parked_id, delivery, None))
        assert await process.ended(SAGA, "o1") == Status.COMPLETED
    assert not world.left_over()


@in_virtual_time
async def test_an_older_version_is_brought_up_to_date() -> None:
    plan, world = Plan(), World()
    async with world.running(shop_with_versions(plan), services=["inventory"]):
        await world.publish("orders", body(order="o7"), type="Versioned", dataversion="2", id="1", source="s")
        await asyncio.sleep(1)
    assert plan.called(Versioned, "o7") == 1
    assert not world.parked("inventory")


@in_virtual_time
async def test_a_message_whose_commit_fails_comes_again() -> None:
    plan, world = Plan(), World()
    async with world.running(make_shop(plan)) as process:
        left = list(range(5))

        def fail(number: int) -> None:
            if left:
                raise Broken(f"disk full {left.pop()}")

        process.store("inventory").before = fail
        await process.send(PlaceOrder(order_id="o1"))
        assert await process.ended(SAGA, "o1") == Status.COMPLETED
    assert not world.left_over()


# -- what handlers publish ---------------------------------------------------------------------------------------------


@in_virtual_time
async def test_extra_events_are_published_once_each_and_understood_or_not_wanted() -> None:
    plan, world = Plan(), World()
    plan.will(
        PlaceOrder,
        lambda command: (
            OrderPlaced(order_id=command.order_id, amount=1),
            OrderNoted(order_id=command.order_id, number=1),
            OrderNoted(order_id=command.order_id, number=2),
        ),
    )
    async with world.running(_with_noted(plan)) as process:
        await process.send(PlaceOrder(order_id="o1"))
        await process.send(PlaceOrder(order_id="o1"))
        assert await process.ended(SAGA, "o1") == Status.COMPLETED
        sent = [one.envelope for one in process.transport.published if one.channel == "orders"]
    assert [one.type for one in sent] == ["OrderPlaced", "OrderNoted", "OrderNoted", "OrderClosed"]
    assert len({one.id for one in sent}) == 4
    assert not any(map(world.parked, tuple(world.databases)))


def _with_noted(plan: Plan) -> App:
    """The shop, with a handler that says that it returns more than the answer."""
    app = make_shop(plan)
    orders = Service("orders")
    old = app.services["orders"]
    handled = old.commands.pop(PlaceOrder)

    def place(command: PlaceOrder) -> tuple[OrderPlaced, OrderNoted, OrderNoted]:
        return handled(command)  # type: ignore[no-any-return]

    orders.handles(PlaceOrder)(place)
    orders.commands |= old.commands
    orders.queries |= old.queries
    others = [one for one in app.services.values() if one is not old]
    return App("shop", services=[orders, *others], sagas=app.sagas)


@in_virtual_time
async def test_a_handler_that_raises_or_refuses_publishes_nothing_else() -> None:
    plan, world = Plan(), World()
    plan.will(Ship, Boom("no"), REFUSE)
    async with world.running(make_shop(plan)) as process:
        await process.send(PlaceOrder(order_id="o1"))
        assert await process.ended(SAGA, "o1") == Status.COMPENSATED
        await process.system.drained()
        sent = [one.envelope.type for one in process.transport.published if one.channel == "shipping"]
    assert sent == ["NoAddress"]


@in_virtual_time
async def test_an_event_too_large_to_publish_is_the_handlers_failure_not_the_messages() -> None:
    plan, world = Plan(), World()
    plan.always(Reserve, lambda command: Reserved(order_id="x" * 2_000_000))
    async with world.running(make_shop(plan)) as process:
        await process.send(PlaceOrder(order_id="o1"))
        assert await asyncio.wait_for(process.ended(SAGA, "o1"), 100) == Status.COMPENSATED
    assert not world.parked("inventory")


@in_virtual_time
async def test_what_a_transport_does_not_take_is_refused_before_it_is_in_the_outbox() -> None:
    plan, world = Plan(), World()
    plan.always(Reserve, lambda command: Reserved(order_id="x" * 300_000))
    small = replace(FlakyTransport.features, body_bytes_max=200_000)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FlakyTransport, "features", small)
        async with world.running(make_shop(plan)) as process:
            await process.send(PlaceOrder(order_id="o1"))
            assert await asyncio.wait_for(process.ended(SAGA, "o1"), 100) == Status.COMPENSATED
            await process.system.drained()


# -- reactions ---------------------------------------------------------------------------------------------------------


@in_virtual_time
async def test_a_reaction_is_done_once_retried_and_parked_and_reopened() -> None:
    plan, world = Plan(), World()
    plan.will(OrderPlaced, *[Boom("no")] * 3)
    async with world.running(make_shop(plan, reactions=True)) as process:
        await process.send(PlaceOrder(order_id="o1"))
        assert await process.ended(SAGA, "o1") == Status.COMPLETED
        await asyncio.sleep(5)
        (parked,) = await process.system.observer.parked()
        assert parked.kind == "reaction"
        await process.system.observer.reopen(parked.id)
        await asyncio.sleep(5)
        assert not await process.system.observer.parked()
        sent = [one.envelope for one in process.transport.published if one.envelope.type == "Noticed"]
    assert len(sent) == 1
    assert plan.called(OrderPlaced) == 4


class Ping(Event, channel="circle"):
    order_id: str


class Pong(Event, channel="circle"):
    order_id: str


@in_virtual_time
async def test_services_that_react_to_each_other_for_ever_are_stopped() -> None:
    plan, world = Plan(), World()
    one, other = Service("one"), Service("other")

    @one.on(Ping)
    def pong(event: Ping) -> Pong:
        plan.next(event)
        return Pong(order_id=event.order_id)

    @other.on(Pong)
    def ping(event: Pong) -> Ping:
        plan.next(event)
        return Ping(order_id=event.order_id)

    async with world.running(App("circle", services=[one, other])):
        await world.publish("circle", body(eventType="Ping", orderId="o1"))
        await asyncio.sleep(5)
        calls = len(plan.calls)
        await asyncio.sleep(5)
        assert len(plan.calls) == calls <= HOPS_MAX + 2
    assert len(world.parked("one") + world.parked("other")) == 1
    assert not world.left_over()


class LongBegun(Event, channel="long"):
    order_id: str


class LongDone(Event, channel="long"):
    order_id: str


def long_app(plan: Plan, steps: int, services: int) -> App:
    """A saga of so many steps, which go round so many services."""
    made = [Service(f"s{number}") for number in range(services)]
    commands = []
    for number in range(steps):
        service = made[number % services]
        command = create_model(
            f"Go{number}",
            __base__=Command,
            __module__=__name__,
            __cls_kwargs__={"service": service.name, "answers": (LongDone,)},
            order_id=(str, ...),
        )

        def go(command: Any) -> LongDone:
            plan.next(command)
            return LongDone(order_id=command.order_id)

        go.__annotations__["command"] = command
        service.handles(command)(go)
        commands.append(command)
    steps_of = [step(command, name=f"go{number}") for number, command in enumerate(commands)]
    return App("long", services=made, sagas=[Saga("Long", begins_with=LongBegun, key="order_id", steps=steps_of)])


@BOTH
@pytest.mark.parametrize("services", [1, 2])
@in_virtual_time
async def test_a_long_saga_is_no_circle_and_no_recursion(how: str, services: int) -> None:
    plan, world = Plan(), World()
    steps = 150
    async with world.running(long_app(plan, steps, services), coordination={"Long": how}) as process:
        await world.publish("long", body(eventType="LongBegun", orderId="o1"))
        assert await asyncio.wait_for(process.ended("Long", "o1"), 100) == Status.COMPLETED
    assert len(plan.calls) == steps
    assert not world.left_over()


# -- any order ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("refusing", [None, Ship])
@in_virtual_time
async def test_every_order_of_delivery_leads_to_the_same_end(refusing: type | None) -> None:
    """The messages of a whole saga, recorded, and delivered to each place in every order, some of them twice."""
    plan, world = Plan(), World()
    if refusing:
        plan.always(refusing, REFUSE)
    app = make_shop(plan)
    async with world.running(app) as process:
        await process.send(PlaceOrder(order_id="o1"))
        await process.ended(SAGA, "o1")
        await process.system.drained()
        messages = [(one.channel, one.envelope) for one in process.transport.published]
        expected = world.decided("o1")
        due = {name: sorted(one.key for one in world.entries(name)) for name in ("inventory", "payment", "shipping")}
    for service, mine in due.items():
        subscription = world.broker.groups[service].subscription
        heard = [delivery(*one) for one in messages if subscription.wants(*one)]
        for permutation in itertools.permutations(heard):
            fresh = World()
            process = await fresh.start(
                make_shop(Plan(for_ever=plan.for_ever, views=plan.views)), services=["orders", service]
            )
            place = process.system.places[service]
            for one in (*permutation, *permutation[:2]):
                assert await process.within(place.take_in([one])) == [None]
            while place._tasks:
                await asyncio.wait(place._tasks)
            done = sorted(one.key for one in fresh.entries(service, EntryState.DONE))
            assert done == mine
            got = fresh.decided("o1")
            assert got == {name: expected[name] for name in got}
            await process.stop()


def delivery(channel: str, envelope: Envelope) -> Delivery:
    return Delivery(channel, attributes_of(envelope), envelope.body, 1, None)


# -- builders and read models that raise -------------------------------------------------------------------------------


@BOTH
@in_virtual_time
async def test_a_builder_that_raises_is_the_failure_of_its_own_step(how: str) -> None:
    """Not of the message that made it due, which would come again for ever; nor of the step that was just done."""
    plan, world = Plan(), World()

    def wrong(reserved: Any) -> Ship:
        raise Boom("a bug in the builder")

    wrong.__annotations__.update(reserved=Reserved, **{"return": Ship})
    saga = order_saga_of([step(Reserve, undo=Release), step(wrong, name="ship")])
    async with world.running(make_shop(plan, saga), coordination={SAGA: how}) as process:
        await process.send(PlaceOrder(order_id="o1"))
        assert await asyncio.wait_for(process.ended(SAGA, "o1"), 100) == Status.COMPENSATED
        assert plan.called(Release) == 1
    assert plan.called(Reserve) == 1
    assert not world.left_over()


@in_virtual_time
async def test_a_read_model_that_raises_parks_the_message() -> None:
    plan, world = Plan(), World()

    @read_model(GetOrder)
    def wrong(event: OrderPlaced) -> OrderView:
        raise Boom("a bug in the read model")

    app = make_shop(plan)
    app = App("shop", services=list(app.services.values()), sagas=app.sagas, read_models=[wrong])
    async with world.running(app, queries={"GetOrder": "read_model"}) as process:
        await process.send(PlaceOrder(order_id="o1"))
        await asyncio.sleep(100)
        reasons = [one.reason for one in await process.system.observer.parked() if one.kind == "message"]
        assert reasons
        assert all("a bug in the read model" in reason for reason in reasons)
