"""Sagas over HTTP: begin one, list them, look at one, and what an operator does about them.

POST /sagas/OrderProcessing     the event that begins it: 202 and where to look; 200 if it was begun by the same before
GET /sagas?status=running       the newest first; at most `limit`; chosen by status, saga, service, reason, older-than
GET /sagas/{id}?saga=NAME       one with every attempt, every message, and what it waits for
POST /sagas/{id}/cancel         it is no longer wanted: 202; 200 if that was said before; {"who": ..., "why": ...}
POST /sagas/{id}/pause          nothing of it is begun until /sagas/{id}/resume: 202; 200 if it is so already
POST /sagas/{id}/retry          what waits for its next attempt has it now: 202
POST /sagas/pause               {"allOf": "OrderProcessing"}, {"service": "payment"}, or many: {"where": {...}}
GET /paused                     what is paused, by whom and why
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol
from urllib.parse import quote

import pydantic
from pydantic import Field
from pydantic_core import to_json

from minuet.core.errors import NotFound, Rejected
from minuet.core.messages import Event
from minuet.core.operating import NAMES, SAGA_VERBS, Filter
from minuet.core.saga import Saga
from minuet.doors.endpoints import body_of, check_content_type, headers_in, parameters_in
from minuet.doors.operating import (
    FRESH,
    Operator,
    Said,
    SaidOfMany,
    limit_in,
    plain,
    reply,
    said_in,
    told_of_many,
)
from minuet.doors.routing import Asked, Endpoint, PathRoute, Reply, invalid, invalid_by
from minuet.observer import STATUSES, Observer

CHOSEN_BY = tuple(name for name in NAMES if name != "type")
"""What a saga can be chosen by."""


class Instructs(Protocol):
    """Says something of one saga, of all of a type, or of what a service does. False: that was said before."""

    async def __call__(
        self,
        saga_id: str | None = None,
        *,
        saga: str | None = None,
        all_of: str | None = None,
        service: str | None = None,
        who: str,
        why: str = "",
    ) -> bool | None: ...


class Beginner(Protocol):
    """Whoever may begin sagas, and say what becomes of them. See `minuet.bootstrap.system.System`."""

    async def begin(self, event: Event) -> bool:
        """Begin the sagas that the event begins. False: it has begun them before. Raises Conflict: another one has."""

    async def cancel(self, saga_id: str, *, who: str, why: str = "", saga: str | None = None) -> bool: ...
    @property
    def pause(self) -> Instructs: ...
    @property
    def resume(self) -> Instructs: ...
    @property
    def retry(self) -> Instructs: ...


class SaidOfSagas(SaidOfMany):
    """Of all sagas of a type, of a service, or of those that are chosen."""

    all_of: str | None = Field(None, max_length=255, alias="allOf")
    service: str | None = Field(None, max_length=255)


class SagasDoor:
    """The addresses below ``/sagas``."""

    def __init__(self, sagas: Mapping[str, Saga], beginner: Beginner, observer: Observer, operator: Operator) -> None:
        self.sagas = sagas
        self.beginner = beginner
        self.observer = observer
        self.operator = operator

    def routes(self) -> list[PathRoute]:
        """In the order in which they are to be tried."""
        # A saga whose id is one of these names is one all the same.
        begin = {name: self._begin_of(saga) for name, saga in self.sagas.items()}
        many = {verb: self._to_many(verb) for verb in SAGA_VERBS if verb not in begin}
        return [
            *(
                PathRoute(f"/sagas/{name}", {"POST": endpoint, "GET": self._show_named(name)})
                for name, endpoint in (begin | many).items()
            ),
            PathRoute("/sagas", {"GET": self.list}),
            PathRoute("/sagas/{id}", {"GET": self.show, "POST": self._begin_unknown}),
            *(PathRoute(f"/sagas/{{id}}/{verb}", {"POST": self._to_one(verb)}) for verb in SAGA_VERBS),
            PathRoute("/paused", {"GET": self.paused}),
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
            return Reply(202 if is_new else 200, to_json(content), [*FRESH, ("location", where)])

        return begin

    async def _begin_unknown(self, asked: Asked) -> Reply:
        raise NotFound(f"there is no saga {asked.values[0]} to begin; there is {', '.join(self.sagas)}")

    # -- looking -------------------------------------------------------------------------------------------------------

    def _show_named(self, saga_id: str) -> Endpoint:
        async def show(asked: Asked) -> Reply:
            return await self._show(saga_id, asked)

        return show

    async def list(self, asked: Asked) -> Reply:
        said = parameters_in(asked, (*CHOSEN_BY, "limit"))
        limit = limit_in(said)
        chosen = {name: text for name, text in said.items() if name != "limit"}
        if chosen.get("status", STATUSES[0]) not in STATUSES:
            raise invalid([("status", f"it is one of {', '.join(STATUSES)}")])
        if chosen.keys() - {"status"}:
            views = await self.operator.sagas(Filter.of(chosen), limit=limit, also_ended=True)
        else:
            views = await self.observer.sagas(limit=limit, only=chosen.get("status"))
        return reply({"sagas": [plain(view, without=("attempts", "messages")) for view in views]})

    async def show(self, asked: Asked) -> Reply:
        return await self._show(asked.values[0], asked)

    async def _show(self, saga_id: str, asked: Asked) -> Reply:
        return reply(plain(await self.observer.saga(saga_id, self._name_in(asked))))

    async def paused(self, asked: Asked) -> Reply:
        parameters_in(asked, ())
        return reply({"paused": plain(await self.observer.paused())})

    def _name_in(self, asked: Asked) -> str | None:
        name: str | None = parameters_in(asked, ("saga",)).get("saga")
        if name is not None and name not in self.sagas:
            raise NotFound(f"there is no saga {name}; there is {', '.join(self.sagas)}")
        return name

    # -- what an operator says -----------------------------------------------------------------------------------------

    def _to_one(self, verb: str) -> Endpoint:
        act = getattr(self.beginner, verb)

        async def to_one(asked: Asked) -> Reply:
            said = await said_in(asked, Said)
            is_new = await act(asked.values[0], saga=self._name_in(asked), who=said.who, why=said.why)
            return reply(_told(verb, {"id": asked.values[0]}), 200 if is_new is False else 202)

        return to_one

    def _to_many(self, verb: str) -> Endpoint:
        act = getattr(self.beginner, verb)

        async def to_many(asked: Asked) -> Reply:
            said = await said_in(asked, SaidOfSagas)
            parameters_in(asked, ())
            if sum(one is not None for one in (said.where, said.all_of, said.service)) != 1:
                raise Rejected("say one of these: where, allOf, service")
            if said.where is None:
                if verb == "cancel" or said.dry_run:
                    raise Rejected("of all sagas of a type, or of a service, say where")
                is_new = await act(all_of=said.all_of, service=said.service, who=said.who, why=said.why)
                what = {"allOf": said.all_of} if said.all_of is not None else {"service": said.service}
                return reply(_told(verb, what), 200 if is_new is False else 202)
            views = await self.operator.sagas(Filter.of(said.where), limit=said.limit)
            acting = None if said.dry_run else self.operator.to_sagas(verb, views, who=said.who, why=said.why)
            return await told_of_many([f"{view.saga}/{view.id}" for view in views], acting)

        return to_many


_DONE = {
    "cancel": ("cancelled", True),
    "pause": ("paused", True),
    "resume": ("paused", False),
    "retry": ("retried", True),
}


def _told(verb: str, what: Mapping[str, str | None]) -> dict[str, str | bool | None]:
    name, value = _DONE[verb]
    return {**what, name: value}
