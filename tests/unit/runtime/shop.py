"""A small app for the runtime's tests: four services and one saga, whose handlers do what a `Plan` tells them."""

# mypy: disable-error-code="no-any-return"
from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from minuet.app import App, IdempotencyKey, Service, read_model
from minuet.core.errors import NotFound
from minuet.core.messages import Command, Event, Query, Refusal, View, name_of
from minuet.core.retry import RetryPolicy
from minuet.core.saga import Part, Saga, step

SAGA = "Order"
QUICKLY = RetryPolicy(attempts_max=3, first_s=0.01, factor=2.0, delay_max_s=0.1)


class OrderPlaced(Event, channel="orders"):
    order_id: str
    amount: int


class OrderNoted(Event, channel="orders"):
    order_id: str
    number: int


class OrderView(View):
    order_id: str
    amount: int


class GetOrder(Query, service="orders", answer=OrderView):
    order_id: str


class PlaceOrder(Command, service="orders", answers=(OrderPlaced,), key="order_id"):
    order_id: str
    amount: int = 10


class OrderClosed(Event, channel="orders"):
    order_id: str
    status: str


class CloseOrder(Command, service="orders", answers=(OrderClosed,)):
    order_id: str
    status: str


class Reserved(Event, channel="inventory"):
    order_id: str


class OutOfStock(Refusal, channel="inventory"):
    order_id: str


class Released(Event, channel="inventory"):
    order_id: str


class Reserve(Command, service="inventory", answers=(Reserved, OutOfStock)):
    order_id: str


class Release(Command, service="inventory", answers=(Released,)):
    order_id: str


class Paid(Event, channel="payment"):
    order_id: str
    amount: int


class Declined(Refusal, channel="payment"):
    order_id: str


class Refunded(Event, channel="payment"):
    order_id: str


class Pay(Command, service="payment", answers=(Paid, Declined), key="order_id"):
    order_id: str
    amount: int


class Refund(Command, service="payment", answers=(Refunded,)):
    order_id: str


class Shipped(Event, channel="shipping"):
    order_id: str


class NoAddress(Refusal, channel="shipping"):
    order_id: str


class Ship(Command, service="shipping", answers=(Shipped, NoAddress)):
    order_id: str


class Noticed(Event, channel="notices"):
    order_id: str
    about: str


def charge(order: OrderView) -> Pay:
    return Pay(order_id=order.order_id, amount=order.amount)


def ship_order(shipped: Shipped) -> CloseOrder:
    return CloseOrder(order_id=shipped.order_id, status="SHIPPED")


def cancel_order(placed: OrderPlaced, refusal: Refusal) -> CloseOrder:
    return CloseOrder(order_id=placed.order_id, status=f"CANCELLED {name_of(refusal)}")


class Boom(Exception):
    """A technical fault."""


class _Refuse:
    pass


REFUSE = _Refuse()
OK = object()
Act = Any
"""`OK`, `REFUSE`, an exception to raise, an event to wait for, `After` an exception, or a function to call."""


@dataclass(frozen=True)
class After:
    """Raise when the work is done already: what a lost reply looks like."""

    error: Exception


@dataclass
class Plan:
    """What the handlers are going to do, and what they did.

    Attributes:
        calls: every call of a handler: the message's type, its order, and the idempotency key if it is ``async``.
        ledger: what was done outside, by idempotency key; doing it again with the same key changes nothing.
        views: what the orders service answers `GetOrder` with.
        origin_is_down: `GetOrder` raises.
    """

    scripts: dict[str, deque[Act]] = field(default_factory=lambda: defaultdict(deque))
    for_ever: dict[str, Act] = field(default_factory=dict)
    calls: list[tuple[str, str, str]] = field(default_factory=list)
    ledger: dict[str, str] = field(default_factory=dict)
    views: dict[str, OrderView] = field(default_factory=dict)
    origin_is_down: bool = False
    begun: dict[str, asyncio.Event] = field(default_factory=lambda: defaultdict(asyncio.Event))

    def will(self, message: type[Any] | str, *acts: Act) -> None:
        """The next calls do these; then all is well again. ``"Pay o1"`` is about one order only."""
        self.scripts[message if isinstance(message, str) else name_of(message)].extend(acts)

    def always(self, message: type[Any] | str, act: Act) -> None:
        self.for_ever[message if isinstance(message, str) else name_of(message)] = act

    def called(self, message: type[Any], order_id: str | None = None) -> int:
        return sum(name == name_of(message) and order_id in (None, order) for name, order, _ in self.calls)

    def next(self, message: Any, key: str = "") -> Act:
        self.calls.append((name_of(message), message.order_id, key))
        for name in (f"{name_of(message)} {message.order_id}", name_of(message)):
            if self.scripts[name]:
                return self.scripts[name].popleft()
            if name in self.for_ever:
                return self.for_ever[name]
        return OK

    def now(self, message: Any, happy: Callable[[], Any], unhappy: Callable[[], Any] | None = None) -> Any:
        """What a ``def`` handler does."""
        act = self.next(message)
        if isinstance(act, Exception):
            raise act
        if callable(act):
            return act(message)
        return unhappy() if act is REFUSE and unhappy is not None else happy()

    async def outside(
        self, message: Any, key: str, happy: Callable[[], Any], unhappy: Callable[[], Any] | None = None
    ) -> Any:
        """What an ``async`` handler does."""
        act = self.next(message, key)
        self.begun[name_of(message)].set()
        if isinstance(act, asyncio.Event):
            await act.wait()
        else:
            await asyncio.sleep(0.001)
        if isinstance(act, BaseException):
            raise act
        if act is REFUSE and unhappy is not None:
            return unhappy()
        if callable(act):
            return act(message)
        self.ledger[key] = f"{name_of(message)} {message.order_id}"
        if isinstance(act, After):
            raise act.error
        return happy()

    def done_outside(self, message: type[Any], order_id: str) -> int:
        """How often an outside system did this for the order."""
        return sum(what == f"{name_of(message)} {order_id}" for what in self.ledger.values())


def order_saga(**pay: Any) -> Saga:
    """The saga, with more said about its step of paying."""
    return order_saga_of([step(Reserve, undo=Release), step(charge, undo=Refund, name="pay", **pay), step(Ship)])


def order_saga_of(steps: list[Part]) -> Saga:
    return Saga(
        SAGA, begins_with=OrderPlaced, key="order_id", steps=steps, completed=ship_order, compensated=cancel_order
    )


@read_model(GetOrder)
def order_view(event: OrderPlaced) -> OrderView:
    return OrderView(order_id=event.order_id, amount=event.amount)


def make_shop(
    plan: Plan,
    *sagas: Saga,
    retry: RetryPolicy = QUICKLY,
    with_last_resort: bool = False,
    reactions: bool = False,
) -> App:
    """The app. Without sagas it has the usual one."""
    orders, inventory, payment, shipping = map(Service, ("orders", "inventory", "payment", "shipping"))

    @orders.handles(PlaceOrder, retry=retry)
    def place(command: PlaceOrder) -> OrderPlaced:
        plan.views[command.order_id] = OrderView(order_id=command.order_id, amount=command.amount)
        return plan.now(command, lambda: OrderPlaced(order_id=command.order_id, amount=command.amount))

    @orders.handles(CloseOrder, retry=retry)
    def close(command: CloseOrder) -> OrderClosed:
        return plan.now(command, lambda: OrderClosed(order_id=command.order_id, status=command.status))

    @orders.answers(GetOrder)
    def get_order(query: GetOrder) -> OrderView:
        if plan.origin_is_down:
            raise Boom("the database of orders is away")
        if query.order_id not in plan.views:
            raise NotFound(query.order_id)
        return plan.views[query.order_id]

    @inventory.handles(Reserve, retry=retry)
    def reserve(command: Reserve) -> Reserved | OutOfStock:
        return plan.now(
            command, lambda: Reserved(order_id=command.order_id), lambda: OutOfStock(order_id=command.order_id)
        )

    @inventory.handles(Release, retry=retry)
    def release(command: Release) -> Released:
        return plan.now(command, lambda: Released(order_id=command.order_id))

    @payment.handles(Pay, retry=retry)
    async def pay(command: Pay, key: IdempotencyKey) -> Paid | Declined:
        return await plan.outside(
            command,
            key,
            lambda: Paid(order_id=command.order_id, amount=command.amount),
            lambda: Declined(order_id=command.order_id),
        )

    @payment.handles(Refund, retry=retry)
    async def refund(command: Refund, key: IdempotencyKey) -> Refunded:
        return await plan.outside(command, key, lambda: Refunded(order_id=command.order_id))

    @shipping.handles(Ship, retry=retry)
    def ship(command: Ship) -> Shipped | NoAddress:
        return plan.now(
            command, lambda: Shipped(order_id=command.order_id), lambda: NoAddress(order_id=command.order_id)
        )

    if with_last_resort:

        @pay.on_exhausted
        async def make_sure(command: Pay, key: IdempotencyKey) -> None:
            act = (
                plan.scripts["last resort"].popleft()
                if plan.scripts["last resort"]
                else plan.for_ever.get("last resort")
            )
            plan.calls.append(("last resort", command.order_id, key))
            await asyncio.sleep(0.001)
            if isinstance(act, BaseException):
                raise act
            plan.ledger.pop(key, None)

    services = [orders, inventory, payment, shipping]
    if reactions:
        notices = Service("notices")

        @notices.on(OrderPlaced, retry=retry)
        def notice(event: OrderPlaced) -> Noticed:
            return plan.now(event, lambda: Noticed(order_id=event.order_id, about="placed"))

        services.append(notices)
    return App("shop", services=services, sagas=sagas or [order_saga()], read_models=[order_view])
