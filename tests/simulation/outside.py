"""The world outside of the shop: a payment company and a carrier, whose books tell what was really done."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from minuet import Rejected
from minuet.testing.simulation import World
from minuet_shop.outside import SaysNo, Unanswered

SLOW_S = (0.0, 0.02, 0.5, 8.0)
FAILS = 0.1
DISPUTED = 0.3


@dataclass
class Done:
    """A charge, or a parcel."""

    order_id: str
    customer_id: str
    key: str
    amount: Decimal = Decimal()
    is_taken_back: bool = False


class Books:
    """What one of them has done, by idempotency key, and for which orders it does nothing any more."""

    def __init__(self, world: World, name: str, *, is_reliable: bool = False) -> None:
        self.world = world
        self.name = name
        self.is_reliable = is_reliable
        self.done: dict[str, Done] = {}
        self.closed: set[str] = set()

    def chance(self, rate: float) -> bool:
        return not self.is_reliable and self.world.chance(rate)

    async def asked(self, what: str) -> None:
        """On the way there: slow, and sometimes it never arrives."""
        self.world.trace(self.name, self.name, "note", what)
        await self.world.sleep(self.world.random.choice(SLOW_S) if self.chance(1.0) else 0.01)
        if self.chance(FAILS):
            raise Unanswered("it did not get there")

    async def answers(self) -> None:
        """On the way back: sometimes nothing comes."""
        await self.world.sleep(self.world.random.choice(SLOW_S) if self.chance(1.0) else 0.01)
        if self.chance(FAILS):
            raise Unanswered("whatever was done, there is no answer")

    def do(self, done: Done) -> None:
        if done.order_id in self.closed:
            raise SaysNo("taken back already")
        known = self.done.setdefault(done.key, done)
        assert (known.order_id, known.amount) == (done.order_id, done.amount), "one key, two contents"

    def take_back(self, order_id: str) -> Decimal:
        self.closed.add(order_id)
        for done in self.of(order_id):
            done.is_taken_back = True
        return sum((done.amount for done in self.done.values() if done.order_id == order_id), Decimal())

    def of(self, order_id: str) -> list[Done]:
        """What is done for the order, and not taken back."""
        return [one for one in self.done.values() if one.order_id == order_id and not one.is_taken_back]


class Bank(Books):
    """`minuet_shop.outside.Gateway`. Customers whose id begins with DECLINE have no money."""

    async def charge(self, *, order_id: str, customer_id: str, amount: Decimal, key: str) -> None:
        await self.asked(f"charge {order_id}")
        if customer_id.startswith("DECLINE"):
            raise SaysNo("no money")
        self.do(Done(order_id, customer_id, key, amount))
        await self.answers()

    async def refund(self, *, order_id: str) -> Decimal:
        await self.asked(f"refund {order_id}")
        if self.chance(DISPUTED):
            raise Rejected("somebody has to look at this")  # which no retry mends
        amount = self.take_back(order_id)
        await self.answers()
        return amount


class Courier(Books):
    """`minuet_shop.outside.Carrier`. Customers whose id begins with NOADDRESS live nowhere."""

    async def ship(self, *, order_id: str, customer_id: str, key: str) -> str:
        await self.asked(f"ship {order_id}")
        if customer_id.startswith("NOADDRESS"):
            raise SaysNo("no such address")
        self.do(Done(order_id, customer_id, key))
        await self.answers()
        return f"T-{order_id}"

    async def cancel(self, *, order_id: str) -> None:
        await self.asked(f"cancel {order_id}")
        self.take_back(order_id)
        await self.answers()
