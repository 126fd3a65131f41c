"""Every way in which a small simulation can go, within bounds: stateless model checking of the real runtime.

A run makes choices (`minuet.testing.simulation.turns`): whose turn it is, and whether a fault happens at each of its
opportunities. Exploring runs it once for each sequence of choices that the bounds allow, each in a new world, the ones
with the fewest deviations first. So a failure that is found needs no fewer.

**What is gone through, without more being asked for**

* every order in which the messages, and the calls between places, can be delivered;
* in a run with the usual order: each fault of the kinds in `Bounds.faults` at each of its opportunities, which are all
  commits, publishes and settlements for crashes, and all deliveries for doubled messages; and then, as
  `Bounds.reorders_with_fault_max` says, so many deliveries out of turn, before it or after it.

**What is not.** A delivery is handed out alone and is over before the next one comes: what it leads to, as far as that
takes less than 20 virtual milliseconds at a time, is not interrupted. `Bounds.preemptions_max` allows some to come
early, while their receiver is busy, or to come late, after time has passed; this is delay bounding (Emmi, Qadeer and
Rakamaric, "Delay-Bounded Scheduling", 2011) in the form of preemption bounding (Musuvathi and Qadeer, "Iterative
Context Bounding", 2007). Tasks within a process go on in one fixed order; that order is what many seeds are for. No two
orders are taken for the same because what they lead to is the same: a promise may concern several places at once, and
between two such orders it sees a difference.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from minuet.core.projection import Coordination
from minuet.testing.simulation.faults import POINTS
from minuet.testing.simulation.report import Report
from minuet.testing.simulation.run import Run
from minuet.testing.simulation.turns import EARLY, TURN, Choice

if TYPE_CHECKING:
    from minuet.testing.simulation.simulation import Simulation

CRASHES = tuple(kind for kind in POINTS if kind.startswith("crash_"))

Outcomes = frozenset[tuple[tuple[str, str], tuple[tuple[str, str], ...]]]
Deviations = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How far an exploration goes.

    Attributes:
        faults: the kinds of faults; every single crash and every single duplicate, if nothing else is said.
        faults_max: how many faults there are in a run.
        reorders_max: how many deliveries come out of turn; None: any number.
        reorders_with_fault_max: the same, in a run with a fault; no more than the other in any case.
        preemptions_max: how many deliveries come while their receiver is busy, or wait for time to pass.
        runs_max: at the latest then it stops, and says that it is not complete.
    """

    faults: Sequence[str] = (*CRASHES, "message_doubled")
    faults_max: int = 1
    reorders_max: int | None = None
    reorders_with_fault_max: int | None = 1
    preemptions_max: int = 0
    runs_max: int = 100_000

    def __post_init__(self) -> None:
        if unknown := [kind for kind in self.faults if kind not in POINTS]:
            raise ValueError(f"there is no fault {unknown[0]!r} to choose; there are {', '.join(POINTS)}")

    def allow(self, kinds: Counter[str]) -> bool:
        """Whether a run may deviate so often in these ways: ``fault``, ``reorder``, ``preemption``."""
        # Whatever is allowed must be so with less of anything, for runs are found one deviation after the other.
        bounds = [self.reorders_max, self.reorders_with_fault_max if kinds["fault"] else None]
        return (
            kinds["fault"] <= self.faults_max
            and kinds["preemption"] <= self.preemptions_max
            and all(bound is None or kinds["reorder"] <= bound for bound in bounds)
        )

    def __str__(self) -> str:
        bounds = [bound for bound in (self.reorders_max, self.reorders_with_fault_max) if bound is not None]
        return (
            f"{_at_most(self.faults_max, 'fault')} a run; deliveries out of turn: {_any(self.reorders_max)} without a "
            f"fault, {_any(min(bounds, default=None))} with one; early or late: {_any(self.preemptions_max)}"
        )


def _at_most(number: int, what: str) -> str:
    return f"at most {number} {what}{'' if number == 1 else 's'}"


def _any(bound: int | None) -> str:
    return "any number" if bound is None else f"at most {bound}" if bound else "none"


@dataclass(slots=True, kw_only=True)
class Explored:
    """What was gone through.

    Attributes:
        runs: how many there were, in all.
        without_faults: of these, those in which nothing went wrong: the orders of deliveries.
        faults: the runs with each kind of fault.
        choices_max: the most choices that there were in a run.
        is_complete: whether everything within the bounds was gone through.
        sagas: how they ended, over all runs.
        outcomes: how often each outcome of all sagas of a run was seen: for each saga what its participants decided.
    """

    bounds: Bounds
    runs: int = 0
    without_faults: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    choices_max: int = 0
    is_complete: bool = True
    sagas: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[Outcomes] = field(default_factory=Counter)

    def add(self, report: Report, made: Sequence[Choice]) -> None:
        self.runs += 1
        self.without_faults += not report.fired
        self.faults += Counter(dict.fromkeys(report.fired, 1))
        self.choices_max = max(self.choices_max, len(made))
        self.sagas += report.sagas
        decided = ((saga, tuple(sorted(outcome.items()))) for saga, outcome in report.outcomes.items())
        self.outcomes[frozenset(decided)] += 1

    def __str__(self) -> str:
        ends = ", ".join(f"{count} {end}" for end, count in sorted(self.sagas.items())) or "none began"
        faults = ", ".join(f"{count} {kind.replace('_', ' ')}" for kind, count in sorted(self.faults.items()))
        return (
            f"{self.runs} runs, {'all there are' if self.is_complete else 'NOT all there are'} within these bounds: "
            f"{self.bounds}\n{self.without_faults} runs without a fault, each in an order of its own; with one: "
            f"{faults or 'none'}\n{len(self.outcomes)} different outcomes; sagas: {ends}; at most {self.choices_max} "
            "choices in a run"
        )


class Exploring:
    """Runs a simulation once for each set of choices that differ from the usual."""

    def __init__(
        self, simulation: Simulation, bounds: Bounds, progress: Callable[[int, int], None] | None = None
    ) -> None:
        self._simulation = simulation
        self._bounds = bounds
        self._progress = progress

    def run(self) -> Explored:
        """Raises SimulationFailed."""
        explored = Explored(bounds=self._bounds)
        for coordination in self._ways():
            self._run(coordination, explored)
        return explored

    def _ways(self) -> Sequence[str | Mapping[str, str]]:
        given = self._simulation.coordination
        return [str(how) for how in Coordination] if given == "any" else [given]

    def _run(self, coordination: str | Mapping[str, str], explored: Explored) -> None:
        waiting: deque[Deviations] = deque([()])
        while waiting:
            if explored.runs >= self._bounds.runs_max:
                explored.is_complete = False
                return
            deviations = waiting.popleft()
            run = Run(self._simulation, self._simulation.seed, coordination=coordination, choices=dict(deviations))
            report = run.run()
            assert run.turns is not None
            explored.add(report, run.turns.made)
            waiting.extend(self._further(deviations, run.turns.made))
            if self._progress is not None:
                self._progress(explored.runs, len(waiting))

    def _further(self, deviations: Deviations, made: Sequence[Choice]) -> Iterator[Deviations]:
        """With one choice more, later than all others: so each set of them comes up once."""
        first = deviations[-1][0] + 1 if deviations else 0
        so_far = Counter(_kind(choice, choice.chosen) for choice in made if choice.chosen)
        for number in range(first, len(made)):
            choice = made[number]
            if choice.kind not in (TURN, EARLY) and choice.kind not in self._bounds.faults:
                continue
            for chosen in range(1, choice.options):
                if self._bounds.allow(so_far + Counter([_kind(choice, chosen)])):
                    yield (*deviations, (number, chosen))


def _kind(choice: Choice, chosen: int) -> str:
    deviating = choice._replace(chosen=chosen)
    return "reorder" if deviating.is_reorder else "preemption" if deviating.is_preemption else "fault"
