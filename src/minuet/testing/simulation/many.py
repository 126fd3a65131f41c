"""Many seeds of a simulation, in several processes."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence

from minuet.testing.simulation.report import Report, SimulationFailed
from minuet.testing.simulation.simulation import Simulation

Make = Callable[[], Simulation]
"""Makes it, in each process anew; a function of some module, or `functools.partial` of one."""


def run_seeds(make: Make, seeds: Sequence[int], *, processes: int) -> Iterator[Report | int]:
    """Run each seed; yield its report, without the trace, or the seed itself if it breaks a promise. In their order."""
    if processes == 1:
        simulation = make()
        for seed in seeds:
            yield _run(simulation, seed)
        return
    # A fork would share what threads of the parent hold.
    with multiprocessing.get_context("spawn").Pool(processes, _begin, (make,)) as pool:
        yield from pool.imap(_run_here, seeds)


_here: list[Simulation] = []
"""Of a process of the pool, its simulation."""


def _begin(make: Make) -> None:
    _here.append(make())


def _run_here(seed: int) -> Report | int:
    return _run(_here[0], seed)


def _run(simulation: Simulation, seed: int) -> Report | int:
    try:
        report = simulation.run(seed)
    except SimulationFailed:
        return seed
    report.trace.moments.clear()
    return report
