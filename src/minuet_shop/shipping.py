"""Shipping: hands parcels to the carrier, and remembers their tracking numbers."""

from collections.abc import AsyncIterator

from minuet import Database, Deployment, IdempotencyKey, Service
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
from minuet_shop.tables import page

SCHEMA = """
CREATE TABLE IF NOT EXISTS shipments (
    order_id TEXT NOT NULL PRIMARY KEY,
    tracking_number TEXT,
    status TEXT NOT NULL
);
"""
SHIPPED = """
INSERT INTO shipments (order_id, tracking_number, status) VALUES (:order_id, :tracking_number, 'SHIPPED')
ON CONFLICT DO NOTHING
"""
CANCELLED = """
INSERT INTO shipments (order_id, status) VALUES (:order_id, 'CANCELLED')
ON CONFLICT (order_id) DO UPDATE SET status = 'CANCELLED'
"""
SHIPMENTS = "SELECT order_id, tracking_number, status FROM shipments"

shipping = Service("shipping", schema=SCHEMA)


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
def record(outcome: OrderShipped | AddressRefused, db: Database) -> None:
    """A shipment that was cancelled meanwhile stays cancelled."""
    if isinstance(outcome, OrderShipped):
        db.execute(SHIPPED, order_id=outcome.order_id, tracking_number=outcome.tracking_number)


@create.on_exhausted
async def take_back(command: CreateShipment, carrier: Carrier) -> None:
    """Some attempt may have sent a parcel and its answer got lost: see to it that none is on its way."""
    await carrier.cancel(order_id=command.order_id)


@shipping.handles(CancelShipment, retry=PATIENT)
async def cancel(command: CancelShipment, carrier: Carrier) -> ShipmentCancelled:
    await carrier.cancel(order_id=command.order_id)
    return ShipmentCancelled(order_id=command.order_id)


@cancel.on_outcome
def record_cancel(outcome: ShipmentCancelled, db: Database) -> None:
    """A cancellation that comes before its shipment is kept too: the shipment then counts as cancelled."""
    db.execute(CANCELLED, order_id=outcome.order_id)


@shipping.answers(ListShipments)
def list_shipments(query: ListShipments, db: Database) -> ShipmentPage:
    shipments, after = page(
        db, SHIPMENTS, ShipmentView, key="order_id", after=query.after, limit=query.limit, order_id=query.order_id
    )
    return ShipmentPage(shipments=shipments, after=after)
