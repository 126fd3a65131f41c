"""Queries, and everything else that an address may be asked for."""

import logging

import pytest

from minuet.core.errors import DefinitionError, NotFound, NotYet
from minuet.core.messages import Command
from minuet.doors.http import http_app
from tests.unit.doors.kit import (
    APP,
    CODEC,
    COMMANDS,
    CountingIds,
    CreateOrder,
    FakeDesk,
    FindOrders,
    FixedClock,
    GetOrder,
    Line,
    ListOrders,
    OrderCreated,
    OrderPage,
    OrderView,
    Shop,
    app_of,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

ORDER = OrderView(order_id="o-1", lines=(Line(item="ITEM001", price=150.75),))


async def test_a_query_is_200_with_the_view(shop: Shop) -> None:
    shop.orders.answers = ORDER
    answer = await shop.call("GET", "/orders/o-1")
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    assert answer.json == {"orderId": "o-1", "status": "PENDING", "lines": [{"item": "ITEM001", "price": 150.75}]}
    assert shop.orders.queries == [GetOrder(order_id="o-1")]
    answer = await shop.call("GET", "/orders/a%2Fb%C3%BC")
    assert shop.orders.queries[-1] == GetOrder(order_id="a/bü")


async def test_head_is_get_without_the_body(shop: Shop) -> None:
    shop.orders.answers = ORDER
    answer = await shop.call("HEAD", "/orders/o-1")
    assert (answer.status, answer.body) == (200, b"")
    assert int(answer.headers["content-length"]) > 0


async def test_parameters_are_read_as_their_types(shop: Shop) -> None:
    shop.orders.answers = OrderPage(order_ids=[])
    assert (await shop.call("GET", "/orders?status=SHIPPED%20now&pageLimit=5&isOpen=true")).status == 200
    assert (await shop.call("GET", "/orders")).status == 200
    assert (await shop.call("GET", "/orders/search?items=a&items=b%26c&pageLimit=3")).status == 200
    assert shop.orders.queries == [
        ListOrders(status="SHIPPED now", page_limit=5, is_open=True),
        ListOrders(),
        FindOrders(items=["a", "b&c"], page_limit=3),
    ]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("pageLimit=many", "pageLimit"),
        ("pageLimit=101", "pageLimit"),
        ("pageLimit=", "pageLimit"),
        ("page_limit=5", "page_limit"),
        ("colour=red", "colour"),
        ("status=a&status=b", "status"),
        ("status=%ff", "query"),
        ("&".join(["status=a"] * 200), "query"),
        ("x" * 4000 + "=1", "x" * 64),
    ],
)
async def test_parameters_that_do_not_fit_are_a_422(shop: Shop, query: str, field: str) -> None:
    answer = await shop.call("GET", f"/orders?{query}")
    assert answer.is_problem(422, "problem:invalid")
    assert [one["field"] for one in answer.json["errors"]] == [field]
    assert len(answer.body) < 1000
    assert not shop.orders.queries


async def test_what_is_not_there_is_a_404_and_what_is_late_a_503(shop: Shop) -> None:
    shop.orders.answers = NotFound("no order o-1")
    answer = await shop.call("GET", "/orders/o-1")
    assert answer.is_problem(404, "problem:not-found")
    assert answer.json["detail"] == "no order o-1"
    shop.orders.answers = NotYet("the store is busy")
    assert (await shop.call("GET", "/orders/o-1")).is_problem(503, "problem:not-yet")


# -- routes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["/", "/nothing", "/orders/", "/orders/o-1/", "/orders/o-1/lines", "//orders", "/orders%2Fo-1"]
)
async def test_an_unknown_route_is_a_404(shop: Shop, path: str) -> None:
    answer = await shop.call("GET", path)
    assert answer.is_problem(404, "problem:no-such-route")
    assert answer.json["instance"] == path


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("PUT", "/orders", "GET, HEAD, POST"),
        ("PATCH", "/orders/o-1", "DELETE, GET, HEAD"),
        ("GET", "/inventory/reserve", "POST"),
        ("OPTIONS", "/inventory/reserve", "POST"),
        ("POST", "/health", "GET, HEAD"),
    ],
)
async def test_a_wrong_method_is_a_405_that_names_the_right_ones(
    shop: Shop, method: str, path: str, allow: str
) -> None:
    answer = await shop.call(method, path)
    assert answer.is_problem(405, "problem:method-not-allowed")
    assert answer.headers["allow"] == allow


async def test_the_document_takes_get_only(shop: Shop) -> None:
    answer = await shop.call("POST", "/openapi.json")
    assert answer.is_problem(405, "problem:method-not-allowed")
    assert "GET" in answer.headers["allow"]


async def test_health_names_the_services(shop: Shop) -> None:
    answer = await shop.call("GET", "/health")
    assert (answer.status, answer.json) == (200, {"status": "ok", "services": ["inventory", "orders"]})


async def test_a_services_own_application_stands_behind_its_addresses(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    answer = await shop.call("GET", "/inventory/anything/else")
    assert (answer.status, answer.body) == (200, b"/inventory/anything/else")
    with caplog.at_level(logging.ERROR):
        answer = await shop.call("GET", "/inventory/broken")
    assert answer.is_problem(500, "problem:internal")
    assert b"secret" not in answer.body
    assert "secret of the mounted application" in caplog.text


async def test_what_is_not_http_gets_no_traceback(shop: Shop) -> None:
    found = await shop.raw(b"\x00\x01 nonsense\r\n\r\n")
    assert found.startswith(b"HTTP/1.1 400 ")
    assert b"Traceback" not in found


async def test_only_services_with_a_desk_have_routes() -> None:
    doors = http_app(APP, {"inventory": FakeDesk("inventory")}, CODEC, FixedClock(), CountingIds(), {})
    assert [path for path in doors.openapi()["paths"] if "orders" in path] == []


class Again(Command, service="orders", answers=(OrderCreated,), http="POST /orders"):
    pass


class Healthy(Command, service="orders", answers=(OrderCreated,), http="POST /health"):
    pass


class Nowhere(Command, service="orders", answers=(OrderCreated,), http="POST /x", accepted="/orders/{colour}"):
    pass


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (Again, "Again and CreateOrder both want POST /orders"),
        (Healthy, "Healthy and minuet itself both want POST /health"),
        (Nowhere, "names 'colour', which OrderCreated does not have"),
    ],
)
async def test_addresses_that_cannot_be_are_definition_errors(command: type[Command], message: str) -> None:
    assert CreateOrder in COMMANDS
    with pytest.raises(DefinitionError, match=message):
        http_app(app_of((CreateOrder, command)), {"orders": FakeDesk("orders")}, CODEC, FixedClock(), CountingIds(), {})
