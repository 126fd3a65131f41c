"""The shop's business rules, told as sentences. Each is played by choreography and by orchestration."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from minuet import StepRefused
from minuet.testing import Given, World, operator_retries, participant
from minuet.testing.scenario import Behaviour
from minuet_shop.catalogue import PRICES
from minuet_shop.contracts import (
    CreateShipment,
    GetStock,
    ListNotes,
    ListPayments,
    NoteView,
    OrderCreated,
    OrderShipped,
    OrderStatusUpdated,
    OutOfStock,
    PaymentDeclined,
    PaymentView,
    PlaceOrder,
    ProcessPayment,
    RefundPayment,
    ReleaseInventory,
    ReserveInventory,
    SetStock,
    UnknownItem,
)
from minuet_shop.outside import Carrier, Gateway
from tests.simulation.outside import Bank, Courier
from tests.simulation.shop import shop

inventory, payment, shipping = participant("inventory"), participant("payment"), participant("shipping")
orchestrator = participant("orchestrator")


@pytest.fixture
def in_the_shop(given: Callable[..., Given]) -> Given:
    """A shop with five pieces of ITEM004, and a world outside that always answers."""
    return (
        given(shop)
        .provided(Gateway, lambda world: Bank(world, "bank", is_reliable=True))
        .provided(Carrier, lambda world: Courier(world, "courier", is_reliable=True))
        .having(SetStock(item="ITEM004", on_hand=5))
    )


def order(order_id: str = "o1", *, customer_id: str = "c1") -> PlaceOrder:
    return PlaceOrder(order_id=order_id, customer_id=customer_id, items=["ITEM004"])


# What really happened outside


def nothing_is_charged(world: World) -> None:
    """The payment company keeps no money."""
    assert not [one for one in world.provided[Gateway].done.values() if not one.is_taken_back]


def charged_once(world: World) -> None:
    """The payment company has charged exactly once."""
    (charge,) = world.provided[Gateway].done.values()
    assert not charge.is_taken_back
    assert charge.order_id == "o1"


def no_parcel(world: World) -> None:
    """No parcel is under way."""
    assert not world.provided[Carrier].of("o1")


# The rules


def test_an_order_is_reserved_paid_and_shipped(in_the_shop: Given) -> None:
    (
        in_the_shop.when(order())
        .then(OrderCreated, order_id="o1", customer_id="c1")
        .then_done(ReserveInventory, ProcessPayment, CreateShipment)
        .then(OrderShipped(order_id="o1", tracking_number="T-o1"))
        .then(OrderStatusUpdated, order_id="o1", status="SHIPPED")
        .then_ends("completed")
        .then_never(ReleaseInventory)
        .then_never(RefundPayment)
        .then_shows(GetStock(item="ITEM004"), on_hand=5, reserved=1)
        .then_holds(charged_once)
        .then_shows(
            ListNotes(order_id="o1"), notes=[NoteView(order_id="o1", text="Your order o1 is on its way: T-o1.")]
        )
    )


def test_what_is_not_there_is_neither_paid_nor_shipped(in_the_shop: Given) -> None:
    (
        in_the_shop.having(SetStock(item="ITEM004", on_hand=0))
        .when(order())
        .then(OutOfStock(order_id="o1", item="ITEM004"))
        .then_never(ProcessPayment)
        .then_never(CreateShipment)
        .then(OrderStatusUpdated, status="CANCELLED", reason="ITEM004 is out of stock")
        .then_ends("compensated")
    )


def test_a_declined_card_gives_the_pieces_back(in_the_shop: Given) -> None:
    (
        in_the_shop.when(order(customer_id="DECLINE1"))
        .then(PaymentDeclined, reason="no money")
        .then_undone(ReserveInventory)
        .then_never(RefundPayment)
        .then_never(CreateShipment)
        .then_ends("compensated")
        .then_shows(GetStock(item="ITEM004"), reserved=0)
        .then_shows(
            ListNotes(order_id="o1"), notes=[NoteView(order_id="o1", text="Your order o1 was cancelled: no money.")]
        )
    )


def test_without_an_address_the_money_goes_back_first_and_then_the_pieces(in_the_shop: Given) -> None:
    (
        in_the_shop.when(order(customer_id="NOADDRESS1"))
        .then_done(ReserveInventory, ProcessPayment)
        .then_undone(ProcessPayment, ReserveInventory)
        .then_never(OrderShipped)
        .then(OrderStatusUpdated, status="CANCELLED", reason="no such address")
        .then_ends("compensated")
        .then_holds(nothing_is_charged)
        .then_shows(
            ListPayments(order_id="o1"),
            payments=[PaymentView(order_id="o1", amount=PRICES["ITEM004"], status="REFUNDED")],
        )
    )


def test_of_two_orders_at_once_one_gets_the_last_piece(in_the_shop: Given) -> None:
    (
        in_the_shop.having(SetStock(item="ITEM004", on_hand=1))
        .when(order("o1"), order("o2"))
        .then_ends("completed", sagas=1)
        .then_ends("compensated", sagas=1)
        .then(OutOfStock, item="ITEM004")
        .then_shows(GetStock(item="ITEM004"), on_hand=1, reserved=1)
    )


def test_an_unknown_item_begins_nothing(in_the_shop: Given) -> None:
    (
        in_the_shop.when(PlaceOrder(order_id="o1", customer_id="c1", items=["A UNICORN"]))
        .then(UnknownItem(item="A UNICORN"))
        .then_never(OrderCreated)
        .then_never(ReserveInventory)
    )


def test_an_order_that_is_placed_twice_is_one_order(in_the_shop: Given) -> None:
    (
        in_the_shop.when(order(), order())
        .after(seconds=30)
        .when(order())
        .then_ends("completed", sagas=1)
        .then_holds(charged_once)
    )


# When it goes slowly, or wrong


def test_a_slow_payment_company_only_takes_its_time(in_the_shop: Given) -> None:
    (
        in_the_shop.when(order())
        .and_when(payment.takes(ProcessPayment, seconds=90))
        .then_ends("completed")
        .then_holds(charged_once)
    )


def test_a_service_that_is_down_is_waited_for(in_the_shop: Given) -> None:
    (
        in_the_shop.when(inventory.is_down_for(minutes=2))
        .and_when(order())
        .then_done(ReserveInventory, ProcessPayment, CreateShipment)
        .then_ends("completed")
    )


def test_a_failure_is_tried_again(in_the_shop: Given) -> None:
    (
        in_the_shop.when(order())
        .and_when(payment.fails(ProcessPayment, times=3), inventory.fails(ReserveInventory, times=2))
        .then_ends("completed")
        .then_holds(charged_once)
    )


def test_an_answer_that_got_lost_does_not_charge_twice(in_the_shop: Given) -> None:
    (
        in_the_shop.when(order())
        .and_when(payment.fails(ProcessPayment, times=3, after_its_work=True))
        .then_ends("completed")
        .then_holds(charged_once)
    )


@pytest.mark.parametrize(
    "crash",
    [
        inventory.crashes(during=ReserveInventory),
        inventory.crashes(after=ReserveInventory),
        payment.crashes(during=ProcessPayment),
        payment.crashes(after=ProcessPayment),
        shipping.crashes(during=CreateShipment),
        shipping.crashes(after=CreateShipment),
    ],
    ids=str,
)
def test_a_crash_in_the_middle_changes_nothing(in_the_shop: Given, crash: Behaviour) -> None:
    (
        in_the_shop.when(order(), crash)
        .then_done(ReserveInventory, ProcessPayment, CreateShipment)
        .then_ends("completed")
        .then_holds(charged_once)
        .then_shows(GetStock(item="ITEM004"), reserved=1)
    )


def test_a_crash_of_the_orchestrator_changes_nothing(given: Callable[..., Given]) -> None:
    (
        given(shop, coordination="orchestration")
        .provided(Gateway, lambda world: Bank(world, "bank", is_reliable=True))
        .provided(Carrier, lambda world: Courier(world, "courier", is_reliable=True))
        .when(order())
        .and_when(orchestrator.crashes(after=ProcessPayment))
        .then_ends("completed")
        .then_holds(charged_once)
    )


def test_a_payment_that_never_succeeds_cancels_the_order_and_leaves_no_charge(in_the_shop: Given) -> None:
    (
        in_the_shop.when(order())
        .and_when(payment.fails(ProcessPayment, after_its_work=True))
        .then(StepRefused, service="payment", command="ProcessPayment", reason="retries exhausted")
        .then_undone(ReserveInventory)
        .then_ends("compensated")
        .then_holds(nothing_is_charged)
    )


def test_a_refund_that_fails_for_long_needs_an_operator(in_the_shop: Given) -> None:
    (
        in_the_shop.when(order(customer_id="NOADDRESS1"))
        .and_when(payment.fails(RefundPayment))
        .then_ends("needs operator")
        .then_never(ReleaseInventory)
        .then_never(OrderStatusUpdated)
        .then_holds(no_parcel)
    )


def test_the_operator_tries_again_and_the_order_is_cancelled(in_the_shop: Given) -> None:
    (
        in_the_shop.when(order(customer_id="NOADDRESS1"))
        .and_when(payment.fails(RefundPayment, times=12))
        .after(minutes=3)
        .when(operator_retries())
        .then_undone(ProcessPayment, ReserveInventory)
        .then_ends("compensated")
        .then_holds(nothing_is_charged)
    )


def test_one_order_of_two_is_refused(in_the_shop: Given) -> None:
    (
        in_the_shop.when(order("o1"), order("o2"))
        .and_when(
            payment.refuses(ProcessPayment, PaymentDeclined(order_id="o1", reason="a stolen card")).where(order_id="o1")
        )
        .then_ends("compensated", "o1")
        .then_ends("completed", "o2")
        .then_done(ProcessPayment, order_id="o2")
    )
