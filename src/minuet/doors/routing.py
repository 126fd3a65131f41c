"""From a request to the endpoint it is for, and from what happens there to a reply.

Paths are matched as they came, before percent-decoding, so that a value with a slash in it stays one segment. No
request reaches a thread pool, and none passes through FastAPI's own validation: an endpoint reads its message itself.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote

import pydantic
from pydantic_core import to_json
from starlette.routing import BaseRoute, Match
from starlette.types import Receive, Scope, Send

from minuet.codec import explain
from minuet.codec_http import JSON, PROBLEM_JSON, problem
from minuet.core.errors import Conflict, MessageError, NotFound, NotYet, Rejected

log = logging.getLogger("minuet.doors")

ERRORS_MAX = 20
TEXT_MAX = 200
_SEGMENTS = "minuet.segments"


@dataclass(frozen=True, slots=True)
class Asked:
    """A request on its way to an endpoint. ``values`` are what the path says, in the order of its template."""

    scope: Scope
    receive: Receive
    values: tuple[str, ...]
    instance: str


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    body: bytes
    headers: Sequence[tuple[str, str]] = ()
    content_type: str = JSON

    async def send(self, send: Send) -> None:
        head = [(b"content-type", self.content_type.encode()), (b"content-length", b"%d" % len(self.body))]
        head += [(name.encode(), value.encode("latin-1")) for name, value in self.headers]
        await send({"type": "http.response.start", "status": self.status, "headers": head})
        await send({"type": "http.response.body", "body": self.body})


class Problem(Exception):
    """A request that ends here, with this problem."""

    def __init__(
        self, status: int, kind: str, title: str, detail: str, headers: Sequence[tuple[str, str]] = (), **members: Any
    ) -> None:
        super().__init__(detail)
        self.status, self.kind, self.title, self.detail = status, kind, title, detail
        self.headers, self.members = headers, members

    def reply(self, instance: str) -> Reply:
        content = problem(self.kind, self.status, self.title, self.detail, instance, **self.members)
        return Reply(self.status, to_json(content), self.headers, PROBLEM_JSON)


class Gone(Exception):
    """Whoever asked has hung up; there is nobody to reply to."""


Endpoint = Callable[[Asked], Awaitable[Reply]]


class PathRoute(BaseRoute):
    """Everything that one path answers, by method."""

    def __init__(self, path: str, endpoints: Mapping[str, Endpoint]) -> None:
        self.path_format = path
        self.segments = segments_of(path)
        self.endpoints = dict(endpoints)
        if "GET" in endpoints:
            self.endpoints["HEAD"] = endpoints["GET"]
        self.allow = ", ".join(sorted(self.endpoints))

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        if scope["type"] != "http":
            return Match.NONE, {}
        asked = scope.get(_SEGMENTS)
        if asked is None:
            asked = scope[_SEGMENTS] = segments_of(path_in(scope))
        if len(asked) != len(self.segments):
            return Match.NONE, {}
        for mine, theirs in zip(self.segments, asked, strict=True):
            if mine != theirs and not (mine[:1] == "{" and theirs):
                return Match.NONE, {}
        return Match.FULL, {"endpoint": self}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        instance = instance_of(scope)
        try:
            endpoint = self.endpoints.get(scope["method"])
            if endpoint is None:
                raise Problem(
                    405,
                    "method-not-allowed",
                    "Method not allowed",
                    f"This takes {self.allow}.",
                    [("allow", self.allow)],
                )
            reply = await endpoint(Asked(scope, receive, self._values(scope), instance))
        except Gone:
            return
        except asyncio.CancelledError:
            # The server stops and has waited long enough. Whoever asked is told so, as the last thing this task does.
            reply = reply_to(NotYet("this process is being stopped; ask again", retry_after_s=1.0), instance)
        except Exception as error:
            reply = reply_to(error, instance)
        await reply.send(send)

    def _values(self, scope: Scope) -> tuple[str, ...]:
        pairs = zip(self.segments, scope[_SEGMENTS], strict=True)
        try:
            return tuple(unquote(theirs, errors="strict") for mine, theirs in pairs if mine[:1] == "{")
        except UnicodeDecodeError:
            raise invalid([("path", "what is percent-encoded is not UTF-8")]) from None


def segments_of(path: str) -> tuple[str, ...]:
    return tuple(path.split("/"))


def path_in(scope: Scope) -> str:
    """The request's path, still percent-encoded, without the prefix that the application is mounted under."""
    raw = scope.get("raw_path")
    path = raw.decode("latin-1") if raw is not None else quote(scope["path"])
    root: str = scope.get("root_path", "")
    return path[len(root) :] if root and path.startswith(root + "/") else path


def instance_of(scope: Scope) -> str:
    raw: bytes | None = scope.get("raw_path")
    return (raw or b"").decode("latin-1")[:TEXT_MAX]


# -- from what went wrong to a reply -----------------------------------------------------------------------------------


def reply_to(error: Exception, instance: str) -> Reply:
    if isinstance(error, Problem):
        return error.reply(instance)
    return _problem_of(error).reply(instance)


def _problem_of(error: Exception) -> Problem:
    """What the asker may know of an error: the reaction it calls for, never a traceback."""
    text = str(error)[: 5 * TEXT_MAX]
    if isinstance(error, NotYet):
        wait_s = error.retry_after_s if math.isfinite(error.retry_after_s) else 1.0
        after = [("retry-after", str(max(1, math.ceil(wait_s))))]
        return Problem(503, "not-yet", "No answer yet", text, after, retryAfterMs=max(0, round(wait_s * 1000)))
    if isinstance(error, Conflict):
        return Problem(422, "conflict", "Conflicts with what was said before", text)
    if isinstance(error, NotFound):
        return Problem(404, "not-found", "Not found", text or "There is no such thing.")
    if isinstance(error, Rejected):
        return Problem(422, "rejected", "Rejected", text)
    if isinstance(error, MessageError):
        cause = error.__cause__
        return invalid_by(cause) if isinstance(cause, pydantic.ValidationError) else invalid([("body", explain(error))])
    log.error("an unexpected error while answering a request", exc_info=error)
    return Problem(500, "internal", "Internal error", "Something went wrong here; it has been logged.")


def invalid(errors: Sequence[tuple[str, str]]) -> Problem:
    """The problem of input that does not fit; each error is a field and what is wrong with it."""
    found = [{"field": field[:64], "message": message[:TEXT_MAX]} for field, message in errors[:ERRORS_MAX]]
    detail = "; ".join(f"{one['field']}: {one['message']}" for one in found[:3])
    return Problem(422, "invalid", "The request does not fit", detail, errors=found)


def invalid_by(error: pydantic.ValidationError) -> Problem:
    found = error.errors(include_url=False, include_context=False, include_input=False)
    return invalid([(".".join(map(str, one["loc"])) or "body", one["msg"]) for one in found])
