"""What is made of many measurements: medians with their least and most, and ratios of two figures of one round."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Row = Mapping[str, Any]
"""One measurement, with the ``round`` and the ``contender``; or with ``failed``, the reason why there is none."""

COLUMNS = {
    "orders_per_s": "orders/s",
    "p50_ms": "p50 ms",
    "p99_ms": "p99 ms",
    "p999_ms": "p99.9 ms",
    "cpu_ms_per_order": "CPU ms/order",
    "peak_memory_mb": "memory MB",
    "commits_per_order": "commits/order",
    "messages_per_order": "messages/order",
    "others_busy_cores": "others, cores",
}


@dataclass(frozen=True, slots=True)
class Spread:
    """A figure of several rounds."""

    median: float
    least: float
    most: float
    rounds: int

    def __str__(self) -> str:
        middle = number(self.median)
        return middle if self.rounds == 1 else f"{middle} ({number(self.least)} .. {number(self.most)})"


def number(value: float) -> str:
    """Three digits are enough to compare by."""
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def spread(values: Iterable[float]) -> Spread | None:
    found = list(values)
    if not found:
        return None
    return Spread(statistics.median(found), min(found), max(found), len(found))


def figure(rows: Iterable[Row], contender: str, in_flight: int, name: str) -> Spread | None:
    """A contender's figure over all rounds; None if it has none."""
    return spread(
        row[name]
        for row in rows
        if row["contender"] == contender and row["in_flight"] == in_flight and row.get(name) is not None
    )


def ratios(rows: Sequence[Row], name: str, above: tuple[str, int], below: tuple[str, int]) -> Spread | None:
    """How many times the figure of one contender the figure of the other is, round by round.

    Args:
        above, below: a contender, and the number of orders in flight.
    """

    def by_round(contender: str, in_flight: int) -> dict[int, float]:
        return {
            row["round"]: row[name]
            for row in rows
            if row["contender"] == contender and row["in_flight"] == in_flight and row.get(name)
        }

    ours, theirs = by_round(*above), by_round(*below)
    return spread(ours[each] / theirs[each] for each in sorted(ours.keys() & theirs.keys()))


def failures(rows: Iterable[Row], contender: str, in_flight: int) -> list[str]:
    """Why there are fewer measurements than rounds; each reason once."""
    reasons = (
        row["failed"]
        for row in rows
        if row["contender"] == contender and row["in_flight"] == in_flight and row.get("failed")
    )
    return list(dict.fromkeys(reasons))


def points(rows: Sequence[Row], contender: str) -> list[tuple[float, float, int]]:
    """A contender's line in the plot: orders/s and the median latency in ms, for each number in flight."""
    found = []
    for in_flight in sorted({row["in_flight"] for row in rows}):
        rate = figure(rows, contender, in_flight, "orders_per_s")
        latency = figure(rows, contender, in_flight, "p50_ms")
        if rate is not None and latency is not None:
            found.append((rate.median, latency.median, in_flight))
    return found
