"""How the shop understands the world outside: only what is definite counts."""

from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiohttp import ClientSession, web

from minuet import Deployment
from minuet_shop.outside import HttpCarrier, HttpGateway, SaysNo, Unanswered, connected


class World:
    """Answers every request with what it is told to, and remembers the requests."""

    def __init__(self) -> None:
        self.status, self.body, self.content_type = 201, "{}", "application/json"
        self.asked: list[tuple[str, str | None, Any]] = []
        self.url = ""

    async def answer(self, request: web.Request) -> web.Response:
        self.asked.append((request.path, request.headers.get("Idempotency-Key"), await request.json()))
        return web.Response(status=self.status, text=self.body, content_type=self.content_type)


@pytest.fixture
async def outside() -> AsyncIterator[World]:
    outside = World()
    app = web.Application()
    app.router.add_post("/{path:.*}", outside.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0]
    outside.url = f"http://{host}:{port}"
    yield outside
    await runner.cleanup()


@pytest.fixture
async def gateway(outside: World) -> AsyncIterator[HttpGateway]:
    async with ClientSession() as session:
        yield HttpGateway(session, lambda: outside.url)


async def charge(gateway: HttpGateway) -> None:
    await gateway.charge(order_id="A", customer_id="C", amount=Decimal("150.75"), key="K")


async def test_a_charge_is_asked_for_with_its_key(outside: World, gateway: HttpGateway) -> None:
    await charge(gateway)
    assert outside.asked == [("/charges", "K", {"orderId": "A", "customerId": "C", "amount": 150.75})]


async def test_a_refund_says_how_much(outside: World, gateway: HttpGateway) -> None:
    outside.body = '{"orderId": "A", "amount": 150.75}'
    assert await gateway.refund(order_id="A") == Decimal("150.75")
    assert outside.asked == [("/refunds", None, {"orderId": "A"})]


async def test_a_parcel_has_a_tracking_number(outside: World) -> None:
    outside.body = '{"trackingNumber": "TRK998877"}'
    async with ClientSession() as session:
        carrier = HttpCarrier(session, lambda: outside.url)
        assert await carrier.ship(order_id="A", customer_id="C", key="K") == "TRK998877"
        await carrier.cancel(order_id="A")
    assert outside.asked[1] == ("/cancellations", None, {"orderId": "A"})


async def test_a_no_is_definite(outside: World, gateway: HttpGateway) -> None:
    outside.status, outside.body = 402, '{"type": "/problems/declined", "detail": "no money"}'
    outside.content_type = "application/problem+json"
    with pytest.raises(SaysNo, match="no money"):
        await charge(gateway)


@pytest.mark.parametrize(
    ("status", "body"),
    [(500, "{}"), (503, "{}"), (429, "{}"), (422, '{"type": "/problems/key-reused"}'), (402, "{}")],
)
async def test_everything_else_is_no_answer(outside: World, gateway: HttpGateway, status: int, body: str) -> None:
    outside.status, outside.body, outside.content_type = status, body, "application/problem+json"
    with pytest.raises(Unanswered, match=str(status)):
        await charge(gateway)


async def test_a_page_from_somebody_in_between_is_no_answer(outside: World, gateway: HttpGateway) -> None:
    outside.status, outside.body, outside.content_type = 502, "<html>Bad Gateway</html>", "text/html"
    with pytest.raises(Unanswered, match="502"):
        await charge(gateway)


async def test_the_world_is_where_the_settings_say_or_else_the_sandbox(tmp_path: Path) -> None:
    where = "http://127.0.0.1:1"
    deployment = SimpleNamespace(
        data=tmp_path, settings={"carrier": "https://carrier.example/"}, url_of=lambda _: where
    )
    async with connected(cast(Deployment, deployment), "gateway") as (_, url):
        assert url() == "http://127.0.0.1:1/sandbox/gateway"
        where = "http://127.0.0.1:2"  # it was started again
        assert url() == "http://127.0.0.1:2/sandbox/gateway"
    async with connected(cast(Deployment, deployment), "carrier") as (_, url):
        assert url() == "https://carrier.example"
