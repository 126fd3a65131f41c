"""The same order saga by minuet, by what people would use instead, and by hand: side by side, in turn.

Each round measures everybody once, with each number of orders in flight, so that a pair is compared within minutes; a
ratio is of two figures of one round. What other programs do to the machine meanwhile is measured too, and shown.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

from benchmarks import environments, goals, report, run, start
from benchmarks.contenders import CONTENDERS, Contender, NobodyOfThatName, chosen
from benchmarks.figures import Spread
from benchmarks.machine import bare
from benchmarks.surroundings import surroundings

IN_FLIGHT = [1, 16, 64, 256]
IN_MEMORY = ("tmpfs", "ramfs")
WIDTH_OF_FILES = 160
"""Where there is no terminal."""
EXAMPLES = """\
examples:
  python -m benchmarks --json run.json --plot run      everything, about two hours; and a plot of it
  python -m benchmarks --quick                         one short round of what the goals need
  python -m benchmarks --only 'choreography*' 'faststream-*' --rounds 5
  python -m benchmarks --from run.json --plot run      the tables and the plot of a run once more
  python -m benchmarks --from goals.json more.json     of two runs, as one
"""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="these contenders; * and ? are known")
    parser.add_argument("--rounds", type=int, help="default 5; 1 if quick")
    parser.add_argument("--in-flight", type=int, nargs="+", metavar="N", help=f"default {IN_FLIGHT}")
    parser.add_argument("--seconds", type=float, help="of each measurement; default 5, 2 if quick")
    parser.add_argument("--quick", action="store_true", help="one short round, of what the goals need")
    parser.add_argument("--list", action="store_true", help="say who takes part, and end")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every measurement there")
    parser.add_argument("--plot", type=Path, metavar="NAME", help="write NAME.svg and NAME.png")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables there, for docs/performance.md")
    parser.add_argument("--growth", type=Path, metavar="FILE", help="what benchmarks.growth wrote, for its goals")
    parser.add_argument(
        "--from",
        nargs="+",
        type=Path,
        metavar="FILE",
        dest="again",
        help="show runs that were written as one, measure nothing; what is in several is taken from the first",
    )
    parser.add_argument("--dir", type=Path, help="where the databases are; it must be on a disk")
    given = parser.parse_args()
    given.rounds = given.rounds or (1 if given.quick else 5)
    given.seconds = given.seconds or (2.0 if given.quick else 5.0)
    return given


def plan(contenders: list[Contender], in_flight: list[int] | None, *, is_quick: bool) -> list[tuple[int, Contender]]:
    """One round: who is measured with how many in flight, one after the other."""
    needed = goals.needed()
    numbers = in_flight or IN_FLIGHT
    return [
        (number, one)
        for number in numbers
        for one in contenders
        if (not one.only_in_flight or number in one.only_in_flight)
        and (not is_quick or in_flight is not None or (one.name, number) in needed)
    ]


def measure(given: argparse.Namespace, contenders: list[Contender]) -> dict[str, Any]:
    """Everything that the JSON file holds, but for the verdicts."""
    work = plan(contenders, given.in_flight, is_quick=given.quick)
    servers = list(dict.fromkeys(server for _, one in work for server in one.servers))
    console = Console(stderr=True)
    rows: list[dict[str, Any]] = []
    machine: list[dict[str, Any]] = []
    with run.ground(given.dir, servers) as ground:
        around = surroundings(ground.folder)
        if around["file_system"] in IN_MEMORY:
            console.print(f"[red]{ground.folder} is in memory, where fsync costs nothing: name a disk with --dir")
        everything = [(number, *each) for number in range(given.rounds) for each in work]
        for number, in_flight, one in track(everything, "measuring", console=console):
            if len(machine) == number:
                machine.append(bare(ground.folder))
            row: dict[str, Any] = {"round": number, "contender": one.name, "in_flight": in_flight}
            try:
                row |= ground.run(one, in_flight=in_flight, seconds=given.seconds, warm_up_s=given.seconds / 2)
            except run.Failed as failed:
                row["failed"] = failed.reason
            rows.append(row)
            if given.json:
                # What is there already is worth something, should the rest never come.
                part_of(given.json).write_text("\n".join(json.dumps(each) for each in rows) + "\n")
    return {
        "surroundings": around,
        "machine": machine,
        "times": {name: asdict(found) for name, found in start.times().items()},
        "contenders": [asdict(one) for one in contenders],
        "measurements": rows,
    }


def merged(files: Sequence[Path]) -> dict[str, Any]:
    """Several runs as one. A number in flight of somebody is taken whole from the first run that has it."""
    runs: list[dict[str, Any]] = [json.loads(file.read_text()) for file in files]
    result, *others = runs
    for other in others:
        there = {(row["contender"], row["in_flight"]) for row in result["measurements"]}
        result["measurements"] += [
            row for row in other["measurements"] if (row["contender"], row["in_flight"]) not in there
        ]
        names = {one["name"] for one in result["contenders"]}
        result["contenders"] += [one for one in other["contenders"] if one["name"] not in names]
    return result


def part_of(file: Path) -> Path:
    """Where the measurements are while there are more to come, a JSON object in each line."""
    return file.with_name(f"{file.name}.part")


def times_of(given: argparse.Namespace, result: dict[str, Any]) -> dict[str, Spread]:
    """What was measured by itself: starts in this run, growth in its own."""
    grown = json.loads(given.growth.read_text())["times"] if given.growth else {}
    times = {**grown, **result["times"]}
    return {name: Spread(**found) for name, found in times.items()}


def plot(result: dict[str, Any], name: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "run.json"
        file.write_text(json.dumps(result))
        command = [str(environments.python("plot")), "-m", "benchmarks.plot", str(file), str(name.absolute())]
        subprocess.run(command, cwd=Path(__file__).parents[1], check=True)


def main() -> None:
    given = arguments()
    if given.list:
        for one in CONTENDERS:
            print(f"{one.name:<24} {one.kind:<7} {one.what}")
        return
    try:
        contenders = chosen(given.only)
    except NobodyOfThatName as error:
        sys.exit(str(error))
    result = merged(given.again) if given.again else measure(given, contenders)
    verdicts = goals.judge(result["measurements"], times_of(given, result))
    result["goals"] = [verdict.as_json() for verdict in verdicts]
    if given.json:
        given.json.write_text(json.dumps(result, indent=1) + "\n")
        part_of(given.json).unlink(missing_ok=True)
    console = Console() if sys.stdout.isatty() else Console(width=WIDTH_OF_FILES)
    tables = report.tables(result["measurements"], contenders, verdicts, result["machine"])
    report.show(console, tables)
    if given.markdown:
        given.markdown.write_text(report.markdown(tables))
    if given.plot:
        try:
            plot(result, given.plot)
        except environments.Unavailable as reason:
            console.print(f"no plot: {reason}")


if __name__ == "__main__":
    main()
