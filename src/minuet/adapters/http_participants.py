"""Asks participants over HTTP: those that minuet serves, and those that somebody wrote by hand.

There are three kinds of answers. A definite one is the event or refusal that the participant recorded. `Rejected` says
that the request as it stands will never have one, which needs an operator. Everything else, silence and nonsense
included, is `NotYet`: whether the participant did it is unknown, so it is asked again with the same key.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import aiohttp
from pydantic_core import from_json, to_json
from yarl import URL

from minuet.codec import BODY_BYTES_MAX, Codec, digest_of, envelope_from, explain, seconds
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
KEEP_ALIVE_S = 30.0
RESPONSE_BYTES_MAX = 4 * BODY_BYTES_MAX
RETRY_S = 1.0
_ASK_AGAIN = frozenset({408, 425, 429})


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
        self._opened: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        if self._opened is not None:
            await self._opened.close()
            self._opened = None

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
        }
        service = command_type.__contract__.service
        response = await self._call(route.method, service, path, headers, body)
        exchange = Exchange(
            command=command_type, asked=envelope, key=key, response=response, codec=self.codec, now=self.clock.now()
        )
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
            return query.__answer__.model_validate_json(response.body)
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
    ) -> Response:
        url = URL(self.url_of(service).rstrip("/") + path, encoded=True)
        if parameters:
            url = url.with_query(parameters)
        try:
            async with self._session().request(
                method, url, data=body, headers=headers, allow_redirects=False
            ) as response:
                return Response(response.status, _plain(response.headers), await _bounded_body(response))
        except TimeoutError as error:
            raise NotYet(f"{service} did not answer in time", retry_after_s=RETRY_S) from error
        except (aiohttp.ClientError, OSError) as error:
            raise NotYet(f"{service} cannot be reached: {type(error).__name__}", retry_after_s=RETRY_S) from error

    def _session(self) -> aiohttp.ClientSession:
        # It belongs to the loop that it is first used on.
        if self._opened is None:
            self._opened = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=CONNECTIONS_MAX, keepalive_timeout=KEEP_ALIVE_S),
                timeout=self._timeout,
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                headers={"Accept": f"{JSON}, {PROBLEM_JSON}", "Accept-Encoding": "identity"},
                skip_auto_headers=("User-Agent",),
            )
        return self._opened


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

    def answer(self) -> Envelope:
        """What the participant recorded.

        Raises:
            NotYet, Rejected
        """
        response = self.response
        if 200 <= response.status < 300:
            return self._told(response.body or b"{}", self._success())
        if response.status == 409:
            content = _content(response)
            name = refusal_in(content, [*map(name_of, refusals(self.command)), name_of(StepRefused)])
            if name is not None or response.headers.get("ce-type"):
                return self._told(refused_body(content), name)
        raise _failure(response, name_of(self.command), self.now)

    def _told(self, body: bytes, kind: str | None) -> Envelope:
        """The answer's envelope: by its attributes, else of this kind and put together from what was asked."""
        try:
            attributes = attributes_in(self.response.headers.items())
            answer = envelope_from(attributes, body) if attributes else self._strangers(body, kind)
            self._check_declared(answer.type)
            event = self.codec.decode(answer)
            # A stranger's body may lack what ours carry, and have more than the contract says.
            return answer if attributes else replace(answer, body=self.codec.encode(event, time=answer.time))
        except (MessageError, KeyError, ValueError, TypeError, OverflowError) as error:
            what = f"{self.service} answered {self.asked.type} with nonsense: {str(error)[:300]}"
            raise NotYet(what, retry_after_s=RETRY_S) from error

    def _strangers(self, body: bytes, kind: str | None) -> Envelope:
        content = from_json(body)
        if not isinstance(content, dict):
            raise ValueError("not a JSON object")
        if kind is None:
            raise Rejected(f"{self.service} answered {self.asked.type}, but no ce-type or eventType says with what")
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
        if isinstance(said, str) and said in self._declared():
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
        if self.response.status == 409 and not issubclass(declared[kind], Refusal):
            raise ValueError(f"{kind} as a refusal")


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
    if response.status >= 500 or response.status in _ASK_AGAIN:
        header = response.headers.get("retry-after", "")
        after_s = retry_after_s_of(header, _content(response), now, default=RETRY_S)
        return NotYet(f"{asked}: {told}", retry_after_s=after_s)
    return Rejected(f"{asked}: {told}")


def _detail(response: Response, default: str) -> str:
    content = _content(response)
    said = content.get("detail") or content.get("title")
    return said[:500] if isinstance(said, str) else default
