"""The simulated world: its machines, databases and broker, what goes wrong in it, and what is watched."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn, cast

from minuet.app import App
from minuet.codec import Codec, attributes_of, remember
from minuet.core.envelope import Envelope
from minuet.core.errors import NotYet
from minuet.core.messages import Command, Event, Query, View, name_of
from minuet.core.operating import Scope, Verb
from minuet.ports import EntryState, Outgoing
from minuet.runtime.reactor import ORCHESTRATOR, business_key
from minuet.settings import Settings
from minuet.testing.simulation.broker import Broker, Waiting
from minuet.testing.simulation.database import Database, SimulatedDatabase
from minuet.testing.simulation.dice import Dice, SeededIds
from minuet.testing.simulation.faults import POINTS, At, Faults, Nth
from minuet.testing.simulation.invariants import ALL_EMPTY, NOTHING_FOREIGN_PARKED, Broken, Promises, SagaRecord
from minuet.testing.simulation.loop import SimulatedLoop
from minuet.testing.simulation.machine import EPOCH, Machine, Process
from minuet.testing.simulation.network import Network
from minuet.testing.simulation.trace import Moment, Trace

if TYPE_CHECKING:
    from minuet.testing.simulation.turns import Turns

ASK_AGAIN_S = 0.5
LOOK_S = 0.5
MESSAGES_SHOWN = 6


class WorldIsOver(Exception):
    """The simulation has ended; what still wants to do something must not."""


class LeftOut(asyncio.CancelledError):
    """Raised where a driver looks at the answer to something that is not sent in this run: its sender is not there.

    Like any task that is cancelled, it takes nobody else along, and no ``except Exception`` sees it.
    """


class NoAnswer:
    """Stands for the answer to what is not sent. Raises LeftOut when anybody looks at it."""

    def __init__(self, what: str) -> None:
        object.__setattr__(self, "what", what)

    def __repr__(self) -> str:
        return f"<no answer to {object.__getattribute__(self, 'what')}>"

    def _look(self, *_: object) -> NoReturn:
        raise LeftOut(f"{object.__getattribute__(self, 'what')} is not sent in this run")

    # `isinstance` and `match` ask for its class, which is an attribute as well.
    __getattribute__ = __str__ = __bool__ = __iter__ = __eq__ = __hash__ = _look


class World:
    """What a simulation's driver, its invariants and its outside systems see.

    Attributes:
        machines: by name.
        provided: what handlers get by its type, as the simulation was told.
        random: for whoever drives the simulation, and for outside systems.
        is_rough: whether things go wrong now, or at least may.
        fired: how often each kind of fault happened.
        processes: all that ever ran.
        struck: the faults that happened, each as it would be repeated.
        sent: what was sent by `send`, as in ``PlaceOrder/o1``; the same once more is ``PlaceOrder/o1#2``.
        only: of these the only ones that are really sent in this run; None is all.
        turns: who decides whose turn it is, in an exploration.
    """

    def __init__(
        self,
        app: App,
        next_app: App | None = None,
        *,
        seed: int,
        settings: Settings,
        machines: Mapping[str, Sequence[str]],
        faults: Faults,
        ordered: bool,
        loop: SimulatedLoop,
        dice: Dice,
        only: Collection[str] | None = None,
        redrawn: int = 0,
        turns: Turns | None = None,
    ) -> None:
        self.app = app
        self.next_app = next_app or app
        self.seed = seed
        self.settings = settings
        self.faults = faults
        self.ids = SeededIds(dice)
        self.random = dice.of("user")
        self.latency = turns.latency if turns else dice.of("latency")
        self.only = None if only is None else frozenset(only)
        self.turns = turns
        self.fired: Counter[str] = Counter()
        self.happened = Trace()
        self.promises = Promises(app, self.next_app)
        self.broken: Broken | None = None
        self.commits = 0
        self.is_over = False
        self.provided: Mapping[type[Any], Any] = {}
        self.codec = Codec([*app.messages(), *self.next_app.messages()])
        self._loop = loop
        self._dice = dice
        self._context = copy_context()
        self.is_rough = False
        self._redrawn = redrawn
        self._rates = {kind: faults.rate(kind) for kind in POINTS}
        self._exactly = frozenset(faults.exactly)
        self._opportunities: Counter[tuple[str, str]] = Counter()
        self.struck: list[At | Nth] = []
        self._databases: dict[str, Database] = {}
        self._background: set[asyncio.Task[Any]] = set()
        self._sends: Counter[str] = Counter()
        self.sent: list[str] = []
        self.processes: list[Process] = []
        self._always: list[tuple[str | None, Callable[[World], object]]] = []
        self.broker = Broker(self, ordered=ordered)
        self.machines = {name: Machine(self, name, services) for name, services in machines.items()}

    def __repr__(self) -> str:
        return f"<World of seed {self.seed}>"  # no address: a failure is told alike each time

    # -- for whoever drives it -----------------------------------------------------------------------------------------

    @property
    def now(self) -> float:
        """Seconds since the simulation began."""
        return self._loop.time()

    @property
    def sagas(self) -> list[SagaRecord]:
        """Every saga that began, as the databases of its participants tell."""
        return list(self.promises.sagas.values())

    async def send(self, command: Command, *, key: str = "", patience_s: float = 3600.0) -> Event:
        """Send a command as a good client does: over HTTP, and again with the same key until there is an answer.

        When a failure is made smaller, some of what is sent is left out. Its sender goes on as if it had been answered;
        if he looks at the answer, `LeftOut` is raised.

        Raises:
            Rejected: there never will be one.
            NotYet: its patience is at an end.
        """
        name = self._name_of_sending(command)
        # Drawn for it alone, so that it is the same when others are left out.
        chance = self.turns.latency if self.turns else self._dice.of(f"send {name}")
        if self.only is not None and name not in self.only:
            await asyncio.sleep(chance.expovariate(100.0))
            return cast(Event, NoAnswer(name))
        self.sent.append(name)
        key = key or f"request-{name}"
        until = self.now + patience_s
        while True:
            # Its id is new each time, as from a client that knows nothing of ids.
            envelope = Envelope(
                id=self.ids.new(),
                type=name_of(command),
                source="client",
                time=EPOCH + self.now,
                body=self.codec.encode(command, time=EPOCH + self.now),
            )
            try:
                network = Network(self, "client", latency=chance)
                answer = await network.ask(type(command), remember(envelope, command), key=key)
            except NotYet:
                if self.now >= until:
                    raise
                await asyncio.sleep(ASK_AGAIN_S * (1 + chance.random()))
            else:
                event = self.codec.decode(answer)
                assert isinstance(event, Event)
                return event

    def tell(self, event: Event, *, key: str = "") -> None:
        """Publish an event as somebody outside would who knows nothing of minuet.

        Args:
            key: the partition key, if he gives one.
        """
        channel, now = event.__contract__.channel, EPOCH + self.now
        envelope = Envelope(
            id=self.ids.new(),
            type=name_of(event),
            source="outside",
            time=now,
            body=self.codec.encode(event, time=now),
            version=event.__contract__.version,
            key=key,
        )
        wanted = [group for group in self.broker.groups.values() if group.subscription.wants(channel, envelope)]
        self.broker.keep(channel, attributes_of(envelope), envelope.body, key, wanted)

    def _name_of_sending(self, command: Command) -> str:
        """By what it is about, and not by when it comes: that changes when others are left out."""
        name = business_key(command) or name_of(command)
        self._sends[name] += 1
        return name if self._sends[name] == 1 else f"{name}#{self._sends[name]}"

    async def ask(self, query: Query, *, patience_s: float = 3600.0) -> View:
        """The query's view, asked for until there is an answer. Raises NotFound, Rejected."""
        until = self.now + patience_s
        while True:
            try:
                return await Network(self, "client").read(query)
            except NotYet:
                if self.now >= until:
                    raise
                await asyncio.sleep(ASK_AGAIN_S)

    async def sleep(self, seconds: float) -> None:
        """Let so much virtual time pass."""
        await asyncio.sleep(seconds)

    def rows(self, service: str, statement: str, /, **values: Any) -> list[dict[str, Any]]:
        """Rows of a service's database, as they are committed now."""
        return self.database(service).rows(statement, **values)

    def note(self, who: str, what: str) -> None:
        """Put a remark into the trace."""
        self._add("note", who, "", what)

    def trace(self, who: str, to: str, kind: str, what: str) -> None:
        """Put something that one did to another into the trace; ``kind`` is ``asks`` or ``answers``."""
        self._add(kind, who, to, what)

    def chance(self, rate: float) -> bool:
        """For outside systems: whether it happens, this time. Never once the faults are over, nor in an exploration."""
        return self.is_rough and self.turns is None and self._dice.of("outside").random() < rate

    def _add(self, kind: str, who: str, to: str, what: str) -> None:
        if not self.is_over:
            self.happened.moments.append(Moment(self.now, kind, who, to, what))

    # -- faults --------------------------------------------------------------------------------------------------------

    def strikes(self, kind: str, where: str, what: str = "") -> bool:
        """Whether this fault happens here and now, to this."""
        if not self.is_rough or self.is_over:
            return False
        place = f"{where}/{what}" if what else where
        count = self._opportunities
        count[kind, ""] += 1
        count[kind, place] += 1
        nth = Nth(kind, count[kind, place], place)
        rate = self._rates[kind]
        if not (
            (rate and self._fault_dice(kind).random() < rate)
            or nth in self._exactly
            or Nth(kind, count[kind, ""]) in self._exactly
            or (self.turns and self.turns.strikes(kind, str(nth.where)))
        ):
            return False
        self.struck.append(nth)
        self._fire(kind, where, what)
        return True

    def _fault_dice(self, kind: str) -> random.Random:
        return self._dice.of(f"{kind}, drawn again {self._redrawn}" if self._redrawn else kind)

    def _fire(self, kind: str, where: str, what: str = "") -> None:
        self.fired[kind] += 1
        self._add("fault", where, "", f"{kind.replace('_', ' ')} {what}".rstrip())

    async def turn(self, where: str, what: str) -> None:
        """Wait for one's turn, where there are turns."""
        if self.turns is not None and self.is_rough:
            await self.turns.come(where, what)

    async def start(self) -> None:
        """Start all machines, while nothing goes wrong yet."""
        for machine in self.machines.values():
            await machine.start()

    def get_rough(self) -> None:
        """Let faults happen from now on."""
        self.is_rough = True
        if self.turns is not None:
            self.turns.begin(self, self._loop)
        planned = [*self._drawn(), *self.faults.schedule]
        for number, one in enumerate(sorted(planned, key=lambda one: one.at_s)):
            self._check(one)
            # So that a run which is told these faults one by one has them in the same order.
            tie = number / len(planned) - 1.0
            self._loop.alarm(max(one.at_s, self.now), tie, partial(self._strike, one), self._context)

    def _drawn(self) -> Iterator[At]:
        """The faults that come at a time, as the rates say."""
        skew_s, chance = self.faults.clock_skew_s, self._fault_dice("clock_skew")
        for name in self.machines if skew_s else ():
            yield At(self.now, "clock_skew", name, chance.uniform(-skew_s, skew_s))
        for kind, per_minute in self.faults.timed():
            chance = self._fault_dice(kind)
            at_s = self.now + chance.expovariate(per_minute / 60)
            while at_s < self.faults.until_s:
                yield At(at_s, kind, chance.choice(list(self.machines)), _how_long(kind, chance))
                at_s += chance.expovariate(per_minute / 60)

    def _check(self, planned: At) -> None:
        known = {*TIMED, "broker_down", "operator", "operator_pause"}
        if planned.kind not in known:
            raise ValueError(f"{planned}: there is no such fault that comes at a time; {', '.join(sorted(known))} are")
        if planned.kind in (*TIMED, "operator_pause") and planned.machine not in self.machines:
            raise ValueError(f"{planned}: there is no such machine; there are {', '.join(self.machines)}")

    def _strike(self, planned: At) -> None:
        machine = self.machines.get(planned.machine)
        if self.is_over or not self.is_rough:
            return
        self.struck.append(planned)
        if planned.kind == "broker_down":
            self._fire("broker_down", "broker")
            self.broker.go_down()
            self.later(planned.for_s, self.broker.come_up)
        elif planned.kind == "operator":
            if self.retry_parked():
                self._fire("operator", "client")
        elif planned.kind == "operator_pause":
            scope = self._some_scope(planned)
            self._fire("operator_pause", planned.machine, str(scope))
            pausing = self._loop.create_task(self._pause_for(planned.for_s, scope), context=self._context)
            self.keep(pausing)
        elif machine is not None and machine.is_up:
            self._fire(planned.kind, machine.name)
            TIMED[planned.kind](machine, planned.for_s)

    def _some_scope(self, planned: At) -> Scope:
        """The same for the same fault."""
        chance = self._dice.of(f"{planned.kind} {planned.at_s!r}")
        sagas = sorted((one.name, one.id) for one in self.sagas)
        what = chance.choice(("service", "type", "saga"))
        if what == "service" or not self.app.sagas or (what == "saga" and not sagas):
            return Scope(service=chance.choice(self.machines[planned.machine].services))
        name, saga_id = chance.choice(sagas) if what == "saga" else (chance.choice(list(self.app.current_sagas)), "")
        return Scope(saga=name, saga_id=saga_id)

    async def _pause_for(self, for_s: float, scope: Scope) -> None:
        await self._instruct(Verb.PAUSE, scope)
        await asyncio.sleep(for_s / 2)
        await self._instruct(Verb.RETRY, scope)
        await asyncio.sleep(for_s / 2)
        await self._instruct(Verb.RESUME, scope)

    async def _instruct(self, verb: Verb, scope: Scope) -> None:
        """As an operator does who says it again until he is answered."""
        place = ORCHESTRATOR if self.app.sagas else scope.service
        while not self.is_over:
            up = [one for one in self.machines.values() if place in one.services and one.is_up]
            process = up[0].process if up else None
            if process is not None and process.system is not None:
                try:
                    await process.serve(process.system.instruct(scope, verb, who="operator", why="to see what happens"))
                    return
                except Exception as error:
                    self.note("client", f"{verb} {scope}: {type(error).__name__}, and said again")
            await asyncio.sleep(ASK_AGAIN_S)

    def calm_down(self) -> None:
        """No more faults: everything that is down comes up again, at the latest when it was going to."""
        self.is_rough = False
        if self.turns is not None:
            self.turns.end()
        self.note("client", "nothing goes wrong from here on")

    # -- what its parts ask it -----------------------------------------------------------------------------------------

    def database(self, service: str) -> Database:
        found = self._databases.get(service)
        if found is None:
            found = self._databases[service] = Database(service)
        return found

    def later(self, delay_s: float, call: Callable[[], object]) -> None:
        """Do something that is no process's."""
        self._loop.call_later(delay_s, call, context=self._context)

    def keep(self, task: asyncio.Task[Any]) -> None:
        self._background.add(task)
        task.add_done_callback(self._background.discard, context=self._context)

    def check_not_over(self) -> None:
        if self.is_over:
            raise WorldIsOver

    # -- what is watched -----------------------------------------------------------------------------------------------

    def committed(self, opening: SimulatedDatabase) -> None:
        """Told of each transaction that has just become durable."""
        database = opening.database
        self.commits += 1
        commit = database.commit(opening.instance)
        for before, now in commit.entries:
            if now.state is not EntryState.DUE and (before is None or before.state is not now.state):
                answer = now.answer.type if now.answer else now.error
                self._add("commits", commit.service, "", f"{now.key} {now.state}: {answer}")
        for broken in self.promises.after(commit, database):
            self.breaks(broken)
        for of, check in self._always:
            if of is None or of == commit.service:
                self.check(check)

    def published(self, message: Outgoing, *, ordered: bool) -> None:
        """Told of each message that the broker keeps."""
        self._add("says", message.envelope.source, message.channel, f"{message.envelope.type} {message.envelope.id}")
        for broken in self.promises.published(message, ordered=ordered):
            self.breaks(broken)

    def heard(self, message: Waiting) -> None:
        """Told of each message that is handed to a member of a group."""
        sender = message.attributes.get("source", "stranger")
        again = f", the {message.taken}. time" if message.taken > 1 else ""
        kind = f"{message.attributes.get('type', 'garbage')} {message.attributes.get('id', '')}".strip()
        self._add("hears", sender, message.group.subscription.group, kind + again)

    def check(self, check: Callable[[World], object]) -> None:
        """Ask one of the user's own invariants."""
        try:
            if check(self) is False:
                raise AssertionError("it returned False")
        except Exception as error:
            said = (check.__doc__ or "").strip().partition("\n")[0]
            told = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            self.breaks((said or check.__name__.replace("_", " "), told))

    def watch(self, checks: Sequence[tuple[str | None, Callable[[World], object]]]) -> None:
        self._always = list(checks)

    def breaks(self, broken: Broken) -> None:
        """A promise is broken: that is the end of it. Only the first counts."""
        if self.broken is None:
            self.broken = broken
            self._add("fault", "client", "", f"BROKEN {broken[0]}: {broken[1]}")
            self.stop()

    def stop(self) -> None:
        """Let the loop stop where it is."""
        if self._loop.is_running() and not self.is_over:
            self._loop.stop()

    # -- the end -------------------------------------------------------------------------------------------------------

    async def quiet(self, patience_s: float) -> None:
        """Wait until nothing is left to do; a broken promise if that takes longer."""
        until = self.now + patience_s
        while True:
            left = self.left_over()
            if not left:
                return
            if self.now >= until:
                shown = "; ".join(left[:MESSAGES_SHOWN])
                self.breaks((ALL_EMPTY, f"after {patience_s:.0f} quiet seconds there are {len(left)}: {shown}"))
                return
            await asyncio.sleep(LOOK_S)

    def left_over(self) -> list[str]:
        """What must be gone once everything is over."""
        rows = [row for database in self._databases.values() for row in database.waiting()]
        # The conductor goes on asking for what is parked at its participant.
        parked = self.needing_an_operator() if rows else {}
        left = [what for what, saga in rows if saga not in parked]
        down = [
            f"{machine.name} is not up; {machine.last_end}" for machine in self.machines.values() if not machine.is_up
        ]
        return left + self.broker.waiting() + down

    def retry_parked(self) -> int:
        """Do what an operator does when all is well again."""
        reopened = 0
        for database in self._databases.values():
            reopened += database.reopen_parked()
        if reopened:
            self.note("client", f"an operator tries {reopened} parked entries again")
        return reopened

    def needing_an_operator(self) -> dict[tuple[str, str], str]:
        """Why, by the saga's name and id."""
        return {
            (entry.envelope.saga.name, entry.envelope.saga.id): f"{database.name}: {entry.key}: {entry.error}"
            for database in self._databases.values()
            for entry in database.entries.values()
            if entry.state is EntryState.PARKED and entry.envelope.saga is not None
        }

    def check_parked_messages(self) -> None:
        """A message that was parked is one that nobody in here has sent."""
        for database in self._databases.values():
            for row in database.rows("SELECT id, attributes, reason FROM minuet_parked"):
                if row["attributes"] != "{}":
                    self.breaks((NOTHING_FOREIGN_PARKED, f"{database.name}: {row['id']} is parked: {row['reason']}"))

    def close(self) -> None:
        for database in self._databases.values():
            database.close()


def _how_long(kind: str, chance: random.Random) -> float:
    if kind == "clock_jump":
        return chance.choice((-7200.0, -30.0, 30.0, 7200.0))
    return chance.choice((0.5, 3.0, 12.0, 40.0))


def _jump(machine: Machine, by_s: float) -> None:
    machine.clock.ahead_s += by_s


TIMED: dict[str, Callable[[Machine, float], None]] = {
    "kill": lambda machine, _: machine.kill(),
    "restart": lambda machine, _: machine.stop(),
    "deploy": lambda machine, _: machine.deploy(),
    "pause": lambda machine, for_s: machine.pause(for_s),
    "zombie": lambda machine, for_s: machine.pause(for_s, taken_for_dead=True),
    "clock_jump": _jump,
    "clock_skew": _jump,
}
"""What happens to a machine at a time."""
