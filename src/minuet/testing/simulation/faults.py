"""What can go wrong in a simulated world, how often, and when."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

PER_MINUTE = "_per_minute"
ALL_TOGETHER = 0.1


@dataclass(frozen=True, slots=True)
class At:
    """A fault at a time that is chosen, not drawn.

    Attributes:
        at_s: seconds after the simulation began.
        kind: ``kill``, ``restart``, ``deploy``, ``pause``, ``zombie``, ``clock_jump``, ``clock_skew``,
            ``broker_down``, ``operator`` or ``operator_pause``.
        machine: which one; for ``broker_down`` and ``operator`` it is left out. An operator may pause what runs there.
        for_s: how long, for the pauses, ``zombie`` and ``broker_down``; how far, for the two of clocks.
    """

    at_s: float
    kind: str
    machine: str = ""
    for_s: float = 10.0


class Nth(NamedTuple):
    """A fault at one opportunity of its kind.

    Attributes:
        number: which one; the first is number 1.
        where: of those at this place and with this message; if empty, of all there are.
    """

    kind: str
    number: int
    where: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """Rates. Those ending in ``_per_minute`` are of the whole world, the others are probabilities at each opportunity.

    A process is killed:
        crash_before_commit, crash_after_commit: at a transaction; after it, before anybody hears that it is durable.
        crash_before_publish, crash_after_publish: after it, before the confirmation comes.
        crash_before_settle, crash_after_settle: when it says what became of messages.
        kill_per_minute: at any instant.
    and is stopped or held up:
        restart_per_minute: it is asked to stop, as by SIGTERM, and started again.
        deploy_per_minute: the same, and started again with the simulation's next app, if it has one.
        pause_per_minute: it stands still for a while, and knows nothing of it.
        zombie_per_minute: the same, and meanwhile it is taken for dead: others take over what it owns.
    The store:
        store_busy: a transaction cannot begin.
        store_deadlock: a transaction is rolled back, and its works are run once more.
        disk_full: a commit fails, and nothing of it remains.
    The broker:
        publish_refused: a message is not kept. confirm_lost: it is, but its sender hears that it is not.
        message_doubled, message_delayed: as they say. message_reordered: only where it promises no order.
        message_expired: whoever has it in hand takes too long, and another gets it too.
        settle_lost: the broker does not hear what became of messages.
        garbage: a stranger publishes something that nobody can read.
        broker_down_per_minute: it does nothing for a while.
    Calls between processes:
        request_lost, reply_lost: the latter after the work is done. reply_slow: until the caller gives up, or nearly.
        reply_garbage: nonsense instead of an answer.
    Clocks:
        clock_jump_per_minute: by up to two hours, to and fro. clock_skew_s: by so much at most each differs from start.
    People:
        operator_per_minute: everything that is parked is tried again.
        operator_pause_per_minute: a service, a saga, or all of a type is paused for a while, and may be retried.

    Attributes:
        schedule: faults at fixed times, whatever the rates are.
        exactly: faults at fixed opportunities, whatever the rates are. What a failed run says of itself in this way is
            repeated by it, and can be made smaller; see `Simulation.shrink`.
        until_s: for how long faults happen, in seconds from the start.
    """

    crash_before_commit: float = 0.0
    crash_after_commit: float = 0.0
    crash_before_publish: float = 0.0
    crash_after_publish: float = 0.0
    crash_before_settle: float = 0.0
    crash_after_settle: float = 0.0
    kill_per_minute: float = 0.0
    restart_per_minute: float = 0.0
    deploy_per_minute: float = 0.0
    pause_per_minute: float = 0.0
    zombie_per_minute: float = 0.0
    store_busy: float = 0.0
    store_deadlock: float = 0.0
    disk_full: float = 0.0
    publish_refused: float = 0.0
    confirm_lost: float = 0.0
    message_doubled: float = 0.0
    message_delayed: float = 0.0
    message_reordered: float = 0.0
    message_expired: float = 0.0
    settle_lost: float = 0.0
    garbage: float = 0.0
    broker_down_per_minute: float = 0.0
    request_lost: float = 0.0
    reply_lost: float = 0.0
    reply_slow: float = 0.0
    reply_garbage: float = 0.0
    clock_jump_per_minute: float = 0.0
    clock_skew_s: float = 0.0
    operator_per_minute: float = 0.0
    operator_pause_per_minute: float = 0.0
    schedule: tuple[At, ...] = ()
    exactly: tuple[Nth, ...] = ()
    until_s: float = 20.0

    @classmethod
    def all(cls, strength: float = 1.0) -> Faults:
        """Every kind of fault at once, so often that most runs meet most of them."""
        rates: dict[str, Any] = {name: rate * strength for name, rate in _USUAL.items()}
        return replace(cls(), **rates)

    @classmethod
    def swarm(cls, chance: random.Random) -> Faults:
        """A mix of its own for each seed: half of the kinds are left out, the others are rarer or more frequent.

        With one fixed mix some mistakes are never found: a fault that is always there can hide what another would show.
        In one run of ten all come together nevertheless.
        """
        if chance.random() < ALL_TOGETHER:
            return cls.all()
        rates: dict[str, Any] = {}
        for name, usual in _USUAL.items():
            is_there, strength = chance.random() < 0.5, 3 ** chance.uniform(-1.0, 1.0)
            rates[name] = usual * strength if is_there else 0.0
        return replace(cls(), **rates)

    @classmethod
    def from_text(cls, text: str) -> Faults:
        """Exactly the faults that `to_text` has written down, and no others.

        Raises:
            ValueError: says which part of it is none.
        """
        schedule, exactly, until_s = read(text)
        return cls(schedule=schedule, exactly=exactly, until_s=cls().until_s if until_s is None else until_s)

    def to_text(self) -> str:
        """The faults at their times and opportunities as a text without blanks or quotes; rates have no place in it."""
        told = [*map(written, self.schedule), *map(written, self.exactly)]
        if self.until_s != Faults().until_s:
            told.append(f"{UNTIL}{self.until_s!r}")
        return ",".join(told)

    @property
    def count(self) -> int:
        """How many there are at times and opportunities of their own."""
        return len(self.schedule) + len(self.exactly)

    @property
    def has_rates(self) -> bool:
        return any(getattr(self, name) for name in _USUAL)

    def each_alone(self) -> Iterator[Faults]:
        """For each kind that it has a rate of, nothing but that."""
        for name in _USUAL:
            if rate := getattr(self, name):
                yield replace(Faults(until_s=self.until_s), **{name: rate})

    def without(self, *kinds: str) -> Faults:
        """The same, and none of these."""
        rates: dict[str, Any] = {_field_of(kind): 0.0 for kind in kinds}
        return replace(self, **rates)

    def rate(self, kind: str) -> float:
        return float(getattr(self, kind))

    def rate_of(self, kind: str) -> float:
        """The rate of a kind by the name under which a run counts it."""
        return float(getattr(self, _field_of(kind)))

    def timed(self) -> Iterator[tuple[str, float]]:
        """The kinds that come by themselves, and how often in a minute."""
        for one in fields(self):
            if one.name.endswith(PER_MINUTE) and getattr(self, one.name):
                yield one.name.removesuffix(PER_MINUTE), getattr(self, one.name)

    def __str__(self) -> str:
        """Only what differs from no faults at all, as one would write it."""
        told = [
            f"{one.name}={value:.4g}" if isinstance(value, float) else f"{one.name}={value!r}"
            for one in fields(self)
            if (value := getattr(self, one.name)) != one.default
        ]
        return f"Faults({', '.join(told)})"


def _field_of(kind: str) -> str:
    return next(one.name for one in fields(Faults) if one.name in (kind, kind + PER_MINUTE, kind + "_s"))


# -- as text -----------------------------------------------------------------------------------------------------------

UNTIL = "until~"
_NTH = re.compile(r"([a-z_]+)(?:@([^,#\s]+))?#([1-9]\d*)")
_AT = re.compile(r"([a-z_]+)(?:@([^,#\s]+))?~([^~:,\s]+):([^~:,\s]+)")


def written(fault: At | Nth) -> str:
    """As ``crash_after_commit@orders#12``, its 12th opportunity there, or ``pause@payment~3.25:10.0``, at 3.25 s."""
    if isinstance(fault, Nth):
        return f"{fault.kind}{_place(fault.where)}#{fault.number}"
    return f"{fault.kind}{_place(fault.machine)}~{fault.at_s!r}:{fault.for_s!r}"


def _place(name: str) -> str:
    return f"@{plain(name)}" if name else ""


def plain(name: str) -> str:
    """The name without what means something in a shell, or in a list with commas."""
    return quote(name, safe="/:._-")


def read(text: str) -> tuple[tuple[At, ...], tuple[Nth, ...], float | None]:
    """What `written` has written, and until when faults happen, if that is said.

    Raises:
        ValueError: says which part of it is none.
    """
    schedule: list[At] = []
    exactly: list[Nth] = []
    until_s = None
    for part in filter(None, text.split(",")):
        try:
            if part.startswith(UNTIL):
                until_s = float(part.removeprefix(UNTIL))
            elif found := _NTH.fullmatch(part):
                exactly.append(Nth(_point(found[1]), int(found[3]), unquote(found[2] or "")))
            elif found := _AT.fullmatch(part):
                schedule.append(At(float(found[3]), found[1], unquote(found[2] or ""), float(found[4])))
            else:
                raise ValueError("it is written as in crash_after_commit@orders#12 or pause@payment~3.25:10.0")
        except ValueError as error:
            raise ValueError(f"{part!r} is no fault: {error}") from None
    return tuple(schedule), tuple(exactly), until_s


def _point(kind: str) -> str:
    if kind not in POINTS:
        raise ValueError(f"what happens, or not, when something is done is one of {', '.join(POINTS)}")
    return kind


def rates(text: str) -> Faults:
    """What a person writes who wants some kinds of faults: ``kill=4,message_doubled=0.2``.

    Raises:
        ValueError: names the kinds that there are, or says what is wrong with a rate.
    """
    chosen: dict[str, Any] = {}
    for part in filter(None, text.split(",")):
        kind, _, rate = part.partition("=")
        field = next((name for name in _USUAL if kind in (name, _kind_of(name))), None)
        if field is None:
            raise ValueError(f"there is no fault {kind!r}; there are {', '.join(KINDS)}")
        try:
            chosen[field] = float(rate)
        except ValueError:
            raise ValueError(f"{part!r} has no rate; write it as in {kind}={_USUAL[field]:g}") from None
        if not 0 <= chosen[field] <= (1 if field in POINTS else 3600):
            raise ValueError(f"{part!r}: a rate is from 0 to {1 if field in POINTS else 3600}")
    return replace(Faults(), **chosen)


def _kind_of(name: str) -> str:
    return name.removesuffix(PER_MINUTE).removesuffix("_s")


_USUAL: dict[str, float] = {
    "crash_before_commit": 0.008,
    "crash_after_commit": 0.008,
    "crash_before_publish": 0.008,
    "crash_after_publish": 0.008,
    "crash_before_settle": 0.008,
    "crash_after_settle": 0.008,
    "kill_per_minute": 4.0,
    "restart_per_minute": 4.0,
    "deploy_per_minute": 4.0,
    "pause_per_minute": 4.0,
    "zombie_per_minute": 4.0,
    "store_busy": 0.02,
    "store_deadlock": 0.02,
    "disk_full": 0.02,
    "publish_refused": 0.03,
    "confirm_lost": 0.03,
    "message_doubled": 0.08,
    "message_delayed": 0.08,
    "message_reordered": 0.15,
    "message_expired": 0.05,
    "settle_lost": 0.03,
    "garbage": 0.01,
    "broker_down_per_minute": 3.0,
    "request_lost": 0.04,
    "reply_lost": 0.04,
    "reply_slow": 0.04,
    "reply_garbage": 0.04,
    "clock_jump_per_minute": 3.0,
    "clock_skew_s": 300.0,
    "operator_per_minute": 6.0,
    "operator_pause_per_minute": 4.0,
}

KINDS = tuple(map(_kind_of, _USUAL))
"""Every kind of fault, by the name under which a run counts it."""
POINTS = tuple(name for name in _USUAL if not name.endswith((PER_MINUTE, "_s")))
"""The kinds that happen, or not, when something is done; the others come at a time."""
