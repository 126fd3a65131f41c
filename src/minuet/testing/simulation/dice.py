"""Everything random in a run, from one seed; and the names that it gives out."""

from __future__ import annotations

import random


class Dice:
    """A generator for each purpose, so that a choice more of one kind does not change all of the others."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._streams: dict[str, random.Random] = {}

    def of(self, purpose: str) -> random.Random:
        found = self._streams.get(purpose)
        if found is None:
            # A text is hashed by `random` itself, and alike in every process.
            found = self._streams[purpose] = random.Random(f"{self.seed} {purpose}")
        return found


class SeededIds:
    """`minuet.ports.Ids` that are the same in each run."""

    def __init__(self, dice: Dice) -> None:
        self._count = 0
        self._jitter = dice.of("jitter")

    def new(self) -> str:
        self._count += 1
        return f"id{self._count:05}"

    def chance(self) -> float:
        return self._jitter.random()
