"""POST, PUT and DELETE: what a command's address takes, and what it answers."""

import asyncio
import logging
from dataclasses import replace
from typing import Any

import pytest

from minuet.codec import BODY_BYTES_MAX, timestamp
from minuet.codec_http import headers_of
from minuet.core.errors import Conflict, MessageError, NotYet, Rejected
from minuet.core.messages import StepRefused
from tests.unit.doors.kit import (
    CODEC,
    NOW,
    SAGA,
    AlreadyShipped,
    InventoryReserved,
    OrderCreated,
    OrderDropped,
    OutOfStock,
    ReserveInventory,
    Shop,
    StatusSet,
    Weigh,
    Weighed,
    command_envelope,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

RESERVE = {"orderId": "o-1", "items": ["ITEM001"]}
RESERVED = InventoryReserved(order_id="o-1", reserved_items=["ITEM001"])
HOSTILE = 'o\r\nX-Evil: 1 "%ü€\x00'


async def test_a_success_is_200_with_the_events_body_and_attributes(shop: Shop) -> None:
    shop.inventory.answers = RESERVED
    answer = await shop.call("POST", "/inventory/reserve", RESERVE)
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    assert answer.body == CODEC.encode(RESERVED, time=NOW)
    assert answer.json["eventType"] == "InventoryReserved"
    told = {name: value for name, value in answer.headers.items() if name.startswith("ce-")}
    assert told == {
        "ce-specversion": "1.0",
        "ce-id": f"{shop.inventory.commands[0].id}/answer",
        "ce-type": "InventoryReserved",
        "ce-source": "inventory",
        "ce-time": timestamp(NOW),
        "ce-correlationid": shop.inventory.commands[0].id,
        "ce-causationid": shop.inventory.commands[0].id,
    }


async def test_the_desk_gets_the_command_as_it_came(shop: Shop) -> None:
    shop.inventory.answers = RESERVED
    traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    await shop.call("POST", "/inventory/reserve", b' {"orderId": "o-1", "items": []} ', traceparent=traceparent)
    command = shop.inventory.commands[0]
    assert (command.type, command.source, command.time, command.version) == ("ReserveInventory", "http", NOW, 1)
    assert (command.saga, command.traceparent) == (None, traceparent)
    assert CODEC.decode(command) == ReserveInventory(order_id="o-1", items=[])


async def test_an_accepted_command_is_202_with_its_location(shop: Shop) -> None:
    shop.orders.answers = OrderCreated(order_id="a/b ü", items=[])
    answer = await shop.call("POST", "/orders", {"customerId": "c-1", "items": []})
    assert (answer.status, answer.headers["location"]) == (202, "/orders/a%2Fb%20%C3%BC")
    shop.orders.answers = OrderCreated(order_id="", items=[])
    answer = await shop.call("POST", "/orders", {"customerId": "c-1", "items": []})
    assert answer.status == 202
    assert "location" not in answer.headers


async def test_a_refusal_is_a_409_problem(shop: Shop) -> None:
    shop.inventory.answers = OutOfStock(order_id="o-1", item="ITEM001")
    answer = await shop.call("POST", "/inventory/reserve", RESERVE)
    assert answer.is_problem(409, "refusal:OutOfStock")
    body = {"eventType": "OutOfStock", "orderId": "o-1", "item": "ITEM001", "timestamp": timestamp(NOW)}
    assert answer.json == {
        "type": "urn:minuet:refusal:OutOfStock",
        "title": "Out of stock",
        "status": 409,
        "detail": "ReserveInventory was refused by inventory: out of stock.",
        "instance": "/inventory/reserve",
        "orderId": "o-1",
        "item": "ITEM001",
        "refusal": body,
    }
    assert (answer.headers["ce-type"], answer.headers["ce-source"]) == ("OutOfStock", "inventory")


async def test_a_refusals_fields_do_not_overwrite_the_problems(shop: Shop) -> None:
    shop.orders.answers = AlreadyShipped(order_id="o-1")
    answer = await shop.call("DELETE", "/orders/o-1")
    assert answer.is_problem(409, "refusal:AlreadyShipped")
    assert answer.json["refusal"]["detail"] == "left on Monday"
    assert answer.json["refusal"]["status"] == "SHIPPED"
    shop.orders.answers = StepRefused(service="orders", command="DropOrder", reason="deadline passed")
    answer = await shop.call("DELETE", "/orders/o-1")
    assert answer.is_problem(409, "refusal:StepRefused")
    assert answer.json["detail"] == "DropOrder was refused by orders: deadline passed."


# -- idempotency keys, waiting, attributes -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "key"),
    [("k-1", "k-1"), ('"k-1"', "k-1"), ("o%C3%BC%25", "oü%"), ("x" * 255, "x" * 255), (" k ", "k")],
)
async def test_the_key_is_handed_in(shop: Shop, header: str, key: str) -> None:
    shop.inventory.answers = RESERVED
    assert (await shop.call("POST", "/inventory/reserve", RESERVE, idempotency_key=header)).status == 200
    assert shop.inventory.keys == [key]


@pytest.mark.parametrize("header", ["", '""', "x" * 256, "%ff"])
async def test_a_key_that_is_none_is_a_400(shop: Shop, header: str) -> None:
    answer = await shop.call("POST", "/inventory/reserve", RESERVE, idempotency_key=header)
    assert answer.is_problem(400, "problem:header")
    assert not shop.inventory.commands


async def test_two_keys_are_a_400(shop: Shop) -> None:
    found = await shop.raw(
        b"POST /inventory/reserve HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 2\r\n"
        b"Idempotency-Key: a\r\nIdempotency-Key: b\r\nConnection: close\r\n\r\n{}"
    )
    assert found.startswith(b"HTTP/1.1 400 ")
    assert b"idempotency-key is given twice" in found


@pytest.mark.parametrize(
    ("prefer", "wait_s"),
    [
        (None, 0),
        ("wait=7", 7),
        ("respond-async, wait=7", 7),
        ('wait="7"; x=1', 7),
        ("Wait = 7", 7),
        ("wait=0", 0),
        ("wait=86400", 30),
        ("wait=soon", 0),
        ("wait=-1", 0),
        ("await=7", 0),
        ("wait=99999999999999999999", 0),
    ],
)
async def test_whoever_prefers_to_wait_waits_but_not_for_ever(shop: Shop, prefer: str | None, wait_s: float) -> None:
    shop.inventory.answers = RESERVED
    headers = {} if prefer is None else {"prefer": prefer}
    assert (await shop.call("POST", "/inventory/reserve", RESERVE, **headers)).status == 200
    assert shop.inventory.waits == [wait_s]


async def test_an_orchestrators_attributes_arrive(shop: Shop) -> None:
    shop.inventory.answers = RESERVED
    sent = command_envelope(
        ReserveInventory(order_id="o-1", items=[]),
        id=HOSTILE,
        saga=replace(SAGA, id=HOSTILE),
        expires=NOW + 60,
        may_refuse=False,
        correlation="corr",
        causation="cause",
        hops=3,
    )
    answer = await shop.call("POST", "/inventory/reserve", sent.body, **dict(headers_of(sent)))
    assert answer.status == 200
    assert shop.inventory.commands == [sent]
    assert "x-evil" not in answer.headers
    assert answer.headers["ce-sagaid"] == "o%0D%0AX-Evil:%201%20%22%25%C3%BC%E2%82%AC%00"


@pytest.mark.parametrize(
    "changes",
    [
        {"ce-id": None},
        {"ce-type": None},
        {"ce-type": "SetStatus"},
        {"ce-time": "yesterday"},
        {"ce-time": "2026-01-31T12:00:00"},
        {"ce-specversion": "0.3"},
        {"ce-id": "%ff"},
        {"ce-dataversion": "two"},
        {"ce-hops": "many"},
        {"ce-sagacoordination": "anarchy"},
        {"ce-sagastep": None},
        {"ce-sagabegins": "7"},
        {"ce-sagabegins": '[["a"]]'},
        {"ce-sagabegins": "[" * 5000},
        {"ce-expirytime": "0"},
    ],
)
async def test_attributes_that_cannot_be_read_are_a_400(shop: Shop, changes: dict[str, str | None]) -> None:
    sent = command_envelope(ReserveInventory(order_id="o-1", items=[]))
    headers = {**dict(headers_of(sent)), **changes}
    told = {name: value for name, value in headers.items() if value is not None}
    answer = await shop.call("POST", "/inventory/reserve", sent.body, **told)
    assert answer.is_problem(400, "problem:attributes"), answer.json
    assert not shop.inventory.commands


async def test_an_older_schema_is_understood_and_a_newer_one_is_not(shop: Shop) -> None:
    shop.inventory.answers = Weighed(grams=2000)
    sent = command_envelope(Weigh(grams=1), body=b'{"kilograms": 2}', version=1)
    headers = dict(headers_of(sent)) | {"ce-dataversion": "1"}
    assert (await shop.call("POST", "/inventory/weigh", sent.body, **headers)).status == 200
    assert CODEC.decode(shop.inventory.commands[0]) == Weigh(grams=2000)
    headers["ce-dataversion"] = "3"
    answer = await shop.call("POST", "/inventory/weigh", b'{"tons": 2}', **headers)
    assert answer.is_problem(422, "problem:invalid")
    assert "newer than 2" in answer.json["errors"][0]["message"]


# -- fields in the path ------------------------------------------------------------------------------------------------


async def test_fields_come_from_the_path(shop: Shop) -> None:
    shop.orders.answers = StatusSet(order_id="o", status="SHIPPED")
    for path, order_id in (("o-1", "o-1"), ("a%2Fb%20%C3%BC%22%5C", 'a/b ü"\\'), ("%25", "%")):
        assert (await shop.call("PUT", f"/orders/{path}/status", {"status": "SHIPPED"})).status == 200
        found = CODEC.decode(shop.orders.commands[-1])
        assert found.model_dump() == {"order_id": order_id, "status": "SHIPPED"}


async def test_a_command_that_the_path_says_whole_needs_no_body(shop: Shop) -> None:
    shop.orders.answers = OrderDropped(order_id="o-1")
    assert (await shop.call("DELETE", "/orders/o-1")).status == 200
    assert shop.orders.commands[0].body == b'{"orderId":"o-1"}'
    assert (await shop.call("DELETE", "/orders/o-1", {})).status == 200


async def test_the_body_may_say_what_the_path_says_but_nothing_else(shop: Shop) -> None:
    shop.orders.answers = StatusSet(order_id="o-1", status="SHIPPED")
    body = {"status": "SHIPPED", "orderId": "o-1"}
    assert (await shop.call("PUT", "/orders/o-1/status", body)).status == 200
    answer = await shop.call("PUT", "/orders/o-2/status", body)
    assert answer.is_problem(422, "problem:invalid")
    assert answer.json["errors"] == [{"field": "orderId", "message": "the path says something else"}]
    answer = await shop.call("PUT", "/orders/%ff/status", {"status": "SHIPPED"})
    assert answer.is_problem(422, "problem:invalid")
    answer = await shop.call("PUT", "/orders//status", {"status": "SHIPPED"})
    assert answer.is_problem(404, "problem:no-such-route")
    assert len(shop.orders.commands) == 1


# -- bad input ---------------------------------------------------------------------------------------------------------

BAD_BODIES: dict[str, tuple[bytes, str, str]] = {
    "malformed": (b'{"orderId": "o-1",\n "items": [}', "body", "line 2 column 12"),
    "cut": (b'{"orderId": "o-1"', "body", "not JSON"),
    "empty": (b"", "orderId", "required"),
    "not an object": (b"[1]", "body", "not a JSON object"),
    "null": (b"null", "body", "not a JSON object"),
    "trailing": (b'{"orderId": "o-1", "items": []} x', "body", "Extra data"),
    "unknown field": (b'{"orderId": "o-1", "items": [], "colour": "hunter2"}', "colour", "not permitted"),
    "python name": (b'{"order_id": "o-1", "items": []}', "orderId", "required"),
    "wrong type": (b'{"orderId": 7, "items": ["hunter2", 1]}', "items.1", "string"),
    "missing": (b'{"orderId": "o-1"}', "items", "required"),
    "name twice": (b'{"orderId": "o-1", "orderId": "o-2", "items": []}', "body", "'orderId' stands twice"),
    "name twice inside": (b'{"orderId": "o-1", "items": [{"a": 1, "a": 2}]}', "body", "'a' stands twice"),
    "not UTF-8": (b'{"orderId": "\xff", "items": []}', "body", "not UTF-8 at byte 13"),
    "half a character": (b'{"orderId": "\\ud800", "items": []}', "body", "Invalid JSON"),
    "UTF-16": ('{"orderId": "o-1", "items": []}'.encode("utf-16"), "body", "not UTF-8"),
    "deep": (b'{"orderId": "o-1", "items": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "body", "nested too deeply"),
    "deep objects": (b'{"a":' * 100_000, "body", "nested too deeply"),
    "rather deep": (b'{"orderId": "o-1", "items": [], "x": ' + b"[" * 300 + b"]" * 300 + b"}", "body", "recursion"),
    "many digits": (b'{"orderId": ' + b"9" * 5000 + b"}", "body", "4300"),
}


@pytest.mark.parametrize("what", BAD_BODIES)
async def test_a_body_that_does_not_fit_is_a_422_that_says_where(shop: Shop, what: str) -> None:
    body, bad_field, message = BAD_BODIES[what]
    answer = await shop.call("POST", "/inventory/reserve", body)
    assert answer.is_problem(422, "problem:invalid"), answer.body
    found = [one["message"] for one in answer.json["errors"] if one["field"] == bad_field]
    assert found, answer.json
    assert message in found[0]
    assert b"hunter2" not in answer.body
    assert not shop.inventory.commands


@pytest.mark.parametrize("number", [b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-1e999"])
@pytest.mark.parametrize("body", [b'{"grams": %b}', b'{"grams": 1, "note": [%b]}'])
async def test_what_is_no_number_is_a_422(shop: Shop, number: bytes, body: bytes) -> None:
    answer = await shop.call("POST", "/inventory/weigh", body % number)
    assert answer.is_problem(422, "problem:invalid")


async def test_errors_are_bounded_and_do_not_repeat_the_input(shop: Shop) -> None:
    body = {"orderId": {"hunter2": 1}, "items": [1] * 1000, "x" * 5000: "hunter2"}
    answer = await shop.call("POST", "/inventory/reserve", body)
    assert answer.is_problem(422, "problem:invalid")
    assert len(answer.json["errors"]) == 20
    assert len(answer.body) < 3000
    assert b"hunter2" not in answer.body
    answer = await shop.call("POST", "/inventory/reserve", {"x" * 5000: 1})
    assert len(answer.body) < 1500


@pytest.mark.parametrize(
    "content_type",
    ["text/plain", "application/x-www-form-urlencoded", "application/jsonx", "application/json; charset=utf-16", ""],
)
async def test_another_content_type_is_a_415(shop: Shop, content_type: str) -> None:
    answer = await shop.call("POST", "/inventory/reserve", RESERVE, content_type=content_type)
    assert answer.is_problem(415, "problem:media-type")


async def test_json_may_say_its_charset_but_not_be_packed(shop: Shop) -> None:
    shop.inventory.answers = RESERVED
    for content_type in ("application/json; charset=utf-8", 'Application/JSON ;charset="UTF8"'):
        assert (await shop.call("POST", "/inventory/reserve", RESERVE, content_type=content_type)).status == 200
    answer = await shop.call("POST", "/inventory/reserve", RESERVE, content_encoding="gzip")
    assert answer.is_problem(415, "problem:media-type")


async def test_a_body_too_large_is_a_413_and_the_connection_goes_on(shop: Shop) -> None:
    shop.inventory.answers = RESERVED
    answer = await shop.call("POST", "/inventory/reserve", b" " * (10 * BODY_BYTES_MAX))
    assert answer.is_problem(413, "problem:too-large")

    async def pieces() -> Any:
        for _ in range(40):
            yield b" " * 65536

    url = shop.url + "/inventory/reserve"
    async with shop.session.post(url, data=pieces(), headers={"content-type": "application/json"}) as got:
        assert got.status == 413
    fits = b'{"orderId": "o-1", "items": []}'.ljust(BODY_BYTES_MAX)
    assert (await shop.call("POST", "/inventory/reserve", fits)).status == 200
    assert (await shop.call("POST", "/inventory/reserve", fits + b" ")).status == 413


async def test_whoever_hangs_up_halfway_asked_nothing(shop: Shop) -> None:
    host, port = shop.url.removeprefix("http://").split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    head = (
        b"POST /inventory/reserve HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{"
    )
    writer.write(head)
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    shop.inventory.answers = RESERVED
    assert (await shop.call("POST", "/inventory/reserve", RESERVE)).status == 200
    assert len(shop.inventory.commands) == 1


# -- what a desk may say -----------------------------------------------------------------------------------------------


async def test_a_key_used_for_something_else_is_a_422(shop: Shop) -> None:
    shop.inventory.answers = Conflict("k-1 was used for another order; nothing was done")
    answer = await shop.call("POST", "/inventory/reserve", RESERVE, idempotency_key="k-1")
    assert answer.is_problem(422, "problem:conflict")
    assert answer.json["detail"] == "k-1 was used for another order; nothing was done"


@pytest.mark.parametrize(
    ("after_s", "seconds", "exact_ms"),
    [(0.2, "1", 200), (0.0, "1", 0), (2.001, "3", 2001), (-1.0, "1", 0), (float("inf"), "1", 1000)],
)
async def test_no_answer_yet_is_a_503_that_says_when_to_ask_again(
    shop: Shop, after_s: float, seconds: str, exact_ms: int
) -> None:
    shop.inventory.answers = NotYet("the gateway is slow", retry_after_s=after_s)
    answer = await shop.call("POST", "/inventory/reserve", RESERVE)
    assert answer.is_problem(503, "problem:not-yet")
    assert (answer.headers["retry-after"], answer.json["retryAfterMs"]) == (seconds, exact_ms)


async def test_what_a_desk_rejects_is_a_422(shop: Shop) -> None:
    shop.inventory.answers = Rejected("inventory handles no ReserveInventory")
    assert (await shop.call("POST", "/inventory/reserve", RESERVE)).is_problem(422, "problem:rejected")
    shop.inventory.answers = MessageError("ReserveInventory c-1: items: too many")
    answer = await shop.call("POST", "/inventory/reserve", RESERVE)
    assert answer.is_problem(422, "problem:invalid")
    assert answer.json["errors"] == [{"field": "body", "message": "ReserveInventory c-1: items: too many"}]


async def test_an_unexpected_error_is_a_500_that_tells_nothing_and_is_logged(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    shop.inventory.answers = RuntimeError("password=hunter2")
    with caplog.at_level(logging.ERROR, "minuet.doors"):
        answer = await shop.call("POST", "/inventory/reserve", RESERVE)
    assert answer.is_problem(500, "problem:internal")
    assert b"hunter2" not in answer.body
    assert "hunter2" in caplog.text
