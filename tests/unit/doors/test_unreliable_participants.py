"""Participants over real sockets that answer late, twice, never, with garbage, slowly, or with what is no answer.

One orchestrator runs a saga for each of them. What has to hold for all: whatever is indefinite is asked again, with the
same key, until it is definite; what never will be is parked with its reason; a refusal compensates; and nobody takes
more time or memory than he may have.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import pytest_asyncio

from minuet import App, Command, Event, Refusal, Saga, Service, Settings, running, step
from minuet.adapters import http_participants
from minuet.adapters.http_participants import CONNECTIONS_MAX, RESPONSE_BYTES_MAX, HttpParticipants
from minuet.bootstrap.parts import Adapters
from minuet.bootstrap.system import System
from minuet.codec import Codec
from minuet.core.coordinator import Status
from minuet.core.errors import NotYet, Rejected
from minuet.observer import NEEDS_OPERATOR, SagaView
from minuet.runtime.directory import Elsewhere
from tests.unit.doors.kit import FixedClock, GetOrder, OrderView, command_envelope

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]

TIMEOUT_S = 0.5
AGAIN_S = 0.05
PATIENCE_S = 30.0
UNDER_WAY_BYTES = 8 * 1024 * 1024
"""What fits into the buffers of a connection's two ends, and is not read."""


class Asked(Event, channel="desk"):
    booking: str


class Booked(Event, channel="hall"):
    booking: str
    seat: str


class SoldOut(Refusal, channel="hall"):
    booking: str


class Cancelled(Event, channel="hall"):
    booking: str


class Invoiced(Event, channel="bank"):
    booking: str


class Declined(Refusal, channel="bank"):
    booking: str


class Ask(Command, service="desk", answers=(Asked,), key="booking"):
    booking: str


class Book(Command, service="hall", answers=(Booked, SoldOut), http="POST /bookings", key="booking"):
    booking: str


class Cancel(Command, service="hall", answers=(Cancelled,), http="DELETE /bookings/{booking}", key="booking"):
    booking: str


class Invoice(Command, service="bank", answers=(Invoiced, Declined), http="POST /invoices", key="booking"):
    booking: str


desk = Service("desk")


@desk.handles(Ask)
def ask(command: Ask) -> Asked:
    return Asked(booking=command.booking)


BOOKING = Saga("Booking", begins_with=Asked, key="booking", steps=[step(Book, undo=Cancel), step(Invoice)])
APP = App("hall", services=[desk], sagas=[BOOKING])


# -- a server that does what it is told --------------------------------------------------------------------------------


@dataclass
class Request:
    method: str
    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    writer: asyncio.StreamWriter

    @property
    def booking(self) -> str:
        return str(self.body.get("booking") or self.path.rpartition("/")[2])

    @property
    def is_booking(self) -> bool:
        return self.path == "/bookings"

    async def send(self, *parts: bytes) -> None:
        self.writer.write(b"".join(parts))
        await self.writer.drain()


Behaviour = Callable[[Request], Awaitable[None]]


class HangUp(Exception):
    """The connection is to be closed now."""


@dataclass
class Hall:
    """A participant on a socket: does for a booking's first commands what it is told, then answers as it should.

    Attributes:
        told: by booking, what to do instead, one for each time that it is asked.
        always: by booking, what to do instead every time: on a busy machine the orchestrator may ask more than once.
        taken: bytes that clients took of answers without an end.
    """

    told: dict[str, list[Behaviour]] = field(default_factory=dict)
    always: dict[str, Behaviour] = field(default_factory=dict)
    asked: defaultdict[str, list[Request]] = field(default_factory=lambda: defaultdict(list))
    taken: Counter[str] = field(default_factory=Counter)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    connections: int = 0
    url: str = ""

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        self.connections += 1
        try:
            while True:
                await self._serve(await _request(reader, writer))
        except (HangUp, asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self.tasks.discard(task)
            writer.close()

    async def _serve(self, request: Request) -> None:
        self.asked[request.booking].append(request)
        waiting = self.told.get(request.booking)
        behaviour = waiting.pop(0) if waiting else self.always.get(request.booking, well)
        await behaviour(request)


async def _request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Request:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    method, path, _ = head[0].split(" ")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return Request(method, path, headers, json.loads(body or b"{}"), writer)


@asynccontextmanager
async def hall_at_work(hall: Hall | None = None) -> AsyncIterator[Hall]:
    hall = hall or Hall()
    server = await asyncio.start_server(hall.connected, "127.0.0.1", 0)
    hall.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield hall
    finally:
        server.close()
        for task in tuple(hall.tasks):
            task.cancel()
        await asyncio.gather(*hall.tasks, return_exceptions=True)


def response(status: str, body: bytes = b"", *headers: str, length: int | None = None) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body) if length is None else length}", *headers]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


JSON = "Content-Type: application/json"
PROBLEM = "Content-Type: application/problem+json"


def answer_to(request: Request, *headers: str) -> bytes:
    event = "Booked" if request.is_booking else "Cancelled" if request.method == "DELETE" else "Invoiced"
    content = {"eventType": event, "booking": request.booking, "seat": f"seat of {request.booking}"}
    return response("200 OK", json.dumps(content).encode(), JSON, *headers)


def echo_of(request: Request) -> bytes:
    """A good answer that says what it answers."""
    return answer_to(request, f"Idempotency-Key: {request.headers['idempotency-key']}")


async def well(request: Request) -> None:
    await request.send(answer_to(request))


def says(status: str, content: bytes | dict[str, Any] = b"", *headers: str, length: int | None = None) -> Behaviour:
    body = content if isinstance(content, bytes) else json.dumps(content).encode()

    async def behave(request: Request) -> None:
        await request.send(response(status, body, *headers, length=length))

    return behave


def hangs_up_after(text: bytes) -> Behaviour:
    async def behave(request: Request) -> None:
        await request.send(text)
        raise HangUp

    return behave


def cut(text: bytes) -> Behaviour:
    """As much of a good answer as is left when its end is cut off, in a body of the right length."""

    async def behave(request: Request) -> None:
        body = answer_to(request).partition(b"\r\n\r\n")[2]
        await request.send(response("200 OK", body[: body.index(text)], JSON))

    return behave


async def never(request: Request) -> None:
    await asyncio.Event().wait()


async def after_the_timeout(request: Request) -> None:
    await asyncio.sleep(TIMEOUT_S * 1.5)
    await well(request)


async def byte_by_byte(request: Request) -> None:
    for byte in answer_to(request):
        await request.send(bytes([byte]))
        await asyncio.sleep(TIMEOUT_S / 10)


async def somebody_elses(request: Request) -> None:
    content = {"eventType": "Booked", "booking": "another", "seat": "another's"}
    await request.send(response("200 OK", json.dumps(content).encode(), JSON))


def for_ever(hall: Hall, head: bytes, part: bytes, pause_s: float = 0.0) -> Behaviour:
    """The head, and then the part again and again, as long as somebody takes it."""

    async def behave(request: Request) -> None:
        await request.send(head)
        while True:
            await request.send(part)
            hall.taken[request.booking] += len(part)
            await asyncio.sleep(pause_s)

    return behave


CHUNKED = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
LARGE = 65_536
PAGE = b"<html><body>Sign in to the guest network</body></html>"
OF_ATTRIBUTES = "ce-id: 1", "ce-type: Booked", "ce-source: hall", "ce-time: 2026-01-31T12:00:00Z"
MINE = {"eventType": "Booked", "booking": "x", "seat": "x"}
INDEFINITE: dict[str, Callable[[Hall], Behaviour]] = {
    "never": lambda hall: never,
    "after-its-timeout": lambda hall: after_the_timeout,
    "byte-by-byte": lambda hall: byte_by_byte,
    "hangs-up-at-once": lambda hall: hangs_up_after(b""),
    "hangs-up-in-the-headers": lambda hall: hangs_up_after(b"HTTP/1.1 200 OK\r\nContent-Type: appl"),
    "hangs-up-in-the-body": lambda hall: hangs_up_after(response("200 OK", b'{"eventType":"Bo', JSON, length=70)),
    "hangs-up-in-a-chunk": lambda hall: hangs_up_after(CHUNKED + b'20\r\n{"eventType"'),
    "hangs-up-in-a-body-without-length": lambda hall: hangs_up_after(b'HTTP/1.0 200 OK\r\n\r\n{"eventType":"Booked"'),
    "truncated-json": lambda hall: cut(b'"seat"'),
    "html": lambda hall: says("200 OK", PAGE, "Content-Type: text/html"),
    "html-that-calls-itself-json": lambda hall: says("200 OK", PAGE, JSON),
    "json-that-calls-itself-html": lambda hall: says("200 OK", MINE, "Content-Type: text/html"),
    "nothing": lambda hall: says("200 OK"),
    "no-content": lambda hall: says("204 No Content"),
    "accepted": lambda hall: says("202 Accepted", {"booking": "accepted", "seat": "x"}, JSON),
    "invalid-utf-8": lambda hall: says("200 OK", b'{"eventType":"Booked","booking":"\xff","seat":"x"}', JSON),
    "utf-16": lambda hall: says("200 OK", json.dumps(MINE).encode("utf-16"), JSON),
    "invalid-utf-8-in-a-header": lambda hall: says("200 OK", MINE, JSON, *OF_ATTRIBUTES[1:], "ce-id: \xff\xfe"),
    "a-name-too-long": lambda hall: says("200 OK", MINE, JSON, *OF_ATTRIBUTES[1:], f"ce-id: {'x' * 5000}"),
    "a-time-that-no-calendar-has": lambda hall: says(
        "200 OK", MINE, JSON, *OF_ATTRIBUTES[:3], "ce-time: 0001-01-01T00:00:00+14:00"
    ),
    "another-shape": lambda hall: says("200 OK", {"eventType": "Booked", "booking": ["x"]}, JSON),
    "a-list": lambda hall: says("200 OK", b'["Booked"]', JSON),
    "nested-too-deeply": lambda hall: says("200 OK", b"[" * 100_000, JSON),
    "compressed": lambda hall: says("200 OK", b"\x1f\x8b\x08" + bytes(50), JSON, "Content-Encoding: gzip"),
    "somebody-elses": lambda hall: somebody_elses,
    "huge-and-announced": lambda hall: says("200 OK", b" ", JSON, length=10**15),
    "huge-in-chunks": lambda hall: for_ever(hall, CHUNKED, b"%x\r\n%b\r\n" % (LARGE, b" " * LARGE)),
    "huge-without-length": lambda hall: for_ever(hall, b"HTTP/1.0 200 OK\r\n\r\n", b" " * LARGE),
    "small-chunks-for-ever": lambda hall: for_ever(hall, CHUNKED, b"1\r\n \r\n", 0.01),
    "headers-for-ever": lambda hall: for_ever(hall, b"HTTP/1.1 200 OK\r\n", b"x-more: %b\r\n" % (b"x" * 4000)),
    "one-header-for-ever": lambda hall: for_ever(hall, b"HTTP/1.1 200 OK\r\nx-more: ", b"x" * 4000),
    "continue-for-ever": lambda hall: for_ever(hall, b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 100, 0.001),
    "not-http": lambda hall: hangs_up_after(b"220 mail.example ESMTP\r\n"),
    "bad-length": lambda hall: hangs_up_after(b"HTTP/1.1 200 OK\r\nContent-Length: -7\r\n\r\n{}"),
    "500": lambda hall: says("500 Internal Server Error", b"Traceback (most recent call last)"),
    "502": lambda hall: says("502 Bad Gateway", PAGE, "Content-Type: text/html"),
    "503": lambda hall: says("503 Service Unavailable"),
    "503-retry-after": lambda hall: says("503 Service Unavailable", b"", "Retry-After: 1"),
    "503-retry-after-0": lambda hall: says("503 Service Unavailable", b"", "Retry-After: 0"),
    "504": lambda hall: says("504 Gateway Timeout"),
    "429": lambda hall: says("429 Too Many Requests"),
    "429-retry-after": lambda hall: says("429 Too Many Requests", b"", "Retry-After: 1"),
    "a-problem-with-a-zero-byte": lambda hall: says("500 Oh", {"detail": "a\0b\nc"}, PROBLEM),
    "409-that-is-a-success": lambda hall: says("409 Conflict", MINE, JSON, *OF_ATTRIBUTES),
    "409-that-lacks-its-fields": lambda hall: says("409 Conflict", {"title": "Sold out"}, PROBLEM),
}  # fmt: skip
WITHOUT_END = {
    name for name in INDEFINITE if name.endswith("for-ever") or name.startswith("huge-in") or "huge-w" in name
}
NEVER: dict[str, tuple[Behaviour, str]] = {
    "another-event": (says("200 OK", {"eventType": "Invoiced", "booking": "another-event"}, JSON), "'Invoiced', which"),
    "an-unknown-event": (says("200 OK", {"eventType": "Shipped"}, JSON), "'Shipped', which it does not declare"),
    "another-event-in-its-attributes": (
        says("200 OK", MINE, JSON, *OF_ATTRIBUTES[:1], "ce-type: Asked", *OF_ATTRIBUTES[2:]),
        "'Asked', which it does not declare",
    ),
    "409-that-is-no-refusal": (says("409 Conflict", {"title": "Busy", "detail": "too fast"}, PROBLEM), "too fast"),
    "409-of-html": (says("409 Conflict", PAGE, "Content-Type: text/html"), "HTTP 409"),
    "422": (says("422 Unprocessable Content", {"detail": "seat: is missing"}, PROBLEM), "seat: is missing"),
    "400": (says("400 Bad Request"), "HTTP 400"),
    "401": (says("401 Unauthorized"), "HTTP 401"),
    "404": (says("404 Not Found", PAGE, "Content-Type: text/html"), "HTTP 404"),
    "another-protocol": (hangs_up_after(b"HTTP/1.1 101 Oh\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"), "HTTP 101"),
}  # fmt: skip
REFUSAL = {"type": "https://hall.example/problems/sold-out", "title": "Sold out", "status": 409}


# -- the orchestrator that asks it -------------------------------------------------------------------------------------


class Impatient(Adapters):
    def elsewhere(self, system: System, stack: AsyncExitStack) -> Elsewhere | None:
        client = HttpParticipants(system.deployment.url_of, system.codec, clock=system.clock, timeout_s=TIMEOUT_S)
        stack.push_async_callback(client.close)
        stack.callback(system.deployment.close)
        return client


@dataclass
class Stage:
    system: System
    hall: Hall

    async def begin(self, booking: str, *behaviours: Behaviour, always: Behaviour = well) -> None:
        self.hall.told[booking] = list(behaviours)
        self.hall.always[booking] = always
        await self.system.send(Ask(booking=booking))

    async def ended(self, booking: str) -> Status:
        async with asyncio.timeout(PATIENCE_S):
            return await self.system.ended("Booking", booking)

    async def parked(self, booking: str) -> SagaView:
        async with asyncio.timeout(PATIENCE_S):
            while True:
                view = await self.system.observer.saga(booking, "Booking")
                if view.status == NEEDS_OPERATOR:
                    return view
                await asyncio.sleep(0.01)

    async def seat(self, booking: str) -> str:
        view = await self.system.observer.saga(booking, "Booking")
        (body,) = (json.loads(one.body) for one in view.messages if one.type == "Booked")
        return str(body["seat"])

    def keys(self, booking: str, path: str = "/bookings") -> list[str]:
        return [one.headers["idempotency-key"] for one in self.hall.asked[booking] if one.path == path]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(http_participants, "RETRY_S", AGAIN_S)
        async with hall_at_work() as hall:
            settings = Settings(
                data=tmp_path_factory.mktemp("data"),
                stores={"default": "memory:"},
                channels={"*": "memory:"},
                coordination={"Booking": "orchestration"},
                participants={"hall": hall.url, "bank": f"{hall.url}/"},
            )
            async with running(APP, settings, parts=Impatient) as system:
                yield Stage(system, hall)


@pytest.mark.parametrize("what", INDEFINITE)
async def test_what_is_indefinite_is_asked_again_with_the_same_key(stage: Stage, what: str) -> None:
    behaviour = INDEFINITE[what](stage.hall)
    began = asyncio.get_running_loop().time()
    await stage.begin(what, behaviour, behaviour)
    assert await stage.ended(what) is Status.COMPLETED
    assert asyncio.get_running_loop().time() - began < PATIENCE_S / 3
    assert await stage.seat(what) == f"seat of {what}", "the answer is the good one, and its own"
    keys = stage.keys(what)
    assert len(keys) >= 3
    assert set(keys) == {f"Booking/{what}/book"}
    assert stage.hall.taken[what] <= 2 * (RESPONSE_BYTES_MAX + UNDER_WAY_BYTES)
    assert not what.endswith("for-ever") or stage.hall.taken[what], "it had a beginning"


@pytest.mark.parametrize("what", NEVER)
async def test_what_is_no_answer_and_never_will_be_is_parked_with_its_reason(stage: Stage, what: str) -> None:
    behaviour, reason = NEVER[what]
    await stage.begin(what, always=behaviour)
    view = await stage.parked(what)
    assert reason in view.waiting[0].why
    asked = len(stage.keys(what))
    await asyncio.sleep(4 * AGAIN_S)
    assert len(stage.keys(what)) == asked, "nobody asks again before an operator says so"
    del stage.hall.always[what]
    (parked,) = [one for one in await stage.system.observer.parked() if f"/{what}/" in one.id]
    assert await stage.system.observer.reopen(parked.id)
    assert await stage.ended(what) is Status.COMPLETED
    assert set(stage.keys(what)) == {f"Booking/{what}/book"}


async def test_a_refusal_is_recorded_and_compensates(stage: Stage) -> None:
    await stage.begin("refused", always=says("409 Conflict", {**REFUSAL, "booking": "refused"}, PROBLEM))
    assert await stage.ended("refused") is Status.COMPENSATED
    assert {one.path for one in stage.hall.asked["refused"]} == {"/bookings"}


def declining(undo: Behaviour) -> Behaviour:
    """The hall has a seat, and the bank says no."""

    async def behave(request: Request) -> None:
        declined = says("409 Conflict", {"title": "Declined", "booking": request.booking}, PROBLEM)
        await (declined if request.path == "/invoices" else undo if request.method == "DELETE" else well)(request)

    return behave


async def test_a_later_refusal_undoes_what_was_done_however_often_the_undo_fails(stage: Stage) -> None:
    fails = [says("500 Oh"), never, says("503 No")]

    async def undo(request: Request) -> None:
        await (fails.pop(0) if fails else well)(request)

    await stage.begin("undone", always=declining(undo))
    assert await stage.ended("undone") is Status.COMPENSATED
    keys = stage.keys("undone", "/bookings/undone")
    assert len(keys) >= 4
    assert set(keys) == {"Booking/undone/book/undo"}


async def test_an_undo_cannot_be_refused(stage: Stage) -> None:
    content = {"type": "urn:minuet:refusal:StepRefused", "service": "hall", "command": "Cancel", "reason": "too late"}
    await stage.begin("kept", always=declining(says("409 Conflict", content, PROBLEM)))
    view = await stage.parked("kept")
    assert "hall refused Cancel with StepRefused, which cannot be refused" in view.waiting[0].why


@pytest.mark.parametrize("answer", [answer_to, echo_of])
async def test_an_answer_that_comes_twice_is_no_other_orders_answer(
    stage: Stage, answer: Callable[[Request], bytes]
) -> None:
    """The second copy may come at once, or when the connection is in use for the next command."""

    async def at_once(request: Request) -> None:
        await request.send(answer(request), answer(request))

    async def a_little_later(request: Request) -> None:
        await request.send(answer(request))
        await asyncio.sleep(0.02)
        await request.send(answer(request))

    async def echo(request: Request) -> None:
        await request.send(echo_of(request))

    bookings = [f"twice-{answer.__name__}-{number}" for number in range(40)]
    for number, booking in enumerate(bookings):
        await stage.begin(booking, *((at_once, a_little_later, echo)[(number + turn) % 3] for turn in range(2)))
        if number % 4 == 0:
            await asyncio.sleep(0.03)
    for booking in bookings:
        assert await stage.ended(booking) is Status.COMPLETED
        assert await stage.seat(booking) == f"seat of {booking}"


async def test_redirects_lead_nowhere(stage: Stage) -> None:
    async with hall_at_work() as elsewhere:
        for status in ("301 Moved", "302 Found", "303 See Other", "307 Temporary Redirect", "308 Permanent Redirect"):
            booking = f"redirect-{status[:3]}"
            await stage.begin(booking, always=says(status, b"", f"Location: {elsewhere.url}/bookings"))
            assert f"HTTP {status[:3]}" in (await stage.parked(booking)).waiting[0].why
        assert elsewhere.connections == 0


# -- without an orchestrator -------------------------------------------------------------------------------------------


CODEC = Codec(APP.messages())


def booking_envelope(booking: str) -> Any:
    return command_envelope(Book(booking=booking), key=booking, saga=None)


async def test_one_that_hangs_keeps_nobody_from_asking_the_others() -> None:
    async with hall_at_work() as hangs, hall_at_work() as works:
        urls = {"hall": hangs.url, "bank": works.url}
        async with HttpParticipants(urls.__getitem__, CODEC, clock=FixedClock(), timeout_s=20) as participants:
            many = [f"h{number}" for number in range(2 * CONNECTIONS_MAX)]
            hangs.told = {name: [never] for name in many}
            hanging = [asyncio.create_task(participants.ask(Book, booking_envelope(name), key=name)) for name in many]
            async with asyncio.timeout(PATIENCE_S):
                while sum(map(len, hangs.asked.values())) < CONNECTIONS_MAX:
                    await asyncio.sleep(0.01)
                sent = command_envelope(Invoice(booking="b"), key="b", saga=None)
                answer = await participants.ask(Invoice, sent, key="b")
            assert answer.type == "Invoiced"
            assert not any(task.done() for task in hanging)
            assert hangs.connections == CONNECTIONS_MAX, "nor does it get more than so many"
            for task in hanging:
                task.cancel()
            await asyncio.gather(*hanging, return_exceptions=True)


async def test_who_says_what_he_answers_is_asked_on_the_same_connection() -> None:
    async def echo(request: Request) -> None:
        await request.send(echo_of(request))

    async with hall_at_work() as hall, HttpParticipants(lambda _: hall.url, CODEC, clock=FixedClock()) as participants:
        # The first that says so still has a connection of its own; the second opens the one that is kept.
        for behaviour, connections in ((well, 5), (echo, 2)):
            before = hall.connections
            for number in range(5):
                hall.told["b"] = [behaviour]
                await participants.ask(Book, booking_envelope("b"), key=f"k{number}")
            assert hall.connections - before == connections
        # One that no longer says so is asked once more, where there can be no doubt.
        asked = len(hall.asked["b"])
        await participants.ask(Book, booking_envelope("b"), key="k")
        assert [one.headers["idempotency-key"] for one in hall.asked["b"][asked:]] == ["k", "k"]


async def test_a_view_of_something_else_is_no_answer() -> None:
    async with hall_at_work() as hall:
        codec = Codec([GetOrder])
        async with HttpParticipants(lambda _: hall.url, codec, clock=FixedClock()) as participants:
            hall.told["o-1"] = [says("200 OK", {"orderId": "o-2"}, JSON), says("200 OK", {"orderId": "o-1"}, JSON)]
            with pytest.raises(NotYet, match="its order_id is another"):
                await participants.read(GetOrder(order_id="o-1"))
            assert await participants.read(GetOrder(order_id="o-1")) == OrderView(order_id="o-1")


async def test_a_zero_does_not_make_a_circle() -> None:
    async with hall_at_work() as hall, HttpParticipants(lambda _: hall.url, CODEC, clock=FixedClock()) as participants:
        for headers in (("Retry-After: 0",), ("Retry-After: 0", PROBLEM)):
            hall.told["b"] = [says("503 No", {"retryAfterMs": 0}, *headers)]
            with pytest.raises(NotYet) as late:
                await participants.ask(Book, booking_envelope("b"), key="b")
            assert late.value.retry_after_s >= 0.05


async def test_a_reason_stays_in_its_line() -> None:
    async with hall_at_work() as hall, HttpParticipants(lambda _: hall.url, CODEC, clock=FixedClock()) as participants:
        hall.told["b"] = [says("422 No", {"detail": "a\0b\r\nroot logged in\u2028c" + "x" * 900}, PROBLEM)]
        with pytest.raises(Rejected) as never_said:
            await participants.ask(Book, booking_envelope("b"), key="b")
    assert str(never_said.value).startswith("Book: a b  root logged in cx")
    assert str(never_said.value).isprintable()
    assert len(str(never_said.value)) < 600


async def test_no_content_is_an_answer_where_there_is_nothing_to_say() -> None:
    class Told(Event, channel="hall"): ...

    class Tell(Command, service="hall", answers=(Told,), http="POST /told"): ...

    async with hall_at_work() as hall:
        codec = Codec([Tell, Told])
        async with HttpParticipants(lambda _: hall.url, codec, clock=FixedClock()) as participants:
            hall.told["told"] = [says("204 No Content"), says("200 OK"), says("202 Accepted", b"{}", JSON)]
            sent = command_envelope(Book(booking="b"), type="Tell", body=b"{}", key="k", saga=None)
            assert (await participants.ask(Tell, sent, key="k")).type == "Told"
            for what in ("nonsense", "202 without an event"):
                with pytest.raises(NotYet, match=what):
                    await participants.ask(Tell, sent, key="k")
