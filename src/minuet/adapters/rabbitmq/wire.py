"""CloudEvents in binary mode over AMQP 0-9-1: attributes as headers ``cloudEvents_<name>``, the content type native.

The well-known properties (message id, type, correlation id, timestamp) are set too, for people and tools that look at a
queue; the attributes are what counts. Pure.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from aiormq import spec

from minuet.codec import seconds

PREFIX: Final = "cloudEvents_"
PREFIXES: Final = (PREFIX, "cloudEvents:")
CONTENT_TYPE: Final = "datacontenttype"
PERSISTENT: Final = 2
SHORT_BYTES_MAX: Final = 255
NAME_BYTES_MAX: Final = 128  # the client would cut a longer name
HEADERS_BYTES_MAX: Final = 100_000  # they have to fit into one frame; the broker ends the connection over a larger one


def properties_of(attributes: Mapping[str, str]) -> spec.Basic.Properties:
    """How a message with these attributes is sent.

    Raises:
        ValueError: an attribute's name is too long for a header, or all together are.
    """
    content_type = _short(attributes.get(CONTENT_TYPE))
    headers: dict[str, Any] = {
        PREFIX + name: value
        for name, value in attributes.items()
        if name != CONTENT_TYPE or content_type is None  # too long for the property
    }
    for name in headers:
        if len(name.encode()) > NAME_BYTES_MAX:
            most = NAME_BYTES_MAX - len(PREFIX)
            raise ValueError(f"attribute {name.removeprefix(PREFIX)!r} has a name of more than {most} bytes")
    size = sum(len(name) + len(value.encode()) for name, value in headers.items())
    if size > HEADERS_BYTES_MAX:
        raise ValueError(f"its attributes have {size} bytes, {HEADERS_BYTES_MAX} is the most")
    return spec.Basic.Properties(
        content_type=content_type,
        correlation_id=_short(attributes.get("correlationid")),
        delivery_mode=PERSISTENT,
        headers=headers,
        message_id=_short(attributes.get("id")),
        message_type=_short(attributes.get("type")),
        timestamp=_moment(attributes.get("time")),
    )


def attributes_in(properties: spec.Basic.Properties) -> dict[str, str]:
    """The attributes of a message, without a prefix; of a stranger's message without any, what its properties say."""
    found: dict[str, str] = {}
    if properties.content_type:
        found[CONTENT_TYPE] = properties.content_type
    if properties.message_id:
        found["id"] = properties.message_id
    for name, value in (properties.headers or {}).items():
        if name.startswith(PREFIXES) and value is not None:
            found[name[len(PREFIX) :].lower()] = _text(value)
    return found


def deliveries_in(properties: spec.Basic.Properties, *, redelivered: bool) -> int:
    """How often the broker gave it out, this time included. Classic queues only know that it was not the first time."""
    if not redelivered:
        return 1
    count = (properties.headers or {}).get("x-delivery-count")
    return max(2, count + 1) if isinstance(count, int) else 2


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


def _short(text: str | None) -> str | None:
    return text if text and len(text.encode()) <= SHORT_BYTES_MAX else None


def _moment(time: str | None) -> datetime | None:
    if not time:
        return None
    try:
        moment = datetime.fromtimestamp(int(seconds(time)), tz=UTC)
    except (ValueError, OverflowError, OSError):
        return None
    return moment if moment.timestamp() >= 0 else None
