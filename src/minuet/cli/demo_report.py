"""What `minuet demo` tells at the end: both coordinations side by side, the books, and two orders' stories."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from minuet.cli.demo_run import IN_FLIGHT_MAX, Run
from minuet.cli.tables import count, table

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

Row = tuple[str, Callable[[Run], str]]


def facts_of(runs: Sequence[Run], orders: int, first_order_s: float) -> dict[str, Any]:
    """Everything that the report says, for a program."""
    return {
        "ok": all(run.is_good for run in runs),
        "orders": orders,
        "in_flight_max": IN_FLIGHT_MAX,
        "first_order_s": round(first_order_s, 3),
        "coordinations": {run.coordination: _facts(run) for run in runs},
    }


def _facts(run: Run) -> dict[str, Any]:
    books = run.balance
    return {
        "shipped": run.shipped,
        "cancelled": sum(run.cancelled.values()),
        "cancelled_by_reason": run.cancelled,
        "unfinished": run.unfinished,
        "seconds": round(run.seconds, 4),
        "orders_per_s": round(run.orders_per_s, 1),
        "latency_p50_ms": round(run.latency_ms(0.5), 2),
        "latency_p99_ms": round(run.latency_ms(0.99), 2),
        "messages": run.messages,
        "commits": run.commits,
        "books": {
            "balanced": books.is_even,
            "ordered": float(books.ordered),
            "paid": float(books.paid),
            "charged": float(books.charged),
            "pieces_set_aside": books.reserved,
            "pieces_promised": books.promised,
            "shipments": books.shipments,
            "parcels": books.parcels,
            "pending_orders": books.pending,
            "differences": books.differences,
        },
        "stories": run.stories,
    }


def print_report(screen: Console, runs: Sequence[Run]) -> None:
    """All of it, for a person."""
    screen.print()
    screen.print(_side_by_side("The same orders, both ways", runs, _outcomes(runs) + MEASURES))
    screen.print(_side_by_side("The books", runs, BOOKS))
    for run in runs:
        for order_id, why in run.unfinished.items():
            screen.print(f"order {order_id} did not end by {run.coordination}: {why}", style="red")
        for difference in run.balance.differences:
            screen.print(f"{run.coordination}: {difference}", style="red")
    _print_stories(screen, runs)


def _outcomes(runs: Sequence[Run]) -> list[Row]:
    def of_reason(reason: str) -> Callable[[Run], str]:
        return lambda run: f"{run.cancelled.get(reason, 0):,}"

    reasons = dict.fromkeys(reason for run in runs for reason in run.cancelled)
    rows: list[Row] = [
        ("shipped", lambda run: f"{run.shipped:,}"),
        ("cancelled", lambda run: f"{sum(run.cancelled.values()):,}"),
        *((f"  {reason}", of_reason(reason)) for reason in reasons),
    ]
    if any(run.unfinished for run in runs):
        rows.append(("did not end", lambda run: f"{len(run.unfinished):,}"))
    return rows


MEASURES: list[Row] = [
    ("latency p50", lambda run: f"{run.latency_ms(0.5):,.0f} ms"),
    ("latency p99", lambda run: f"{run.latency_ms(0.99):,.0f} ms"),
    ("orders/s", lambda run: f"{run.orders_per_s:,.0f}" if run.orders_per_s else "too few to tell"),
    ("messages sent", lambda run: f"{run.messages:,}"),
    ("database commits", lambda run: f"{run.commits:,}"),
    ("  for each order", lambda run: f"{run.commits / max(1, len(run.ended)):.2f}"),
]

BOOKS: list[Row] = [
    ("money   ordered and shipped", lambda run: f"{run.balance.ordered:,.2f}"),
    ("        paid, says payment", lambda run: f"{run.balance.paid:,.2f}"),
    ("        charged, says the gateway", lambda run: f"{run.balance.charged:,.2f}"),
    ("stock   pieces set aside", lambda run: f"{run.balance.reserved:,}"),
    ("        pieces that orders hold", lambda run: f"{run.balance.promised:,}"),
    ("parcels orders shipped", lambda run: f"{run.balance.shipped:,}"),
    ("        sent, says shipping", lambda run: f"{run.balance.shipments:,}"),
    ("        taken, says the carrier", lambda run: f"{run.balance.parcels:,}"),
    ("balanced", lambda run: "[green]yes[/green]" if run.balance.is_even else "[bold red]no[/bold red]"),
]


def _side_by_side(title: str, runs: Sequence[Run], rows: Sequence[Row]) -> Table:
    shown = table(title)
    shown.add_column("", no_wrap=True, min_width=33)
    for run in runs:
        shown.add_column(run.coordination, justify="right", min_width=15)
    for label, value in rows:
        shown.add_row(label, *(value(run) for run in runs))
    return shown


def _print_stories(screen: Console, runs: Sequence[Run]) -> None:
    from rich.text import Text

    from minuet.cli.story import ASCII, PRETTY, draw

    strokes = ASCII if screen.options.ascii_only else PRETTY
    told = [(run, story) for run in runs for story in run.stories]
    for run, story in sorted(told, key=lambda one: one[1].status != "completed"):
        end = "was shipped" if story.status == "completed" else f"was {story.status}"
        screen.print(Text.assemble((f"Order {story.order_id} {end}", "bold"), f", by {run.coordination}"))
        screen.print()
        for line in draw(story.arrows, story.lanes, width=screen.width, strokes=strokes):
            screen.print(line, no_wrap=True, overflow="ignore", crop=False)
        screen.print()


def print_end(screen: Console, runs: Sequence[Run]) -> None:
    """The verdict."""
    orders = count(sum(len(run.ended) for run in runs), "order")
    if all(run.is_good for run in runs):
        screen.print(f"[green]{orders} ended, and the books balance both ways.[/green]")
    else:
        screen.print("[bold red]The books do not balance, or an order did not end as it should.[/bold red]")


def print_examples(screen: Console, url: str, data: str, order_id: str) -> None:
    """What to try while it goes on running."""
    lines = [
        f"curl -si {url}/orders -H 'Content-Type: application/json' \\",
        """     -d '{"orderId": "ORD12345", "customerId": "CUST987", "items": ["ITEM001", "ITEM005"]}'""",
        f"curl -s {url}/orders/ORD12345",
        f"curl -s {url}/orders/{order_id}",
        f"curl -s '{url}/orders?status=CANCELLED&limit=3'",
        f"curl -s {url}/inventory/stock/ITEM001",
        f"curl -s {url}/sandbox/gateway/ledger",
        f"open {url}/docs",
        f"minuet sagas show ORD12345 --data {data}",
    ]
    screen.print(f"\nThe shop goes on by orchestration at [bold]{url}[/bold]. Try:\n", soft_wrap=True)
    for line in lines:
        screen.print(f"  {line}", markup=False, soft_wrap=True)
    screen.print("\nCtrl-C stops it.")
