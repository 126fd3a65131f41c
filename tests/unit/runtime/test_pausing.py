"""What an operator pauses does not begin, whatever happens meanwhile, and goes on where it was."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest

from minuet import Settings, System, running
from minuet.core.coordinator import Status
from minuet.core.envelope import Envelope
from minuet.core.errors import Conflict, NotFound, NotYet, Rejected
from minuet.core.messages import InstructionGiven
from minuet.core.operating import Scope, Verb
from minuet.core.projection import Coordination
from minuet.core.retry import RetryPolicy
from minuet.ports import Act, EntryState
from minuet.runtime import place as place_module
from minuet.runtime.worker import Worker
from tests.failures import shop as failures
from tests.unit.runtime.shop import (
    REFUSE,
    SAGA,
    Boom,
    Pay,
    PlaceOrder,
    Plan,
    Refund,
    Reserve,
    Ship,
    make_shop,
    order_saga,
)
from tests.unit.runtime.test_cancel import Apply, office
from tests.unit.runtime.virtual_loop import in_virtual_time
from tests.unit.runtime.world import Process, World

HOW = [("choreography", "local"), ("orchestration", "local"), ("orchestration", "commands")]
A_WHILE_S = 60.0


def settings(how: tuple[str, str]) -> dict[str, object]:
    return {"coordination": {SAGA: how[0]}, "orchestration": {"participants": how[1], "ask_again_s": 1.0}}


async def goes_on(process: Process, order_id: str = "o1", status: Status = Status.COMPLETED) -> None:
    async with asyncio.timeout(A_WHILE_S):
        while (end := await process.system.observer.end_of(SAGA, order_id)) is None:  # another process may end it
            await asyncio.sleep(0.1)
    assert end == status
    await asyncio.sleep(5)  # its last answer is heard, and the last message settled


WHAT = [{"saga_id": "o1"}, {"all_of": SAGA}, {"service": "payment"}]


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("what", WHAT)
@in_virtual_time
async def test_nothing_paused_begins_and_what_is_under_way_ends(how: tuple[str, str], what: dict[str, str]) -> None:
    plan, world = Plan(), World()
    gate = asyncio.Event()
    plan.will(Pay, gate)
    async with world.running(make_shop(plan), **settings(how)) as process:
        system = process.system
        await process.send(PlaceOrder(order_id="o1"))
        await plan.begun["Pay"].wait()
        assert await system.pause(**what, who="ada", why="to look at it")  # type: ignore[arg-type]
        assert not await system.pause(**what, who="bob", why="me too")  # type: ignore[arg-type]
        await asyncio.sleep(1)
        gate.set()
        await asyncio.sleep(A_WHILE_S)
        assert world.decided("o1").get("pay") == "Paid", "what is under way ends and is recorded"
        assert plan.called(Pay, "o1") == 1
        assert plan.called(Ship, "o1") == ("service" in what), "only payment is paused"
        await process.send(PlaceOrder(order_id="o2"))
        await asyncio.sleep(A_WHILE_S)
        assert plan.called(Pay, "o2") == ("saga_id" in what)
        assert plan.called(Reserve, "o2") == ("all_of" not in what)
        (view,) = await system.observer.paused()
        assert (view.who, view.why) == ("ada", "to look at it")
        assert await system.resume(**what, who="ada")  # type: ignore[arg-type]
        assert not await system.resume(**what, who="ada")  # type: ignore[arg-type]
        for order_id in ("o1", "o2"):
            await goes_on(process, order_id)
        assert await system.observer.paused() == []
        assert [act.verb for _, act in await system.observer.audit()] == ["resume", "pause"]
    assert not world.left_over()


@pytest.mark.parametrize("how", HOW)
@in_virtual_time
async def test_a_saga_that_is_paused_tells_so_while_others_of_its_type_go_on(how: tuple[str, str]) -> None:
    plan, world = Plan(), World()
    plan.always("Pay o1", Boom("not now"))
    async with world.running(make_shop(plan), **settings(how)) as process:
        system = process.system
        await process.send(PlaceOrder(order_id="o1"))
        await plan.begun["Pay"].wait()
        await system.pause("o1", who="ada", why="fraud?")
        view = await system.observer.saga("o1")
        assert [one.why for one in view.waiting] == [f"{SAGA}/o1 was paused by ada: fraud?"]
        assert [(one.saga_id, one.who) for one in view.paused] == [("o1", "ada")]
        await process.send(PlaceOrder(order_id="o2"))
        await goes_on(process, "o2")
        (view,) = await system.observer.sagas(only="running")
        assert view.paused
        with pytest.raises(Conflict, match="o2 is completed"):
            await system.pause("o2", who="ada")
        plan.for_ever.clear()
        await system.resume("o1", who="ada")
        await goes_on(process)


@pytest.mark.parametrize("way", ["choreography", "orchestration"])
@in_virtual_time
async def test_what_was_paused_before_it_began_can_still_be_cancelled_after_a_restart(way: str) -> None:
    """Whoever stops in order has begun nothing of what he gives up."""
    world, may_end, did = World(), asyncio.Event(), list[str]()
    may_end.set()
    app = office(asyncio.Event(), may_end, did)
    how = {"coordination": {"Application": way}}
    async with world.running(app, **how) as process:
        await process.system.pause(all_of="Application", who="ada")
        await process.send(Apply(name="a"))
        await asyncio.sleep(A_WHILE_S)
        assert len(world.entries("office", EntryState.DUE)) == (way == "choreography")
    async with world.running(app, **how) as process:
        await asyncio.sleep(A_WHILE_S)
        await process.system.cancel("a", who="ada")
        await process.system.resume(all_of="Application", who="ada")
        async with asyncio.timeout(A_WHILE_S):
            assert await process.ended("Application", "a") == Status.COMPENSATED
    assert not did


@pytest.mark.parametrize("how", HOW)
@in_virtual_time
async def test_what_a_stop_has_cut_off_may_have_been_begun(how: tuple[str, str]) -> None:
    plan, world = Plan(), World()
    gate = asyncio.Event()
    plan.will(Pay, gate)
    async with world.running(make_shop(plan), **settings(how)) as process:
        await process.send(PlaceOrder(order_id="o1"))
        await plan.begun["Pay"].wait()
    assert [one.attempts for one in world.entries("payment", EntryState.DUE)] == [1]
    async with world.running(make_shop(plan), **settings(how)) as process:
        await process.system.cancel("o1", who="ada")
        await goes_on(process, status=Status.COMPENSATED)
    assert plan.called(Pay, "o1") == 2, "it is asked again what came of it, for nobody knows"
    assert plan.called(Refund, "o1") == 1


@pytest.mark.parametrize("how", HOW)
@in_virtual_time
async def test_what_is_paused_in_two_ways_goes_on_when_both_are_taken_back(how: tuple[str, str]) -> None:
    plan, world = Plan(), World()
    async with world.running(make_shop(plan), **settings(how)) as process:
        system = process.system
        await system.pause(service="payment", who="ada")
        await process.send(PlaceOrder(order_id="o1"))
        await asyncio.sleep(5)
        await system.pause("o1", who="ada")
        await system.pause(all_of=SAGA, who="ada")
        for taken_back in WHAT:
            assert not plan.called(Pay)
            await asyncio.sleep(10)
            await system.resume(**taken_back, who="ada")  # type: ignore[arg-type]
        await goes_on(process)


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("what", WHAT)
@in_virtual_time
async def test_it_survives_that_everybody_is_killed(how: tuple[str, str], what: dict[str, str]) -> None:
    plan, world = Plan(), World()
    gate = asyncio.Event()
    plan.will(Pay, gate)
    first = await world.start(make_shop(plan), **settings(how))
    await first.send(PlaceOrder(order_id="o1"))
    await plan.begun["Pay"].wait()
    await first.system.pause(**what, who="ada")  # type: ignore[arg-type]
    await asyncio.sleep(1)
    first.kill()
    async with world.running(make_shop(plan), **settings(how)) as second:
        await asyncio.sleep(A_WHILE_S)
        assert plan.called(Pay) == 1, "it waits for who resumes it, although it was begun before"
        await second.system.resume(**what, who="ada")  # type: ignore[arg-type]
        await goes_on(second)
    assert not world.left_over()
    assert plan.done_outside(Pay, "o1") == 1


@in_virtual_time
async def test_what_a_dead_process_may_have_begun_is_not_refused_for_coming_late() -> None:
    """Who took it over knows that, and must not forget it while it is paused: the money may have been taken."""
    plan, world = Plan(), World()
    plan.will(Pay, asyncio.Event())
    app = make_shop(plan, order_saga(deadline=timedelta(seconds=30)))
    first = await world.start(app)
    await first.send(PlaceOrder(order_id="o1"))
    await plan.begun["Pay"].wait()
    await first.system.pause(service="payment", who="ada")
    await asyncio.sleep(1)
    first.kill()
    async with world.running(app) as second:
        await asyncio.sleep(A_WHILE_S)
        await second.system.resume(service="payment", who="ada")
        await goes_on(second)
    assert plan.called(Pay) == 2
    assert not world.left_over()


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("what", [{"all_of": SAGA}, {"service": "payment"}])
@in_virtual_time
async def test_it_holds_in_every_process_on_the_store(how: tuple[str, str], what: dict[str, str]) -> None:
    plan, world = Plan(), World()
    async with (
        world.running(make_shop(plan), **settings(how)) as one,
        world.running(make_shop(plan), **settings(how)) as other,
    ):
        await one.system.pause(**what, who="ada")  # type: ignore[arg-type]
        await asyncio.sleep(5)
        for number in range(20):
            await (one, other)[number % 2].send(PlaceOrder(order_id=f"o{number}"))
        await asyncio.sleep(A_WHILE_S)
        assert not plan.called(Pay)
        await other.system.resume(**what, who="bob")  # type: ignore[arg-type]
        for number in range(20):
            await goes_on(other, f"o{number}")
    assert plan.called(Pay) == 20
    assert not world.left_over()


@in_virtual_time
async def test_in_whichever_order_they_are_heard_the_later_word_counts() -> None:
    """Each service hears its own shuffled copies of pauses and resumptions; all end in the same state."""
    chance = random.Random(1)
    plan, world = Plan(), World()
    async with world.running(make_shop(plan)) as process:
        system = process.system
        scope = Scope(saga=SAGA)
        words = [(Verb.RESUME if number % 2 else Verb.PAUSE, 1000.0 + number // 2) for number in range(9)]
        heard = {name: chance.sample(words * 2, 18) for name in system.places if name != "orchestrator"}
        for name, copies in heard.items():
            place = system.places[name]
            for verb, at in copies:
                event = InstructionGiven(verb=verb, saga=SAGA, at=at, who="ada")

                def work(tx: object, after: object, place: object = place, event: object = event) -> None:
                    place.participant.heed(tx, event, after)

                await place._handed_in(work)
        for place in (system.places[name] for name in heard):
            last = await place.store.transact(lambda tx: tx.instructions.last(scope, Verb.PAUSE), reads_only=True)
            assert last is not None
            assert (last.verb, last.at) == (Verb.PAUSE, 1004.0)
            assert scope in place.participant.in_force._paused
        # Who resumes it knows only the orchestrator's store, and a clock that is far behind.
        world.clock.ahead_s = -2e9
        await system.pause(all_of=SAGA, who="ada")
        await system.resume(all_of=SAGA, who="ada")
        await asyncio.sleep(1)
        at = [
            await one.store.transact(lambda tx: tx.instructions.last(scope, Verb.PAUSE), reads_only=True)
            for one in system.places.values()
        ]
        assert at[-1] is not None
        assert at[-1].verb is Verb.RESUME


@pytest.mark.parametrize("how", HOW)
@in_virtual_time
async def test_a_clock_that_was_put_back_between_both_does_not_keep_it_paused(how: tuple[str, str]) -> None:
    plan, world = Plan(), World()
    async with world.running(make_shop(plan), **settings(how)) as process:
        await process.system.pause(all_of=SAGA, who="ada")
        await process.send(PlaceOrder(order_id="o1"))
        world.clock.ahead_s = -7200.0
        await asyncio.sleep(10)
        assert not plan.called(Reserve)
        await process.system.resume(all_of=SAGA, who="ada")
        await goes_on(process)


@pytest.mark.parametrize("how", HOW)
@in_virtual_time
async def test_a_deadline_goes_on_counting_and_a_cancelled_saga_is_undone_when_it_goes_on(how: tuple[str, str]) -> None:
    plan, world = Plan(), World()
    saga = order_saga(deadline=timedelta(seconds=30))
    async with world.running(make_shop(plan, saga), **settings(how)) as process:
        system = process.system
        await system.pause(service="payment", who="ada")
        for order_id in ("o1", "o2"):
            await process.send(PlaceOrder(order_id=order_id))
        await asyncio.sleep(10)
        await system.cancel("o2", who="ada")
        await asyncio.sleep(50)
        await system.resume(service="payment", who="ada")
        for order_id in ("o1", "o2"):
            await goes_on(process, order_id, Status.COMPENSATED)
        assert not plan.called(Pay)
        assert not plan.called(Refund)
    assert not world.left_over()


@in_virtual_time
async def test_a_command_of_a_caller_is_kept_and_answered_when_the_service_goes_on() -> None:
    plan, world = Plan(), World()
    async with world.running(make_shop(plan)) as process:
        system = process.system
        await system.pause(service="inventory", who="ada")
        await system.pause(service="orders", who="ada")
        await asyncio.sleep(1)
        for _ in range(2):
            with pytest.raises(NotYet, match="service orders is paused") as caught:
                await process.send(PlaceOrder(order_id="o1"), key="k")
            assert caught.value.retry_after_s == place_module.PAUSED_S
        await asyncio.sleep(A_WHILE_S)
        assert not plan.called(PlaceOrder)
        await system.resume(service="orders", who="ada")
        await asyncio.sleep(1)
        assert (await process.send(PlaceOrder(order_id="o1"), key="k")).order_id == "o1"  # type: ignore[attr-defined]
        assert plan.called(PlaceOrder) == 1
        await system.resume(service="inventory", who="ada")
        await goes_on(process)


@in_virtual_time
async def test_more_is_held_than_may_be_under_way_and_resuming_is_heard_all_the_same() -> None:
    plan, world = Plan(), World()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(place_module, "DUE_MAX", 50)
        patch.setattr(place_module, "TAKE_MAX", 20)
        async with world.running(make_shop(plan)) as process:
            await process.system.pause(service="payment", who="ada")
            await asyncio.sleep(1)
            for number in range(300):
                await process.send(PlaceOrder(order_id=f"o{number}"))
            await asyncio.sleep(A_WHILE_S)
            payment = process.system.places["payment"]
            assert len(world.entries("payment", EntryState.DUE)) == 300
            assert not payment.is_full
            await process.system.resume(service="payment", who="ada")
            for number in range(300):
                await goes_on(process, f"o{number}")
    assert plan.called(Pay) == 300
    assert not world.left_over()


@in_virtual_time
async def test_a_store_that_fails_meanwhile_does_not_forget_what_was_held() -> None:
    plan, world = Plan(), World()
    async with world.running(make_shop(plan)) as process:
        await process.system.pause(service="payment", who="ada")
        await process.send(PlaceOrder(order_id="o1"))
        await asyncio.sleep(5)
        store = process.store("payment")
        transact, failures = store.transact, [3]

        async def failing(work: object, *, reads_only: bool = False, lazily: bool = False) -> object:
            if reads_only and failures[0]:
                failures[0] -= 1
                raise Boom("away")
            return await transact(work, reads_only=reads_only, lazily=lazily)  # type: ignore[arg-type]

        store.transact = failing  # type: ignore[method-assign, assignment]
        await process.system.places["orchestrator"].instruct(
            Scope(service="payment"), Verb.RESUME, Act(at=0.0, who="ada", verb="resume", what="payment")
        )
        await goes_on(process)
        assert not failures[0]


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("what", [{"saga_id": "o1"}, {"service": "payment"}])
@in_virtual_time
async def test_what_waits_for_its_next_attempt_has_it_now(how: tuple[str, str], what: dict[str, str]) -> None:
    plan, world = Plan(), World()
    plan.will(Pay, Boom("away"))
    patient = RetryPolicy(attempts_max=9, first_s=3000.0, delay_max_s=3000.0)
    async with world.running(make_shop(plan, retry=patient), **settings(how)) as process:
        await process.send(PlaceOrder(order_id="o1"))
        await asyncio.sleep(5)
        assert plan.called(Pay) == 1
        await process.system.retry(**what, who="ada", why="the bank is back")  # type: ignore[arg-type]
        await goes_on(process)
        ((_, act),) = await process.system.observer.audit()
        assert (act.verb, act.why) == ("retry", "the bank is back")
    assert not world.left_over()


@in_virtual_time
async def test_who_takes_over_what_was_to_be_tried_again_does_so_once() -> None:
    """Who heard of it died before it did anything about it; that it was kept is all that remains."""
    plan, world = Plan(), World()
    plan.will(Pay, *[Boom("away")] * 2)
    patient = RetryPolicy(attempts_max=9, first_s=3000.0, delay_max_s=3000.0)
    app = make_shop(plan, retry=patient)
    first = await world.start(app)
    await first.send(PlaceOrder(order_id="o1"))
    await asyncio.sleep(5)

    def die_when_it_is_kept(number: int) -> None:
        if world.databases["payment"].instructions:
            first.kill()
            raise asyncio.CancelledError  # the task that kept it dies, too

    first.store("payment").after = die_when_it_is_kept
    with suppress(NotYet):
        await first.within(first.system.retry(service="payment", who="ada"))
    await asyncio.sleep(5)
    assert not first.is_alive
    assert plan.called(Pay) == 1
    async with world.running(app) as second:
        await asyncio.sleep(A_WHILE_S)
        assert plan.called(Pay) == 2, "once, and then it waits again"
        await second.system.retry("o1", who="ada")
        await goes_on(second)


@in_virtual_time
async def test_what_another_instance_has_taken_over_is_not_begun_by_who_held_it() -> None:
    plan, world = Plan(), World()
    app = make_shop(plan)
    async with world.running(app) as one:
        await one.system.pause(service="inventory", who="ada")
        for number in range(5):
            await one.send(PlaceOrder(order_id=f"o{number}"))
        await asyncio.sleep(5)
        database = world.databases["inventory"]
        taken_for_dead = one.store("inventory")
        async with world.running(app) as other:
            database.openings.pop(taken_for_dead.instance)
            await asyncio.sleep(5)
            database.openings[taken_for_dead.instance] = taken_for_dead
            assert {entry.owner for entry in world.entries("inventory")} == {other.store("inventory").instance}
            # It hears of it first, and is the one that no longer owns anything.
            instruct = one.system.places["inventory"].instruct
            await instruct(Scope(service="inventory"), Verb.RESUME, Act(at=0.0, who="ada", verb="resume", what="it"))
            for number in range(5):
                await goes_on(other, f"o{number}")
    assert plan.called(Reserve) == 5


@in_virtual_time
async def test_what_is_handed_in_before_the_first_look_is_kept_as_well() -> None:
    """A door may be open before the worker has begun."""
    plan, world = Plan(), World()
    app = make_shop(plan)
    async with world.running(app) as process:
        await process.system.pause(service="orders", who="ada")
        await asyncio.sleep(1)
    start, refused = Worker.start, []

    async def asked_at_once(self: Worker) -> None:
        if self.place.name == "orders":
            command = PlaceOrder(order_id="o1")
            body = self.place.codec.encode(command, time=0.0)
            envelope = Envelope(id="1", type="PlaceOrder", source="client", time=0.0, body=body)
            with pytest.raises(NotYet, match="is paused"):
                await self.place.ask(envelope, key="k", wait_s=1.0)
            refused.append("o1")
        await start(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Worker, "start", asked_at_once)
        async with world.running(app) as process:
            await asyncio.sleep(10)
            assert refused
            assert not plan.called(PlaceOrder)
            await process.system.resume(service="orders", who="ada")
            await goes_on(process)


@in_virtual_time
async def test_what_makes_no_sense_is_told() -> None:
    plan, world = Plan(), World()
    async with world.running(make_shop(plan)) as process:
        system = process.system
        for wrong, error, said in (
            ({}, Rejected, "say one of these"),
            ({"all_of": SAGA, "service": "payment"}, Rejected, "say one of these"),
            ({"saga_id": "nobody"}, NotFound, "has heard of a saga 'nobody'"),
            ({"all_of": "Nothing"}, NotFound, "no saga 'Nothing'; it has Order"),
            ({"service": "nobody"}, NotFound, "no service 'nobody'"),
        ):
            with pytest.raises(error, match=said):
                await system.pause(**wrong, who="ada")  # type: ignore[arg-type]


@pytest.mark.parametrize("coordination", ["choreography", "orchestration"])
async def test_two_processes_on_one_sqlite_file_heed_what_one_has_heard(coordination: str, tmp_path: Path) -> None:
    at_work_on = Settings(data=tmp_path, coordination={failures.SAGA: Coordination(coordination)})
    provided = {failures.Conduct: failures.Conduct()}
    app = failures.order_app()
    orders = [f"o{number}" for number in range(12)]

    async def paid(system: System) -> int:
        return sum("Pay" in done for done in (await failures.all_effects(system, *orders)).values())

    def is_held(system: System) -> bool:
        return bool(system.places["billing"].participant.in_force._paused)

    async with (
        running(app, at_work_on, provided=provided) as one,
        running(app, at_work_on, provided=provided) as other,
    ):
        await one.pause(service="billing", who="ada")
        async with asyncio.timeout(30):
            while not (is_held(one) and is_held(other)):
                await asyncio.sleep(0.01)
        for number, order_id in enumerate(orders):
            await failures.place((one, other)[number % 2], order_id)
        async with asyncio.timeout(30):
            while any("Reserve" not in done for done in (await failures.all_effects(one, *orders)).values()):
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.2)  # that which must not happen has its chance
        assert await paid(one) == 0
        await other.resume(service="billing", who="ada")
        async with asyncio.timeout(30):
            for order_id in orders:
                while await one.observer.end_of(failures.SAGA, order_id) != Status.COMPLETED:
                    await asyncio.sleep(0.01)
        assert await paid(one) == len(orders)
        assert all(done == failures.DONE for done in (await failures.all_effects(one, *orders)).values())


@pytest.mark.parametrize("how", ["choreography", "orchestration"])
@in_virtual_time
async def test_what_needs_an_operator_goes_on_at_once_however_long_nothing_happened(how: str) -> None:
    """Nobody looks often by then; so who makes it due says so."""
    plan, world = Plan(), World()
    plan.always(Ship, REFUSE)
    plan.always(Refund, Boom("the account is closed"))
    async with world.running(make_shop(plan), coordination={SAGA: how}) as process:
        await process.send(PlaceOrder(order_id="o1"))
        await asyncio.sleep(1000)
        plan.for_ever.pop("Refund")
        (parked,) = await process.system.observer.parked()
        began, before = asyncio.get_running_loop().time(), plan.called(Refund)
        await process.system.operator.retry_parked(parked.id, who="ada", why="it is open")
        await asyncio.sleep(0.1)
        assert plan.called(Refund) == before + 1
        assert await process.ended(SAGA, "o1") == Status.COMPENSATED
        assert asyncio.get_running_loop().time() - began < 10
