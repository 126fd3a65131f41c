"""CloudEvents' Kafka protocol binding, binary mode: each attribute is a header ``ce_<name>`` in UTF-8."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

PREFIX = "ce_"
CONTENT_TYPE = "content-type"
CONTENT_ATTRIBUTE = "datacontenttype"


def headers_of(attributes: Mapping[str, str]) -> list[tuple[str, str | bytes | None]]:
    return [
        (CONTENT_TYPE if name == CONTENT_ATTRIBUTE else PREFIX + name, value.encode())
        for name, value in attributes.items()
    ]


def attributes_from(headers: Sequence[tuple[str, bytes | str | None]] | None) -> dict[str, str]:
    """What there is of attributes; whatever else is among the headers is not ours."""
    attributes: dict[str, str] = {}
    for name, value in headers or ():
        if value is None:
            continue
        lower = name.lower()
        if lower.startswith(PREFIX):
            attributes[lower[len(PREFIX) :]] = _text(value)
        elif lower == CONTENT_TYPE:
            attributes[CONTENT_ATTRIBUTE] = _text(value)
    return attributes


def _text(value: bytes | str) -> str:
    return value if isinstance(value, str) else value.decode(errors="replace")
