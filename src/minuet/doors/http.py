"""The HTTP side of services: one address for each command and query that declares one, and the document of them all.

POST /orders                    a command: 200 or 202 with the event that answers it, 409 with the refusal
GET /orders/{order_id}          a query: 200 with the view, 404
GET /sagas  /sagas/{id}         what became of sagas; POST /sagas/<name> begins one: see `minuet.doors.sagas`
GET /parked  /parked/{id}      what needs an operator: see `minuet.doors.parked`
GET /health  /openapi.json  /docs
/<service>/...                  what the service itself mounts
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fastapi import FastAPI
from pydantic_core import to_json
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from minuet.app import App
from minuet.codec import Codec
from minuet.codec_http import PROBLEM_JSON, problem
from minuet.core.errors import DefinitionError
from minuet.core.messages import Command, HttpRoute, Message, Query, name_of
from minuet.core.saga import Saga
from minuet.doors.endpoints import CommandEndpoint, QueryEndpoint
from minuet.doors.openapi import document_of
from minuet.doors.parked import ParkedDoor
from minuet.doors.routing import Asked, Endpoint, PathRoute, Reply, instance_of, segments_of
from minuet.doors.sagas import SagasDoor
from minuet.ports import Clock, Ids
from minuet.runtime.desk import Desk

OWN_PATHS = ("/health", "/openapi.json", "/docs", "/paused")
OWN_FOLDERS = ("sagas", "parked")
_KINDS = {404: ("no-such-route", "No such route"), 405: ("method-not-allowed", "Method not allowed")}


class Doors(FastAPI):
    """The application. Its OpenAPI document is made from the contract when somebody asks for it."""

    def __init__(
        self, name: str, messages: list[type[Command] | type[Query]], sagas: list[Saga], *, has_parked: bool
    ) -> None:
        super().__init__(
            title=name,
            redoc_url=None,
            swagger_ui_oauth2_redirect_url=None,
            redirect_slashes=False,
            exception_handlers={HTTPException: _tell_http_error, Exception: _tell_unexpected_error},
        )
        self.messages = messages
        self.sagas = sagas
        self.has_parked = has_parked

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            self.openapi_schema = document_of(self.title, self.messages, self.sagas, has_parked=self.has_parked)
        return self.openapi_schema


def http_app(
    app: App,
    desks: Mapping[str, Desk],
    codec: Codec,
    clock: Clock,
    ids: Ids,
    mounted: Mapping[str, ASGIApp],
    sagas: SagasDoor | None = None,
    parked: ParkedDoor | None = None,
) -> FastAPI:
    """The ASGI application of those of the app's services that have a desk.

    Args:
        desks: by service.
        sagas: where sagas can be begun and looked at.
        parked: where what is parked can be looked at and dealt with.
        mounted: applications of the services' own, each served under ``/<service>``, behind the contract's addresses.

    Raises:
        DefinitionError: two messages share an address; says which.
    """
    messages = list(_addressed(app, desks))
    table: dict[tuple[str, ...], dict[str, tuple[type[Message], Endpoint]]] = {}
    for message in messages:
        route = message.__contract__.http
        assert route is not None
        methods = table.setdefault(_shape(route), {})
        if route.method in methods or route.path in OWN_PATHS or route.path.split("/")[1] in OWN_FOLDERS:
            other = name_of(methods[route.method][0]) if route.method in methods else "minuet itself"
            raise DefinitionError(
                f"{name_of(message)} and {other} both want {route.method} {route.path}; give one another path"
            )
        desk = desks[message.__contract__.service]
        if issubclass(message, Command):
            methods[route.method] = message, CommandEndpoint(message, desk, codec, clock, ids)
        else:
            methods[route.method] = message, QueryEndpoint(message, desk)

    doors = Doors(app.name, messages, list(sagas.sagas.values()) if sagas else [], has_parked=parked is not None)
    routes = [PathRoute("/health", {"GET": _health(desks)})]
    # Where a path fits two templates, the one whose words come first wins: /orders/recent before /orders/{id}.
    for shape, methods in sorted(table.items(), key=lambda item: tuple((part == "{}", part) for part in item[0])):
        path = next(iter(methods.values()))[0].__contract__.http
        assert path is not None, shape
        routes.append(PathRoute(path.path, {method: endpoint for method, (_, endpoint) in methods.items()}))
    if sagas is not None:
        routes += sagas.routes()
    if parked is not None:
        routes += parked.routes()
    doors.router.routes[:0] = routes
    for service, asgi in mounted.items():
        doors.mount(f"/{service}", asgi)
    return doors


def _addressed(app: App, desks: Mapping[str, Desk]) -> Iterator[type[Command] | type[Query]]:
    for service in app.services.values():
        if service.name in desks:
            yield from (command for command in service.commands if command.__contract__.http)
            yield from (query for query in service.queries if query.__contract__.http)


def _shape(route: HttpRoute) -> tuple[str, ...]:
    return tuple("{}" if part.startswith("{") else part for part in segments_of(route.path))


def _health(desks: Mapping[str, Desk]) -> Endpoint:
    async def health(_: Asked) -> Reply:
        return Reply(200, to_json({"status": "ok", "services": sorted(desks)}), [("cache-control", "no-store")])

    return health


async def _tell_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    kind, title = _KINDS.get(error.status_code, ("http", error.detail))
    content = problem(kind, error.status_code, title, f"{title}.", instance_of(request.scope))
    return Response(to_json(content), error.status_code, dict(error.headers or {}), PROBLEM_JSON)


async def _tell_unexpected_error(request: Request, _: Exception) -> Response:
    # Only what a mounted application raises comes here; the server logs it.
    detail = "Something went wrong here; it has been logged."
    content = problem("internal", 500, "Internal error", detail, instance_of(request.scope))
    return Response(to_json(content), 500, media_type=PROBLEM_JSON)
