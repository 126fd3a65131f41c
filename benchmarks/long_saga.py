"""Sagas of any length, with messages of any size, over the same four services: how the cost grows with both."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import create_model

from benchmarks.harness import STEPS, TABLE
from minuet import App, Command, Database, Event, Nothing, Now, Saga, Service, step

SAGA = "Order"
SERVICES = ("inventory", "payment", "shipping", "orders")
ROW = "INSERT INTO {table} (order_id, detail, created) VALUES (:order_id, :detail, :created) ON CONFLICT DO NOTHING"
NO_UNDO = Nothing("nothing is ever refused here")


def app_of(steps: int) -> App:
    """A saga of so many steps, at least two, each a row at the next of the four services. All messages carry a note.

    The command ``Place`` of the service ``orders`` begins it.
    """
    services = {
        name: Service(name, schema=TABLE.format(table=f"IF NOT EXISTS {table}") + ";")
        for name, table in zip(SERVICES, STEPS, strict=True)
    }
    begun = _event("Placed", "orders")
    place = _command("Place", "orders", begun)
    services["orders"].handles(place)(_answers(place, begun))
    commands = []
    for number in range(steps):
        service, table = SERVICES[number % len(SERVICES)], STEPS[number % len(SERVICES)]
        done = _event(f"Done{number}", service)
        command = _command(f"Do{number}", service, done)
        services[service].handles(command)(_writes(table, number, command, done))
        commands.append(command)
    *inner, last = commands
    parts = [step(command, undo=NO_UNDO) for command in inner]
    saga = Saga(SAGA, begins_with=begun, key="order_id", steps=parts, completed=last)
    return App("bench", services=[services[name] for name in ("orders", *SERVICES[:-1])], sagas=[saga])


def _event(name: str, channel: str) -> type[Event]:
    kwargs = {"channel": channel}
    return create_model(
        name, __base__=Event, __module__=__name__, __cls_kwargs__=kwargs, order_id=(str, ...), note=(str, ...)
    )


def _command(name: str, service: str, answer: type[Event]) -> type[Command]:
    kwargs: dict[str, Any] = {"service": service, "key": "order_id", "answers": (answer,)}
    return create_model(
        name, __base__=Command, __module__=__name__, __cls_kwargs__=kwargs, order_id=(str, ...), note=(str, ...)
    )


def _answers(command: type[Command], answer: type[Event]) -> Callable[..., Event]:
    def handle(asked: Any) -> Event:
        return answer(order_id=asked.order_id, note=asked.note)  # type: ignore[call-arg]

    handle.__annotations__ = {"asked": command, "return": answer}
    return handle


def _writes(table: str, number: int, command: type[Command], answer: type[Event]) -> Callable[..., Event]:
    statement = ROW.format(table=table)

    def handle(asked: Any, db: Database, now: Now) -> Event:
        row = f"{asked.order_id}/{number}"  # several steps write to one table
        db.execute(statement, order_id=row, detail="sku", created=now)
        return answer(order_id=asked.order_id, note=asked.note)  # type: ignore[call-arg]

    handle.__annotations__ = {"asked": command, "db": Database, "now": Now, "return": answer}
    return handle
