"""A small shop in which much is waited for: a payment that must come in time, an approval, a parcel that goes later."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta

from minuet import (
    App,
    Command,
    Database,
    Event,
    Refusal,
    RetryPolicy,
    Saga,
    Service,
    parallel,
    step,
    wait_for,
)

WITHIN_S, APPROVED_WITHIN_S, DELAY_S = 30, 60, 20


class Ordered(Event, channel="orders"):
    order_id: str


class Reserved(Event, channel="stock"):
    order_id: str


class Released(Event, channel="stock"):
    order_id: str


class Paid(Event, channel="money"):
    order_id: str


class Declined(Refusal, channel="money"):
    order_id: str


class Repaid(Event, channel="money"):
    order_id: str


class Approved(Event, channel="office"):
    order_id: str
    by: str = "ada"


class Disapproved(Event, channel="office"):
    order_id: str


class Sent(Event, channel="van"):
    order_id: str
    approved_by: str


class Closed(Event, channel="orders"):
    order_id: str


class Dropped(Event, channel="orders"):
    order_id: str
    why: str


class Order(Command, service="desk", answers=(Ordered,), key="order_id"):
    order_id: str


class Reserve(Command, service="stock", answers=(Reserved,)):
    order_id: str


class Release(Command, service="stock", answers=(Released,)):
    order_id: str


class Pay(Command, service="money", answers=(Paid, Declined)):
    order_id: str


class Repay(Command, service="money", answers=(Repaid,)):
    order_id: str


class Send(Command, service="van", answers=(Sent,)):
    order_id: str
    approved_by: str


class Close(Command, service="desk", answers=(Closed,)):
    order_id: str


class Drop(Command, service="desk", answers=(Dropped,)):
    order_id: str
    why: str


class Approve(Command, service="office", answers=(Approved,)):
    """Somebody in a service of our own approves, outside of any saga."""

    order_id: str


def drop(ordered: Ordered, no: Refusal) -> Drop:
    return Drop(order_id=ordered.order_id, why=str(getattr(no, "reason", "") or type(no).__name__))


def send(ordered: Ordered, approved: Approved) -> Send:
    return Send(order_id=ordered.order_id, approved_by=approved.by)


PATIENT = RetryPolicy(attempts_max=50, delay_max_s=2.0)
TABLE = "CREATE TABLE IF NOT EXISTS deeds (order_id TEXT, what TEXT)"


def note(db: Database, order_id: str, what: str) -> None:
    db.execute("INSERT INTO deeds VALUES (:order_id, :what)", order_id=order_id, what=what)


def services(*, pay_takes_s: Callable[[str], float] = lambda order_id: 0.0, is_sync: bool = False) -> list[Service]:
    desk, stock, money, van, office = (
        Service(name, schema=TABLE) for name in ("desk", "stock", "money", "van", "office")
    )

    @desk.handles(Order)
    def order(command: Order) -> Ordered:
        return Ordered(order_id=command.order_id)

    @desk.handles(Close)
    def close(command: Close) -> Closed:
        return Closed(order_id=command.order_id)

    @desk.handles(Drop)
    def dropping(command: Drop) -> Dropped:
        return Dropped(order_id=command.order_id, why=command.why)

    @stock.handles(Reserve, retry=PATIENT)
    def reserve(command: Reserve, db: Database) -> Reserved:
        note(db, command.order_id, "reserved")
        return Reserved(order_id=command.order_id)

    @stock.handles(Release, retry=PATIENT)
    def release(command: Release, db: Database) -> Released:
        note(db, command.order_id, "released")
        return Released(order_id=command.order_id)

    if is_sync:

        @money.handles(Pay, retry=PATIENT)
        def pay_at_once(command: Pay, db: Database) -> Paid | Declined:
            note(db, command.order_id, "paid")
            return Paid(order_id=command.order_id)

    else:

        @money.handles(Pay, retry=PATIENT)
        async def pay(command: Pay) -> Paid | Declined:
            await asyncio.sleep(pay_takes_s(command.order_id))
            return Paid(order_id=command.order_id)

        @pay.on_outcome
        def paid(answer: Paid | Declined, db: Database) -> None:
            if isinstance(answer, Paid):
                note(db, answer.order_id, "paid")

    @money.handles(Repay, retry=PATIENT)
    def repay(command: Repay, db: Database) -> Repaid:
        note(db, command.order_id, "repaid")
        return Repaid(order_id=command.order_id)

    @van.handles(Send, retry=PATIENT)
    def sending(command: Send, db: Database) -> Sent:
        note(db, command.order_id, "sent")
        return Sent(order_id=command.order_id, approved_by=command.approved_by)

    @office.handles(Approve)
    def approve(command: Approve) -> Approved:
        return Approved(order_id=command.order_id, by="our own office")

    return [desk, stock, money, van, office]


def saga_of(
    *, deadline: timedelta | None = None, within: bool = True, is_parallel: bool = False, pace: float = 1.0
) -> Saga:
    """
    Args:
        within: whether the approval is waited for only so long.
        pace: by which all times are multiplied, where time is real.
    """
    approval = wait_for(
        Approved,
        within=timedelta(seconds=APPROVED_WITHIN_S * pace) if within else None,
        refused_by=Disapproved,
        name="approval",
    )
    pay = step(Pay, undo=Repay, within=timedelta(seconds=WITHIN_S * pace))
    return Saga(
        "Buying",
        begins_with=Ordered,
        key="order_id",
        steps=[
            step(Reserve, undo=Release),
            *([parallel(pay, approval)] if is_parallel else [pay, approval]),
            step(send, name="send", delay=timedelta(seconds=DELAY_S * pace)),
        ],
        completed=Close,
        compensated=drop,
        deadline=deadline,
    )


def app_of(
    *,
    pay_takes_s: Callable[[str], float] = lambda order_id: 0.0,
    is_sync: bool = False,
    deadline: timedelta | None = None,
    within: bool = True,
    is_parallel: bool = False,
    pace: float = 1.0,
) -> App:
    return App(
        "waiting",
        services=services(pay_takes_s=pay_takes_s, is_sync=is_sync),
        sagas=[saga_of(deadline=deadline, within=within, is_parallel=is_parallel, pace=pace)],
    )
