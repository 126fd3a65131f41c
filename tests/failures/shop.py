"""Small apps for the failures of messages: a saga over four services, and services that only listen.

What a service did is a row of its own database, ``effects``, and nothing keeps a handler from writing it twice: that it
is there once is minuet's doing. What a handler is to do beyond its duty a test puts into its `Conduct`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from minuet import App, Command, Event, Refusal, Saga, Service, Settings, System, parallel, running, step
from minuet.app import Database
from minuet.core.retry import RetryPolicy
from minuet.ports import Clock, Outgoing

SAGA = "Order"
ATTEMPTS = 3
QUICKLY = RetryPolicy(attempts_max=ATTEMPTS, first_s=0.01, factor=2.0, delay_max_s=0.1)
SCHEMA = "CREATE TABLE IF NOT EXISTS effects (what TEXT NOT NULL, name TEXT NOT NULL)"
PATIENCE_S = 40.0
FINAL = ("completed", "compensated")


class Placed(Event, channel="orders"):
    order_id: str
    note: str = ""


class Place(Command, service="orders", answers=(Placed,), key="order_id"):
    order_id: str
    note: str = ""


class Closed(Event, channel="orders"):
    order_id: str
    status: str


class Close(Command, service="orders", answers=(Closed,)):
    order_id: str
    status: str


class Reserved(Event, channel="stock"):
    order_id: str


class SoldOut(Refusal, channel="stock"):
    order_id: str


class Released(Event, channel="stock"):
    order_id: str


class Reserve(Command, service="stock", answers=(Reserved, SoldOut)):
    order_id: str


class Release(Command, service="stock", answers=(Released,)):
    order_id: str


class Paid(Event, channel="billing"):
    order_id: str


class Declined(Refusal, channel="billing"):
    order_id: str


class Refunded(Event, channel="billing"):
    order_id: str


class Pay(Command, service="billing", answers=(Paid, Declined), key="order_id"):
    order_id: str


class Refund(Command, service="billing", answers=(Refunded,)):
    order_id: str


class Shipped(Event, channel="shipping"):
    order_id: str


class NoAddress(Refusal, channel="shipping"):
    order_id: str


class Ship(Command, service="shipping", answers=(Shipped, NoAddress)):
    order_id: str


class Noted(Event, channel="notes"):
    about: str
    number: int
    text: str = ""


class Pinged(Event, channel="pings"):
    name: str


class Ponged(Event, channel="pongs"):
    name: str


@dataclass
class Conduct:
    """What the handlers do besides their duty: by the message's type, or by its type and name (``Pay o1``).

    Attributes:
        now: called within the transaction; what it raises is the handler's failure, and ``True`` makes it refuse.
        meanwhile: awaited by ``async`` handlers.
        copied: what the clerk has done, in its order.
    """

    now: dict[str, Callable[[], bool | None]] = field(default_factory=dict)
    meanwhile: dict[str, Callable[[], Awaitable[None]]] = field(default_factory=dict)
    copied: list[tuple[str, int]] = field(default_factory=list)

    def refuses(self, what: str, name: str) -> bool:
        act = self.now.get(f"{what} {name}") or self.now.get(what)
        return bool(act()) if act else False

    async def takes_its_time(self, what: str, name: str) -> None:
        act = self.meanwhile.get(f"{what} {name}") or self.meanwhile.get(what)
        if act:
            await act()


def fail() -> bool | None:
    raise RuntimeError("it cannot be done")


def did(database: Database, what: str, name: str) -> None:
    database.execute("INSERT INTO effects (what, name) VALUES (:what, :name)", what=what, name=name)


def completed(shipped: Shipped) -> Close:
    return Close(order_id=shipped.order_id, status="SHIPPED")


def compensated(placed: Placed) -> Close:
    return Close(order_id=placed.order_id, status="CANCELLED")


def order_app() -> App:
    """Stock and billing at the same time, then shipping."""
    orders, stock, billing, shipping = (
        Service(name, schema=SCHEMA) for name in ("orders", "stock", "billing", "shipping")
    )

    @orders.handles(Place)
    def place(command: Place, database: Database) -> Placed:
        did(database, "Place", command.order_id)
        return Placed(order_id=command.order_id, note=command.note)

    @orders.handles(Close)
    def close(command: Close, database: Database) -> Closed:
        did(database, command.status, command.order_id)
        return Closed(order_id=command.order_id, status=command.status)

    @stock.handles(Reserve, retry=QUICKLY)
    def reserve(command: Reserve, database: Database, conduct: Conduct) -> Reserved | SoldOut:
        did(database, "Reserve", command.order_id)
        if conduct.refuses("Reserve", command.order_id):
            return SoldOut(order_id=command.order_id)
        return Reserved(order_id=command.order_id)

    @stock.handles(Release)
    def release(command: Release, database: Database) -> Released:
        did(database, "Release", command.order_id)
        return Released(order_id=command.order_id)

    @billing.handles(Pay, retry=QUICKLY)
    def pay(command: Pay, database: Database, conduct: Conduct) -> Paid | Declined:
        did(database, "Pay", command.order_id)
        if conduct.refuses("Pay", command.order_id):
            return Declined(order_id=command.order_id)
        return Paid(order_id=command.order_id)

    @billing.handles(Refund)
    def refund(command: Refund, database: Database) -> Refunded:
        did(database, "Refund", command.order_id)
        return Refunded(order_id=command.order_id)

    @shipping.handles(Ship, retry=QUICKLY)
    def ship(command: Ship, database: Database, conduct: Conduct) -> Shipped | NoAddress:
        did(database, "Ship", command.order_id)
        if conduct.refuses("Ship", command.order_id):
            return NoAddress(order_id=command.order_id)
        return Shipped(order_id=command.order_id)

    saga = Saga(
        SAGA,
        begins_with=Placed,
        key="order_id",
        steps=[parallel(step(Reserve, undo=Release), step(Pay, undo=Refund)), step(Ship)],
        completed=completed,
        compensated=compensated,
    )
    return App("shop", services=[orders, stock, billing, shipping], sagas=[saga])


def notes_app() -> App:
    """Two services that hear notes: one writes them down at once, the other takes its time."""
    listener, clerk = (Service(name, schema=SCHEMA) for name in ("listener", "clerk"))

    @listener.on(Noted, retry=QUICKLY)
    def hear(event: Noted, database: Database, conduct: Conduct) -> None:
        did(database, event.about, str(event.number))
        conduct.refuses("Noted", event.about)

    @clerk.on(Noted, retry=QUICKLY)
    async def copy(event: Noted, conduct: Conduct) -> None:
        await conduct.takes_its_time("Noted", event.about)
        conduct.copied.append((event.about, event.number))

    return App("notes", services=[listener, clerk])


def circle_app() -> App:
    """Two services that react to each other for ever."""
    ping, pong = (Service(name, schema=SCHEMA) for name in ("ping", "pong"))

    @pong.on(Pinged)
    def answer(event: Pinged, database: Database) -> Ponged:
        did(database, "Pong", event.name)
        return Ponged(name=event.name)

    @ping.on(Ponged)
    def serve(event: Ponged, database: Database) -> Pinged:
        did(database, "Ping", event.name)
        return Pinged(name=event.name)

    return App("circle", services=[ping, pong])


# -- running them, and looking at them ---------------------------------------------------------------------------------


@asynccontextmanager
async def at_work(
    app: App,
    channels: Mapping[str, str],
    data: Path,
    *,
    services: Sequence[str] | None = None,
    conduct: Conduct | None = None,
    clock: Clock | None = None,
    **settings_of: Any,
) -> AsyncIterator[System]:
    settings = Settings(data=data, channels=dict(channels), grace_s=5.0, **settings_of)
    async with running(app, settings, services=services, provided={Conduct: conduct or Conduct()}, clock=clock) as made:
        yield made


async def place(system: System, *order_ids: str, note: str = "") -> None:
    await asyncio.gather(*(system.send(Place(order_id=one, note=note)) for one in order_ids))


async def ended(system: System, *order_ids: str, within_s: float = PATIENCE_S) -> dict[str, str]:
    """The status in which each order ended."""
    try:
        async with asyncio.timeout(within_s):
            return {one: (await system.ended(SAGA, one)).value for one in order_ids}
    except TimeoutError:
        left = [view for view in await system.observer.sagas(limit=10_000) if view.id in order_ids]
        open_ones = [(view.id, view.status, view.waiting) for view in left if view.status not in FINAL]
        raise AssertionError(
            f"{len(order_ids) - len(left)} of {len(order_ids)} orders are unknown, and {len(open_ones)} did not end: "
            f"{open_ones[:3]}"
        ) from None


async def effects(system: System, service: str) -> list[tuple[str, str]]:
    """What the service did, in its order; what it did twice is there twice."""

    def read(tx: Any) -> list[tuple[str, str]]:
        rows = tx.handle(Database).all("SELECT what, name FROM effects ORDER BY rowid")
        return [(row["what"], row["name"]) for row in rows]

    return await system.stores[service].transact(read, reads_only=True)


async def all_effects(system: System, *order_ids: str) -> dict[str, list[str]]:
    """Of each of these orders, everything that was done for it, sorted."""
    found: dict[str, list[str]] = {one: [] for one in order_ids}
    for service in system.stores:
        if service != "orchestrator":
            for what, name in await effects(system, service):
                if name in found:
                    found[name].append(what)
    return {name: sorted(those) for name, those in found.items()}


DONE = ["Pay", "Place", "Reserve", "SHIPPED", "Ship"]
"""The effects of an order that is completed."""
PAYMENT_DECLINED = ["CANCELLED", "Place", "Release", "Reserve"]


async def unpublished(system: System, service: str) -> int:
    """Rows of its outbox."""

    def count(tx: Any) -> int:
        row = tx.handle(Database).one("SELECT count(*) AS rows FROM minuet_outbox")
        return int(row["rows"])

    return await system.stores[service].transact(count, reads_only=True)


async def until(
    condition: Callable[[], Awaitable[Any]], what: str, *, within_s: float = PATIENCE_S, every_s: float = 0.05
) -> Any:
    """The condition's value once it is true."""
    deadline = asyncio.get_running_loop().time() + within_s
    while True:
        value = await condition()
        if value:
            return value
        if asyncio.get_running_loop().time() > deadline:
            raise AssertionError(f"not within {within_s:g} s: {what}")
        await asyncio.sleep(every_s)


def tap(system: System, heard: list[Outgoing] | None = None) -> list[Outgoing]:
    """What goes out from now on and is confirmed, in a new list or added to this one."""
    heard = [] if heard is None else heard

    def listen(transport: Any) -> None:
        publish = transport.publish

        async def overheard(messages: Sequence[Outgoing]) -> Sequence[Exception | None]:
            outcomes: Sequence[Exception | None] = await publish(messages)
            heard.extend(one for one, outcome in zip(messages, outcomes, strict=True) if outcome is None)
            return outcomes

        transport.publish = overheard

    for transport in system.transports.values():
        listen(transport)
    return heard
