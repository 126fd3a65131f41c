"""Shipping is a program in plain Node.js, which has never heard of minuet: examples/participant-node.

The shop runs by orchestration, without a shipping service of its own, and asks that program over HTTP. What
docs/participants.md shows of such a conversation is had with it here.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import shlex
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from minuet.adapters.http_participants import HttpParticipants
from minuet.cli.main import app as minuet
from minuet.codec import Codec
from minuet.core.envelope import Envelope, SagaRef
from minuet.core.errors import NotYet
from minuet.core.projection import Coordination
from minuet.settings import Settings
from minuet_shop import app as shop_app
from minuet_shop.contracts import CreateShipment, OrderShipped
from minuet_shop.process import order_processing
from tests.acceptance.processes import GONE, Answer, Process, Shop, mixed, shipped_of, until

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.grounds("embedded/orchestration", only=True),
    pytest.mark.timeout(240),
]

REPOSITORY = Path(__file__).parents[2]
PROGRAM = REPOSITORY / "examples" / "participant-node" / "shipping.mjs"
OURS = ("orders", "inventory", "payment", "notifications", "sandbox", "orchestrator")
CONTRACT = REPOSITORY / "docs" / "participants.md"


class NodeProcess(Process):
    """The participant, as one more process of the shop."""

    def __init__(self, port: int, folder: Path, carrier: str) -> None:
        node = shutil.which("node")
        # What is missing is a failure, never a skip, as with the servers of other tests.
        assert node, "there is no `node` on the PATH; Node.js 20 or newer is needed: apt-get install nodejs"
        self.services = ("shipping",)
        self.log = folder / "shipping.node.log"
        self.ready_file = folder / "shipping.node.ready"
        with self.log.open("ab") as errors, self.ready_file.open("wb") as ready:
            self.popen = subprocess.Popen(
                [node, PROGRAM, "--port", str(port), "--data", folder / "shipping-data", "--carrier", carrier],
                stdin=subprocess.DEVNULL, stdout=ready, stderr=errors, cwd=folder,
            )  # fmt: skip


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


class ForeignShop:
    """The shop whose shipping is Node's. It starts with everything but that."""

    def __init__(self, shop: Shop) -> None:
        self.shop = shop
        self.port = free_port()
        self.carrier = ""

    async def start(self) -> None:
        ours = self.shop.launch(*OURS, MINUET_PARTICIPANTS__SHIPPING=f"http://127.0.0.1:{self.port}")
        await ours.ready()
        self.carrier = f"{ours.url}/sandbox/carrier"

    async def start_node(self) -> NodeProcess:
        node = NodeProcess(self.port, self.shop.folder, self.carrier)
        self.shop.processes.append(node)
        await node.ready()
        return node

    async def shipments(self) -> dict[str, dict[str, Any]]:
        page = await self.shop.get("/shipping/shipments?limit=500")
        return {one["orderId"]: one for one in page["shipments"]}

    def entries(self) -> list[str]:
        """What the participant has in its journal of answers, by key."""
        lines = (self.shop.folder / "shipping-data" / "shipping.jsonl").read_text().splitlines()
        return [record["key"] for record in map(json.loads, lines) if "answer" in record]


@pytest.fixture
async def foreign(empty: Shop) -> ForeignShop:
    made = ForeignShop(empty)
    await made.start()
    return made


async def test_orders_are_shipped_and_a_refusal_compensates(foreign: ForeignShop) -> None:
    shop = foreign.shop
    await foreign.start_node()
    await shop.stock(GONE, 0)
    orders = mixed("FOREIGN", 32)
    await shop.place_all(orders)
    ended = await shop.ended(*orders)

    expected = shipped_of(orders)
    assert {name for name, order in ended.items() if order.status == "SHIPPED"} == expected
    reasons = {order.reason for order in ended.values() if order.status == "CANCELLED"}
    assert reasons == {"the card was declined", "there is no such address", f"{GONE} is out of stock"}
    await shop.at_rest()
    books = await shop.balanced()
    assert (books.shipped, books.cancelled) == (len(expected), len(orders) - len(expected))
    assert set(await foreign.shipments()) == expected

    # Node is on no broker: who listens to OrderShipped hears nothing of it.
    notes = (await shop.get("/notifications?limit=500"))["notes"]
    assert {note["orderId"] for note in notes} == set(orders) - expected

    # It was Node that did it: minuet ran no shipping, and each command was asked for with the key of its step.
    assert not (shop.data / "shipping.db").exists()
    assert "shipping" not in (await shop.get("/health"))["services"]
    asked = {f"OrderProcessing/{name}/create_shipment" for name in expected | refused_by_the_carrier(orders)}
    assert sorted(foreign.entries()) == sorted(asked)


def refused_by_the_carrier(orders: dict[str, Any]) -> set[str]:
    return {
        name for name, (customer, items) in orders.items() if customer.startswith("NOADDRESS") and GONE not in items
    }


async def test_it_is_killed_in_the_middle_and_each_order_ends_with_one_parcel(foreign: ForeignShop) -> None:
    shop = foreign.shop
    node = await foreign.start_node()
    orders = {f"KILLED-{number:03}": (f"CUST{number}", ["ITEM001", "ITEM005"]) for number in range(100)}
    halves = [dict(list(orders.items())[:50]), dict(list(orders.items())[50:])]
    await shop.behave("carrier", latencyMs=50, failAfter=0.5, seed=1)
    await shop.place_all(halves[0])
    await until(lambda: _shipped(foreign, 10), what="the first orders are shipped")
    node.kill()
    parcels = (await shop.ledgers())[1].parcels
    assert len(parcels) > len(foreign.entries()), "of some the carrier has a parcel, and Node has no answer"

    await shop.place_all(halves[1])
    node = await foreign.start_node()
    await until(lambda: _shipped(foreign, 60), what="it has gone on")
    node.kill()
    await foreign.start_node()
    await shop.behave("carrier")

    ended = await shop.ended(*orders)
    assert {order.status for order in ended.values()} == {"SHIPPED"}
    await shop.at_rest()
    books = await shop.balanced()
    assert (books.shipped, books.parcels) == (100, 100)
    assert set(await foreign.shipments()) == set(orders)
    # Every key has one answer, before and after the kills.
    assert sorted(foreign.entries()) == sorted(f"OrderProcessing/{name}/create_shipment" for name in orders)


async def _shipped(foreign: ForeignShop, count: int) -> bool:
    return len(await foreign.shipments()) >= count


async def test_a_line_that_was_being_written_when_it_was_killed_counts_for_nothing(foreign: ForeignShop) -> None:
    node = await foreign.start_node()
    first = await create(foreign, "TORN-1")
    node.kill()
    journal = foreign.shop.folder / "shipping-data" / "shipping.jsonl"
    with journal.open("ab") as file:
        file.write(b'{"key":"k TORN-2","answer":{"status":200,"bo')
    await foreign.start_node()
    assert await create(foreign, "TORN-1") == first
    assert (await create(foreign, "TORN-2"))[0] == 200
    assert set(await foreign.shipments()) == {"TORN-1", "TORN-2"}
    assert all(json.loads(line) for line in journal.read_text().splitlines())


async def create(foreign: ForeignShop, order_id: str, key: str = "", **headers: str) -> tuple[int, Any]:
    body = {"orderId": order_id, "customerId": "CUST1"}
    answer = await foreign.shop.ask(
        "POST", "/shipping/create", body, **{"idempotency_key": key or f"k {order_id}", **headers}
    )
    return answer.status, answer.json


async def cancel(foreign: ForeignShop, order_id: str, key: str) -> tuple[int, Any]:
    answer = await foreign.shop.ask("POST", "/shipping/cancel", {"orderId": order_id}, idempotency_key=key)
    return answer.status, answer.json


async def test_it_keeps_what_a_participant_promises(foreign: ForeignShop) -> None:
    shop = foreign.shop
    node = await foreign.start_node()

    # The same key has the same answer, at once and after a restart; another key for the same order is no second parcel.
    answers = await asyncio.gather(*(create(foreign, "P-1") for _ in range(20)))
    assert all(one == answers[0] for one in answers)
    status, event = answers[0]
    assert (status, event["eventType"], event["orderId"]) == (200, "OrderShipped", "P-1")
    another = await create(foreign, "P-1", key="another")
    assert another[1]["trackingNumber"] == event["trackingNumber"]
    node.kill()
    await foreign.start_node()
    assert await create(foreign, "P-1") == answers[0]
    assert [one.order_id for one in (await shop.ledgers())[1].parcels] == ["P-1"]

    # The same key for something else is a mistake of whoever asks.
    assert (await create(foreign, "P-2", key="k P-1"))[0] == 422

    # An undo is never refused, also that of what was never done; what was undone is not done any more.
    undone = await cancel(foreign, "P-1", "undo P-1")
    assert (undone[0], undone[1]["eventType"]) == (200, "ShipmentCancelled")
    assert await cancel(foreign, "P-1", "undo P-1") == undone
    assert (await cancel(foreign, "P-3", "undo P-3"))[0] == 200
    for late in ("P-1", "P-3"):
        status, problem = await create(foreign, late, key=f"late {late}")
        assert (status, problem["type"]) == (409, "urn:minuet:refusal:AddressRefused")
    assert await create(foreign, "P-1") == answers[0], "what was said stays said"

    # A deadline counts before the work begins, and where a refusal is still allowed.
    past = "2026-01-31T12:00:00Z"
    status, problem = await create(foreign, "P-4", ce_expirytime=past)
    assert (status, problem["type"], problem["reason"]) == (409, "urn:minuet:refusal:StepRefused", "deadline passed")
    assert (await create(foreign, "P-5", ce_expirytime=past, ce_mayrefuse="false"))[0] == 200
    await shop.behave("carrier", failAfter=1.0)
    assert (await create(foreign, "P-6"))[0] == 503
    await shop.behave("carrier")
    assert (await create(foreign, "P-6", ce_expirytime=past))[0] == 200, (
        "a parcel may be on its way since the first time"
    )
    assert sum(one.order_id == "P-6" for one in (await shop.ledgers())[1].parcels) == 1


# -- docs/participants.md ----------------------------------------------------------------------------------------------

CHANGES_EACH_TIME = {"timestamp", "trackingNumber"}
SENT_BY_ANY_SERVER = {"date", "connection", "keep-alive"}


def exchanges() -> Iterator[tuple[str, str]]:
    """Each request of the page with the response below it."""
    blocks = re.findall(r"```http\n(.*?)```", CONTRACT.read_text(), flags=re.DOTALL)
    assert len(blocks) % 2 == 0
    return zip(blocks[::2], blocks[1::2], strict=True)


def parsed(block: str) -> tuple[str, dict[str, str], Any]:
    head, _, body = block.strip().partition("\n\n")
    first, *lines = head.splitlines()
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    return first, headers, json.loads(body) if body else None


def steady(content: Any) -> Any:
    if not isinstance(content, dict):
        return content
    return {name: "..." if name in CHANGES_EACH_TIME else value for name, value in content.items()}


async def test_the_conversation_in_the_contract_is_a_real_one(foreign: ForeignShop) -> None:
    shop = foreign.shop
    await foreign.start_node()
    told = 0
    for request, response in exchanges():
        first, headers, body = parsed(request)
        status_line, expected_headers, expected = parsed(response)
        method, path, _ = first.split(" ")
        is_unavailable = status_line.split(" ")[1] == "503"
        await shop.behave("carrier", failBefore=1.0 if is_unavailable else 0.0)
        sent = {name: value for name, value in headers.items() if name not in ("host", "content-length")}
        answer: Answer = await shop.ask(method, path, body, **sent)
        assert answer.status == int(status_line.split(" ")[1]), request
        found = {name.lower(): value for name, value in answer.headers.items()}
        for name in SENT_BY_ANY_SERVER | {"content-length"}:
            found.pop(name, None)
        expected_headers.pop("content-length", None)
        assert found == expected_headers, request
        assert steady(answer.json) == steady(expected), request
        told += 1
    assert told >= 6


async def test_the_request_in_the_contract_is_what_the_orchestrator_sends() -> None:
    request, _ = next(exchanges())
    async with recorder() as (url, received), HttpParticipants(lambda _: url, CODEC, clock=Now()) as participants:
        with pytest.raises(NotYet):
            await participants.ask(CreateShipment, ENVELOPE, key=ENVELOPE.id)
    first, headers, body = parsed(request)
    sent_first, sent_headers, sent_body = parsed(received[0])
    assert (first, body) == (sent_first, sent_body)
    for either in (headers, sent_headers):
        assert re.fullmatch("[0-9a-f]{12}", either.pop("ce-sagadefinition"))
        for name in ("host", "content-length", "connection"):
            either.pop(name, None)
    assert headers == sent_headers


@asynccontextmanager
async def recorder() -> AsyncIterator[tuple[str, list[str]]]:
    received: list[str] = []

    async def record(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = re.search(r"content-length: (\d+)", head, flags=re.IGNORECASE)
        body = await reader.readexactly(int(length[1]) if length else 0)
        received.append(head.replace("\r\n", "\n") + body.decode())
        writer.write(b"HTTP/1.1 503 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(record, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", received


class Now:
    def now(self) -> float:
        return AT


AT = 1_769_860_800.0  # 2026-01-31T12:00:00Z
CODEC = Codec(shop_app.messages())
SAGA = SagaRef(
    "OrderProcessing", "ORD12345", order_processing.fingerprint, Coordination.ORCHESTRATION, "create_shipment"
)
ENVELOPE = Envelope(
    id="OrderProcessing/ORD12345/create_shipment",
    type="CreateShipment",
    source="orchestrator",
    time=AT,
    body=CODEC.encode(CreateShipment(order_id="ORD12345", customer_id="CUST987"), time=AT),
    key="ORD12345",
    saga=SAGA,
    correlation="PlaceOrder/ORD12345",
    causation="ProcessPayment/ORD12345",
    traceparent="00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
)


def test_the_events_in_the_contract_are_the_shops() -> None:
    shown = [content for _, response in exchanges() if (content := parsed(response)[2]) and "eventType" in content]
    assert any(OrderShipped.model_validate(content) for content in shown if content["eventType"] == "OrderShipped")


def test_the_settings_in_the_contract_are_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (shown,) = re.findall(r"```toml\n(.*?)```", CONTRACT.read_text(), flags=re.DOTALL)
    (tmp_path / "minuet.toml").write_text(shown)
    assert Settings.load().participants.keys() == {"shipping"}


def test_the_commands_in_the_readme_are_commands() -> None:
    commands = re.findall(r"^\$ (.*)$", (PROGRAM.parent / "README.md").read_text(), flags=re.MULTILINE)
    (ours,) = (shlex.split(one) for one in commands if one.startswith("minuet "))
    assert CliRunner().invoke(minuet, [*ours[1:], "--help"]).exit_code == 0
    assert {name for option, name in itertools.pairwise(ours) if option == "--service"} == set(OURS)
    (node,) = (shlex.split(one) for one in commands if one.startswith("node "))
    assert REPOSITORY / node[1] == PROGRAM
    assert node[2::2] == ["--port", "--data", "--carrier"]
