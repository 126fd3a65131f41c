"""The published language is the seed's, to the letter, and takes nothing that would break something later."""

import json
from decimal import Decimal
from typing import Any

import pytest
from pydantic import BaseModel, TypeAdapter, ValidationError

from minuet import Command
from minuet_shop.contracts import (
    ImportOrder,
    InventoryReserved,
    Money,
    OrderCreated,
    OrderPriced,
    OrderShipped,
    PaymentDeclined,
    PaymentProcessed,
    PaymentRefunded,
    PlaceOrder,
    ProcessPayment,
    SetStock,
    UpdateOrderStatus,
)

ORDER_ID, ITEMS = "ORD12345", ["ITEM001", "ITEM005"]


def body(message: BaseModel) -> Any:
    return json.loads(message.model_dump_json(by_alias=True))


def test_events_have_the_bodies_of_the_seed() -> None:
    created = OrderCreated(order_id=ORDER_ID, customer_id="CUST987", items=ITEMS)
    assert body(created) == {"orderId": ORDER_ID, "customerId": "CUST987", "items": ITEMS}
    reserved = InventoryReserved(order_id=ORDER_ID, reserved_items=ITEMS)
    assert body(reserved) == {"orderId": ORDER_ID, "status": "RESERVED", "reservedItems": ITEMS}
    processed = PaymentProcessed(order_id=ORDER_ID, amount=Decimal("150.75"))
    assert body(processed) == {"orderId": ORDER_ID, "paymentStatus": "SUCCESS", "amount": 150.75}
    shipped = OrderShipped(order_id=ORDER_ID, tracking_number="TRK998877")
    assert body(shipped) == {"orderId": ORDER_ID, "trackingNumber": "TRK998877"}


def test_the_seeds_payment_event_can_be_told_from_the_others_of_its_channel() -> None:
    seed = {"orderId": ORDER_ID, "paymentStatus": "SUCCESS", "amount": 150.75, "timestamp": "2023-10-27T10:02:00Z"}
    assert PaymentProcessed.model_validate(seed).amount == Decimal("150.75")
    for other in (PaymentRefunded, PaymentDeclined):
        with pytest.raises(ValidationError):
            other.model_validate(seed)


def test_money_is_a_number_with_two_places() -> None:
    money = TypeAdapter[Decimal](Money)
    for text in ("0", "0.01", "150.75", "9999999999.99"):
        assert money.dump_json(money.validate_json(text)) == str(float(text)).encode()
    for text in ("-0.01", "0.001", "NaN", "1e400", "true", "10000000000"):
        with pytest.raises(ValidationError):
            money.validate_json(text)
    assert money.json_schema()["type"] == money.json_schema(mode="serialization")["type"] == "number"


@pytest.mark.parametrize(
    "changed",
    [
        {"orderId": ""},
        {"orderId": "a/b"},
        {"orderId": ".."},
        {"orderId": "a\r\nb"},
        {"orderId": "x" * 65},
        {"customerId": ""},
        {"customerId": "a\0b"},
        {"items": []},
        {"items": [""]},
        {"items": ["a/b"]},
        {"items": ["ITEM001"] * 1001},
        {"items": "ITEM001"},
        {"discount": 5},
    ],
)
def test_an_order_that_makes_no_sense_is_not_taken(changed: dict[str, Any]) -> None:
    good = {"orderId": ORDER_ID, "customerId": "CUST987", "items": ITEMS}
    assert body(PlaceOrder.model_validate(good)) == good
    with pytest.raises(ValidationError):
        PlaceOrder.model_validate(good | changed)


def test_prices_come_in_the_order_of_the_items_or_by_name() -> None:
    listed = ImportOrder(order_id="A", customer_id="C", items=["x", "y", "x"], prices=["1.10", "2", "1.05"])  # type: ignore[list-item]
    named = ImportOrder(order_id="A", customer_id="C", items=["x", "y", "x"], prices={"x": "1.10", "y": 2})  # type: ignore[dict-item]
    assert (listed.amount, named.amount) == (Decimal("4.15"), Decimal("4.20"))
    for prices in (["1"], {"x": "1"}, ["1", "2", "-3"]):
        with pytest.raises(ValidationError):
            ImportOrder.model_validate({"orderId": "A", "customerId": "C", "items": ["x", "y", "z"], "prices": prices})


def test_the_amount_of_the_largest_order_is_still_money() -> None:
    prices = [Decimal("9999999.99")] * 1000
    order = ImportOrder(order_id="A", customer_id="C", items=["x"] * 1000, prices=prices)
    assert OrderPriced(order_id="A", customer_id="C", items=order.items, amount=order.amount, status="PENDING")


def test_stock_is_counted_in_whole_pieces() -> None:
    for pieces in (-1, 0.5, "many", 10**10):
        with pytest.raises(ValidationError):
            SetStock.model_validate({"item": "ITEM001", "onHand": pieces})


def test_what_is_done_once_for_each_order_says_so() -> None:
    done_once: list[type[Command]] = [PlaceOrder, ImportOrder, ProcessPayment]
    assert all(command.__contract__.key == ("order_id",) for command in done_once)
    assert UpdateOrderStatus.__contract__.key == ("order_id", "status")


def test_the_api_documents_the_seeds_order() -> None:
    properties = PlaceOrder.model_json_schema(by_alias=True)["properties"]
    assert properties["items"]["examples"] == [ITEMS]
    assert properties["customerId"]["examples"] == ["CUST987"]
