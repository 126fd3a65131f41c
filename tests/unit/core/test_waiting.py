"""Delays, deadlines and what is waited for: the definitions, their rules, and who decides."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from minuet.core.compile import Kind, Rules
from minuet.core.coordinator import Ends, Status, ends, infer, literal_of, newly_due, status
from minuet.core.errors import DefinitionError
from minuet.core.formula import Literal, in_words
from minuet.core.messages import Command, Event, Refusal, StepAbandoned, StepAccepted, channel_of
from minuet.core.projection import heard, project
from minuet.core.saga import Nothing, Part, Saga, parallel, step, wait_for
from minuet.core.versions import record_of, verdicts
from tests.unit.core.shop import (
    CreateShipment,
    InventoryReserved,
    OrderCreated,
    OrderShipped,
    OutOfStock,
    PaymentDeclined,
    PaymentProcessed,
    RefundPayment,
    ReleaseInventory,
    ReserveInventory,
    UpdateOrder,
    cancel_order,
    charge,
)

MINUTE = timedelta(minutes=1)


class Approved(Event, channel="office"):
    order_id: str
    amount: float


class Disapproved(Event, channel="office"):
    order_id: str


class Pack(Command, service="packing", answers=(OrderShipped,)):
    order_id: str
    amount: float


def saga(*steps: Part, **more: Any) -> Saga:
    return Saga(**{"name": "Shop", "begins_with": OrderCreated, "key": "order_id", "steps": steps, **more})


RESERVE = step(ReserveInventory, undo=ReleaseInventory, name="reserve")
CHARGE = step(charge, undo=RefundPayment, name="charge", within=MINUTE)
APPROVAL = wait_for(Approved, refused_by=Disapproved, name="approval")
PACK = step(Pack, name="pack", undo=Nothing("it is unpacked by itself"))


def when(rules: Rules, rule_id: str) -> str:
    rule = rules.rule(rule_id)
    assert rule is not None, [one.id for one in rules.every]
    return in_words(rule.formula)


def decider(rules: Rules, rule_id: str) -> str:
    rule = rules.rule(rule_id)
    assert rule is not None
    assert rule.kind is Kind.WATCH
    return rule.service


def known(*words: str) -> set[Literal]:
    return {Literal.parse(word) for word in words}


# -- the rules ---------------------------------------------------------------------------------------------------------


def test_a_watched_step_goes_on_when_it_is_accepted_and_is_undone_also_when_it_was_abandoned() -> None:
    rules = saga(RESERVE, CHARGE, PACK).rules
    assert when(rules, "charge/within") == "reserve:succeeded"
    assert when(rules, "pack") == "charge:accepted and charge:succeeded"
    assert when(rules, "charge/undo") == "charge:succeeded and (pack:refused or charge:abandoned)"
    assert when(rules, "reserve/undo") == "reserve:succeeded and (charge:refused or charge:abandoned or charge:undone)"


def test_what_comes_after_a_wait_may_be_made_from_what_was_heard() -> None:
    rules = saga(RESERVE, APPROVAL, step(Pack, name="pack")).rules
    assert when(rules, "approval") == "reserve:succeeded"
    assert when(rules, "pack") == "approval:accepted and approval:succeeded"
    assert when(rules, "reserve/undo") == (
        "reserve:succeeded and (approval:abandoned or (approval:accepted and pack:refused))"
    )
    assert rules.events[Literal.parse("approval:succeeded")] == (Approved,)
    assert rules.events[Literal.parse("approval:refused")] == (Disapproved,)


@pytest.mark.parametrize(
    ("steps", "more", "rule_id", "who"),
    [
        ([RESERVE, CHARGE, PACK], {}, "charge/within", "packing"),
        ([CHARGE, APPROVAL, PACK], {}, "charge/within", "packing"),
        ([CHARGE, APPROVAL, RESERVE], {}, "charge/within", "inventory"),
        ([RESERVE, CHARGE], {"completed": UpdateOrder}, "charge/within", "orders"),
        ([RESERVE, CHARGE], {}, "charge/within", "inventory"),
        ([RESERVE, APPROVAL], {}, "approval", "inventory"),
        ([parallel(CHARGE, RESERVE), PACK], {}, "charge/within", "packing"),
        ([parallel([CHARGE, RESERVE], APPROVAL), PACK], {}, "charge/within", "inventory"),
    ],
)
def test_who_goes_on_decides(steps: list[Part], more: dict[str, Any], rule_id: str, who: str) -> None:
    if "completed" in more:

        def complete(created: OrderCreated) -> UpdateOrder:
            return UpdateOrder(order_id=created.order_id, status="done")

        more = {"completed": complete}
    assert decider(saga(*steps, **more).rules, rule_id) == who


def test_who_waits_hears_what_may_end_it_and_everybody_who_must_know_hears_what_was_decided() -> None:
    rules = saga(RESERVE, CHARGE, PACK).rules
    assert set(heard(rules, project(rules, "packing"))) >= {InventoryReserved, PaymentProcessed, PaymentDeclined}
    assert StepAbandoned in heard(rules, project(rules, "payment"))
    assert StepAccepted not in heard(rules, project(rules, "payment"))
    assert StepAbandoned in heard(rules, project(rules, "inventory"))


def test_the_decision_is_told_on_a_channel_of_who_decides() -> None:
    assert channel_of(StepAccepted(service="packing", step="charge")) == "packing.decided"
    assert channel_of(StepAbandoned(service="packing", step="charge", reason="time is up")) == "packing.decided"


def test_what_a_decision_makes_known() -> None:
    assert literal_of("charge/within", StepAccepted) == Literal.parse("charge:accepted")
    assert literal_of("charge/within", StepAbandoned) == Literal.parse("charge:abandoned")
    assert literal_of("approval", StepAccepted) == Literal.parse("approval:accepted")
    assert infer(saga(RESERVE, APPROVAL).rules, Approved) == Literal.parse("approval:succeeded")


# -- when waiting ends -------------------------------------------------------------------------------------------------


def test_what_ends_the_waiting() -> None:
    rules = saga(RESERVE, parallel(CHARGE, APPROVAL), PACK).rules
    charging, approval = rules.rule("charge/within"), rules.rule("approval")
    assert charging is not None
    assert approval is not None
    assert ends(charging, known("reserve:succeeded")) is None
    assert ends(charging, known("charge:succeeded")) is Ends.ACCEPTED
    assert ends(charging, known("charge:refused")) is Ends.ANSWERED
    assert ends(charging, known("approval:abandoned")) is None
    assert ends(approval, known("approval:succeeded", "approval:refused")) is Ends.ACCEPTED
    assert ends(approval, known("approval:refused")) is Ends.REFUSED
    assert ends(approval, known("charge:refused")) is Ends.HOPELESS
    assert ends(approval, known("charge:abandoned")) is Ends.HOPELESS
    assert ends(approval, known("charge:accepted")) is None


def test_what_is_heard_wakes_who_waits() -> None:
    rules = saga(RESERVE, CHARGE, PACK).rules
    all_known = known("begin:succeeded", "reserve:succeeded", "charge:succeeded")
    woken = newly_due(rules.every, all_known, Literal.parse("charge:succeeded"))
    assert [rule.id for rule in woken] == ["charge/within"]
    early = newly_due(rules.every, known("charge:succeeded"), Literal.parse("charge:succeeded"))
    assert not early, "it is not waited for yet"


def test_who_does_a_step_hears_once_more_of_it_when_it_is_abandoned() -> None:
    rules = saga(RESERVE, CHARGE, PACK).rules
    learnt = Literal.parse("charge:abandoned")
    woken = newly_due(project(rules, "payment"), known("reserve:succeeded", "begin:succeeded") | {learnt}, learnt)
    assert [rule.id for rule in woken] == ["charge"]


def test_where_a_saga_is() -> None:
    rules = saga(RESERVE, APPROVAL, PACK).rules
    assert status(rules, known("begin:succeeded", "approval:refused")) is Status.RUNNING
    assert status(rules, known("begin:succeeded", "approval:accepted")) is Status.RUNNING
    assert status(rules, known("begin:succeeded", "approval:abandoned")) is Status.COMPENSATING
    abandoned = known("begin:succeeded", "reserve:succeeded", "approval:abandoned", "reserve:undone")
    assert status(rules, abandoned) is Status.COMPENSATED


# -- what is wrong -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (
            lambda: step(charge, within=MINUTE),
            "step process_payment: after 0:01:00 it is abandoned, .* give it an undo",
        ),
        (lambda: step(ReserveInventory, within=timedelta(0)), "step reserve_inventory: nothing comes within 0:00:00"),
        (lambda: step(ReserveInventory, delay=-MINUTE), "step reserve_inventory: a delay of"),
        (lambda: wait_for(Approved, within=timedelta(0)), "wait approved: nothing comes within"),
        (lambda: wait_for(Approved, within=3), "wait approved: within=3 is no timedelta; write timedelta"),  # type: ignore[arg-type]
        (lambda: step(ReserveInventory, deadline=5.0), "step reserve_inventory: deadline=5.0 is no timedelta"),  # type: ignore[arg-type]
        (
            lambda: step(ReserveInventory, undo=ReleaseInventory, delay=MINUTE, within=MINUTE),
            "step reserve_inventory: it begins after 0:01:00, .* always abandoned; give within more time",
        ),
        (lambda: step(ReserveInventory, delay=timedelta.max), "delay is longer than a thousand years; leave it out"),
        (lambda: saga(RESERVE, deadline=timedelta.max), "saga Shop: deadline is longer than a thousand years"),
        (lambda: wait_for(Approved, refused_by=Approved), "Approved cannot mean both yes and no"),
        (lambda: wait_for(Pack), "wait_for: it waits for .*Pack.* not an Event class"),  # type: ignore[arg-type]
        (lambda: wait_for(Approved, name="completed"), "must be snake_case and none of"),
        (lambda: saga(APPROVAL), "saga Shop only waits, and does nothing; give it a step"),
        (lambda: saga(RESERVE, wait_for(PaymentProcessed), CHARGE), "one of the saga's own commands answers"),
        (lambda: saga(RESERVE, wait_for(OrderCreated)), "with which the saga begins"),
        (
            lambda: saga(RESERVE, APPROVAL, wait_for(Approved, name="again")),
            "approval and again both wait for Approved, .* give each an event of its own",
        ),
        (lambda: saga(RESERVE, wait_for(Approved), wait_for(Approved)), "give each an event of its own"),
        (
            lambda: saga(RESERVE, APPROVAL, wait_for(InventoryPicked, refused_by=Disapproved, name="picked")),
            "approval and picked both wait for Disapproved",
        ),
        (lambda: saga(RESERVE, APPROVAL, wait_for(InventoryPicked, name="approval")), "has 2 steps named approval"),
        (
            lambda: saga(step(Pack1, name="ship"), APPROVAL),
            "step approval may be refused .what it waits for may not come. when step ship is done, which has no undo",
        ),
        (
            lambda: saga(step(Pack1, name="pack"), step(Pack2, undo=Nothing("-"), name="more", within=MINUTE)),
            "step more may be refused .it may not be done within its time. when step pack is done",
        ),
        (lambda: saga(RESERVE, deadline=timedelta(0)), "saga Shop: a deadline lies in the future"),
        (lambda: saga(step(Pack1, name="pack"), deadline=MINUTE), "has a deadline, and nothing in it can be refused"),
    ],
)
def test_what_is_wrong_is_said_with_its_remedy(make: Any, says: str) -> None:
    with pytest.raises(DefinitionError, match=says):
        make()


class InventoryPicked(Event, channel="office"):
    order_id: str


class Pack1(Command, service="packing", answers=(OrderShipped,)):
    order_id: str


class Pack2(Command, service="packing", answers=(OrderShipped,)):
    order_id: str


# -- fingerprints and records ------------------------------------------------------------------------------------------


def versions() -> dict[str, Saga]:
    ship = step(CreateShipment, name="ship")
    return {
        "plain": saga(RESERVE, step(charge, undo=RefundPayment, name="charge"), ship),
        "delay": saga(RESERVE, step(charge, undo=RefundPayment, name="charge", delay=MINUTE), ship),
        "within": saga(RESERVE, CHARGE, ship),
        "within longer": saga(RESERVE, step(charge, undo=RefundPayment, name="charge", within=2 * MINUTE), ship),
        "deadline": saga(RESERVE, step(charge, undo=RefundPayment, name="charge"), ship, deadline=MINUTE),
        "wait": saga(RESERVE, step(charge, undo=RefundPayment, name="charge"), APPROVAL, ship),
        "wait without a no": saga(
            RESERVE, step(charge, undo=RefundPayment, name="charge"), wait_for(Approved, name="approval"), ship
        ),
        "wait for less": saga(
            RESERVE,
            step(charge, undo=RefundPayment, name="charge"),
            wait_for(Approved, refused_by=Disapproved, name="approval", within=MINUTE),
            ship,
        ),
    }


def test_every_time_is_part_of_the_fingerprint_and_one_without_keeps_the_one_it_had() -> None:
    made = versions()
    assert len({one.fingerprint for one in made.values()}) == len(made)
    assert versions()["wait"].fingerprint == made["wait"].fingerprint
    assert made["plain"].fingerprint == "b2283d0a45bb"


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        ("plain", "delay", "step charge: its delay was none, and is 60 s now"),
        ("within", "within longer", "the waiting for step charge: its time was 60 s, and is 120 s now"),
        ("plain", "deadline", "its deadline was none, and is 60 s now"),
        ("plain", "within", "the waiting for step charge is new"),
        ("plain", "wait", "step approval is new"),
        ("wait", "wait for less", "step approval: its time was none, and is 60 s now"),
        ("wait", "wait without a no", "step approval was refused by Disapproved, and now it is nothing"),
    ],
)
def test_recorded_definitions_are_compared_with_their_times(before: str, after: str, says: str) -> None:
    made = versions()
    record = record_of("app", [made[before]])
    (verdict,) = verdicts(record, [made[after]], [OrderCreated, OutOfStock, Refusal])
    assert not verdict.is_kept
    assert says in verdict.differences
    (kept,) = verdicts(record, [made[before]], [Approved, Disapproved, *_all_messages(made[before])])
    assert kept.can_continue, kept
    assert {"Approved", "Disapproved"} <= set(record["definitions"][0]["messages"]) or "wait" not in before


def _all_messages(one: Saga) -> list[Any]:
    return [
        one.begins_with,
        *(message for rule in one.rules.every for message in (rule.command, *rule.command.__contract__.answers)),
    ]


def test_a_compensated_saga_is_told_what_was_given_up() -> None:
    rules = saga(RESERVE, CHARGE, APPROVAL, PACK, compensated=cancel_order).rules
    compensated = rules.rule("compensated")
    assert compensated is not None
    if compensated.recipe.needs_any:
        assert Literal.parse("charge:abandoned") in compensated.recipe.needs_any[0]
        assert Literal.parse("approval:abandoned") in compensated.recipe.needs_any[0]
