"""Sums over many runs."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field

from minuet.testing.simulation.faults import KINDS, Faults
from minuet.testing.simulation.report import Report


@dataclass
class Tally:
    """What many runs came to, and how fast they were.

    Attributes:
        virtual_s: how long they took in their worlds, in seconds.
    """

    seeds: int = 0
    steps: int = 0
    commits: int = 0
    virtual_s: float = 0.0
    sagas: Counter[str] = field(default_factory=Counter)
    fired: Counter[str] = field(default_factory=Counter)
    began_at: float = field(default_factory=time.perf_counter)

    def add(self, report: Report) -> None:
        self.seeds += 1
        self.steps += report.steps
        self.commits += report.commits
        self.virtual_s += report.virtual_s
        self.sagas += report.sagas
        self.fired += report.fired

    @property
    def took_s(self) -> float:
        return max(time.perf_counter() - self.began_at, 0.001)

    @property
    def never_fired(self) -> list[str]:
        """The kinds of faults that did not happen once: against them nothing was tested."""
        return [kind for kind in KINDS if not self.fired[kind]]

    def never_fired_of(self, faults: Faults | str) -> list[str]:
        """Of those that were to happen, by their rates."""
        return [kind for kind in self.never_fired if not isinstance(faults, Faults) or faults.rate_of(kind)]

    def pace(self) -> str:
        """How it gets on, in a few words."""
        ends = ", ".join(f"{count} {end}" for end, count in sorted(self.sagas.items()))
        return (
            f"{self.seeds / self.took_s:.1f} seeds/s, {self.sagas.total() / self.took_s:.0f} sagas/s, {ends or 'none'}"
        )

    def __str__(self) -> str:
        took_s = self.took_s
        sagas = self.sagas.total()
        ends = ", ".join(f"{count} {end}" for end, count in sorted(self.sagas.items())) or "none"
        faults = ", ".join(f"{self.fired[kind]} {kind.replace('_', ' ')}" for kind in KINDS if self.fired[kind])
        return (
            f"{self.seeds} seeds, {sagas} sagas in {took_s:.1f} s: {self.seeds / took_s:.1f} seeds/s, "
            f"{sagas / took_s:.0f} sagas/s, {self.commits / took_s:.0f} commits/s, {self.steps / took_s:.0f} steps/s, "
            f"{self.virtual_s / took_s:.0f} times real time\nsagas: {ends}\nfaults: {faults or 'none'}"
        )
