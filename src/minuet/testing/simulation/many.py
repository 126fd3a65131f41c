"""Many seeds of a simulation, in several processes.

    python -m minuet.testing.simulation tests.my_simulation:simulation --seeds 1000

It says how it gets on, how fast it is, how the sagas ended and how often each kind of fault happened. At the first
broken promise it looks for as few faults as break it, prints the diagram and how to see it again, and ends with 1.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
from functools import cache, partial
from importlib import import_module

from minuet.testing.simulation.simulation import Report, Simulation, SimulationFailed
from minuet.testing.simulation.tally import Tally

SHOW_EVERY = 50


@cache
def simulation_of(name: str) -> Simulation:
    module, _, attribute = name.partition(":")
    found = getattr(import_module(module), attribute or "simulation", None)
    if not isinstance(found, Simulation):
        sys.exit(f"{name} is not a Simulation; name one as in tests.my_simulation:simulation")
    return found


def run(seed: int, name: str) -> Report | int:
    """A run without its trace; or the seed, if a promise was broken."""
    try:
        report = simulation_of(name).run(seed)
    except SimulationFailed:
        return seed
    report.trace.moments.clear()
    return report


def explain(simulation: Simulation, seed: int, runs_max: int) -> str:
    """What is broken with this seed, by as few faults as were found in so many runs."""
    try:
        simulation.run(seed)
    except SimulationFailed as failed:
        return str(simulation.shrink(failed, runs_max=runs_max) if runs_max else failed)
    return f"seed {seed} broke a promise, and did not when it was run again: something in it is not deterministic"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m minuet.testing.simulation", description=(__doc__ or "")[:44])
    parser.add_argument("simulation", help="module:name of a Simulation")
    parser.add_argument("--seeds", type=int, default=1000, help="how many")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--shrink", type=int, default=300, help="runs to spend on making a failure smaller; 0: none")
    asked = parser.parse_args()
    sys.path.insert(0, os.getcwd())
    simulation, tally = simulation_of(asked.simulation), Tally()
    seeds = range(asked.first, asked.first + asked.seeds)
    with multiprocessing.get_context("spawn").Pool(asked.processes) as pool:
        for report in pool.imap(partial(run, name=asked.simulation), seeds):
            if isinstance(report, int):
                pool.terminate()
                print(explain(simulation, report, asked.shrink))
                return 1
            tally.add(report)
            if tally.seeds % SHOW_EVERY == 0:
                print(f"{tally.seeds} of {asked.seeds} seeds", file=sys.stderr, flush=True)
    print(tally)
    if tally.never_fired:
        print(f"never happened: {', '.join(tally.never_fired)}")
    return 0
