"""What the saga does, rule by rule, and what it writes into the commands."""

from decimal import Decimal

import pytest

from minuet import Refusal, StepRefused
from minuet_shop import app, order_processing
from minuet_shop.contracts import (
    AddressRefused,
    AlreadyReleased,
    CreateShipment,
    OrderCreated,
    OrderPriced,
    OrderShipped,
    OrderView,
    OutOfStock,
    PaymentDeclined,
    ProcessPayment,
    UpdateOrderStatus,
)
from minuet_shop.process import cancel_order, charge, order_view, ship, ship_order

ORDER = OrderCreated(order_id="ORD12345", customer_id="CUST987", items=["ITEM001", "ITEM005"])
VIEW = OrderView(**ORDER.model_dump(), amount=Decimal("150.75"), status="PENDING")


def test_each_command_has_one_rule_at_the_service_that_performs_it() -> None:
    rules = [(rule.id, rule.command.__name__, rule.service, rule.may_refuse) for rule in order_processing.rules.every]
    assert rules == [
        ("reserve_inventory", "ReserveInventory", "inventory", True),
        ("reserve_inventory/undo", "ReleaseInventory", "inventory", False),
        ("process_payment", "ProcessPayment", "payment", True),
        ("process_payment/undo", "RefundPayment", "payment", False),
        ("create_shipment", "CreateShipment", "shipping", True),
        ("completed", "UpdateOrderStatus", "orders", False),
        ("compensated", "UpdateOrderStatus", "orders", False),
    ]


def test_payment_asks_orders_for_what_the_thin_event_does_not_say() -> None:
    rule = order_processing.rules.rule("process_payment")
    assert rule is not None
    assert [literal.step for literal in rule.needs] == ["reserve_inventory"]
    assert [fields.message.__name__ for fields in rule.recipe.queries.values()] == ["GetOrder"]
    assert charge(VIEW) == ProcessPayment(order_id="ORD12345", amount=Decimal("150.75"), customer_id="CUST987")


def test_the_commands_say_what_the_order_says() -> None:
    assert ship(ORDER) == CreateShipment(order_id="ORD12345", customer_id="CUST987")
    shipped = OrderShipped(order_id="ORD12345", tracking_number="TRK998877")
    assert ship_order(shipped) == UpdateOrderStatus(order_id="ORD12345", status="SHIPPED")


@pytest.mark.parametrize(
    ("refusal", "reason"),
    [
        (OutOfStock(order_id="ORD12345", item="ITEM001"), "ITEM001 is out of stock"),
        (AlreadyReleased(order_id="ORD12345"), "AlreadyReleased"),
        (PaymentDeclined(order_id="ORD12345", reason="the card was declined"), "the card was declined"),
        (AddressRefused(order_id="ORD12345", reason="there is no such address"), "there is no such address"),
        (
            StepRefused(service="payment", command="ProcessPayment", reason="retries exhausted", detail="secret"),
            "payment could not do its part: retries exhausted",
        ),
    ],
)
def test_a_cancelled_order_says_why(refusal: Refusal, reason: str) -> None:
    assert cancel_order(ORDER, refusal) == UpdateOrderStatus(order_id="ORD12345", status="CANCELLED", reason=reason)


def test_the_copy_of_an_order_is_what_orders_would_answer() -> None:
    priced = OrderPriced(**VIEW.model_dump(exclude={"reason"}))
    assert order_view(priced) == VIEW
    assert order_view.key_of(priced) == "ORD12345"


def test_notifications_and_the_sandbox_take_no_part_in_it() -> None:
    assert set(app.services) - {rule.service for rule in order_processing.rules.every} == {"notifications", "sandbox"}
