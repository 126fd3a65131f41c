"""`Simulation`: an app in a simulated world, driven, disturbed and watched; each seed is a run that can be repeated."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Literal, TypeVar, overload

from minuet.app import App
from minuet.testing.simulation.exploring import Bounds, Explored, Exploring
from minuet.testing.simulation.faults import Faults
from minuet.testing.simulation.report import Report, SimulationFailed, choices_of
from minuet.testing.simulation.run import Driver, Run
from minuet.testing.simulation.shrinking import Shrinking
from minuet.testing.simulation.world import World

Check = Callable[[World], object]
C = TypeVar("C", bound=Check)
D = TypeVar("D", bound=Driver)


class Simulation:
    """An app, what is done with it, what goes wrong meanwhile, and what must hold all the same.

    Args:
        app: runs as it is; its runtime is the real one.
        next_app: what is deployed in the middle, on one machine after the other. As for a real deployment, both apps
            must have all definitions of their sagas; they differ in which of them is the first.
        seed: for `run`, if it is not told another.
        coordination: of every saga, or of each by its name; ``"any"`` is another for each seed.
        machines: ``"together"`` (one process with all services), ``"apart"`` (one for each), ``"twins"`` (two, each
            with all), ``"any"`` of these, or names with the services on each.
        faults: or ``"swarm"``, a mix of its own for each seed.
        provided: makes, for each run anew, what handlers get by its type: what stands for the world outside.
        ordered: whether the broker keeps the order of each key; None is another for each seed.
        queries: as ``[queries]`` in the settings.
        patience_s: how long after the last fault, in virtual seconds, everything must be over.
        retries_parked: whether, after the last fault, an operator tries again what is parked.
    """

    def __init__(
        self,
        app: App,
        *,
        next_app: App | None = None,
        seed: int = 0,
        coordination: str | Mapping[str, str] = "any",
        machines: Literal["together", "apart", "twins", "any"] | Mapping[str, Sequence[str]] = "any",
        faults: Faults | Literal["swarm"] = "swarm",
        provided: Callable[[World], Mapping[type[Any], Any]] | None = None,
        ordered: bool | None = None,
        queries: Mapping[str, str] | None = None,
        patience_s: float = 1800.0,
        retries_parked: bool = True,
    ) -> None:
        self.app = app
        self.next_app = next_app
        self.seed = seed
        self.coordination = coordination
        self.machines = machines
        self.faults = faults
        self.provided = provided
        self.ordered = ordered
        self.queries = dict(queries or {})
        self.patience_s = patience_s
        self.retries_parked = retries_parked
        self._driver: Driver | None = None
        self._always: list[tuple[str | None, Check]] = []
        self._eventually: list[Check] = []

    # -- what is declared ----------------------------------------------------------------------------------------------

    def drive(self, driver: D) -> D:
        """Declare what is done in the world: an ``async`` function that gets it."""
        self._driver = driver
        return driver

    @overload
    def always(self, check: C) -> C: ...
    @overload
    def always(self, *, of: str) -> Callable[[C], C]: ...
    def always(self, check: C | None = None, *, of: str | None = None) -> C | Callable[[C], C]:
        """Declare what must hold after every commit; it gets the world, and asserts, or returns False.

        Args:
            of: only after commits of this service.
        """
        if check is None:

            def declare(check: C) -> C:
                self._always.append((of, check))
                return check

            return declare
        self._always.append((None, check))
        return check

    def eventually(self, check: C) -> C:
        """Declare what must hold when everything is over."""
        self._eventually.append(check)
        return check

    # -- running it ----------------------------------------------------------------------------------------------------

    def run(
        self,
        seed: int | None = None,
        *,
        faults: Faults | None = None,
        only: Collection[str] | None = None,
        coordination: str | Mapping[str, str] | None = None,
        choices: str | None = None,
    ) -> Report:
        """Run it once. The same seed always gives the same run.

        Args:
            faults: instead of the simulation's own.
            only: of what the driver sends, only these are sent, by their names, as in ``PlaceOrder/o1``; see `shrink`.
            coordination: instead of the simulation's own.
            choices: a run of `explore` again, as its failure says.

        Raises:
            SimulationFailed: a promise was broken.
            ValueError: the choices are not of this simulation.
        """
        chosen = None if choices is None else choices_of(choices)
        seed = self.seed if seed is None else seed
        return Run(self, seed, faults=faults, only=only, coordination=coordination, choices=chosen).run()

    def run_many(self, seeds: Iterable[int]) -> list[Report]:
        """Run it with each of these seeds. Raises SimulationFailed at the first that breaks a promise."""
        return [self.run(seed) for seed in seeds]

    def shrink(self, failed: SimulationFailed, *, runs_max: int = 300) -> SimulationFailed:
        """The same promise broken with the same seed by as little as can be found in so many runs.

        First some of what the driver sends is left out. For whoever waits for the answer, `World.send` returns as if
        there were one; looking at it raises `LeftOut`, which ends the task that does. Then faults are left out.
        """
        return failed if failed.choices is not None else Shrinking(self, failed, runs_max).run()

    def explore(self, bounds: Bounds | None = None, *, progress: Callable[[int, int], None] | None = None) -> Explored:
        """Run it in every way there is, within bounds: every order of deliveries, every single fault.

        What it drives should be small: one saga, on few places. See `minuet.testing.simulation.exploring`, which says
        what is gone through and what is not.

        Args:
            progress: told after each run how many there were, and how many are known to come.

        Raises:
            SimulationFailed: a promise was broken. It is broken by as few choices as there are that do.
        """
        return Exploring(self, bounds or Bounds(), progress).run()
