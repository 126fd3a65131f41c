"""What is parked, over HTTP: messages that nobody understands, and commands and reactions that need an operator.

GET /parked?service=payment     the oldest first; at most `limit`; chosen by service, saga, type, reason, older-than
GET /parked/{id}                one with its attributes and its body
POST /parked/{id}/retry         once more: 202; {"who": ..., "why": ...}, of a message also a mended "body"
POST /parked/{id}/discard       of a message: it is gone for good: 200
POST /parked/{id}/answer        in the place of its service: 202; {"event": "PaymentProcessed", "body": {...}}
POST /parked/retry              many, as /parked/discard and /parked/answer: {"where": {...}, "dryRun": true}

An id is a service, a colon, and its own name there; in an address what is a slash in it is written ``%2F``.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field
from pydantic_core import to_json

from minuet.core.operating import NAMES, PARKED_VERBS, Filter
from minuet.doors.endpoints import parameters_in
from minuet.doors.operating import Operator, Said, SaidOfMany, limit_in, plain, reply, said_in, told_of_many
from minuet.doors.routing import Asked, Endpoint, PathRoute, Reply
from minuet.observer import Observer

CHOSEN_BY = tuple(name for name in NAMES if name != "status")
"""What a parked thing can be chosen by."""


class SaidOfRetry(Said):
    """Attributes:
    body: of a message, mended.
    """

    body: dict[str, Any] | None = None


class SaidOfAnswer(Said):
    """Attributes:
    event: the answer's type; a reaction owes none. body: what it says.
    """

    event: str | None = Field(None, max_length=255)
    body: dict[str, Any] = Field(default_factory=dict)


class SaidOfManyAnswers(SaidOfMany, SaidOfAnswer):
    """What the body leaves out is taken from each command, by the same name."""


class ParkedDoor:
    """The addresses below ``/parked``: what is parked at the services of this process."""

    def __init__(self, observer: Observer, operator: Operator) -> None:
        self.observer = observer
        self.operator = operator

    def routes(self) -> list[PathRoute]:
        """In the order in which they are to be tried."""
        return [
            PathRoute("/parked", {"GET": self.list}),
            *(PathRoute(f"/parked/{verb}", {"POST": self._to_many(verb)}) for verb in PARKED_VERBS),
            PathRoute("/parked/{id}", {"GET": self.show}),
            PathRoute("/parked/{id}/retry", {"POST": self.retry}),
            PathRoute("/parked/{id}/discard", {"POST": self.discard}),
            PathRoute("/parked/{id}/answer", {"POST": self.answer}),
        ]

    async def list(self, asked: Asked) -> Reply:
        said = parameters_in(asked, (*CHOSEN_BY, "limit"))
        limit = limit_in(said)
        chosen = {name: text for name, text in said.items() if name != "limit"}
        views = await self.operator.parked(Filter.of(chosen) if chosen else Filter(), limit=limit)
        return reply({"parked": [plain(view, without=("attributes", "body")) for view in views]})

    async def show(self, asked: Asked) -> Reply:
        parameters_in(asked, ())
        return reply(plain(await self.observer.parked_one(asked.values[0])))

    async def retry(self, asked: Asked) -> Reply:
        said = await said_in(asked, SaidOfRetry)
        body = None if said.body is None else to_json(said.body)
        taken = await self.operator.retry_parked(asked.values[0], body=body, who=said.who, why=said.why)
        return reply({"id": asked.values[0], "services": sorted(one.service for one in taken)}, 202)

    async def discard(self, asked: Asked) -> Reply:
        said = await said_in(asked, Said)
        view = await self.operator.discard_parked(asked.values[0], who=said.who, why=said.why)
        return reply(plain(view))

    async def answer(self, asked: Asked) -> Reply:
        said = await said_in(asked, SaidOfAnswer)
        await self.operator.answer_parked(asked.values[0], said.event, said.body, who=said.who, why=said.why)
        return reply({"id": asked.values[0], "event": said.event}, 202)

    def _to_many(self, verb: str) -> Endpoint:
        async def to_many(asked: Asked) -> Reply:
            said = await said_in(asked, SaidOfManyAnswers if verb == "answer" else SaidOfMany)
            views = await self.operator.parked(Filter.of(said.where or {}), limit=said.limit)
            how = {"event": said.event, "content": said.body} if isinstance(said, SaidOfManyAnswers) else {}
            acting = None
            if not said.dry_run:
                acting = self.operator.to_parked(verb, views, who=said.who, why=said.why, **how)  # type: ignore[arg-type]
            return await told_of_many([view.id for view in views], acting)

        return to_many
