"""How cost grows: with finished and parked sagas in the store, steps, the size of messages, and processes; and what it
costs to forget meanwhile what is over.

Every variant of a scenario is measured once in each round, so that a ratio is of two figures of one round. Stores are
filled in bulk, see `benchmarks.filling`; a million finished sagas take ten minutes and 16 GB of disk, for each
coordination. The time that it takes to start, and the memory of open sagas, are measured as well.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks import figures, filling, report, run, start
from benchmarks.contenders import minuet
from benchmarks.figures import Row, Spread, figure, ratios, spread
from benchmarks.report import Table
from benchmarks.surroundings import surroundings

COORDINATIONS = ("choreography", "orchestration")
FINISHED = (0, 1_000, 10_000, 100_000, 1_000_000)
PARKED = (0, 10_000)
OVER = 100_000
"""Finished sagas that are old enough to be forgotten, more than are in the time of all rounds."""
KEEP_S = 5.0
STEPS = (2, 4, 8, 12)
NOTE_KB = (1, 4, 16, 64, 256)
PROCESSES = (1, 2, 3, 4)
IN_FLIGHT = 64
LARGE_IN_FLIGHT = 16
SPACING = 10_000_000
"""Between the numbers of the orders of one measurement and of the next in the same folder."""
COLUMNS = {
    "orders_per_s": "orders/s",
    "p50_ms": "p50 ms",
    "p99_ms": "p99 ms",
    "cpu_ms_per_order": "CPU ms/order",
    "peak_memory_mb": "memory MB",
    "commits_per_order": "commits/order",
    "first_order_ms": "start to first order, ms",
    "others_busy_cores": "others, cores",
}


@dataclass(frozen=True, slots=True)
class Variant:
    """One of a scenario.

    Attributes:
        fill: fills the folder that all its measurements share; without it, each has a new one.
    """

    name: str
    arguments: tuple[str, ...]
    in_flight: int = IN_FLIGHT
    fill: Callable[[Path], None] | None = None


Scenario = tuple[str, list[Variant]]


def scenarios(finished_max: int) -> Iterator[Scenario]:
    for coordination in COORDINATIONS:
        ours = ("--coordination", coordination)
        yield (
            f"finished sagas in the store, {coordination}",
            [
                Variant(f"{count:,}", ours, fill=_finished(coordination, count))
                for count in FINISHED
                if count <= finished_max
            ],
        )
    for coordination in COORDINATIONS:
        ours = ("--coordination", coordination)
        yield (
            f"parked entries, {coordination}",
            [Variant(f"{count:,}", ours, fill=_parked(coordination, count)) for count in PARKED],
        )
    for coordination in COORDINATIONS:
        ours, fill = ("--coordination", coordination), _finished(coordination, OVER)
        forgetting = (*ours, "--keep-s", str(KEEP_S))
        yield (
            f"retention, {coordination}",
            [Variant("keeps everything", ours, fill=fill), Variant("forgets what is over", forgetting, fill=fill)],
        )
    for coordination in COORDINATIONS:
        ours = ("--coordination", coordination)
        yield f"steps, {coordination}", [Variant(f"{count}", (*ours, "--steps", str(count))) for count in STEPS]
    for coordination in COORDINATIONS:
        ours = ("--coordination", coordination)
        yield (
            f"size of each message, {coordination}, {LARGE_IN_FLIGHT} in flight",
            [
                Variant(f"{size} KB", (*ours, "--note-bytes", str(size * 1024)), in_flight=LARGE_IN_FLIGHT)
                for size in NOTE_KB
            ],
        )
    choreography = ("--coordination", "choreography")
    yield (
        "processes, choreography",
        [Variant(f"{count}", (*choreography, "--processes", str(count))) for count in PROCESSES],
    )


def _finished(coordination: str, count: int) -> Callable[[Path], None]:
    return lambda folder: filling.finished(folder, coordination, max(1, count))


def _parked(coordination: str, count: int) -> Callable[[Path], None]:
    return lambda folder: filling.parked(folder, coordination, count, of=PARKED[-1] + 1)


def measure(
    ground: run.Ground, scenario: Scenario, given: argparse.Namespace, console: Console
) -> list[dict[str, Any]]:
    """All variants in each round."""
    title, variants = scenario
    rows = []
    with tempfile.TemporaryDirectory(dir=ground.folder) as kept:
        folders: dict[str, Path] = {}
        for number, one in enumerate(variants):
            if one.fill is not None:
                began = time.monotonic()
                folder = folders[one.name] = Path(kept) / str(number)
                folder.mkdir()
                one.fill(folder)
                os.sync()  # what is still to be written to the disk would slow down who is measured first
                took_s, size_mb = time.monotonic() - began, filling.size_mb(folder)
                console.print(f"{title}: filled with {one.name} in {took_s:.0f} s, {size_mb:,.0f} MB")
        for number in range(given.rounds):
            for one in variants:
                first = ("--first", str((number + 1) * SPACING))
                row: dict[str, Any] = {"round": number, "contender": one.name, "in_flight": one.in_flight}
                try:
                    row |= ground.run(
                        minuet(one.name, "", title, *one.arguments, *first),
                        in_flight=one.in_flight,
                        seconds=given.seconds,
                        warm_up_s=given.seconds / 2,
                        folder=folders.get(one.name),
                    )
                except run.Failed as failed:
                    row["failed"] = failed.reason
                rows.append(row)
                console.print(f"{title}: {one.name}: {row.get('failed') or row['orders_per_s']}")
        for folder in folders.values():
            shutil.rmtree(folder)
    return rows


def open_sagas(ground: run.Ground) -> dict[str, Spread]:
    """Kilobytes of memory for each open saga."""
    found = {}
    for coordination in COORDINATIONS:
        with tempfile.TemporaryDirectory(dir=ground.folder) as folder:
            command = [sys.executable, "-m", "benchmarks.open_sagas", "--coordination", coordination, "--dir", folder]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
        measured = spread([json.loads(done.stdout)["kb_per_open_saga"]])
        if measured is not None:
            found[f"open_saga_{coordination}_kb"] = measured
    return found


def slower(rows: Sequence[Row], variants: Sequence[Variant]) -> Spread | None:
    """By how many percent the last variant is slower than the first."""
    last, first = (variants[-1].name, variants[-1].in_flight), (variants[0].name, variants[0].in_flight)
    found = ratios(rows, "orders_per_s", last, first)
    if found is None:
        return None
    median, least, most = (round((1 - ratio) * 100, 1) for ratio in (found.median, found.most, found.least))
    return Spread(median, least, most, found.rounds)


def table(title: str, rows: Sequence[Row], variants: Sequence[Variant]) -> Table:
    first = (variants[0].name, variants[0].in_flight)
    lines = []
    for one in variants:
        rate, *others = (figure(rows, one.name, one.in_flight, name) for name in COLUMNS)
        reasons = figures.failures(rows, one.name, one.in_flight)
        said = str(rate) if rate else f"not measured: {'; '.join(reasons)}"
        times = ratios(rows, "orders_per_s", (one.name, one.in_flight), first)
        lines.append([one.name, said, *map(report.median, others), str(times or "")])
    return Table(f"{title.capitalize()}: median (least .. most)", ["", *COLUMNS.values(), "times the first"], lines)


def start_and_memory(times: dict[str, Spread]) -> Table:
    lines = [[name.replace("_", " "), str(found)] for name, found in times.items()]
    return Table("Starts, and memory of open sagas", ["", "measured"], lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.growth", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="WORD", help="scenarios whose title holds one of these"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    parser.add_argument("--finished", type=int, default=FINISHED[-1], help="at most so many finished sagas")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every measurement there")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables there, for docs/performance.md")
    parser.add_argument("--dir", type=Path, help="where the databases are; it must be on a disk with room")
    given = parser.parse_args()
    console, progress = Console(width=None if sys.stdout.isatty() else 160), Console(stderr=True)
    chosen = [one for one in scenarios(given.finished) if not given.only or any(word in one[0] for word in given.only)]
    tables = []
    with run.ground(given.dir, []) as ground:
        result: dict[str, Any] = {"surroundings": surroundings(ground.folder), "scenarios": {}}
        times = start.times()
        if not given.only:
            times |= open_sagas(ground)
        for title, variants in chosen:
            rows = measure(ground, (title, variants), given, progress)
            result["scenarios"][title] = rows
            tables.append(table(title, rows, variants))
            report.show(console, tables[-1:])
            percent = slower(rows, variants)
            if title.startswith("finished") and variants[-1].name == f"{FINISHED[-1]:,}" and percent is not None:
                times[f"slower_{variants[-1].arguments[-1]}"] = percent
    result["times"] = {name: asdict(found) for name, found in times.items()}
    tables.append(start_and_memory(times))
    report.show(console, tables[-1:])
    if given.markdown:
        given.markdown.write_text(report.markdown(tables))
    if given.json:
        given.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
