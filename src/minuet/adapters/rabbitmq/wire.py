"""CloudEvents in binary mode over AMQP 0-9-1: attributes as headers ``cloudEvents_<name>``, the content type native.

The well-known properties (message id, type, correlation id, timestamp) are set too, for people and tools that look at a
queue; the attributes are what counts. They are written to and read from a content header's payload here, because the
client's way over an object takes longer than all else that is done for a message. Pure.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from struct import Struct
from typing import Final

from pamqp import decode

from minuet.adapters.rabbitmq.frames import SHORT_BYTES_MAX, short, short_in
from minuet.codec import seconds

PREFIX: Final = "cloudEvents_"
PREFIXES: Final = (PREFIX, "cloudEvents:")
CONTENT_TYPE: Final = "datacontenttype"
PERSISTENT: Final = b"\2"
NAME_BYTES_MAX: Final = 128
HEADERS_BYTES_MAX: Final = 100_000  # they have to fit into one frame; the broker ends the connection over a larger one
NAMES_MAX: Final = 256  # of attributes, that we remember the written form of
TIME_MAX: Final = 253_402_300_799  # the end of the year 9999

# Which properties a content header has; they follow in this order.
HAS_CONTENT_TYPE: Final = 1 << 15
HAS_CONTENT_ENCODING: Final = 1 << 14
HAS_HEADERS: Final = 1 << 13
HAS_DELIVERY_MODE: Final = 1 << 12
HAS_PRIORITY: Final = 1 << 11
HAS_CORRELATION_ID: Final = 1 << 10
HAS_REPLY_TO: Final = 1 << 9
HAS_EXPIRATION: Final = 1 << 8
HAS_MESSAGE_ID: Final = 1 << 7
HAS_TIMESTAMP: Final = 1 << 6
HAS_TYPE: Final = 1 << 5

_START: Final = Struct(">HHQH")  # the class, nothing, the body's size, and which properties there are
_SIZE: Final = Struct(">I")
_TIMESTAMP: Final = Struct(">Q")
_CLASS: Final = 60
_STRING: Final = ord("S")


def header_of(attributes: Mapping[str, str], message_id: str, body_size: int) -> bytes:
    """The content header of a message with these attributes.

    Raises:
        ValueError: an attribute's name is too long for a header, or all together are.
    """
    content_type = _short(attributes.get(CONTENT_TYPE))
    correlation_id = _short(attributes.get("correlationid"))
    kind = _short(attributes.get("type"))
    moment = _moment(attributes.get("time"))
    table = b"".join(
        part
        for name, value in attributes.items()
        if name != CONTENT_TYPE or not content_type  # too long for the property
        for part in _header(name, value)
    )
    if len(table) > HEADERS_BYTES_MAX:
        raise ValueError(f"its attributes have {len(table)} bytes, {HEADERS_BYTES_MAX} is the most")
    has = HAS_HEADERS | HAS_DELIVERY_MODE | HAS_MESSAGE_ID
    has |= HAS_CONTENT_TYPE if content_type else 0
    has |= HAS_CORRELATION_ID if correlation_id else 0
    has |= HAS_TIMESTAMP if moment else 0
    has |= HAS_TYPE if kind else 0
    return b"".join(
        (
            _START.pack(_CLASS, 0, body_size, has),
            content_type,
            *(_SIZE.pack(len(table)), table),
            PERSISTENT,
            correlation_id,
            short(message_id),
            moment,
            kind,
        )
    )


def message_id_of(attributes: Mapping[str, str]) -> str:
    """The id that a message with these attributes has as a property; empty if none fits."""
    name = attributes.get("id", "")
    return name if len(name.encode()) <= SHORT_BYTES_MAX else ""


def properties_in(header: bytes, *, redelivered: bool) -> tuple[dict[str, str], int]:
    """The attributes of a message, and how often the broker gave it out, this time included.

    Attributes are without a prefix; of a stranger's message without any, they are what its properties say. What cannot
    be read is taken for a message without properties. Classic queues only know that it was not the first time.
    """
    found: dict[str, str] = {}
    deliveries = 2 if redelivered else 1
    try:
        content_type, table, message_id = _parts_of(header)
        if content_type:
            found[CONTENT_TYPE] = content_type
        if message_id:
            found["id"] = message_id
        for name, value in _headers_in(table):
            if name == b"x-delivery-count":
                if redelivered and isinstance(value, int):
                    deliveries = max(2, value + 1)
            elif (attribute := _attribute(name)) is not None and value is not None:
                found[attribute] = value if isinstance(value, str) else _text(value)
    except Exception:  # whatever a stranger wrote, the next message is waiting
        return {}, 2 if redelivered else 1
    return found, deliveries


def message_id_in(header: bytes) -> str:
    """The id of a message of ours that came back."""
    _, _, message_id = _parts_of(header)
    return message_id


@lru_cache(maxsize=NAMES_MAX)
def _name(attribute: str) -> bytes:
    """An attribute's name as a header's, and that a string follows."""
    name = short(PREFIX + attribute)
    if len(name) > 1 + NAME_BYTES_MAX:
        raise ValueError(f"attribute {attribute!r} has a name of more than {NAME_BYTES_MAX - len(PREFIX)} bytes")
    return name + b"S"


@lru_cache(maxsize=NAMES_MAX)
def _attribute(name: bytes) -> str | None:
    """A header's name as an attribute's; None if it is none."""
    text = name.decode()
    return text[len(PREFIX) :].lower() if text.startswith(PREFIXES) else None


def _header(name: str, value: str) -> tuple[bytes, bytes, bytes]:
    written = value.encode()
    return _name(name), _SIZE.pack(len(written)), written


def _parts_of(header: bytes) -> tuple[str, bytes, str]:
    """The content type, the table of headers, and the message id.

    Raises:
        ValueError, IndexError: the properties cannot be read.
    """
    *_, has = _START.unpack_from(header)
    at = _START.size
    content_type = table = message_id = b""
    if has & HAS_CONTENT_TYPE:
        content_type, at = short_in(header, at)
    if has & HAS_CONTENT_ENCODING:
        _, at = short_in(header, at)
    if has & HAS_HEADERS:
        start = at + _SIZE.size
        at = start + _SIZE.unpack_from(header, at)[0]
        table = header[start:at]
    at += bool(has & HAS_DELIVERY_MODE) + bool(has & HAS_PRIORITY)
    for one in (HAS_CORRELATION_ID, HAS_REPLY_TO, HAS_EXPIRATION):
        if has & one:
            _, at = short_in(header, at)
    if has & HAS_MESSAGE_ID:
        message_id, at = short_in(header, at)
    if has & HAS_TIMESTAMP:
        if _TIMESTAMP.unpack_from(header, at)[0] > TIME_MAX:
            raise ValueError("the timestamp is no time; it may be in microseconds")
        at += _TIMESTAMP.size
    if at > len(header):
        raise ValueError("the properties end too early")
    return content_type.decode(), table, message_id.decode()


def _headers_in(table: bytes) -> Iterator[tuple[bytes, object]]:
    at, end = 0, len(table)
    while at < end:
        name, at = short_in(table, at)
        if table[at] == _STRING:
            start = at + 1 + _SIZE.size
            at = start + _SIZE.unpack_from(table, at + 1)[0]
            yield name, _decoded(table[start:at])
        else:
            size, value = decode.embedded_value(table[at:])
            at += size
            yield name, value
    if at > end:
        raise ValueError("the headers end too early")


def _decoded(value: bytes) -> str | bytes:
    """A long string is text for most, and bytes for some."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value


def _text(value: object) -> str:
    """The canonical text of a header's value in the type system of CloudEvents."""
    match value:
        case bool():
            return "true" if value else "false"
        case datetime():
            return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
        case bytes() | bytearray():
            return base64.b64encode(value).decode()
        case _:
            return str(value)


def _short(text: str | None) -> bytes:
    """As a short string; nothing if there is none, or it is too long for one."""
    if not text:
        return b""
    return short(text) if len(text.encode()) <= SHORT_BYTES_MAX else b""


def _moment(time: str | None) -> bytes:
    if not time:
        return b""
    try:
        moment = int(seconds(time))
    except (ValueError, OverflowError):
        return b""
    return _TIMESTAMP.pack(moment) if 0 <= moment <= TIME_MAX else b""
