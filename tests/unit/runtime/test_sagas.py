"""Whole sagas, in both coordinations: the same steps, the same undos, the same end."""

# mypy: disable-error-code="no-any-return"
from __future__ import annotations

import asyncio
import functools
import operator
from typing import Any, cast

import pytest

from minuet.app import App, Service
from minuet.core.coordinator import Status
from minuet.core.messages import Command, Event, Refusal, StepRefused, name_of, refusals, successes
from minuet.core.retry import RetryPolicy
from minuet.core.saga import Saga, step
from minuet.ports import EntryState
from tests.unit.core.sagas import Case, choose_case, expected, seeded, two_refusals_at_once
from tests.unit.runtime.shop import (
    REFUSE,
    SAGA,
    Boom,
    CloseOrder,
    OrderPlaced,
    Pay,
    PlaceOrder,
    Plan,
    Refund,
    Release,
    Reserve,
    Ship,
    cancel_order,
    make_shop,
    order_saga,
    order_saga_of,
    ship_order,
)
from tests.unit.runtime.virtual_loop import in_virtual_time, run
from tests.unit.runtime.world import World

COORDINATIONS = ("choreography", "orchestration")
BOTH = pytest.mark.parametrize("how", COORDINATIONS)


@BOTH
@pytest.mark.parametrize("refusing", [None, Reserve, Pay, Ship])
@in_virtual_time
async def test_a_step_that_refuses_leaves_nothing_behind(how: str, refusing: type | None) -> None:
    plan, world = Plan(), World()
    if refusing:
        plan.always(refusing, REFUSE)
    async with world.running(make_shop(plan), coordination={SAGA: how}) as process:
        await process.send(PlaceOrder(order_id="o1"))
        status = await process.ended(SAGA, "o1")
    assert status == (Status.COMPENSATED if refusing else Status.COMPLETED)
    assert plan.called(Release) == (refusing in (Pay, Ship))
    assert plan.called(Refund) == (refusing is Ship)
    assert plan.called(CloseOrder) == 1
    assert not world.left_over()


@pytest.mark.parametrize("ends", [{}, {"completed": ship_order}, {"compensated": cancel_order}])
@pytest.mark.parametrize("refusing", [None, Ship])
@BOTH
@in_virtual_time
async def test_a_saga_may_have_no_ends(how: str, refusing: type | None, ends: dict[str, Any]) -> None:
    plan, world = Plan(), World()
    if refusing:
        plan.always(refusing, REFUSE)
    saga = Saga(SAGA, begins_with=OrderPlaced, key="order_id", steps=[step(Reserve, undo=Release), step(Ship)], **ends)
    async with world.running(make_shop(plan, saga), coordination={SAGA: how}) as process:
        await process.send(PlaceOrder(order_id="o1"))
        status = await asyncio.wait_for(process.ended(SAGA, "o1"), 60)
        assert status == (Status.COMPENSATED if refusing else Status.COMPLETED)
    assert plan.called(Release) == bool(refusing)
    assert not world.left_over()


# -- any saga ----------------------------------------------------------------------------------------------------------


def app_of(case: Case, calls: list[str], *, is_async: bool) -> App | None:
    """Services that decide as the case says. None: two steps share a command, and a handler cannot tell them apart."""
    rules = case.saga.rules.every
    commands = [name_of(rule.command) for rule in rules if rule.id not in ("completed", "compensated")]
    if len(set(commands)) < len(commands) or len({rule.command for rule in rules}) < len(
        {name_of(rule.command) for rule in rules}
    ):
        return None
    services = {rule.service: Service(rule.service) for rule in rules}
    for command, rule in {rule.command: rule for rule in rules}.items():
        services[rule.service].handles(command, retry=RetryPolicy(attempts_max=2, first_s=0.01))(
            _handler(command, rule.id, rule.id in case.refusing, calls, is_async and bool(refusals(command)))
        )
    return App("random", services=list(services.values()), sagas=[case.saga])


def _handler(command: type[Command], rule_id: str, refuses: bool, calls: list[str], is_async: bool) -> Any:
    def decide(asked: Any) -> Any:
        calls.append(rule_id)
        if not refuses:
            return successes(command)[0](latest=rule_id)  # type: ignore[call-arg]
        if not refusals(command):
            raise Boom("until minuet gives up")
        return refusals(command)[0](latest=rule_id)  # type: ignore[call-arg]

    async def decide_outside(asked: Any) -> Any:
        await asyncio.sleep(0.001)
        return decide(asked)

    function = functools.wraps(decide)(decide_outside) if is_async else decide
    function.__annotations__ = {
        "asked": command,
        "return": functools.reduce(operator.or_, cast(Any, command.__contract__.answers)),
    }
    function.__name__ = f"decide_{name_of(command).lower()}"
    if hasattr(function, "__wrapped__"):
        del function.__wrapped__
    return function


def cases() -> list[Any]:
    made = [two_refusals_at_once(), *(choose_case(seeded(seed)) for seed in range(60))]
    return [case for case in made if app_of(case, [], is_async=False)]


@pytest.mark.parametrize("number", range(len(cases())))
def test_any_saga_does_in_both_coordinations_what_it_should(number: int) -> None:
    case = cases()[number]
    decided = {}
    for how in COORDINATIONS:
        calls: list[str] = []
        app = app_of(case, calls, is_async=bool(number % 2))
        assert app is not None
        world = World(seed=number)

        async def main(how: str = how, app: App = app, world: World = world) -> None:
            async with world.running(app, coordination={"Random": how}) as process:
                await world.publish("things", b'{"thingId": "t1", "origin": "here", "latest": "begun"}')
                status = await asyncio.wait_for(process.ended("Random", "t1"), 600)
                assert (status is Status.COMPLETED) == expected(case).complete
                await asyncio.sleep(5)  # whatever it did too much it would do now

        run(main())
        assert not world.left_over()
        decided[how] = world.decided("t1")
    assert decided["choreography"] == decided["orchestration"]
    should = expected(case)
    found = decided["choreography"]
    kinds = {name_of(event): event for rule in case.saga.rules.every for event in rule.command.__contract__.answers}
    refused = {one for one, kind in found.items() if issubclass(kinds.get(kind, StepRefused), Refusal)}
    steps = {one for one in found if "/" not in one and one not in ("completed", "compensated")}
    assert steps - refused == should.succeeded
    assert refused == should.refused
    assert {one.partition("/")[0] for one in found if one.endswith("/undo")} == should.undone


class PostedElsewhere(Event, channel="elsewhere"):
    order_id: str


class Withdraw(Command, service="shipping", answers=(PostedElsewhere,)):
    order_id: str


@BOTH
@in_virtual_time
async def test_an_undo_may_be_another_services_than_the_step(how: str) -> None:
    """The step's own service has to hear then that its step was undone."""
    plan, world = Plan(), World()
    plan.always(Ship, REFUSE)
    saga = order_saga_of([step(Reserve, undo=Release), step(Reserve, undo=Withdraw, name="more"), step(Ship)])
    app = make_shop(plan, order_saga_of([step(Ship)]))

    def withdraw(command: Withdraw) -> PostedElsewhere:
        return plan.now(command, lambda: PostedElsewhere(order_id=command.order_id))

    app.services["shipping"].handles(Withdraw)(withdraw)
    app = App("shop", services=list(app.services.values()), sagas=[saga])
    async with world.running(app, coordination={SAGA: how}) as process:
        await process.send(PlaceOrder(order_id="o1"))
        assert await asyncio.wait_for(process.ended(SAGA, "o1"), 60) == Status.COMPENSATED
    assert (plan.called(Withdraw), plan.called(Release)) == (1, 1)


# -- definitions and coordinations that change -------------------------------------------------------------------------


@BOTH
@in_virtual_time
async def test_a_saga_finishes_under_the_definition_it_began_with(how: str) -> None:
    plan, world = Plan(), World()
    old, new = order_saga(), order_saga_of([step(Reserve, undo=Release), step(Ship)])
    slow = asyncio.Event()
    plan.will(Pay, slow)
    before = await world.start(make_shop(plan, old), coordination={SAGA: how})
    await before.send(PlaceOrder(order_id="o1"))
    await plan.begun["Pay"].wait()
    before.kill()
    plan.scripts["Pay"].append(Boom("once"))
    async with world.running(make_shop(plan, new, old), coordination={SAGA: how}) as process:
        await process.send(PlaceOrder(order_id="o2"))
        assert await process.ended(SAGA, "o2") == Status.COMPLETED
        assert await process.ended(SAGA, "o1") == Status.COMPLETED
    assert plan.called(Pay, "o1") >= 2
    assert plan.called(Pay, "o2") == 0
    assert not world.left_over()


class OrderDrafted(Event, channel="orders"):
    order_id: str
    amount: int


@BOTH
@in_virtual_time
async def test_an_event_under_way_begins_its_saga_although_new_ones_begin_with_another(how: str) -> None:
    plan, world = Plan(), World()
    old = order_saga()
    new = Saga(SAGA, begins_with=OrderDrafted, key="order_id", steps=[step(Ship)])
    first = await world.start(make_shop(plan, old), services=["orders"], coordination={SAGA: how})
    await first.send(PlaceOrder(order_id="o1"))
    await asyncio.sleep(1)
    await first.stop()
    async with world.running(make_shop(plan, new, old), coordination={SAGA: how}) as process:
        assert await asyncio.wait_for(process.ended(SAGA, "o1"), 60) == Status.COMPLETED
    assert plan.called(Pay) == 1


@BOTH
@in_virtual_time
async def test_a_definition_that_is_gone_is_an_operators_business_until_it_is_back(how: str) -> None:
    plan, world = Plan(), World()
    old, new = order_saga(), order_saga_of([step(Reserve, undo=Release), step(Ship)])
    slow = asyncio.Event()
    plan.will(Pay, slow)
    before = await world.start(make_shop(plan, old), coordination={SAGA: how})
    await before.send(PlaceOrder(order_id="o1"))
    await plan.begun["Pay"].wait()
    before.kill()
    async with world.running(make_shop(plan, new), coordination={SAGA: how}) as process:
        await asyncio.sleep(600)
        assert plan.called(Pay) < 20
        parked = await process.system.observer.parked()
        assert all(old.fingerprint in one.reason or "no handler for Pay" in one.reason for one in parked)
        assert parked
    async with world.running(make_shop(plan, new, old), coordination={SAGA: how}) as process:
        for one in parked:
            if one.kind == "command":
                assert await process.system.observer.reopen(one.id)
            else:
                await process.system.observer.forget(one.id)
                await world.publish(one.channel, one.body, **one.attributes)
        assert await asyncio.wait_for(process.ended(SAGA, "o1"), 600) == Status.COMPLETED
    assert plan.done_outside(Pay, "o1") == 1
    assert not world.left_over()


@in_virtual_time
async def test_participants_of_an_orchestrated_saga_need_not_know_its_definition() -> None:
    """A rolling upgrade that begins with the orchestrator."""
    plan, world = Plan(), World()
    old, new = order_saga_of([step(Reserve, undo=Release), step(Ship)]), order_saga()
    kept = {"coordination": {SAGA: "orchestration"}}
    async with (
        world.running(make_shop(plan, old), services=["inventory", "payment", "shipping"], **kept),
        world.running(make_shop(plan, new, old), services=["orders", "orchestrator"], **kept) as process,
    ):
        plan.will(Pay, Boom("once"))
        plan.always(Ship, REFUSE)
        await process.send(PlaceOrder(order_id="o1"))
        assert await asyncio.wait_for(process.ended(SAGA, "o1"), 600) == Status.COMPENSATED
    assert plan.called(Refund) == 1


@in_virtual_time
async def test_a_handler_that_is_gone_parks_its_command() -> None:
    plan, world = Plan(), World()
    plan.will(Pay, asyncio.Event())
    before = await world.start(make_shop(plan))
    await before.send(PlaceOrder(order_id="o1"))
    await plan.begun["Pay"].wait()
    before.kill()
    app = make_shop(plan, order_saga_of([step(Reserve, undo=Release), step(Ship)]))
    del app.services["payment"].commands[Pay]
    async with world.running(app) as process:
        await asyncio.sleep(60)
        assert [entry.key for entry in world.entries("payment", EntryState.PARKED)] == ["Pay/o1"]
        assert await process.system.observer.parked()


@pytest.mark.parametrize(("before", "after"), [COORDINATIONS, COORDINATIONS[::-1]])
@in_virtual_time
async def test_a_saga_finishes_in_the_coordination_it_began_with(before: str, after: str) -> None:
    plan, world = Plan(), World()
    plan.will(Pay, asyncio.Event())
    plan.always(Ship, REFUSE)
    first = await world.start(make_shop(plan), coordination={SAGA: before})
    await first.send(PlaceOrder(order_id="o1"))
    await plan.begun["Pay"].wait()
    first.kill()
    async with world.running(make_shop(plan), coordination={SAGA: after}) as process:
        assert await process.ended(SAGA, "o1") == Status.COMPENSATED
        await process.send(PlaceOrder(order_id="o2"))
        assert await process.ended(SAGA, "o2") == Status.COMPENSATED
        await asyncio.sleep(5)
    assert [plan.called(Refund, one) for one in ("o1", "o2")] == [1, 1]
    told = {
        entry.envelope.saga.coordination.value
        for one in ("o1",)
        for entry in world.entries("payment")
        if entry.envelope.saga and entry.envelope.saga.id == one
    }
    assert told == {before}
    assert not world.left_over()


# -- read models -------------------------------------------------------------------------------------------------------


@BOTH
@in_virtual_time
async def test_with_a_read_model_a_saga_goes_on_while_the_origin_is_down(how: str) -> None:
    plan, world = Plan(), World()
    plan.origin_is_down = True
    async with world.running(make_shop(plan), coordination={SAGA: how}, queries={"GetOrder": "read_model"}) as process:
        await process.send(PlaceOrder(order_id="o1", amount=42))
        assert await process.ended(SAGA, "o1") == Status.COMPLETED
    (paid,) = [entry for entry in world.entries("payment") if entry.handler == "Pay"]
    assert b"42" in paid.envelope.body
    assert not world.left_over()


@BOTH
@pytest.mark.parametrize("killed", [False, True])
@in_virtual_time
async def test_a_command_waits_until_the_read_model_has_heard(how: str, killed: bool) -> None:
    """A stranger tells of the reservation long before the order is heard of. (In orchestration nobody can be early.)"""
    plan, world = Plan(), World()
    kept: dict[str, Any] = {"coordination": {SAGA: how}, "queries": {"GetOrder": "read_model"}}
    late = await world.start(make_shop(plan), **kept)
    queue = world.broker.groups["payment" if how == "choreography" else "orchestrator"].queue
    if how == "choreography":
        await world.publish("inventory", b'{"eventType": "Reserved", "orderId": "o1"}')
        await asyncio.sleep(60)
        (waiting,) = world.entries("payment", EntryState.DUE)
        assert waiting.waits_for == "GetOrder/o1"
        assert "read model" in (await late.system.observer.saga("o1")).waiting[0].why or True
    if killed:
        late.kill()
        late = await world.start(make_shop(plan), **kept)
        await asyncio.sleep(60)
    assert plan.called(Pay) == 0
    await late.send(PlaceOrder(order_id="o1"))
    assert await asyncio.wait_for(late.ended(SAGA, "o1"), 60) == Status.COMPLETED
    assert plan.called(Pay) == 1
    assert not queue
    await late.stop()
    assert not world.left_over()


@BOTH
@in_virtual_time
async def test_without_one_the_origin_is_asked_until_it_answers(how: str) -> None:
    plan, world = Plan(), World()
    plan.will(Reserve, Boom("once"))
    app = make_shop(plan, retry=RetryPolicy(first_s=1, delay_max_s=60))
    async with world.running(app, coordination={SAGA: how}) as process:
        await process.send(PlaceOrder(order_id="o1"))
        plan.origin_is_down = True
        await asyncio.sleep(10)
        plan.origin_is_down = False
        assert await asyncio.wait_for(process.ended(SAGA, "o1"), 600) == Status.COMPLETED
