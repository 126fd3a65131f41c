"""Who takes part: minuet in its ways, the peers, and the limits. Each is a program that prints one JSON line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

Kind = Literal["minuet", "peer", "limit"]


@dataclass(frozen=True, slots=True)
class Contender:
    """
    Attributes:
        panel: the part of the plot it belongs to: what it keeps its state in, or is carried by.
        environment: whose environment it runs in; ours if empty. See `benchmarks.environments`.
        servers: by their names in `dev.servers`.
        only_in_flight: if it makes no sense with other numbers.
        has_slow_disk: each of its fsync takes 4 ms longer.
    """

    name: str
    kind: Kind
    panel: str
    what: str
    module: str
    arguments: tuple[str, ...] = ()
    environment: str = ""
    servers: tuple[str, ...] = ()
    only_in_flight: tuple[int, ...] = ()
    has_slow_disk: bool = False


def minuet(name: str, panel: str, what: str, *arguments: str, **more: object) -> Contender:
    return Contender(name, "minuet", panel, what, "benchmarks.ours", arguments, **more)  # type: ignore[arg-type]


def peer(name: str, panel: str, what: str, environment: str, *arguments: str, **more: object) -> Contender:
    module = f"benchmarks.peers.{environment}"
    return Contender(name, "peer", panel, what, module, arguments, environment, **more)  # type: ignore[arg-type]


def limit(name: str, panel: str, what: str, module: str, *arguments: str, **more: object) -> Contender:
    return Contender(name, "limit", panel, what, f"benchmarks.limits.{module}", arguments, **more)  # type: ignore[arg-type]


def on_broker(name: str, title: str) -> list[Contender]:
    """Who uses this broker, next to each other: what is compared is measured within the same minute."""
    through = ("--broker", name)
    servers = (name,)
    return [
        minuet(
            f"choreography-{name}",
            title,
            f"choreography on {title}, with outbox and inbox, SQLite",
            *("--coordination", "choreography", "--transport", name),
            servers=servers,
        ),
        peer(
            f"faststream-{name}",
            title,
            f"FastStream on {title}, SQLite, neither outbox nor inbox",
            "faststream",
            *through,
            servers=servers,
        ),
        peer(
            f"faststream-{name}-outbox",
            title,
            f"FastStream on {title}, SQLite, outbox and inbox by hand",
            "faststream",
            *through,
            "--outbox",
            servers=servers,
        ),
        limit(
            f"raw-{name}",
            title,
            f"four messages an order through {title} with its own client, no database",
            "broker",
            *through,
            servers=servers,
        ),
    ]


CHOREOGRAPHY = ("--coordination", "choreography")
ORCHESTRATION = ("--coordination", "orchestration")
ON_POSTGRES = ("--store", "postgres")

CONTENDERS: Sequence[Contender] = (
    limit("commits", "SQLite", "an order's five commits one by one, SQLite", "commits", only_in_flight=(1,)),
    minuet("orchestration", "SQLite", "orchestration, embedded SQLite", *ORCHESTRATION),
    minuet("choreography", "SQLite", "choreography, embedded SQLite", *CHOREOGRAPHY),
    limit("ideal-sqlite", "SQLite", "bare loop with group commit, SQLite", "ideal"),
    peer("dbos-sqlite", "SQLite", "DBOS on SQLite in WAL mode", "dbos", "--store", "sqlite"),
    peer("temporal", "SQLite", "Temporal's development server, local activities, SQLite", "temporal"),
    peer("temporal-remote", "SQLite", "the same with ordinary activities", "temporal", "--activities", "remote"),
    peer("restate", "SQLite", "Restate, rows on SQLite", "restate"),
    *on_broker("nats", "NATS JetStream"),
    *on_broker("rabbitmq", "RabbitMQ"),
    *on_broker("kafka", "Kafka"),
    minuet(
        "orchestration-postgres",
        "PostgreSQL",
        "orchestration, PostgreSQL",
        *ORCHESTRATION,
        *ON_POSTGRES,
        servers=("postgres",),
    ),
    limit(
        "ideal-postgres",
        "PostgreSQL",
        "bare loop with group commit, PostgreSQL",
        "ideal",
        *ON_POSTGRES,
        servers=("postgres",),
    ),
    peer("dbos-postgres", "PostgreSQL", "DBOS on PostgreSQL", "dbos", *ON_POSTGRES, servers=("postgres",)),
    minuet("http", "HTTP", "orchestration, a process for each participant, over HTTP", "--participants", "http"),
    limit("raw-http", "HTTP", "an order's five calls to such processes, which do nothing", "http"),
    minuet(
        "orchestration-slow-disk",
        "SQLite, slow disk",
        "orchestration, an fsync takes 4 ms",
        *ORCHESTRATION,
        has_slow_disk=True,
    ),
    minuet(
        "choreography-slow-disk",
        "SQLite, slow disk",
        "choreography, an fsync takes 4 ms",
        *CHOREOGRAPHY,
        has_slow_disk=True,
    ),
    limit("ideal-slow-disk", "SQLite, slow disk", "the bare loop, an fsync takes 4 ms", "ideal", has_slow_disk=True),
)


class NobodyOfThatName(Exception):
    """A pattern fits no contender; the message lists them."""


def chosen(patterns: Sequence[str]) -> list[Contender]:
    """Those whose names fit one of the patterns, in their order; all, if there is no pattern.

    Raises:
        NobodyOfThatName: a pattern fits nobody.
    """
    for pattern in patterns:
        if not any(fnmatchcase(one.name, pattern) for one in CONTENDERS):
            raise NobodyOfThatName(f"no contender fits {pattern!r}; there are {', '.join(o.name for o in CONTENDERS)}")
    return [one for one in CONTENDERS if not patterns or any(fnmatchcase(one.name, each) for each in patterns)]
