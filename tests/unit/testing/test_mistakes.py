"""A mistake in the test itself is told at once, before anything is played, and says what to write."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from minuet import App, NotYet, Saga, Service, step
from minuet.testing import Given, WrongSentence, operator_retries, participant
from minuet.testing.scenario import stage
from tests.unit.testing.buying import (
    RESERVE,
    Bank,
    Closed,
    Declined,
    GetShelf,
    Ordered,
    Paid,
    Pay,
    Place,
    Release,
    Repay,
    Reserve,
    Send,
    Sent,
    Shelf,
    SoldOut,
    Stranger,
    Thanked,
    Unheard,
    buying,
)


def _anything(what: object) -> Any:
    return what


# Mypy would find some of these mistakes as well, and must not here.
stock, money, van, nobody = (_anything(participant(name)) for name in ("stock", "money", "van", "nobody"))
BEGIN = Place(order_id="o1")
Begin = Callable[..., Given]


@pytest.fixture
def shop(given: Begin) -> Any:
    return given(buying()).provided(Bank, Bank)


@pytest.mark.parametrize(
    ("write", "says"),
    [
        # Who behaves how
        (
            lambda: van.refuses(Pay, Declined(order_id="o1")),
            "van has no command Pay, money has; commands to van are Send",
        ),
        (lambda: nobody.fails(Pay), "app buying has no service 'nobody'; it has orders, stock, money, van"),
        (
            lambda: money.refuses(Pay, SoldOut(order_id="o1")),
            "that is not a declared refusal of the command; declared: Declined. Add SoldOut to answers=(...) of Pay, "
            "or let it fail: money.fails(Pay)",
        ),
        (lambda: money.refuses(Repay, Declined(order_id="o1")), "it cannot be refused"),
        (
            lambda: money.answers(Pay, Sent(order_id="o1")),
            "that is not a declared answer of the command; declared: Paid",
        ),
        (lambda: money.answers(Pay, Paid), "is not an event; give it with its fields"),
        (lambda: money.fails(Stranger), "nobody in app buying does Stranger; commands there are Close, Pay, Place, "),
        (lambda: money.fails(Paid), "Paid is not the class of a command"),
        (lambda: money.fails(Pay, times=0), "it fails at least once, or say nothing"),
        (lambda: money.fails(Pay, error=NotYet("later")), "NotYet for ever never ends; say how often with times="),
        (lambda: stock.takes(Reserve, seconds=3), "is a plain def, which runs within a transaction and takes no time"),
        (lambda: money.takes(Pay, seconds=0), "no time is what everything takes already"),
        (lambda: money.fails(Pay).where(order="o1"), "Pay has no field 'order'; it has order_id"),
        (
            lambda: participant("orchestrator").crashes(after=Pay),
            'nobody orchestrates in a choreography; write given(app, coordination="orchestration")',
        ),
        # What is sent
        (lambda: Unheard(order_id="o1"), "nobody in app buying listens to Unheard; listened to are Closed, Declined, "),
        (lambda: Stranger(order_id="o1"), "nobody in app buying does Stranger"),
        (lambda: Place, "give commands and events with their fields"),
        (GetShelf, "give commands and events with their fields"),
        (lambda: 7, "when(7): give commands and events with their fields"),
    ],
)
def test_when(shop: Any, write: Callable[[], Any], says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "Simulation", None)  # nothing is played
    for begin in (shop.when, lambda what: shop.when(BEGIN).and_when(what)):
        with pytest.raises(WrongSentence) as wrong:
            begin(write())
        assert says in str(wrong.value)


@pytest.mark.parametrize(
    ("write", "says"),
    [
        (lambda: money.refuses(Pay, Paid(order_id="o1")), "Paid is no refusal; write money.answers(Pay, ...)"),
        (money.crashes, "money crashes: say either during= or after= which command"),
        (lambda: money.crashes(during=Pay, after=Pay), "say either during= or after="),
        (money.is_down_for, "money is down: for how long? Say seconds=, minutes= or hours="),
        (lambda: money.is_down_for(seconds=1).where(order_id="o1"), "so where(...) does not apply"),
        (lambda: operator_retries().where(order_id="o1"), "so where(...) does not apply"),
    ],
)
def test_behaviours(write: Callable[[], object], says: str) -> None:
    with pytest.raises(WrongSentence) as wrong:
        write()
    assert says in str(wrong.value)


@pytest.mark.parametrize(
    ("ask", "says"),
    [
        (
            lambda when: when.then(Thanked),
            "then(Thanked): nobody in app buying tells Thanked; told are Closed, Declined,",
        ),
        (lambda when: when.then(Pay), "Pay is a command; write then_done(Pay)"),
        (lambda when: when.then(Shelf), "Shelf is not an event"),
        (lambda when: when.then(Paid, amount=3), "Paid has no field 'amount'; it has order_id, cents"),
        (lambda when: when.then_done(Stranger), "nobody in app buying does Stranger"),
        (lambda when: when.then_done(Paid), "Paid is not the class of a command"),
        (lambda when: when.then_done(), "then_done(): which commands?"),
        (lambda when: when.then_done(Pay, amount=3), "Pay has no field 'amount'"),
        (lambda when: when.then_undone(Release), "Release is the undo of Reserve; write then_undone(Reserve)"),
        (lambda when: when.then_undone(Send), "step send of saga Buying has no undo, so Send is never undone"),
        (lambda when: when.then_undone(Place), "Place is not a step of a saga, so nothing undoes it"),
        (lambda when: when.then_undone(), "then_undone(): which commands?"),
        (lambda when: when.then_never(Thanked), "nobody in app buying tells Thanked"),
        (lambda when: when.then_never(Stranger), "nobody in app buying does Stranger"),
        (lambda when: when.then_never(Paid, amount=3), "Paid has no field 'amount'"),
        (lambda when: when.then_never(BEGIN), "give the command's class, and fields: then_never(Place, ...)"),
        (
            lambda when: when.then_ends("cancelled"),
            "then_ends('cancelled'): a saga ends 'completed', 'compensated', 'needs operator'",
        ),
        (lambda when: when.then_rejected(Stranger), "nobody in app buying does Stranger"),
        (lambda when: when.then_shows(GetShelf), "GetShelf is not a query; give it with its fields"),
        (lambda when: when.then_shows(GetShelf(), held=1), "Shelf has no field 'held'; it has free"),
        (lambda when: when.after(minutes=1).then_ends("completed"), "after(...) comes before what happens then"),
        (lambda when: when.after(), "after: for how long?"),
        (lambda when: when.and_when(), "what happens?"),
    ],
)
def test_then(shop: Any, ask: Callable[[Any], object], says: str) -> None:
    when = shop.when(BEGIN)
    with pytest.raises(WrongSentence) as wrong:
        ask(when)
    assert says in str(wrong.value)


def test_given(given: Begin, shop: Any) -> None:
    for write, says in (
        (lambda: given(buying(), coordination="both"), "there are choreography and orchestration"),
        (lambda: shop.provided(Bank, Bank()), "every run needs one of its own; give the class"),
        (lambda: shop.provided("bank", Bank), "first the type that handlers ask for"),
        (lambda: shop.having(Place), "having(Place): give commands and events with their fields"),
        (lambda: shop.having(Unheard(order_id="o1")), "nobody in app buying listens to Unheard"),
        (
            lambda: shop.having(Reserve(order_id="o1", pieces=100)).when(BEGIN).then(Ordered),
            "it is refused with SoldOut(order_id='o1'), so it is not done",
        ),
        (
            lambda: shop.having(Place(order_id="o1", pieces=0)).when(BEGIN).then(Ordered),
            "it is not done: an order has at least one piece",
        ),
    ):
        with pytest.raises(WrongSentence) as wrong:
            write()
        assert says in str(wrong.value)
    shop.when(BEGIN).then(Closed)  # or it would not have been gone on with


def test_a_saga_that_nobody_here_can_go_on_with(given: Begin) -> None:
    whole = buying()
    saga = Saga("Buying", begins_with=Ordered, key="order_id", steps=[RESERVE, step(Stranger)])
    app = App("half", services=[whole.services["orders"], whole.services["stock"]], sagas=[saga])
    with pytest.raises(WrongSentence) as wrong:
        given(app).when(BEGIN).then(Ordered)
    assert (
        "saga Buying sends Stranger to elsewhere, which is not in app half; say what it does: "
        ".and_when(participant('elsewhere').answers(Stranger, ...))" in str(wrong.value)
    )
    with pytest.raises(WrongSentence, match="elsewhere is not in app half, so nobody can send it Stranger here"):
        given(app).when(Stranger(order_id="o1"))
    with pytest.raises(WrongSentence, match="so it does not run here at all"):
        given(app).when(participant("elsewhere").is_down_for(minutes=1))


def test_ends_without_sagas(given: Begin) -> None:
    service = Service("orders")

    @service.handles(Place)
    def place(command: Place) -> Ordered:
        return Ordered(order_id=command.order_id)

    with pytest.raises(WrongSentence, match="app one has no saga"):
        given(App("one", services=[service])).when(BEGIN).then_ends("completed")
