"""A peer: choreography with FastStream. Four services hear an event each and publish the next. Prints one JSON line.

Plain, a service commits its row, publishes the next event with the broker's confirmation, and acknowledges: a crash in
between does it twice, or the event is lost. With ``--outbox`` the row, the mark that the event was heard and the next
event are one transaction, by hand; a relay, woken by each commit, publishes what is in the outbox, a hundred at a time.
The rows are on SQLite, in one file for all services.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sqlite3
import time
import uuid
from collections.abc import Awaitable, Callable
from importlib.metadata import version
from typing import Any

from faststream import AckPolicy
from pydantic import BaseModel

from benchmarks.harness import STEPS, arguments, asked, measured, order, report
from benchmarks.peers.rows import INSERT, open_file

WORKERS = 16
PREFETCHED = 64
RELAYED_MAX = 100
OPEN_S_MAX = 60.0
TABLES = (
    "CREATE TABLE inbox (service TEXT NOT NULL, event_id TEXT NOT NULL, PRIMARY KEY (service, event_id))",
    "CREATE TABLE outbox (id INTEGER PRIMARY KEY AUTOINCREMENT, hop INTEGER NOT NULL, body TEXT NOT NULL)",
)


class OrderEvent(BaseModel):
    event_id: str
    order_id: str
    customer_id: str
    sku: str
    quantity: int
    amount_cents: int
    currency: str
    address: str

    def next(self, hop: int) -> OrderEvent:
        return self.model_copy(update={"event_id": f"{self.order_id}/{hop}"})


Publish = Callable[[int, OrderEvent], Awaitable[Any]]
Handle = Callable[[OrderEvent], Awaitable[None]]


class Services:
    """The four of them, and their database."""

    def __init__(self, database: sqlite3.Connection, *, has_outbox: bool) -> None:
        self.database = database
        self.has_outbox = has_outbox
        self.publish: Publish
        self.published = 0
        self.commits = 0
        self.ending: dict[str, asyncio.Future[None]] = {}
        self.something = asyncio.Event()

    async def one_order(self, number: int) -> None:
        event = OrderEvent(event_id=f"{order(number)['order_id']}/0", **order(number))
        ending = self.ending[event.order_id] = asyncio.get_running_loop().create_future()
        if self.has_outbox:
            self.database.execute("INSERT INTO outbox (hop, body) VALUES (0, ?)", (event.model_dump_json(),))
            self.commits += 1
            self.something.set()
        else:
            await self.tell(0, event)
        await ending

    def handler(self, hop: int) -> Handle:
        """What the service of this hop does with an event."""
        is_last = hop == len(STEPS) - 1

        async def handle(event: OrderEvent) -> None:
            following = event.next(hop + 1)
            if self.has_outbox:
                self.do_once(hop, event, None if is_last else following)
            else:
                self.do(hop, event)
                if not is_last:
                    await self.tell(hop + 1, following)
            self.commits += 1
            if is_last and (ending := self.ending.pop(event.order_id, None)):
                ending.set_result(None)

        return handle

    def do(self, hop: int, event: OrderEvent) -> None:
        self.database.execute(INSERT.format(table=STEPS[hop]), (event.order_id, event.sku, time.time()))

    def do_once(self, hop: int, event: OrderEvent, following: OrderEvent | None) -> None:
        self.database.execute("BEGIN IMMEDIATE")
        try:
            mark = (STEPS[hop], event.event_id)
            if self.database.execute("INSERT INTO inbox VALUES (?, ?) ON CONFLICT DO NOTHING", mark).rowcount:
                self.do(hop, event)
                if following is not None:
                    row = (hop + 1, following.model_dump_json())
                    self.database.execute("INSERT INTO outbox (hop, body) VALUES (?, ?)", row)
            self.database.execute("COMMIT")
        except BaseException:
            self.database.execute("ROLLBACK")
            raise
        self.something.set()

    async def tell(self, hop: int, event: OrderEvent) -> None:
        self.published += 1
        await self.publish(hop, event)

    async def relay(self) -> None:
        while True:
            await self.something.wait()
            self.something.clear()
            while rows := self.database.execute(
                "SELECT id, hop, body FROM outbox ORDER BY id LIMIT ?", (RELAYED_MAX,)
            ).fetchall():
                await asyncio.gather(*(self.tell(hop, OrderEvent.model_validate_json(body)) for _, hop, body in rows))
                self.database.execute("BEGIN IMMEDIATE")
                self.database.executemany("DELETE FROM outbox WHERE id = ?", [(row[0],) for row in rows])
                self.database.execute("COMMIT")
                self.commits += 1

    def complete(self) -> int:
        counts = {self.database.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in STEPS}
        assert len(counts) == 1, counts
        return int(counts.pop())


def on_nats(services: Services, prefix: str) -> Any:
    from faststream.nats import JStream, NatsBroker
    from nats.js.api import StorageType

    broker = NatsBroker(os.environ["NATS_URL"], logger=None)
    stream = JStream(prefix, subjects=[f"{prefix}.*"], storage=StorageType.FILE)
    for hop, name in enumerate(STEPS):
        broker.subscriber(
            f"{prefix}.{name}",
            stream=stream,
            durable=name,
            ack_policy=AckPolicy.NACK_ON_ERROR,
            max_workers=WORKERS,
        )(services.handler(hop))
    services.publish = lambda hop, event: broker.publish(event, f"{prefix}.{STEPS[hop]}", stream=prefix)
    return broker


def on_rabbitmq(services: Services, prefix: str) -> Any:
    from faststream.rabbit import Channel, RabbitBroker, RabbitQueue

    broker = RabbitBroker(os.environ["RABBITMQ_URL"], logger=None)
    for hop, name in enumerate(STEPS):
        broker.subscriber(
            RabbitQueue(f"{prefix}.{name}", durable=True),
            ack_policy=AckPolicy.NACK_ON_ERROR,
            channel=Channel(prefetch_count=PREFETCHED),
        )(services.handler(hop))
    services.publish = lambda hop, event: broker.publish(event, f"{prefix}.{STEPS[hop]}", persist=True)
    return broker


def on_kafka(services: Services, prefix: str) -> Any:
    from faststream.confluent import KafkaBroker

    broker = KafkaBroker(os.environ["KAFKA_URL"].removeprefix("kafka://"), logger=None, acks="all")
    for hop, name in enumerate(STEPS):
        # Several workers it allows only to those who acknowledge before they have done anything.
        broker.subscriber(
            f"{prefix}.{name}",
            group_id=f"{prefix}.{name}",
            auto_offset_reset="earliest",
            ack_policy=AckPolicy.NACK_ON_ERROR,
        )(services.handler(hop))
    services.publish = lambda hop, event: broker.publish(event, f"{prefix}.{STEPS[hop]}", key=event.order_id)
    return broker


BROKERS = {"nats": on_nats, "rabbitmq": on_rabbitmq, "kafka": on_kafka}


async def measure(given: argparse.Namespace) -> dict[str, Any]:
    database = open_file(given.dir / "rows.db")
    for table in TABLES:
        database.execute(table)
    services = Services(database, has_outbox=given.outbox)
    broker = BROKERS[given.broker](services, f"fs-{uuid.uuid4().hex[:8]}")
    await broker.start()
    relaying = asyncio.create_task(services.relay())
    async with asyncio.timeout(OPEN_S_MAX):  # until everybody listens
        await services.one_order(0)
    found = await measured(
        services.one_order,
        asked(given),
        counters=lambda: {"messages": services.published, "commits": services.commits},
        rows=lambda: services.complete() - 1,
    )
    assert not relaying.done(), relaying.exception()
    return found


def main() -> None:
    logging.disable(logging.INFO)
    parser = arguments(__doc__)
    parser.add_argument("--broker", choices=BROKERS, required=True)
    parser.add_argument("--outbox", action="store_true")
    asyncio.run(measure_and_leave(parser.parse_args()))


async def measure_and_leave(given: argparse.Namespace) -> None:
    report(await measure(given), versions={"faststream": version("faststream")})
    os._exit(0)  # not all of its tasks and threads end by themselves


if __name__ == "__main__":
    main()
