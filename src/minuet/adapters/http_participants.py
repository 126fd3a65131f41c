"""Asks participants over HTTP: those that minuet serves, and those that somebody wrote by hand.

There are three kinds of answers. A definite one is the event or refusal that the participant recorded. `Rejected` says
that the request as it stands will never have one, which needs an operator. Everything else, silence and nonsense
included, is `NotYet`: whether the participant did it is unknown, so it is asked again with the same key.

Nothing that a participant sends is trusted: an answer takes no more than so much memory and time, it is read only if it
says what it is, and what could not be stored is not let in. docs/participants.md is the contract in words.

What a server says unasked, mostly the same answer twice, would be taken for the answer to the next command on that
connection, which is another order's. So a connection is used again only where the answer says what it answers: by
``ce-causationid``, as ours do, or by the request's ``Idempotency-Key``. Connections of queries are always kept; there
the view is compared with what the path asks for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import aiohttp
from pydantic_core import from_json, to_json
from yarl import URL

from minuet.codec import (
    BODY_BYTES_MAX,
    NAME_CHARACTERS_MAX,
    NAMES,
    Codec,
    attributes_to_text,
    digest_of,
    envelope_from,
    explain,
    seconds,
)
from minuet.codec_http import (
    JSON,
    NO_SUCH_ROUTE,
    PROBLEM_JSON,
    aliases_of,
    attributes_in,
    filled,
    header_value,
    headers_of,
    refusal_in,
    refused_body,
    retry_after_s_of,
    text_of,
)
from minuet.core.envelope import Envelope
from minuet.core.errors import MessageError, NotFound, NotYet, Rejected
from minuet.core.messages import (
    Command,
    Event,
    HttpRoute,
    Message,
    Query,
    Refusal,
    StepRefused,
    View,
    name_of,
    refusals,
    successes,
)
from minuet.ports import Clock

CONNECTIONS_MAX = 100
"""To one address: a participant that hangs must not keep the others from being asked."""
KEEP_ALIVE_S = 30.0
RESPONSE_BYTES_MAX = 4 * BODY_BYTES_MAX
RETRY_S = 1.0
RETRY_S_MIN = 0.05
"""Whatever a participant says: ``Retry-After: 0`` must not be asked for in a circle as fast as both can."""
_ASK_AGAIN = frozenset({408, 425, 429})
_ACCEPTED, _NO_CONTENT = 202, 204


@dataclass(frozen=True, slots=True)
class Response:
    status: int
    headers: Mapping[str, str]
    body: bytes


class HttpParticipants:
    """The services of other processes.

    Args:
        url_of: where a service answers HTTP now; raises NotYet if that is unknown.
        timeout_s: how long one call may take in all. Longer than ``wait_s``.
        wait_s: how long a participant may wait for its definite answer before it says that there is none yet.
    """

    def __init__(
        self, url_of: Callable[[str], str], codec: Codec, *, clock: Clock, timeout_s: float = 30.0, wait_s: float = 20.0
    ) -> None:
        self.url_of = url_of
        self.codec = codec
        self.clock = clock
        self._timeout = aiohttp.ClientTimeout(total=timeout_s, sock_connect=min(5.0, timeout_s))
        self._prefer = f"wait={int(wait_s)}"
        self._opened: dict[bool, aiohttp.ClientSession] = {}
        self._say_what_they_answer: set[str] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        while self._opened:
            _, session = self._opened.popitem()
            await session.close()

    async def ask(self, command_type: type[Command], envelope: Envelope, *, key: str) -> Envelope:
        """The recorded answer of the command's service.

        Raises:
            NotYet: no definite answer; ask again with the same key.
            Rejected: there will be none as it stands.
        """
        route = _route_of(command_type)
        path, body = _addressed(command_type, route, envelope.body)
        headers = {
            **dict(headers_of(envelope)),
            "Content-Type": JSON,
            "Prefer": self._prefer,
            **({"Idempotency-Key": header_value(key)} if key else {}),
            # Also as W3C has it, for the tracing of who knows nothing of CloudEvents.
            **({"traceparent": header_value(envelope.traceparent)} if envelope.traceparent else {}),
        }
        service = command_type.__contract__.service

        async def exchanged(*, keeps: bool) -> Exchange:
            response = await self._call(route.method, service, path, headers, body, keeps=keeps)
            now = self.clock.now()
            return Exchange(command=command_type, asked=envelope, key=key, response=response, codec=self.codec, now=now)

        if service in self._say_what_they_answer:
            exchange = await exchanged(keeps=True)
            if exchange.says_what_it_answers or exchange.is_indefinite:
                return exchange.answer()
            # Maybe the answer to another command. On a connection of its own it can only be the answer to this one.
            self._say_what_they_answer.discard(service)
        exchange = await exchanged(keeps=False)
        if exchange.says_what_it_answers:
            self._say_what_they_answer.add(service)
        return exchange.answer()

    async def read(self, query: Query) -> View:
        """The view that answers the query.

        Raises:
            NotFound, NotYet, Rejected
        """
        route = _route_of(type(query))
        content = query.model_dump(mode="json", by_alias=True, exclude_none=True)
        path = _path(route, type(query), content)
        parameters = [(name, text_of(one)) for name, value in content.items() for one in _each(value)]
        service = query.__contract__.service
        response = await self._call("GET", service, path, {}, None, parameters)
        if response.status == 404 and _content(response).get("type") != NO_SUCH_ROUTE:
            raise NotFound(_detail(response, f"{name_of(query)}: {service} has no such thing"))
        if not 200 <= response.status < 300:
            raise _failure(response, name_of(query), self.clock.now())
        try:
            view = query.__answer__.model_validate_json(response.body)
            for name in route.path_fields:
                if getattr(view, name, None) not in (None, getattr(query, name)):
                    raise ValueError(f"its {name} is another than the one asked about")
            return view
        except ValueError as error:
            raise NotYet(
                f"{service} answered {name_of(query)} with nonsense: {explain(error)}", retry_after_s=RETRY_S
            ) from error

    async def _call(
        self,
        method: str,
        service: str,
        path: str,
        headers: Mapping[str, str],
        body: bytes | None,
        parameters: list[tuple[str, str]] | None = None,
        *,
        keeps: bool = True,
    ) -> Response:
        url = URL(self.url_of(service).rstrip("/") + path, encoded=True)
        if parameters:
            url = url.with_query(parameters)
        try:
            asked = self._session(keeps).request(method, url, data=body, headers=headers, allow_redirects=False)
            async with asked as response:
                return Response(response.status, _plain(response.headers), await _bounded_body(response))
        except TimeoutError as error:
            raise NotYet(f"{service} did not answer in time", retry_after_s=RETRY_S) from error
        except (aiohttp.ClientError, OSError) as error:
            raise NotYet(f"{service} cannot be reached: {type(error).__name__}", retry_after_s=RETRY_S) from error

    def _session(self, keeps: bool) -> aiohttp.ClientSession:
        """That which keeps its connections, or that which opens one for each request."""
        # It belongs to the loop that it is first used on.
        if keeps not in self._opened:
            connector = (
                aiohttp.TCPConnector(limit=0, limit_per_host=CONNECTIONS_MAX, keepalive_timeout=KEEP_ALIVE_S)
                if keeps
                else aiohttp.TCPConnector(limit=0, limit_per_host=CONNECTIONS_MAX, force_close=True)
            )
            self._opened[keeps] = aiohttp.ClientSession(
                connector=connector,
                timeout=self._timeout,
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                headers={"Accept": f"{JSON}, {PROBLEM_JSON}", "Accept-Encoding": "identity"},
                skip_auto_headers=("User-Agent",),
            )
        return self._opened[keeps]


async def _bounded_body(response: aiohttp.ClientResponse) -> bytes:
    if (response.content_length or 0) <= RESPONSE_BYTES_MAX:
        if response.content_length is not None:
            return await response.read()
        body = bytearray()
        async for chunk in response.content.iter_any():
            body += chunk
            if len(body) > RESPONSE_BYTES_MAX:
                break
        else:
            return bytes(body)
    response.close()
    raise aiohttp.ClientPayloadError("the answer is too large")


def _plain(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


# -- requests ----------------------------------------------------------------------------------------------------------


def _route_of(message: type[Message]) -> HttpRoute:
    route = message.__contract__.http
    if route is None:
        raise Rejected(f'{name_of(message)} has no address; declare one with http="POST /..." to ask for it over HTTP')
    return route


def _addressed(command: type[Command], route: HttpRoute, body: bytes) -> tuple[str, bytes]:
    """The path, and the body without what the path says."""
    if not route.path_fields:
        return route.path, body
    content = from_json(body)
    return _path(route, command, content), to_json(content)


def _path(route: HttpRoute, message: type[Message], content: dict[str, Any]) -> str:
    """The path with its fields filled in, which are taken out of the content."""
    if not route.path_fields:
        return route.path
    aliases = aliases_of(message)
    try:
        return filled(route.path, {field: content.pop(aliases[field], None) for field in route.path_fields})
    except ValueError as error:
        raise Rejected(f"{name_of(message)}: {error}") from error


def _each(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


# -- answers -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """A command that was asked for, and what came back."""

    command: type[Command]
    asked: Envelope
    key: str
    response: Response
    codec: Codec
    now: float

    @property
    def service(self) -> str:
        return self.command.__contract__.service

    @property
    def says_what_it_answers(self) -> bool:
        """Whether its headers leave no doubt that it is the answer to this command."""
        headers = self.response.headers
        echoed = (headers.get("ce-causationid"), headers.get("idempotency-key"))
        return echoed[0] == header_value(self.asked.id) or bool(self.key and echoed[1] == header_value(self.key))

    @property
    def is_indefinite(self) -> bool:
        return _is_indefinite(self.response)

    def answer(self) -> Envelope:
        """What the participant recorded.

        Raises:
            NotYet, Rejected
        """
        response = self.response
        if 200 <= response.status < 300:
            # Where nothing was to be said, nothing is said; elsewhere an empty body is one that got lost.
            return self._told(response.body or (b"{}" if response.status == _NO_CONTENT else b""), self._success)
        if response.status == 409:
            content = _content(response)
            name = refusal_in(content, [*map(name_of, refusals(self.command)), name_of(StepRefused)])
            if name is not None or response.headers.get("ce-type"):
                return self._told(refused_body(content), lambda: name)
        raise _failure(response, name_of(self.command), self.now)

    def _told(self, body: bytes, kind: Callable[[], str | None]) -> Envelope:
        """The answer's envelope: by its attributes, else of this kind and put together from what was asked."""
        try:
            self._check_readable(body)
            attributes = attributes_in(self.response.headers.items())
            answer = envelope_from(attributes, body) if attributes else self._strangers(body, kind())
            self._check_declared(answer.type)
            event = self.codec.decode(answer)
            self._check_same_business(event)
            # A stranger's body may lack what ours carry, and have more than the contract says.
            told = answer if attributes else replace(answer, body=self.codec.encode(event, time=answer.time))
            attributes_to_text(told)  # as the store will write it: what cannot be written is nonsense too
        except (MessageError, KeyError, ValueError, TypeError, OverflowError) as error:
            what = f"{self.service} answered {self.asked.type} with nonsense: {_in_one_line(explain(error), 300)}"
            raise NotYet(what, retry_after_s=RETRY_S) from error
        return told

    def _check_readable(self, body: bytes) -> None:
        """
        Raises:
            ValueError: it is not the JSON of a participant, but, say, the page of a proxy in front of it.
        """
        said = self.response.headers.get("content-type", JSON).partition(";")[0].strip().lower()
        if said != JSON and not said.endswith("+json") and self.response.body:
            raise ValueError(f"its content type is {said[:64]!r}, not {JSON}")
        if len(body) > BODY_BYTES_MAX:
            raise ValueError(f"it has {len(body)} bytes; {BODY_BYTES_MAX} is the most")
        for name, value in self.response.headers.items():
            if name.startswith("ce-") and not value.isascii():
                raise ValueError(f"{name} is not percent-encoded")
            if name[3:] in NAMES and name.startswith("ce-") and len(value) > NAME_CHARACTERS_MAX:
                raise ValueError(f"{name} has {len(value)} characters; {NAME_CHARACTERS_MAX} is the most")

    def _check_same_business(self, event: Message) -> None:
        """An answer about another piece of business got here by mistake, its own or the connection's.

        Raises:
            ValueError: it is such a one.
        """
        asked = self.codec.decode(self.asked)
        for name in self.command.__contract__.key:
            mine, theirs = getattr(asked, name), getattr(event, name, None)
            if mine == self.asked.key and isinstance(theirs, str) and theirs != mine:
                raise ValueError(f"its {name} is another than the one asked about")

    def _strangers(self, body: bytes, kind: str | None) -> Envelope:
        content = from_json(body)
        if not isinstance(content, dict):
            raise ValueError("not a JSON object")
        if kind is None:
            raise Rejected(f"{self.service} answered {self.asked.type}, but no ce-type or eventType says with what")
        if self.response.status == _ACCEPTED and content.get("eventType") != kind:
            raise ValueError("202 without an event, which says that it is not done yet")
        # The same key has the same answer, so the answer's id comes from the key.
        name = "\0".join((self.service, self.asked.type, self.key or self.asked.id, kind))
        return Envelope(
            id=digest_of(name.encode()),
            type=kind,
            source=self.service,
            time=_seconds_or(content.get("timestamp"), self.now),
            body=body,
            version=self._declared()[kind].__contract__.version,
            key=self.asked.key,
            saga=self.asked.saga,
            correlation=self.asked.correlation,
            causation=self.asked.id,
            traceparent=self.asked.traceparent,
            hops=self.asked.hops,
        )

    def _success(self) -> str | None:
        """Which answer a 2xx without attributes is: what its body says, or the only success there is."""
        said = _content(self.response).get("eventType")
        if isinstance(said, str):
            self._check_declared(said)
            return said
        only = successes(self.command)
        return name_of(only[0]) if len(only) == 1 else None

    def _declared(self) -> dict[str, type[Event]]:
        answers: tuple[type[Event], ...] = (*self.command.__contract__.answers, StepRefused)
        return {name_of(one): one for one in answers}

    def _check_declared(self, kind: str) -> None:
        declared = self._declared()
        if kind not in declared:
            raise Rejected(f"{self.service} answered {self.asked.type} with {kind[:64]!r}, which it does not declare")
        is_refusal = issubclass(declared[kind], Refusal)
        if self.response.status == 409 and not is_refusal:
            raise ValueError(f"{kind} as a refusal")
        if is_refusal and not self.asked.may_refuse:
            # Believing it would undo steps around one that cannot be undone, or leave something that should be undone.
            raise Rejected(
                f"{self.service} refused {self.asked.type} with {kind}, which cannot be refused any more, only done"
            )


def _seconds_or(stamp: object, now: float) -> float:
    try:
        return seconds(str(stamp))
    except (ValueError, OverflowError):
        return now


def _content(response: Response) -> dict[str, Any]:
    """The JSON object in the body, or an empty one."""
    try:
        content = from_json(response.body)
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _failure(response: Response, asked: str, now: float) -> NotYet | Rejected:
    """What an answer that is none means for the asker."""
    told = _detail(response, f"HTTP {response.status}")
    if _is_indefinite(response):
        header = response.headers.get("retry-after", "")
        after_s = retry_after_s_of(header, _content(response), now, default=RETRY_S)
        return NotYet(f"{asked}: {told}", retry_after_s=max(after_s, RETRY_S_MIN))
    return Rejected(f"{asked}: {told}")


def _is_indefinite(response: Response) -> bool:
    return response.status >= 500 or response.status in _ASK_AGAIN


def _detail(response: Response, default: str) -> str:
    content = _content(response)
    said = content.get("detail") or content.get("title")
    return _in_one_line(said, 500) if isinstance(said, str) and said else default


def _in_one_line(text: str, characters_max: int) -> str:
    """As it may stand in a log and in a table: somebody else wrote it."""
    return "".join(one if one.isprintable() else " " for one in text[:characters_max])
