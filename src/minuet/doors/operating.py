"""What the addresses for operators share: who says it and why, which of many are meant, and how facts are told."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, Protocol, TypeVar

import pydantic
from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel
from pydantic_core import from_json, to_json

from minuet.codec import timestamp
from minuet.core.operating import NAMES, Filter
from minuet.doors.endpoints import body_of, check_content_type, headers_in
from minuet.doors.routing import Asked, Reply, invalid, invalid_by
from minuet.observer import ParkedView, SagaView

LIMIT, LIMIT_MAX = 50, 1000
FRESH = [("cache-control", "no-store")]
TIMES = ("at", "began_at", "changed_at", "due_at", "parked_at", "time")

M = TypeVar("M", bound=BaseModel)


class Outcome(Protocol):
    """See `minuet.bootstrap.operator.Outcome`."""

    @property
    def id(self) -> str: ...
    @property
    def why(self) -> str: ...


class Operator(Protocol):
    """See `minuet.bootstrap.operator.Operator`."""

    async def sagas(self, which: Filter, *, limit: int, also_ended: bool = False) -> list[SagaView]: ...
    async def parked(self, which: Filter, *, limit: int) -> list[ParkedView]: ...
    def to_sagas(self, verb: str, views: Iterable[SagaView], *, who: str, why: str) -> AsyncIterator[Outcome]: ...
    def to_parked(
        self,
        verb: str,
        views: Iterable[ParkedView],
        *,
        who: str,
        why: str,
        event: str | None = None,
        content: Mapping[str, Any] | None = None,
    ) -> AsyncIterator[Outcome]: ...
    async def retry_parked(
        self, parked_id: str, *, body: bytes | None = None, who: str, why: str
    ) -> list[ParkedView]: ...
    async def discard_parked(self, parked_id: str, *, who: str, why: str) -> ParkedView: ...
    async def answer_parked(
        self, parked_id: str, event: str | None, content: Mapping[str, Any], *, who: str, why: str
    ) -> ParkedView: ...


class Said(BaseModel):
    """Who says it, and why."""

    model_config = ConfigDict(extra="forbid")

    who: str = Field(min_length=1, max_length=255)
    why: str = Field("", max_length=2000)


class SaidOfMany(Said):
    """The same, of all that are meant.

    Attributes:
        where: by the names of a `Filter`.
        dry_run: only say which those are.
    """

    where: dict[str, str] | None = Field(None, max_length=len(NAMES))
    dry_run: bool = Field(False, alias="dryRun")
    limit: int = Field(LIMIT_MAX, ge=1, le=LIMIT_MAX)


async def said_in(asked: Asked, kind: type[M]) -> M:
    """The request's body."""
    headers = headers_in(asked)
    body = await body_of(asked, headers)
    check_content_type(headers)
    try:
        return kind.model_validate_json(body, by_alias=True, by_name=False)
    except pydantic.ValidationError as error:
        raise invalid_by(error) from None


def limit_in(said: Mapping[str, str]) -> int:
    limit = said.get("limit", str(LIMIT))
    if not (limit.isascii() and limit.isdigit() and len(limit) < 6 and 0 < int(limit) <= LIMIT_MAX):
        raise invalid([("limit", f"it is a number from 1 to {LIMIT_MAX}")])
    return int(limit)


async def told_of_many(names: Sequence[str], acting: AsyncIterator[Outcome] | None) -> Reply:
    """The answer about many: how many are meant, which were done, and why others were not. Without acts, which."""
    if acting is None:
        return reply({"count": len(names), "dryRun": True, "ids": list(names)})
    outcomes = [one async for one in acting]
    done = [one.id for one in outcomes if not one.why]
    failed = [{"id": one.id, "why": one.why} for one in outcomes if one.why]
    return reply({"count": len(names), "dryRun": False, "done": done, "failed": failed})


def reply(content: Any, status: int = 200) -> Reply:
    return Reply(status, to_json(content), FRESH)


def plain(thing: Any, *, without: Sequence[str] = ()) -> Any:
    """As JSON has it: camelCase, times in RFC 3339, bodies as what they say."""
    if is_dataclass(thing):
        names = [one.name for one in fields(thing) if one.name not in without]
        return {to_camel(name): _field(name, getattr(thing, name)) for name in names}
    if isinstance(thing, tuple | list):
        return [plain(one) for one in thing]
    if isinstance(thing, bytes):
        try:
            return from_json(thing)
        except ValueError:
            return thing.decode("utf-8", "backslashreplace")
    return thing


def _field(name: str, value: Any) -> Any:
    if name in TIMES and not isinstance(value, str):
        return timestamp(value) if value else None
    return plain(value)
