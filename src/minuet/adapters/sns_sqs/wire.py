"""How a message looks in SNS and SQS. Pure.

The body is the message's, the CloudEvents attributes are message attributes ``ce-<name>`` and ``content-type``. SQS
takes ten attributes at most (a raw delivery with more is thrown away by SNS), so the best known ones stand alone, and
all others together, as a JSON object, in ``ce-extensions``. Always there, so that a reader knows where to look.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from minuet.adapters.broker.port import Sending
from minuet.core.errors import MessageError

ALONE = ("specversion", "id", "type", "source", "time", "partitionkey", "traceparent", "sagacoordination")
OTHERS = "ce-extensions"
CONTENT_TYPE = "content-type"
MESSAGE_BYTES_MAX = 256 * 1024  # of the body and all attributes; also of all messages of a batch
ATTRIBUTES_BYTES_MAX = 16 * 1024
BODY_BYTES_MAX = MESSAGE_BYTES_MAX - ATTRIBUTES_BYTES_MAX
FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # what XML 1.0 has no way to write
GROUP_ID = re.compile(r"[A-Za-z0-9!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~]{1,128}")

Wire = dict[str, dict[str, str]]


def attributes_to_wire(attributes: Mapping[str, str]) -> Wire:
    """As SNS wants them."""
    wire: Wire = {}
    others: dict[str, str] = {}
    for name, value in attributes.items():
        alone = f"ce-{name}" if name in ALONE else CONTENT_TYPE if name == "datacontenttype" else ""
        # An empty value, or one with a character that XML does not have, is refused; JSON can write both.
        if alone and value and not FORBIDDEN.search(value):
            wire[alone] = _text(value)
        else:
            others[name] = value
    if others:
        wire[OTHERS] = _text(json.dumps(others, separators=(",", ":")))
    return wire


def _text(value: str) -> dict[str, str]:
    return {"DataType": "String", "StringValue": value}


def attributes_from_wire(wire: Mapping[str, Any]) -> dict[str, str]:
    """CloudEvents attributes from what SQS gave out, or from a wrapped message of SNS; those of others are left out."""
    found: dict[str, str] = {}
    others: dict[str, str] = {}
    for name, value in _texts(wire):
        if name == OTHERS and (several := _object(value)) is not None:
            others = several
        elif name.startswith("ce-"):
            found[name.removeprefix("ce-")] = value
        elif name in {CONTENT_TYPE, "contenttype"}:
            found["datacontenttype"] = value
    return {**others, **found}


def _texts(wire: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, attribute in wire.items():
        value = attribute.get("StringValue", attribute.get("Value", attribute.get("BinaryValue")))
        if isinstance(value, bytes):
            value = value.decode(errors="replace")
        if isinstance(value, str):
            yield name.lower(), value


def _object(text: str) -> dict[str, str] | None:
    try:
        content = json.loads(text)
    except ValueError:
        return None
    if not isinstance(content, dict):
        return None
    return {str(name).lower(): value for name, value in content.items() if isinstance(value, str)}


def text_of(body: bytes) -> str:
    r"""The body as SNS takes it: text of characters that XML has.

    JSON can hold two that XML has not, U+FFFE and U+FFFF; they are written as ``\ufffe`` and ``\uffff``, which is the
    same JSON.

    Raises:
        MessageError: SNS cannot carry this body.
    """
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise MessageError(f"SNS and SQS carry text only, and the body is not UTF-8: {error}") from error
    if not text:
        raise MessageError("SNS carries no empty body; send {} instead")
    if not FORBIDDEN.search(text):
        return text
    try:
        json.loads(text)
    except ValueError as error:
        raise MessageError(
            "the body has a character that XML 1.0, and so SNS, does not know, and is no JSON"
        ) from error
    return FORBIDDEN.sub(lambda found: f"\\u{ord(found.group()):04x}", text)


def entry_of(message: Sending, *, is_fifo: bool) -> tuple[dict[str, Any], int]:
    """An entry of a PublishBatch without its Id, and how many bytes count for it.

    Raises:
        MessageError: it is too large, or SNS cannot carry it.
    """
    attributes = attributes_to_wire(message.attributes)
    text = text_of(message.body)
    size = len(text.encode()) + sum(
        len(name.encode()) + len(one["DataType"]) + len(one["StringValue"].encode()) for name, one in attributes.items()
    )
    if size > MESSAGE_BYTES_MAX or len(message.body) > BODY_BYTES_MAX:
        raise MessageError(
            f"{message.attributes.get('type', 'message')} {message.attributes.get('id', '')} has {len(message.body)} "
            f"bytes, and {size} with its attributes; SNS takes {BODY_BYTES_MAX} and {MESSAGE_BYTES_MAX}"
        )
    entry: dict[str, Any] = {"Message": text, "MessageAttributes": attributes}
    if is_fifo:
        name = f"{message.attributes.get('source', '')}\0{message.attributes.get('id', '')}"
        entry["MessageGroupId"] = group_id(message.key or message.attributes.get("id") or name)
        # Of everything: what was done before a saga asked for it is told again in the saga's name, as the same event
        # with other attributes, and is no duplicate.
        whole = json.dumps([dict(message.attributes), text], sort_keys=True)
        entry["MessageDeduplicationId"] = hashlib.sha256(whole.encode()).hexdigest()
    return entry, size


def group_id(key: str) -> str:
    """A key as SNS takes it: itself, or a digest if it is too long or has other characters."""
    return key if GROUP_ID.fullmatch(key) else hashlib.sha256(key.encode()).hexdigest()


def unwrapped(message: Mapping[str, Any]) -> tuple[dict[str, str], bytes]:
    """Attributes and body of what SQS gave out.

    A message that SNS wrapped in JSON of its own, because somebody made the subscription without raw delivery, is
    unwrapped.
    """
    body = str(message["Body"])
    attributes = attributes_from_wire(message.get("MessageAttributes", {}))
    if not attributes and body.lstrip().startswith("{") and '"TopicArn"' in body:
        try:
            content = json.loads(body)
        except ValueError:
            content = {}
        if content.get("Type") == "Notification" and isinstance(content.get("Message"), str):
            return attributes_from_wire(content.get("MessageAttributes") or {}), content["Message"].encode()
    return attributes, body.encode()
