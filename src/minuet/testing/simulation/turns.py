"""Whose turn it is, where it is not left to chance: the choices of an exploration, one after the other.

Everything random is fixed in such a world, and messages wait for their turn. When all is quiet, which is when nobody
has anything to do within the next moment, one of them is chosen and handed out; what follows from it is over before the
next one is. Each choice is numbered, and 0 is what happens if nobody says otherwise: the oldest first, and no fault.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from minuet.testing.simulation.loop import HOST, Host, SimulatedLoop

if TYPE_CHECKING:
    from minuet.testing.simulation.broker import Waiting
    from minuet.testing.simulation.world import World

QUIET_S = 0.02
"""Nothing that takes longer than this is waited for before the next message comes."""
TURN, EARLY = "turn", "early"


class Steady(random.Random):
    """Draws the same each time: what usually takes a while takes as long as usual, and of several comes the first."""

    def random(self) -> float:
        return 0.5

    def expovariate(self, lambd: float = 1.0) -> float:
        return 1.0 / lambd

    def uniform(self, a: float, b: float) -> float:
        return a

    def choice(self, seq: Any) -> Any:
        return seq[0]


class Choice(NamedTuple):
    """A choice that was made.

    Attributes:
        kind: ``turn``: which one comes next; the last option is that none does before some time has passed.
            ``early``: whether one comes, and which, while its receiver is still busy. Or a kind of fault.
        options: how many there were.
        chosen: the first is 0.
        what: in words.
    """

    kind: str
    options: int
    chosen: int
    what: str

    @property
    def is_reorder(self) -> bool:
        return self.kind == TURN and 0 < self.chosen < self.options - 1

    @property
    def is_preemption(self) -> bool:
        return self.chosen > 0 and (self.kind == EARLY or (self.kind == TURN and self.chosen == self.options - 1))

    @property
    def is_fault(self) -> bool:
        return self.chosen > 0 and self.kind not in (TURN, EARLY)


@dataclass(frozen=True, slots=True)
class _Turn:
    """A message, or a call, that waits for its turn."""

    position: int
    what: str
    hosts: Collection[Host]
    take: Callable[[], None]


@dataclass(eq=False)
class _Call:
    service: str
    what: str
    caller: Host | None
    may_go: asyncio.Future[None]


@dataclass(eq=False)
class Turns:
    """
    Attributes:
        choices: those that are not 0, by their number.
        made: all choices of the run.
    """

    choices: Mapping[int, int]
    latency: random.Random = field(default_factory=Steady)
    made: list[Choice] = field(default_factory=list)
    _calls: dict[int, _Call] = field(default_factory=dict)

    def begin(self, world: World, loop: SimulatedLoop) -> None:
        """From now on everything waits for its turn."""
        self._world, self._loop = world, loop
        world.broker.in_turn = True
        loop.before_time_passes = self._next

    def end(self) -> None:
        """Nothing waits any more."""
        self._loop.before_time_passes = None
        self._world.broker.in_turn = False
        self._world.broker.wake()
        for call in self._calls.values():
            _let_go(call)

    async def come(self, service: str, what: str) -> None:
        """Wait for the turn of a call to this service."""
        position = self._world.broker.next_position()
        call = self._calls[position] = _Call(service, what, HOST.get(), self._loop.create_future())
        try:
            await call.may_go
        finally:
            self._calls.pop(position, None)

    def strikes(self, kind: str, where: str) -> bool:
        return self._choose(kind, (f"not at {where}", f"at {where}")) == 1

    def _choose(self, kind: str, options: Sequence[str]) -> int:
        chosen = self.choices.get(len(self.made), 0)
        if chosen >= len(options):
            raise ValueError(
                f"choice {len(self.made)} is {chosen}, and there are {len(options)} options: the choices are of "
                "another simulation, or something in this one is not deterministic"
            )
        self.made.append(Choice(kind, len(options), chosen, options[chosen]))
        return chosen

    def _next(self) -> None:
        turns = self._turns()
        if not turns:
            return
        is_busy, hosts = self._loop.soon(QUIET_S)
        if not is_busy:
            chosen = self._choose(TURN, [*(one.what for one in turns), "later"])
            if chosen < len(turns):
                turns[chosen].take()
        elif turns := [one for one in turns if not hosts.isdisjoint(one.hosts)]:
            chosen = self._choose(EARLY, ["not yet", *(one.what for one in turns)])
            if chosen:
                turns[chosen - 1].take()

    def _turns(self) -> list[_Turn]:
        """Whose it could be, oldest first."""
        world = self._world
        messages: dict[str, _Turn] = {}
        for name, message in world.broker.heard_now():
            what = f"{message.attributes.get('type')} {message.attributes.get('id')} to {name}"
            # The two of a doubled message are alike, so it is all one which of them comes first.
            if message.is_held and what not in messages:
                hosts = [one.host for one in message.group.waiters.values() if one.is_listening]
                messages[what] = _Turn(message.position, what, hosts, partial(_hand_out, message))
        calls = [
            _Turn(position, f"{call.what} to {call.service}", self._hosts_of(call.service), partial(_let_go, call))
            for position, call in self._calls.items()
            if not call.may_go.done() and not (call.caller and call.caller.is_halted)
        ]
        return sorted([*messages.values(), *calls], key=lambda one: one.position)

    def _hosts_of(self, service: str) -> list[Host]:
        machines = self._world.machines.values()
        return [one.process for one in machines if service in one.services and one.process is not None]


def _hand_out(message: Waiting) -> None:
    message.released = message.taken + 1
    message.group.wake()


def _let_go(call: _Call) -> None:
    if not call.may_go.done():
        call.may_go.set_result(None)


class InOrder(random.Random):
    """For a loop: everything goes on in the order in which it was made."""

    def __init__(self) -> None:
        super().__init__(0)
        self._count = 0

    def random(self) -> float:
        self._count += 1
        return self._count * 2.0**-40

    def shuffle(self, x: Any) -> None: ...
