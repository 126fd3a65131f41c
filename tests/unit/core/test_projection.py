"""Who evaluates which rule, and what they must hear for it."""

from hypothesis import given, settings

from minuet.core.compile import BEGUN
from minuet.core.formula import Literal, Outcome
from minuet.core.messages import StepRefused
from minuet.core.projection import heard, needed, project, services
from tests.unit.core.sagas import Case, cases
from tests.unit.core.shop import (
    InventoryReserved,
    OrderCreated,
    OrderShipped,
    OutOfStock,
    PaymentDeclined,
    PaymentProcessed,
    PaymentRefunded,
    order_processing,
)

RULES = order_processing().rules


def ids(service: str) -> list[str]:
    return [rule.id for rule in project(RULES, service)]


def test_a_service_evaluates_the_rules_of_the_commands_it_performs() -> None:
    assert ids("inventory") == ["reserve_inventory", "reserve_inventory/undo"]
    assert ids("payment") == ["process_payment", "process_payment/undo"]
    assert ids("shipping") == ["create_shipment"]
    assert ids("orders") == ["completed", "compensated"]
    assert ids("stranger") == []


def test_a_service_hears_what_its_rules_mention_and_nothing_else() -> None:
    assert set(heard(RULES, project(RULES, "shipping"))) == {PaymentProcessed}
    assert set(heard(RULES, project(RULES, "payment"))) == {InventoryReserved, PaymentProcessed, StepRefused}
    assert set(heard(RULES, project(RULES, "inventory"))) == {
        OrderCreated,
        InventoryReserved,
        PaymentDeclined,
        PaymentRefunded,
        StepRefused,
    }
    # The end names the refusal, so it hears all of them.
    assert {OrderShipped, OutOfStock, PaymentDeclined} <= set(heard(RULES, project(RULES, "orders")))
    assert heard(RULES, ()) == ()


def test_what_is_needed_is_what_the_formulas_mention() -> None:
    assert needed(project(RULES, "inventory")) == {
        BEGUN,
        Literal("reserve_inventory", Outcome.SUCCEEDED),
        Literal("process_payment", Outcome.REFUSED),
        Literal("process_payment", Outcome.UNDONE),
    }


def test_services_come_in_the_order_of_the_steps() -> None:
    assert services(RULES) == ("inventory", "payment", "shipping", "orders")


@settings(max_examples=50)
@given(cases())
def test_each_rule_is_evaluated_by_exactly_one_service(case: Case) -> None:
    rules = case.saga.rules
    projected = [rule for service in services(rules) for rule in project(rules, service)]
    assert sorted(rule.id for rule in projected) == sorted(rule.id for rule in rules.every)


@settings(max_examples=50)
@given(cases())
def test_everything_a_service_needs_it_can_hear(case: Case) -> None:
    rules = case.saga.rules
    for service in services(rules):
        mine = project(rules, service)
        hears = set(heard(rules, mine))
        assert all(hears.issuperset(rules.events[literal]) for literal in needed(mine))
