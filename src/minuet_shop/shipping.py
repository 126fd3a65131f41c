"""Shipping: hands parcels to the carrier, and remembers their tracking numbers."""

from collections.abc import AsyncIterator

from sqlalchemy import Column, Connection, MetaData, String, Table, select

from minuet import Deployment, IdempotencyKey, Service
from minuet_shop.contracts import (
    AddressRefused,
    CancelShipment,
    CreateShipment,
    ListShipments,
    OrderShipped,
    ShipmentCancelled,
    ShipmentPage,
    ShipmentView,
)
from minuet_shop.outside import PATIENT, Carrier, HttpCarrier, SaysNo, connected
from minuet_shop.tables import insert_new, insert_or_set, page

schema = MetaData()
shipments = Table(
    "shipments",
    schema,
    Column("order_id", String, primary_key=True),
    Column("tracking_number", String),
    Column("status", String, nullable=False),
)
SHIPPED = insert_new(shipments)
CANCELLED = insert_or_set(shipments, status="CANCELLED")

shipping = Service("shipping", schema=schema)


@shipping.provides
async def carrier(deployment: Deployment) -> AsyncIterator[Carrier]:
    async with connected(deployment, "carrier") as (session, url):
        yield HttpCarrier(session, url)


@shipping.handles(CreateShipment, retry=PATIENT)
async def create(command: CreateShipment, carrier: Carrier, key: IdempotencyKey) -> OrderShipped | AddressRefused:
    """Hand over the parcel. The key is the order's, so whoever asks, and however often, there is one parcel."""
    try:
        tracking_number = await carrier.ship(order_id=command.order_id, customer_id=command.customer_id or "", key=key)
    except SaysNo as no:
        return AddressRefused(order_id=command.order_id, reason=str(no))
    return OrderShipped(order_id=command.order_id, tracking_number=tracking_number)


@create.on_outcome
def record(outcome: OrderShipped | AddressRefused, db: Connection) -> None:
    """A shipment that was cancelled meanwhile stays cancelled."""
    if isinstance(outcome, OrderShipped):
        row = {"order_id": outcome.order_id, "tracking_number": outcome.tracking_number, "status": "SHIPPED"}
        db.execute(SHIPPED, row)


@create.on_exhausted
async def take_back(command: CreateShipment, carrier: Carrier) -> None:
    """Some attempt may have sent a parcel and its answer got lost: see to it that none is on its way."""
    await carrier.cancel(order_id=command.order_id)


@shipping.handles(CancelShipment, retry=PATIENT)
async def cancel(command: CancelShipment, carrier: Carrier) -> ShipmentCancelled:
    await carrier.cancel(order_id=command.order_id)
    return ShipmentCancelled(order_id=command.order_id)


@cancel.on_outcome
def record_cancel(outcome: ShipmentCancelled, db: Connection) -> None:
    """A cancellation that comes before its shipment is kept too: the shipment then counts as cancelled."""
    db.execute(CANCELLED, {"order_id": outcome.order_id, "status": "CANCELLED"})


@shipping.answers(ListShipments)
def list_shipments(query: ListShipments, db: Connection) -> ShipmentPage:
    found = select(shipments)
    if query.order_id is not None:
        found = found.where(shipments.c.order_id == query.order_id)
    rows, after = page(db, found, shipments.c.order_id, after=query.after, limit=query.limit)
    return ShipmentPage(shipments=[ShipmentView.model_validate(row, from_attributes=True) for row in rows], after=after)
