"""Our messages as NATS messages and back: CloudEvents in binary mode, by its NATS protocol binding. Pure."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from urllib.parse import quote, unquote

from nats.aio.msg import Msg

from minuet.adapters.broker.port import Received, Sending

PREFIX = "ce-"
CONTENT_TYPE = "content-type"
MESSAGE_ID = "Nats-Msg-Id"
EXPECTED_STREAM = "Nats-Expected-Stream"
# What may stand in a header as it is: all printable ASCII but space, double quote and percent.
SAFE = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in '"%')
IS_SAFE = re.compile(r"[!#$&-~]*").fullmatch
"""Whether a value needs no quoting, as nearly all do: quoting takes ten times as long as asking."""

ACK_PARTS = 9  # $JS.ACK.stream.consumer.deliveries.stream position.consumer position.time.pending
ACK_PARTS_NEW = 11  # $JS.ACK.domain.account.stream and so on, and perhaps more after it
OLD_DELIVERIES, NEW_DELIVERIES = 4, 6


def headers_of(message: Sending, stream: str) -> dict[str, str]:
    """Also with the stream that has to keep it, and with the name by which the server knows what it has already.

    That name is for a whole stream, so the subject is part of it: one event may be told on two channels. A digest of
    everything is part of it too: what was done before a saga asked for it is told again in the saga's name, as the same
    event with other attributes, and whoever waits for that must get it.
    """
    headers = {EXPECTED_STREAM: stream}
    for name, value in message.attributes.items():
        if name == "datacontenttype":
            headers[CONTENT_TYPE] = quote(value, safe=SAFE + " ")
        else:
            headers[PREFIX + name] = quoted(value)
    event_id = message.attributes.get("id")
    if event_id:
        names = (message.destination, message.attributes.get("source", ""), event_id, _digest_of(message))
        headers[MESSAGE_ID] = " ".join(map(quoted, names))
    return headers


def quoted(value: str) -> str:
    return value if IS_SAFE(value) else quote(value, safe=SAFE)


def unquoted(value: str) -> str:
    return unquote(value) if "%" in value else value


def _digest_of(message: Sending) -> str:
    digest = hashlib.sha256(json.dumps(dict(message.attributes), sort_keys=True).encode())
    digest.update(message.body)
    return digest.hexdigest()[:32]


def size_of(headers: Mapping[str, str], body: bytes) -> int:
    """What counts for the server's limit: ``NATS/1.0``, a line for each header, an empty line, and the body."""
    return 12 + sum(len(name) + len(value) + 4 for name, value in headers.items()) + len(body)


def received_from(message: Msg) -> Received:
    attributes = {}
    for name, value in (message.headers or {}).items():
        low = name.lower()
        if low.startswith(PREFIX):
            attributes[low.removeprefix(PREFIX)] = unquoted(value)
        elif low == CONTENT_TYPE:
            attributes["datacontenttype"] = unquoted(value)
    return Received(
        destination=message.subject,
        attributes=attributes,
        body=message.data,
        token=message.reply,
        deliveries=deliveries_of(message.reply),
    )


def deliveries_of(reply: str) -> int:
    """How often the message was given out, which the server says in the subject where it awaits the acknowledgement."""
    parts = reply.split(".")
    if len(parts) == ACK_PARTS:
        return int(parts[OLD_DELIVERIES])
    return int(parts[NEW_DELIVERIES]) if len(parts) >= ACK_PARTS_NEW else 1


def status_of(message: Msg) -> tuple[str, str]:
    """Code and text, if it is the server that speaks; two empty strings if it is a message of a stream."""
    if message.reply:  # where a message's acknowledgement is awaited
        return "", ""
    headers = message.headers or {}
    return headers.get("Status", ""), headers.get("Description", "").strip()
