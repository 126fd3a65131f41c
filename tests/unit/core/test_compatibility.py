"""Old bodies and new classes: what is called compatible can be read, and what cannot be read is not called so."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field, create_model
from pydantic.types import JsonValue

from minuet import Command, Event, Refusal
from minuet.core.compatibility import incompatibilities, narrowed, shape_of
from minuet.core.messages import Message


class Done(Event, channel="done"):
    thing: str


def event(fields: dict[str, Any], **keywords: Any) -> type[Event]:
    return create_model("Made", __base__=Event, __cls_kwargs__={"channel": "made", **keywords}, **fields)


def command(fields: dict[str, Any], **keywords: Any) -> type[Command]:
    kwargs = {"service": "maker", "answers": (Done,), **keywords}
    return create_model("Made", __base__=Command, __cls_kwargs__=kwargs, **fields)


def problems(old: type[Message], new: type[Message] | None) -> list[str]:
    return list(incompatibilities("Made", shape_of(old), new))


class Address(BaseModel):
    street: str


class StricterAddress(BaseModel):
    street: str
    country: str


class Tree(BaseModel):
    leaves: list[Tree] = []


OLD = {"order_id": (str, ...), "count": (int, 1), "note": (str | None, None)}
BOTH = pytest.mark.parametrize("make", [event, command])


@BOTH
def test_nothing_changed(make: Any) -> None:
    assert problems(make(OLD), make(OLD)) == []
    assert shape_of(make(OLD)) == shape_of(make(dict(reversed(OLD.items()))))


@BOTH
@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"order_id": None}, "Made lost its field orderId; raise its version"),
        ({"price": (float, ...)}, "Made has a new field price, which is required"),
        ({"count": (int, ...)}, "Made.count is required now"),
        ({"order_id": (int, ...)}, "Made.orderId changed: string became integer"),
        ({"note": (str, "")}, "Made.note changed: null is no longer allowed"),
        ({"count": (Literal[1, 2], 1)}, "Made.count changed: only 1, 2 is allowed now"),
        ({"order_id": (Annotated[str, Field(max_length=9)], ...)}, "Made.orderId changed: maxLength is 9 now"),
        ({"order_id": (Annotated[str, Field(pattern="^o")], ...)}, "Made.orderId changed: its pattern is ^o now"),
        ({"count": (Annotated[int, Field(ge=0)], 1)}, "Made.count changed: minimum is 0 now"),
    ],
)
def test_what_older_messages_do_not_fit(make: Any, change: dict[str, Any], what: str) -> None:
    fields = {name: one for name, one in (OLD | change).items() if one is not None}
    (problem,) = problems(make(OLD), make(fields))
    assert problem.startswith(what)


@BOTH
@pytest.mark.parametrize(
    "change",
    [
        {"price": (float | None, None)},
        {"order_id": (str, "none")},
        {"count": (float, 1.0)},
        {"count": (int | str, 1)},
        {"order_id": (Annotated[str, Field(description="whose", examples=["o-1"], title="Id")], ...)},
        {"order_id": (Any, ...)},
    ],
)
def test_what_takes_everything_that_was_written(make: Any, change: dict[str, Any]) -> None:
    assert problems(make(OLD), make(OLD | change)) == []


@BOTH
def test_a_raised_version_needs_an_upcast_for_each_step(make: Any) -> None:
    fields = {"price": (float, ...)}
    steps = {1: dict, 2: dict}
    assert problems(make(OLD), make(fields, version=3, upcasts=steps)) == []
    (problem,) = problems(make(OLD), make(fields, version=3, upcasts={1: dict}))
    assert "raised from version 1 to 3 without an upcast from 2" in problem
    assert problems(make(OLD, version=2, upcasts={1: dict}), make(fields, version=3, upcasts={2: dict})) == []
    (problem,) = problems(make(OLD, version=2, upcasts={1: dict}), make(OLD))
    assert "was version 2 already and is 1" in problem


def test_what_it_is_and_where_it_travels() -> None:
    assert problems(event(OLD), None) == [
        "Made is gone: what was stored of it, or is on its way, is understood by nobody"
    ]
    assert problems(event(OLD), command(OLD)) == ["Made was an event and is a command now"]
    refusal = create_model("Made", __base__=Refusal, __cls_kwargs__={"channel": "made"}, order_id=(str, ...))
    assert problems(event(OLD), refusal) == ["Made was an event and is a refusal now"]
    (problem,) = problems(event(OLD), event(OLD, channel="other"))
    assert "moved from channel made to other" in problem


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        (list[str], list[int], "in each of its items: string became integer"),
        (dict[str, str], dict[str, int], "in each of its additionalProperties: string became integer"),
        (list[str], Annotated[list[str], Field(max_length=3)], "maxItems is 3 now, before there was none"),
        (Literal["a", "b"], Literal["a", "c"], "b is no longer allowed"),
        (Literal["a", "b"], Literal["b"], "a is no longer allowed"),
        (str, Literal["b"], "only b is allowed now"),
        (Address, StricterAddress, "country is required in it now"),
        (StricterAddress, str, "object became string"),
        (int | str, int | None, "string is no longer allowed"),
        (Any, str, "anything became string"),
        (str, list[str], "string became list of string"),
        (Annotated[int, Field(le=9)], Annotated[int, Field(le=8)], "maximum is 8 now, before it was 9"),
        (
            Annotated[str, Field(min_length=1)],
            Annotated[str, Field(min_length=2)],
            "minLength is 2 now, before it was 1",
        ),
    ],
)
def test_values_that_are_narrowed(old: Any, new: Any, what: str) -> None:
    assert [one for one in problems(event({"x": (old, ...)}), event({"x": (new, ...)})) if what in one]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (Literal["a"], Literal["a", "b"]),
        (Literal["a"], str),
        (int, int | str),
        (StricterAddress, Address),
        (list[Literal["a"]], list[str]),
        (Annotated[int, Field(le=8, ge=2)], Annotated[int, Field(le=9, ge=1)]),
        (Tree, Tree),
        (Decimal, Decimal),
        (JsonValue, JsonValue),
        (str | None, str | int | None),
    ],
)
def test_values_that_are_widened(old: Any, new: Any) -> None:
    assert problems(event({"x": (old, ...)}), event({"x": (new, ...)})) == []


def test_what_json_schema_has_no_word_for_is_compared_by_name() -> None:
    odd = Annotated[Any, Field(json_schema_extra=None)]
    assert problems(event({"x": (odd, ...)}), event({"x": (odd, ...)})) == []
    python, other = {"python": "<class 'socket'>"}, {"python": "<class 'thread'>"}
    assert list(narrowed(python, python)) == []
    assert list(narrowed(python, other))
