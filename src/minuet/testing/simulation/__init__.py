"""A simulator: the real runtime of an app, in a world that is deterministic, virtual and hostile.

How it is used is told in docs/testing.md.
"""

from __future__ import annotations

from minuet.testing.simulation.exploring import Bounds, Explored
from minuet.testing.simulation.faults import At, Faults, Nth
from minuet.testing.simulation.invariants import SagaRecord
from minuet.testing.simulation.report import Report, SimulationFailed
from minuet.testing.simulation.simulation import Simulation
from minuet.testing.simulation.tally import Tally
from minuet.testing.simulation.trace import Moment, Trace
from minuet.testing.simulation.world import LeftOut, World

__all__ = [
    "At",
    "Bounds",
    "Explored",
    "Faults",
    "LeftOut",
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
