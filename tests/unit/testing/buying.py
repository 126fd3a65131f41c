"""A small app for tests of sentences, and the mistakes that one can make in it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from minuet import (
    App,
    Command,
    Database,
    Event,
    IdempotencyKey,
    NotFound,
    Query,
    Refusal,
    Rejected,
    RetryPolicy,
    Saga,
    Service,
    View,
    step,
)
from minuet.core.saga import Part


class Ordered(Event, channel="orders"):
    order_id: str
    pieces: int = 1


class Reserved(Event, channel="stock"):
    order_id: str


class Released(Event, channel="stock"):
    order_id: str


class SoldOut(Refusal, channel="stock"):
    order_id: str


class Paid(Event, channel="money"):
    order_id: str
    cents: int = 100


class Repaid(Event, channel="money"):
    order_id: str


class Declined(Refusal, channel="money"):
    order_id: str
    reason: str = ""


class Sent(Event, channel="van"):
    order_id: str


class NoAddress(Refusal, channel="van"):
    order_id: str


class Closed(Event, channel="orders"):
    order_id: str
    how: str


class Unheard(Event, channel="nowhere"):
    order_id: str


class Thanked(Event, channel="post"):
    order_id: str


class Place(Command, service="orders", answers=(Ordered,)):
    order_id: str
    pieces: int = 1


class Close(Command, service="orders", answers=(Closed,)):
    order_id: str
    how: str


class Reserve(Command, service="stock", answers=(Reserved, SoldOut)):
    order_id: str
    pieces: int


class Release(Command, service="stock", answers=(Released,)):
    order_id: str


class Pay(Command, service="money", answers=(Paid, Declined)):
    order_id: str


class Repay(Command, service="money", answers=(Repaid,)):
    order_id: str


class Send(Command, service="van", answers=(Sent, NoAddress)):
    order_id: str


class Stranger(Command, service="elsewhere", answers=(Thanked,)):
    order_id: str


class Shelf(View):
    free: int


class GetShelf(Query, service="stock", answer=Shelf):
    name: str = "shelf"


class Bank:
    """Outside of money: charges each key once."""

    def __init__(self) -> None:
        self.charges: dict[str, str] = {}
        self.calls = 0

    def charge(self, order_id: str, key: str) -> None:
        self.calls += 1
        self.charges[key] = order_id


FREE = 3
SCHEMA = f"""
CREATE TABLE IF NOT EXISTS shelf (free INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS held (order_id TEXT NOT NULL PRIMARY KEY, pieces INTEGER NOT NULL);
INSERT INTO shelf SELECT {FREE} WHERE NOT EXISTS (SELECT 1 FROM shelf);
"""


def reserve(order: Ordered) -> Reserve:
    return Reserve(order_id=order.order_id, pieces=order.pieces)


def close_sold(order: Ordered) -> Close:
    return Close(order_id=order.order_id, how="sold")


def close_cancelled(order: Ordered) -> Close:
    return Close(order_id=order.order_id, how="cancelled")


RESERVE, PAY, SEND = step(reserve, undo=Release), step(Pay, undo=Repay), step(Send)


def buying(
    *bugs: str,
    steps: Sequence[Part] = (RESERVE, PAY, SEND),
    attempts_max: int = 5,
    deadline: timedelta | None = None,
) -> App:
    """The app, with these bugs: ``releases nothing``, ``new key each time``, ``ships to anybody``, ``says nothing at
    the end``, ``ignores an empty shelf``."""
    orders, money, van = Service("orders"), Service("money"), Service("van")
    stock = Service("stock", schema=SCHEMA)
    retry = RetryPolicy(attempts_max=attempts_max)

    @orders.handles(Place)
    def place(command: Place) -> Ordered:
        if command.pieces < 1:
            raise Rejected("an order has at least one piece")
        return Ordered(order_id=command.order_id, pieces=command.pieces)

    @orders.handles(Close)
    def close(command: Close) -> Closed:
        return Closed(order_id=command.order_id, how=command.how)

    @stock.handles(Reserve, retry=retry)
    def set_aside(command: Reserve, db: Database) -> Reserved | SoldOut:
        least = -1000 if "ignores an empty shelf" in bugs else command.pieces
        taken = db.execute("UPDATE shelf SET free = free - :n WHERE free >= :least", n=command.pieces, least=least)
        if not taken:
            return SoldOut(order_id=command.order_id)
        db.execute("INSERT INTO held VALUES (:order_id, :n)", order_id=command.order_id, n=command.pieces)
        return Reserved(order_id=command.order_id)

    @stock.handles(Release)
    def release(command: Release, db: Database) -> Released:
        held = db.one("SELECT pieces FROM held WHERE order_id = :order_id", order_id=command.order_id)
        if held is not None and "releases nothing" not in bugs:
            db.execute("UPDATE shelf SET free = free + :n", n=held["pieces"])
        return Released(order_id=command.order_id)

    @stock.answers(GetShelf)
    def shelf(query: GetShelf, db: Database) -> Shelf:
        row = db.one("SELECT free FROM shelf")
        if row is None or query.name != "shelf":
            raise NotFound(f"there is no {query.name}")
        return Shelf(free=row["free"])

    @money.handles(Pay, retry=retry)
    async def pay(command: Pay, bank: Bank, key: IdempotencyKey) -> Paid | Declined:
        bank.charge(command.order_id, f"{key} {bank.calls}" if "new key each time" in bugs else key)
        return Paid(order_id=command.order_id)

    @pay.on_exhausted
    async def unpay(command: Pay, bank: Bank) -> None:
        bank.charges.clear()

    @money.handles(Repay, retry=retry)
    async def repay(command: Repay, bank: Bank) -> Repaid:
        bank.charges.clear()
        return Repaid(order_id=command.order_id)

    @van.handles(Send)
    def send(command: Send) -> Sent | NoAddress:
        if "nowhere" in command.order_id and "ships to anybody" not in bugs:
            return NoAddress(order_id=command.order_id)
        return Sent(order_id=command.order_id)

    quiet = "says nothing at the end" in bugs
    saga = Saga(
        "Buying",
        begins_with=Ordered,
        key="order_id",
        steps=list(steps),
        completed=None if quiet else close_sold,
        compensated=None if quiet else close_cancelled,
    )
    return App("buying", services=[orders, stock, money, van], sagas=[saga])
