"""How a failure that cannot become smaller is left: after few more runs, with round times."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, cast

import pytest

from minuet.testing.simulation import Faults, SimulationFailed
from minuet.testing.simulation.faults import At
from minuet.testing.simulation.shrinking import ELSEWHERE, Shrinking

MACHINES = {"inventory": 1.23456, "payment": 2.34567, "shipping": 3.45678}
ALL_KILLED = Faults(schedule=tuple(At(at_s, "kill", name) for name, at_s in MACHINES.items()))


def failed_by(faults: Faults, mix: Faults, only: Collection[str] | None = None) -> SimulationFailed:
    failed = SimulationFailed.__new__(SimulationFailed)
    failed.seed, failed.promise = 1, "it holds"
    failed.sent, failed.only = ("one",) if only is None else tuple(only), only
    failed.faults, failed.mix = faults, mix
    return failed


@pytest.fixture
def redrawn(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Runs that break the promise when all are killed, or by every other drawing elsewhere. Which were drawn anew."""
    found = []

    class Run:
        def __init__(self, _: object, seed: int, *, faults: Faults, only: Any, redrawn: int = 0) -> None:
            self.faults, self.only, self.redrawn = faults, only, redrawn

        def run(self) -> None:
            if self.redrawn:
                found.append(self.redrawn)
            if self.redrawn > 100 and self.redrawn % 2:
                raise failed_by(ALL_KILLED, self.faults, self.only)
            if {one.machine for one in self.faults.schedule} == {*MACHINES}:
                raise failed_by(self.faults, self.faults, self.only)

    monkeypatch.setattr("minuet.testing.simulation.shrinking.Run", Run)
    return found


@pytest.mark.parametrize("mix", [Faults(kill_per_minute=3.0), ALL_KILLED], ids=["rates", "exact"])
def test_what_needs_three_faults_is_left_with_three_and_round_times(mix: Faults, redrawn: list[int]) -> None:
    shrinking = Shrinking(cast("Any", None), failed_by(ALL_KILLED, mix), 300)
    small = shrinking.run()
    assert {one.machine: one.at_s for one in small.faults.schedule} == {"inventory": 1, "payment": 2, "shipping": 3}
    assert shrinking.runs < 60
    assert len(set(redrawn)) >= ELSEWHERE if mix.has_rates else not redrawn


def test_no_more_runs_than_are_allowed(redrawn: list[int]) -> None:
    for most in range(12):
        shrinking = Shrinking(cast("Any", None), failed_by(ALL_KILLED, Faults(kill_per_minute=3.0)), most)
        shrinking.run()
        assert shrinking.runs <= most
