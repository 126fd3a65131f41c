"""Sentences are true when they should be, and red, with the reason in words, when a bug was planted."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import pytest

from minuet import App, Deployment, Nothing, NotYet, Saga, Service, StepRefused, step
from minuet.testing import Given, World, operator_retries, participant
from minuet.testing.scenario import Behaviour
from tests.unit.testing.buying import (
    FREE,
    PAY,
    RESERVE,
    SEND,
    Bank,
    Close,
    Closed,
    Declined,
    GetShelf,
    NoAddress,
    Ordered,
    Paid,
    Pay,
    Place,
    Release,
    Reserve,
    Reserved,
    Send,
    Sent,
    SoldOut,
    Stranger,
    Thanked,
    buying,
)

stock, money, van, orders = participant("stock"), participant("money"), participant("van"), participant("orders")
orchestrator = participant("orchestrator")
NOWHERE = Place(order_id="nowhere")
Begin = Callable[..., Given]


@pytest.fixture
def given_shop(given: Begin) -> Begin:
    def begin(*bugs: str, coordination: str | None = None, **settings: object) -> Given:
        return given(buying(*bugs, **settings), coordination=coordination).provided(Bank, Bank)  # type: ignore[arg-type]

    return begin


def red(ask: Callable[[], object]) -> str:
    """How the sentence fails, whichever seed it is played with."""
    with pytest.raises(AssertionError) as failed:
        ask()
    return re.sub(r"\(seed \d+\)", "(seed N)", str(failed.value))


def charged_once(world: World) -> None:
    """The bank has charged once."""
    assert len(world.provided[Bank].charges) == 1, f"{len(world.provided[Bank].charges)} charges"


# What is so


def test_both_coordinations_are_played_unless_one_is_named(given_shop: Begin) -> None:
    seen: list[str] = []

    def look(world: World) -> None:
        seen.extend(how.value for how in world.settings.coordination.values())

    given_shop().when(Place(order_id="o1")).then_holds(look)
    assert seen == ["choreography", "orchestration"]
    given_shop(coordination="orchestration").when(Place(order_id="o1")).then_holds(look)
    assert seen[2:] == ["orchestration"]


def test_everything_that_can_be_asked_of_a_completed_saga(given_shop: Begin) -> None:
    (
        given_shop()
        .when(Place(order_id="o1", pieces=2))
        .then(Ordered(order_id="o1", pieces=2))
        .then(Ordered)
        .then(Reserved, order_id="o1")
        .then(Closed(order_id="o1", how="sold"))
        .then_done(Place, Reserve, Pay, Send, Close)
        .then_done(Reserve, order_id="o1", pieces=2)
        .then_never(Reserve, pieces=3)
        .then_never(Release)
        .then_never(Closed, how="cancelled")
        .then_never(Closed(order_id="o1", how="cancelled"))
        .then_ends("completed")
        .then_ends("completed", "o1")
        .then_ends("compensated", sagas=0)
        .then_shows(GetShelf(), free=FREE - 2)
        .then_holds(charged_once)
    )


def test_what_was_had_before_is_not_what_happens(given_shop: Begin) -> None:
    (
        given_shop()
        .having(Place(order_id="nowhere"), Place(order_id="o1"))
        .when(Place(order_id="o2"))
        .then_never(Closed, how="cancelled")
        .then_never(Send, order_id="o1")
        .then_ends("completed", sagas=1)
        .then_shows(GetShelf(), free=FREE - 2)
    )


def test_a_behaviour_holds_from_its_when_on(given_shop: Begin) -> None:
    (
        given_shop()
        .having(Place(order_id="o1"))
        .when(Place(order_id="o2"))
        .after(minutes=1)
        .when(money.refuses(Pay, lambda command: Declined(order_id=command.order_id)), Place(order_id="o3"))
        .then_ends("completed", "o2")
        .then_ends("compensated", "o3")
    )


def test_after_takes_virtual_time(given_shop: Begin) -> None:
    def look(world: World) -> None:
        assert 300 < world.now < 310

    given_shop().when(Place(order_id="o1")).after(minutes=4, seconds=60).when(Place(order_id="o2")).then_holds(look)


def test_an_event_from_outside_begins_a_saga(given_shop: Begin) -> None:
    given_shop().when(Ordered(order_id="o1")).then_never(Place).then_done(Reserve, Pay, Send).then_ends("completed")


def test_a_rejected_command(given_shop: Begin) -> None:
    given_shop().when(Place(order_id="o1", pieces=0)).then_rejected(Place).then_never(Ordered)
    assert "nobody sent it" in red(lambda: given_shop().when(Ordered(order_id="o1")).then_rejected(Place))
    said = red(lambda: given_shop().when(Place(order_id="o1", pieces=0)).then_ends("completed"))
    assert "no saga began\n  Place was rejected: an order has at least one piece" in said


def test_a_participant_answers_what_it_is_told(given_shop: Begin) -> None:
    (
        given_shop()
        .when(Place(order_id="o1"), money.answers(Pay, Paid(order_id="o1", cents=7)))
        .then(Paid(order_id="o1", cents=7))
        .then_ends("completed")
        .then_holds(lambda world: not world.provided[Bank].calls)
    )


def test_a_refusal_writes_nothing(given_shop: Begin) -> None:
    (
        given_shop()
        .when(Place(order_id="o1"))
        .and_when(stock.refuses(Reserve, SoldOut(order_id="o1")))
        .then(SoldOut)
        .then_never(Release)
        .then_ends("compensated")
        .then_shows(GetShelf(), free=FREE)
    )


@pytest.mark.parametrize("command", [Reserve, Pay])
def test_attempts_that_fail_are_counted(given_shop: Begin, command: type[Reserve] | type[Pay]) -> None:
    who = stock if command is Reserve else money
    (
        given_shop(attempts_max=4)
        .when(Place(order_id="o1"), Place(order_id="o2"))
        .and_when(who.fails(command, times=3).where(order_id="o1"))
        .then_ends("completed", sagas=2)
    )
    (
        given_shop(attempts_max=3)
        .when(Place(order_id="o1"), Place(order_id="o2"))
        .and_when(who.fails(command, times=3, error=ValueError("a bad day")).where(order_id="o1"))
        .then_ends("compensated", "o1")
        .then_ends("completed", "o2")
        .then(StepRefused, detail="ValueError: a bad day")
    )


def test_not_yet_is_no_failed_attempt(given_shop: Begin) -> None:
    (
        given_shop(attempts_max=1)
        .when(Place(order_id="o1"))
        .and_when(
            money.fails(Pay, times=3, error=NotYet("later")), stock.fails(Reserve, times=3, error=NotYet("later"))
        )
        .then_ends("completed")
    )


def test_a_failure_after_the_work_has_done_the_work(given_shop: Begin) -> None:
    (
        given_shop()
        .when(Place(order_id="o1"), money.fails(Pay, times=2, after_its_work=True))
        .then_holds(lambda world: world.provided[Bank].calls == 3)
        .then_holds(charged_once)
        .then_ends("completed")
    )


def test_taking_its_time_takes_virtual_time(given_shop: Begin) -> None:
    def look(world: World) -> None:
        assert 120 < world.now < 200

    given_shop().when(Place(order_id="o1"), money.takes(Pay, seconds=120)).then_ends("completed").then_holds(look)


@pytest.mark.parametrize("who", ["orders", "stock", "money", "van"])
def test_who_is_down_is_waited_for(given_shop: Begin, who: str) -> None:
    def look(world: World) -> None:
        assert 40 < world.now < 150

    down = participant(who).is_down_for(seconds=40)
    given_shop().when(down).and_when(Place(order_id="o1")).then_ends("completed").then_holds(look)


@pytest.mark.parametrize(
    "crash",
    [
        stock.crashes(during=Reserve),
        stock.crashes(after=Reserve),
        money.crashes(during=Pay),
        money.crashes(after=Pay),
        orders.crashes(after=Place),
        orders.crashes(after=Close),
    ],
    ids=str,
)
def test_a_crash_kills_the_process_once_and_nothing_is_done_twice(given_shop: Begin, crash: Behaviour) -> None:
    told: list[str] = []

    def look(world: World) -> None:
        told.append(" ".join(one.what for one in world.happened.moments if one.kind == "note"))

    (
        given_shop()
        .when(Place(order_id="o1"), crash)
        .then_ends("completed")
        .then_shows(GetShelf(), free=FREE - 1)
        .then_holds(charged_once)
        .then_holds(look)
    )
    assert [one.count("was killed") for one in told] == [1, 1]


def test_during_is_before_the_commit_and_after_is_behind_it(given_shop: Begin) -> None:
    """With a bank that is asked with a new key each time, only one of them charges twice."""
    for crash, calls in ((money.crashes(during=Pay), 2), (money.crashes(after=Pay), 1)):

        def look(world: World, calls: int = calls) -> None:
            assert world.provided[Bank].calls == calls

        given_shop().when(Place(order_id="o1"), crash).then_holds(look)


def test_a_crash_of_the_orchestrator(given_shop: Begin) -> None:
    (
        given_shop(coordination="orchestration")
        .when(Place(order_id="o1"))
        .and_when(orchestrator.crashes(after=Pay), orchestrator.is_down_for(seconds=5))
        .then_done(Send)
        .then_ends("completed")
    )


def test_what_needs_an_operator_waits_for_one(given_shop: Begin) -> None:
    waits = given_shop().when(NOWHERE).and_when(stock.fails(Release, times=8))
    waits.then_ends("needs operator", "nowhere").then_never(Closed)
    waits.after(minutes=3).when(operator_retries()).then_undone(Pay, Reserve).then_ends("compensated")


def test_a_service_that_others_write_is_played(given: Begin) -> None:
    whole = buying()
    saga = Saga("Buying", begins_with=Ordered, key="order_id", steps=[RESERVE, step(Stranger)])
    app = App("half", services=[whole.services["orders"], whole.services["stock"]], sagas=[saga])
    elsewhere = participant("elsewhere")
    (
        given(app)
        .when(Place(order_id="o1"), Place(order_id="o2"))
        .and_when(elsewhere.answers(Stranger, lambda command: Thanked(order_id=command.order_id)))
        .and_when(elsewhere.fails(Stranger, times=2), elsewhere.takes(Stranger, seconds=3))
        .then_done(Reserve, Stranger)
        .then(Thanked, order_id="o2")
        .then_ends("completed", sagas=2)
    )


def test_an_app_without_sagas_is_played_once(given: Begin) -> None:
    service = Service("orders")
    seen: list[str] = []

    @service.handles(Place)
    def place(command: Place) -> Ordered:
        return Ordered(order_id=command.order_id)

    @service.on(Ordered)
    def thank(event: Ordered) -> Thanked:
        return Thanked(order_id=event.order_id)

    def look(world: World) -> None:
        seen.append(repr(world))

    app = App("one", services=[service])
    given(app).when(Place(order_id="o1")).then(Thanked).then_done(Place).then_holds(look)
    assert len(seen) == 1
    service.reactions[0] = replace(service.reactions[0], function=lambda event: None)
    said = red(lambda: given(app).when(Place(order_id="o1")).then(Thanked))
    assert said.startswith(
        "then(Thanked): that is not so, played (seed N).\n  orders does when it hears Ordered: it was told"
    )


def test_sentences_may_begin_alike(given_shop: Begin) -> None:
    begun = given_shop().having(Place(order_id="o1"))
    begun.when(NOWHERE).then_ends("compensated")
    begun.when(Place(order_id="o2")).then_ends("completed")


def test_the_same_seed_is_the_same_story(given: Begin) -> None:
    def told(seed: int) -> str:
        begun = given(buying(), seed=seed, coordination="choreography").provided(Bank, Bank)
        return red(lambda: begun.when(Place(order_id="o1"), Place(order_id="o2")).then_ends("compensated"))

    assert told(3) == told(3)
    assert told(3) != told(4)


def test_a_check_that_stumbles_is_not_so(given_shop: Begin) -> None:
    sentence = given_shop().when(Place(order_id="o1"))

    def stumbles(world: World) -> None:
        (_, _) = world.provided[Bank].charges

    assert "  ValueError not enough values to unpack" in red(lambda: sentence.then_holds(stumbles))


# What is not so, and what is said of it


def test_an_undo_that_does_nothing(given_shop: Begin) -> None:
    sentence = given_shop("releases nothing").when(NOWHERE).then_undone(Pay, Reserve)
    said = red(lambda: sentence.then_shows(GetShelf(), free=FREE))
    assert "played by choreography (seed N). By" not in said
    assert f"it shows Shelf(free={FREE - 1})" in said


def test_an_undo_that_is_missing(given_shop: Begin) -> None:
    bugged = given_shop(steps=[step(RESERVE.action, undo=Nothing("somebody forgot")), PAY, SEND])
    said = red(lambda: bugged.when(NOWHERE).then(Sent).then_ends("compensated"))
    assert "van refused Send with NoAddress(order_id='nowhere')" in said
    said = red(lambda: bugged.when(NOWHERE).then_done(Release))
    assert "stock was never asked for Release: no saga does, and nobody sent it" in said


def test_undos_in_the_wrong_order(given_shop: Begin) -> None:
    sentence = given_shop(steps=[PAY, RESERVE, SEND]).when(NOWHERE).then_undone(Pay).then_undone(Reserve)
    said = red(lambda: sentence.then_undone(Pay, Reserve))
    assert said.startswith("then_undone(Pay, Reserve): that is not so, played by choreography (seed N).")
    assert "the order was Release, Repay" in said


def test_steps_in_the_wrong_order(given_shop: Begin) -> None:
    sentence = given_shop(steps=[PAY, RESERVE, SEND]).when(Place(order_id="o1"))
    assert "the order was Pay, Reserve" in red(lambda: sentence.then_done(Reserve, Pay))


def test_a_refusal_that_is_forgotten(given_shop: Begin) -> None:
    sentence = given_shop("ships to anybody").when(NOWHERE)
    said = red(lambda: sentence.then_undone(Reserve))
    assert "stock was never asked for Release: nobody refused anything (Buying nowhere is completed)" in said
    said = red(lambda: sentence.then(NoAddress))
    assert "van did Send and answered Sent(order_id='nowhere')" in said
    said = red(lambda: sentence.then_ends("compensated"))
    assert "Buying nowhere is completed\n" in said


def test_a_check_that_is_forgotten(given_shop: Begin) -> None:
    sentence = given_shop("ignores an empty shelf").when(Place(order_id="o1", pieces=FREE + 1))
    assert "it shows Shelf(free=-1)" in red(lambda: sentence.then_shows(GetShelf(), free=FREE))
    said = red(lambda: sentence.then_never(Pay))
    assert "money did Pay and answered Paid(order_id='o1', cents=100)" in said


def test_a_new_key_for_each_attempt_charges_twice(given_shop: Begin) -> None:
    for trouble in (money.crashes(during=Pay), money.fails(Pay, times=1, after_its_work=True)):
        sentence = given_shop("new key each time").when(Place(order_id="o1"), trouble)
        said = red(lambda sentence=sentence: sentence.then_ends("completed").then_holds(charged_once))  # type: ignore[misc]
        assert said.startswith("then_holds(The bank has charged once.): that is not so, played by choreography")
        assert "2 charges" in said


def test_too_few_attempts(given_shop: Begin) -> None:
    sentence = given_shop(attempts_max=1).when(Place(order_id="o1"), money.fails(Pay, times=1))
    said = red(lambda: sentence.then_ends("completed"))
    assert "Buying o1 is compensated: money refused Pay with StepRefused(service='money', command='Pay', " in said


def test_an_end_that_nobody_tells(given_shop: Begin) -> None:
    sentence = given_shop("says nothing at the end").when(Place(order_id="o1"))
    sentence.then_ends("completed")
    said = red(lambda: sentence.then(Closed))
    assert "orders was never asked for Close: no saga does, and nobody sent it" in said


def test_who_was_never_asked_and_why(given_shop: Begin) -> None:
    sentence = given_shop().when(Place(order_id="o1", pieces=FREE + 1))
    for said in (
        red(lambda: sentence.then_done(Pay)),
        red(lambda: sentence.then(Paid)),
        red(lambda: sentence.and_when(money.refuses(Pay, Declined(order_id="o1"))).then_ends("compensated")),
    ):
        assert (
            "money was never asked for Pay: stock refused Reserve with SoldOut(order_id='o1') "
            "(Buying o1 is compensated)" in said
        )


def test_a_behaviour_that_never_comes_to_pass_is_told(given_shop: Begin) -> None:
    for behaviour in (
        money.crashes(during=Pay),
        money.crashes(after=Pay),
        money.fails(Pay),
        money.takes(Pay, seconds=1),
        money.answers(Pay, Paid(order_id="o1")),
    ):
        sentence = given_shop().when(Place(order_id="o1", pieces=FREE + 1), behaviour)
        said = red(lambda sentence=sentence: sentence.then_ends("compensated"))  # type: ignore[misc]
        assert said.startswith(f"when {behaviour.in_words}: it never came to that, played by choreography")
    sentence = given_shop().when(Place(order_id="o1"), money.fails(Pay, times=1).where(order_id="o2"))
    assert "it never came to that" in red(lambda: sentence.then_ends("completed"))
    sentence = given_shop().when(Place(order_id="o1")).after(minutes=1).when(operator_retries())
    assert "nothing was parked then" in red(lambda: sentence.then_ends("completed"))


def test_an_event_with_other_fields_is_the_nearest(given_shop: Begin) -> None:
    sentence = given_shop().when(NOWHERE)
    said = red(lambda: sentence.then(Closed, how="sold"))
    assert "orders told Closed(order_id='nowhere', how='cancelled'): how='cancelled', not 'sold'" in said


def test_who_needs_an_operator_is_told(given_shop: Begin) -> None:
    sentence = given_shop().when(NOWHERE, stock.fails(Release))
    said = red(lambda: sentence.then_ends("compensated"))
    assert "Buying nowhere is needs operator" not in said
    assert "Buying nowhere needs an operator" in said
    assert "stock needs an operator for Release, after 8 attempts: ToldToFail: the test lets Release fail" in said
    assert "stock needs an operator for Release" in red(lambda: sentence.then(Closed))


def test_a_count_of_sagas(given_shop: Begin) -> None:
    sentence = given_shop().when(NOWHERE, Place(order_id="o1"))
    sentence.then_ends("completed", sagas=1).then_ends("compensated", sagas=1)
    said = red(lambda: sentence.then_ends("completed", sagas=2))
    assert "Buying o1 is completed\n" in said
    assert "Buying nowhere is compensated: van refused Send" in said
    assert "no saga o7 began" in red(lambda: sentence.then_ends("completed", "o7"))


def test_the_coordination_in_which_it_is_not_so_is_named(given_shop: Begin) -> None:
    def only_by(how: str) -> Callable[[World], bool]:
        def look(world: World) -> bool:
            return [one.value for one in world.settings.coordination.values()] == [how]

        return look

    sentence = given_shop().when(Place(order_id="o1"))
    said = red(lambda: sentence.then_holds(only_by("choreography")))
    assert "played by orchestration (seed N). By choreography it is so.\n  it returned False" in said
    assert "played by choreography (seed N). By orchestration it is so." in red(
        lambda: sentence.then_holds(only_by("orchestration"))
    )


def test_a_failure_shows_what_happened(given_shop: Begin) -> None:
    said = red(lambda: given_shop().when(NOWHERE).then_ends("completed"))
    for line in (
        "Buying nowhere: compensated",
        "  reserve                  stock did Reserve and answered Reserved(order_id='nowhere')",
        "  pay/undo                 money did Repay and answered Repaid(order_id='nowhere')",
        "orders did Place and answered Ordered(order_id='nowhere', pieces=1)",
        "  seconds  client       orders",
    ):
        assert line in said
    assert "Reserve" in said.partition("seconds  client")[2]
    assert said.index("0.0") < said.index("Closed", said.index("0.0")), "in the order of time"


def test_a_promise_that_is_broken_is_told(given: Begin) -> None:
    service = Service("orders")

    async def forgotten() -> None:
        raise ValueError("nobody looks")

    @service.handles(Place)
    async def place(command: Place) -> Ordered:
        task = asyncio.create_task(forgotten())
        await asyncio.sleep(1)
        del task
        return Ordered(order_id=command.order_id)

    said = red(lambda: given(App("one", services=[service])).when(Place(order_id="o1")).then(Ordered))
    assert "a promise is broken: no task fails unseen" in said
    assert "nobody looks" in said


def test_what_a_service_provides_itself_is_remarked_on(given: Begin) -> None:
    app = buying()

    @app.services["money"].provides
    async def bank(deployment: Deployment) -> AsyncIterator[Bank]:
        yield Bank()

    said = red(lambda: given(app).when(Place(order_id="o1")).then_ends("compensated"))
    assert "money made its Bank itself, with bank; if that opens connections, give it something else" in said
    said = red(lambda: given(app).provided(Bank, Bank).when(Place(order_id="o1")).then_ends("compensated"))
    assert "made its Bank itself" not in said


def test_a_maker_that_wants_the_world_gets_it(given: Begin) -> None:
    seen: list[object] = []

    class Watched(Bank):
        def __init__(self, world: World) -> None:
            super().__init__()
            seen.append(world.app.name)

    given(buying()).provided(Bank, Watched).when(Place(order_id="o1")).then_ends("completed")
    assert seen == ["buying", "buying"], "each coordination has its own"
