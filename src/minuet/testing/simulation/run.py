"""One run: a world is made, driven, disturbed and watched, and taken down again."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections import Counter
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from minuet.bootstrap import everything
from minuet.core.errors import ConfigurationError
from minuet.core.projection import Coordination
from minuet.settings import Settings
from minuet.testing.simulation.dice import Dice
from minuet.testing.simulation.faults import Faults
from minuet.testing.simulation.invariants import ALL_END, NOTHING_UNSEEN
from minuet.testing.simulation.loop import FAMILY, SimulatedLoop, Stuck
from minuet.testing.simulation.report import NEEDS_OPERATOR, Report, SimulationFailed
from minuet.testing.simulation.turns import InOrder, Turns
from minuet.testing.simulation.world import World

if TYPE_CHECKING:
    from minuet.testing.simulation.simulation import Simulation

Driver = Callable[[World], Coroutine[Any, Any, None]]

EXPLORED_S = 5.0
"""For how long, in virtual seconds, there are choices in a run of an exploration."""


class Run:
    """A run with one seed.

    Args:
        only: the names of the only things that are sent; None: all are.
        redrawn: another number, and the same mix of faults strikes elsewhere.
        choices: if it is one of an exploration, those that are not 0.
    """

    def __init__(
        self,
        simulation: Simulation,
        seed: int,
        *,
        faults: Faults | None = None,
        coordination: str | Mapping[str, str] | None = None,
        only: Collection[str] | None = None,
        redrawn: int = 0,
        choices: Mapping[int, int] | None = None,
    ) -> None:
        self.simulation = simulation
        self.seed = seed
        self.is_exact = faults is not None
        self.only = only
        self.redrawn = redrawn
        self.turns = None if choices is None else Turns(choices)
        self.dice = Dice(seed)
        drawn = self.dice.of("setting")
        # Everything is drawn, whether it is used or not, so that fixing one does not change the others.
        how, layout = drawn.choice(list(Coordination)), drawn.choice(("together", "apart", "twins"))
        ordered, put_off = drawn.random() < 0.5, drawn.choice((0.0, 0.1, 0.3))
        given = faults or simulation.faults
        self.faults = given if isinstance(given, Faults) else Faults.swarm(drawn)
        if self.turns is not None:
            # Of an exploration everything that is not chosen is fixed, and in the way that leaves most to choose.
            layout, ordered, put_off, self.faults = "apart", False, 0.0, faults or Faults(until_s=EXPLORED_S)
        self.coordination = self._coordination(coordination or simulation.coordination, how)
        chance = InOrder() if self.turns is not None else self.dice.of("schedule")
        self.loop = SimulatedLoop(chance, put_off=put_off)
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
            only=self.only,
            redrawn=self.redrawn,
            turns=self.turns,
        )

    def _coordination(self, given: str | Mapping[str, str], drawn: Coordination) -> dict[str, Coordination]:
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
            choices = self.turns.choices if self.turns else None
            raise SimulationFailed(world, world.broken, is_exact=self.is_exact, choices=choices)
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
        driver = self.simulation._driver
        if driver is None:
            return
        if self.world.only is None:
            await driver(self.world)
        else:
            await self._drive_without_some(driver)

    async def _drive_without_some(self, driver: Driver) -> None:
        """Until the last of its tasks is at its end. Whatever it fails with is taken for what comes of missing some."""
        family: list[asyncio.Task[Any]] = []
        FAMILY.set(family)
        try:
            await driver(self.world)
        except asyncio.CancelledError:
            me = asyncio.current_task()
            if me is not None and me.cancelling():
                raise
        except Exception as error:
            self.world.note("client", f"whoever drives this ends with {type(error).__name__}")
        while rest := [task for task in family if not task.done()]:
            await asyncio.wait(rest)
        for task in family:
            task.cancelled() or task.exception()

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
            parked=parked,
            definitions=Counter(saga.definition for saga in world.sagas),
            trace=world.happened,
            digest=world.happened.digest(),
        )
