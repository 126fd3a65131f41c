"""The messages of a small shop, for tests that want to be read."""

from minuet.core.messages import Command, Event, Query, Refusal, View
from minuet.core.saga import Saga, step


class OrderCreated(Event, channel="orders"):
    order_id: str
    items: list[str]


class InventoryReserved(Event, channel="inventory"):
    order_id: str
    reserved_items: list[str]


class InventoryReleased(Event, channel="inventory"):
    order_id: str


class OutOfStock(Refusal, channel="inventory.refused"):
    order_id: str
    item: str


class PaymentProcessed(Event, channel="payments"):
    order_id: str
    amount: float


class PaymentRefunded(Event, channel="payments"):
    order_id: str


class PaymentDeclined(Refusal, channel="payments.refused"):
    order_id: str


class OrderShipped(Event, channel="shipping"):
    order_id: str
    tracking_number: str


class OrderUpdated(Event, channel="orders"):
    order_id: str


class ReserveInventory(Command, service="inventory", answers=(InventoryReserved, OutOfStock)):
    order_id: str
    items: list[str]


class ReleaseInventory(Command, service="inventory", answers=(InventoryReleased,)):
    order_id: str
    reserved_items: list[str]


class ProcessPayment(Command, service="payment", answers=(PaymentProcessed, PaymentDeclined)):
    order_id: str
    amount: float


class RefundPayment(Command, service="payment", answers=(PaymentRefunded,)):
    order_id: str
    amount: float


class CreateShipment(Command, service="shipping", answers=(OrderShipped,)):
    order_id: str


class UpdateOrder(Command, service="orders", answers=(OrderUpdated,)):
    order_id: str
    status: str = "SHIPPED"


class OrderView(View):
    order_id: str
    amount: float


class GetOrder(Query, service="orders", answer=OrderView):
    order_id: str


def charge(order: OrderView) -> ProcessPayment:
    return ProcessPayment(order_id=order.order_id, amount=order.amount)


def cancel_order(order: OrderCreated, refusal: Refusal) -> UpdateOrder:
    return UpdateOrder(order_id=order.order_id, status=f"CANCELLED: {type(refusal).__name__}")


def order_processing() -> Saga:
    return Saga(
        "OrderProcessing",
        begins_with=OrderCreated,
        key="order_id",
        steps=[
            step(ReserveInventory, undo=ReleaseInventory),
            step(charge, undo=RefundPayment),
            step(CreateShipment),
        ],
        completed=UpdateOrder,
        compensated=cancel_order,
    )
