"""Where minuet wants to get to, each goal a ratio of two figures of one run, or a time; and whether it is there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.figures import Row, Spread, failures, number, ratios

At = tuple[str, int]
"""A contender, and the number of orders in flight."""


@dataclass(frozen=True, slots=True)
class Goal:
    """A ratio that two contenders are to have: at least, or at most, so many times."""

    what: str
    ours: At
    theirs: At
    at_least: float | None = None
    at_most: float | None = None
    figure: str = "orders_per_s"


@dataclass(frozen=True, slots=True)
class TimeGoal:
    """A figure that was measured by itself and is to be below a bound. See `benchmarks.start`, `benchmarks.growth`."""

    what: str
    name: str
    below: float
    unit: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """
    Attributes:
        is_met: None if it was not measured; `why` then says why not.
        by_cpu: the same ratio of CPU times per order, all processes, which a busy machine disturbs less.
    """

    goal: str
    wanted: str
    measured: str
    is_met: bool | None
    median: float | None = None
    why: str = ""
    by_cpu: str = ""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def _on_broker(name: str, title: str, times: float) -> list[Goal]:
    ours = (f"choreography-{name}", 64)
    return [
        Goal(f"choreography on {title} / FastStream on it", ours, (f"faststream-{name}", 64), at_least=times),
        Goal(f"choreography on {title} / its raw client", ours, (f"raw-{name}", 64), at_least=0.5),
    ]


ORCHESTRATION, CHOREOGRAPHY = ("orchestration", 64), ("choreography", 64)
ON_POSTGRES = ("orchestration-postgres", 64)
GOALS: Sequence[Goal] = (
    Goal("orchestration, SQLite / DBOS on SQLite", ORCHESTRATION, ("dbos-sqlite", 64), at_least=40),
    Goal("orchestration, SQLite / Temporal dev server", ORCHESTRATION, ("temporal", 64), at_least=60),
    Goal("orchestration, SQLite / Restate", ORCHESTRATION, ("restate", 64), at_least=10),
    Goal("orchestration, SQLite / the ideal loop", ORCHESTRATION, ("ideal-sqlite", 64), at_least=0.4),
    Goal("orchestration, PostgreSQL / DBOS on it", ON_POSTGRES, ("dbos-postgres", 64), at_least=20),
    Goal("orchestration, PostgreSQL / the ideal loop", ON_POSTGRES, ("ideal-postgres", 64), at_least=0.3),
    Goal(
        "choreography, SQLite / FastStream on JetStream with outbox and inbox",
        CHOREOGRAPHY,
        ("faststream-nats-outbox", 64),
        at_least=10,
    ),
    *_on_broker("nats", "JetStream", 4),
    *_on_broker("rabbitmq", "RabbitMQ", 2),
    *_on_broker("kafka", "Kafka", 4),
    Goal("HTTP participants / the bare calls", ("http", 64), ("raw-http", 64), at_least=0.7),
    Goal(
        "orchestration, 4 ms fsync / fast disk, 256 in flight",
        ("orchestration-slow-disk", 256),
        ("orchestration", 256),
        at_least=0.5,
    ),
    Goal(
        "choreography, 4 ms fsync / fast disk, 256 in flight",
        ("choreography-slow-disk", 256),
        ("choreography", 256),
        at_least=0.5,
    ),
    Goal(
        "one order alone, orchestration: p50 / five bare commits",
        ("orchestration", 1),
        ("commits", 1),
        at_most=3,
        figure="p50_ms",
    ),
    Goal(
        "one order alone, choreography: p50 / five bare commits",
        ("choreography", 1),
        ("commits", 1),
        at_most=3,
        figure="p50_ms",
    ),
)
TIME_GOALS: Sequence[TimeGoal] = (
    TimeGoal("a million finished sagas, orchestration: slower by", "slower_orchestration", 10, "%"),
    TimeGoal("a million finished sagas, choreography: slower by", "slower_choreography", 10, "%"),
    TimeGoal("import minuet", "import_minuet_ms", 150, "ms"),
    TimeGoal("minuet --help", "minuet_help_ms", 300, "ms"),
)


def needed(goals: Sequence[Goal] = GOALS) -> set[At]:
    """What has to be measured to judge them all."""
    return {at for goal in goals for at in (goal.ours, goal.theirs)}


def judge(rows: Sequence[Row], times: Mapping[str, Spread], goals: Sequence[Goal] = GOALS) -> list[Verdict]:
    """One verdict for each goal, in their order; what was not measured says why."""
    return [_judge(goal, rows) for goal in goals] + [_judge_time(goal, times) for goal in TIME_GOALS]


def _judge(goal: Goal, rows: Sequence[Row]) -> Verdict:
    wanted = (
        f"at least {number(goal.at_least)}" if goal.at_least is not None else f"at most {number(goal.at_most or 0)}"
    )
    found = ratios(rows, goal.figure, goal.ours, goal.theirs)
    if found is None:
        reasons = [reason for at in (goal.ours, goal.theirs) for reason in failures(rows, *at)]
        return Verdict(goal.what, wanted, "", None, why="; ".join(reasons) or "not in this run")
    is_met = found.median >= goal.at_least if goal.at_least is not None else found.median <= (goal.at_most or 0)
    by_cpu = ratios(rows, "cpu_ms_per_order", goal.theirs, goal.ours) if goal.figure == "orders_per_s" else None
    return Verdict(goal.what, wanted, str(found), is_met, found.median, by_cpu=str(by_cpu or ""))


def _judge_time(goal: TimeGoal, times: Mapping[str, Spread]) -> Verdict:
    wanted = f"below {number(goal.below)} {goal.unit}"
    found = times.get(goal.name)
    if found is None:
        return Verdict(goal.what, wanted, "", None, why="not in this run; see python -m benchmarks.growth")
    return Verdict(goal.what, wanted, f"{found} {goal.unit}", found.median < goal.below, found.median)
