"""Whether a message that was written under an older contract can be read under today's. Pure.

Messages of open sagas are stored, and on their way: commands that are not done yet, events that are known or will be
heard. A contract is recorded as plain JSON, its *shape*; later that is compared with the class of the day. Compared is
what a reader needs: the new class must take each old body. A raised version with an upcast for each step is taken at
its word.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pydantic.errors import PydanticInvalidForJsonSchema

from minuet.core.messages import Command, Event, Message, Refusal

Shape = dict[str, Any]
"""A contract as JSON: kind, version, channel or service, and by field whether it is required and its JSON schema."""

_SAID_FOR_PEOPLE = frozenset({"title", "description", "examples", "default", "deprecated"})
_AT_MOST = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")
_AT_LEAST = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties")
_EXACT = ("pattern", "format", "multipleOf", "uniqueItems", "prefixItems")
_NESTING_MAX = 32


def shape_of(message: type[Message]) -> Shape:
    """The message's contract, the same for the same contract wherever it is asked."""
    contract = message.__contract__
    kind = "command" if issubclass(message, Command) else "refusal" if issubclass(message, Refusal) else "event"
    return {
        "kind": kind,
        "version": contract.version,
        **({"channel": contract.channel} if issubclass(message, Event) else {"service": contract.service}),
        "fields": _fields(message),
    }


def _fields(message: type[Message]) -> dict[str, Any]:
    required = {info.alias or name for name, info in message.model_fields.items() if info.is_required()}
    try:
        schema = message.model_json_schema(by_alias=True, mode="validation")
    except PydanticInvalidForJsonSchema:  # a type that JSON schema has no word for; then its name has to do
        properties: Mapping[str, Any] = {
            info.alias or name: {"python": str(info.annotation)} for name, info in message.model_fields.items()
        }
        definitions: Mapping[str, Any] = {}
    else:
        properties, definitions = schema.get("properties", {}), schema.get("$defs", {})
    return {
        name: {"required": name in required, "schema": _plain(one, definitions)}
        for name, one in sorted(properties.items())
    }


def _plain(schema: Any, definitions: Mapping[str, Any], depth: int = 0) -> Any:
    """Without what is only for people, and with what it refers to in place."""
    if isinstance(schema, list):
        return [_plain(one, definitions, depth) for one in schema]
    if not isinstance(schema, dict):
        return schema
    name = str(schema.get("$ref", "")).rpartition("/")[2]
    if name:
        if depth >= _NESTING_MAX:  # one that holds itself
            return {"named": name}
        return _plain(definitions[name], definitions, depth + 1)
    found = {}
    for key, value in schema.items():
        if key == "properties":  # whose names are fields, not words of JSON schema
            found[key] = {field: _plain(one, definitions, depth + 1) for field, one in value.items()}
        elif key not in _SAID_FOR_PEOPLE:
            found[key] = _plain(value, definitions, depth + 1)
    return found


def incompatibilities(name: str, old: Mapping[str, Any], today: type[Message] | None) -> Iterator[str]:
    """Why messages that were written under the old shape cannot all be read today, in words; nothing if they can."""
    if today is None:
        yield f"{name} is gone: what was stored of it, or is on its way, is understood by nobody"
        return
    new = shape_of(today)
    if new["kind"] != old["kind"]:
        yield f"{name} was {_a(old['kind'])} and is {_a(new['kind'])} now"
        return
    if new.get("channel") != old.get("channel"):
        yield (
            f"{name} moved from channel {old.get('channel')} to {new.get('channel')}: what is on its way there is not "
            "heard here"
        )
    if old["version"] > new["version"]:
        yield f"{name} was version {old['version']} already and is {new['version']}: what was written since is too new"
        return
    missing = [number for number in range(old["version"], new["version"]) if number not in today.__contract__.upcasts]
    if missing:
        yield (
            f"{name} was raised from version {old['version']} to {new['version']} without an upcast from {missing[0]}; "
            f"declare upcasts={{{missing[0]}: ...}}"
        )
    elif new["version"] == old["version"]:
        yield from _differences(name, old["fields"], new["fields"])


def _a(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def _differences(name: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    hint = "raise its version and declare an upcast"
    for field in sorted(old.keys() - new.keys()):
        yield f"{name} lost its field {field}; {hint}"
    for field in sorted(new.keys() - old.keys()):
        if new[field]["required"]:
            yield f"{name} has a new field {field}, which is required and stands in no older message; give it a default"
    for field in sorted(old.keys() & new.keys()):
        if new[field]["required"] and not old[field]["required"]:
            yield f"{name}.{field} is required now, and older messages may leave it out; keep its default, or {hint}"
        for what in narrowed(old[field]["schema"], new[field]["schema"]):
            yield f"{name}.{field} changed: {what}; {hint}"


# -- values ------------------------------------------------------------------------------------------------------------


def narrowed(old: Any, new: Any) -> Iterator[str]:
    """What the old schema allowed and the new one does not, in words. What is not understood counts as narrowed."""
    if new in (old, {}):
        return
    if not isinstance(old, Mapping) or not isinstance(new, Mapping):
        yield f"{_words(old)} became {_words(new)}"
        return
    ways, ways_now = _ways(old), _ways(new)
    if len(ways) > 1 or len(ways_now) > 1:
        for way in ways:
            if all(any(narrowed(way, one)) for one in ways_now):
                yield f"{_words(way)} is no longer allowed"
        return
    yield from _narrowed_alike(ways[0], ways_now[0])


def _ways(schema: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The alternatives of a schema, one by one."""
    inner = schema.get("anyOf") or schema.get("oneOf")
    if isinstance(inner, list):
        return [way for one in inner for way in _ways(one)]
    return [schema]


def _narrowed_alike(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    kind, kind_now = old.get("type"), new.get("type")
    if kind_now is not None and kind != kind_now and (kind, kind_now) != ("integer", "number"):
        yield f"{_words(old)} became {_words(new)}"
        return
    values, values_now = _values(old), _values(new)
    if values_now is not None:
        if values is None:
            yield f"only {_listed(values_now)} is allowed now"
        elif lost := [one for one in values if one not in values_now]:
            yield f"{_listed(lost)} is no longer allowed"
    for limit in _AT_MOST:
        if limit in new and (limit not in old or old[limit] > new[limit]):
            yield f"{limit} is {new[limit]} now{_before(old, limit)}"
    for limit in _AT_LEAST:
        if limit in new and (limit not in old or old[limit] < new[limit]):
            yield f"{limit} is {new[limit]} now{_before(old, limit)}"
    for word in _EXACT:
        if word in new and new[word] != old.get(word):
            yield f"its {word} is {new[word]} now{_before(old, word)}"
    for inside in ("items", "additionalProperties"):
        if isinstance(new.get(inside), Mapping):
            yield from (f"in each of its {inside}: {what}" for what in narrowed(old.get(inside, {}), new[inside]))
    if new.get("additionalProperties") is False and (extra := old.get("properties", {}).keys() - _inner(new).keys()):
        yield f"{min(extra)} is no longer allowed in it"
    for name in sorted(set(new.get("required", ())) - set(old.get("required", ()))):
        yield f"{name} is required in it now"
    for name in sorted(_inner(old).keys() & _inner(new).keys()):
        yield from (f"in {name}: {what}" for what in narrowed(_inner(old)[name], _inner(new)[name]))
    understood = {"type", "enum", "const", *_AT_MOST, *_AT_LEAST, *_EXACT}
    understood |= {"items", "additionalProperties", "required", "properties"}
    for word in sorted(new.keys() - understood):
        if new[word] != old.get(word):
            yield f"its {word} is {_words(new[word])} now"


def _inner(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    found = schema.get("properties", {})
    assert isinstance(found, Mapping)
    return found


def _values(schema: Mapping[str, Any]) -> list[Any] | None:
    """Those that it allows, if it lists them."""
    if "const" in schema:
        return [schema["const"]]
    found = schema.get("enum")
    return found if isinstance(found, list) else None


def _before(old: Mapping[str, Any], word: str) -> str:
    return f", before it was {old[word]}" if word in old else ", before there was none"


def _words(schema: Any) -> str:
    if not isinstance(schema, Mapping):
        return str(schema)
    if schema.get("type") == "array":
        return f"list of {_words(schema.get('items', {}))}"
    values = _values(schema)
    if values is not None:
        return f"one of {_listed(values)}"
    return " or ".join(str(way.get("type") or way.get("python") or "anything") for way in _ways(schema))


def _listed(values: Iterable[Any]) -> str:
    return ", ".join(map(str, values))
