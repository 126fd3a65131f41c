"""The rules of the shop's saga, spelled out; and the fingerprint."""

import os
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from hypothesis import given
from pydantic import create_model

from minuet.core.compile import BEGUN, Kind, Rules, compile_saga, neighbours, success_of
from minuet.core.formula import FALSE, Literal, Outcome, in_words, literals
from minuet.core.messages import Command, Event, Query, StepRefused, View
from minuet.core.retry import RetryPolicy
from minuet.core.saga import Nothing, Part, Saga, Step, parallel, sequence, step
from tests.unit.core.sagas import Case, cases
from tests.unit.core.shop import (
    CreateShipment,
    InventoryReleased,
    InventoryReserved,
    OrderCreated,
    OrderShipped,
    OrderUpdated,
    OutOfStock,
    PaymentDeclined,
    PaymentProcessed,
    PaymentRefunded,
    RefundPayment,
    ReleaseInventory,
    ReserveInventory,
    UpdateOrder,
    cancel_order,
    charge,
    order_processing,
)


def when(rules: Rules, rule_id: str) -> str:
    rule = rules.rule(rule_id)
    assert rule is not None
    return in_words(rule.formula)


def shop(*steps: Part, **more: Any) -> Saga:
    return Saga(**{"name": "Shop", "begins_with": OrderCreated, "key": "order_id", "steps": steps, **more})


class Packed(Event, channel="shipping"):
    order_id: str


class Pack(Command, service="shipping", answers=(Packed, OutOfStock)):
    order_id: str


class Unpack(Command, service="shipping", answers=(Packed,)):
    order_id: str


BASE = step(Pack, name="a", undo=Unpack)
LAST = step(Pack, name="b", undo=Unpack)


# -- the rules -------------------------------------------------------------------------------------------------------


def test_the_shops_rules_are_in_reading_order_each_undo_after_its_step() -> None:
    assert [(rule.id, rule.kind, rule.service) for rule in order_processing().rules.every] == [
        ("reserve_inventory", Kind.DO, "inventory"),
        ("reserve_inventory/undo", Kind.UNDO, "inventory"),
        ("process_payment", Kind.DO, "payment"),
        ("process_payment/undo", Kind.UNDO, "payment"),
        ("create_shipment", Kind.DO, "shipping"),
        ("completed", Kind.END, "orders"),
        ("compensated", Kind.END, "orders"),
    ]


def test_a_step_begins_when_the_one_before_succeeded() -> None:
    rules = order_processing().rules
    assert when(rules, "reserve_inventory") == "begin:succeeded"
    assert when(rules, "process_payment") == "reserve_inventory:succeeded"
    assert when(rules, "create_shipment") == "process_payment:succeeded"
    assert when(rules, "completed") == "create_shipment:succeeded"


def test_a_step_is_undone_when_it_succeeded_and_what_came_after_is_clean() -> None:
    rules = order_processing().rules
    assert when(rules, "process_payment/undo") == "process_payment:succeeded and create_shipment:refused"
    assert (
        when(rules, "reserve_inventory/undo")
        == "reserve_inventory:succeeded and (process_payment:refused or process_payment:undone)"
    )


def test_a_saga_is_complete_by_its_last_step_and_clean_by_its_first() -> None:
    rules = order_processing().rules
    assert in_words(rules.complete) == "create_shipment:succeeded"
    assert in_words(rules.clean) == "reserve_inventory:refused or reserve_inventory:undone"


def test_what_a_command_is_filled_from_is_part_of_its_rule() -> None:
    rules = shop(step(ReserveInventory, undo=ReleaseInventory), step(ReserveInventory, name="more")).rules
    assert when(rules, "more") == "reserve_inventory:succeeded and begin:succeeded"


def test_a_step_that_needs_no_undo_is_clean_once_what_follows_it_is() -> None:
    rules = shop(BASE, step(Pack, name="b", undo=Nothing("air")), step(Pack, name="c")).rules
    assert when(rules, "a/undo") == "a:succeeded and (b:refused or (b:succeeded and c:refused))"


def test_branches_begin_together_and_each_is_undone_when_another_refuses() -> None:
    rules = shop(
        parallel(BASE, [LAST, step(Pack, name="c", undo=Unpack)]),
        step(Pack, name="d"),
    ).rules
    assert when(rules, "a") == when(rules, "b") == "begin:succeeded"
    assert when(rules, "a/undo") == "a:succeeded and (d:refused or b:refused or c:refused)"
    assert when(rules, "c/undo") == "c:succeeded and (d:refused or a:refused)"
    assert when(rules, "b/undo") == "b:succeeded and (c:refused or c:undone)"
    assert when(rules, "d") == "a:succeeded and c:succeeded"
    assert in_words(rules.clean) == "(a:refused or a:undone) and (b:refused or b:undone)"


def test_an_end_that_names_the_refusal_waits_for_all_that_it_chooses_from() -> None:
    rules = shop(
        step(Pack, name="a", undo=Unpack),
        parallel(step(Pack, name="b", undo=Unpack), step(Pack, name="c", undo=Unpack)),
        compensated=cancel_order,
    ).rules
    formula = when(rules, "compensated")
    assert "(b:refused or c:refused) and (b:refused or b:succeeded) and (c:refused or c:succeeded)" in formula
    assert formula.startswith("(a:refused or a:undone) and begin:succeeded and (a:refused or ")


def test_each_literal_is_made_known_by_its_commands_answers() -> None:
    def known(step_name: str, outcome: str) -> Literal:
        return Literal(step_name, Outcome(outcome))

    assert order_processing().rules.events == {
        BEGUN: (OrderCreated,),
        known("reserve_inventory", "succeeded"): (InventoryReserved,),
        known("reserve_inventory", "refused"): (OutOfStock, StepRefused),
        known("reserve_inventory", "undone"): (InventoryReleased,),
        known("process_payment", "succeeded"): (PaymentProcessed,),
        known("process_payment", "refused"): (PaymentDeclined, StepRefused),
        known("process_payment", "undone"): (PaymentRefunded,),
        known("create_shipment", "succeeded"): (OrderShipped,),
        known("create_shipment", "refused"): (StepRefused,),
        known("completed", "succeeded"): (OrderUpdated,),
        known("compensated", "succeeded"): (OrderUpdated,),
    }


def test_a_success_makes_known_that_its_rule_was_done() -> None:
    assert success_of("a") == Literal("a", Outcome.SUCCEEDED)
    assert success_of("a/undo") == Literal("a", Outcome.UNDONE)
    rule = order_processing().rules.rule("reserve_inventory/undo")
    assert rule is not None
    assert rule.answered == Literal("reserve_inventory", Outcome.UNDONE)


def test_there_is_no_rule_by_another_name() -> None:
    assert order_processing().rules.rule("create_shipment/undo") is None


def test_a_step_may_be_given_up_until_the_last_refusal_has_passed() -> None:
    rules = order_processing().rules
    assert {rule.id: rule.may_refuse for rule in rules.every if rule.kind is Kind.DO} == {
        "reserve_inventory": True,
        "process_payment": True,
        "create_shipment": False,
    }
    assert not any(rule.may_refuse for rule in rules.every if rule.kind is not Kind.DO)


def test_a_deadline_is_the_steps_and_not_its_undos_but_retries_are_both() -> None:
    retry = RetryPolicy(attempts_max=2)
    rules = shop(step(Pack, undo=Unpack, deadline=timedelta(seconds=5), retry=retry), completed=UpdateOrder).rules
    assert [(rule.deadline, rule.retry) for rule in rules.every] == [
        (timedelta(seconds=5), retry),
        (None, retry),
        (None, None),
    ]


@given(cases())
def test_a_rule_needs_what_its_formula_mentions(case: Case) -> None:
    for rule in case.saga.rules.every:
        assert rule.needs == literals(rule.formula)
        assert rule.formula is FALSE or rule.recipe.needs <= rule.needs


def test_neighbours_are_before_beside_and_after() -> None:
    a, b, c, d, e = (step(Pack, name=name) for name in "abcde")
    around = neighbours(sequence(a, parallel(sequence(b, c), d), e))
    assert (around["c"].before, around["c"].beside, around["c"].after) == ((a, b), (d,), (e,))
    assert (around["d"].before, around["d"].beside, around["d"].after) == ((a,), (b, c), (e,))
    assert (around["a"].before, around["a"].beside, around["a"].after) == ((), (), (b, c, d, e))


# -- the fingerprint -------------------------------------------------------------------------------------------------


class SecondView(View):
    order_id: str
    amount: float


class GetSecond(Query, service="orders", answer=SecondView):
    order_id: str


class PackElsewhere(Command, service="warehouse", answers=(Packed, OutOfStock)):
    order_id: str


class Other(Event, channel="orders"):
    order_id: str
    other_id: str
    items: list[str]


def renamed(function: Callable[..., Command], annotations: dict[str, object]) -> Callable[..., Command]:
    """A function of the same name that asks for something else."""

    def other(**given: Any) -> Command:
        return function(**given)

    def order(order: Any) -> Command:
        return other(order=order)

    order.__qualname__ = function.__qualname__
    order.__annotations__ = annotations
    return order


def test_the_same_definition_has_the_same_fingerprint() -> None:
    assert order_processing().fingerprint == order_processing().fingerprint
    assert compile_saga(order_processing()).fingerprint == order_processing().fingerprint
    assert len(order_processing().fingerprint) == 12


def test_a_fingerprint_is_the_same_in_every_process() -> None:
    code = "from tests.unit.core.shop import order_processing; print(order_processing().fingerprint)"
    root = str(Path(__file__).parents[3])
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join([root, *filter(None, sys.path)])},
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in ("0", "1", "4242")
    ]
    printed = {process.communicate(timeout=60)[0].strip() for process in processes}
    assert printed == {order_processing().fingerprint}


CHANGES: dict[str, Callable[[], Saga]] = {
    "nothing": lambda: shop(BASE, LAST),
    "name": lambda: shop(BASE, LAST, name="Store"),
    "beginning": lambda: shop(BASE, LAST, begins_with=Other),
    "key": lambda: shop(BASE, LAST, begins_with=Other, key="other_id"),
    "step name": lambda: shop(BASE, step(Pack, name="c", undo=Unpack)),
    "order": lambda: shop(LAST, BASE),
    "another step": lambda: shop(BASE, LAST, step(Pack)),
    "one step less": lambda: shop(BASE),
    "in parallel": lambda: shop(parallel(BASE, LAST)),
    "command": lambda: shop(BASE, step(CreateShipment, name="b", undo=Unpack)),
    "service": lambda: shop(BASE, step(PackElsewhere, name="b", undo=Unpack)),
    "no undo": lambda: shop(BASE, step(Pack, name="b")),
    "nothing to undo": lambda: shop(step(Pack, name="a", undo=Nothing("air")), LAST),
    "undo": lambda: shop(BASE, step(Pack, name="b", undo=CreateShipment)),
    "deadline": lambda: shop(BASE, step(Pack, name="b", undo=Unpack, deadline=timedelta(seconds=1))),
    "longer deadline": lambda: shop(BASE, step(Pack, name="b", undo=Unpack, deadline=timedelta(seconds=2))),
    "retry": lambda: shop(BASE, step(Pack, name="b", undo=Unpack, retry=RetryPolicy(attempts_max=3))),
    "more retries": lambda: shop(BASE, step(Pack, name="b", undo=Unpack, retry=RetryPolicy(attempts_max=4))),
    "completed": lambda: shop(BASE, LAST, completed=UpdateOrder),
    "compensated": lambda: shop(BASE, LAST, compensated=UpdateOrder),
    "function": lambda: shop(BASE, LAST, step(charge, undo=RefundPayment)),
    "query of the function": lambda: shop(
        BASE, LAST, step(renamed(charge, {**charge.__annotations__, "order": SecondView}), undo=RefundPayment)
    ),
    "event of the function": lambda: shop(
        BASE, LAST, step(renamed(charge, {**charge.__annotations__, "order": OrderCreated}), undo=RefundPayment)
    ),
}


def test_every_change_that_matters_changes_the_fingerprint() -> None:
    seen: dict[str, str] = {}
    for change, build in CHANGES.items():
        fingerprint = build().fingerprint
        assert fingerprint not in seen, f"{change} has the fingerprint of {seen.get(fingerprint)}"
        seen[fingerprint] = change


def test_the_reason_for_undoing_nothing_and_the_way_it_is_nested_do_not_matter() -> None:
    assert shop(step(Pack, undo=Nothing("a"))).fingerprint == shop(step(Pack, undo=Nothing("b"))).fingerprint
    assert shop(BASE, [LAST]).fingerprint == shop([[BASE], LAST]).fingerprint


def crossed(first: str, second: str) -> Saga:
    """Two sagas that differ only in which of two events fills which field."""

    def side(name: str, **fields: Any) -> type[Event]:
        return create_model(name, __base__=Event, __cls_kwargs__={"channel": "sides"}, **fields)

    one = side("One", order_id=(str, ...), **{first: (str, ...)})
    two = side("Two", **{second: (str, ...)})

    class DoOne(Command, service="sides", answers=(one,)):
        order_id: str

    class DoTwo(Command, service="sides", answers=(two,)):
        order_id: str

    class Use(Command, service="sides", answers=(Packed,)):
        left: str
        right: str

    return shop(DoOne, DoTwo, Use)


def test_where_a_field_comes_from_matters() -> None:
    assert crossed("left", "right").fingerprint == crossed("left", "right").fingerprint
    assert crossed("left", "right").fingerprint != crossed("right", "left").fingerprint


def test_a_large_saga_is_compiled_and_fingerprinted_at_once() -> None:
    """Written out, its formulas would have more than 2**40 words."""

    def kept(name: str) -> Step:
        return step(Pack, name=name, undo=Nothing("air"))

    stages = [parallel(kept(f"left{at}"), kept(f"right{at}")) for at in range(40)]
    assert len(shop(step(Pack, undo=Unpack), *stages, step(Pack, name="last")).fingerprint) == 12
