"""A simulator: the real runtime of an app, in a world that is deterministic, virtual and hostile.

How it is used is told in docs/testing.md.
"""

from __future__ import annotations

from minuet.testing.simulation.faults import At, Faults, Nth
from minuet.testing.simulation.invariants import SagaRecord
from minuet.testing.simulation.simulation import Report, Simulation, SimulationFailed
from minuet.testing.simulation.tally import Tally
from minuet.testing.simulation.trace import Moment, Trace
from minuet.testing.simulation.world import World

__all__ = [
    "At",
    "Faults",
    "Moment",
    "Nth",
    "Report",
    "SagaRecord",
    "Simulation",
    "SimulationFailed",
    "Tally",
    "Trace",
    "World",
]
