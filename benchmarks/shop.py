"""One measurement: the shop's saga in one coordination, every durable step with synchronous=FULL. Prints one JSON line.

Four services take part, each with its own database, and the orchestrator, all in one process; `--with-notifications`
adds the one that only listens.

A closed loop: so many orders are in flight, and each that ends lets the next one in. Every order goes the whole way:
reserve, charge, ship, set the status; none is refused. The load comes from the same process as the services.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

from minuet import App, Settings, System, running
from minuet.cli.process import settle
from minuet_shop import app as whole_shop
from minuet_shop.contracts import PlaceOrder, SetStock
from minuet_shop.outside import Carrier, Gateway

SAGA = "OrderProcessing"
ITEMS = ["ITEM001", "ITEM005"]


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
    settings = Settings(coordination={SAGA: args.coordination}, data=data, port=0)
    over_http = args.outside == "http"
    given: dict[type[Any], Any] = {} if over_http else {Gateway: NoGateway(), Carrier: NoCarrier()}
    async with running(services_of(args), settings, serve=over_http, provided=given) as system:
        for item in ITEMS:
            await system.send(SetStock(item=item, on_hand=10_000_000))
        yield system


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


def busy_s() -> float:
    """CPU seconds that the whole machine was busy."""
    fields = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
    return (sum(fields) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")


async def measure(args: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir=args.dir) as folder:
        async with shop(args, Path(folder)) as system:
            settle()
            await drive(system, 10_000_000, args.warm_up, args.in_flight)
            await system.drained()
            commits, published = commits_of(system), sum(one.relay.published for one in system.workers.values())
            cpu, busy, started = time.process_time(), busy_s(), time.perf_counter()
            latencies = sorted(await drive(system, 0, args.orders, args.in_flight))
            wall_s = time.perf_counter() - started
            cpu_s = time.process_time() - cpu
            await system.drained()
            return {
                "coordination": args.coordination,
                "outside": args.outside,
                "orders": args.orders,
                "in_flight": args.in_flight,
                "orders_per_s": round(args.orders / wall_s, 1),
                "p50_ms": round(latencies[len(latencies) // 2] * 1e3, 2),
                "p99_ms": round(latencies[int(len(latencies) * 0.99)] * 1e3, 2),
                "cpu_ms_per_order": round(cpu_s / args.orders * 1e3, 3),
                "commits_per_order": round((commits_of(system) - commits) / args.orders, 3),
                "messages_per_order": round(
                    (sum(one.relay.published for one in system.workers.values()) - published) / args.orders, 2
                ),
                "peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
                "others_busy_cores": round(max(0.0, busy_s() - busy - cpu_s) / wall_s, 2),
            }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--coordination", choices=["choreography", "orchestration"], default="choreography")
    parser.add_argument("--outside", choices=["none", "http"], default="none")
    parser.add_argument("--with-notifications", action="store_true")
    parser.add_argument("--orders", type=int, default=2000)
    parser.add_argument("--in-flight", type=int, default=64)
    parser.add_argument("--warm-up", type=int, default=200)
    parser.add_argument("--dir", default=None, help="where the databases are; by default the system's temporary folder")
    print(json.dumps(asyncio.run(measure(parser.parse_args()))))


if __name__ == "__main__":
    main()
