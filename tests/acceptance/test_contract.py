"""The shop's HTTP contract, as a stranger uses it who has nothing but its description."""

import asyncio
from typing import Any

import aiohttp
import pytest

from minuet_shop.contracts import OrderCreated
from tests.acceptance.grounds import BY_TURNS
from tests.acceptance.processes import SEED_ITEMS, Answer, Shop, until

pytestmark = [pytest.mark.acceptance, pytest.mark.grounds(*BY_TURNS), pytest.mark.asyncio(loop_scope="module")]

PROBLEM = "application/problem+json"


def order(order_id: str | None = None, customer_id: str = "CUST987", items: list[str] = SEED_ITEMS) -> dict[str, Any]:
    return {"customerId": customer_id, "items": items} | ({"orderId": order_id} if order_id else {})


def refusal(answer: Answer, name: str) -> dict[str, Any]:
    """The fields of a refusal that is told as RFC 9457 has it."""
    assert answer.status == 409, answer.text
    assert answer.headers["content-type"] == PROBLEM
    content: dict[str, Any] = answer.json
    assert (content["status"], content["type"]) == (409, f"urn:minuet:refusal:{name}")
    assert content["title"]
    assert answer.headers["ce-type"] == name
    return content


# -- a whole order -----------------------------------------------------------------------------------------------------


async def test_the_order_of_the_description_is_shipped(whole: Shop) -> None:
    placed = await whole.ask("POST", "/orders", order("ORD12345"))

    assert placed.status == 202, placed.text
    assert placed.headers["location"] == "/orders/ORD12345"
    body = placed.json
    assert {name: body[name] for name in ("eventType", "orderId", "customerId", "items")} == {
        "eventType": "OrderCreated", "orderId": "ORD12345", "customerId": "CUST987", "items": SEED_ITEMS
    }  # fmt: skip
    assert body["timestamp"].endswith("Z")
    assert placed.headers["ce-specversion"] == "1.0"
    assert {"ce-id", "ce-type", "ce-source", "ce-time"} <= {name.lower() for name in placed.headers}

    (ended,) = (await whole.ended("ORD12345")).values()
    assert ended.status == "SHIPPED"
    raw = await whole.ask("GET", "/orders/ORD12345")
    assert '"amount":150.75' in raw.text
    assert raw.headers["content-type"] == "application/json"
    assert raw.json["items"] == SEED_ITEMS

    (payment,) = (await whole.get("/payment/payments?orderId=ORD12345"))["payments"]
    assert payment == {"orderId": "ORD12345", "amount": 150.75, "status": "PAID"}
    (shipment,) = (await whole.get("/shipping/shipments?orderId=ORD12345"))["shipments"]
    assert shipment["status"] == "SHIPPED"
    assert shipment["trackingNumber"].startswith("TRK")
    (held,) = (await whole.get("/inventory/reservations?orderId=ORD12345"))["reservations"]
    assert held == {"orderId": "ORD12345", "items": SEED_ITEMS, "status": "RESERVED"}
    note = await until(lambda: _note(whole, "ORD12345"), what="the customer is told")
    assert shipment["trackingNumber"] in note


async def test_an_order_without_an_id_gets_one_and_another_one_each_time(whole: Shop) -> None:
    first, second = [await whole.ask("POST", "/orders", order()) for _ in range(2)]
    ids = {first.json["orderId"], second.json["orderId"]}
    assert len(ids) == 2
    for answer in (first, second):
        assert answer.headers["location"] == f"/orders/{answer.json['orderId']}"
    assert {one.status for one in (await whole.ended(*ids)).values()} == {"SHIPPED"}


@pytest.mark.parametrize(
    ("name", "customer_id", "items", "reason"),
    [
        ("STOCK", "CUST1", ["ITEM001", "ITEM007"], "ITEM007 is out of stock"),
        ("DECLINED", "DECLINE-1", SEED_ITEMS, "the card was declined"),
        ("NOWHERE", "NOADDRESS-1", SEED_ITEMS, "there is no such address"),
    ],
)
async def test_a_refused_order_is_cancelled_and_undone(
    whole: Shop, name: str, customer_id: str, items: list[str], reason: str
) -> None:
    await whole.stock("ITEM007", 0)
    await whole.place(name, customer_id, items)

    (ended,) = (await whole.ended(name)).values()

    assert (ended.status, ended.reason) == ("CANCELLED", reason)
    reserved = (await whole.get(f"/inventory/reservations?orderId={name}"))["reservations"]
    assert all(one["status"] == "RELEASED" for one in reserved)
    paid = (await whole.get(f"/payment/payments?orderId={name}"))["payments"]
    assert [one["status"] for one in paid] == (["REFUNDED"] if name == "NOWHERE" else [])
    assert (await whole.get(f"/shipping/shipments?orderId={name}"))["shipments"] == []
    assert reason in await until(lambda: _note(whole, name), what="the customer is told")


async def test_an_imported_order_brings_its_own_prices(whole: Shop) -> None:
    body = order("IMPORTED", items=["ITEM001", "ITEM002"]) | {"prices": {"ITEM001": 0.1, "ITEM002": 0.2}}
    placed = await whole.ask("POST", "/orders/import", body)
    assert (placed.status, placed.headers["location"]) == (202, "/orders/IMPORTED")
    (ended,) = (await whole.ended("IMPORTED")).values()
    assert ended.status == "SHIPPED"
    assert '"amount":0.3,' in (await whole.ask("GET", "/orders/IMPORTED")).text
    other = await whole.ask("POST", "/orders/import", body | {"prices": {"ITEM001": 0.1, "ITEM002": 0.3}})
    assert other.status in (409, 422)


async def test_an_unknown_item_is_refused(whole: Shop) -> None:
    answer = await whole.ask("POST", "/orders", order("UNKNOWN", items=["ITEM001", "ITEM999"]))
    assert refusal(answer, "UnknownItem")["item"] == "ITEM999"
    assert (await whole.ask("GET", "/orders/UNKNOWN")).status == 404


# -- the same again ----------------------------------------------------------------------------------------------------


async def test_the_same_order_id_is_the_same_order(whole: Shop) -> None:
    first = await whole.ask("POST", "/orders", order("SAME"))
    second = await whole.ask("POST", "/orders", order("SAME"))
    assert (first.status, second.status) == (202, 202)
    assert first.text == second.text
    other = await whole.ask("POST", "/orders", order("SAME", items=["ITEM002"]))
    assert other.status in (409, 422)
    assert other.headers["content-type"] == PROBLEM
    await whole.ended("SAME")
    assert (await whole.ask("POST", "/orders", order("SAME"))).text == first.text
    assert (await whole.ask("POST", "/orders", order("SAME", items=["ITEM002"]))).status in (409, 422)
    assert (await whole.get("/orders/SAME"))["items"] == SEED_ITEMS


async def test_twenty_at_once_with_one_order_id_are_one_order(whole: Shop) -> None:
    answers = await asyncio.gather(
        *(
            whole.ask("POST", "/orders", order("TWENTY", items=["ITEM002"] if n % 4 == 3 else SEED_ITEMS))
            for n in range(20)
        )
    )
    accepted = [answer for answer in answers if answer.status == 202]
    assert len(accepted) in (5, 15)
    assert len({answer.text for answer in accepted}) == 1
    assert {answer.status for answer in answers} - {202} <= {409, 422}
    (ended,) = (await whole.ended("TWENTY")).values()
    assert ended.items == accepted[0].json["items"]
    charges = [charge for charge in (await whole.ledgers())[0].charges if charge.order_id == "TWENTY"]
    assert [charge.amount for charge in charges] == [ended.amount]


async def test_a_repeated_key_has_the_first_answer(whole: Shop) -> None:
    first = await whole.ask("POST", "/orders", order(), idempotency_key='"key-1"')
    again = await whole.ask("POST", "/orders", order(), idempotency_key="key-1")
    assert first.status == again.status == 202
    assert first.json["orderId"] == again.json["orderId"]
    assert first.headers["location"] == again.headers["location"]

    other = await whole.ask("POST", "/orders", order(items=["ITEM002"]), idempotency_key="key-1")
    assert (other.status, other.headers["content-type"]) == (422, PROBLEM)
    # Another command has keys of its own.
    elsewhere = await whole.ask("POST", "/shipping/create", {"orderId": "KEY-1"}, idempotency_key="key-1")
    assert elsewhere.status == 200


async def test_twenty_at_once_with_one_key_are_one_order(whole: Shop) -> None:
    answers = await asyncio.gather(
        *(whole.ask("POST", "/orders", order(), idempotency_key="twenty") for _ in range(20))
    )
    assert {answer.status for answer in answers} == {202}
    assert len({answer.json["orderId"] for answer in answers}) == 1


async def test_a_refusal_with_a_key_is_the_answer_later_too(whole: Shop) -> None:
    await whole.stock("ITEM006", 0)
    body = {"orderId": "LATER", "items": ["ITEM006"]}
    first = await whole.ask("POST", "/inventory/reserve", body, idempotency_key="later")
    await whole.stock("ITEM006", 100)
    again = await whole.ask("POST", "/inventory/reserve", body, idempotency_key="later")
    assert first.text == again.text
    refusal(again, "OutOfStock")


# -- each participant, called by somebody who coordinates it himself ---------------------------------------------------


async def test_inventory_reserves_and_releases(whole: Shop) -> None:
    await whole.stock("ITEM003", 50)
    before = await whole.get("/inventory/stock/ITEM003")
    body = {"orderId": "BY-HAND-1", "items": ["ITEM003", "ITEM003"]}

    reserved = await whole.ask("POST", "/inventory/reserve", body)
    assert reserved.status == 200, reserved.text
    assert reserved.json["eventType"] == "InventoryReserved"
    assert (reserved.json["orderId"], reserved.json["status"]) == ("BY-HAND-1", "RESERVED")
    assert reserved.json["reservedItems"] == ["ITEM003", "ITEM003"]
    assert (await whole.ask("POST", "/inventory/reserve", body)).text == reserved.text
    after = await whole.get("/inventory/stock/ITEM003")
    assert after["available"] == before["available"] - 2
    assert after == {
        "item": "ITEM003",
        "onHand": 50,
        "reserved": before["reserved"] + 2,
        "available": after["available"],
    }
    held = await whole.ask("PUT", "/inventory/stock/ITEM003", {"onHand": 1})
    assert refusal(held, "StockHeld")["reserved"] == after["reserved"]

    released = await whole.ask("POST", "/inventory/release", {"orderId": "BY-HAND-1"})
    assert (released.status, released.json["eventType"]) == (200, "InventoryReleased")
    assert (await whole.ask("POST", "/inventory/release", {"orderId": "BY-HAND-1"})).text == released.text
    assert await whole.get("/inventory/stock/ITEM003") == before


async def test_inventory_refuses_what_is_not_there_and_what_was_released_first(whole: Shop) -> None:
    await whole.stock("ITEM004", 0)
    answer = await whole.ask("POST", "/inventory/reserve", {"orderId": "BY-HAND-2", "items": ["ITEM001", "ITEM004"]})
    content = refusal(answer, "OutOfStock")
    assert (content["orderId"], content["item"]) == ("BY-HAND-2", "ITEM004")
    nothing = await whole.ask("POST", "/inventory/reserve", {"orderId": "BY-HAND-3", "items": ["NO-SUCH-ITEM"]})
    assert refusal(nothing, "OutOfStock")["item"] == "NO-SUCH-ITEM"

    assert (await whole.ask("POST", "/inventory/release", {"orderId": "BY-HAND-4"})).status == 200
    late = await whole.ask("POST", "/inventory/reserve", {"orderId": "BY-HAND-4", "items": ["ITEM001"]})
    refusal(late, "AlreadyReleased")
    await whole.stock("ITEM004", 1000)


async def test_payment_processes_declines_and_refunds(whole: Shop) -> None:
    body = {"orderId": "BY-HAND-5", "amount": 150.75}
    paid = await whole.ask("POST", "/payment/process", body)
    assert paid.status == 200, paid.text
    assert (paid.json["eventType"], paid.json["paymentStatus"]) == ("PaymentProcessed", "SUCCESS")
    assert '"amount":150.75' in paid.text
    assert (await whole.ask("POST", "/payment/process", body)).text == paid.text
    assert (await whole.ask("POST", "/payment/process", body | {"amount": 150.76})).status == 422

    refunded = await whole.ask("POST", "/payment/refund", {"orderId": "BY-HAND-5"})
    assert (refunded.status, refunded.json["amount"]) == (200, 150.75)
    (row,) = (await whole.get("/payment/payments?orderId=BY-HAND-5"))["payments"]
    assert row["status"] == "REFUNDED"

    declined = await whole.ask("POST", "/payment/process", {**body, "orderId": "BY-HAND-6", "customerId": "DECLINE1"})
    assert refusal(declined, "PaymentDeclined")["reason"] == "the card was declined"
    assert (await whole.get("/payment/payments?orderId=BY-HAND-6"))["payments"] == []

    # A refund that overtakes its payment.
    assert (await whole.ask("POST", "/payment/refund", {"orderId": "BY-HAND-7"})).json["amount"] == 0
    late = await whole.ask("POST", "/payment/process", {**body, "orderId": "BY-HAND-7"})
    refusal(late, "PaymentDeclined")


async def test_shipping_creates_refuses_and_cancels(whole: Shop) -> None:
    created = await whole.ask("POST", "/shipping/create", {"orderId": "BY-HAND-8"})
    assert created.status == 200, created.text
    assert created.json["eventType"] == "OrderShipped"
    assert created.json["trackingNumber"].startswith("TRK")
    assert (await whole.ask("POST", "/shipping/create", {"orderId": "BY-HAND-8"})).text == created.text

    cancelled = await whole.ask("POST", "/shipping/cancel", {"orderId": "BY-HAND-8"})
    assert (cancelled.status, cancelled.json["eventType"]) == (200, "ShipmentCancelled")
    (row,) = (await whole.get("/shipping/shipments?orderId=BY-HAND-8"))["shipments"]
    assert row["status"] == "CANCELLED"

    nowhere = {"orderId": "BY-HAND-9", "customerId": "NOADDRESS1"}
    assert refusal(await whole.ask("POST", "/shipping/create", nowhere), "AddressRefused")["reason"]


@pytest.mark.parametrize(("customer_id", "end"), [("CUST1", "SHIPPED"), ("DECLINE1", "CANCELLED")])
async def test_what_was_done_by_hand_before_counts_for_the_order_and_is_undone_with_it(
    whole: Shop, customer_id: str, end: str
) -> None:
    name = f"EARLY-{end}"
    by_hand = await whole.ask("POST", "/inventory/reserve", {"orderId": name, "items": SEED_ITEMS})
    assert by_hand.status == 200
    await whole.place(name, customer_id)
    (ended,) = (await whole.ended(name)).values()
    assert ended.status == end
    (held,) = (await whole.get(f"/inventory/reservations?orderId={name}"))["reservations"]
    assert held["status"] == ("RESERVED" if end == "SHIPPED" else "RELEASED")
    await whole.at_rest()


async def test_what_is_called_by_hand_drives_no_saga(whole: Shop) -> None:
    await whole.ask("POST", "/inventory/reserve", {"orderId": "BY-HAND-10", "items": ["ITEM001"]})
    await whole.place("AFTER-BY-HAND")
    await whole.ended("AFTER-BY-HAND")
    await whole.at_rest()
    assert (await whole.get("/payment/payments?orderId=BY-HAND-10"))["payments"] == []


async def test_a_status_is_put_once(whole: Shop) -> None:
    """Of an order whose saga waits: payment is asked later, in a deployment that is slow today."""
    await whole.behave("carrier", latencyMs=2000)
    try:
        await whole.place("PUT")
        put = await whole.ask("PUT", "/orders/PUT/status", {"status": "CANCELLED", "reason": "by hand"})
        assert put.status == 200, put.text
        assert (put.json["eventType"], put.json["status"]) == ("OrderStatusUpdated", "CANCELLED")
        again = await whole.ask("PUT", "/orders/PUT/status", {"status": "SHIPPED"})
        assert (again.status, again.json["status"]) == (200, "CANCELLED")
        assert (await whole.get("/orders/PUT"))["reason"] == "by hand"
        disagreeing = await whole.ask("PUT", "/orders/PUT/status", {"orderId": "OTHER", "status": "SHIPPED"})
        assert disagreeing.status == 422
    finally:
        await whole.behave("carrier")
    await whole.at_rest()
    assert (await whole.get("/orders/PUT"))["status"] == "CANCELLED"


# -- lists -------------------------------------------------------------------------------------------------------------


async def test_orders_are_listed_by_status_in_pages(whole: Shop) -> None:
    names = [f"LIST-{number}" for number in range(7)]
    await asyncio.gather(*(whole.place(name, "DECLINE9" if name > "LIST-4" else "CUST9") for name in names))
    await whole.ended(*names)

    seen: list[str] = []
    after = ""
    while True:
        page = await whole.get(f"/orders?limit=3{after}")
        assert len(page["orders"]) <= 3
        seen += [one["orderId"] for one in page["orders"]]
        if page["after"] is None:
            break
        after = f"&after={page['after']}"
    assert seen == sorted(set(seen))
    assert set(names) <= set(seen)
    cancelled = await whole.get("/orders?status=CANCELLED&limit=500&after=LIST-")
    assert [one["orderId"] for one in cancelled["orders"] if one["orderId"].startswith("LIST")] == names[5:]
    assert all(one["status"] == "CANCELLED" for one in cancelled["orders"])
    for wrong in ("limit=0", "limit=501", "limit=x", "status=LOST", "stauts=SHIPPED", "limit=1&limit=2"):
        assert (await whole.ask("GET", f"/orders?{wrong}")).status == 422, wrong


async def test_a_new_item_can_be_stocked(whole: Shop) -> None:
    put = await whole.ask("PUT", "/inventory/stock/NEW%20ITEM", {"onHand": 3})
    assert (put.status, put.json["eventType"], put.json["onHand"]) == (200, "StockSet", 3)
    shelf = await whole.get("/inventory/stock/NEW%20ITEM")
    assert shelf == {"item": "NEW ITEM", "onHand": 3, "reserved": 0, "available": 3}
    assert (await whole.ask("GET", "/inventory/stock/OLD")).status == 404
    again = await whole.ask("PUT", "/inventory/stock/NEW%20ITEM", {"onHand": 5})
    assert again.json["onHand"] == 5
    assert (await whole.get("/inventory/stock/NEW%20ITEM"))["onHand"] == 5


# -- the description ---------------------------------------------------------------------------------------------------


async def test_the_openapi_document_describes_every_address_with_the_seeds_example(whole: Shop) -> None:
    document = await whole.get("/openapi.json")
    addresses = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    assert addresses >= {
        ("POST", "/orders"), ("GET", "/orders"), ("GET", "/orders/{orderId}"), ("PUT", "/orders/{orderId}/status"),
        ("POST", "/inventory/reserve"), ("POST", "/inventory/release"), ("GET", "/inventory/stock/{item}"),
        ("PUT", "/inventory/stock/{item}"), ("POST", "/payment/process"), ("POST", "/payment/refund"),
        ("GET", "/payment/payments"), ("POST", "/shipping/create"), ("POST", "/shipping/cancel"),
        ("GET", "/shipping/shipments"),
    }  # fmt: skip
    place = document["paths"]["/orders"]["post"]
    text = str(document)
    assert {"202", "409", "422"} <= set(place["responses"])
    for example in ("ORD12345", "CUST987", "ITEM005", "TRK998877", "150.75"):
        assert example in text, example
    assert (await whole.ask("GET", "/docs")).status == 200
    assert (await whole.get("/health"))["status"] == "ok"


async def test_the_seeds_example_of_the_document_is_taken(whole: Shop) -> None:
    document = await whole.get("/openapi.json")
    content = document["paths"]["/orders"]["post"]["requestBody"]["content"]["application/json"]
    example = content.get("example") or next(iter(content["examples"].values()))["value"]
    assert OrderCreated.model_validate({"orderId": "X", **example}).items == SEED_ITEMS
    answer = await whole.ask("POST", "/orders", {**example, "orderId": "EXAMPLE"})
    assert answer.status == 202, answer.text


async def test_one_kept_connection_serves_many_requests(whole: Shop) -> None:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=1)) as kept:
        for number in range(20):
            async with kept.post(f"{whole.url('orders')}/orders", json=order(f"KEPT-{number}")) as response:
                assert response.status == 202
    await whole.ended(*(f"KEPT-{number}" for number in range(20)))


async def _note(shop: Shop, order_id: str) -> str:
    notes = (await shop.get(f"/notifications?orderId={order_id}"))["notes"]
    return notes[0]["text"] if notes else ""
