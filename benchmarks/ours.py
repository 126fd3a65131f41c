"""One measurement of minuet: the order saga in one coordination, on one store and one transport. Prints one JSON line.

All services are in this process, and so is the load. With ``--participants http`` each service has a process of its
own, which the orchestrator in this one asks over HTTP. With ``--processes`` the services of a choreography are dealt
out to so many processes on one folder. With ``--steps`` or ``--note-bytes`` it is another saga: see `long_saga`.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sqlite3
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks import harness, order_saga
from benchmarks.harness import STEPS, arguments, asked, measured, order, report
from benchmarks.long_saga import app_of
from benchmarks.postgres import new_database
from minuet import App, Command, Coordination, Settings, System, running
from minuet.bootstrap import everything
from minuet.cli.process import settle
from minuet.settings import Orchestration, Reconciliation, Retention

SAGA = order_saga.SAGA
SERVICE_OF = {"inventory": "inventory", "payment": "payment", "shipping": "shipping", "order_status": "orders"}
READY = "ready"
PARTITIONS = 4


@dataclass(frozen=True, slots=True)
class Work:
    """
    Attributes:
        place: the command that begins the order with this number.
        counted: for each table what a row of it looks like, as the pattern of a LIKE; all have as many such rows.
    """

    app: App
    place: Callable[[int], Command]
    counted: dict[str, str]


def work_of(given: argparse.Namespace) -> Work:
    if not (given.steps or given.note_bytes):
        return Work(order_saga.app, lambda number: order_saga.Place(**order(number)), dict.fromkeys(STEPS, "%"))
    steps, note = given.steps or len(STEPS), "x" * given.note_bytes
    app = app_of(steps)
    (place,) = (command for command in app.services["orders"].commands if command.__name__ == "Place")
    last = steps - 1
    return Work(
        app,
        lambda number: place(order_id=order(number)["order_id"], note=note),  # type: ignore[call-arg]
        {STEPS[last % len(STEPS)]: f"%/{last}"},
    )


def settings_of(given: argparse.Namespace, store: str) -> Settings:
    """Channels go to names on the broker that no other measurement has."""
    name = f"bench-{uuid.uuid4().hex[:8]}"
    server = os.environ.get(f"{given.transport.upper()}_URL", "")
    channel = {
        "embedded": "embedded:",
        "nats": f"{server}/{name}",
        "rabbitmq": f"{server}/{name}",
        "kafka": f"{server}/{name}.{{channel}}?partitions={PARTITIONS}",
    }[given.transport]
    return Settings(
        data=given.dir,
        port=0,
        coordination={SAGA: Coordination(given.coordination)},
        stores={"default": store},
        channels={"*": channel},
        orchestration=Orchestration(participants=given.participants),
        reconciliation=Reconciliation(every_s=0),
        retention=Retention(keep_days=given.keep_s / 86_400),
    )


def commits_of(system: System) -> int:
    parts = (*system.stores.values(), *system.transports.values())
    return sum(getattr(part, "commits", 0) for part in parts)


def published_of(system: System) -> int:
    return sum(one.relay.published for one in system.workers.values())


def rows_of(work: Work, folder: Path, store: str) -> int:
    """How many orders have all their rows."""
    counts = set()
    for table, pattern in work.counted.items():
        if store == "sqlite:":
            with closing(sqlite3.connect(folder / f"{SERVICE_OF[table]}.db")) as database:
                counted = f"SELECT count(*) FROM {table} WHERE order_id LIKE ?"
                counts.add(database.execute(counted, (pattern,)).fetchone()[0])
        else:
            import psycopg

            with psycopg.connect(store) as connection:
                counted = f"SELECT count(*) FROM {SERVICE_OF[table]}.{table} WHERE order_id LIKE %s"
                counts.add((connection.execute(counted.encode(), (pattern,)).fetchone() or (0,))[0])
    assert len(counts) == 1, counts
    return int(counts.pop())


async def to_its_end(system: System, order_id: str) -> None:
    end = await system.ended(SAGA, order_id)
    assert end.value == "completed", (order_id, end)


async def measure(given: argparse.Namespace, work: Work, settings: Settings, store: str) -> dict[str, Any]:
    """With the load in this process, and all services or those that no other process has."""
    here, *others = dealt(work.app, given.processes)
    with other_processes(others):
        async with running(work.app, settings, services=here) as system:
            settle()
            ready_s = since_start_s()

            async def one_order(number: int) -> None:
                await system.send(work.place(number))
                await to_its_end(system, order(number)["order_id"])

            await one_order(given.first)
            first_order_s = since_start_s()
            before = rows_of(work, given.dir, store) if given.processes == 1 else 0

            async def rows() -> int:
                await system.drained()
                return rows_of(work, given.dir, store) - before

            found = await measured(
                one_order,
                replace(asked(given), first=given.first + 1),
                counters=(lambda: {}) if others else lambda: counted(system),
                rows=rows if given.processes == 1 else None,
            )
            return {**found, "ready_ms": round(ready_s * 1e3), "first_order_ms": round(first_order_s * 1e3)}


def counted(system: System) -> dict[str, float]:
    return {"commits": commits_of(system), "messages": published_of(system)}


def since_start_s() -> float:
    """How old this process is."""
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / harness.TICK


async def measure_over_http(given: argparse.Namespace, work: Work, settings: Settings) -> dict[str, Any]:
    """Orders are placed over HTTP; their end is heard by the orchestrator in this process."""
    with other_processes([[service] for service in work.app.services]):
        async with (
            running(work.app, settings, services=["orchestrator"]) as system,
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session,
        ):
            settle()
            url = f"{system.deployment.url_of('orders')}/orders"

            async def one_order(number: int) -> None:
                body = work.place(number).model_dump(mode="json", by_alias=True)
                async with session.post(url, json=body) as response:
                    assert response.status < 300, await response.text()
                    await response.read()
                await to_its_end(system, order(number)["order_id"])

            return await measured(one_order, asked(given), rows=lambda: rows_of(work, given.dir, "sqlite:"))


# -- more processes ----------------------------------------------------------------------------------------------------


def dealt(app: App, processes: int) -> list[list[str]]:
    """The services of each process, by default all; if there are several, the load's has ``orders`` only."""
    if processes == 1:
        return [everything(app)]
    first, *others = app.services
    hands: list[list[str]] = [[] for _ in range(processes - 1)]
    for number, name in enumerate(others):
        hands[number % len(hands)].append(name)
    return [[first], *hands]


@contextmanager
def other_processes(hands: Sequence[Sequence[str]]) -> Iterator[None]:
    """A process for each of these lists of services, all ready, until the block ends."""
    started: list[subprocess.Popen[str]] = []
    try:
        for services in hands:
            command = [sys.executable, "-m", "benchmarks.ours", *sys.argv[1:], "--serve", ",".join(services)]
            started.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        for process in started:
            assert process.stdout is not None
            if process.stdout.readline().strip() != READY:
                raise RuntimeError("a process of services did not start")
        yield
    finally:
        for process in started:  # the end of their input ends them
            assert process.stdin is not None
            process.stdin.close()
        for process in started:
            process.wait()


async def serve(given: argparse.Namespace, work: Work, settings: Settings) -> None:
    """Be one of them."""
    over_http = given.participants == "http"
    async with running(work.app, settings, services=given.serve.split(","), serve=over_http):
        settle()
        print(READY, flush=True)
        await asyncio.to_thread(sys.stdin.read)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--coordination", choices=["choreography", "orchestration"], default="orchestration")
    parser.add_argument("--store", choices=["sqlite", "postgres"], default="sqlite")
    parser.add_argument("--transport", choices=["embedded", "nats", "rabbitmq", "kafka"], default="embedded")
    parser.add_argument("--participants", choices=["local", "http"], default="local")
    parser.add_argument("--processes", type=int, default=1, help="of a choreography on the embedded broker")
    parser.add_argument("--steps", type=int, default=0, help="of another saga than the order's")
    parser.add_argument("--note-bytes", type=int, default=0, help="that each message carries")
    parser.add_argument("--keep-s", type=float, default=0.0, help="forget what has been over for so long; 0: nothing")
    parser.add_argument("--first", type=int, default=1, help="the number of the first order, if the folder has some")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    given = parser.parse_args()
    work = work_of(given)
    if given.serve:
        asyncio.run(serve(given, work, settings_of(given, "sqlite:")))
        return
    store = new_database() if given.store == "postgres" else "sqlite:"
    settings = settings_of(given, store)
    if given.participants == "http":
        report(asyncio.run(measure_over_http(given, work, settings)))
    else:
        report(asyncio.run(measure(given, work, settings, store)))


if __name__ == "__main__":
    main()
