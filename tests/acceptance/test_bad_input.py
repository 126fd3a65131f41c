"""What strangers send: over HTTP it gets a clear error, on the broker it is parked with its reason. Nothing is lost,
nothing breaks, and nobody learns anything about the inside."""

import asyncio
import contextlib
import json
import re
import socket
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.acceptance.grounds import Stranger
from tests.acceptance.processes import MINUET, SEED_ITEMS, Answer, Shop, until

# What HTTP refuses never comes near a broker, but text that one database takes may be none to another.
pytestmark = [
    pytest.mark.acceptance, pytest.mark.grounds("postgres+nats"), pytest.mark.asyncio(loop_scope="module")
]  # fmt: skip

INSIDE = re.compile(
    r"Traceback|\.py\b|sqlite3|psycopg|sqlalchemy|pydantic|site-packages|/src/|/tmp/|line \d+ in ", re.IGNORECASE
)
GOOD = {"customerId": "CUST987", "items": SEED_ITEMS}
DEEP = b'{"customerId":' + b"[" * 100_000 + b"]" * 100_000 + b"}"


def told(answer: Answer, *statuses: int) -> dict[str, Any]:
    """A problem that says what is wrong with the request, and nothing of what is inside."""
    assert answer.status in statuses, f"{answer.status} {answer.text[:300]}"
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    content: dict[str, Any] = answer.json
    assert content["status"] == answer.status
    assert content["title"]
    assert content["type"]
    assert not INSIDE.search(answer.text), answer.text
    assert len(answer.text) < 5000
    return content


# -- over HTTP ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "statuses"),
    [
        (b"", (415, 422)),
        (b"{", (422,)),
        (b"\x00\xff\xfe", (422,)),
        (b"null", (422,)),
        (b"[]", (422,)),
        (b'"order"', (422,)),
        (b"{}", (422,)),
        (b'{"customerId": "C1"}', (422,)),
        (json.dumps(GOOD | {"colour": "red"}).encode(), (422,)),
        (json.dumps(GOOD | {"customer_id": "C2"}).encode(), (422,)),
        (json.dumps(GOOD | {"customerId": 7}).encode(), (422,)),
        (json.dumps(GOOD | {"customerId": None}).encode(), (422,)),
        (json.dumps(GOOD | {"customerId": ""}).encode(), (422,)),
        (json.dumps(GOOD | {"customerId": "a\nb"}).encode(), (422,)),
        (json.dumps(GOOD | {"customerId": "x" * 65}).encode(), (422,)),
        (json.dumps(GOOD | {"items": "ITEM001"}).encode(), (422,)),
        (json.dumps(GOOD | {"items": []}).encode(), (422,)),
        (json.dumps(GOOD | {"items": [1]}).encode(), (422,)),
        (json.dumps(GOOD | {"items": ["ITEM001"] * 1001}).encode(), (422,)),
        (json.dumps(GOOD | {"items": {"ITEM001": 1}}).encode(), (422,)),
        (json.dumps(GOOD | {"orderId": "../../etc/passwd"}).encode(), (422,)),
        (json.dumps(GOOD | {"orderId": "a b"}).encode(), (422,)),
        (json.dumps(GOOD | {"orderId": "x\r\nset-cookie: a=b"}).encode(), (422,)),
        (b'{"customerId": "C1", "customerId": "C2", "items": ["ITEM001"]}', (422,)),
        (b'{"customerId": "\xff", "items": ["ITEM001"]}', (422,)),
        (b'{"customerId": "\\ud800", "items": ["ITEM001"]}', (422,)),
        (DEEP, (422,)),
        (b'{"customerId": "' + b"x" * 10_000_000 + b'"}', (413,)),
    ],
    ids=lambda value: repr(value[:40]) if isinstance(value, bytes) else "",
)
async def test_a_body_that_does_not_fit(whole: Shop, raw: bytes, statuses: tuple[int, ...]) -> None:
    told(await whole.ask("POST", "/orders", raw=raw), *statuses)


@pytest.mark.parametrize(
    "amount", [b"NaN", b"Infinity", b"-1", b"1e400", b"150.751", b'"x"', b"true", b"null", b"9" * 5000]
)
async def test_an_amount_that_is_none(whole: Shop, amount: bytes) -> None:
    answer = await whole.ask("POST", "/payment/process", raw=b'{"orderId": "NAN", "amount": ' + amount + b"}")
    told(answer, 422)
    assert (await whole.get("/payment/payments?orderId=NAN"))["payments"] == []


@pytest.mark.parametrize(
    "kind",
    ["text/plain", "application/xml", "application/json; charset=latin-1", "", "application/x-www-form-urlencoded"],
)
async def test_a_content_type_that_is_not_json(whole: Shop, kind: str) -> None:
    told(await whole.ask("POST", "/orders", GOOD, content_type=kind), 415)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/orders/NO-SUCH-ORDER", 404),
        ("GET", "/orders/%2e%2e%2f%2e%2e%2fetc", 422),
        ("GET", "/orders/%ff", 422),
        ("GET", "/orders/" + "x" * 5000, 422),
        ("GET", "/inventory/stock/NO-SUCH-ITEM", 404),
        ("GET", "/no/such/route", 404),
        ("GET", "/orders/A/B/C", 404),
        ("GET", "//orders", 404),
        ("DELETE", "/orders", 405),
        ("PATCH", "/orders/A", 405),
        ("GET", "/inventory/reserve", 405),
        ("GET", "/payment/payments?orderId=" + "x" * 100, 422),
        ("GET", "/orders?after=%00", 422),
    ],
)
async def test_an_address_that_leads_nowhere(whole: Shop, method: str, path: str, status: int) -> None:
    answer = await whole.ask(method, whole.url("orders") + path)
    told(answer, status)


async def test_a_status_of_an_unknown_order(whole: Shop) -> None:
    told(await whole.ask("PUT", "/orders/NO-SUCH-ORDER/status", {"status": "SHIPPED"}), 404)
    told(await whole.ask("PUT", "/orders/NO-SUCH-ORDER/status", {"status": "LOST"}), 422)
    # Nobody is bound by that: later the order exists.
    await whole.place("NO-SUCH-ORDER")
    assert (await whole.ended("NO-SUCH-ORDER"))["NO-SUCH-ORDER"].status == "SHIPPED"


async def test_a_key_that_was_used_for_something_else(whole: Shop) -> None:
    first = await whole.ask("POST", "/orders", GOOD, idempotency_key="bad-1")
    assert first.status == 202
    told(await whole.ask("POST", "/orders", GOOD | {"customerId": "OTHER"}, idempotency_key="bad-1"), 422)
    for key in ("", " ", "x" * 256, "%ff"):
        told(await whole.ask("POST", "/orders", GOOD, idempotency_key=key), 400)


@pytest.mark.parametrize(
    "headers",
    [
        {"ce_type": "OrderCreated", "ce_id": "1", "ce_source": "me", "ce_specversion": "1.0"},
        {"ce_type": "PlaceOrder", "ce_specversion": "9.9"},
        {"ce_type": "PlaceOrder", "ce_id": "1"},
        {"ce_type": "PlaceOrder", "ce_id": "1", "ce_source": "me", "ce_specversion": "1.0", "ce_dataversion": "99"},
        {"ce_type": "PlaceOrder", "ce_id": "1", "ce_source": "me", "ce_specversion": "1.0", "ce_hops": "many"},
        {"ce_type": "PlaceOrder", "ce_id": "1", "ce_source": "me", "ce_specversion": "1.0", "ce_saga": "X"},
        {"content_encoding": "gzip"},
    ],
)
async def test_headers_that_make_no_sense(whole: Shop, headers: Mapping[str, str]) -> None:
    told(await whole.ask("POST", "/orders", GOOD, **headers), 400, 415, 422)


async def test_what_is_no_http_at_all(whole: Shop) -> None:
    for raw in (
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /orders HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: -5\r\n\r\n{}",
        b"POST /orders HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nZZZ\r\n",
        b"GET /orders HTTP/1.1\r\nhost: a\r\nx: " + b"y" * 200_000 + b"\r\n\r\n",
        b"POST /orders HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: 500\r\n\r\n{",
    ):
        answer = await _raw(whole, raw)
        assert b" 200 " not in answer.split(b"\r\n")[0]
        assert not INSIDE.search(answer.decode("latin-1"))


async def test_a_header_cannot_be_broken_out_of(whole: Shop) -> None:
    # What a client may say and what comes back in headers: an order's id, an item in a path, a customer.
    item = "A%0d%0aset-cookie:%20a=b"
    told(await whole.ask("PUT", f"/inventory/stock/{item}", {"onHand": 1}), 422)
    answer = await whole.ask("PUT", "/inventory/stock/%C3%BC%20%22%25", {"onHand": 1})
    assert answer.status == 200
    assert "set-cookie" not in {name.lower() for name in answer.headers}
    key = await whole.ask("POST", "/orders", GOOD, idempotency_key="a%0d%0aset-cookie: a=b")
    assert key.status == 202
    assert "set-cookie" not in {name.lower() for name in key.headers}


async def test_it_is_still_healthy(whole: Shop) -> None:
    assert (await whole.get("/health"))["status"] == "ok"
    await whole.place("HEALTHY")
    assert (await whole.ended("HEALTHY"))["HEALTHY"].status == "SHIPPED"
    assert "Traceback" not in whole.said()


async def _raw(shop: Shop, raw: bytes) -> bytes:
    where = urlsplit(shop.url("orders"))
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    try:
        writer.write(raw)
        with contextlib.suppress(OSError):  # it hung up already
            writer.get_extra_info("socket").shutdown(socket.SHUT_WR)
        return await asyncio.wait_for(reader.read(), 10)
    except ConnectionError:
        return b""
    finally:
        writer.close()


# -- on the broker -----------------------------------------------------------------------------------------------------


# How a message is parked depends on the broker and on the store, but hardly on the two together.
ON_EVERY_BROKER = pytest.mark.grounds(
    *("sqlite+kafka/choreography", "postgres+rabbitmq/orchestration", "sqlite+nats/orchestration"),
    *("postgres+redis/choreography", "sqlite+sns/choreography", "seed"),
)


@pytest.fixture
def stranger(whole: Shop) -> Stranger:
    return Stranger(whole.ground.wires)


CREATED = {"orderId": "STRANGE", "customerId": "C1", "items": SEED_ITEMS}


@ON_EVERY_BROKER
async def test_a_message_that_cannot_be_taken_in_is_parked_with_its_reason(whole: Shop, stranger: Stranger) -> None:
    bad: dict[str, tuple[Any, ...]] = {
        "nobody here understands 'PriceChanged'": ("orders", "PriceChanged", {"price": 1}),
        "newer than 1": ("orders", "OrderCreated", CREATED, {"dataversion": "7"}),
        "Invalid JSON": ("orders", "OrderCreated", b"\x00\xffgarbage"),
        "Field required": ("orders", "OrderCreated", {"orderId": "STRANGE"}),
        "sagacoordination": ("orders", "OrderCreated", CREATED, {"saga": "OrderProcessing", "sagaid": "STRANGE"}),
        "in a circle": ("orders", "OrderCreated", CREATED, {"hops": "1000"}),
        "zone": ("orders", "OrderCreated", CREATED, {"time": "2026-01-31T12:00:00"}),
        "nothing-like-it": ("orders", "OrderCreated", CREATED, {
            "sagabegins": json.dumps([["OrderProcessing", "STRANGE", "nothing-like-it", whole.coordination]])
        }),
    }  # fmt: skip
    for channel, kind, body, *more in bad.values():
        await stranger.say(channel, kind, body, **(more[0] if more else {}))

    # Each service that hears of orders keeps its own, each in its own time.
    async def all_parked() -> list[dict[str, Any]] | None:
        parked = await _parked(whole)
        reasons = [one["reason"] for one in parked]
        is_all = all(any(wanted in reason for reason in reasons) for wanted in bad)
        return parked if is_all and {one["service"] for one in parked} > {"inventory"} else None

    try:
        parked = await until(all_parked, within_s=60, what="all of it is parked")
    except TimeoutError:
        raise AssertionError([(one["service"], one["reason"]) for one in await _parked(whole)]) from None
    assert {one["kind"] for one in parked} == {"message"}
    listed = (await _minuet(whole, "parked", "list", "--json"))["parked"]
    assert {one["id"] for one in listed} >= {one["id"] for one in parked}, "others may have been parked since"
    for one in [one for one in parked if one["service"] == "inventory"][:3]:
        shown = await _minuet(whole, "parked", "show", one["id"], "--json")
        assert shown["attributes"]["source"] == "stranger"
        assert shown["channel"] == "orders"
    assert (await whole.ask("GET", "/orders/STRANGE")).status == 404


@ON_EVERY_BROKER
async def test_a_mended_message_goes_on_and_another_is_discarded(
    whole: Shop, stranger: Stranger, tmp_path: Any
) -> None:
    await whole.ask("POST", "/orders/import", CREATED | {"orderId": "MENDED", "prices": [1, 1]})
    await whole.ended("MENDED")
    await stranger.say("orders", "OrderStatusUpdated", {"orderId": "NOTED", "status": "LOST"}, id="to-mend")
    await stranger.say("orders", "OrderStatusUpdated", {"orderId": "GONE", "status": "LOST"}, id="to-discard")

    # Of the services that hear of orders, only notifications looks into this one.
    async def both() -> dict[str, str] | None:
        found = {one["id"].rpartition("/")[2]: one["id"] for one in await _parked(whole)}
        return found if {"to-mend", "to-discard"} <= set(found) else None

    parked = await until(both, what="both are parked")
    mended = tmp_path / "mended.json"
    mended.write_text(json.dumps({"orderId": "NOTED", "status": "CANCELLED", "reason": "mended"}))
    await _minuet(whole, "parked", "retry", parked["to-mend"], "--body", str(mended))
    await _minuet(whole, "parked", "discard", parked["to-discard"], "--yes")

    async def noted() -> bool:
        notes = (await whole.get("/notifications?orderId=NOTED"))["notes"]
        return [note["text"] for note in notes] == ["Your order NOTED was cancelled: mended."]

    await until(noted, what="the mended message is taken in")
    assert not {"to-mend", "to-discard"} & {one["id"].rpartition("/")[2] for one in await _parked(whole)}


@ON_EVERY_BROKER
async def test_a_message_without_any_attributes_is_taken_for_what_its_body_says(
    whole: Shop, stranger: Stranger
) -> None:
    bare = dict.fromkeys(("id", "type", "source", "time", "specversion", "datacontenttype"), "")
    body = {"eventType": "OrderStatusUpdated", "orderId": "BARE", "status": "CANCELLED", "reason": "said so"}
    for _ in range(3):
        await stranger.say("orders", "OrderStatusUpdated", body, **bare)

    async def noted() -> bool:
        return bool((await whole.get("/notifications?orderId=BARE"))["notes"])

    await until(noted, what="it is understood")


@ON_EVERY_BROKER
async def test_an_order_that_is_announced_by_hand_ten_times_is_processed_once(whole: Shop, stranger: Stranger) -> None:
    content = {"orderId": "ANNOUNCED", "customerId": "C1", "items": SEED_ITEMS}
    imported = await whole.ask("POST", "/orders/import", content | {"prices": [100, 50]})
    assert imported.status == 202
    await asyncio.gather(*(stranger.say("orders", "OrderCreated", content) for _ in range(10)))
    assert (await whole.ended("ANNOUNCED"))["ANNOUNCED"].status == "SHIPPED"
    await whole.at_rest(parked=len(await _parked(whole)))
    charges, parcels = await whole.ledgers()
    assert [charge.amount for charge in charges.charges if charge.order_id == "ANNOUNCED"] == [150]
    assert len([parcel for parcel in parcels.parcels if parcel.order_id == "ANNOUNCED"]) == 1


@ON_EVERY_BROKER
async def test_an_order_that_is_announced_but_does_not_exist_is_undone_and_left_to_an_operator(
    whole: Shop, stranger: Stranger
) -> None:
    content = {"orderId": "TOO-EARLY", "customerId": "C1", "items": SEED_ITEMS}
    await stranger.say("orders", "OrderCreated", {"eventType": "OrderCreated", **content})

    async def needs_operator() -> str | None:
        return next((one["id"] for one in await _parked(whole) if "TOO-EARLY" in one["id"]), None)

    parked = await until(needs_operator, what="nobody knows the order whose status is to be updated")
    (held,) = (await whole.get("/inventory/reservations?orderId=TOO-EARLY"))["reservations"]
    assert held["status"] == "RELEASED"
    assert (await whole.get("/payment/payments?orderId=TOO-EARLY"))["payments"] == []
    shown = await _minuet(whole, "sagas", "show", "TOO-EARLY", "--json")
    assert shown["status"] == "needs operator", shown

    # Now somebody places it after all, and the operator lets the saga end.
    assert (await whole.ask("POST", "/orders", content)).status == 202
    await _minuet(whole, "parked", "retry", parked)
    assert (await whole.ended("TOO-EARLY"))["TOO-EARLY"].status == "CANCELLED"


@ON_EVERY_BROKER
async def test_nothing_is_out_of_balance_after_all_that(whole: Shop) -> None:
    await whole.ended()
    await whole.at_rest(parked=len(await _parked(whole)))
    await whole.balanced()
    assert "Traceback" not in whole.said()


async def _parked(shop: Shop) -> list[dict[str, Any]]:
    """As the command lists it; over HTTP, which is quicker."""
    listed: list[dict[str, Any]] = (await shop.get("/parked?limit=1000"))["parked"]
    return listed


async def _minuet(shop: Shop, *arguments: str) -> Any:
    """What the command says, as JSON if it was asked for that."""
    running = await asyncio.create_subprocess_exec(
        MINUET, *arguments, "--data", shop.data,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, cwd=shop.folder, env=dict(shop.environment),
    )  # fmt: skip
    said, complained = await running.communicate()
    assert running.returncode == 0, complained.decode()
    return json.loads(said) if "--json" in arguments else said.decode()
