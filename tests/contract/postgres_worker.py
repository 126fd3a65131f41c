"""A process of its own for the tests of PostgreSQL: ``python postgres_worker.py hold|pause URL SCHEMA``.

It writes a line of JSON when something has happened, and ends when its standard input does.
"""

import asyncio
import json
import sys
import threading
from typing import Any

from minuet.adapters.postgres import Limits, PostgresStore
from minuet.adapters.system import SystemIds
from minuet.core.envelope import Envelope
from minuet.core.formula import Literal, Outcome
from minuet.ports import Entry, EntryState, Tx

HELD = 10
went_on = threading.Event()
was_read = asyncio.Event()


def tell(**said: Any) -> None:
    print(json.dumps(said), flush=True)


def envelope(number: int) -> Envelope:
    return Envelope(id=f"m-{number}", type="T", source="s", time=1.0, body=b"{}")


def holding(tx: Tx) -> None:
    for number in range(HELD):
        tx.inbox.add(Entry(key=f"e-{number}", handler="h", envelope=envelope(number)))
        tx.outbox.add("done", envelope(number))


def saving(tx: Tx) -> list[bool]:
    entries = (
        Entry(key=f"e-{number}", handler="h", envelope=envelope(number), state=EntryState.DONE)
        for number in range(HELD)
    )
    return [tx.inbox.save(entry) for entry in entries]


async def hold(store: PostgresStore) -> None:
    """Take everything and finish nothing, until a line is read; then try to."""
    await store.transact(holding)
    tell(held=HELD)
    await was_read.wait()
    tell(saved=await store.transact(saving))
    await asyncio.Event().wait()


async def pause(store: PostgresStore) -> None:
    """Pause in the middle of a transaction that has locked a saga and changed what is held, until a line is read."""
    await store.transact(holding)
    runs = 0

    def work(tx: Tx) -> list[bool]:
        nonlocal runs
        runs += 1
        tx.known.learn("Orders", "o-1", Literal("reserve", Outcome.SUCCEEDED), envelope(1))
        saved = saving(tx)
        if runs == 1:
            tell(pausing=True)
            went_on.wait()
        return saved

    saved = await store.transact(work)
    tell(saved=saved, runs=runs)
    await asyncio.Event().wait()


async def end_of_input() -> None:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while await reader.readline():
        went_on.set()
        was_read.set()


async def main(what: str, url: str, schema_name: str) -> None:
    limits = Limits(patience_s=60, idle_s=1)
    store = PostgresStore(url, schema_name=schema_name, ids=SystemIds(), limits=limits)
    await store.start()
    tell(started=store.instance)
    working = asyncio.create_task({"hold": hold, "pause": pause}[what](store))
    await end_of_input()
    working.cancel()
    await asyncio.gather(working, return_exceptions=True)
    await store.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
