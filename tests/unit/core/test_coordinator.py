"""What is due, what an answer means, and where a saga is."""

from typing import Any

import pytest

from minuet.core.compile import BEGUN
from minuet.core.coordinator import Status, due, infer, is_last, literal_of, newly_due, status
from minuet.core.errors import MessageError
from minuet.core.formula import Literal, Outcome
from minuet.core.messages import Event, StepRefused
from minuet.core.saga import Part, Saga, step
from tests.unit.core.shop import (
    CreateShipment,
    InventoryReleased,
    InventoryReserved,
    OrderCreated,
    OrderUpdated,
    OutOfStock,
    PaymentDeclined,
    PaymentProcessed,
    ReleaseInventory,
    ReserveInventory,
    UpdateOrder,
    order_processing,
)

RULES = order_processing().rules


def known(*words: str) -> set[Literal]:
    return {Literal.parse(word) for word in words}


RESERVED, PAID, SHIPPED = "reserve_inventory:succeeded", "process_payment:succeeded", "create_shipment:succeeded"
DECLINED, RELEASED = "process_payment:refused", "reserve_inventory:undone"
BEGIN = "begin:succeeded"


# -- what is due -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "rules"),
    [
        ([], []),
        ([BEGIN], ["reserve_inventory"]),
        ([BEGIN, RESERVED], ["reserve_inventory", "process_payment"]),
        ([BEGIN, RESERVED, DECLINED], ["reserve_inventory", "reserve_inventory/undo", "process_payment"]),
        ([RESERVED], ["process_payment"]),
        ([DECLINED], []),
    ],
)
def test_what_is_due_follows_from_what_is_known(what: list[str], rules: list[str]) -> None:
    assert [rule.id for rule in due(RULES.every, known(*what))] == rules


def test_newly_due_is_only_what_the_literal_just_learnt_can_have_made_true() -> None:
    learnt = Literal.parse(RESERVED)
    assert [rule.id for rule in newly_due(RULES.every, known(BEGIN, RESERVED), learnt)] == ["process_payment"]


def test_an_undo_whose_refusal_overtook_its_step_is_due_once_both_are_known() -> None:
    refusal, success = Literal.parse(DECLINED), Literal.parse(RESERVED)
    assert newly_due(RULES.every, {refusal}, refusal) == []
    ids = [rule.id for rule in newly_due(RULES.every, {refusal, success}, success)]
    assert "reserve_inventory/undo" in ids


def test_what_nobody_waits_for_makes_nothing_due() -> None:
    end = Literal.parse("completed:succeeded")
    assert newly_due(RULES.every, known(BEGIN, RESERVED, "completed:succeeded"), end) == []


# -- what an answer means --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule_id", "event", "literal"),
    [
        ("begin", OrderCreated, BEGIN),
        ("reserve_inventory", InventoryReserved, RESERVED),
        ("reserve_inventory", OutOfStock, "reserve_inventory:refused"),
        ("reserve_inventory", StepRefused, "reserve_inventory:refused"),
        ("reserve_inventory/undo", InventoryReleased, RELEASED),
        ("completed", OrderUpdated, "completed:succeeded"),
    ],
)
def test_an_answer_makes_known_what_became_of_its_rule(rule_id: str, event: type[Event], literal: str) -> None:
    assert literal_of(rule_id, event) == Literal.parse(literal)


@pytest.mark.parametrize("rule_id", ["reserve_inventory/undo", "completed", "compensated"])
def test_a_refused_undo_or_end_is_not_taken_for_the_refusal_of_its_step(rule_id: str) -> None:
    with pytest.raises(MessageError, match=f"StepRefused refuses {rule_id}, which cannot be refused"):
        literal_of(rule_id, StepRefused)


def test_a_strangers_message_is_understood_where_only_one_step_can_have_caused_it() -> None:
    assert infer(RULES, OrderCreated) == BEGUN
    assert infer(RULES, PaymentProcessed) == Literal.parse(PAID)
    assert infer(RULES, PaymentDeclined) == Literal.parse(DECLINED)
    assert infer(RULES, InventoryReleased) == Literal("reserve_inventory", Outcome.UNDONE)


def test_a_strangers_message_that_several_steps_can_have_caused_is_an_error_with_its_remedy() -> None:
    with pytest.raises(
        MessageError,
        match="OrderUpdated names no step, and each of compensated, completed can have caused it",
    ):
        infer(RULES, OrderUpdated)


def test_a_message_that_no_step_can_have_caused_is_not_of_this_saga() -> None:
    class Weather(Event, channel="weather"):
        pass

    assert infer(RULES, Weather) is None


# -- where a saga is -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "where"),
    [
        ([], Status.RUNNING),
        ([BEGIN, RESERVED, PAID], Status.RUNNING),
        ([BEGIN, RESERVED, PAID, SHIPPED], Status.RUNNING),  # until its end is done
        ([BEGIN, RESERVED, PAID, SHIPPED, "completed:succeeded"], Status.COMPLETED),
        ([BEGIN, RESERVED, DECLINED], Status.COMPENSATING),
        ([BEGIN, RESERVED, DECLINED, RELEASED], Status.COMPENSATING),
        ([BEGIN, RESERVED, DECLINED, RELEASED, "compensated:succeeded"], Status.COMPENSATED),
        ([RELEASED], Status.COMPENSATING),
    ],
)
def test_a_saga_with_ends_is_over_when_its_end_is_done(what: list[str], where: Status) -> None:
    assert status(RULES, known(*what)) is where


@pytest.mark.parametrize(
    ("what", "where"),
    [
        ([BEGIN, RESERVED], Status.RUNNING),
        ([BEGIN, RESERVED, SHIPPED], Status.COMPLETED),
        ([BEGIN, "reserve_inventory:refused"], Status.COMPENSATED),
        ([BEGIN, RESERVED, "create_shipment:refused"], Status.COMPENSATING),
        ([BEGIN, RESERVED, "create_shipment:refused", RELEASED], Status.COMPENSATED),
    ],
)
def test_a_saga_without_ends_is_over_when_it_is_complete_or_clean(what: list[str], where: Status) -> None:
    steps: list[Part] = [step(ReserveInventory, undo=ReleaseInventory), CreateShipment]
    rules = Saga("Plain", begins_with=OrderCreated, key="order_id", steps=steps).rules
    assert status(rules, known(*what)) is where


@pytest.mark.parametrize(
    ("ends", "last"),
    [
        ({}, {"create_shipment", "completed", "compensated"}),
        ({"completed": UpdateOrder}, {"create_shipment", "completed", "compensated"}),
        ({"completed": UpdateOrder, "compensated": UpdateOrder}, {"completed", "compensated"}),
    ],
    ids=["no end", "one end", "both ends"],
)
def test_with_both_ends_declared_only_an_end_can_be_the_last_word(ends: dict[str, Any], last: set[str]) -> None:
    saga = Saga("Plain", begins_with=OrderCreated, key="order_id", steps=[CreateShipment], **ends)
    assert {rule_id for rule_id in ("create_shipment", "completed", "compensated") if is_last(saga, rule_id)} == last


def test_only_completed_and_compensated_are_final() -> None:
    assert [each for each in Status if each.is_final] == [Status.COMPLETED, Status.COMPENSATED]
