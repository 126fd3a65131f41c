"""The audit sees every way in which the books can disagree."""

from decimal import Decimal
from typing import Any

import pytest

from minuet_shop.audit import Balance, balance
from minuet_shop.contracts import OrderView, PaymentView, ReservationView, ShipmentView, StockView
from minuet_shop.outside import Charge, Parcel

AMOUNT = Decimal("150.75")


def books() -> dict[str, list[Any]]:
    """One shipped, one cancelled, one pending order, all in balance."""

    def order(order_id: str, status: Any) -> OrderView:
        return OrderView(order_id=order_id, customer_id="C", items=["x", "y", "x"], amount=AMOUNT, status=status)

    def charge(order_id: str, *, refunded: bool) -> Charge:
        return Charge(charge_id=order_id, order_id=order_id, customer_id="C", amount=AMOUNT, refunded=refunded)

    return {
        "orders": [order("S", "SHIPPED"), order("C", "CANCELLED"), order("P", "PENDING")],
        "stock": [
            StockView(item="x", on_hand=9, reserved=4, available=5),
            StockView(item="y", on_hand=9, reserved=2, available=7),
            StockView(item="z", on_hand=9, reserved=0, available=9),
        ],
        "reservations": [
            ReservationView(order_id="S", items=["x", "y", "x"], status="RESERVED"),
            ReservationView(order_id="C", items=["x", "y", "x"], status="RELEASED"),
            ReservationView(order_id="P", items=["x", "x", "y"], status="RESERVED"),
        ],
        "payments": [
            PaymentView(order_id="S", amount=AMOUNT, status="PAID"),
            PaymentView(order_id="C", amount=AMOUNT, status="REFUNDED"),
        ],
        "shipments": [ShipmentView(order_id="S", tracking_number="T1", status="SHIPPED")],
        "charges": [charge("S", refunded=False), charge("C", refunded=True), charge("P", refunded=False)],
        "parcels": [Parcel(tracking_number="T1", order_id="S", customer_id="C", cancelled=False)],
    }


def with_one(name: str, index: int, **changes: Any) -> Balance:
    changed = books()
    changed[name][index] = changed[name][index].model_copy(update=changes)
    return balance(**changed)


def test_books_in_balance() -> None:
    found = balance(**books())
    assert found.is_even, found.differences
    assert (found.shipped, found.cancelled, found.pending) == (1, 1, 1)
    assert (found.ordered, found.paid, found.charged) == (AMOUNT, AMOUNT, 2 * AMOUNT)
    assert (found.reserved, found.promised, found.shipments, found.parcels) == (6, 6, 1, 1)


def test_empty_books_are_in_balance() -> None:
    assert balance(**{name: [] for name in books()}).is_even


@pytest.mark.parametrize(
    ("name", "index", "changes", "difference"),
    [
        ("orders", 0, {"status": "CANCELLED"}, "cancelled order S paid 150.75 instead of 0"),
        ("orders", 1, {"status": "SHIPPED"}, "shipped order C has no shipment"),
        ("orders", 0, {"order_id": "R"}, "unknown order S paid 150.75 instead of 0"),
        ("stock", 0, {"reserved": 5}, "5 pieces of x are set aside, but orders hold 4"),
        ("reservations", 0, {"items": ["x"]}, "shipped order S holds x instead of x, y, x"),
        ("reservations", 1, {"status": "RESERVED"}, "cancelled order C holds x, y, x instead of nothing"),
        ("payments", 0, {"amount": Decimal(1)}, "shipped order S paid 1 instead of 150.75"),
        ("payments", 1, {"status": "PAID"}, "cancelled order C paid 150.75 instead of 0"),
        ("charges", 1, {"refunded": False}, "cancelled order C was charged 150.75 by the gateway instead of 0"),
        (
            *("charges", 1, {"order_id": "S", "refunded": False}),
            "shipped order S was charged 150.75, 150.75 by the gateway instead of 150.75",
        ),
        ("charges", 0, {"refunded": True}, "shipped order S was charged nothing by the gateway instead of 150.75"),
        ("shipments", 0, {"status": "CANCELLED"}, "shipped order S has no shipment"),
        ("parcels", 0, {"cancelled": True}, "shipped order S has nothing at the carrier instead of T1"),
        ("parcels", 0, {"tracking_number": "T2"}, "shipped order S has T2 at the carrier instead of T1"),
        ("parcels", 0, {"order_id": "GHOST"}, "unknown order GHOST has T1 at the carrier instead of nothing"),
    ],
)
def test_every_disagreement_is_said_in_words(name: str, index: int, changes: dict[str, Any], difference: str) -> None:
    found = with_one(name, index, **changes)
    assert not found.is_even
    assert difference in found.differences
