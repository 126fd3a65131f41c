"""Sagas over HTTP: begin one, list them, look at one.

POST /sagas/OrderProcessing     the event that begins it: 202 and where to look; 200 if it was begun by the same before
GET /sagas?status=running       the newest first; at most `limit`
GET /sagas/{id}?saga=NAME       one with every attempt, every message, and what it waits for
POST /sagas/{id}/cancel         it is no longer wanted: 202; 200 if that was said before; {"who": ..., "why": ...}
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, Protocol
from urllib.parse import parse_qsl, quote

import pydantic
from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel
from pydantic_core import from_json, to_json

from minuet.codec import timestamp
from minuet.core.coordinator import Status
from minuet.core.errors import NotFound
from minuet.core.messages import Event
from minuet.core.saga import Saga
from minuet.doors.endpoints import PARAMETERS_MAX, body_of, check_content_type, headers_in
from minuet.doors.routing import Asked, Endpoint, PathRoute, Reply, invalid, invalid_by
from minuet.observer import NEEDS_OPERATOR, Observer, SagaView

LIMIT, LIMIT_MAX = 50, 1000
STATUSES = (*(one.value for one in Status), NEEDS_OPERATOR)
TIMES = ("began_at", "changed_at", "due_at", "time")
_FRESH = [("cache-control", "no-store")]


class Beginner(Protocol):
    """Whoever may begin sagas."""

    async def begin(self, event: Event) -> bool:
        """Begin the sagas that the event begins. False: it has begun them before. Raises Conflict: another one has."""

    async def cancel(self, saga_id: str, *, who: str, why: str, saga: str | None) -> bool:
        """See `minuet.bootstrap.system.System.cancel`."""


class Cancellation(BaseModel):
    """Who no longer wants a saga, and why."""

    model_config = ConfigDict(extra="forbid")

    who: str = Field(min_length=1, max_length=255)
    why: str = Field("", max_length=2000)


class SagasDoor:
    """The addresses below ``/sagas``."""

    def __init__(self, sagas: Mapping[str, Saga], beginner: Beginner, observer: Observer) -> None:
        self.sagas = sagas
        self.beginner = beginner
        self.observer = observer

    def routes(self) -> list[PathRoute]:
        """In the order in which they are to be tried."""
        begin = [PathRoute(f"/sagas/{name}", {"POST": self._begin_of(saga)}) for name, saga in self.sagas.items()]
        for route in begin:
            route.endpoints["GET"] = route.endpoints["HEAD"] = self._show_named(route.path_format.rpartition("/")[2])
            route.allow = "GET, HEAD, POST"
        return [
            *begin,
            PathRoute("/sagas", {"GET": self.list}),
            PathRoute("/sagas/{id}", {"GET": self.show}),
            PathRoute("/sagas/{id}/cancel", {"POST": self.cancel}),
        ]

    def _begin_of(self, saga: Saga) -> Endpoint:
        async def begin(asked: Asked) -> Reply:
            headers = headers_in(asked)
            body = await body_of(asked, headers)
            check_content_type(headers)
            try:
                event = saga.begins_with.model_validate_json(body, by_alias=True, by_name=False)
            except pydantic.ValidationError as error:
                raise invalid_by(error) from None
            saga_id = str(getattr(event, saga.key))
            is_new = await self.beginner.begin(event)
            where = f"/sagas/{quote(saga_id, safe='')}?saga={saga.name}"
            content = {"saga": saga.name, "id": saga_id}
            return Reply(202 if is_new else 200, to_json(content), [*_FRESH, ("location", where)])

        return begin

    def _show_named(self, saga_id: str) -> Endpoint:
        """A saga whose id is the name of a saga is one all the same."""

        async def show(asked: Asked) -> Reply:
            return await self._show(saga_id, asked)

        return show

    async def list(self, asked: Asked) -> Reply:
        said = _parameters(asked, "status", "limit")
        status = said.get("status")
        if status is not None and status not in STATUSES:
            raise invalid([("status", f"it is one of {', '.join(STATUSES)}")])
        limit = said.get("limit", str(LIMIT))
        if not (limit.isascii() and limit.isdigit() and len(limit) < 6 and 0 < int(limit) <= LIMIT_MAX):
            raise invalid([("limit", f"it is a number from 1 to {LIMIT_MAX}")])
        views = await self.observer.sagas(limit=int(limit), only=status)
        return Reply(200, to_json({"sagas": [_summary(view) for view in views]}), _FRESH)

    async def cancel(self, asked: Asked) -> Reply:
        headers = headers_in(asked)
        body = await body_of(asked, headers)
        check_content_type(headers)
        try:
            said = Cancellation.model_validate_json(body)
        except pydantic.ValidationError as error:
            raise invalid_by(error) from None
        name = self._name_in(asked)
        is_new = await self.beginner.cancel(asked.values[0], who=said.who, why=said.why, saga=name)
        return Reply(202 if is_new else 200, to_json({"id": asked.values[0], "cancelled": True}), _FRESH)

    async def show(self, asked: Asked) -> Reply:
        return await self._show(asked.values[0], asked)

    async def _show(self, saga_id: str, asked: Asked) -> Reply:
        view = await self.observer.saga(saga_id, self._name_in(asked))
        return Reply(200, to_json(plain(view)), _FRESH)

    def _name_in(self, asked: Asked) -> str | None:
        name = _parameters(asked, "saga").get("saga")
        if name is not None and name not in self.sagas:
            raise NotFound(f"there is no saga {name}; there is {', '.join(self.sagas)}")
        return name


def _summary(view: SagaView) -> dict[str, Any]:
    told = plain(view)
    return {name: value for name, value in told.items() if name not in ("attempts", "messages")}


def plain(thing: Any) -> Any:
    """As JSON has it: camelCase, times in RFC 3339, bodies as what they say."""
    if is_dataclass(thing):
        return {to_camel(one.name): _field(one.name, getattr(thing, one.name)) for one in fields(thing)}
    if isinstance(thing, tuple | list):
        return [plain(one) for one in thing]
    if isinstance(thing, bytes):
        try:
            return from_json(thing)
        except ValueError:
            return thing.decode("utf-8", "backslashreplace")
    return thing


def _field(name: str, value: Any) -> Any:
    if name in TIMES:
        return timestamp(value) if value else None
    return plain(value)


def _parameters(asked: Asked, *known: str) -> dict[str, str]:
    try:
        pairs = parse_qsl(
            asked.scope["query_string"].decode("ascii"),
            keep_blank_values=True,
            errors="strict",
            max_num_fields=PARAMETERS_MAX,
        )
    except ValueError:
        raise invalid([("query", f"it cannot be read as at most {PARAMETERS_MAX} parameters in UTF-8")]) from None
    found: dict[str, str] = {}
    for name, value in pairs:
        if name not in known:
            raise invalid([(name, f"there is no such parameter; there is {', '.join(known)}")])
        if name in found:
            raise invalid([(name, "it is given twice")])
        found[name] = value
    return found
