"""One measurement: the shop's saga in one coordination, every durable step with synchronous=FULL. Prints one JSON line.

Four services take part, each with its own database, and the orchestrator; `--with-notifications` adds the one that only
listens. All are in this process, or, with `--processes 2`, those that do the work are in a second one (`--half`), which
reads the orders from its read model, so that nothing goes over HTTP.

A closed loop: so many orders are in flight, and each that ends lets the next one in. Every order goes the whole way:
reserve, charge, ship, set the status; none is refused. The load comes from the same process as the services.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

from minuet import App, Settings, System, running
from minuet.bootstrap import everything
from minuet.cli.process import settle
from minuet_shop import app as whole_shop
from minuet_shop.contracts import PlaceOrder, SetStock
from minuet_shop.outside import Carrier, Gateway

SAGA = "OrderProcessing"
ITEMS = ["ITEM001", "ITEM005"]
WORKERS = ["inventory", "payment", "shipping"]


class NoGateway:
    """A payment company that says yes at once: what is measured is minuet, not somebody's HTTP server."""

    async def charge(self, *, order_id: str, customer_id: str, amount: Decimal, key: str) -> None:
        return None

    async def refund(self, *, order_id: str) -> Decimal:
        return Decimal(0)


class NoCarrier:
    """A carrier that says yes at once."""

    async def ship(self, *, order_id: str, customer_id: str, key: str) -> str:
        return f"TRK-{order_id}"

    async def cancel(self, *, order_id: str) -> None:
        return None


def services_of(args: argparse.Namespace) -> App:
    left_out = set() if args.with_notifications else {"notifications"}
    services = [service for name, service in whole_shop.services.items() if name not in left_out]
    return App("shop", services=services, sagas=whole_shop.sagas, read_models=whole_shop.read_models)


@asynccontextmanager
async def shop(args: argparse.Namespace, data: Path) -> AsyncIterator[System]:
    """The services of this process, and those of the other if there is to be one."""
    app = services_of(args)
    over_http = args.outside == "http"
    given: dict[type[Any], Any] = {} if over_http else {Gateway: NoGateway(), Carrier: NoCarrier()}
    chosen, queries = None, {}
    if args.processes == 2:
        others = [name for name in everything(app) if name not in WORKERS]
        chosen, queries = (WORKERS if args.half else others), {"GetOrder": "read_model"}
    settings = Settings(coordination={SAGA: args.coordination}, data=data, port=0, queries=queries)
    async with AsyncExitStack() as stack:
        system = await stack.enter_async_context(
            running(app, settings, services=chosen, serve=over_http, provided=given)
        )
        if "inventory" in system.services:
            for item in ITEMS:
                await system.send(SetStock(item=item, on_hand=10_000_000))
        settle()
        yield system


@contextmanager
def other_half(args: argparse.Namespace, data: Path) -> Iterator[subprocess.Popen[str] | None]:
    """The second process, once it is ready."""
    if args.processes == 1:
        yield None
        return
    command = [sys.executable, "-m", "benchmarks.shop", "--half", "--processes", "2", "--dir", str(data)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.communicate("stop\n")


async def be_the_other_half(args: argparse.Namespace) -> None:
    async with shop(args, Path(args.dir)):
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)


def cpu_s(other: subprocess.Popen[str] | None) -> float:
    """CPU seconds of this process, and of the other."""
    used = time.process_time()
    if other is not None:
        fields = Path(f"/proc/{other.pid}/stat").read_text().rpartition(")")[2].split()
        used += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return used


async def drive(system: System, first: int, orders: int, in_flight: int) -> list[float]:
    """Place orders and wait for their end; the latency of each, in seconds."""
    numbers = iter(range(first, first + orders))
    latencies: list[float] = []

    async def customer() -> None:
        for number in numbers:
            started = time.perf_counter()
            order_id = f"B{number:08d}"
            await system.send(PlaceOrder(order_id=order_id, customer_id=f"C{number % 997}", items=ITEMS))
            end = await system.ended(SAGA, order_id)
            assert end.value == "completed", (order_id, end)
            latencies.append(time.perf_counter() - started)

    await asyncio.gather(*(customer() for _ in range(in_flight)))
    return latencies


def commits_of(system: System) -> int:
    return sum(store.commits for store in system.stores.values()) + sum(
        getattr(transport, "commits", 0) for transport in system.transports.values()
    )


def published_of(system: System) -> int:
    return sum(one.relay.published for one in system.workers.values())


def busy_s() -> float:
    """CPU seconds that the whole machine was busy."""
    fields = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
    return (sum(fields) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")


async def measure(args: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir=args.dir) as folder, other_half(args, Path(folder)) as other:
        async with shop(args, Path(folder)) as system:
            await drive(system, 10_000_000, args.warm_up, args.in_flight)
            await system.drained()
            commits, published = commits_of(system), published_of(system)
            cpu, busy, started = cpu_s(other), busy_s(), time.perf_counter()
            latencies = sorted(await drive(system, 0, args.orders, args.in_flight))
            wall_s, used_s = time.perf_counter() - started, cpu_s(other) - cpu
            others_s = busy_s() - busy - used_s
            await system.drained()
            found = {
                "coordination": args.coordination,
                "processes": args.processes,
                "outside": args.outside,
                "orders": args.orders,
                "in_flight": args.in_flight,
                "orders_per_s": round(args.orders / wall_s, 1),
                "p50_ms": round(latencies[len(latencies) // 2] * 1e3, 2),
                "p99_ms": round(latencies[int(len(latencies) * 0.99)] * 1e3, 2),
                "cpu_ms_per_order": round(used_s / args.orders * 1e3, 3),
                "peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
                "others_busy_cores": round(max(0.0, others_s) / wall_s, 2),
            }
            if other is None:  # the other process's counters are its own
                found["commits_per_order"] = round((commits_of(system) - commits) / args.orders, 3)
                found["messages_per_order"] = round((published_of(system) - published) / args.orders, 2)
            return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--coordination", choices=["choreography", "orchestration"], default="choreography")
    parser.add_argument("--outside", choices=["none", "http"], default="none")
    parser.add_argument("--processes", type=int, choices=[1, 2], default=1)
    parser.add_argument("--half", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--with-notifications", action="store_true")
    parser.add_argument("--orders", type=int, default=2000)
    parser.add_argument("--in-flight", type=int, default=64)
    parser.add_argument("--warm-up", type=int, default=200)
    parser.add_argument("--dir", default=None, help="where the databases are; by default the system's temporary folder")
    args = parser.parse_args()
    if args.half:
        asyncio.run(be_the_other_half(args))
    else:
        print(json.dumps(asyncio.run(measure(args))))


if __name__ == "__main__":
    main()
