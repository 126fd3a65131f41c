"""What a run comes to: a report, or the promise that it breaks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from minuet.core.projection import Coordination
from minuet.testing.simulation.faults import At, Faults, Nth
from minuet.testing.simulation.invariants import Broken
from minuet.testing.simulation.trace import Trace
from minuet.testing.simulation.world import World

NEEDS_OPERATOR = "needs operator"
SHOWN = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A run.

    Attributes:
        steps: callbacks that the event loop ran.
        virtual_s: how long it took in the world, in seconds.
        fired: how often each kind of fault happened.
        sagas: how many ended ``completed``, ``compensated`` or in need of an operator.
        outcomes: for each saga, by name and id, what its participants decided: by rule the answer's type.
        parked: why sagas need an operator, by name and id.
        definitions: how many sagas there were of each definition, by its fingerprint.
        digest: the same for two runs that are alike in everything.
    """

    seed: int
    coordination: Mapping[str, Coordination]
    steps: int
    virtual_s: float
    commits: int
    fired: Counter[str]
    sagas: Counter[str]
    outcomes: Mapping[tuple[str, str], Mapping[str, str]]
    parked: Mapping[tuple[str, str], str]
    definitions: Counter[str]
    trace: Trace = field(repr=False)
    digest: str

    def __str__(self) -> str:
        ends = ", ".join(f"{count} {end}" for end, count in sorted(self.sagas.items())) or "none began"
        return (
            f"seed {self.seed}: {self.steps} steps in {self.virtual_s:.1f} virtual seconds, {self.commits} commits, "
            f"{self.fired.total()} faults; sagas: {ends}"
        )


class SimulationFailed(AssertionError):
    """A promise was broken.

    Attributes:
        seed: with which it is broken again.
        promise: which one. how: in which way.
        trace: everything until then.
        faults: those that happened, and no others: with them, the seed and ``only`` the run is the same.
        mix: the faults as the simulation was told, or as the seed drew them.
        sent: what `World.send` has sent, by its names, as in ``PlaceOrder/o1``.
        only: of all that the driver sends, that to which the run was confined; None: everything is sent.
        choices: those of the exploration, if it was found by one.
    """

    def __init__(
        self, world: World, broken: Broken, *, is_exact: bool = False, choices: Mapping[int, int] | None = None
    ) -> None:
        self.seed = world.seed
        self.promise, self.how = broken
        self.trace = world.happened
        self.faults = Faults(
            schedule=tuple(one for one in world.struck if isinstance(one, At)),
            exactly=tuple(one for one in world.struck if isinstance(one, Nth)),
            until_s=world.faults.until_s,
        )
        self.mix = world.faults
        self.sent = tuple(world.sent)
        self.only = None if world.only is None else tuple(sorted(world.only))
        self.choices = None if choices is None else dict(choices)
        self.coordination = dict(world.settings.coordination)
        self._is_exact = is_exact
        ways = ", ".join(f"{name} by {how}" for name, how in self.coordination.items()) or "no sagas"
        self.settings = (
            f"{ways}; machines {', '.join(world.machines)}; the broker keeps {'the' if world.broker.ordered else 'no'} "
            f"order; {self.faults.count} {'fault' if self.faults.count == 1 else 'faults'}, from {world.faults}"
        )
        super().__init__(self.told())

    def told(self, *, as_mermaid: bool = False, again: str = "", last: int = SHOWN) -> str:
        """The promise, the last moments, and how to see them again.

        Args:
            again: what to say of that, instead of a call in Python.
        """
        drawn = self.trace.mermaid(last) if as_mermaid else self.trace.diagram(last)
        return (
            f"broken with seed {self.seed}: {self.promise}\n  {self.how}\n\n{drawn}\n\n{self.settings}\n"
            f"To see it again: {again or self.call}"
        )

    @property
    def call(self) -> str:
        """The call that runs it again."""
        if self.choices is not None:
            ways = "".join(f", coordination={str(how)!r}" for how in dict.fromkeys(self.coordination.values()))
            return f"simulation.run(seed={self.seed}{ways}, choices={choices_as_text(self.choices)!r})"
        only = "" if self.only is None else f", only={list(self.only)}"
        if self._is_exact:
            return f"simulation.run(seed={self.seed}, faults=Faults.from_text({self.faults.to_text()!r}){only})"
        return f"simulation.run(seed={self.seed}{only})"


def choices_as_text(choices: Mapping[int, int]) -> str:
    """``17:1,23:2``: choice 17 is 1, choice 23 is 2, all others are 0."""
    return ",".join(f"{number}:{chosen}" for number, chosen in sorted(choices.items()) if chosen)


def choices_of(text: str) -> dict[int, int]:
    """What `choices_as_text` has written. Raises ValueError."""
    try:
        pairs = [one.split(":") for one in text.split(",") if one]
        return {int(number): int(chosen) for number, chosen in pairs}
    except ValueError:
        raise ValueError(f"{text!r} are no choices; they are written as in 17:1,23:2") from None
