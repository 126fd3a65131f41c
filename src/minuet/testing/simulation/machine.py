"""The machines of a simulated world, and the processes that run on them: minuet's runtime, the real one."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from minuet.bootstrap import System, running
from minuet.core.errors import NotYet
from minuet.ports import Store, Transport
from minuet.runtime.directory import Elsewhere
from minuet.testing.simulation.broker import SimulatedTransport
from minuet.testing.simulation.database import Died, SimulatedStore
from minuet.testing.simulation.loop import HOST, Host, SimulatedLoop
from minuet.testing.simulation.network import Network

if TYPE_CHECKING:
    from minuet.testing.simulation.world import World

T = TypeVar("T")

EPOCH = 1_800_000_000.0
START_AGAIN_S = (0.05, 3.0)


class MachineClock:
    """`minuet.ports.Clock` of a machine: the world's time, and how wrong this machine is about it."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.ahead_s = 0.0

    def now(self) -> float:
        return EPOCH + self._world.now + self.ahead_s


class Machine:
    """Some services of the app, on a machine of their own. Its process is started again whenever it ends.

    Attributes:
        app: what its next process will run.
        process: the one that runs now, or None.
        last_end: why the one before is no more.
    """

    def __init__(self, world: World, name: str, services: Sequence[str]) -> None:
        self.world = world
        self.name = name
        self.services = tuple(services)
        self.app = world.app
        self.clock = MachineClock(world)
        self.process: Process | None = None
        self.last_end = "it was never started"
        self._starts = 0

    @property
    def is_up(self) -> bool:
        """Whether a process runs here and would answer."""
        return self.process is not None and self.process.system is not None and not self.process.is_halted

    async def start(self) -> None:
        """Start a process and wait until it runs.

        Raises:
            Exception: what its start failed with.
        """
        self._begin()
        assert self.process is not None
        await asyncio.shield(self.process.is_ready)

    def _begin(self) -> None:
        self._starts += 1
        self.process = Process(self, self._starts)
        self.world.processes.append(self.process)
        self.process.begin()

    def ended(self, process: Process, why: str) -> None:
        """Called when the process is no more."""
        if process is not self.process:
            return
        self.last_end = why
        self.world.note(self.name, f"{why}, is started again")
        self.process = None
        after_s = self.world.latency.uniform(*START_AGAIN_S)
        self.world.later(after_s, self._begin_again)

    def _begin_again(self) -> None:
        if self.process is None and not self.world.is_over:
            self._begin()

    # -- what can happen to it -----------------------------------------------------------------------------------------

    def kill(self) -> None:
        """As ``kill -9``: nothing more is done, written or told."""
        if self.process is not None:
            self.process.kill()

    def stop(self) -> None:
        """As SIGTERM: it finishes what is under way, and is then started again."""
        if self.process is not None:
            self.process.stop()

    def deploy(self) -> None:
        """From its next start on it runs the next app, and that start is now."""
        self.app = self.world.next_app
        self.stop()

    def pause(self, for_s: float, *, taken_for_dead: bool = False) -> None:
        """Let it stand still, without its knowing."""
        process = self.process
        if process is None or process.is_halted or process.system is None:
            return
        process.is_halted = True
        if taken_for_dead:
            process.be_absent()
        self.world.later(for_s, lambda: process.resume(self.world.latency.uniform(0.0, 2.0)))


class Process(Host):
    """A process from its start to its end.

    Attributes:
        system: once it runs.
        is_ready: ends when it runs, or has failed to.
    """

    def __init__(self, machine: Machine, number: int) -> None:
        super().__init__(f"{machine.name}#{number}")
        self.machine = machine
        self.world = machine.world
        self.system: System | None = None
        self.is_dead = False
        self.stores: list[SimulatedStore] = []
        self.transports: list[SimulatedTransport] = []
        self.is_ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._stop = asyncio.Event()
        self._context = copy_context()
        self._context.run(HOST.set, self)
        self._callers: dict[asyncio.Future[Any], None] = {}

    def begin(self) -> None:
        main = asyncio.get_running_loop().create_task(self._main(), context=self._context)
        main.set_name(self.name)
        self.world.keep(main)

    async def _main(self) -> None:
        world = self.world
        try:
            async with running(
                self.machine.app,
                world.settings,
                services=self.machine.services,
                provided=world.provided,
                clock=self.machine.clock,
                ids=world.ids,
                parts=lambda system: _Parts(self, system),
            ) as system:
                self.system = system
                if not self.is_ready.done():
                    self.is_ready.set_result(None)
                await self._stop.wait()
                self.system = None  # nobody new is let in
        except Exception as error:
            if world.is_over:
                return
            self._end_by(error)
        else:
            self._leave()
            self.machine.ended(self, "has stopped")

    def _end_by(self, error: Exception) -> None:
        self._leave()
        if not self.is_ready.done():
            self.is_ready.set_exception(error)
            self.is_ready.exception()
        self.machine.ended(self, f"has ended with {error!r}")

    # -- calls that come from outside ----------------------------------------------------------------------------------

    async def serve(self, work: Coroutine[Any, Any, T]) -> T:
        """Do it within this process, for somebody outside of it.

        Raises:
            NotYet: the process ended meanwhile, as a caller sees it whose connection breaks.
        """
        caller: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        task = asyncio.get_running_loop().create_task(work, context=self._context)

        def done(task: asyncio.Task[T]) -> None:
            if caller.done():
                task.cancelled() or task.exception()
            elif task.cancelled():
                caller.set_exception(NotYet(f"{self.machine.name} closed the connection"))
            elif error := task.exception():
                caller.set_exception(error)
            else:
                caller.set_result(task.result())

        task.add_done_callback(done, context=self._context)
        self._callers[caller] = None
        try:
            return await caller
        finally:
            self._callers.pop(caller, None)

    def _hang_up(self, why: str) -> None:
        for caller in tuple(self._callers):
            if not caller.done():
                caller.set_exception(NotYet(f"{self.machine.name}: {why}"))

    # -- its end -------------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        if self.system is not None and not self.is_halted:
            self._stop.set()

    def kill(self) -> None:
        if self.is_dead or self.world.is_over:
            return
        self._leave()
        if not self.is_ready.done():
            self.is_ready.set_result(None)
        self.machine.ended(self, "was killed")

    def die(self) -> NoReturn:
        """Be killed by what it is doing. Never returns."""
        self.kill()
        raise Died

    async def die_here(self) -> NoReturn:
        """The same, within a coroutine, which never goes on."""
        self.kill()
        await asyncio.get_running_loop().create_future()
        raise AssertionError("the dead do not wake up")

    def _leave(self) -> None:
        """Whatever of it still runs does so no more."""
        self.is_dead = self.is_halted = True
        self._hang_up("connection reset")
        for store in self.stores:
            store._database.die()  # type: ignore[attr-defined]
        for transport in self.transports:
            transport.die()

    # -- standing still ------------------------------------------------------------------------------------------------

    def be_absent(self) -> None:
        for store in self.stores:
            store._database.be_absent()  # type: ignore[attr-defined]

    def resume(self, absent_for_s: float) -> None:
        """Go on. Those who took it for dead see it again only a little later."""
        if self.is_dead or self.world.is_over:
            return
        loop = asyncio.get_running_loop()
        assert isinstance(loop, SimulatedLoop)
        loop.go_on(self)
        self.world.note(self.machine.name, "goes on")
        self.world.later(absent_for_s, self._be_back)

    def _be_back(self) -> None:
        for store in self.stores:
            store._database.be_back()  # type: ignore[attr-defined]


class _Parts:
    """`minuet.bootstrap.parts.Parts` of a process."""

    def __init__(self, process: Process, system: System) -> None:
        self._process = process
        self._transport = SimulatedTransport(process.world.broker, process)
        process.transports.append(self._transport)

    def store(self, name: str, schema: Any) -> Store:
        process = self._process
        store = SimulatedStore(process.world, process, process.world.database(name), schema)
        process.stores.append(store)
        return store

    def transports(self, channels: Iterable[str]) -> Mapping[str, Transport]:
        return {"simulated": self._transport}

    def transport_of(self, channel: str) -> Transport:
        return self._transport

    def elsewhere(self, system: System, stack: AsyncExitStack) -> Elsewhere:
        return Network(self._process.world, self._process.machine.name)
