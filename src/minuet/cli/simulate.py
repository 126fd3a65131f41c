"""`minuet simulate`: an app under thousands of seeded faults, or in every way in which a small saga can go."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from minuet.cli.loading import SHOP, WAYS, JsonOption, import_named
from minuet.cli.tables import console, count, print_json
from minuet.core.errors import ConfigurationError

if TYPE_CHECKING:
    from rich.console import Console

    from minuet.testing.simulation import Explored, Faults, Report, Simulation, SimulationFailed, Tally

LINES = 10
"""So often it is said how far it is, where there is no terminal."""
SHOWN = 40
ORDERS = 10


def simulate(
    target: Annotated[
        str, typer.Argument(metavar="TARGET", help=f"MODULE:NAME of an App, as in {SHOP}, or Simulation.")
    ],
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="How many.")] = 1000,
    first: Annotated[int, typer.Option("--first", min=0, help="The first of them.")] = 0,
    processes: Annotated[int | None, typer.Option("--processes", min=1, help="One for each core, unless set.")] = None,
    faults: Annotated[
        str | None,
        typer.Option(
            "--faults",
            metavar="MIX",
            help="`swarm` (another mix for each seed; by default), `all`, `none`, or `kind=rate,kind=rate`.",
        ),
    ] = None,
    orders: Annotated[
        int | None,
        typer.Option("--orders", min=1, help=f"Of an App: how many sagas begin in a run; {ORDERS} unless set."),
    ] = None,
    coordination: Annotated[
        str | None, typer.Option("--coordination", metavar="WAY", help="`choreography` or `orchestration`; else both.")
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="Only this one, with a diagram.")] = None,
    exactly: Annotated[
        str | None,
        typer.Option("--exactly", metavar="FAULTS", help="With --seed: these faults, as a failure names them."),
    ] = None,
    only: Annotated[
        str | None, typer.Option("--only", metavar="NAME,NAME", help="With --seed: of what is sent only these.")
    ] = None,
    exhaustive: Annotated[
        bool, typer.Option("--exhaustive", help="Every order of deliveries and every single fault, of one saga.")
    ] = False,
    preemptions: Annotated[
        int, typer.Option("--preemptions", min=0, help="With --exhaustive: so many messages come early, or late.")
    ] = 0,
    choices: Annotated[
        str | None, typer.Option("--choices", metavar="N:N", help="With --exhaustive: one run, as a failure names it.")
    ] = None,
    shrink: Annotated[
        int, typer.Option("--shrink", metavar="RUNS", min=0, help="How many runs to make a failure smaller; 0: none.")
    ] = 300,
    last: Annotated[int, typer.Option("--last", min=1, help="So many moments are drawn.")] = SHOWN,
    mermaid: Annotated[bool, typer.Option("--mermaid", help="Draw for Mermaid.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Run an app under simulated faults, with one seed after the other, and end with 1 if a promise is broken.

    What begins the sagas of an App is sent as its examples say. A failure is told with the command that repeats it.

    Example: minuet simulate tests.my_simulation:simulation --seeds 2000
    """
    if coordination is not None and coordination not in WAYS:
        raise typer.BadParameter(f"{coordination!r} is not {' or '.join(WAYS)}", param_hint="--coordination")
    if seed is None and (exactly is not None or only is not None):
        raise typer.BadParameter("say which seed: --seed", param_hint="--exactly, --only")
    if not exhaustive and (choices is not None or preemptions):
        raise typer.BadParameter("go with --exhaustive", param_hint="--choices, --preemptions")
    wanted = Wanted(target, 1 if exhaustive and orders is None else orders, faults, coordination)
    told = Told(wanted, console(to_stderr=as_json), as_json=as_json, as_mermaid=mermaid, last=last)
    _faults_of(faults)
    if choices is not None:
        told.one(lambda: load(wanted).run(seed, choices=_choices(choices)))
    elif exhaustive:
        told.exploration(load(wanted, tries=True), preemptions)
    elif seed is not None:
        told.one(lambda: load(wanted).run(seed, faults=_exactly(exactly), only=_names(only)))
    else:
        told.many(load(wanted, tries=True), range(first, first + seeds), processes or os.cpu_count() or 1, shrink)
    if told.is_broken:
        raise typer.Exit(1)


# -- what is simulated -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the command line says about it; each process makes it from that."""

    target: str
    orders: int | None
    faults: str | None
    coordination: str | None

    def command(self, *more: str) -> str:
        """The command line that runs it again."""
        words = ["minuet", "simulate", self.target]
        for option, value in (("--orders", self.orders), ("--coordination", self.coordination)):
            words += [option, str(value)] if value is not None else []
        return shlex.join([*words, *more])


def load(wanted: Wanted, *, tries: bool = False) -> Simulation:
    """The simulation that is named, or one of the app.

    Args:
        tries: whether to see first that an app goes at all.

    Raises:
        ConfigurationError: there is none; says what is wrong with the name, or what the app lacks.
    """
    from copy import copy

    from minuet.app import App
    from minuet.testing.simulation import Simulation
    from minuet.testing.simulation.of_app import simulation_of, try_out

    module, _, attribute = wanted.target.partition(":")
    if not module or not attribute:
        raise ConfigurationError(f"{wanted.target!r} names nothing to simulate; write module:name, as in {SHOP}")
    found: Any = import_named(module)
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise ConfigurationError(
                f"module {module} has no {attribute!r}; which name has the App or Simulation there?"
            )
        found = getattr(found, part)
    if isinstance(found, App):
        simulation = simulation_of(found, orders=wanted.orders or ORDERS)
        if tries:
            try_out(simulation)
    elif isinstance(found, Simulation):
        simulation = copy(found)
        if wanted.orders not in (None, 1):
            raise ConfigurationError(
                f"{wanted.target} is a Simulation, whose driver says what is sent; leave --orders out"
            )
    else:
        raise ConfigurationError(f"{wanted.target} is a {type(found).__name__}, neither an App nor a Simulation")
    if wanted.coordination is not None:
        simulation.coordination = wanted.coordination
    if wanted.faults is not None:
        simulation.faults = _faults_of(wanted.faults)
    return simulation


def _faults_of(mix: str | None) -> Any:
    from minuet.testing.simulation import Faults
    from minuet.testing.simulation.faults import rates

    match mix:
        case None | "swarm":
            return "swarm"
        case "all":
            return Faults.all()
        case "none":
            return Faults()
    try:
        return rates(mix)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--faults") from error


def _exactly(text: str | None) -> Faults | None:
    from minuet.testing.simulation import Faults

    try:
        return None if text is None else Faults.from_text(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--exactly") from error


def _names(text: str | None) -> list[str] | None:
    from urllib.parse import unquote

    return None if text is None else [unquote(one) for one in text.split(",") if one]


def _choices(text: str) -> str:
    from minuet.testing.simulation.report import choices_of

    try:
        choices_of(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--choices") from error
    return text


# -- what is told ------------------------------------------------------------------------------------------------------


class Told:
    """Runs what is wanted, and tells of it.

    Attributes:
        is_broken: whether a promise was.
    """

    def __init__(self, wanted: Wanted, screen: Console, *, as_json: bool, as_mermaid: bool, last: int) -> None:
        self.wanted = wanted
        self.screen = screen
        self.as_json = as_json
        self.as_mermaid = as_mermaid
        self.last = last
        self.is_broken = False

    def one(self, run: Callable[[], Report]) -> None:
        """A single run, with its diagram."""
        from minuet.testing.simulation import SimulationFailed

        try:
            report = run()
        except SimulationFailed as failed:
            self._tell_broken(failed, {})
            return
        except ValueError as error:
            raise ConfigurationError(str(error)) from error
        trace = report.trace
        drawn = trace.mermaid(self.last) if self.as_mermaid else trace.diagram(self.last)
        if self.as_json:
            print_json(
                {"target": self.wanted.target, "seed": report.seed, **_sums(report), "diagram": drawn, "broken": None}
            )
        else:
            self._print(f"{drawn}\n\n{report}")

    def many(self, simulation: Simulation, seeds: range, processes: int, shrink: int) -> None:
        """All seeds, until one breaks a promise."""
        from minuet.testing.simulation import SimulationFailed, Tally
        from minuet.testing.simulation.many import run_seeds

        tally, broken = Tally(), None
        with self._progress("seeds", len(seeds)) as advance:
            for report in run_seeds(partial(load, self.wanted), seeds, processes=min(processes, len(seeds))):
                if isinstance(report, int):
                    broken = report
                    break
                tally.add(report)
                advance(1, tally.pace())
        if broken is None:
            self._tell_tally(tally, simulation)
            return
        self.screen.print(f"seed {broken} breaks a promise; looking for less that does ...", style="dim")
        try:
            simulation.run(broken)
        except SimulationFailed as failed:
            small = simulation.shrink(failed, runs_max=shrink) if shrink else failed
            self._tell_broken(small, _facts(tally))
        else:
            raise ConfigurationError(
                f"seed {broken} broke a promise, and did not when it was run again: something in {self.wanted.target} "
                "is not the same each time; it must ask for Now and NewId, and draw from world.random"
            )

    def exploration(self, simulation: Simulation, preemptions: int) -> None:
        """Every way in which it can go."""
        from minuet.testing.simulation import Bounds, SimulationFailed

        began_at = time.perf_counter()
        try:
            with self._progress("runs", None) as advance:
                explored = simulation.explore(
                    Bounds(preemptions_max=preemptions), progress=lambda runs, known: advance(1, f"{known} more known")
                )
        except SimulationFailed as failed:
            self._tell_broken(failed, {})
            return
        self._tell_explored(explored, time.perf_counter() - began_at)

    # -- a bar, or lines -----------------------------------------------------------------------------------------------

    @contextmanager
    def _progress(self, what: str, total: int | None) -> Iterator[Callable[[int, str], None]]:
        """A bar while it lasts, if somebody is looking; else a line now and then."""
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (
            TextColumn(what),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[pace]}"),
        )
        is_shown = self.screen.is_terminal
        with Progress(*columns, console=self.screen, transient=True, disable=not is_shown) as bars:
            task = bars.add_task(what, total=total, pace="")
            done = 0

            def advance(by: int, pace: str) -> None:
                nonlocal done
                done += by
                bars.update(task, advance=by, pace=pace)
                if not is_shown and not self.as_json and total and done % max(1, total // LINES) == 0 and done < total:
                    self.screen.print(f"{done} of {total} {what}: {pace}", style="dim")

            yield advance

    # -- the end -------------------------------------------------------------------------------------------------------

    def _tell_tally(self, tally: Tally, simulation: Simulation) -> None:
        never = tally.never_fired_of(simulation.faults)
        if self.as_json:
            print_json({"target": self.wanted.target, **_facts(tally), "never_happened": never, "broken": None})
            return
        self._print(str(tally))
        if never:
            self._print(f"never happened: {', '.join(never)}")
        self._print(f"every promise was kept, with {count(tally.seeds, 'seed')}")

    def _tell_explored(self, explored: Explored, took_s: float) -> None:
        if self.as_json:
            print_json(
                {
                    "target": self.wanted.target,
                    "runs": explored.runs,
                    "is_complete": explored.is_complete,
                    "bounds": str(explored.bounds),
                    "without_faults": explored.without_faults,
                    "with_fault": explored.faults,
                    "outcomes": len(explored.outcomes),
                    "sagas": explored.sagas,
                    "seconds": round(took_s, 3),
                    "broken": None,
                }
            )
        else:
            self._print(f"{explored}\n{explored.runs / max(took_s, 0.001):.0f} runs/s; every promise was kept")

    def _tell_broken(self, failed: SimulationFailed, facts: dict[str, Any]) -> None:
        self.is_broken = True
        again = self._again(failed)
        if self.as_json:
            drawn = failed.trace.mermaid(self.last) if self.as_mermaid else failed.trace.diagram(self.last)
            broken = {
                "seed": failed.seed,
                "promise": failed.promise,
                "how": failed.how,
                "faults": failed.faults.to_text(),
                "sent": list(failed.sent),
                "again": again,
                "diagram": drawn,
            }
            print_json({"target": self.wanted.target, **facts, "broken": broken})
        else:
            self._print(failed.told(as_mermaid=self.as_mermaid, again=again, last=self.last))

    def _again(self, failed: SimulationFailed) -> str:
        """The command that shows the same run again."""
        from dataclasses import replace

        from minuet.testing.simulation.faults import plain
        from minuet.testing.simulation.report import choices_as_text

        if failed.choices is not None:
            ways = {str(how) for how in failed.coordination.values()}
            way = ways.pop() if len(ways) == 1 else None
            wanted = replace(self.wanted, coordination=self.wanted.coordination or way, orders=None)
            return wanted.command("--exhaustive", "--choices", choices_as_text(failed.choices))
        only = [] if failed.only is None else ["--only", ",".join(map(plain, failed.only))]
        return self.wanted.command("--seed", str(failed.seed), "--exactly", failed.faults.to_text(), *only)

    def _print(self, text: str) -> None:
        """As it is: a diagram must not be wrapped, nor a command that is to be copied."""
        self.screen.print(text, markup=False, highlight=False, soft_wrap=True)


def _facts(tally: Tally) -> dict[str, Any]:
    took_s = tally.took_s
    return {
        "seeds": tally.seeds,
        "seconds": round(took_s, 3),
        "seeds_per_s": round(tally.seeds / took_s, 2),
        "sagas_per_s": round(tally.sagas.total() / took_s, 2),
        "sagas": tally.sagas,
        "faults": tally.fired,
    }


def _sums(report: Report) -> dict[str, Any]:
    return {
        "steps": report.steps,
        "virtual_s": report.virtual_s,
        "commits": report.commits,
        "sagas": report.sagas,
        "faults": report.fired,
        "digest": report.digest,
    }
