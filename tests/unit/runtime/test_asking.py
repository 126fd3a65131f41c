"""Commands handed in by callers: the same key is the same command, once; and what a caller hears meanwhile."""

from __future__ import annotations

import asyncio

import pytest

from minuet.core.coordinator import Status
from minuet.core.envelope import Envelope
from minuet.core.errors import Conflict, MessageError, NotYet, Rejected
from minuet.core.retry import RetryPolicy
from minuet.core.saga import Saga, step
from minuet.ports import EntryState
from tests.unit.runtime.shop import (
    REFUSE,
    SAGA,
    Boom,
    CloseOrder,
    Declined,
    OrderPlaced,
    Paid,
    Pay,
    PlaceOrder,
    Plan,
    Refund,
    Release,
    Reserve,
    Ship,
    make_shop,
    order_saga,
    order_saga_of,
)
from tests.unit.runtime.virtual_loop import in_virtual_time
from tests.unit.runtime.world import Broken, World

BOTH = pytest.mark.parametrize("how", ["choreography", "orchestration"])
PLAIN = order_saga_of([step(Reserve, undo=Release), step(Pay, undo=Refund), step(Ship)])
# Paying is built from a query that is asked when it is due, or from what is known already.
THIN_OR_NOT = pytest.mark.parametrize("saga", [order_saga(), PLAIN], ids=["thin", "plain"])


@pytest.mark.parametrize("keys", [("", ""), ("k", "k"), ("k", "l"), ("k", "")])
@in_virtual_time
async def test_the_same_business_is_done_once_whatever_the_askers_key(keys: tuple[str, str]) -> None:
    plan, world = Plan(), World()
    async with world.running(make_shop(plan)) as process:
        first = await process.send(PlaceOrder(order_id="o1"), key=keys[0])
        second = await process.send(PlaceOrder(order_id="o1"), key=keys[1])
    assert first == second == OrderPlaced(order_id="o1", amount=10)
    assert plan.called(PlaceOrder) == 1


@in_virtual_time
async def test_the_same_business_key_with_other_content_is_a_conflict() -> None:
    plan, world = Plan(), World()
    async with world.running(make_shop(plan)) as process:
        await process.send(PlaceOrder(order_id="o1", amount=10))
        with pytest.raises(Conflict):
            await process.send(PlaceOrder(order_id="o1", amount=11))
        with pytest.raises(Conflict):
            await process.send(PlaceOrder(order_id="o1", amount=11), key="another")
        await process.send(PlaceOrder(order_id="o2", amount=11), key="another")
    assert plan.called(PlaceOrder) == 2


@in_virtual_time
async def test_an_idempotency_key_with_another_body_is_a_conflict() -> None:
    plan, world = Plan(), World()
    async with world.running(make_shop(plan)) as process:
        await process.send(PlaceOrder(order_id="o1"), key="k")
        with pytest.raises(Conflict, match="k"):
            await process.send(PlaceOrder(order_id="o2"), key="k")
        await process.send(Ship(order_id="o1"), key="k")  # another command: the key is another's
        with pytest.raises(Conflict):
            await process.send(Ship(order_id="o2"), key="k")
        await process.send(Ship(order_id="o1"), key="k")
    assert plan.called(PlaceOrder) == 1
    assert plan.called(Ship, "o1") == 1
    assert plan.called(Ship, "o2") == 0


@in_virtual_time
async def test_without_any_key_each_asking_is_another() -> None:
    plan, world = Plan(), World()
    async with world.running(make_shop(plan)) as process:
        await process.send(Ship(order_id="o1"))
        await process.send(Ship(order_id="o1"))
    assert plan.called(Ship) == 2


@pytest.mark.parametrize("command", [PlaceOrder(order_id="o1"), Pay(order_id="o1", amount=3)])
@in_virtual_time
async def test_twenty_at_once_are_one(command: PlaceOrder | Pay) -> None:
    plan, world = Plan(), World()
    async with world.running(make_shop(plan)) as process:
        answers = await asyncio.gather(*(process.send(command, key=f"k{number % 7}") for number in range(20)))
    assert plan.called(type(command)) == 1
    assert all(answer == answers[0] for answer in answers)


@in_virtual_time
async def test_a_refusal_is_an_answer_and_stays_one() -> None:
    plan, world = Plan(), World()
    plan.will(Pay, REFUSE)
    async with world.running(make_shop(plan)) as process:
        assert await process.send(Pay(order_id="o1", amount=3)) == Declined(order_id="o1")
        assert await process.send(Pay(order_id="o1", amount=3), key="again") == Declined(order_id="o1")
    assert plan.called(Pay) == 1


@pytest.mark.parametrize("command", [PlaceOrder(order_id="o1"), Pay(order_id="o1", amount=3)])
@in_virtual_time
async def test_who_does_not_wait_hears_not_yet_after_the_first_attempt(command: PlaceOrder | Pay) -> None:
    plan, world = Plan(), World()
    plan.will(type(command), Boom("once"))
    slowly = RetryPolicy(first_s=10)
    async with world.running(make_shop(plan, retry=slowly)) as process:
        with pytest.raises(NotYet) as told:
            await process.send(command, key="k", wait_s=0)
        assert 5 <= told.value.retry_after_s <= 10
        assert plan.called(type(command)) == 1
        await process.send(command, key="k", wait_s=20)
    assert plan.called(type(command)) == 2


@in_virtual_time
async def test_who_waits_hears_the_answer_and_who_has_waited_long_enough_hears_not_yet() -> None:
    plan, world = Plan(), World()
    slow = asyncio.Event()
    plan.will(Pay, slow)
    loop = asyncio.get_running_loop()
    async with world.running(make_shop(plan)) as process:
        began = loop.time()
        with pytest.raises(NotYet):
            await process.send(Pay(order_id="o1", amount=3), wait_s=7)
        assert loop.time() - began == pytest.approx(7, abs=0.1)
        loop.call_later(3, slow.set)
        assert await process.send(Pay(order_id="o1", amount=3), wait_s=7) == Paid(order_id="o1", amount=3)
        assert loop.time() - began == pytest.approx(10, abs=0.1)
    assert plan.called(Pay) == 1


@in_virtual_time
async def test_whoever_asks_for_what_waits_for_an_operator_hears_so_at_once() -> None:
    plan, world = Plan(), World()
    plan.always(Pay, Boom("always"))
    loop = asyncio.get_running_loop()
    async with world.running(make_shop(plan)) as process:
        with pytest.raises(NotYet, match="operator"):
            await process.send(Pay(order_id="o1", amount=3))
        began = loop.time()
        with pytest.raises(NotYet, match="operator") as told:
            await process.send(Pay(order_id="o1", amount=3), wait_s=30)
        assert loop.time() - began < 1
        assert told.value.retry_after_s > 0
    assert plan.called(Pay) == 3


@in_virtual_time
async def test_a_command_that_does_not_fit_leaves_nothing() -> None:
    plan, world = Plan(), World()
    async with world.running(make_shop(plan)) as process:
        place = process.system.places["payment"]

        def envelope(kind: str, body: bytes) -> Envelope:
            return Envelope(id="e", type=kind, source="client", time=0.0, body=body)

        with pytest.raises(Rejected):
            await place.ask(envelope("Reserve", b'{"orderId": "o1"}'), key="", wait_s=0)
        for body in (b"{}", b"nonsense", b'{"orderId": "o1", "amount": 3, "more": 1}', b"[" * 100_000):
            with pytest.raises(MessageError):
                await place.ask(envelope("Pay", body), key="k", wait_s=0)
    assert not world.entries("payment")


@in_virtual_time
async def test_a_place_that_stops_takes_nothing_new_finishes_what_it_does_and_sends_the_others_away() -> None:
    plan, world = Plan(), World()
    slow = asyncio.Event()
    plan.will("Pay o1", slow)
    plan.will("Pay o2", Boom("once"))
    loop = asyncio.get_running_loop()
    process = await world.start(make_shop(plan, retry=RetryPolicy(first_s=100, delay_max_s=100)))
    first = loop.create_task(process.send(Pay(order_id="o1", amount=3)))
    second = loop.create_task(process.send(Pay(order_id="o2", amount=3)))
    await plan.begun["Pay"].wait()
    await asyncio.sleep(1)
    began = loop.time()
    stopping = loop.create_task(process.stop())
    await asyncio.sleep(1)
    with pytest.raises(NotYet, match="stop"):
        await process.system.send(Pay(order_id="o3", amount=3))
    slow.set()
    assert await first == Paid(order_id="o1", amount=3)
    with pytest.raises(NotYet):
        await second
    await stopping
    assert loop.time() - began < 2
    assert [entry.owner for entry in world.entries("payment", EntryState.DUE)] == [None]
    assert [one for one in world.left_over() if "queue" not in one] == ["payment due Pay/o2"]


@in_virtual_time
async def test_an_orchestrator_does_not_hold_up_the_stop_while_a_participant_waits_to_try_again() -> None:
    plan, world = Plan(), World()
    plan.always(Pay, Boom("always"))
    loop = asyncio.get_running_loop()
    slowly = RetryPolicy(first_s=1000, delay_max_s=1000)
    process = await world.start(make_shop(plan, retry=slowly), coordination={SAGA: "orchestration"})
    await process.send(PlaceOrder(order_id="o1"))
    await plan.begun["Pay"].wait()
    await asyncio.sleep(1)
    began = loop.time()
    await process.stop()
    assert loop.time() - began < 2


@BOTH
@in_virtual_time
async def test_what_was_asked_outside_of_a_saga_does_not_drive_one(how: str) -> None:
    plan, world = Plan(), World()
    plan.origin_is_down = True
    async with world.running(make_shop(plan), coordination={SAGA: how}) as process:
        await process.send(Reserve(order_id="o1"))
        await process.send(Ship(order_id="o1"))
        await process.send(CloseOrder(order_id="o1", status="LOST"))
        await asyncio.sleep(10)
        assert not await process.system.observer.sagas()
    assert plan.called(Pay) == 0
    assert not world.left_over()


@BOTH
@THIN_OR_NOT
@pytest.mark.parametrize("refusing", [None, Ship])
@in_virtual_time
async def test_a_saga_takes_over_what_was_asked_for_before_it(how: str, saga: Saga, refusing: type | None) -> None:
    """Its command has a business key, and was done for somebody else: the saga gets that answer, and undoes it too."""
    plan, world = Plan(), World()
    if refusing:
        plan.always(refusing, REFUSE)
    async with world.running(make_shop(plan, saga), coordination={SAGA: how}) as process:
        await process.send(Pay(order_id="o1", amount=10))
        await process.send(PlaceOrder(order_id="o1", amount=10))
        status = await asyncio.wait_for(process.ended(SAGA, "o1"), 100)
        assert status == (Status.COMPENSATED if refusing else Status.COMPLETED)
    assert plan.called(Pay) == 1
    assert plan.called(Refund) == bool(refusing)
    assert not world.left_over()


@BOTH
@THIN_OR_NOT
@pytest.mark.parametrize("refusing", [None, Ship])
@in_virtual_time
async def test_a_saga_waits_for_what_is_under_way_for_somebody_else(
    how: str, saga: Saga, refusing: type | None
) -> None:
    plan, world = Plan(), World()
    slow = asyncio.Event()
    plan.will(Pay, slow)
    if refusing:
        plan.always(refusing, REFUSE)
    loop = asyncio.get_running_loop()
    async with world.running(make_shop(plan, saga), coordination={SAGA: how}) as process:
        asking = loop.create_task(process.send(Pay(order_id="o1", amount=10), wait_s=100))
        await plan.begun["Pay"].wait()
        await process.send(PlaceOrder(order_id="o1", amount=10))
        loop.call_later(50, slow.set)
        status = await asyncio.wait_for(process.ended(SAGA, "o1"), 100)
        assert status == (Status.COMPENSATED if refusing else Status.COMPLETED)
        await asking
    assert plan.called(Pay) == 1
    assert plan.called(Refund) == bool(refusing)
    assert not world.left_over()


@BOTH
@THIN_OR_NOT
@in_virtual_time
async def test_a_saga_is_not_given_an_answer_to_another_question(how: str, saga: Saga) -> None:
    """The business key is taken by other content: as for every asker that is a conflict, and an operator's business."""
    plan, world = Plan(), World()
    async with world.running(make_shop(plan, saga), coordination={SAGA: how}) as process:
        await process.send(Pay(order_id="o1", amount=999))
        await process.send(PlaceOrder(order_id="o1", amount=10))
        await asyncio.sleep(600)
        (parked,) = await process.system.observer.parked()
        assert "other content" in parked.reason
        assert (await process.system.observer.saga("o1")).status == "needs operator"
    assert plan.called(Ship) == 0


@in_virtual_time
async def test_an_askers_key_is_not_counted_as_a_step_of_the_saga_that_did_the_command() -> None:
    plan, world = Plan(), World()
    slow = asyncio.Event()
    plan.will(Pay, slow)
    async with world.running(make_shop(plan)) as process:
        await process.send(PlaceOrder(order_id="o1", amount=10))
        await plan.begun["Pay"].wait()
        asking = asyncio.get_running_loop().create_task(process.send(Pay(order_id="o1", amount=10), key="k"))
        await asyncio.sleep(1)
        view = await process.system.observer.saga("o1")
        assert [one.step for one in view.attempts if one.at == "payment"] == ["pay"]
        assert [one.step for one in view.waiting] == ["pay"]
        slow.set()
        assert await asking == Paid(order_id="o1", amount=10)


@in_virtual_time
async def test_a_store_that_cannot_commit_tells_the_asker_and_keeps_nothing() -> None:
    plan, world = Plan(), World()
    async with world.running(make_shop(plan)) as process:

        def fail(number: int) -> None:
            raise Broken("disk full")

        process.store("orders").before = fail
        with pytest.raises(NotYet, match="cannot keep"):
            await process.send(PlaceOrder(order_id="o1"))
        assert not world.entries("orders")
        process.store("orders").before = lambda number: None
        await process.send(PlaceOrder(order_id="o1"))
        assert await process.ended(SAGA, "o1") == Status.COMPLETED


@in_virtual_time
async def test_an_async_handler_whose_outcome_cannot_be_kept_is_called_again_with_the_same_key() -> None:
    plan, world = Plan(), World()
    loop = asyncio.get_running_loop()
    async with world.running(make_shop(plan)) as process:
        asking = loop.create_task(process.send(Pay(order_id="o1", amount=3)))
        await plan.begun["Pay"].wait()
        left = [1, 2, 3]

        def fail(number: int) -> None:
            if left:
                raise Broken(f"disk full {left.pop()}")

        process.store("payment").before = fail
        assert await asking == Paid(order_id="o1", amount=3)
    assert plan.called(Pay) > 1
    assert plan.done_outside(Pay, "o1") == 1
