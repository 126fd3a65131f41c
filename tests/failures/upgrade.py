"""A shop in two versions, for `minuet run`: ``before`` reserves and then charges, ``after`` the other way round.

Nobody is charged, or has anything reserved, as a second step until the file ``open`` is in the data folder.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

from minuet import App, Command, Deployment, Event, NotYet, Saga, Service, step
from minuet.app import Database
from minuet.core.saga import Part

SCHEMA = """
CREATE TABLE IF NOT EXISTS effects (position INTEGER PRIMARY KEY, what TEXT NOT NULL, name TEXT NOT NULL);
"""


class Gate:
    """Closed until the file is there."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def pass_through(self, database: Database, name: str) -> None:
        """
        Raises:
            NotYet: something was done for this name already, and the gate is closed.
        """
        is_second = database.one("SELECT 1 AS one FROM effects WHERE name = :name", name=name) is not None
        if is_second and not self._file.exists():
            raise NotYet("the gate is closed", retry_after_s=0.1)


class Placed(Event, channel="orders"):
    order_id: str


class Place(Command, service="orders", answers=(Placed,), key="order_id", http="POST /orders"):
    order_id: str


class Closed(Event, channel="orders"):
    order_id: str


class Close(Command, service="orders", answers=(Closed,)):
    order_id: str


class Reserved(Event, channel="works"):
    order_id: str


class Reserve(Command, service="works", answers=(Reserved,)):
    order_id: str


class Charged(Event, channel="works"):
    order_id: str


class Charge(Command, service="works", answers=(Charged,)):
    order_id: str


orders = Service("orders", schema=SCHEMA)
works = Service("works", schema=SCHEMA)


@works.provides
async def gate(deployment: Deployment) -> AsyncIterator[Gate]:
    yield Gate(deployment.data / "open")


def did(database: Database, what: str, name: str) -> None:
    database.execute("INSERT INTO effects (what, name) VALUES (:what, :name)", what=what, name=name)


@orders.handles(Place)
def place(command: Place) -> Placed:
    return Placed(order_id=command.order_id)


@orders.handles(Close)
def close(command: Close, database: Database) -> Closed:
    did(database, "Close", command.order_id)
    return Closed(order_id=command.order_id)


@works.handles(Reserve)
def reserve(command: Reserve, database: Database, gate: Gate) -> Reserved:
    gate.pass_through(database, command.order_id)
    did(database, "Reserve", command.order_id)
    return Reserved(order_id=command.order_id)


@works.handles(Charge)
def charge(command: Charge, database: Database, gate: Gate) -> Charged:
    gate.pass_through(database, command.order_id)
    did(database, "Charge", command.order_id)
    return Charged(order_id=command.order_id)


def closing(placed: Placed) -> Close:
    return Close(order_id=placed.order_id)


def saga_of(*steps: Part) -> Saga:
    return Saga("Order", begins_with=Placed, key="order_id", steps=list(steps), completed=closing)


old, new = saga_of(step(Reserve), step(Charge)), saga_of(step(Charge), step(Reserve))
before = App("upgrade", services=[orders, works], sagas=[old])
after = App("upgrade", services=[orders, works], sagas=[new, old])
