"""The tables of a run: shown in a terminal, or written as Markdown for docs/performance.md."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import rich.table
from rich.console import Console
from rich.markup import escape

from benchmarks.contenders import Contender
from benchmarks.figures import COLUMNS, Row, Spread, failures, figure
from benchmarks.goals import Verdict

MET = {True: "yes", False: "no", None: "?"}


@dataclass(frozen=True, slots=True)
class Table:
    """
    Attributes:
        lines: cells; the first says what the line is about.
        is_words: the other cells are words too, not figures.
    """

    title: str
    head: Sequence[str]
    lines: Sequence[Sequence[str]]
    is_words: bool = False


def measurements(rows: Sequence[Row], contenders: Sequence[Contender], in_flight: int) -> Table:
    """Everybody with so many orders in flight: medians over the rounds, in brackets the least and the most."""
    lines = []
    for one in contenders:
        figures = [figure(rows, one.name, in_flight, name) for name in COLUMNS]
        if not any(figures) and not failures(rows, one.name, in_flight):
            continue
        rate, *others = figures
        lines.append([one.name, str(rate) if rate else "not measured", *map(median, others)])
    return Table(f"{in_flight} in flight: median (least .. most)", ["", *COLUMNS.values()], lines)


def median(found: Spread | None) -> str:
    """The spread is shown for the rate only: a table must fit on a screen, and all of it is in the JSON."""
    return str(found).partition(" ")[0] if found else ""


def complaints(rows: Iterable[Row]) -> Table | None:
    """Who could not be measured, and why; nobody is left out silently."""
    found = dict.fromkeys((row["contender"], row["failed"]) for row in rows if row.get("failed"))
    return Table("Not measured", ["", "why"], list(found), is_words=True) if found else None


def goals(verdicts: Iterable[Verdict]) -> Table:
    lines = [[one.goal, one.wanted, one.measured or one.why, one.by_cpu, MET[one.is_met]] for one in verdicts]
    return Table(
        "Goals: ratios within the same round, median (least .. most)",
        ["goal", "wanted", "measured", "by CPU time", "met"],
        lines,
        is_words=True,
    )


def machine(bare: Iterable[dict[str, int]]) -> Table:
    lines = [[str(n), f"{one['commits_per_s']:,}", f"{one['rows_per_s']:,}"] for n, one in enumerate(bare, 1)]
    return Table("The bare machine, SQLite", ["round", "commits/s one by one", "rows/s in hundreds"], lines)


def tables(
    rows: Sequence[Row], contenders: Sequence[Contender], verdicts: Sequence[Verdict], bare: Sequence[dict[str, int]]
) -> list[Table]:
    """A whole run."""
    found = [measurements(rows, contenders, number) for number in sorted({row["in_flight"] for row in rows})]
    said = complaints(rows)
    return [*found, *([said] if said else []), machine(bare), goals(verdicts)]


def show(console: Console, made: Iterable[Table]) -> None:
    for one in made:
        shown = rich.table.Table(title=one.title, title_justify="left")
        for number, words in enumerate(one.head):
            is_figure = number > 0 and not one.is_words
            shown.add_column(words, justify="right" if is_figure else "left", overflow="fold", no_wrap=number == 0)
        for line in one.lines:
            shown.add_row(*map(escape, line))
        console.print(shown)


def markdown(made: Iterable[Table]) -> str:
    parts = []
    for one in made:
        rule = [":---" if number == 0 or one.is_words else "---:" for number in range(len(one.head))]
        lines = [one.head, rule, *one.lines]
        written = "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)
        parts.append(f"**{one.title}**\n\n{written}\n")
    return "\n".join(parts)
