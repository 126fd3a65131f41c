"""Shipped for tests: sentences about sagas, the simulator, and contract suites that every adapter must pass.

Importing it loads nothing else; the names below load what they need when they are asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from minuet.testing.scenario import Given, NothingAsked, WrongSentence, given, operator_retries, participant
    from minuet.testing.simulation import Faults, Simulation, World

__all__ = [
    "Faults",
    "Given",
    "NothingAsked",
    "Simulation",
    "World",
    "WrongSentence",
    "given",
    "operator_retries",
    "participant",
]

_SCENARIO, _SIMULATION = "minuet.testing.scenario", "minuet.testing.simulation"
_LAZY = {
    "Faults": _SIMULATION,
    "Given": _SCENARIO,
    "NothingAsked": _SCENARIO,
    "Simulation": _SIMULATION,
    "World": _SIMULATION,
    "WrongSentence": _SCENARIO,
    "given": _SCENARIO,
    "operator_retries": _SCENARIO,
    "participant": _SCENARIO,
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        from importlib import import_module

        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'minuet.testing' has no attribute {name!r}")
