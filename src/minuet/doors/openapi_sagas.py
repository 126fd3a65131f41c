"""What the OpenAPI document says of the addresses below ``/sagas``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from minuet.codec_http import JSON, aliases_of
from minuet.core.coordinator import Status
from minuet.core.messages import Event
from minuet.core.saga import Saga
from minuet.observer import NEEDS_OPERATOR

Json = dict[str, Any]

_WHEN: Json = {"type": ["string", "null"], "format": "date-time"}
_STATUS: Json = {"type": "string", "enum": [*(one.value for one in Status), NEEDS_OPERATOR]}


def _object(**properties: Json) -> Json:
    return {"type": "object", "required": list(properties), "properties": properties}


def _text(*names: str) -> dict[str, Json]:
    return {name: {"type": "string"} for name in names}


_WAITING = _object(**_text("step", "service", "command", "why"))
_ATTEMPT = _object(
    **_text("step", "command", "at", "state", "error", "answer"),
    attempts={"type": "integer"},
    changedAt=_WHEN,
    dueAt=_WHEN,
)
_MESSAGE = _object(
    **_text("type", "sender", "step"), time=_WHEN, hearers={"type": "array", "items": {"type": "string"}}, body={}
)
_SUMMARY: Json = _object(
    **_text("saga", "id", "coordination", "definition"),
    status=_STATUS,
    beganAt=_WHEN,
    waiting={"type": "array", "items": _WAITING},
)
_WHOLE: Json = _object(
    **_SUMMARY["properties"],
    attempts={"type": "array", "items": _ATTEMPT},
    messages={"type": "array", "items": _MESSAGE},
)
SCHEMAS: Mapping[str, Json] = {"SagaSummary": _SUMMARY, "SagaView": _WHOLE}


def paths_of(sagas: Iterable[Saga]) -> dict[str, Json]:
    """The operations; the schemas that they refer to are in `SCHEMAS`."""
    paths: dict[str, Json] = {
        "/sagas": {
            "get": {
                "operationId": "listSagas",
                "summary": "The sagas that began last, the newest first",
                "tags": ["minuet"],
                "parameters": [
                    _parameter("status", _STATUS),
                    _parameter("limit", {"type": "integer", "minimum": 1, "maximum": 1000, "default": 50}),
                ],
                "responses": {
                    "200": _found({"type": "array", "items": _reference("SagaSummary")}, "sagas"),
                    "422": _response("Invalid"),
                },
            }
        },
        "/sagas/{id}": {
            "get": {
                "operationId": "showSaga",
                "summary": "A saga with all attempts and messages, and what it waits for",
                "tags": ["minuet"],
                "parameters": [
                    {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}},
                    _parameter("saga", {"type": "string", "description": "Where several sagas use one id."}),
                ],
                "responses": {
                    "200": {"description": "It.", "content": {JSON: {"schema": _reference("SagaView")}}},
                    "404": _response("NotFound"),
                },
            }
        },
    }
    paths["/sagas/{id}/cancel"] = {"post": _CANCEL}
    for saga in sagas:
        paths[f"/sagas/{saga.name}"] = {"post": _begin(saga)}
    return paths


def _begin(saga: Saga) -> Json:
    done = {
        "content": {JSON: {"schema": _object(**_text("saga", "id"))}},
        "headers": {"Location": {"$ref": "#/components/headers/Location"}},
    }
    return {
        "operationId": f"begin{saga.name}",
        "summary": f"Begin {saga.name}",
        "tags": ["minuet"],
        "requestBody": {"required": True, "content": {JSON: {"schema": _event(saga.begins_with)}}},
        "responses": {
            "202": {"description": "It has begun.", **done},
            "200": {"description": "The same had begun it before.", **done},
            "422": _response("Invalid"),
            "503": _response("NotYet"),
        },
    }


def _event(event: type[Event]) -> Json:
    """The event's own schema, with what it refers to inside."""
    schema = event.model_json_schema(mode="validation", by_alias=True)
    names = list(aliases_of(event).values())
    return {**schema, "properties": {name: schema["properties"][name] for name in names}}


def _parameter(name: str, schema: Json) -> Json:
    return {"name": name, "in": "query", "required": False, "schema": schema}


_CANCEL: Json = {
    "operationId": "cancelSaga",
    "summary": "Say that a saga is no longer wanted; it may come too late",
    "tags": ["minuet"],
    "parameters": [
        {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}},
        _parameter("saga", {"type": "string", "description": "Where several sagas use one id."}),
    ],
    "requestBody": {
        "required": True,
        "content": {
            JSON: {
                "schema": {
                    "type": "object",
                    "required": ["who"],
                    "properties": _text("who", "why"),
                    "additionalProperties": False,
                }
            }
        },
    },
    "responses": {
        "202": {"description": "Everybody hears of it."},
        "200": {"description": "It was said before."},
        "404": {"$ref": "#/components/responses/NotFound"},
        "422": {"$ref": "#/components/responses/Invalid"},
    },
}


def _found(schema: Json, name: str) -> Json:
    return {"description": "Those that there are.", "content": {JSON: {"schema": _object(**{name: schema})}}}


def _reference(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _response(name: str) -> Json:
    return {"$ref": f"#/components/responses/{name}"}
