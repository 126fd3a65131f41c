"""The OpenAPI 3.1 document of a contract: what may be asked and answered, with the examples that its models give."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from pydantic_core import to_json

from minuet.codec_http import JSON, PROBLEM_JSON, PROBLEM_TYPE, REFUSAL_TYPE, aliases_of, refusal_problem, words_of
from minuet.core.envelope import Envelope
from minuet.core.messages import Command, Event, Message, Query, Refusal, StepRefused, name_of, refusals, successes
from minuet.core.saga import Saga
from minuet.doors import openapi_parked, openapi_sagas

SCHEMAS = "#/components/schemas/"
Json = dict[str, Any]
_WHEN = "2026-01-31T12:00:00.000000Z"

_KEY: Json = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "The same key again is the same request: it is done once, and answered as the first time.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255},
    "example": "7f3d4c1e",
}
_PREFER: Json = {
    "name": "Prefer",
    "in": "header",
    "required": False,
    "description": "`wait=N`: wait up to N seconds, at most 30, for a definite answer (RFC 7240).",
    "schema": {"type": "string"},
    "example": "wait=10",
}
_PROBLEM: Json = {
    "type": "object",
    "description": "A problem (RFC 9457).",
    "required": ["type", "title", "status", "detail", "instance"],
    "properties": {
        "type": {"type": "string", "format": "uri"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "instance": {"type": "string", "format": "uri-reference"},
    },
}
_INVALID_PROBLEM: Json = {
    "allOf": [{"$ref": f"{SCHEMAS}Problem"}],
    "properties": {
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["field", "message"],
                "properties": {"field": {"type": "string"}, "message": {"type": "string"}},
            },
        }
    },
}
_NOT_YET_PROBLEM: Json = {
    "allOf": [{"$ref": f"{SCHEMAS}Problem"}],
    "properties": {"retryAfterMs": {"type": "integer", "minimum": 0}},
}
_HEALTH: Json = {
    "summary": "Whether this process is alive, and for which services",
    "operationId": "health",
    "tags": ["minuet"],
    "responses": {
        "200": {
            "description": "It is.",
            "content": {
                JSON: {
                    "schema": {
                        "type": "object",
                        "required": ["status", "services"],
                        "properties": {
                            "status": {"const": "ok"},
                            "services": {"type": "array", "items": {"type": "string"}},
                        },
                    }
                }
            },
        }
    },
}


def document_of(
    title: str,
    messages: Iterable[type[Command] | type[Query]],
    sagas: Iterable[Saga] = (),
    *,
    has_parked: bool = False,
) -> Json:
    """The whole document.

    Args:
        sagas: those that can be begun and looked at here.
        has_parked: whether what is parked can be.
    """
    messages = list(messages)
    schemas = _Schemas(messages)
    paths: dict[str, Json] = {"/health": {"get": _HEALTH}}
    for message in messages:
        route = message.__contract__.http
        assert route is not None
        operation = _command(message, schemas) if issubclass(message, Command) else _query(message, schemas)
        paths.setdefault(path_of(message), {})[route.method.lower()] = operation
    sagas = list(sagas)
    if sagas:
        paths |= openapi_sagas.paths_of(sagas)
        schemas.components |= openapi_sagas.SCHEMAS
    if has_parked:
        paths |= openapi_parked.paths()
        schemas.components |= openapi_parked.SCHEMAS
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": "1", "description": "Made from the messages by minuet."},
        "paths": paths,
        "components": {
            "schemas": schemas.components,
            "parameters": {"Key": _KEY, "Prefer": _PREFER},
            "responses": _RESPONSES,
            "headers": _HEADERS,
        },
    }


_HEADERS: Json = {
    "ce-id": {"description": "The answer's id (CloudEvents 1.0): the same each time.", "schema": {"type": "string"}},
    "ce-type": {"description": "The answer's type.", "schema": {"type": "string"}},
    "Retry-After": {"description": "Ask again after so many seconds.", "schema": {"type": "integer", "minimum": 1}},
    "Location": {
        "description": "Where to see how it goes on.",
        "schema": {"type": "string", "format": "uri-reference"},
    },
}


def _plain_problem(description: str, schema: str, status: int, kind: str, title: str, **members: Any) -> Json:
    example = {
        "type": PROBLEM_TYPE + kind,
        "title": title,
        "status": status,
        "detail": description,
        "instance": "/",
        **members,
    }
    return {
        "description": description,
        "content": {PROBLEM_JSON: {"schema": {"$ref": SCHEMAS + schema}, "example": example}},
    }


_RESPONSES: Json = {
    "BadHeader": _plain_problem("A header cannot be read.", "Problem", 400, "header", "A header cannot be read"),
    "NotFound": _plain_problem("There is no such thing.", "Problem", 404, "not-found", "Not found"),
    "TooLarge": _plain_problem("The body is too large.", "Problem", 413, "too-large", "The body is too large"),
    "MediaType": _plain_problem("The body is not JSON.", "Problem", 415, "media-type", "Unsupported media type"),
    "Invalid": _plain_problem(
        "The request does not fit, or its Idempotency-Key was used with another body.",
        "InvalidProblem",
        422,
        "invalid",
        "The request does not fit",
        errors=[{"field": "items", "message": "Field required"}],
    ),
    "NotYet": {
        **_plain_problem(
            "There is no definite answer yet; ask again with the same Idempotency-Key.",
            "NotYetProblem",
            503,
            "not-yet",
            "No answer yet",
            retryAfterMs=200,
        ),
        "headers": {"Retry-After": {"$ref": "#/components/headers/Retry-After"}},
    },
}


# -- operations --------------------------------------------------------------------------------------------------------


def path_of(message: type[Message]) -> str:
    route = message.__contract__.http
    assert route is not None
    aliases = aliases_of(message)
    return "/".join(f"{{{aliases[part[1:-1]]}}}" if part.startswith("{") else part for part in route.path.split("/"))


def _command(command: type[Command], schemas: _Schemas) -> Json:
    answers, told = successes(command), [schemas.refusal(one, command) for one in refused_with(command)]
    is_accepted = command.__contract__.accepted is not None
    good: Json = {
        "description": " or ".join(words_of(name_of(event)) for event in answers) or "Done.",
        "headers": _references("headers", "ce-id", "ce-type", *(["Location"] if is_accepted else [])),
        "content": {JSON: _one_of([(name_of(one), schemas.reference(one), schemas.example(one)) for one in answers])},
    }
    refused: Json = {
        "description": "Refused, and nothing remains: "
        + ", ".join(words_of(name_of(one)) for one in refused_with(command)),
        "headers": _references("headers", "ce-id", "ce-type"),
        "content": {PROBLEM_JSON: _one_of(told)},
    }
    body = schemas.body(command)
    needs_body = bool(schemas.schema(command).get("required"))
    return {
        **_described(command),
        "parameters": [
            *schemas.parameters(command, in_path=True),
            *_references("parameters", "Key", "Prefer").values(),
        ],
        "requestBody": {"required": needs_body, "content": {JSON: _media(body, schemas.example(command))}},
        "responses": {
            "202" if is_accepted else "200": good,
            "409": refused,
            **_responses(
                {"400": "BadHeader", "413": "TooLarge", "415": "MediaType", "422": "Invalid", "503": "NotYet"}
            ),
        },
    }


def _query(query: type[Query], schemas: _Schemas) -> Json:
    view = query.__answer__
    return {
        **_described(query),
        "parameters": [*schemas.parameters(query, in_path=True), *schemas.parameters(query, in_path=False)],
        "responses": {
            "200": {
                "description": words_of(view.__name__),
                "content": {JSON: _media(schemas.reference(view), schemas.example(view))},
            },
            **_responses({"404": "NotFound", "422": "Invalid", "503": "NotYet"}),
        },
    }


def refused_with(command: type[Command]) -> tuple[type[Refusal], ...]:
    """The refusals a caller may hear, minuet's own included."""
    return tuple(dict.fromkeys((*refusals(command), StepRefused)))


def _described(message: type[Message]) -> Json:
    found: Json = {
        "operationId": name_of(message),
        "summary": words_of(name_of(message)),
        "tags": [message.__contract__.service],
    }
    if message.__doc__:
        found["description"] = inspect.cleandoc(message.__doc__)
    return found


def _references(kind: str, *names: str) -> Json:
    return {name: {"$ref": f"#/components/{kind}/{name}"} for name in names}


def _responses(names: Mapping[str, str]) -> Json:
    return {status: {"$ref": f"#/components/responses/{name}"} for status, name in names.items()}


def _media(schema: Json, example: Any) -> Json:
    return {"schema": schema} if example is None else {"schema": schema, "example": example}


def _one_of(options: list[tuple[str, Json, Any]]) -> Json:
    """A media type of one of these schemas, each with its example."""
    if len(options) == 1:
        return _media(*options[0][1:])
    examples = {name: {"value": example} for name, _, example in options if example is not None}
    return {"schema": {"oneOf": [schema for _, schema, _ in options]}, **({"examples": examples} if examples else {})}


# -- schemas -----------------------------------------------------------------------------------------------------------


class _Schemas:
    """The schemas of all models, under ``#/components/schemas/``, as their JSON is on the wire."""

    def __init__(self, messages: Iterable[type[Command] | type[Query]]) -> None:
        models: dict[type[BaseModel], None] = {}
        for message in messages:
            if issubclass(message, Command):
                models |= dict.fromkeys((message, *successes(message), *refused_with(message)))
            else:
                models |= dict.fromkeys((message, message.__answer__))
        wanted = [(model, _mode_of(model)) for model in models]
        references, found = models_json_schema(wanted, ref_template=SCHEMAS + "{model}")
        self.components: Json = found.get("$defs", {})
        self._names = {model: _last(references[model, mode]["$ref"]) for model, mode in wanted}
        self._schemas: dict[type[BaseModel], Json] = {model: self.components[self._names[model]] for model in models}
        for schema in self.components.values():
            for one in schema.get("properties", {}).values():
                one.pop("title", None)  # made of the field's name, so it says nothing new
        for model in models:
            if issubclass(model, Event):
                self._add_what_events_carry(model)
            elif issubclass(model, Query):  # it is told as parameters
                del self.components[self._names[model]]
        self.components |= {"Problem": _PROBLEM, "InvalidProblem": _INVALID_PROBLEM, "NotYetProblem": _NOT_YET_PROBLEM}

    def schema(self, model: type[BaseModel]) -> Json:
        return self._schemas[model]

    def reference(self, model: type[BaseModel]) -> Json:
        return {"$ref": SCHEMAS + self._names[model]}

    def example(self, model: type[BaseModel]) -> Any:
        return self._example_in(self.schema(model))

    def body(self, command: type[Command]) -> Json:
        """The command's schema; what its path says may be left out."""
        schema = self.schema(command)
        said = {parameter["name"] for parameter in self.parameters(command, in_path=True)}
        if said:
            schema["required"] = [name for name in schema.get("required", ()) if name not in said]
        return self.reference(command)

    def refusal(self, refusal: type[Refusal], command: type[Command]) -> tuple[str, Json, Any]:
        """Name, schema and example of the problem that tells of a refusal."""
        name = f"{self._names[refusal]}Problem"
        kind = REFUSAL_TYPE + name_of(refusal)
        properties = {"type": {"const": kind}, "status": {"const": 409}, "refusal": self.reference(refusal)}
        self.components[name] = {
            "allOf": [{"$ref": f"{SCHEMAS}Problem"}],
            "required": ["refusal"],
            "properties": properties,
        }
        body = self.example(refusal)
        if body is None:
            return name, {"$ref": SCHEMAS + name}, None
        answer = Envelope(id="", type=name_of(refusal), source=command.__contract__.service, time=0, body=to_json(body))
        return name, {"$ref": SCHEMAS + name}, refusal_problem(name_of(command), answer, path_of(command))

    def parameters(self, message: type[Message], *, in_path: bool) -> list[Json]:
        """The fields that stand in the path, or those that stand in the query string."""
        route = message.__contract__.http
        assert route is not None
        schema = self.schema(message)
        found = []
        for field, alias in aliases_of(message).items():
            if (field in route.path_fields) is in_path:
                required = in_path or message.model_fields[field].is_required()
                place = "path" if in_path else "query"
                found.append({"name": alias, "in": place, "required": required, "schema": schema["properties"][alias]})
        return found

    def _add_what_events_carry(self, event: type[Event]) -> None:
        schema = self.schema(event)
        schema["properties"] = {
            "eventType": {"const": name_of(event), "type": "string"},
            **schema.get("properties", {}),
            "timestamp": {"type": "string", "format": "date-time", "examples": [_WHEN]},
        }
        schema["required"] = ["eventType", *schema.get("required", ()), "timestamp"]
        if "examples" in schema:
            always = {"eventType": name_of(event), "timestamp": _WHEN}
            schema["examples"] = [{**always, **one} for one in schema["examples"]]

    def _example_in(self, schema: Mapping[str, Any]) -> Any:
        """The schema's own example, or one made of its properties' examples; None if one is missing."""
        if "$ref" in schema:
            return self._example_in(self.components[_last(schema["$ref"])])
        if schema.get("examples"):
            return schema["examples"][0]
        for name in ("const", "default"):
            if name in schema:
                return schema[name]
        if "items" in schema:
            one = self._example_in(schema["items"])
            return None if one is None else [one]
        if "properties" not in schema:
            return None
        made = {name: self._example_in(one) for name, one in schema["properties"].items()}
        if any(made[name] is None for name in schema.get("required", ())):
            return None
        return {name: value for name, value in made.items() if value is not None}


def _mode_of(model: type[BaseModel]) -> Literal["validation", "serialization"]:
    return "validation" if issubclass(model, Command | Query) else "serialization"


def _last(reference: str) -> str:
    return reference.rpartition("/")[2]
