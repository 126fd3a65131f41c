"""What the OpenAPI document says alike of all addresses for operators."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from minuet.codec_http import JSON
from minuet.core.operating import OLDER_THAN
from minuet.doors.operating import LIMIT, LIMIT_MAX

Json = dict[str, Any]

WHEN: Json = {"type": ["string", "null"], "format": "date-time"}
_RESPONSES = {"404": "NotFound", "422": "Invalid", "503": "NotYet"}
_CHOSEN = {
    "service": "It waits for, or is parked at, this service.",
    "saga": "The saga's type.",
    "status": "Of sagas.",
    "type": "The message's.",
    "reason": "Is contained in why it waits or is parked.",
    OLDER_THAN: "It is older than 90s, 15m, 2h or 3d.",
}


def object_of(**properties: Json) -> Json:
    return {"type": "object", "required": list(properties), "properties": properties}


def texts(*names: str) -> dict[str, Json]:
    return {name: {"type": "string"} for name in names}


def parameter(name: str, schema: Json) -> Json:
    return {"name": name, "in": "query", "required": False, "schema": schema}


LIMIT_PARAMETER = parameter("limit", {"type": "integer", "minimum": 1, "maximum": LIMIT_MAX, "default": LIMIT})


def chosen_by(names: Iterable[str], **schemas: Json) -> list[Json]:
    """The parameters that choose some."""
    return [parameter(name, {"description": _CHOSEN[name], **schemas.get(name, {"type": "string"})}) for name in names]


def where(names: Iterable[str]) -> dict[str, Json]:
    """What a body says that means many."""
    properties = {name: {"type": "string", "description": _CHOSEN[name]} for name in names}
    return {
        "where": {"type": "object", "minProperties": 1, "properties": properties, "additionalProperties": False},
        "dryRun": {"type": "boolean", "default": False, "description": "Only say which those are."},
        "limit": {"type": "integer", "minimum": 1, "maximum": LIMIT_MAX, "default": LIMIT_MAX},
    }


def said(**more: Json) -> Json:
    return {
        "type": "object",
        "required": ["who"],
        "properties": {**texts("who", "why"), **more},
        "additionalProperties": False,
    }


def body(schema: Json) -> Json:
    return {"required": True, "content": {JSON: {"schema": schema}}}


def found(schema: Json, name: str) -> Json:
    return {"description": "Those that there are.", "content": {JSON: {"schema": object_of(**{name: schema})}}}


def reference(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def problems(*statuses: str) -> Json:
    return {status: {"$ref": f"#/components/responses/{_RESPONSES[status]}"} for status in statuses}


_NAMES: Json = {"type": "array", "items": {"type": "string"}}
MANY_RESPONSES: Json = {
    "200": {
        "description": "How many are meant; which were done, and why others were not. Of a dry run, which are meant.",
        "content": {
            JSON: {
                "schema": {
                    "type": "object",
                    "required": ["count", "dryRun"],
                    "properties": {
                        "count": {"type": "integer"},
                        "dryRun": {"type": "boolean"},
                        "ids": _NAMES,
                        "done": _NAMES,
                        "failed": {"type": "array", "items": object_of(**texts("id", "why"))},
                    },
                }
            }
        },
    }
}
