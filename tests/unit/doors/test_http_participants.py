"""The client: against our own doors, and against participants that somebody wrote by hand, well or badly."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest
import pytest_asyncio
from starlette.types import Receive, Scope, Send

from minuet.adapters.http_participants import RESPONSE_BYTES_MAX, HttpParticipants
from minuet.codec import timestamp
from minuet.core.errors import Conflict, NotFound, NotYet, Rejected
from minuet.core.messages import Event, StepRefused, name_of
from minuet.doors.server import serve
from tests.unit.doors.kit import (
    CODEC,
    NOW,
    AlreadyShipped,
    DropOrder,
    FindOrders,
    FixedClock,
    GetOrder,
    InventoryReserved,
    Line,
    ListOrders,
    OrderDropped,
    OrderPage,
    OrderView,
    OutOfStock,
    ReserveInventory,
    SetStatus,
    Shop,
    Silent,
    StatusSet,
    Weigh,
    Weighed,
    answer_to,
    command_envelope,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

RESERVE = ReserveInventory(order_id="o-1", items=["ITEM001"])
RESERVED = InventoryReserved(order_id="o-1", reserved_items=["ITEM001"])
HOSTILE = 'a/b?c#d%2F\r\nX-Evil: 1 "ü€\\'


def participants_at(url: str, **options: Any) -> HttpParticipants:
    return HttpParticipants(lambda service: url, CODEC, clock=FixedClock(), **options)


@pytest_asyncio.fixture(loop_scope="module")
async def ours(shop: Shop) -> AsyncIterator[HttpParticipants]:
    async with participants_at(shop.url) as participants:
        yield participants


# -- participants that minuet serves -----------------------------------------------------------------------------------


async def test_the_answer_comes_back_as_it_was_recorded(shop: Shop, ours: HttpParticipants) -> None:
    shop.inventory.answers = RESERVED
    sent = command_envelope(RESERVE, expires=NOW + 5, may_refuse=False, hops=2, correlation="c", causation=HOSTILE)
    answer = await ours.ask(ReserveInventory, sent, key=HOSTILE)
    assert answer == answer_to(sent, RESERVED, "inventory")
    assert shop.inventory.commands == [sent]
    assert (shop.inventory.keys, shop.inventory.waits) == ([HOSTILE], [20.0])


@pytest.mark.parametrize(
    "refusal",
    [
        OutOfStock(order_id=HOSTILE, item="ü"),
        StepRefused(service="inventory", command="ReserveInventory", reason="retries exhausted", detail="x"),
    ],
    ids=name_of,
)
async def test_a_refusal_comes_back_as_it_was_recorded(shop: Shop, ours: HttpParticipants, refusal: Event) -> None:
    shop.inventory.answers = refusal
    sent = command_envelope(RESERVE)
    answer = await ours.ask(ReserveInventory, sent, key="k")
    assert answer == answer_to(sent, refusal, "inventory")
    assert CODEC.decode(answer) == refusal


@pytest.mark.parametrize("order_id", ["o-1", HOSTILE, "..", "%2e", " ", "ü" * 100])
async def test_fields_travel_in_the_path(shop: Shop, ours: HttpParticipants, order_id: str) -> None:
    shop.orders.answers = StatusSet(order_id=order_id, status="SHIPPED")
    command = SetStatus(order_id=order_id, status="SHIPPED")
    await ours.ask(SetStatus, command_envelope(command), key="")
    assert CODEC.decode(shop.orders.commands[0]) == command
    assert json.loads(shop.orders.commands[0].body) == {"orderId": order_id, "status": "SHIPPED"}
    assert shop.orders.keys == [""]
    shop.orders.answers = AlreadyShipped(order_id=order_id)
    answer = await ours.ask(DropOrder, command_envelope(DropOrder(order_id=order_id)), key="k")
    assert CODEC.decode(answer) == AlreadyShipped(order_id=order_id)


async def test_what_has_no_address_is_rejected(ours: HttpParticipants) -> None:
    with pytest.raises(Rejected, match="Silent has no address"):
        await ours.ask(Silent, command_envelope(Silent()), key="k")
    with pytest.raises(Rejected, match="order_id is empty"):
        await ours.ask(DropOrder, command_envelope(DropOrder(order_id="")), key="k")


async def test_queries_are_answered(shop: Shop, ours: HttpParticipants) -> None:
    shop.orders.answers = OrderView(order_id=HOSTILE, lines=(Line(item="a", price=1.5),))
    assert await ours.read(GetOrder(order_id=HOSTILE)) == shop.orders.answers
    shop.orders.answers = OrderPage(order_ids=["o-1"])
    questions = [
        ListOrders(),
        ListOrders(status=HOSTILE + "&=+", page_limit=7, is_open=True),
        FindOrders(items=["a&b", "c=d+e f", HOSTILE]),
    ]
    for question in questions:
        assert await ours.read(question) == shop.orders.answers
    assert shop.orders.queries == [GetOrder(order_id=HOSTILE), *questions]


async def test_errors_of_a_desk_arrive_as_the_reaction_they_call_for(shop: Shop, ours: HttpParticipants) -> None:
    sent = command_envelope(RESERVE)
    shop.inventory.answers = NotYet("the gateway is slow", retry_after_s=0.25)
    with pytest.raises(NotYet, match="the gateway is slow") as late:
        await ours.ask(ReserveInventory, sent, key="k")
    assert late.value.retry_after_s == 0.25
    shop.inventory.answers = Conflict("k was used for another order")
    with pytest.raises(Rejected, match="k was used for another order"):
        await ours.ask(ReserveInventory, sent, key="k")
    shop.inventory.answers = Rejected("inventory handles no such thing")
    with pytest.raises(Rejected, match="handles no such thing"):
        await ours.ask(ReserveInventory, sent, key="k")
    shop.inventory.answers = RuntimeError("hunter2")
    with pytest.raises(NotYet, match="logged"):
        await ours.ask(ReserveInventory, sent, key="k")
    with pytest.raises(Rejected, match="items: Field required"):
        await ours.ask(ReserveInventory, replace(sent, body=b'{"orderId": "o-1"}'), key="k")
    shop.orders.answers = NotFound("no order o-1")
    with pytest.raises(NotFound, match="no order o-1"):
        await ours.read(GetOrder(order_id="o-1"))
    shop.orders.answers = NotYet("busy", retry_after_s=2)
    with pytest.raises(NotYet, match="busy"):
        await ours.read(GetOrder(order_id="o-1"))


async def test_a_wrong_address_is_rejected_and_is_not_taken_for_something_that_is_not_there(shop: Shop) -> None:
    async with participants_at(shop.url + "/elsewhere") as lost:
        with pytest.raises(Rejected, match="No such route"):
            await lost.ask(ReserveInventory, command_envelope(RESERVE), key="k")
        with pytest.raises(Rejected, match="No such route") as error:
            await lost.read(GetOrder(order_id="o-1"))
    assert not isinstance(error.value, NotFound)


async def test_who_is_not_there_does_not_answer_yet() -> None:
    with socket.socket() as taken:  # bound, but nobody listens
        taken.bind(("127.0.0.1", 0))
        async with participants_at(f"http://127.0.0.1:{taken.getsockname()[1]}") as nobody:
            with pytest.raises(NotYet, match="inventory cannot be reached"):
                await nobody.ask(ReserveInventory, command_envelope(RESERVE), key="k")
            with pytest.raises(NotYet, match="orders cannot be reached"):
                await nobody.read(GetOrder(order_id="o-1"))

    def unknown(service: str) -> str:
        raise NotYet(f"{service} is not running")

    async with HttpParticipants(unknown, CODEC, clock=FixedClock()) as participants:
        with pytest.raises(NotYet, match="inventory is not running"):
            await participants.ask(ReserveInventory, command_envelope(RESERVE), key="k")


async def test_connections_are_kept(shop: Shop, ours: HttpParticipants) -> None:
    shop.inventory.answers = RESERVED
    clients: set[str] = set()
    for _ in range(5):
        await ours.ask(ReserveInventory, command_envelope(RESERVE), key="k")
        connector = ours._session(True).connector
        assert connector is not None
        clients |= {str(one[0].transport) for kept in connector._conns.values() for one in kept}
    assert len(clients) == 1
    await ours.close()
    await ours.close()


# -- participants written by hand --------------------------------------------------------------------------------------

Respond = Callable[[Send], Awaitable[None]]


@dataclass
class Stranger:
    """A server that responds as it is told."""

    respond: Respond
    url: str = ""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive()).get("more_body"):
            pass
        await self.respond(send)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stranger() -> AsyncIterator[Stranger]:
    one = Stranger(says(200, {}))
    async with serve(one, stop_s=1) as one.url:
        yield one


@asynccontextmanager
async def responding(stranger: Stranger, respond: Respond, **options: Any) -> AsyncIterator[HttpParticipants]:
    stranger.respond = respond
    async with participants_at(stranger.url, **options) as participants:
        yield participants


def says(status: int, body: Any, **headers: str) -> Respond:
    async def respond(send: Send) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        head = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": status, "headers": head})
        await send({"type": "http.response.body", "body": content})

    return respond


async def ask(stranger: Stranger, respond: Respond, command: Any = RESERVE) -> Event:
    async with responding(stranger, respond) as participants:
        sent = command_envelope(command, correlation="corr", hops=1)
        answer = await participants.ask(type(command), sent, key="k")
        again = await participants.ask(type(command), replace(sent, id="another"), key="k")
    assert answer.id == again.id, "the same key has the same answer"
    assert (answer.saga, answer.key, answer.correlation, answer.causation) == (sent.saga, "o-1", "corr", "c-1")
    assert answer.source == type(command).__contract__.service
    event = CODEC.decode(answer)
    assert isinstance(event, Event)
    assert answer.body == CODEC.encode(event, time=answer.time)
    return event


async def test_a_strangers_success_is_the_event_that_its_body_names(stranger: Stranger) -> None:
    body = {"eventType": "InventoryReserved", "orderId": "o-1", "reservedItems": ["ITEM001"], "shelf": 7}
    assert await ask(stranger, says(200, body)) == RESERVED
    assert await ask(stranger, says(201, {**body, "timestamp": timestamp(NOW - 60)})) == RESERVED


async def test_a_strangers_success_is_the_only_one_there_is(stranger: Stranger) -> None:
    assert await ask(stranger, says(200, {"grams": 12}), Weigh(grams=12)) == Weighed(grams=12)
    assert await ask(stranger, says(200, {"orderId": "o-1"}), DropOrder(order_id="o-1")) == OrderDropped(order_id="o-1")
    with pytest.raises(Rejected, match="no ce-type or eventType says with what"):
        await ask(stranger, says(200, {"orderId": "o-1"}))


@pytest.mark.parametrize(
    "body",
    [
        {"type": "https://errors.example/problems/out-of-stock", "orderId": "o-1", "item": "x"},
        {"type": "urn:example:OutOfStock", "orderId": "o-1", "item": "x"},
        {"type": "about:blank", "title": "Out of stock", "orderId": "o-1", "item": "x"},
        {"title": "OutOfStock", "refusal": {"orderId": "o-1", "item": "x"}},
        {"refusal": {"eventType": "OutOfStock", "orderId": "o-1", "item": "x"}},
    ],
)
async def test_a_strangers_refusal_is_known_by_its_type_or_title(stranger: Stranger, body: dict[str, Any]) -> None:
    assert await ask(stranger, says(409, body)) == OutOfStock(order_id="o-1", item="x")


NOT_YET: Mapping[str, tuple[Respond, float]] = {
    "nonsense": (says(200, b"<html>"), 1.0),
    "another shape": (says(200, {"eventType": "InventoryReserved", "orderId": 7}), 1.0),
    "a refusal without its fields": (says(409, {"title": "Out of stock"}), 1.0),
    "an attribute missing": (says(200, {}, ce_type="InventoryReserved"), 1.0),
    "a time that is none": (
        says(200, {}, ce_id="1", ce_type="InventoryReserved", ce_source="x", ce_time="noon"),
        1.0,
    ),
    "a success refused": (
        says(409, {"orderId": "o-1"}, ce_id="1", ce_type="PartlyReserved", ce_source="x", ce_time=timestamp(NOW)),
        1.0,
    ),
    "a schema too new": (
        says(
            200,
            {"orderId": "o-1"},
            ce_id="1",
            ce_type="PartlyReserved",
            ce_source="x",
            ce_time=timestamp(NOW),
            ce_dataversion="9",
        ),
        1.0,
    ),
    "too much": (says(200, b" " * (RESPONSE_BYTES_MAX + 1)), 1.0),
    "too much, of unknown length": (says(200, b" " * (RESPONSE_BYTES_MAX + 1), transfer_encoding="chunked"), 1.0),
    "less than announced": (says(200, b"{}", content_length="7"), 1.0),
    "busy": (says(503, b"", retry_after="7"), 7.0),
    "too many": (says(429, {"detail": "slow down"}, retry_after="3600"), 60.0),
    "until a date": (says(503, b"", retry_after="Fri, 15 Jan 2027 08:00:30 GMT"), 30.0),
    "until the past": (says(503, b"", retry_after="Thu, 01 Jan 1970 00:00:00 GMT"), 0.05),
    "until whenever": (says(503, b"", retry_after="soon"), 1.0),
    "exactly": (says(503, {"retryAfterMs": 1250}, retry_after="2"), 1.25),
    "not exactly": (says(503, {"retryAfterMs": "x"}, retry_after="2"), 2.0),
    "time-out": (says(408, b""), 1.0),
    "too early": (says(425, b""), 1.0),
    "broken": (says(500, b"<html>Traceback"), 1.0),
    "bad gateway": (says(502, [1, 2]), 1.0),
}


@pytest.mark.parametrize("what", NOT_YET)
async def test_everything_indefinite_is_not_yet(stranger: Stranger, what: str) -> None:
    respond, retry_after_s = NOT_YET[what]
    async with responding(stranger, respond) as participants:
        with pytest.raises(NotYet) as late:
            await participants.ask(ReserveInventory, command_envelope(RESERVE), key="k")
    assert late.value.retry_after_s == pytest.approx(retry_after_s)
    assert len(str(late.value)) < 1000


@pytest.mark.parametrize(
    ("respond", "message"),
    [
        (says(409, {"title": "Edit conflict", "detail": "somebody was faster"}), "somebody was faster"),
        (says(409, b"no"), "HTTP 409"),
        (says(400, {"detail": "x" * 9999}), "x{500}$"),
        (says(401, b""), "HTTP 401"),
        (says(404, b"<html>"), "HTTP 404"),
        (says(422, {"title": "Unprocessable"}), "Unprocessable"),
        (says(302, b"", location="http://169.254.169.254/"), "HTTP 302"),
        (says(304, b""), "HTTP 304"),
        (
            says(200, {}, ce_id="1", ce_type="OrderCreated", ce_source="x", ce_time=timestamp(NOW)),
            "'OrderCreated', which it does not declare",
        ),
    ],
)
async def test_what_will_never_be_answered_is_rejected(stranger: Stranger, respond: Respond, message: str) -> None:
    async with responding(stranger, respond) as participants:
        with pytest.raises(Rejected, match=message):
            await participants.ask(ReserveInventory, command_envelope(RESERVE), key="k")


async def test_queries_of_strangers(stranger: Stranger) -> None:
    question = GetOrder(order_id="o-1")
    async with responding(stranger, says(200, {"orderId": "o-1", "colour": "red"})) as participants:
        assert await participants.read(question) == OrderView(order_id="o-1")
    for respond in (says(200, b"<html>"), says(200, {"colour": "red"}), says(503, b"")):
        async with responding(stranger, respond) as participants:
            with pytest.raises(NotYet):
                await participants.read(question)
    async with responding(stranger, says(404, b"<html>")) as participants:
        with pytest.raises(NotFound):
            await participants.read(question)
    async with responding(stranger, says(403, b"")) as participants:
        with pytest.raises(Rejected, match="HTTP 403"):
            await participants.read(question)


async def test_who_does_not_answer_in_time_does_not_answer_yet(stranger: Stranger) -> None:
    asked, over = asyncio.Event(), asyncio.Event()

    async def never(send: Send) -> None:
        asked.set()
        await over.wait()

    async with responding(stranger, never, timeout_s=0.05) as participants:
        with pytest.raises(NotYet, match="did not answer in time"):
            await participants.ask(ReserveInventory, command_envelope(RESERVE), key="k")
    assert asked.is_set()
    over.set()
