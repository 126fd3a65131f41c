"""An app of these tests, and a process that runs it: ``python -m tests.contract.temporal_app FOLDER URL PREFIX COUNT``.

The histories in temporal_histories were recorded under its saga: a change of the saga is a change of its fingerprint,
and they have to be recorded anew (`test_temporal` says how).
"""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from minuet import App, Command, Event, NotFound, Query, Refusal, Saga, Service, View, step
from minuet.app import Database
from tests.failures.shop import PATIENCE_S, SCHEMA, Conduct, at_work, did, until

SAGA = "Trip"


class Booked(Event, channel="trips"):
    trip_id: str


class Book(Command, service="trips", answers=(Booked,), key="trip_id"):
    trip_id: str


class Told(Event, channel="trips"):
    trip_id: str
    status: str


class Tell(Command, service="trips", answers=(Told,), http="POST /told"):
    trip_id: str
    status: str


class Seated(Event, channel="trains"):
    trip_id: str


class Full(Refusal, channel="trains"):
    trip_id: str


class Freed(Event, channel="trains"):
    trip_id: str


class Seat(Command, service="trains", answers=(Seated, Full)):
    trip_id: str


class Free(Command, service="trains", answers=(Freed,)):
    trip_id: str


class Fare(View):
    trip_id: str
    cents: int


class GetFare(Query, service="trains", answer=Fare):
    trip_id: str


class Charged(Event, channel="purse"):
    trip_id: str
    cents: int


class Broke(Refusal, channel="purse"):
    trip_id: str


class Returned(Event, channel="purse"):
    trip_id: str


class Charge(Command, service="purse", answers=(Charged, Broke)):
    trip_id: str
    cents: int


class Return(Command, service="purse", answers=(Returned,)):
    trip_id: str


class Roomed(Event, channel="hotels"):
    trip_id: str


class NoRoom(Refusal, channel="hotels"):
    trip_id: str


class Room(Command, service="hotels", answers=(Roomed, NoRoom), http="POST /rooms"):
    trip_id: str


def charge(seated: Seated, fare: Fare) -> Charge:
    return Charge(trip_id=seated.trip_id, cents=fare.cents)


def good(booked: Booked) -> Tell:
    return Tell(trip_id=booked.trip_id, status="BOOKED")


def bad(booked: Booked) -> Tell:
    return Tell(trip_id=booked.trip_id, status="CANCELLED")


def trip_app() -> App:
    """A seat, then its fare, then a room, one after the other. What a handler is to do is in the `Conduct`."""
    trips, trains, purse, hotels = (Service(name, schema=SCHEMA) for name in ("trips", "trains", "purse", "hotels"))

    @trips.handles(Book)
    def book(command: Book, database: Database) -> Booked:
        did(database, "Book", command.trip_id)
        return Booked(trip_id=command.trip_id)

    @trips.handles(Tell)
    def tell(command: Tell, database: Database) -> Told:
        did(database, command.status, command.trip_id)
        return Told(trip_id=command.trip_id, status=command.status)

    @trains.handles(Seat)
    def seat(command: Seat, database: Database, conduct: Conduct) -> Seated | Full:
        did(database, "Seat", command.trip_id)
        return (
            Full(trip_id=command.trip_id)
            if conduct.refuses("Seat", command.trip_id)
            else Seated(trip_id=command.trip_id)
        )

    @trains.handles(Free)
    def free(command: Free, database: Database) -> Freed:
        did(database, "Free", command.trip_id)
        return Freed(trip_id=command.trip_id)

    @trains.answers(GetFare)
    def fare(query: GetFare, conduct: Conduct) -> Fare:
        if conduct.refuses("Fare", query.trip_id):
            raise NotFound(f"there is no fare for {query.trip_id}")
        return Fare(trip_id=query.trip_id, cents=4200)

    @purse.handles(Charge)
    def take(command: Charge, database: Database, conduct: Conduct) -> Charged | Broke:
        did(database, f"Charge {command.cents}", command.trip_id)
        if conduct.refuses("Charge", command.trip_id):
            return Broke(trip_id=command.trip_id)
        return Charged(trip_id=command.trip_id, cents=command.cents)

    @purse.handles(Return)
    def give_back(command: Return, database: Database) -> Returned:
        did(database, "Return", command.trip_id)
        return Returned(trip_id=command.trip_id)

    @hotels.handles(Room)
    def room(command: Room, database: Database, conduct: Conduct) -> Roomed | NoRoom:
        did(database, "Room", command.trip_id)
        return (
            NoRoom(trip_id=command.trip_id)
            if conduct.refuses("Room", command.trip_id)
            else Roomed(trip_id=command.trip_id)
        )

    saga = Saga(
        SAGA,
        begins_with=Booked,
        key="trip_id",
        steps=[step(Seat, undo=Free), step(charge, undo=Return), step(Room)],
        completed=good,
        compensated=bad,
    )
    return App("trips", services=[trips, trains, purse, hotels], sagas=[saga])


BOOKED = ["BOOKED", "Book", "Charge 4200", "Room", "Seat"]
"""The effects of a trip that is completed."""


class OddOnesFail(Conduct):
    """No room for trips with an odd number, whoever booked them."""

    def refuses(self, what: str, name: str) -> bool:
        return what == "Room" and int(name.rpartition("-")[2]) % 2 == 1


async def main(folder: Path, url: str, prefix: str, count: int) -> None:
    """Book so many trips, those with an odd number without a room, and say when each has ended."""
    conduct = OddOnesFail()
    names = [f"{prefix}-{number}" for number in range(count)]
    orchestration: Any = {"engine": url}
    async with at_work(
        trip_app(), {"*": "embedded:"}, folder, conduct=conduct,
        coordination={SAGA: "orchestration"}, orchestration=orchestration,
    ) as system:  # fmt: skip
        print(json.dumps({"ready": True}), flush=True)
        await asyncio.gather(*(system.send(Book(trip_id=name)) for name in names))

        async def wait(name: str) -> None:
            # Looked for: whoever shares the data with us may have done it.
            status = await until(lambda: system.observer.end_of(SAGA, name), name, within_s=3 * PATIENCE_S)
            print(json.dumps({"name": name, "status": status.value}), flush=True)

        await asyncio.gather(*map(wait, names))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])))
