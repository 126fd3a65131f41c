"""The business transaction: reserve the stock, take the payment, ship. Whether services react to each other or a
conductor calls them is not said here; a deployment chooses."""

from minuet import Refusal, Saga, StepRefused, read_model, step
from minuet_shop.contracts import (
    AddressRefused,
    CreateShipment,
    GetOrder,
    OrderCreated,
    OrderPriced,
    OrderShipped,
    OrderView,
    OutOfStock,
    PaymentDeclined,
    ProcessPayment,
    RefundPayment,
    ReleaseInventory,
    ReserveInventory,
    UpdateOrderStatus,
)


def charge(order: OrderView) -> ProcessPayment:
    """The events do not say what the order costs, so orders is asked."""
    return ProcessPayment(order_id=order.order_id, amount=order.amount, customer_id=order.customer_id)


def ship(order: OrderCreated) -> CreateShipment:
    return CreateShipment(order_id=order.order_id, customer_id=order.customer_id)


def ship_order(shipped: OrderShipped) -> UpdateOrderStatus:
    return UpdateOrderStatus(order_id=shipped.order_id, status="SHIPPED")


def cancel_order(order: OrderCreated, refusal: Refusal) -> UpdateOrderStatus:
    return UpdateOrderStatus(order_id=order.order_id, status="CANCELLED", reason=_in_words(refusal))


def _in_words(refusal: Refusal) -> str:
    match refusal:
        case OutOfStock(item=item):
            return f"{item} is out of stock"
        case PaymentDeclined(reason=reason) | AddressRefused(reason=reason):
            return reason
        case StepRefused(service=service, reason=reason):
            return f"{service} could not do its part: {reason}"
        case _:
            return type(refusal).__name__


order_processing = Saga(
    "OrderProcessing",
    begins_with=OrderCreated,
    key="order_id",
    steps=[
        step(ReserveInventory, undo=ReleaseInventory),
        step(charge, undo=RefundPayment),
        step(ship),
    ],
    completed=ship_order,
    compensated=cancel_order,
)


@read_model(GetOrder)
def order_view(order: OrderPriced) -> OrderView:
    """For deployments in which payment keeps a copy of the orders, and goes on while orders is down."""
    return OrderView(
        order_id=order.order_id,
        customer_id=order.customer_id,
        items=order.items,
        amount=order.amount,
        status=order.status,
    )
