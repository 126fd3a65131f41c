"""Our messages as NATS messages and back: CloudEvents in binary mode, by its NATS protocol binding. Pure."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import quote, unquote

from minuet.adapters.broker.port import Received, Sending
from minuet.core.errors import MessageError

VERSION = "NATS/1.0"
"""What a block of headers begins with; if it is the server that speaks, a status follows."""
LINE_END = "\r\n"
BLANK = " \t\n\r\v\f"
NAME_MAX = 256
"""Characters of a header's name; nobody's attribute has a longer one, and names are remembered."""
PREFIX = "ce-"
CONTENT_TYPE = "content-type"
MESSAGE_ID = "Nats-Msg-Id"
EXPECTED_STREAM = "Nats-Expected-Stream"
# What may stand in a header as it is: all printable ASCII but space, double quote and percent.
SAFE = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in '"%')
IS_SAFE = re.compile(r"[!#$&-~]*").fullmatch
"""Whether a value needs no quoting, as nearly all do: quoting takes ten times as long as asking."""
IS_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+").fullmatch
"""Whether it may name a header. Anything else could end the line, or the block."""
in_order = json.JSONEncoder(sort_keys=True).encode

ACK_PARTS = 9  # $JS.ACK.stream.consumer.deliveries.stream position.consumer position.time.pending
ACK_PARTS_NEW = 11  # $JS.ACK.domain.account.stream and so on, and perhaps more after it
OLD_DELIVERIES, NEW_DELIVERIES = 4, 6


@dataclass(frozen=True, slots=True)
class Heard:
    """A message as the server gave it out.

    Attributes:
        reply: the subject where something is awaited for it; may be empty.
        headers: the block as it came; empty if there is none.
    """

    subject: str
    reply: str
    body: bytes
    headers: bytes


def headers_of(message: Sending, stream: str) -> bytes:
    """The block of headers: the attributes, the stream that has to keep the message, and the name by which the server
    knows what it has already.

    That name is for a whole stream, so the subject is part of it: one event may be told on two channels. A digest of
    everything is part of it too: what was done before a saga asked for it is told again in the saga's name, as the same
    event with other attributes, and whoever waits for that must get it.

    Raises:
        MessageError: an attribute's name cannot stand in a header, or an attribute is no text.
    """
    try:
        return LINE_END.join([*_lines_of(message, stream), "", ""]).encode()
    except UnicodeEncodeError as error:  # half of a surrogate pair
        raise MessageError(f"an attribute cannot be sent to NATS: {error.reason}") from error


def _lines_of(message: Sending, stream: str) -> list[str]:
    lines = [VERSION, f"{EXPECTED_STREAM}: {stream}"]
    for name, value in message.attributes.items():
        if name == "datacontenttype":
            lines.append(f"{CONTENT_TYPE}: {quoted(value, SAFE + ' ').strip()}")
        else:
            lines.append(f"{header_named(name)}: {quoted(value)}")
    event_id = message.attributes.get("id")
    if event_id:
        names = (message.destination, message.attributes.get("source", ""), event_id, _digest_of(message))
        lines.append(f"{MESSAGE_ID}: {' '.join(map(quoted, names))}")
    return lines


@lru_cache(maxsize=1024)
def header_named(attribute: str) -> str:
    """Raises MessageError if there can be no such header."""
    if not IS_NAME(attribute):
        raise MessageError(f"an attribute {attribute!r} cannot be sent to NATS")
    return PREFIX + attribute


def quoted(value: str, safe: str = SAFE) -> str:
    return value if IS_SAFE(value) else quote(value, safe=safe)


def unquoted(value: str) -> str:
    return unquote(value) if "%" in value else value


def _digest_of(message: Sending) -> str:
    digest = hashlib.sha256(in_order(dict(message.attributes)).encode())
    digest.update(message.body)
    return digest.hexdigest()[:32]


def received_from(message: Heard) -> Received:
    return Received(
        destination=message.subject,
        attributes=attributes_in(message.headers),
        body=message.body,
        token=message.reply,
        deliveries=deliveries_of(message.reply),
    )


def attributes_in(headers: bytes) -> dict[str, str]:
    """Of a header that comes twice the last counts. What is no header is left out."""
    attributes = {}
    for line in headers.decode(errors="replace").split(LINE_END)[1:]:
        name, colon, value = line.partition(":")
        attribute = attribute_named(name) if colon and len(name) <= NAME_MAX else None
        if attribute is not None:
            attributes[attribute] = unquoted(value.strip(BLANK))
    return attributes


@lru_cache(maxsize=1024)
def attribute_named(header: str) -> str | None:
    """Which attribute a header holds, if any."""
    low = header.strip(BLANK).lower()
    if not IS_NAME(low):
        return None
    if low == CONTENT_TYPE:
        return "datacontenttype"
    return low.removeprefix(PREFIX) if low.startswith(PREFIX) else None


def deliveries_of(reply: str) -> int:
    """How often the message was given out, which the server says in the subject where it awaits the acknowledgement."""
    parts = reply.split(".")
    if len(parts) == ACK_PARTS:
        return int(parts[OLD_DELIVERIES])
    return int(parts[NEW_DELIVERIES]) if len(parts) >= ACK_PARTS_NEW else 1


def status_of(message: Heard) -> tuple[str, str]:
    """Code and text, if it is the server that speaks; two empty strings if it is a message of a stream."""
    if message.reply:  # where a message's acknowledgement is awaited
        return "", ""
    line = message.headers.partition(LINE_END.encode())[0].decode(errors="replace")
    code, _, text = line.removeprefix(VERSION).strip().partition(" ")
    return (code, text.strip()) if code.isdecimal() else ("", "")
