"""The drawing of a saga's messages."""

import pytest

from minuet.cli.story import ASCII, Arrow, draw, in_order, lanes_of


def arrow(after_ms: float, sender: str, *hearers: str, message: str, kind: str = "event") -> Arrow:
    return Arrow(after_ms=after_ms, sender=sender, hearers=hearers, message=message, kind=kind, step="")


ARROWS = [
    arrow(0, "orders", "inventory", "shipping", message="OrderCreated"),
    arrow(12.34, "inventory", "payment", message="InventoryReserved"),
    arrow(120, "shipping", "orders", "payment", message="AddressRefused", kind="refusal"),
    arrow(130, "payment", message="PaymentRefunded"),
]
LANES = ["orders", "inventory", "payment", "shipping"]


def test_everybody_has_a_line_and_everything_said_an_arrow() -> None:
    lines = [line.plain for line in draw(ARROWS, LANES, width=100)]
    assert lines == [
        "          orders  inventory  payment  shipping",
        "  0.0 ms     ●────────▶─────────┼─────────▶  OrderCreated",
        " 12.3 ms     │        ●─────────▶         │  InventoryReserved",
        "120.0 ms     ◀────────┼─────────◀─────────●  AddressRefused",
        "130.0 ms     │        │         ●         │  PaymentRefunded",
    ]


def test_where_unicode_cannot_be_shown_there_is_ascii() -> None:
    lines = [line.plain for line in draw(ARROWS, LANES, width=100, strokes=ASCII)]
    assert lines[1] == "  0.0 ms     o-------->---------+--------->  OrderCreated"
    assert all(line.isascii() for line in lines)


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    many = ["orders", "orchestrator", "inventory", "payment", "shipping", "notifications"]
    drawn = [
        line.plain for line in draw([arrow(1, one, message="OrderStatusUpdated") for one in many], many, width=width)
    ]
    assert max(map(len, drawn)) <= max(width, 68)
    assert all(name in " ".join(drawn) for name in many)


def test_names_that_do_not_fit_beside_each_other_stand_on_two_lines() -> None:
    drawn = [line.plain for line in draw(ARROWS, LANES, width=55)]
    heads = drawn[: len(drawn) - len(ARROWS)]
    assert len(heads) == 2
    assert all(name in "".join(heads) for name in LANES)


def test_nothing_said_is_nothing_drawn() -> None:
    assert draw([], [], width=80) == []


def test_lanes_are_in_the_order_of_the_services_and_strangers_come_last() -> None:
    told = [arrow(0, "stranger", "payment", message="X"), arrow(0, "orders", message="Y")]
    assert lanes_of(told, LANES) == ["orders", "payment", "stranger"]


def test_the_orchestrator_stands_beside_who_begins() -> None:
    assert in_order(["orders", "inventory", "orchestrator"]) == ["orders", "orchestrator", "inventory"]
