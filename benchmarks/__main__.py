"""The shop's saga in both coordinations, on one core and on two: several rounds in turn, medians, least and most.

Ratios are against the bare machine in the same round, because absolute figures move with whatever else it does.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

WAYS = {
    "choreography": ("--coordination", "choreography"),
    "orchestration": ("--coordination", "orchestration"),
    "choreography, 2 processes": ("--coordination", "choreography", "--processes", "2"),
}
FIGURES = {
    "orders_per_s": "orders/s",
    "p50_ms": "p50 ms",
    "p99_ms": "p99 ms",
    "cpu_ms_per_order": "CPU ms per order",
    "commits_per_order": "commits per order",
    "messages_per_order": "messages per order",
    "orders_per_commit_rate": "orders/s per bare commit/s",
    "peak_memory_mb": "peak memory MB",
    "others_busy_cores": "cores busy with other work",
}


def run(module: str, *arguments: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{module}", *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"benchmarks.{module} failed:\n{done.stderr}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--orders", type=int, default=2000)
    parser.add_argument("--in-flight", type=int, nargs="+", default=[1, 64])
    parser.add_argument("--outside", choices=["none", "http"], default="none", help="http: ask the sandbox over HTTP")
    parser.add_argument("--json", action="store_true", help="print every measurement as JSON instead of tables")
    args = parser.parse_args()
    work = [(r, n, how) for r in range(args.rounds) for n in args.in_flight for how in WAYS]
    rows: list[dict[str, Any]] = []
    machine: dict[int, dict[str, Any]] = {}
    for number, in_flight, how in track(work, "measuring", console=Console(stderr=True), disable=args.json):
        if number not in machine:
            machine[number] = run("machine")
        orders = args.orders if in_flight > 1 else max(100, args.orders // 10)
        row = run(
            "shop",
            *WAYS[how],
            "--in-flight",
            str(in_flight),
            "--orders",
            str(orders),
            "--outside",
            args.outside,
        )
        row["round"], row["way"] = number, how
        row["orders_per_commit_rate"] = round(row["orders_per_s"] / machine[number]["commits_per_s"], 4)
        rows.append(row)
    if args.json:
        print(json.dumps({"machine": list(machine.values()), "measurements": rows}, indent=1))
        return
    show(rows, list(machine.values()), args.in_flight)


def show(rows: list[dict[str, Any]], machine: list[dict[str, Any]], in_flight: list[int]) -> None:
    console = Console()
    for number in in_flight:
        table = Table(title=f"order processing, {number} in flight: median (least .. most)", title_justify="left")
        table.add_column("")
        for how in WAYS:
            table.add_column(how, justify="right")
        for figure, words in FIGURES.items():
            cells = []
            for how in WAYS:
                found = [
                    row[figure] for row in rows if row["way"] == how and row["in_flight"] == number and figure in row
                ]
                cells.append(f"{statistics.median(found):g} ({min(found):g} .. {max(found):g})" if found else "")
            table.add_row(words, *cells)
        console.print(table)
    commits = statistics.median(one["commits_per_s"] for one in machine)
    in_hundreds = statistics.median(one["rows_per_s"] for one in machine)
    console.print(f"bare SQLite here: {commits:,.0f} commits/s one by one, {in_hundreds:,.0f} rows/s in hundreds")


if __name__ == "__main__":
    main()
