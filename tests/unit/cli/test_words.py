"""Rules in words."""

from datetime import timedelta

import pytest

import minuet_shop
from minuet import App, Command, Saga, parallel, step
from minuet.cli.words import part_of, table_of
from minuet_shop.process import order_processing
from tests.unit.cli import tiny
from tests.unit.cli.conftest import Minuet


def what_it_does(service: str) -> list[tuple[str, str]]:
    return [(one.command, one.when) for one in part_of(minuet_shop.app, order_processing, service).does]


def test_a_service_does_its_step_and_its_undo() -> None:
    assert what_it_does("inventory") == [
        ("ReserveInventory", "OrderCreated"),
        ("ReleaseInventory", "InventoryReserved, and either a refusal by payment or PaymentRefunded"),
    ]
    assert what_it_does("payment") == [
        ("ProcessPayment", "InventoryReserved"),
        ("RefundPayment", "PaymentProcessed and a refusal by shipping"),
    ]


def test_the_end_names_every_refusal_that_may_have_come() -> None:
    assert what_it_does("orders")[-1] == (
        "UpdateOrderStatus",
        "OrderCreated, and either a refusal by inventory or InventoryReleased, "
        "and a refusal by inventory, payment or shipping",
    )


def test_a_service_listens_to_what_its_rules_look_at_but_not_to_itself() -> None:
    listens = part_of(minuet_shop.app, order_processing, "payment").listens
    assert [(one.event, one.sender, one.channel) for one in listens] == [
        ("InventoryReserved", "inventory", "inventory.reserved"),
        ("AddressRefused", "shipping", "shipping"),
        ("StepRefused", "shipping", "shipping.refused"),
    ]


def test_a_query_is_named_with_its_service_and_route() -> None:
    (charge, _) = part_of(minuet_shop.app, order_processing, "payment").does
    assert charge.asks == ("orders for GetOrder (GET /orders/{order_id})",)
    assert charge.refusals == ("PaymentDeclined",)
    assert not charge.until_done


def test_a_refusal_tells_what_is_undone_in_that_order() -> None:
    (ship,) = part_of(minuet_shop.app, order_processing, "shipping").does
    assert ship.then_undone == ("RefundPayment", "ReleaseInventory")


def test_who_only_listens_is_told_apart() -> None:
    part = part_of(minuet_shop.app, order_processing, "notifications")
    assert part.does == ()
    assert {one.event for one in part.reacts_to} == {"OrderShipped", "OrderStatusUpdated"}


def test_the_orchestrators_table_has_every_step_and_both_ends() -> None:
    table = table_of(order_processing)
    assert [line.step for line in table][-2:] == ["completed", "compensated"]
    assert [(line.number, line.service, line.undo) for line in table[:3]] == [
        (1, "inventory", "ReleaseInventory"),
        (2, "payment", "RefundPayment"),
        (3, "shipping", ""),
    ]
    assert table[0].route == "POST /inventory/reserve"
    assert table[2].if_refused == "AddressRefused: then RefundPayment, ReleaseInventory"
    assert table[3].if_refused == "tried until it is done"


class Sing(Command, service="choir", answers=(tiny.Thanked,)):
    wish_id: str


def test_one_command_in_two_steps_is_told_apart() -> None:
    twice = parallel(step(Sing, name="once"), step(Sing, name="again"))
    saga = Saga("Twice", begins_with=tiny.Wished, key="wish_id", steps=[twice, step(tiny.Thank, name="last")])
    (thank,) = part_of(App("twice", services=[], sagas=[saga]), saga, "people").does
    assert thank.when == "Thanked of once and Thanked of again"


class Hurry(Command, service="fairy", answers=(tiny.Granted,)):
    wish_id: str


class Unhurry(Command, service="fairy", answers=(tiny.Thanked,)):
    wish_id: str


HURRIED = Saga(
    "Hurried",
    begins_with=tiny.Wished,
    key="wish_id",
    steps=[step(Hurry, undo=Unhurry, deadline=timedelta(hours=1))],
    deadline=timedelta(days=2),
)
hurried_app = App("hurried", services=[], sagas=[HURRIED])


def test_an_undo_that_never_comes_is_not_told() -> None:
    assert [(one.rule, one.deadline) for one in part_of(hurried_app, HURRIED, "fairy").does] == [("hurry", "1 hour")]


def test_deadlines_are_told(run: Minuet) -> None:
    text = " ".join(run("explain", "Hurried", "--app", f"{__name__}:hurried_app").stdout.split())
    assert "there is one for each wish_id. After 2 days whatever is not begun is refused" in text
    assert "Hurry, answered by Granted; refused if it cannot begin within 1 hour" in text


def test_explain_tells_all_of_it(run: Minuet) -> None:
    result = run("explain", "OrderProcessing")
    assert result.exit_code == 0
    for words in ("By choreography", "By orchestration", "once it knows InventoryReserved", "notifications"):
        assert words in result.stdout


def test_explain_one_service(run: Minuet) -> None:
    text = run("explain", "minuet_shop:app:OrderProcessing", "--service", "payment").stdout
    assert "ProcessPayment, answered by PaymentProcessed" in text
    assert "shipping\n" not in text.replace("by shipping", "")


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["Nothing"], "app shop has no saga 'Nothing'; it has OrderProcessing"),
        (
            ["OrderProcessing", "--service", "bakery"],
            "saga OrderProcessing knows no service 'bakery'; it knows inventory,",
        ),
    ],
)
def test_explain_what_is_not_there(run: Minuet, arguments: list[str], why: str) -> None:
    result = run("explain", *arguments)
    assert result.exit_code == 1
    assert why in result.stderr


def test_explain_in_json(as_json) -> None:  # type: ignore[no-untyped-def]
    facts = as_json("explain", "OrderProcessing", "--service", "payment")
    assert [part["service"] for part in facts["choreography"]] == ["payment"]
    assert "orchestration" not in facts
