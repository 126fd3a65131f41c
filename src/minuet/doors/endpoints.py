"""What a command's and a query's address do: read the message, hand it in at the desk, tell the answer."""

from __future__ import annotations

import asyncio
import contextlib
import re
import types
import typing
from collections.abc import Collection, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl

import pydantic
from pydantic_core import from_json, to_json
from starlette.types import Message as AsgiMessage

from minuet.codec import BODY_BYTES_MAX, Codec, envelope_from, timestamp, view_to_bytes
from minuet.codec_http import (
    JSON,
    PROBLEM_JSON,
    aliases_of,
    attributes_in,
    filled,
    headers_of,
    refusal_problem,
    strict_json,
    value_of,
    wait_s_of,
)
from minuet.core.envelope import Envelope
from minuet.core.errors import DefinitionError
from minuet.core.messages import Command, Query, Refusal, name_of, successes
from minuet.doors.routing import Asked, Gone, Problem, Reply, invalid, invalid_by
from minuet.ports import Clock, Ids
from minuet.runtime.desk import Desk

# Without a preference the answer is what came of the first attempt, be it that there is none yet.
WAIT_S = 0.0
WAIT_S_MAX = 30.0
BODY_S_MAX = 30.0
PASSED_OVER_MAX = 32 * 1024 * 1024
KEY_MAX = 255
PARAMETERS_MAX = 100
_ONCE = frozenset({"idempotency-key", "content-type", "content-encoding", "traceparent"})
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
# No two runs of spaces beside each other: of a long one in a header, each split between the two would be tried.
_JSON_TYPE = re.compile(r'application/json\s*(?:;\s*(?:charset\s*=\s*"?utf-?8"?\s*(?:;\s*)?)?)?', re.IGNORECASE)


class CommandEndpoint:
    """One command of one service."""

    def __init__(self, command: type[Command], desk: Desk, codec: Codec, clock: Clock, ids: Ids) -> None:
        contract = command.__contract__
        assert contract.http is not None
        self.command, self.name, self.version = command, name_of(command), contract.version
        self.desk, self.codec, self.clock, self.ids = desk, codec, clock, ids
        aliases = aliases_of(command)
        self.path_aliases = tuple(aliases[field] for field in contract.http.path_fields)
        self.accepted = contract.accepted
        if contract.accepted:
            _check_accepted(command, contract.accepted)

    async def __call__(self, asked: Asked) -> Reply:
        headers = headers_in(asked)
        body = await body_of(asked, headers)
        if body or not self.path_aliases:
            check_content_type(headers)
        body = self._with_path(body or b"{}", asked.values)
        envelope = self._envelope(headers, body)
        self._check(envelope)
        prefer = headers.get("prefer")
        wait_s = wait_s_of(prefer) if prefer else None
        wait_s = WAIT_S if wait_s is None else min(wait_s, WAIT_S_MAX)
        answer = await self.desk.ask(envelope, key=key_in(headers), wait_s=wait_s)
        return self._reply(answer, asked.instance)

    def _with_path(self, body: bytes, values: Sequence[str]) -> bytes:
        """The body with what the path says added, after seeing to it that the two agree."""
        try:
            content = strict_json(body)
        except ValueError as error:
            raise invalid([("body", str(error))]) from None
        if not isinstance(content, dict):
            raise invalid([("body", "it is not a JSON object")])
        said = dict(zip(self.path_aliases, values, strict=True))
        added = {name: value for name, value in said.items() if name not in content}
        if len(added) < len(said):
            self._check_agreement(content, said)
        if not added:
            return body
        comma = b"," if content else b""
        return body.rstrip()[:-1] + comma + to_json(added)[1:]

    def _check_agreement(self, content: Mapping[str, Any], said: Mapping[str, str]) -> None:
        if self._read(to_json({**said, **content})) != self._read(to_json({**content, **said})):
            both = [name for name in said if name in content]
            raise invalid([(name, "the path says something else") for name in both])

    def _check(self, envelope: Envelope) -> None:
        if envelope.version == self.version:
            self._read(envelope.body)
        else:
            self.codec.decode(envelope)

    def _read(self, body: bytes) -> Command:
        try:
            return self.command.model_validate_json(body, by_alias=True, by_name=False)
        except pydantic.ValidationError as error:
            raise invalid_by(error) from None

    def _envelope(self, headers: Mapping[str, str], body: bytes) -> Envelope:
        now = self.clock.now()
        try:
            attributes = attributes_in(headers.items())
            if not attributes:
                return self._strangers(headers, body, now)
            if "time" not in attributes:  # CloudEvents leaves it optional
                attributes["time"] = timestamp(now)
            envelope = envelope_from(attributes, body)
        except (KeyError, ValueError, TypeError, OverflowError) as error:
            what = f"ce-{error.args[0]} is missing" if isinstance(error, KeyError) else str(error)[:100]
            raise Problem(400, "attributes", "CloudEvents attributes cannot be read", what) from None
        if envelope.type != self.name:
            what = f"ce-type says {envelope.type[:64]!r}, but this is the address of {self.name}"
            raise Problem(400, "attributes", "CloudEvents attributes cannot be read", what)
        return envelope

    def _strangers(self, headers: Mapping[str, str], body: bytes, now: float) -> Envelope:
        traceparent = headers.get("traceparent", "")
        if not _TRACEPARENT.fullmatch(traceparent):
            traceparent = ""
        return Envelope(
            id=self.ids.new(),
            type=self.name,
            source="http",
            time=now,
            body=body,
            version=self.version,
            traceparent=traceparent,
        )

    def _reply(self, answer: Envelope, instance: str) -> Reply:
        headers = headers_of(answer)
        event = self.codec.types[answer.type]
        if issubclass(event, Refusal):
            return Reply(409, to_json(refusal_problem(self.name, answer, instance)), headers, PROBLEM_JSON)
        if self.accepted is None:
            return Reply(200, answer.body, headers)
        content = from_json(answer.body)
        values = {name: content.get(alias) for name, alias in aliases_of(event).items()}
        with contextlib.suppress(ValueError):  # it is accepted all the same
            headers.append(("location", filled(self.accepted, values)))
        return Reply(202, answer.body, headers)


class QueryEndpoint:
    """One query of one service."""

    def __init__(self, query: type[Query], desk: Desk) -> None:
        assert query.__contract__.http is not None
        self.query, self.desk = query, desk
        aliases = aliases_of(query)
        self.path_aliases = tuple(aliases[field] for field in query.__contract__.http.path_fields)
        self.parameters = {alias: name for name, alias in aliases.items() if alias not in self.path_aliases}
        self.many = frozenset(
            alias for alias, name in self.parameters.items() if _takes_many(query.model_fields[name].annotation)
        )

    async def __call__(self, asked: Asked) -> Reply:
        values = parameters_in(asked, self.parameters, self.many)
        values.update(zip(self.path_aliases, asked.values, strict=True))
        validator = self.query.__pydantic_validator__
        try:
            if self.many:
                query = validator.validate_python(values, by_alias=True, by_name=False)
            else:
                query = validator.validate_strings(values, by_alias=True, by_name=False)
        except pydantic.ValidationError as error:
            raise invalid_by(error) from None
        view = await self.desk.read(query)
        return Reply(200, view_to_bytes(view), [("cache-control", "no-store")])


# -- what a request says -----------------------------------------------------------------------------------------------


def parameters_in(asked: Asked, known: Collection[str], many: Collection[str] = ()) -> dict[str, Any]:
    """What the query string says by these names; those of ``many`` may be said again and again, and are lists."""
    query_string: bytes = asked.scope["query_string"]
    if not query_string:
        return {}
    try:
        pairs = parse_qsl(
            query_string.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=PARAMETERS_MAX
        )
    except ValueError:
        raise invalid([("query", f"it cannot be read as at most {PARAMETERS_MAX} parameters in UTF-8")]) from None
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in many:
            found.setdefault(name, []).append(value)
        elif name not in known:
            raise invalid([(name, f"there is no such parameter; there is {', '.join(known) or 'none'}")])
        elif name in found:
            raise invalid([(name, "it is given twice")])
        else:
            found[name] = value
    return found


def headers_in(asked: Asked) -> dict[str, str]:
    """The headers by lower-case name. One that may stand once only, and does not, is a problem."""
    found: dict[str, str] = {}
    for raw_name, raw_value in asked.scope["headers"]:
        name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
        if name not in found:
            found[name] = value
        elif name in _ONCE or name.startswith("ce-"):
            raise Problem(400, "header", "A header cannot be read", f"{name[:64]} is given twice.")
        else:
            found[name] = f"{found[name]}, {value}"
    return found


def key_in(headers: Mapping[str, str]) -> str:
    said = headers.get("idempotency-key")
    if said is None:
        return ""
    try:
        key = value_of(said.strip())
    except ValueError:
        key = ""
    if not 0 < len(key) <= KEY_MAX:
        raise Problem(400, "header", "A header cannot be read", f"Idempotency-Key must have 1 to {KEY_MAX} characters.")
    return key


def check_content_type(headers: Mapping[str, str]) -> None:
    said = headers.get("content-type", "")
    if not _JSON_TYPE.fullmatch(said):
        raise Problem(415, "media-type", "Unsupported media type", f'The body must be sent as "Content-Type: {JSON}".')
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise Problem(415, "media-type", "Unsupported media type", "The body must be sent without a Content-Encoding.")


async def body_of(asked: Asked, headers: Mapping[str, str]) -> bytes:
    """The body, read no further than it may be long, and for no longer than it may take.

    Raises:
        Gone: whoever sent it hung up.
    """
    length = headers.get("content-length", "")
    if length.isascii() and length.isdigit() and (len(length) > 15 or int(length) > BODY_BYTES_MAX):
        if "expect" not in headers:
            await _pass_over(asked)
        raise _too_large()
    try:
        async with asyncio.timeout(BODY_S_MAX):
            message = await asked.receive()
            if message["type"] == "http.request" and not message.get("more_body"):
                body: bytes = message.get("body", b"")
            else:
                body = await _joined(message, asked)
    except TimeoutError:
        raise Problem(
            408, "timeout", "Too slow", f"The body took more than {BODY_S_MAX:.0f} s.", [("connection", "close")]
        ) from None
    if len(body) > BODY_BYTES_MAX:
        raise _too_large()
    return body


async def _joined(message: AsgiMessage, asked: Asked) -> bytes:
    body = bytearray()
    while message["type"] == "http.request":
        body += message.get("body", b"")
        if not message.get("more_body") or len(body) > BODY_BYTES_MAX:
            return bytes(body)
        message = await asked.receive()
    raise Gone


async def _pass_over(asked: Asked) -> None:
    """Read a body that is too large and forget it: who is still sending when we hang up would never see the answer."""
    passed_over = 0
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(BODY_S_MAX):
            while passed_over < PASSED_OVER_MAX:
                message = await asked.receive()
                passed_over += len(message.get("body", b""))
                if not message.get("more_body"):
                    return


def _too_large() -> Problem:
    return Problem(413, "too-large", "The body is too large", f"The body may have {BODY_BYTES_MAX} bytes.")


# -- what a contract says ----------------------------------------------------------------------------------------------


def _check_accepted(command: type[Command], template: str) -> None:
    wanted = {part[1:-1] for part in template.split("/") if part.startswith("{") and part.endswith("}")}
    for event in successes(command):
        missing = wanted - set(event.model_fields)
        if missing:
            raise DefinitionError(
                f'{name_of(command)}: accepted="{template}" names {sorted(missing)[0]!r}, '
                f"which {name_of(event)} does not have"
            )


def _takes_many(annotation: Any) -> bool:
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, types.UnionType):
        return any(_takes_many(one) for one in typing.get_args(annotation))
    return (origin or annotation) in (list, tuple, set, frozenset, Sequence)
