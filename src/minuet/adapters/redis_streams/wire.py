"""Our messages as entries of a stream and back. Pure.

There is no CloudEvents binding for Redis: the fields are ``ce-<attribute>``, in UTF-8, and ``body``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from minuet.adapters.broker.port import Received, Sending

PREFIX = b"ce-"
BODY = b"body"


def fields_of(message: Sending) -> list[bytes]:
    """Names and values by turns."""
    fields = []
    for name, value in message.attributes.items():
        fields += [PREFIX + name.encode(), value.encode()]
    return [*fields, BODY, message.body]


def received_from(stream: str, entry_id: str, fields: Mapping[bytes, bytes], deliveries: int) -> Received:
    """A stranger's entry without ``body`` has all its fields as its body, in JSON, so that nothing of it is lost."""
    attributes = {}
    others = {}
    for name, value in fields.items():
        if name.lower().startswith(PREFIX):
            attributes[text(name).lower()[len(PREFIX) :]] = text(value)
        elif name != BODY:
            others[text(name)] = text(value)
    body = fields.get(BODY)
    if body is None:
        body = json.dumps(others).encode()
    return Received(
        destination=stream, attributes=attributes, body=body, token=(stream, entry_id), deliveries=deliveries
    )


def text(value: bytes) -> str:
    return value.decode(errors="replace")
