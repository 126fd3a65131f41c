"""The orders of `minuet demo`: made up, or real ones from a file."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from minuet.core.errors import ConfigurationError

if TYPE_CHECKING:
    from minuet_shop.contracts import ImportOrder, PlaceOrder

FIRST_NUMBER = 10001
RARE = "ITEM008"
ITEMS = (["ITEM001", "ITEM005"], ["ITEM002"], ["ITEM003", "ITEM003"], ["ITEM006"], ["ITEM004", "ITEM007"])
# Of twenty orders one is by a customer without money, one by a customer without address, and four want the rare item,
# of which there is half enough.
WITHOUT_MONEY, WITHOUT_ADDRESS, RARITIES, PATTERN = {3}, {8}, {5, 10, 15, 19}, 20
ERRORS_MAX = 5
LINE = '{"orderId": "A-1", "customerId": "C-1", "items": ["ITEM001"], "prices": [100.25]}'


@dataclass(frozen=True, slots=True)
class Plan:
    """What to order, and what has to be on the shelves for it to come out as it should."""

    orders: Sequence[PlaceOrder | ImportOrder]
    stock: Mapping[str, int]


def made_up(number: int) -> Plan:
    """So many orders; of twenty, sixteen can be shipped. The same each time."""
    from minuet_shop.contracts import PlaceOrder

    def order(index: int) -> PlaceOrder:
        place = index % PATTERN
        customer = f"CUST{987 + index}"
        if place in WITHOUT_MONEY:
            customer = f"DECLINE-{customer}"
        if place in WITHOUT_ADDRESS:
            customer = f"NOADDRESS-{customer}"
        items = [RARE] if place in RARITIES else ITEMS[index % len(ITEMS)]
        return PlaceOrder(order_id=f"ORD{FIRST_NUMBER + index}", customer_id=customer, items=items)

    orders = [order(index) for index in range(number)]
    rare = sum(order.items == [RARE] for order in orders)
    return Plan(orders, {RARE: rare // 2})


def from_file(path: Path) -> Plan:
    """The orders of a JSON Lines file, with everything they want on the shelves.

    Raises:
        ConfigurationError: names each wrong line and says what is wrong with it.
    """
    orders: list[ImportOrder] = []
    wrong: list[str] = []
    seen: dict[str, int] = {}
    for number, line in _lines(path):
        try:
            order = _order(line)
        except ValueError as error:
            wrong.append(f"{path}, line {number}: {error}")
            continue
        if order.order_id in seen:
            wrong.append(f"{path}, line {number}: order {order.order_id} is on line {seen[order.order_id]} already")
        seen.setdefault(order.order_id, number)
        orders.append(order)
    if wrong:
        more = f"; and {len(wrong) - ERRORS_MAX} lines more" if len(wrong) > ERRORS_MAX else ""
        raise ConfigurationError("; ".join(wrong[:ERRORS_MAX]) + more)
    if not orders:
        raise ConfigurationError(f"{path} has no orders; a line is like {LINE}")
    return Plan(orders, Counter(item for order in orders for item in order.items))


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    try:
        for number, line in enumerate(path.read_bytes().splitlines(), 1):
            if line.strip():
                yield number, line
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from error


def _order(line: bytes) -> ImportOrder:
    """One line. Raises ValueError in words."""
    import pydantic

    from minuet.codec import explain
    from minuet_shop.contracts import ImportOrder

    try:
        text = line.decode("utf-8-sig")
        content = json.loads(text)
    except UnicodeDecodeError as error:
        raise ValueError("it is not UTF-8") from error
    except ValueError as error:
        raise ValueError(f"it is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError("it is not a JSON object")
    try:
        # Read as JSON, so that a price like 0.1 is the decimal that is written there.
        return ImportOrder.model_validate_json(text)
    except pydantic.ValidationError as error:
        raise ValueError(explain(error)) from error
