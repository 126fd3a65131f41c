"""A world in memory: databases and a broker that outlive the processes which run on them and are killed."""

from __future__ import annotations

import asyncio
import contextvars
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, TypeVar

from minuet.adapters.memory import MemoryBroker, MemoryDatabase, MemoryStore, MemoryTransport
from minuet.app import App
from minuet.bootstrap import System, running
from minuet.core.coordinator import Status
from minuet.core.envelope import Envelope
from minuet.core.errors import NotYet
from minuet.core.messages import Command, Event, Query, View
from minuet.ports import Entry, EntryState, Outgoing, Store, Transport, Tx
from minuet.runtime.directory import Elsewhere
from minuet.settings import Settings
from tests.unit.runtime.virtual_loop import SeededIds, VirtualClock

T = TypeVar("T")
_OWNED: contextvars.ContextVar[set[asyncio.Task[Any]] | None] = contextvars.ContextVar("owned", default=None)


class Broken(Exception):
    """What a store or a transport raises when a test says so."""


class WatchedStore(MemoryStore):
    """Tells of each transaction that is about to be done and that was done, so that a test can intervene there.

    Attributes:
        before: called with the number of the coming transaction, inside it; what it raises is the store's failure.
        after: called with the number of a transaction that is durable, before its caller hears of it.
    """

    def __init__(self, database: MemoryDatabase, *, ids: SeededIds) -> None:
        super().__init__(database, ids=ids)
        self.before: Callable[[int], None] = lambda number: None
        self.after: Callable[[int], None] = lambda number: None
        self.transactions = 0

    async def transact(self, work: Callable[[Tx], T], *, reads_only: bool = False, lazily: bool = False) -> T:
        if reads_only or lazily:
            return await super().transact(work, reads_only=reads_only, lazily=lazily)

        def watched(tx: Tx) -> tuple[int, T]:
            self.transactions += 1
            number = self.transactions
            result = work(tx)
            self.before(number)
            return number, result

        number, result = await super().transact(watched)
        self.after(number)
        return result


class FlakyTransport(MemoryTransport):
    """Attributes:
    fault: asked of each message, in order, before it is published; what it returns is why that one is not.
    published: what was published, in order.
    """

    def __init__(self, broker: MemoryBroker) -> None:
        super().__init__(broker)
        self.fault: Callable[[Outgoing], Exception | None] = lambda message: None
        self.published: list[Outgoing] = []
        self.is_dead = False

    def crash(self) -> None:
        super().crash()
        self.is_dead = True

    async def publish(self, messages: Sequence[Outgoing]) -> Sequence[Exception | None]:
        if self.is_dead:
            raise Broken("this process is dead")
        problems: list[Exception | None] = []
        stuck: set[str] = set()
        for message in messages:
            problem = self.fault(message) or (Broken("behind another") if message.envelope.key in stuck else None)
            if problem is None:
                self.published.append(message)
                (problem,) = await super().publish([message])
            elif message.envelope.key:
                stuck.add(message.envelope.key)
            problems.append(problem)
        return problems


class World:
    """Attributes:
    databases: by service. broker: the one that all processes use.
    """

    def __init__(self, seed: int = 0) -> None:
        self.databases: defaultdict[str, MemoryDatabase] = defaultdict(MemoryDatabase)
        self.broker = MemoryBroker()
        self.ids = SeededIds(seed)
        self.clock = VirtualClock()
        self.processes: list[Process] = []

    async def start(self, app: App, *, services: Sequence[str] | None = None, **settings: Any) -> Process:
        """Start a process with some of the app's services, by default all."""
        process = Process(self, app, services, settings)
        await process.start()
        self.processes.append(process)
        return process

    @asynccontextmanager
    async def running(
        self, app: App, *, services: Sequence[str] | None = None, **settings: Any
    ) -> AsyncIterator[Process]:
        """As `start`, and stop it at the end."""
        process = await self.start(app, services=services, **settings)
        try:
            yield process
        except BaseException:
            process.kill()
            raise
        await process.stop()

    async def publish(self, channel: str, body: bytes, **attributes: str) -> None:
        """What a stranger does: bytes on a channel, with whatever attributes he likes."""
        for group in self.broker.groups.values():
            envelope = Envelope(id="", type=attributes.get("type", "?"), source="", time=0.0, body=body)
            if group.subscription.wanted.get(channel) is not None:
                from minuet.adapters.memory.transport import Waiting

                self.broker.position += 1
                key = attributes.get("partitionkey", "")
                waiting = Waiting(group, self.broker.position, channel, attributes, envelope.body, key)
                group.queue[waiting.position] = waiting
                group.news.set()

    def entries(self, service: str, state: EntryState | None = None) -> list[Entry]:
        return [one for one in self.databases[service].entries.values() if state is None or one.state is state]

    def parked(self, service: str) -> list[str]:
        return [one.reason for one in self.databases[service].parked.values()]

    def decided(self, saga_id: str) -> dict[str, str]:
        """By step, what its participant decided, as its own database says; each step once, whoever asked."""
        found: dict[str, str] = {}
        for service, database in self.databases.items():
            if service == "orchestrator":
                continue
            for entry in database.entries.values():
                ref = entry.envelope.saga
                if ref is None or ref.id != saga_id or entry.answer is None or entry.key.startswith("on/"):
                    continue
                assert ref.step not in found, f"{ref.step} was decided twice: {entry.key}"
                found[ref.step] = entry.answer.type
        return found

    def left_over(self) -> list[str]:
        """What must be gone once everything is over: outbox rows, due entries, undelivered messages."""
        rows = [
            f"{name} outbox {row.message.envelope.type}"
            for name, one in self.databases.items()
            for row in one.outbox.values()
        ]
        due = [
            f"{name} due {one.key}"
            for name, db in self.databases.items()
            for one in db.entries.values()
            if one.state is EntryState.DUE
        ]
        queued = [
            f"{name} queue {one.attributes}"
            for name, group in self.broker.groups.items()
            for one in group.queue.values()
        ]
        return rows + due + queued


class Process:
    """A program that runs some services, and can be killed."""

    system: System

    def __init__(self, world: World, app: App, services: Sequence[str] | None, settings: dict[str, Any]) -> None:
        self.world = world
        self.app = app
        self.services = services
        self.settings = Settings(stores={"default": "memory:"}, channels={"*": "memory:"}, **settings)
        self.tasks: set[asyncio.Task[Any]] = set()
        self.context = contextvars.copy_context()
        self.context.run(_OWNED.set, self.tasks)
        self.is_alive = False
        self._ready: asyncio.Future[System] = asyncio.get_running_loop().create_future()
        self._stop = asyncio.Event()
        asyncio.get_running_loop().set_task_factory(_create_owned)
        self._main: asyncio.Task[None] | None = None

    async def within(self, work: Coroutine[Any, Any, T]) -> T:
        """Do it in this process: what it leaves running dies with the process."""
        task = asyncio.get_running_loop().create_task(work, context=self.context)
        try:
            return await task
        except asyncio.CancelledError:
            if task.cancelled() and not self.is_alive:
                raise NotYet("the process was killed") from None
            raise

    async def start(self) -> None:
        self.is_alive = True
        self._main = asyncio.get_running_loop().create_task(self._run(), context=self.context)
        both: list[asyncio.Future[Any]] = [self._main, self._ready]
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        if self._main.done():
            self._main.result()
        self.system = self._ready.result()

    async def _run(self) -> None:
        try:
            async with running(
                self.app,
                self.settings,
                services=self.services,
                clock=self.world.clock,
                ids=self.world.ids,
                parts=lambda _: InMemory(self),
            ) as system:
                self._ready.set_result(system)
                await self._stop.wait()
        except BaseException:
            if self.is_alive:
                raise

    async def stop(self) -> None:
        assert self._main is not None
        self._stop.set()
        await self._main
        self.is_alive = False

    def kill(self) -> None:
        """Like kill -9: nothing more is written, published or finished."""
        if not self.is_alive:
            return
        self.is_alive = False
        for store in self.system.stores.values():
            assert isinstance(store, MemoryStore)
            store.crash()
        self.transport.crash()
        for place in self.system.places.values():
            place._timers.cancel_all()
        for task in tuple(self.tasks):
            if task is not asyncio.current_task():
                task.cancel()

    def store(self, service: str) -> WatchedStore:
        found = self.system.stores[service]
        assert isinstance(found, WatchedStore)
        return found

    @property
    def transport(self) -> FlakyTransport:
        (found,) = self.system.transports.values()
        assert isinstance(found, FlakyTransport)
        return found

    async def send(self, command: Command, *, key: str = "", wait_s: float = 30.0) -> Event:
        return await self.within(self.system.send(command, key=key, wait_s=wait_s))

    async def ended(self, saga: str, saga_id: str) -> Status:
        return await self.system.ended(saga, saga_id)


def _create_owned(loop: asyncio.AbstractEventLoop, work: Any, **named: Any) -> asyncio.Task[Any]:
    task: asyncio.Task[Any] = asyncio.Task(work, loop=loop, **named)
    context = named.get("context")
    owned = context.get(_OWNED) if context is not None else _OWNED.get()
    if owned is not None:
        owned.add(task)
        task.add_done_callback(owned.discard)
    return task


class InMemory:
    """The parts of a process: views of what the world keeps."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._transport = FlakyTransport(process.world.broker)

    def store(self, name: str, schema: Any) -> Store:
        return WatchedStore(self._process.world.databases[name], ids=self._process.world.ids)

    def transports(self, channels: Iterable[str]) -> dict[str, Transport]:
        return {"memory:": self._transport}

    def transport_of(self, channel: str) -> Transport:
        return self._transport

    def elsewhere(self, system: System, stack: AsyncExitStack) -> Elsewhere:
        return _OtherProcesses(self._process)


class _OtherProcesses:
    """What HTTP is between processes: an answer, or not."""

    def __init__(self, process: Process) -> None:
        self._process = process

    async def ask(self, command: type[Command], envelope: Envelope, *, key: str) -> Envelope:
        other = self._who(command.__contract__.service)
        return await other.within(other.system.places[command.__contract__.service].ask(envelope, key=key, wait_s=20.0))

    async def read(self, query: Query) -> View:
        other = self._who(query.__contract__.service)
        return await other.within(other.system.places[query.__contract__.service].read(query))

    def _who(self, service: str) -> Process:
        for process in self._process.world.processes:
            if process.is_alive and service in process.system.places:
                return process
        raise NotYet(f"service {service} does not run")
