"""From a failed run to a small one that breaks the same promise.

First, less is sent: only one thing, or few. What is left over of things and faults is made smaller by ddmin (Zeller
and Hildebrandt, "Simplifying and Isolating Failure-Inducing Input", 2002): leave out half, then less and less, as long
as the promise stays broken.

Without some of the traffic everything else comes at other moments, and the faults that did harm may do none any more.
So a few things that are sent are also tried with the same mix of faults striking anew. Then each kind of fault is tried
alone. If many faults are still left, none of them can be left out, but others may do with fewer: the mix strikes anew a
few times, and what that breaks is made smaller in its turn, the smallest first. At last times are rounded.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from minuet.testing.simulation.faults import At, Faults, Nth
from minuet.testing.simulation.report import SimulationFailed
from minuet.testing.simulation.run import Run

if TYPE_CHECKING:
    from minuet.testing.simulation.simulation import Simulation

T = TypeVar("T")

FEW = (1, 2, 3)
"""So many are sent when faults are drawn again."""
DRAWN_ALONE = 2
"""So often each kind of fault is drawn alone."""
ROUNDING = 4
"""So many runs are left for the rounding of times, to 0, 1, 2 and 3 digits, by what begins elsewhere."""
FEW_FAULTS = 2
"""With no more than these it is not tried from elsewhere."""
ELSEWHERE = 10
"""So often the mix is drawn anew to begin elsewhere."""


class Shrinking:
    """
    Attributes:
        best: the smallest failure so far.
        runs: how many there were.
    """

    def __init__(self, simulation: Simulation, failed: SimulationFailed, runs_max: int) -> None:
        self.best = failed
        self.runs = 0
        self._simulation = simulation
        self._runs_max = runs_max
        self._chance = random.Random(failed.seed)

    def run(self) -> SimulationFailed:
        self._send_one()
        self._draw_again()
        self._send_less()
        self._have_fewer_faults()
        self._have_one_kind()
        self._begin_elsewhere()
        self._round_times()
        return self.best

    def _send_one(self) -> None:
        """Often one thing is enough; and a run with one takes a fraction of the time that the others take."""
        sent = self.best.sent
        if len(sent) > 1:
            any(self._breaks([one], self.best.faults) for one in sent[: self._runs_max // 4])

    def _send_less(self) -> None:
        self._leave_out(lambda: self.best.sent, lambda some: self._breaks(some, self.best.faults))

    def _have_fewer_faults(self) -> None:
        self._leave_out(
            self._faults,
            lambda some: self._breaks(self.best.only, self._exactly(some)),
        )

    def _faults(self) -> Sequence[At | Nth]:
        return [*self.best.faults.schedule, *self.best.faults.exactly]

    def _exactly(self, faults: Sequence[At | Nth]) -> Faults:
        return Faults(
            schedule=tuple(one for one in faults if isinstance(one, At)),
            exactly=tuple(one for one in faults if isinstance(one, Nth)),
            until_s=self.best.faults.until_s,
        )

    def _leave_out(self, everything: Callable[[], Sequence[T]], breaks: Callable[[Sequence[T]], bool]) -> None:
        """ddmin. What is left is asked for each time anew: a smaller run may do without still more."""
        parts = 2
        while items := everything():
            size = max(1, len(items) // parts)
            if any(breaks([*items[:at], *items[at + size :]]) for at in range(0, len(items), size)):
                parts = max(2, parts - 1)
            elif size == 1 or self.runs >= self._runs_max:
                return
            else:
                parts = min(len(items), parts * 2)

    def _draw_again(self) -> None:
        """Half of the runs for few things that are sent, and the faults that the mix then has for them."""
        sent, mix = self.best.sent, self.best.mix
        sizes = [size for size in FEW if size < len(sent)]
        if not mix.has_rates:
            return
        for size in sizes:
            for number in range((self._runs_max - self.runs) // (2 * len(sizes))):
                some = sorted(self._chance.sample(sent, size))
                if self._breaks(some, mix, redrawn=number + 1):
                    return

    def _have_one_kind(self) -> None:
        """Faults of one kind are easier to understand than a mix of as many."""
        mix = self.best.mix
        for number in range(1, 1 + DRAWN_ALONE):
            for alone in mix.each_alone():
                if self.best.faults.count <= 1:
                    return
                if self._breaks(self.best.only, alone, redrawn=number):
                    self._have_fewer_faults()

    def _begin_elsewhere(self) -> None:
        if self.best.faults.count <= FEW_FAULTS or not self.best.mix.has_rates:
            return
        runs_max = self._runs_max - ROUNDING
        count = min(ELSEWHERE, runs_max - self.runs)
        numbers = range(1 + self._runs_max, 1 + self._runs_max + count)  # none of them was drawn before
        drawn = [self._broken_by(self.best.only, self.best.mix, redrawn=number) for number in numbers]
        for failed in sorted((one for one in drawn if one is not None), key=_size):
            if self.best.faults.count <= FEW_FAULTS:
                return
            other = Shrinking(self._simulation, failed, runs_max - self.runs)
            other._have_fewer_faults()
            self.runs += other.runs
            if _size(other.best) < _size(self.best):
                self.best = other.best

    def _round_times(self) -> None:
        for digits in range(ROUNDING):
            faults = self.best.faults
            rounded = [replace(one, at_s=round(one.at_s, digits), for_s=round(one.for_s, 1)) for one in faults.schedule]
            if not rounded or self._breaks(self.best.only, replace(faults, schedule=tuple(rounded))):
                return

    def _breaks(self, only: Collection[str] | None, faults: Faults, *, redrawn: int = 0) -> bool:
        """Whether the same promise is broken by this, and it is no larger; then it is the best."""
        failed = self._broken_by(only, faults, redrawn=redrawn)
        if failed is None or _size(failed) > _size(self.best):
            return False
        self.best = failed
        return True

    def _broken_by(self, only: Collection[str] | None, faults: Faults, *, redrawn: int) -> SimulationFailed | None:
        """How this breaks the same promise, if it does, and a run is left to try it."""
        if self.runs >= self._runs_max:
            return None
        self.runs += 1
        try:
            Run(self._simulation, self.best.seed, faults=faults, only=only, redrawn=redrawn).run()
        except SimulationFailed as failed:
            failed.mix = self.best.mix
            return failed if failed.promise == self.best.promise else None
        except Exception:  # whoever drives it does not get along without what was left out
            return None
        return None


def _size(failed: SimulationFailed) -> tuple[int, int]:
    """What is to be small: first of all what is sent."""
    return len(failed.sent), failed.faults.count
