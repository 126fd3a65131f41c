"""Between typed messages and bytes: JSON bodies, CloudEvents 1.0 attributes in binary mode, schema versions. Pure.

A body is a JSON object with camelCase fields. An event's body also carries ``eventType`` and ``timestamp``, so that a
reader who looks at nothing but the body understands it. Attributes follow CloudEvents 1.0.2 (names of lower-case
letters and digits, values as strings), with the extensions ``partitionkey``, ``dataversion``, ``correlationid``,
``causationid``, ``expirytime``, ``hops``, ``mayrefuse``, ``cancelled``, ``saga``, ``sagaid``, ``sagastep``,
``sagadefinition``, ``sagacoordination``, ``sagadeadline`` and ``sagabegins``, and W3C ``traceparent``.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import pydantic
from pydantic_core import from_json, to_json

from minuet.core.envelope import Envelope, SagaRef
from minuet.core.errors import DefinitionError, MessageError
from minuet.core.messages import Event, Message, View, name_of
from minuet.core.projection import Coordination

BODY_BYTES_MAX = 1024 * 1024
HOPS_MAX = 64
STRANGER = "stranger"
REQUIRED = {"id", "type", "source", "time"}
NAME_CHARACTERS_MAX = 2048
"""Of what names a message, its cause or its key: others inherit it, and brokers limit what travels beside a body."""
NAMES = ("id", "source", "type", "partitionkey", "correlationid", "causationid", "sagaid")


class Codec:
    """Encodes and decodes the messages of one app.

    Args:
        messages: every message class that may arrive or leave.
    """

    def __init__(self, messages: Iterable[type[Message]]) -> None:
        self.types: dict[str, type[Message]] = {}
        self.channels: dict[str, list[type[Event]]] = {}
        for message in dict.fromkeys(messages):
            name = name_of(message)
            if self.types.setdefault(name, message) is not message:
                raise DefinitionError(
                    f"two message classes are named {name} ({self.types[name].__module__} and "
                    f"{message.__module__}); rename one"
                )
            if issubclass(message, Event):
                self.channels.setdefault(message.__contract__.channel, []).append(message)

    def encode(self, message: Message, *, time: float) -> bytes:
        """The message's body.

        Raises:
            MessageError: it is larger than any transport takes.
        """
        # A command says nothing of the optional fields that it leaves out.
        body = message.__pydantic_serializer__.to_json(
            message, by_alias=True, exclude_none=not isinstance(message, Event)
        )
        if isinstance(message, Event):
            inner = body[1:-1]
            body = b'{"eventType":"%b",%b%b"timestamp":"%b"}' % (
                name_of(message).encode(),
                inner,
                b"," if inner else b"",
                timestamp(time).encode(),
            )
        if len(body) > BODY_BYTES_MAX:
            raise MessageError(
                f"{name_of(message)} has {len(body)} bytes, {BODY_BYTES_MAX} is the most; send a reference instead"
            )
        return body

    def decode(self, envelope: Envelope) -> Message:
        """The typed message.

        Raises:
            MessageError: unknown type, a schema too new, or a body that does not fit; says which and why.
        """
        if envelope.message is None:
            remember(envelope, self._decode(envelope))
        assert envelope.message is not None
        return envelope.message

    def _decode(self, envelope: Envelope) -> Message:
        kind = self.type_of(envelope)
        current = kind.__contract__.version
        if envelope.version > current:
            raise MessageError(
                f"{envelope.type} has schema version {envelope.version}, newer than {current}, the newest known here; "
                f"update this service"
            )
        try:
            if envelope.version == current:
                message: Message = kind.__pydantic_validator__.validate_json(envelope.body)
                return message
            return kind.model_validate(self._upcast(kind, envelope))
        except MessageError:
            raise
        except Exception as error:  # what an upcast raises, too: it would raise again on every retry
            raise MessageError(f"{envelope.type} {envelope.id}: {explain(error)}") from error

    def event_of(self, name: str, content: Mapping[str, Any]) -> Event:
        """The event of this name that says this.

        Raises:
            MessageError: there is no such event, or it cannot say that.
        """
        kind = self.types.get(name)
        if kind is None or not issubclass(kind, Event):
            events = ", ".join(sorted(name for name, one in self.types.items() if issubclass(one, Event)))
            raise MessageError(f"there is no event {name!r}; there are {events}")
        try:
            return kind.model_validate(dict(content), by_alias=True, by_name=False)
        except pydantic.ValidationError as error:
            raise MessageError(f"{name}: {explain(error)}") from error

    def type_of(self, envelope: Envelope) -> type[Message]:
        kind = self.types.get(envelope.type)
        if kind is None:
            raise MessageError(f"nobody here understands {envelope.type!r}")
        return kind

    def _upcast(self, kind: type[Message], envelope: Envelope) -> dict[str, Any]:
        content: dict[str, Any] = from_json(envelope.body)
        for version in range(envelope.version, kind.__contract__.version):
            upcast = kind.__contract__.upcasts.get(version)
            if upcast is None:
                raise MessageError(
                    f"{envelope.type} has schema version {envelope.version}, and nothing turns version {version} "
                    f"into {version + 1}"
                )
            content = upcast(content)
        return content

    def envelope_of(self, attributes: Mapping[str, str], body: bytes, *, channel: str, now: float) -> Envelope:
        """The envelope of what a transport delivered, also if a stranger sent it without any attributes.

        Without ``type`` it is the body's ``eventType``, or the channel's only event. Without ``id`` it is the body's
        digest, so that the same bytes again are the same message.

        Raises:
            MessageError: no type to be found, or an attribute that cannot be read or is too long.
        """
        for name in NAMES:
            if len(attributes.get(name, "")) > NAME_CHARACTERS_MAX:
                raise MessageError(
                    f"{name} of a message on {channel} has {len(attributes[name])} characters; the most is "
                    f"{NAME_CHARACTERS_MAX}"
                )
        try:
            if isinstance(attributes, Attributes) and attributes.read.keys() >= REQUIRED:
                envelope = envelope_from(attributes.read, body)
                object.__setattr__(envelope, "text", attributes.text)
                return envelope
            kind = attributes.get("type") or self._type_from(body, channel)
            digest = "" if "id" in attributes else hashlib.sha256(channel.encode() + b"\0" + body).hexdigest()[:32]
            return envelope_from(
                {"id": digest, "source": STRANGER, "time": timestamp(now), **attributes, "type": kind}, body
            )
        except (ValueError, KeyError, TypeError) as error:
            raise MessageError(f"attributes of a message on {channel} cannot be read: {error!r}") from error

    def _type_from(self, body: bytes, channel: str) -> str:
        try:
            content = from_json(body)
        except ValueError as error:
            raise MessageError(f"a message on {channel} without attributes is not JSON: {error}") from error
        if isinstance(content, dict) and isinstance(content.get("eventType"), str):
            return str(content["eventType"])
        fitting = [event for event in self.channels.get(channel, []) if _fits(event, body)]
        if len(fitting) == 1:
            return name_of(fitting[0])
        raise MessageError(f"a message on {channel} says neither ce-type nor eventType")


def _fits(event: type[Event], body: bytes) -> bool:
    try:
        event.__pydantic_validator__.validate_json(body)
    except pydantic.ValidationError:
        return False
    return True


@functools.lru_cache(maxsize=1024)
def timestamp(time: float) -> str:
    """RFC 3339 in UTC with microseconds."""
    microseconds = round(time * 1_000_000)
    return f"{_second(microseconds // 1_000_000)}.{microseconds % 1_000_000:06d}Z"


@functools.lru_cache(maxsize=256)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def attributes_of(envelope: Envelope) -> dict[str, str]:
    """The CloudEvents attributes, without the transport's prefix (``ce-``)."""
    found = {
        "specversion": "1.0",
        "id": envelope.id,
        "type": envelope.type,
        "source": envelope.source,
        "time": timestamp(envelope.time),
        "datacontenttype": "application/json",
    }
    if envelope.key:
        found["partitionkey"] = envelope.key
    if envelope.version != 1:
        found["dataversion"] = str(envelope.version)
    if envelope.saga:
        saga = envelope.saga
        found |= {
            "saga": saga.name,
            "sagaid": saga.id,
            "sagastep": saga.step,
            "sagadefinition": saga.definition,
            "sagacoordination": saga.coordination.value,
        }
    if envelope.begins:
        found["sagabegins"] = json.dumps(
            [[ref.name, ref.id, ref.definition, ref.coordination.value] for ref in envelope.begins]
        )
    if envelope.correlation:
        found["correlationid"] = envelope.correlation
    if envelope.causation:
        found["causationid"] = envelope.causation
    if envelope.traceparent:
        found["traceparent"] = envelope.traceparent
    if envelope.expires is not None:
        found["expirytime"] = timestamp(envelope.expires)
    if envelope.saga_expires is not None:
        found["sagadeadline"] = timestamp(envelope.saga_expires)
    if not envelope.may_refuse:
        found["mayrefuse"] = "false"
    if envelope.cancelled:
        found["cancelled"] = "true"
    if envelope.hops:
        found["hops"] = str(envelope.hops)
    return found


def remember(envelope: Envelope, message: Message) -> Envelope:
    """Spare others the reading: ``message`` is what the envelope's body says. Returns the envelope."""
    object.__setattr__(envelope, "message", message)
    return envelope


class Attributes(Mapping[str, str]):
    """Attributes as a JSON object, read when somebody looks."""

    __slots__ = ("_read", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self._read: dict[str, str] | None = None

    @property
    def read(self) -> dict[str, str]:
        if self._read is None:
            self._read = from_json(self.text)
        return self._read

    def __getitem__(self, name: str) -> str:
        return self.read[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.read)

    def __len__(self) -> int:
        return len(self.read)

    def __repr__(self) -> str:
        return f"Attributes({self.text!r})"


def attributes_to_text(envelope: Envelope) -> str:
    """The attributes as a JSON object, for a table. Written out once for each envelope."""
    if envelope.text is None:
        object.__setattr__(envelope, "text", to_json(attributes_of(envelope)).decode())
    assert envelope.text is not None
    return envelope.text


def envelope_from_text(attributes: str, body: bytes) -> Envelope:
    """The reverse of `attributes_to_text`."""
    envelope = envelope_from(from_json(attributes), body)
    object.__setattr__(envelope, "text", attributes)
    return envelope


def envelope_from(attributes: Mapping[str, str], body: bytes) -> Envelope:
    """The reverse of `attributes_of`; attributes it does not know are left out.

    Raises:
        KeyError, ValueError: an attribute is missing or cannot be read.
    """
    get = attributes.get
    saga = None
    if get("saga"):
        saga = SagaRef(
            attributes["saga"],
            attributes["sagaid"],
            attributes.get("sagadefinition", ""),
            Coordination(attributes["sagacoordination"]),
            attributes["sagastep"],
        )
    begins: tuple[SagaRef, ...] = ()
    if get("sagabegins"):
        begins = tuple(
            SagaRef(str(name), str(saga_id), str(definition), Coordination(how), "begin")
            for name, saga_id, definition, how in from_json(attributes["sagabegins"])
        )
    expires, saga_expires = get("expirytime"), get("sagadeadline")
    hops = int(get("hops") or 0)
    if hops < 0:
        raise ValueError(f"hops is {hops}, and counts from 0")
    return Envelope(
        id=attributes["id"],
        type=attributes["type"],
        source=attributes["source"],
        time=seconds(attributes["time"]),
        body=body,
        key=get("partitionkey") or "",
        version=int(get("dataversion") or 1),
        saga=saga,
        begins=begins,
        correlation=get("correlationid") or "",
        causation=get("causationid") or "",
        traceparent=get("traceparent") or "",
        expires=seconds(expires) if expires else None,
        saga_expires=seconds(saga_expires) if saga_expires else None,
        may_refuse=get("mayrefuse") != "false",
        cancelled=get("cancelled") == "true",
        hops=hops,
    )


def seconds(rfc3339: str) -> float:
    """Seconds since 1970.

    Raises:
        ValueError: not a time, or one without its zone.
    """
    moment = datetime.fromisoformat(rfc3339)
    if moment.tzinfo is None:
        raise ValueError(f"time {rfc3339!r} has no zone; write 2026-01-31T12:00:00Z")
    return moment.timestamp()


def digest_of(body: bytes) -> str:
    """Tells two bodies of one idempotency key apart."""
    return hashlib.blake2b(body, digest_size=16).hexdigest()


def view_to_bytes(view: View) -> bytes:
    return view.__pydantic_serializer__.to_json(view, by_alias=True)


def explain(error: Exception) -> str:
    """A validation error in one line, without the input's values (they may be secret)."""
    if isinstance(error, pydantic.ValidationError):
        found = error.errors(include_url=False, include_context=False, include_input=False)
        return "; ".join(f"{'.'.join(map(str, one['loc'])) or 'body'}: {one['msg']}" for one in found[:5])
    return str(error)
