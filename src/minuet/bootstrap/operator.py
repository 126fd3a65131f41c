"""What an operator does to sagas and to what is parked, to one or to many; for HTTP and the command line alike."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic_core import from_json

from minuet.core.errors import ConfigurationError, MessageError, MinuetError, NotFound, Rejected
from minuet.core.messages import Event
from minuet.core.operating import PARKED_VERBS, SAGA_VERBS, Filter
from minuet.observer import FINAL, STATUSES, ParkedView, SagaView
from minuet.ports import Act, Delivery

if TYPE_CHECKING:
    from minuet.bootstrap.system import System

LOOKED_THROUGH = 10_000
"""Of what is parked at one service, the oldest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of one of many.

    Attributes:
        why: it could not be done; empty if it was.
    """

    id: str
    why: str = ""


class Operator:
    """An operator's verbs. Each act is kept with who did it and why, in the transaction that does it."""

    def __init__(self, system: System) -> None:
        self.system = system

    # -- which ---------------------------------------------------------------------------------------------------------

    async def sagas(self, which: Filter, *, limit: int, also_ended: bool = False) -> list[SagaView]:
        """The sagas that are meant, the newest first.

        Args:
            also_ended: else those that are over are meant only if their status is named.

        Raises:
            Rejected: there is no such status, or something is asked that a saga does not have.
            NotFound: there is no such service, or no such type of sagas: a slip must not look like "none of them".
        """
        if which.type:
            raise Rejected("a saga has no type of message; choose by saga, service, status, reason or older-than")
        if which.status and which.status not in STATUSES:
            raise Rejected(f"there is no status {which.status!r}; there is {', '.join(STATUSES)}")
        if which.saga:
            await self.system.scope_of(all_of=which.saga)
        if which.service:
            await self.system.scope_of(service=which.service)
        now = self.system.clock.now()

        def is_meant(view: SagaView) -> bool:
            return (
                view.status == which.status if which.status else also_ended or view.status not in FINAL
            ) and which.fits(
                services={one.service for one in view.waiting},
                saga=view.saga,
                reasons=[one.why for one in view.waiting],
                since=view.began_at,
                now=now,
            )

        return await self.system.observer.sagas(limit=limit, wanted=is_meant)

    async def parked(self, which: Filter, *, limit: int) -> list[ParkedView]:
        """What is parked and meant, the oldest first. Raises Rejected: it has no status; NotFound: no such service."""
        if which.status:
            raise Rejected("what is parked has no status; choose by service, saga, type, reason or older-than")
        if which.service:
            await self.system.scope_of(service=which.service)
        now = self.system.clock.now()
        views = await self.system.observer.parked(limit=LOOKED_THROUGH)
        meant = [
            view
            for view in views
            if which.type in ("", view.type)
            and which.fits(
                services={view.service},
                saga=view.attributes.get("saga", ""),
                reasons=[view.reason],
                since=view.parked_at,
                now=now,
            )
        ]
        return meant[:limit]

    # -- many ----------------------------------------------------------------------------------------------------------

    async def to_sagas(self, verb: str, views: Iterable[SagaView], *, who: str, why: str) -> AsyncIterator[Outcome]:
        """Do one of `SAGA_VERBS` to each of them; what cannot be done is told, and the others go on."""
        assert verb in SAGA_VERBS, verb
        act: Callable[..., Awaitable[Any]] = getattr(self.system, verb)
        for view in views:
            yield await _outcome(f"{view.saga}/{view.id}", act(view.id, saga=view.saga, who=who, why=why))

    async def to_parked(
        self,
        verb: str,
        views: Iterable[ParkedView],
        *,
        who: str,
        why: str,
        event: str | None = None,
        content: Mapping[str, Any] | None = None,
    ) -> AsyncIterator[Outcome]:
        """Do one of `PARKED_VERBS` to each of them; as `to_sagas`.

        Args:
            event, content: of the answer. What the content leaves out is taken from the command, by the same name.
        """
        assert verb in PARKED_VERBS, verb
        for view in views:
            if verb == "retry":
                doing: Awaitable[Any] = self._retry_one(view, None, who=who, why=why)
            elif verb == "discard":
                doing = self.discard_parked(view.id, who=who, why=why)
            else:
                doing = self._answer_like(view, event, content or {}, who=who, why=why)
            yield await _outcome(view.id, doing)

    async def _answer_like(
        self, view: ParkedView, event: str | None, content: Mapping[str, Any], *, who: str, why: str
    ) -> None:
        if event is not None and view.kind != "message":
            kind = self.system.codec.types.get(event)
            own = from_json(view.body) if view.body and kind is not None else {}
            aliases = {one.alias for one in kind.model_fields.values()} if kind is not None else set()
            content = {**{name: value for name, value in own.items() if name in aliases}, **content}
        await self.answer_parked(view.id, event, content, who=who, why=why)

    # -- one that is parked --------------------------------------------------------------------------------------------

    async def retry_parked(self, parked_id: str, *, body: bytes | None = None, who: str, why: str) -> list[ParkedView]:
        """Take a message in once more, wherever the same is parked, or make a command due once more; which those are.

        Args:
            body: of the message, mended.

        Raises:
            NotFound: nothing is parked so, or no longer.
            MessageError: it would be parked again, or it is no message, whose body could be mended.
        """
        view = await self.system.observer.parked_one(parked_id)
        copies = [view]
        if view.kind == "message":
            own = _own(parked_id)
            others = await self.system.observer.parked(limit=LOOKED_THROUGH)
            copies += [one for one in others if _own(one.id) == own and one.service != view.service]
        for one in copies:
            await self._retry_one(one, body, who=who, why=why)
        return copies

    async def _retry_one(self, view: ParkedView, body: bytes | None, *, who: str, why: str) -> None:
        act = self._act("retry", view.id, who, why)
        if view.kind == "message":
            delivery = Delivery(view.channel, view.attributes, view.body if body is None else body, 1, None)
            await self._place(view).hear_again(_own(view.id), delivery, act)
            return
        if body is not None:
            raise MessageError(f"{view.id} is a {view.kind}: what it says is decided, so retry it without a body")
        if not await self.system.observer.reopen(view.id, act):
            raise NotFound(f"nothing is parked as {view.id!r} any more")

    async def discard_parked(self, parked_id: str, *, who: str, why: str) -> ParkedView:
        """See `minuet.observer.Observer.forget`."""
        return await self.system.observer.forget(parked_id, self._act("discard", parked_id, who, why))

    async def answer_parked(
        self, parked_id: str, event: str | None, content: Mapping[str, Any], *, who: str, why: str
    ) -> ParkedView:
        """Say what came of a parked command, in the place of its service; without an event skip a reaction.

        Raises:
            NotFound: nothing is parked so.
            Rejected: it is a message, which owes no answer; or this is none that the command may have.
            MessageError: there is no such event, or it cannot say that.
        """
        view = await self.system.observer.parked_one(parked_id)
        if view.kind == "message":
            raise Rejected(f"{parked_id} is a message, which owes nobody an answer; retry or discard it")
        outcome: Event | None = None if event is None else self.system.codec.event_of(event, content)
        await self._place(view).answer_for(_own(parked_id), outcome, self._act("answer", parked_id, who, why))
        return view

    def _act(self, verb: str, parked_id: str, who: str, why: str) -> Act:
        return Act(at=self.system.clock.now(), who=who, verb=verb, what=_own(parked_id), why=why)

    def _place(self, view: ParkedView) -> Any:
        place = self.system.places.get(view.service)
        if place is None:
            raise ConfigurationError(f"service {view.service} does not run in this process")
        return place


async def _outcome(name: str, doing: Awaitable[Any]) -> Outcome:
    try:
        await doing
    except MinuetError as error:
        return Outcome(id=name, why=str(error))
    return Outcome(id=name)


def _own(parked_id: str) -> str:
    return parked_id.partition(":")[2]
