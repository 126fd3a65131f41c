"""Counts, lists and JSON as they are shown."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from minuet.cli.tables import count, listed, plain, readable


def test_counts_and_lists() -> None:
    assert (count(1, "order"), count(2000, "order"), count(2, "box", "boxes")) == ("1 order", "2,000 orders", "2 boxes")
    assert (listed([]), listed(["a"]), listed(["a", "b"]), listed(["a", "b", "c"], "or")) == (
        "",
        "a",
        "a and b",
        "a, b or c",
    )


class Colour(StrEnum):
    RED = "red"


@dataclass(slots=True)
class Thing:
    colour: Colour
    body: bytes
    parts: tuple[object, ...]


def test_facts_become_json() -> None:
    thing = Thing(Colour.RED, b'{"a": 1}', (Path("x"), None, 1.5, {"b": b"\xff"}))
    assert plain(thing) == {"colour": "red", "body": {"a": 1}, "parts": ["x", None, 1.5, {"b": "\\xff"}]}
    assert readable(b"no json") == "no json"
