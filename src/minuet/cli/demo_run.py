"""Places the demo's orders with a running shop, watches how each ends, and then looks into everybody's books."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minuet.cli.demo_orders import Plan
from minuet.cli.loading import SHOP, load_app, remember_app
from minuet.cli.process import settle
from minuet.cli.story import Arrow, arrows_of, in_order
from minuet.core.errors import MinuetError

if TYPE_CHECKING:
    from minuet.bootstrap import System
    from minuet.core.messages import Query
    from minuet.core.projection import Coordination
    from minuet.ports import Entry
    from minuet_shop.audit import Balance

SAGA = "OrderProcessing"
IN_FLIGHT_MAX = 64
PATIENCE_S = 60.0
QUIET_S = 0.1
PAGE = 500
REASONS = {"OutOfStock": "out of stock", "PaymentDeclined": "payment declined", "AddressRefused": "no address"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How one order went."""

    order_id: str
    status: str
    refusal: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    order_id: str
    status: str
    lanes: tuple[str, ...]
    arrows: tuple[Arrow, ...]


@dataclass(slots=True, kw_only=True)
class Run:
    """What came of the orders under one coordination.

    Attributes:
        seconds: how long all but the first order took together; that one went ahead alone.
        unfinished: orders that did not end, and why.
    """

    coordination: str
    ended: list[Ended] = field(default_factory=list)
    unfinished: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    messages: int = 0
    commits: int = 0
    balance: Balance
    stories: list[Story] = field(default_factory=list)

    @property
    def shipped(self) -> int:
        return sum(one.status == "SHIPPED" for one in self.ended)

    @property
    def cancelled(self) -> dict[str, int]:
        """How many, by reason."""
        found = dict.fromkeys(REASONS.values(), 0)
        for one in self.ended:
            if one.status != "SHIPPED":
                reason = REASONS.get(one.refusal, one.refusal or "unknown")
                found[reason] = found.get(reason, 0) + 1
        return found

    @property
    def is_good(self) -> bool:
        """Every order ended, for a reason that customers or stock gave, and the books balance."""
        as_meant = set(self.cancelled) <= set(REASONS.values())
        return as_meant and not self.unfinished and self.balance.is_even and not self.balance.pending

    def latency_ms(self, share: float) -> float:
        """The latency that so many of the orders did not exceed."""
        times = sorted(one.seconds for one in self.ended)
        return times[min(len(times) - 1, int(len(times) * share))] * 1000 if times else 0.0

    @property
    def orders_per_s(self) -> float:
        return (len(self.ended) - 1) / self.seconds if len(self.ended) > 1 else 0.0


@asynccontextmanager
async def shop(data: Path, coordination: Coordination, host: str, port: int) -> AsyncIterator[System]:
    """The whole shop, sandbox and all, in this process."""
    from minuet.bootstrap import running
    from minuet.settings import Settings

    remember_app(data, SHOP)
    # Whatever the environment says: twice the same orders on one broker or database would be the same orders.
    embedded: dict[str, Any] = {"stores": {"default": "sqlite:"}, "channels": {"*": "embedded:"}}
    settings = Settings(data=data, host=host, port=port, coordination={SAGA: coordination}, **embedded)
    async with running(load_app(SHOP), settings, serve=True) as system:
        settle()
        yield system


class Watch:
    """Sees each saga end, by what the places decide; reading the stores for it would cost more than the orders."""

    def __init__(self, system: System) -> None:
        self._types = system.codec.types
        self._ending: dict[str, asyncio.Future[str]] = {}
        self.refusals: dict[str, str] = {}
        for place in system.places.values():
            place.touched = self._too(place.touched)

    def _too(self, told: Callable[[Entry], None]) -> Callable[[Entry], None]:
        def see(entry: Entry) -> None:
            told(entry)
            self._see(entry)

        return see

    def ending(self, saga_id: str) -> asyncio.Future[str]:
        """A future of the saga's last step."""
        return self._ending.setdefault(saga_id, asyncio.get_running_loop().create_future())

    def _see(self, entry: Entry) -> None:
        from minuet.core.messages import Refusal
        from minuet.core.saga import COMPENSATED, COMPLETED

        saga = entry.envelope.saga
        if saga is None or entry.answer is None:
            return
        if issubclass(self._types[entry.answer.type], Refusal):
            self.refusals.setdefault(saga.id, entry.answer.type)
        ending = self._ending.get(saga.id)
        if saga.step in (COMPLETED, COMPENSATED) and ending is not None and not ending.done():
            ending.set_result(saga.step)


async def perform(system: System, plan: Plan, coordination: str, tell: Callable[[Ended], None]) -> Run:
    """Place the first order, and then the others, up to `IN_FLIGHT_MAX` at once; ``tell`` hears of each that ended."""
    from minuet_shop.contracts import SetStock

    for item, pieces in plan.stock.items():
        await system.send(SetStock(item=item, on_hand=pieces))
    await _quiet(system)
    watch, room = Watch(system), asyncio.Semaphore(IN_FLIGHT_MAX)
    ended: list[Ended] = []
    unfinished: dict[str, str] = {}

    async def place(order: Any) -> None:
        async with room:
            try:
                one = await _place(system, watch, order)
            except (MinuetError, TimeoutError) as error:
                unfinished[order.order_id] = str(error) or f"did not end within {PATIENCE_S:.0f} s"
                return
            ended.append(one)
            tell(one)

    messages, commits = _published(system), _commits(system)
    await place(plan.orders[0])
    begun = time.perf_counter()
    await asyncio.gather(*map(place, plan.orders[1:]))
    seconds = time.perf_counter() - begun
    await _quiet(system)
    return Run(
        coordination=coordination,
        ended=ended,
        unfinished=unfinished,
        seconds=seconds,
        messages=_published(system) - messages,
        commits=_commits(system) - commits,
        balance=await balance_of(system),
    )


async def _place(system: System, watch: Watch, order: Any) -> Ended:
    from minuet.core.messages import Refusal, name_of
    from minuet.core.saga import COMPLETED

    begun = time.perf_counter()
    ending = watch.ending(order.order_id)
    answer = await system.send(order)
    if isinstance(answer, Refusal):
        status, refusal = "REFUSED", name_of(answer)
    else:
        step = await asyncio.wait_for(ending, PATIENCE_S)
        status = "SHIPPED" if step == COMPLETED else "CANCELLED"
        refusal = watch.refusals.get(order.order_id, "")
    return Ended(order_id=order.order_id, status=status, refusal=refusal, seconds=time.perf_counter() - begun)


def _published(system: System) -> int:
    return sum(worker.relay.published for worker in system.workers.values())


def _commits(system: System) -> int:
    """Of the services' databases, and of the embedded broker's."""
    return sum(getattr(one, "commits", 0) for one in (*system.stores.values(), *system.transports.values()))


async def _quiet(system: System) -> None:
    """Until nothing more is published or written: those who only listen may be behind."""
    before = -1
    while before != (before := _commits(system)):
        await system.drained()
        await asyncio.sleep(QUIET_S)


# -- the books ---------------------------------------------------------------------------------------------------------


async def balance_of(system: System) -> Balance:
    """What all services and the world outside wrote down, compared."""
    from minuet_shop import contracts
    from minuet_shop.audit import balance
    from minuet_shop.outside import CarrierLedger, GatewayLedger

    gateway = GatewayLedger.model_validate_json(await _get(f"{system.url}/sandbox/gateway/ledger"))
    carrier = CarrierLedger.model_validate_json(await _get(f"{system.url}/sandbox/carrier/ledger"))
    return balance(
        orders=await _every(system, contracts.ListOrders, "orders"),
        stock=await _every(system, contracts.ListStock, "stock"),
        reservations=await _every(system, contracts.ListReservations, "reservations"),
        payments=await _every(system, contracts.ListPayments, "payments"),
        shipments=await _every(system, contracts.ListShipments, "shipments"),
        charges=gateway.charges,
        parcels=carrier.parcels,
    )


async def _every(system: System, query: type[Query], name: str) -> list[Any]:
    """The rows of all pages of a query."""
    rows: list[Any] = []
    after: str | None = None
    while True:
        page: Any = await system.ask(query.model_validate({"limit": PAGE, "after": after}))
        rows += getattr(page, name)
        after = page.after
        if after is None:
            return rows


async def _get(url: str) -> bytes:
    import aiohttp

    async with aiohttp.ClientSession() as session, session.get(url) as response:
        response.raise_for_status()
        return await response.read()


# -- the stories -------------------------------------------------------------------------------------------------------


def worth_telling(run: Run) -> list[str]:
    """An order that was shipped, and the cancelled one of which most had to be undone."""
    by_id = sorted(run.ended, key=lambda one: one.order_id)
    shipped = [one.order_id for one in by_id if one.status == "SHIPPED"]
    latest_first = list(reversed(REASONS))
    cancelled = sorted(
        (one for one in by_id if one.refusal in latest_first), key=lambda one: latest_first.index(one.refusal)
    )
    return [*shipped[:1], *(one.order_id for one in cancelled[:1])]


async def stories_of(system: System, order_ids: Sequence[str]) -> list[Story]:
    """What was said about these orders."""
    from minuet.bootstrap import everything
    from minuet.cli.story import lanes_of

    stories = []
    for order_id in order_ids:
        view = await system.observer.saga(order_id, SAGA)
        arrows = arrows_of(view, system.observer)
        lanes = lanes_of(arrows, in_order(everything(system.app)))
        stories.append(Story(order_id=order_id, status=view.status, lanes=tuple(lanes), arrows=tuple(arrows)))
    return stories
