"""What the OpenAPI document says of the addresses below ``/parked``."""

from __future__ import annotations

from collections.abc import Mapping

from minuet.codec_http import JSON
from minuet.core.operating import PARKED_VERBS
from minuet.doors.openapi_operating import (
    LIMIT_PARAMETER,
    MANY_RESPONSES,
    WHEN,
    Json,
    body,
    chosen_by,
    found,
    object_of,
    problems,
    reference,
    said,
    texts,
    where,
)
from minuet.doors.parked import CHOSEN_BY

_SUMMARY: Json = object_of(
    **texts("id", "service", "type", "reason", "channel"),
    kind={"type": "string", "enum": ["message", "command", "reaction"]},
    attempts={"type": "integer"},
    parkedAt=WHEN,
)
_WHOLE: Json = object_of(
    **_SUMMARY["properties"], attributes={"type": "object", "additionalProperties": {"type": "string"}}, body={}
)
SCHEMAS: Mapping[str, Json] = {"ParkedSummary": _SUMMARY, "ParkedView": _WHOLE}

_ID: Json = {
    "name": "id",
    "in": "path",
    "required": True,
    "schema": {"type": "string"},
    "example": "payment:ProcessPayment/ORD1",
}
_BODY: Json = {"type": "object"}
_MORE: Mapping[str, dict[str, Json]] = {
    "retry": {"body": {**_BODY, "description": "Of a message, mended."}},
    "discard": {},
    "answer": {"event": {"type": "string", "description": "The answer's type; a reaction owes none."}, "body": _BODY},
}
_SUMMARIES = {
    "retry": "Take a message in once more, or make a command due once more",
    "discard": "Take a message away for good",
    "answer": "Say what came of a command in the place of its service, or skip a reaction",
}
_DONE: Mapping[str, Json] = {
    "retry": {
        "202": {
            "description": "It is due.",
            "content": {
                JSON: {"schema": object_of(**texts("id"), services={"type": "array", "items": {"type": "string"}})}
            },
        }
    },
    "discard": {
        "200": {"description": "It is gone.", "content": {JSON: {"schema": reference("ParkedView")}}},
    },
    "answer": {
        "202": {
            "description": "It is done, and the answer goes its way.",
            "content": {JSON: {"schema": object_of(**texts("id"), event={"type": ["string", "null"]})}},
        }
    },
}


def paths() -> dict[str, Json]:
    """The operations; the schemas that they refer to are in `SCHEMAS`."""
    table: dict[str, Json] = {
        "/parked": {
            "get": {
                "operationId": "listParked",
                "summary": "What is parked at the services of this process, the oldest first",
                "tags": ["minuet"],
                "parameters": [*chosen_by(CHOSEN_BY), LIMIT_PARAMETER],
                "responses": {
                    "200": found({"type": "array", "items": reference("ParkedSummary")}, "parked"),
                    **problems("422"),
                },
            }
        },
        "/parked/{id}": {
            "get": {
                "operationId": "showParked",
                "summary": "One with its attributes and its body",
                "tags": ["minuet"],
                "parameters": [_ID],
                "responses": {
                    "200": {"description": "It.", "content": {JSON: {"schema": reference("ParkedView")}}},
                    **problems("404"),
                },
            }
        },
    }
    for verb in PARKED_VERBS:
        operation = {"tags": ["minuet"], "summary": _SUMMARIES[verb]}
        table[f"/parked/{{id}}/{verb}"] = {
            "post": {
                **operation,
                "operationId": f"{verb}Parked",
                "parameters": [_ID],
                "requestBody": body(said(**_MORE[verb])),
                "responses": {**_DONE[verb], **problems("404", "422")},
            }
        }
        table[f"/parked/{verb}"] = {
            "post": {
                **operation,
                "operationId": f"{verb}ManyParked",
                "summary": f"{verb.capitalize()} all that are chosen",
                "requestBody": body(said(**where(CHOSEN_BY), **(_MORE[verb] if verb == "answer" else {}))),
                "responses": {**MANY_RESPONSES, **problems("422")},
            }
        }
    return table
