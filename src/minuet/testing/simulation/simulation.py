"""`Simulation`: an app in a simulated world, driven, disturbed and watched; each seed is a run that can be repeated."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, overload

from minuet.app import App
from minuet.bootstrap import everything
from minuet.core.errors import ConfigurationError
from minuet.core.projection import Coordination
from minuet.settings import Settings
from minuet.testing.simulation.dice import Dice
from minuet.testing.simulation.faults import At, Faults, Nth
from minuet.testing.simulation.invariants import ALL_END, NOTHING_UNSEEN, Broken
from minuet.testing.simulation.loop import SimulatedLoop, Stuck
from minuet.testing.simulation.trace import Trace
from minuet.testing.simulation.world import World

Check = Callable[[World], object]
Driver = Callable[[World], Coroutine[Any, Any, None]]
C = TypeVar("C", bound=Check)
D = TypeVar("D", bound=Driver)

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
        faults: those that happened, and no others: with them and the seed the run is the same.
    """

    def __init__(self, world: World, broken: Broken, replay: str) -> None:
        self.seed = world.seed
        self.promise, self.how = broken
        self.trace = world.happened
        self.faults = Faults(
            schedule=tuple(one for one in world.struck if isinstance(one, At)),
            exactly=tuple(one for one in world.struck if isinstance(one, Nth)),
            until_s=world.faults.until_s,
        )
        ways = ", ".join(f"{name} by {how}" for name, how in world.settings.coordination.items()) or "no sagas"
        super().__init__(
            f"broken with seed {self.seed}: {self.promise}\n  {self.how}\n\n{self.trace.diagram(SHOWN)}\n\n"
            f"{ways}; machines {', '.join(world.machines)}; the broker keeps {'the' if world.broker.ordered else 'no'} "
            f"order; {len(world.struck)} faults, from {world.faults}\nTo see it again: {replay}"
        )


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

    def run(self, seed: int | None = None, *, faults: Faults | None = None) -> Report:
        """Run it once. The same seed always gives the same run.

        Args:
            faults: instead of the simulation's own.

        Raises:
            SimulationFailed: a promise was broken.
        """
        return _Run(self, self.seed if seed is None else seed, faults).run()

    def run_many(self, seeds: Iterable[int]) -> list[Report]:
        """Run it with each of these seeds. Raises SimulationFailed at the first that breaks a promise."""
        return [self.run(seed) for seed in seeds]

    def shrink(self, failed: SimulationFailed, *, runs_max: int = 300) -> SimulationFailed:
        """The same promise broken with the same seed by as few faults as can be found in so many runs."""
        return shrink(self, failed, runs_max)


def shrink(simulation: Simulation, failed: SimulationFailed, runs_max: int) -> SimulationFailed:
    """Leave out faults, first half of them at once, then fewer, as long as the same promise is broken.

    This is ddmin: Zeller and Hildebrandt, "Simplifying and Isolating Failure-Inducing Input", 2002.
    """
    runs, parts = 0, 2
    while runs < runs_max:
        faults: list[At | Nth] = [*failed.faults.schedule, *failed.faults.exactly]
        size = max(1, len(faults) // parts)
        for begin in range(0, len(faults), size):
            fewer = _again(simulation, failed, faults[:begin] + faults[begin + size :])
            runs += 1
            if fewer is not None or runs >= runs_max:
                break
        else:
            fewer = None
        if fewer is not None:
            failed, parts = fewer, max(2, parts - 1)
        elif size <= 1:
            break
        else:
            parts = min(len(faults), parts * 2)
    return failed


def _again(simulation: Simulation, failed: SimulationFailed, faults: Sequence[At | Nth]) -> SimulationFailed | None:
    """The failure, if these faults are enough for it, and for the same one."""
    some = Faults(
        schedule=tuple(one for one in faults if isinstance(one, At)),
        exactly=tuple(one for one in faults if isinstance(one, Nth)),
        until_s=failed.faults.until_s,
    )
    try:
        simulation.run(failed.seed, faults=some)
    except SimulationFailed as again:
        fewer = len(again.faults.schedule) + len(again.faults.exactly) <= len(faults)
        return again if again.promise == failed.promise and fewer else None
    return None


class _Run:
    """One seed."""

    def __init__(self, simulation: Simulation, seed: int, faults: Faults | None) -> None:
        self.simulation = simulation
        self.seed = seed
        self.is_exact = faults is not None
        self.dice = Dice(seed)
        drawn = self.dice.of("setting")
        # Everything is drawn, whether it is used or not, so that fixing one does not change the others.
        coordination, layout = drawn.choice(list(Coordination)), drawn.choice(("together", "apart", "twins"))
        ordered, put_off = drawn.random() < 0.5, drawn.choice((0.0, 0.1, 0.3))
        given = faults or simulation.faults
        self.faults = given if isinstance(given, Faults) else Faults.swarm(drawn)
        self.coordination = self._coordination(coordination)
        self.loop = SimulatedLoop(self.dice.of("schedule"), put_off=put_off)
        try:
            self.world = self._world(layout, ordered=ordered)
        except BaseException:
            self.loop.close()
            raise

    def _world(self, layout: str, *, ordered: bool) -> World:
        simulation = self.simulation
        return World(
            simulation.app,
            simulation.next_app,
            seed=self.seed,
            settings=Settings(
                stores={"default": "memory:"},
                channels={"*": "memory:"},
                coordination=self.coordination,
                queries=simulation.queries,  # type: ignore[arg-type]
            ),
            machines=self._machines(layout),
            faults=self.faults,
            ordered=ordered if simulation.ordered is None else simulation.ordered,
            loop=self.loop,
            dice=self.dice,
        )

    def _coordination(self, drawn: Coordination) -> dict[str, Coordination]:
        given = self.simulation.coordination
        if isinstance(given, str):
            chosen = drawn if given == "any" else Coordination(given)
            return {saga.name: chosen for saga in self.simulation.app.sagas}
        return {name: Coordination(how) for name, how in given.items()}

    def _machines(self, drawn: str) -> Mapping[str, Sequence[str]]:
        given = self.simulation.machines
        names = everything(self.simulation.app)
        match drawn if given == "any" else given:
            case "together":
                return {"one": names}
            case "twins":
                return {"one": names, "other": names}
            case "apart":
                return {name: [name] for name in names}
            case str() as other:
                raise ConfigurationError(f"machines={other!r} is none of together, apart, twins and any")
            case layout:
                missing = [name for name in names if not any(name in services for services in layout.values())]
                if missing:
                    raise ConfigurationError(f"machines={layout!r}: {', '.join(missing)} runs nowhere")
                return layout

    def run(self) -> Report:
        world, loop = self.world, self.loop
        logger, was_collecting = logging.getLogger("minuet"), gc.isenabled()
        level = logger.level
        logger.setLevel(logging.CRITICAL + 1)  # what is reported is part of what is simulated; nobody reads it
        gc.disable()  # what the collector finds, and when, differs from run to run
        main = loop.create_task(self._main())
        try:
            self._go(main)
        finally:
            self._clean_up()
            logger.setLevel(level)
            if was_collecting:
                gc.enable()
        if world.broken is not None:
            replay = f"simulation.run(seed={self.seed})"
            if self.is_exact:
                replay = f"simulation.run(seed={self.seed}, faults={self.faults})"
            raise SimulationFailed(world, world.broken, replay)
        if (error := None if main.cancelled() else main.exception()) is not None:
            raise error
        return self._report()

    def _go(self, main: asyncio.Task[None]) -> None:
        main.add_done_callback(lambda _: self.world.stop())
        try:
            self.loop.run_forever()
        except Stuck as stuck:
            self.world.breaks((ALL_END, str(stuck)))
        if self.loop.problems and self.world.broken is None:
            self.world.breaks((NOTHING_UNSEEN, self.loop.problems[0]))

    async def _main(self) -> None:
        simulation, world = self.simulation, self.world
        world.provided = simulation.provided(world) if simulation.provided else {}
        await world.start()
        world.watch(simulation._always)
        world.get_rough()
        driving = asyncio.create_task(self._drive())
        await asyncio.sleep(max(0.0, self.faults.until_s - world.now))
        world.calm_down()
        try:
            async with asyncio.timeout(simulation.patience_s):
                await driving
        except TimeoutError:
            world.breaks(
                (ALL_END, f"whoever drives the simulation waits for more than {simulation.patience_s} seconds")
            )
        await world.quiet(simulation.patience_s)
        if simulation.retries_parked and world.retry_parked():
            await world.quiet(simulation.patience_s)
        for broken in world.promises.at_the_end(world.needing_an_operator()):
            world.breaks(broken)
        world.check_parked_messages()
        for check in simulation._eventually:
            world.check(check)

    async def _drive(self) -> None:
        if self.simulation._driver is not None:
            await self.simulation._driver(self.world)

    def _clean_up(self) -> None:
        """Let everything that is still there end, in a world in which nothing can be done any more."""
        world, loop = self.world, self.loop
        self.steps, self.virtual_s = loop.steps, loop.time()
        world.is_over = True
        with suppress(Stuck):
            loop.run_until_complete(self._cancel_all())
        loop.close()
        world.close()

    async def _cancel_all(self) -> None:
        for _ in range(20):
            for process in self.world.processes:
                self.loop.go_on(process)
            rest = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            if not rest:
                return
            for task in rest:
                task.cancel()
            await asyncio.wait(rest, timeout=60.0)

    def _report(self) -> Report:
        world = self.world
        parked = world.needing_an_operator()
        sagas: Counter[str] = Counter()
        for key, saga in world.promises.sagas.items():
            end = world.promises.end_of(saga)
            sagas[end or (NEEDS_OPERATOR if key in parked else "not ended")] += 1
        return Report(
            seed=self.seed,
            coordination=self.coordination,
            steps=self.steps,
            virtual_s=self.virtual_s,
            commits=world.commits,
            fired=world.fired,
            sagas=sagas,
            outcomes={
                key: {rule: decision.kind for rule, decision in saga.decisions.items()}
                for key, saga in world.promises.sagas.items()
            },
            definitions=Counter(saga.definition for saga in world.sagas),
            trace=world.happened,
            digest=world.happened.digest(),
        )
