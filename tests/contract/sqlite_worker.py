"""A process of its own for the tests of SQLite: ``python sqlite_worker.py compete|hold FOLDER``.

It writes a line of JSON when something has happened, and ends when its standard input does.
"""

import asyncio
import json
import sqlite3
import sys
from pathlib import Path
from typing import Any

from minuet.adapters.sqlite import SqliteStore, SqliteTransport
from minuet.adapters.system import SystemClock, SystemIds
from minuet.codec import envelope_from
from minuet.ports import Delivery, Done, Entry, EntryState, Tx

SCHEMA = "CREATE TABLE IF NOT EXISTS effects (position INTEGER PRIMARY KEY, id TEXT, key TEXT, worker TEXT)"
FRAMES_MAX = 200


def tell(**said: Any) -> None:
    print(json.dumps(said), flush=True)


async def end_of_input() -> None:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    await reader.read()


def effect_of(delivery: Delivery, worker: str) -> Any:
    def work(tx: Tx) -> bool:
        envelope = envelope_from(delivery.attributes, delivery.body)
        entry = Entry(key=envelope.id, handler="h", envelope=envelope, state=EntryState.DONE)
        if not tx.inbox.add(entry):
            return False
        db: sqlite3.Connection = tx.handle(sqlite3.Connection)
        db.execute("INSERT INTO effects (id, key, worker) VALUES (?, ?, ?)", (envelope.id, envelope.key, worker))
        tx.outbox.add("done", envelope)
        return True

    return work


async def compete(store: SqliteStore, transport: SqliteTransport) -> None:
    """Handle messages, each under the inbox, until told to stop."""
    while True:
        deliveries = await transport.receive("g", 8)
        new = await asyncio.gather(*(store.transact(effect_of(one, store.instance)) for one in deliveries))
        await transport.settle([(one, Done()) for one in deliveries])
        tell(new=sum(new), seen=len(new))


async def hold(store: SqliteStore, transport: SqliteTransport) -> None:
    """Take everything and finish nothing."""
    held: list[Delivery] = []
    while len(held) < 10:
        held += await transport.receive("g", 10)

    def work(tx: Tx) -> None:
        for one in held:
            envelope = envelope_from(one.attributes, one.body)
            tx.inbox.add(Entry(key=envelope.id, handler="h", envelope=envelope))
            tx.outbox.add("done", envelope)

    await store.transact(work)
    tell(held=len(held))
    await asyncio.Event().wait()


async def main(what: str, folder: Path) -> None:
    store = SqliteStore(folder / "service.db", ids=SystemIds(), schema=SCHEMA, frames_max=FRAMES_MAX)
    transport = SqliteTransport(folder / "broker.db", ids=SystemIds(), clock=SystemClock(), frames_max=FRAMES_MAX)
    await store.start()
    await transport.start()
    tell(started=store.instance)
    working = asyncio.create_task({"compete": compete, "hold": hold}[what](store, transport))
    await end_of_input()
    working.cancel()
    await asyncio.gather(working, return_exceptions=True)
    await transport.close()
    await store.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
