"""Do the books balance? What the shop's services wrote down against each other, and against the world outside. Pure."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal

from minuet_shop.contracts import OrderView, PaymentView, ReservationView, ShipmentView, StockView
from minuet_shop.outside import Charge, Parcel


@dataclass(frozen=True, slots=True, kw_only=True)
class Balance:
    """Sums over everything that was looked at, and what does not fit.

    Attributes:
        ordered: what the shipped orders cost. paid: what payment says it holds. charged: what the gateway holds.
        reserved: pieces that the shelves say are set aside. promised: pieces that orders have reserved.
        shipments: that shipping says are on their way. parcels: that the carrier says are.
        differences: in words; empty when the books balance.
    """

    shipped: int
    cancelled: int
    pending: int
    ordered: Decimal
    paid: Decimal
    charged: Decimal
    reserved: int
    promised: int
    shipments: int
    parcels: int
    differences: tuple[str, ...]

    @property
    def is_even(self) -> bool:
        return not self.differences


def balance(
    *,
    orders: Iterable[OrderView],
    stock: Iterable[StockView],
    reservations: Iterable[ReservationView],
    payments: Iterable[PaymentView],
    shipments: Iterable[ShipmentView],
    charges: Iterable[Charge],
    parcels: Iterable[Parcel],
) -> Balance:
    """Compare all books. Of a pending order nothing is expected yet, but shelves and reservations always agree."""
    by_id = {order.order_id: order for order in orders}
    shelves = {shelf.item: shelf.reserved for shelf in stock}
    held = {one.order_id: one.items for one in reservations if one.status == "RESERVED"}
    paid = {one.order_id: one.amount for one in payments if one.status == "PAID"}
    sent = {one.order_id: one.tracking_number or "" for one in shipments if one.status == "SHIPPED"}
    charged: defaultdict[str, list[Decimal]] = defaultdict(list)
    for charge in charges:
        if not charge.refunded:
            charged[charge.order_id].append(charge.amount)
    carried: defaultdict[str, list[str]] = defaultdict(list)
    for parcel in parcels:
        if not parcel.cancelled:
            carried[parcel.order_id].append(parcel.tracking_number)

    def differences() -> Iterator[str]:
        for order_id in sorted({*by_id, *held, *paid, *sent, *charged, *carried}):
            order = by_id.get(order_id)
            if order is not None and order.status == "PENDING":
                continue
            goes = order is not None and order.status == "SHIPPED"
            name = f"{order.status.lower() if order else 'unknown'} order {order_id}"
            pieces, amount = (order.items, order.amount) if order and goes else ([], Decimal())
            if sorted(held.get(order_id, [])) != sorted(pieces):
                yield f"{name} holds {_of(held.get(order_id, []))} instead of {_of(pieces)}"
            if paid.get(order_id, Decimal()) != amount:
                yield f"{name} paid {paid.get(order_id, 0)} instead of {amount}"
            if sum(charged[order_id]) != amount or len(charged[order_id]) > 1:
                yield f"{name} was charged {_of(charged[order_id])} by the gateway instead of {amount}"
            if (order_id in sent) != goes:
                yield f"{name} has {'no shipment' if goes else 'a shipment'}"
            if carried[order_id] != ([sent[order_id]] if order_id in sent else []):
                yield f"{name} has {_of(carried[order_id])} at the carrier instead of {sent.get(order_id, 'nothing')}"
        promised = Counter(item for items in held.values() for item in items)
        for item in sorted({*shelves, *promised}):
            if shelves.get(item, 0) != promised[item]:
                yield f"{shelves.get(item, 0)} pieces of {item} are set aside, but orders hold {promised[item]}"

    statuses = Counter(order.status for order in by_id.values())
    return Balance(
        shipped=statuses["SHIPPED"],
        cancelled=statuses["CANCELLED"],
        pending=statuses["PENDING"],
        ordered=sum((order.amount for order in by_id.values() if order.status == "SHIPPED"), Decimal()),
        paid=sum(paid.values(), Decimal()),
        charged=sum((amount for amounts in charged.values() for amount in amounts), Decimal()),
        reserved=sum(shelves.values()),
        promised=sum(map(len, held.values())),
        shipments=len(sent),
        parcels=sum(map(len, carried.values())),
        differences=tuple(differences()),
    )


def _of(things: Iterable[object]) -> str:
    return ", ".join(map(str, things)) or "nothing"
