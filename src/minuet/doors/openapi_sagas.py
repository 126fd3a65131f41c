"""What the OpenAPI document says of the addresses below ``/sagas``, and of what is paused."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from minuet.codec_http import JSON, aliases_of
from minuet.core.messages import Event
from minuet.core.operating import SAGA_VERBS
from minuet.core.saga import Saga
from minuet.doors.openapi_operating import (
    LIMIT_PARAMETER,
    MANY_RESPONSES,
    WHEN,
    Json,
    body,
    chosen_by,
    found,
    object_of,
    parameter,
    problems,
    reference,
    said,
    texts,
    where,
)
from minuet.doors.sagas import CHOSEN_BY
from minuet.observer import STATUSES

_STATUS: Json = {"type": "string", "enum": list(STATUSES)}
_WAITING = object_of(**texts("step", "service", "command", "why"))
_PAUSED = object_of(
    **texts("what", "saga", "sagaId", "service", "who", "why"),
    at=WHEN,
    places={"type": "array", "items": {"type": "string"}},
)
_ATTEMPT = object_of(
    **texts("step", "command", "at", "state", "error", "answer"),
    attempts={"type": "integer"},
    changedAt=WHEN,
    dueAt=WHEN,
)
_MESSAGE = object_of(
    **texts("type", "sender", "step"), time=WHEN, hearers={"type": "array", "items": {"type": "string"}}, body={}
)
_SUMMARY: Json = object_of(
    **texts("saga", "id", "coordination", "definition"),
    status=_STATUS,
    beganAt=WHEN,
    waiting={"type": "array", "items": _WAITING},
    paused={"type": "array", "items": reference("Paused")},
)
_WHOLE: Json = object_of(
    **_SUMMARY["properties"],
    attempts={"type": "array", "items": _ATTEMPT},
    messages={"type": "array", "items": _MESSAGE},
)
SCHEMAS: Mapping[str, Json] = {"SagaSummary": _SUMMARY, "SagaView": _WHOLE, "Paused": _PAUSED}

_ID: Json = {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}
_SAGA = parameter("saga", {"type": "string", "description": "Where several sagas use one id."})
_ONE = [_ID, _SAGA]
_SUMMARIES = {
    "cancel": "Say that a saga is no longer wanted; it may come too late",
    "pause": "Begin nothing more of a saga until it is resumed",
    "resume": "Let a saga that was paused go on",
    "retry": "Try at once what waits for its next attempt",
}
_TOLD = {
    "cancel": ("Everybody hears of it.", "It was said before."),
    "pause": ("Everybody hears of it.", "It is paused."),
    "resume": ("Everybody hears of it.", "It was not paused."),
    "retry": ("Everybody hears of it.", ""),
}


def paths_of(sagas: Iterable[Saga]) -> dict[str, Json]:
    """The operations; the schemas that they refer to are in `SCHEMAS`."""
    paths: dict[str, Json] = {
        "/sagas": {
            "get": {
                "operationId": "listSagas",
                "summary": "The sagas that began last, the newest first",
                "tags": ["minuet"],
                "parameters": [*chosen_by(CHOSEN_BY, status=_STATUS), LIMIT_PARAMETER],
                "responses": {
                    "200": found({"type": "array", "items": reference("SagaSummary")}, "sagas"),
                    **problems("422"),
                },
            }
        },
        "/sagas/{id}": {
            "get": {
                "operationId": "showSaga",
                "summary": "A saga with all attempts and messages, and what it waits for",
                "tags": ["minuet"],
                "parameters": _ONE,
                "responses": {
                    "200": {"description": "It.", "content": {JSON: {"schema": reference("SagaView")}}},
                    **problems("404"),
                },
            }
        },
        "/paused": {
            "get": {
                "operationId": "listPaused",
                "summary": "What is paused, by whom and why; the oldest first",
                "tags": ["minuet"],
                "responses": {"200": found({"type": "array", "items": reference("Paused")}, "paused")},
            }
        },
    }
    for verb in SAGA_VERBS:
        paths[f"/sagas/{{id}}/{verb}"] = {"post": _to_one(verb)}
        paths[f"/sagas/{verb}"] = {"post": _to_many(verb)}
    for saga in sagas:
        paths[f"/sagas/{saga.name}"] = {"post": _begin(saga)}
    return paths


def _to_one(verb: str) -> Json:
    new, old = _TOLD[verb]
    return {
        "operationId": f"{verb}Saga",
        "summary": _SUMMARIES[verb],
        "tags": ["minuet"],
        "parameters": _ONE,
        "requestBody": body(said()),
        "responses": {
            "202": {"description": new},
            **({"200": {"description": old}} if old else {}),
            **problems("404", "422"),
        },
    }


def _to_many(verb: str) -> Json:
    more = {} if verb == "cancel" else texts("allOf", "service")
    told = {} if verb == "cancel" else {"202": {"description": _TOLD[verb][0]}}
    return {
        "operationId": f"{verb}Sagas",
        "summary": f"{verb.capitalize()} all sagas that are chosen"
        + ("" if verb == "cancel" else ", those of a type, or what a service does"),
        "tags": ["minuet"],
        "requestBody": body(said(**where(CHOSEN_BY), **more)),
        "responses": {**MANY_RESPONSES, **told, **problems("404", "422")},
    }


def _begin(saga: Saga) -> Json:
    done = {
        "content": {JSON: {"schema": object_of(**texts("saga", "id"))}},
        "headers": {"Location": {"$ref": "#/components/headers/Location"}},
    }
    return {
        "operationId": f"begin{saga.name}",
        "summary": f"Begin {saga.name}",
        "tags": ["minuet"],
        "requestBody": body(_event(saga.begins_with)),
        "responses": {
            "202": {"description": "It has begun.", **done},
            "200": {"description": "The same had begun it before.", **done},
            **problems("422", "503"),
        },
    }


def _event(event: type[Event]) -> Json:
    """The event's own schema, with what it refers to inside."""
    schema = event.model_json_schema(mode="validation", by_alias=True)
    names = list(aliases_of(event).values())
    return {**schema, "properties": {name: schema["properties"][name] for name in names}}
