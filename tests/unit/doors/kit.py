"""A contract, desks that answer as they are told, and a real server on the loopback interface in front of them."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

import aiohttp
from pydantic import Field
from starlette.types import ASGIApp
from yarl import URL

from minuet import App, Command, Event, Query, Refusal, Service, View
from minuet.codec import Codec
from minuet.core.envelope import Envelope, SagaRef
from minuet.core.messages import Message, name_of
from minuet.core.projection import Coordination
from minuet.doors.http import http_app
from minuet.doors.server import serve

NOW = 1_800_000_000.0
SAGA = SagaRef("OrderProcessing", "o-1", "abc123", Coordination.ORCHESTRATION, "reserve_inventory")


class OrderCreated(Event, channel="orders"):
    order_id: str = Field(examples=["o-1"])
    items: list[str] = Field(examples=[["ITEM001"]])


class CreateOrder(
    Command, service="orders", answers=(OrderCreated,), http="POST /orders", accepted="/orders/{order_id}"
):
    """Place an order."""

    customer_id: str = Field(examples=["c-1"])
    items: list[str] = Field(examples=[["ITEM001", "ITEM005"]])
    order_id: str | None = None


class StatusSet(Event, channel="orders"):
    order_id: str
    status: str


class SetStatus(Command, service="orders", answers=(StatusSet,), http="PUT /orders/{order_id}/status"):
    order_id: str
    status: Literal["SHIPPED", "CANCELLED"]


class OrderDropped(Event, channel="orders"):
    order_id: str


class AlreadyShipped(Refusal, channel="orders"):
    order_id: str
    detail: str = "left on Monday"
    status: str = "SHIPPED"


class DropOrder(Command, service="orders", answers=(OrderDropped, AlreadyShipped), http="DELETE /orders/{order_id}"):
    order_id: str


class Line(View):
    item: str
    price: float


class OrderView(View):
    order_id: str
    status: str = "PENDING"
    lines: tuple[Line, ...] = ()


class GetOrder(Query, service="orders", answer=OrderView, http="GET /orders/{order_id}"):
    order_id: str


class OrderPage(View):
    order_ids: list[str]


class ListOrders(Query, service="orders", answer=OrderPage, http="GET /orders"):
    status: str | None = None
    page_limit: Annotated[int, Field(ge=1, le=100)] = 20
    is_open: bool = False


class FindOrders(Query, service="orders", answer=OrderPage, http="GET /orders/search"):
    items: list[str]
    page_limit: int = 20


class InventoryReserved(Event, channel="inventory.reserved"):
    order_id: str
    reserved_items: list[str]


class PartlyReserved(Event, channel="inventory.reserved"):
    order_id: str


class OutOfStock(Refusal, channel="inventory.refused"):
    order_id: str
    item: str


class ReserveInventory(
    Command,
    service="inventory",
    answers=(InventoryReserved, PartlyReserved, OutOfStock),
    http="POST /inventory/reserve",
):
    order_id: str
    items: list[str]


class Weighed(Event, channel="shipping"):
    grams: float


class Weigh(
    Command,
    service="inventory",
    answers=(Weighed,),
    http="POST /inventory/weigh",
    version=2,
    upcasts={1: lambda old: {"grams": old["kilograms"] * 1000}},
):
    grams: float
    note: Any = None


class Silent(Command, service="inventory", answers=(Weighed,)):
    """It has no address."""


COMMANDS: tuple[type[Command], ...] = (CreateOrder, SetStatus, DropOrder, ReserveInventory, Weigh, Silent)
QUERIES: tuple[type[Query], ...] = (GetOrder, ListOrders, FindOrders)


def app_of(commands: tuple[type[Command], ...] = COMMANDS, queries: tuple[type[Query], ...] = QUERIES) -> App:
    services = {name: Service(name) for name in ("orders", "inventory")}
    for command in commands:
        services[command.__contract__.service].handles(command)(_handler(command))
    for query in queries:
        services[query.__contract__.service].answers(query)(_handler(query))
    return App("shop", services=list(services.values()))


def _handler(message: type[Message]) -> Callable[..., Any]:
    def handle(asked: Any) -> Any: ...

    handle.__annotations__ = {"asked": message}
    return handle


APP = app_of()
CODEC = Codec(APP.messages())


class FixedClock:
    def now(self) -> float:
        return NOW


class CountingIds:
    def __init__(self) -> None:
        self.count = 0

    def new(self) -> str:
        self.count += 1
        return f"id-{self.count}"

    def chance(self) -> float:
        return 0.5


@dataclass
class FakeDesk:
    """Answers with whatever ``answers`` (an event, a view or an exception) says, and remembers what it was asked."""

    service: str
    answers: Any = None
    commands: list[Envelope] = field(default_factory=list)
    queries: list[Query] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    gate: asyncio.Event | None = None

    async def ask(self, command: Envelope, *, key: str, wait_s: float) -> Envelope:
        self.commands.append(command)
        self.keys.append(key)
        self.waits.append(wait_s)
        if self.gate is not None:
            await self.gate.wait()
        if isinstance(self.answers, Exception):
            raise self.answers
        return answer_to(command, self.answers, self.service)

    async def read(self, query: Query) -> View:
        self.queries.append(query)
        if isinstance(self.answers, Exception):
            raise self.answers
        assert isinstance(self.answers, View)
        return self.answers


def answer_to(command: Envelope, event: Event, service: str) -> Envelope:
    return Envelope(
        id=f"{command.id}/answer",
        type=name_of(event),
        source=service,
        time=NOW,
        body=CODEC.encode(event, time=NOW),
        key=command.key,
        saga=command.saga,
        correlation=command.correlation or command.id,
        causation=command.id,
    )


def command_envelope(command: Command, **changes: Any) -> Envelope:
    body = CODEC.encode(command, time=NOW)
    version = command.__contract__.version
    made = Envelope(
        id="c-1",
        type=name_of(command),
        source="orchestrator",
        time=NOW,
        body=body,
        key="o-1",
        version=version,
        saga=SAGA,
    )
    return replace(made, **changes)


RESERVE_ENVELOPE = command_envelope(ReserveInventory(order_id="o-1", items=["ITEM001"]))


@dataclass
class Shop:
    """A served shop. ``call`` asks it raw, as any HTTP client would."""

    url: str
    orders: FakeDesk
    inventory: FakeDesk
    session: aiohttp.ClientSession

    async def call(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        if data is not None:
            named = {"content-type": "application/json", **named}
        url, sent = URL(self.url + path, encoded=True), data and io.BytesIO(data)
        async with self.session.request(method, url, data=sent, headers=named, allow_redirects=False) as got:
            return Answer(got.status, {name.lower(): value for name, value in got.headers.items()}, await got.read())

    async def raw(self, request: bytes) -> bytes:
        """Send these bytes; all that comes back until the server hangs up."""
        host, port = self.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(request)
        found = await reader.read()
        writer.close()
        await writer.wait_closed()
        return found


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def is_problem(self, status: int, kind: str) -> bool:
        """Whether it is this problem, with everything that RFC 9457 knows."""
        content = self.json
        return (
            (self.status, self.headers["content-type"]) == (status, "application/problem+json")
            and content["type"] == f"urn:minuet:{kind}"
            and content["status"] == status
            and all(content[name] and isinstance(content[name], str) for name in ("title", "detail", "instance"))
            and b"Traceback" not in self.body
        )


@asynccontextmanager
async def running_shop(mounted: dict[str, ASGIApp] | None = None, *, stop_s: float = 5) -> AsyncIterator[Shop]:
    orders, inventory = FakeDesk("orders"), FakeDesk("inventory")
    desks = {"orders": orders, "inventory": inventory}
    doors = http_app(APP, desks, CODEC, FixedClock(), CountingIds(), mounted or {})
    async with serve(doors, stop_s=stop_s) as url, aiohttp.ClientSession(auto_decompress=False) as session:
        yield Shop(url, orders, inventory, session)
