"""Between messages and HTTP, for both ends of a call: addresses, headers, JSON in, problem bodies (RFC 9457). Pure.

Attributes travel as ``ce-`` headers, as the CloudEvents HTTP binding has it: what is not printable ASCII, and space,
quote and percent, is percent-encoded, so that no value can break out of its header. A refusal is a 409 problem whose
type is ``urn:minuet:refusal:<Name>``; it has the refusal's fields as members and its whole body as ``refusal``.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import quote, unquote

from pydantic import BaseModel
from pydantic_core import from_json, to_json

from minuet.codec import attributes_of
from minuet.core.envelope import Envelope

JSON = "application/json"
PROBLEM_JSON = "application/problem+json"
REFUSAL_TYPE = "urn:minuet:refusal:"
PROBLEM_TYPE = "urn:minuet:problem:"
NO_SUCH_ROUTE = PROBLEM_TYPE + "no-such-route"

RETRY_AFTER_S_MAX = 60.0
_PREFIX = "ce-"
_PRINTABLE = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in '"%')
_AS_IT_IS = re.compile(r"[!#$&-~]*")
_WAIT = re.compile(r'(?:^|[,;])\s*wait\s*=\s*"?(\d{1,6})"?\s*(?:$|[,;])', re.IGNORECASE)
_STANDARD = ("type", "title", "status", "detail", "instance", "refusal")
_SAID_ELSEWHERE = ("eventType", "timestamp")


# -- addresses ---------------------------------------------------------------------------------------------------------


def aliases_of(model: type[BaseModel]) -> dict[str, str]:
    """Each field's name in JSON, by its name in Python."""
    return {name: info.serialization_alias or info.alias or name for name, info in model.model_fields.items()}


def filled(template: str, values: Mapping[str, Any]) -> str:
    """A path template with its fields filled in, each as one segment.

    Raises:
        ValueError: a value that leaves its segment empty.
    """
    parts = []
    for part in template.split("/"):
        if part.startswith("{") and part.endswith("}"):
            text = text_of(values.get(part[1:-1]))
            if not text:
                raise ValueError(f"{part[1:-1]} is empty, so {template} is no address")
            part = quote(text, safe="")
        parts.append(part)
    return "/".join(parts)


def text_of(value: Any) -> str:
    """A JSON value as it stands in a path or a query string."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


# -- headers -----------------------------------------------------------------------------------------------------------


def header_value(text: str) -> str:
    return text if _AS_IT_IS.fullmatch(text) else quote(text, safe=_PRINTABLE)


def value_of(header: str) -> str:
    """The reverse of `header_value`; quotes around the whole are taken off.

    Raises:
        ValueError: what is percent-encoded is not UTF-8.
    """
    if len(header) >= 2 and header[0] == header[-1] == '"':
        header = re.sub(r"\\(.)", r"\1", header[1:-1])
    return unquote(header, errors="strict") if "%" in header else header


def headers_of(envelope: Envelope) -> list[tuple[str, str]]:
    """The envelope's attributes as headers. The content type has a header of its own."""
    found = attributes_of(envelope)
    del found["datacontenttype"]
    return [(_PREFIX + name, header_value(value)) for name, value in found.items()]


def attributes_in(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    """The attributes among headers whose names are in lower case. Empty if nobody speaks CloudEvents.

    Raises:
        ValueError: a value that is not encoded as it should be, or a version of CloudEvents that is not 1.0.
    """
    found = {name[3:]: value_of(value) for name, value in headers if name.startswith(_PREFIX)}
    if found and found.get("specversion", "1.0") != "1.0":
        raise ValueError("ce-specversion is not 1.0")
    return found


def wait_s_of(prefer: str) -> float | None:
    """How long the asker prefers to wait (RFC 7240), or None if the header says nothing of it."""
    found = _WAIT.search(prefer)
    return float(found[1]) if found else None


def retry_after_s_of(header: str, problem: Mapping[str, Any], now: float, *, default: float) -> float:
    """When to ask again: the problem's own word, else the ``Retry-After`` header, in seconds or as a date."""
    exact = problem.get("retryAfterMs")
    if isinstance(exact, int | float) and not isinstance(exact, bool):
        found = exact / 1000
    elif header.isascii() and header.isdigit():
        found = float(header[:9])
    else:
        found = _seconds_until(header, now, default)
    return min(max(found, 0.0), RETRY_AFTER_S_MAX) if math.isfinite(found) else default


def _seconds_until(date: str, now: float, default: float) -> float:
    try:
        moment: datetime = parsedate_to_datetime(date)
        return moment.timestamp() - now
    except (ValueError, TypeError, IndexError, OverflowError):
        return default


# -- JSON from outside -------------------------------------------------------------------------------------------------


def strict_json(body: bytes) -> Any:
    """What the bytes say, if they can mean one thing only: UTF-8, no name twice, no NaN, no number beyond a double.

    Raises:
        ValueError: says what is wrong and where, without repeating values.
    """
    try:
        return _DECODER.decode(body.decode())
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} at line {error.lineno} column {error.colno}") from None
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        twice, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise ValueError(f"the name {twice[:64]!r} stands twice in one object")
    return found


def _constant(text: str) -> Any:
    raise ValueError(f"{text} is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError("a number is too large")
    return number


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant, parse_float=_finite)


# -- problems ----------------------------------------------------------------------------------------------------------


def problem(kind: str, status: int, title: str, detail: str, instance: str, **members: Any) -> dict[str, Any]:
    """A problem body. ``kind`` is what stands behind ``urn:minuet:problem:``."""
    return {
        "type": PROBLEM_TYPE + kind,
        "title": title,
        "status": status,
        "detail": detail,
        "instance": instance,
        **members,
    }


def words_of(name: str) -> str:
    """``OutOfStock`` in words: ``Out of stock``."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", name).split(" ")
    return " ".join([words[0], *(word if word.isupper() else word.lower() for word in words[1:])])


def refusal_problem(command: str, answer: Envelope, instance: str) -> dict[str, Any]:
    """The problem that tells of a refusal."""
    body: dict[str, Any] = from_json(answer.body)
    title = words_of(answer.type)
    why = str(body.get("reason") or title[:1].lower() + title[1:])
    members = {name: value for name, value in body.items() if name not in (*_STANDARD, *_SAID_ELSEWHERE)}
    return {
        "type": REFUSAL_TYPE + answer.type,
        "title": title,
        "status": 409,
        "detail": f"{command} was refused by {answer.source}: {why[:200]}.",
        "instance": instance,
        **members,
        "refusal": body,
    }


def refusal_in(content: Mapping[str, Any], names: Iterable[str]) -> str | None:
    """Which of the named refusals a 409 problem tells of: by its type's last part, else by its title."""
    inner = content.get("refusal")
    said = (inner.get("eventType") if isinstance(inner, Mapping) else None, content.get("type"), content.get("title"))
    known = {_plain(name): name for name in names}
    for text in said:
        if isinstance(text, str):
            found = known.get(_plain(re.split(r"[:/#]", text)[-1]))
            if found:
                return found
    return None


def refused_body(content: Mapping[str, Any]) -> bytes:
    """The refusal's own body out of its problem, also out of one that a stranger wrote."""
    inner = content.get("refusal")
    if isinstance(inner, Mapping):
        return to_json(dict(inner))
    return to_json(
        {name: value for name, value in content.items() if name not in ("type", "title", "status", "instance")}
    )


def _plain(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())
