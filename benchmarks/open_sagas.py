"""What an open saga holds in memory: so many wait for the next attempt of a step. Prints one JSON line."""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import logging
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from benchmarks.harness import TABLE, order
from benchmarks.order_saga import SAGA, NoAddress, Place, Ship, Shipped, app
from minuet import App, Coordination, RetryPolicy, Service, Settings, running

OPEN = 4000
BEFORE = 400
"""So many are open before it is measured: what is needed once is there then."""
LOOK_S = 0.1
LOOKS_MAX = 1200
AT_ONCE = 64
DELAY_S = 86_400.0


class NoCarrier(Exception):
    """Nobody answers; it is asked again much later."""


def waiting_app() -> App:
    """The order saga, whose carrier does not answer."""
    shipping = Service("shipping", schema=TABLE.format(table="IF NOT EXISTS shipping") + ";")

    @shipping.handles(Ship, retry=RetryPolicy(first_s=DELAY_S, delay_max_s=DELAY_S))
    async def ship(command: Ship) -> Shipped | NoAddress:
        raise NoCarrier(command.order_id)

    services = [service for name, service in app.services.items() if name != "shipping"]
    return App("bench", services=[*services, shipping], sagas=app.sagas)


def memory_kb() -> int:
    gc.collect()
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss_Anon:"))


def paid(folder: Path) -> int:
    """How many orders are paid, and so have come to the step that does not end."""
    with closing(sqlite3.connect(folder / "payment.db")) as database:
        ((count,),) = database.execute("SELECT count(*) FROM payment").fetchall()
    return int(count)


async def measure(folder: Path, coordination: str) -> dict[str, Any]:
    settings = Settings(data=folder, coordination={SAGA: Coordination(coordination)}, grace_s=0.1)
    async with running(waiting_app(), settings) as system:
        memory_at: dict[int, int] = {}
        numbers = iter(range(1, OPEN + 1))
        for count in (BEFORE, OPEN):

            async def customer(count: int = count) -> None:
                for number in numbers:
                    await system.send(Place(**order(number)))
                    if number >= count:
                        return

            await asyncio.gather(*(customer() for _ in range(AT_ONCE)))
            for _ in range(LOOKS_MAX):
                if paid(folder) >= count:
                    break
                await asyncio.sleep(LOOK_S)
            memory_at[paid(folder)] = memory_kb()
        (few, before), (many, after) = memory_at.items()
        return {
            "coordination": coordination,
            "open": many,
            "kb_per_open_saga": round((after - before) / (many - few), 2),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--coordination", choices=["choreography", "orchestration"], default="orchestration")
    parser.add_argument("--dir", type=Path, required=True, help="an empty folder")
    given = parser.parse_args()
    logging.disable()  # of each attempt that failed
    print(json.dumps(asyncio.run(measure(given.dir, given.coordination))))


if __name__ == "__main__":
    main()
