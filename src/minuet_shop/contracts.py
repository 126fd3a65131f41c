"""The shop's published language: what its services say to each other and to the world. Nothing else is shared.

JSON bodies are camelCase and money is a JSON number. Bodies of events also carry ``eventType`` and ``timestamp``.
"""

from decimal import Decimal
from typing import Annotated, Any, Literal, Self

from pydantic import Field, PlainSerializer, WithJsonSchema, model_validator

from minuet import Command, Event, Query, Refusal, View


def _money(max_digits: int) -> Any:
    # A float has room for more digits than these, so that the JSON number is exact.
    return (
        Field(ge=0, max_digits=max_digits, decimal_places=2),
        PlainSerializer(float, return_type=float, when_used="json"),
        WithJsonSchema({"type": "number", "minimum": 0, "examples": [150.75]}),
    )


Money = Annotated[Decimal, *_money(12)]
Price = Annotated[Decimal, *_money(9)]
"""What one item costs; a thousand of them are still `Money`."""

# Identifiers travel in URLs and headers, names and reasons only in bodies.
OrderId = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:@-]*$", max_length=64, examples=["ORD12345"])]
CustomerId = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f]+$", max_length=64, examples=["CUST987"])]
Item = Annotated[str, Field(pattern=r"^[^/\x00-\x1f\x7f]+$", max_length=64, examples=["ITEM001"])]
Items = Annotated[list[Item], Field(min_length=1, max_length=1000, examples=[["ITEM001", "ITEM005"]])]
Reason = Annotated[str, Field(max_length=1000)]
TrackingNumber = Annotated[str, Field(min_length=1, max_length=64, examples=["TRK998877"])]
Pieces = Annotated[int, Field(ge=0, le=1_000_000_000)]
PageSize = Annotated[int, Field(ge=1, le=500)]

OrderStatus = Literal["PENDING", "SHIPPED", "CANCELLED"]


# -- orders: events, then commands, then queries -----------------------------------------------------------------------


class OrderCreated(Event, channel="orders"):
    """Thin on purpose: whoever needs the amount asks `GetOrder`."""

    order_id: OrderId
    customer_id: CustomerId
    items: Items


class OrderPriced(Event, channel="orders.priced"):
    """The whole new order, for those who keep a copy."""

    order_id: OrderId
    customer_id: CustomerId
    items: Items
    amount: Money
    status: OrderStatus


class OrderStatusUpdated(Event, channel="orders"):
    order_id: OrderId
    status: OrderStatus
    reason: Reason | None = None


class UnknownItem(Refusal, channel="orders.refused"):
    """The price list does not have it."""

    item: Item


class OrderExists(Refusal, channel="orders.refused"):
    """Another order has this id."""

    order_id: OrderId


class PlaceOrder(
    Command,
    service="orders",
    http="POST /orders",
    key="order_id",
    accepted="/orders/{order_id}",
    answers=(OrderCreated, UnknownItem, OrderExists),
):
    """Order at the prices of our list. Without an id the order gets one."""

    customer_id: CustomerId
    items: Items
    order_id: OrderId | None = None


class ImportOrder(
    Command,
    service="orders",
    http="POST /orders/import",
    key="order_id",
    accepted="/orders/{order_id}",
    answers=(OrderCreated, OrderExists),
):
    """An order agreed elsewhere, at its own prices: one for each of its items, in their order or by name."""

    order_id: OrderId
    customer_id: CustomerId
    items: Items
    prices: Annotated[list[Price] | dict[Item, Price], Field(examples=[[100.25, 50.50]])]

    @model_validator(mode="after")
    def _every_item_has_a_price(self) -> Self:
        if isinstance(self.prices, list) and len(self.prices) != len(self.items):
            raise ValueError(f"{len(self.items)} items need as many prices, not {len(self.prices)}")
        if isinstance(self.prices, dict) and (missing := set(self.items) - set(self.prices)):
            raise ValueError(f"{min(missing)} has no price")
        return self

    @property
    def amount(self) -> Decimal:
        prices = self.prices if isinstance(self.prices, list) else [self.prices[item] for item in self.items]
        return sum(prices, Decimal())


class UpdateOrderStatus(
    Command,
    service="orders",
    http="PUT /orders/{order_id}/status",
    key=("order_id", "status"),
    answers=(OrderStatusUpdated,),
):
    """How the order ended. The first end stays: the answer says which it is."""

    order_id: OrderId
    status: Literal["SHIPPED", "CANCELLED"]
    reason: Reason | None = None


class OrderView(View):
    order_id: OrderId
    customer_id: CustomerId
    items: Items
    amount: Money
    status: OrderStatus
    reason: Reason | None = None


class OrderPage(View):
    orders: list[OrderView]
    after: OrderId | None = None


class GetOrder(Query, service="orders", http="GET /orders/{order_id}", answer=OrderView):
    order_id: OrderId


class ListOrders(Query, service="orders", http="GET /orders", answer=OrderPage):
    """Orders by their id. A page's ``after`` asks for the next one; the last page has none."""

    status: OrderStatus | None = None
    limit: PageSize = 50
    after: OrderId | None = None


# -- inventory ---------------------------------------------------------------------------------------------------------


class InventoryReserved(Event, channel="inventory.reserved"):
    order_id: OrderId
    status: Literal["RESERVED"] = "RESERVED"
    reserved_items: Items


class InventoryReleased(Event, channel="inventory.released"):
    order_id: OrderId


class OutOfStock(Refusal, channel="inventory.refused"):
    order_id: OrderId
    item: Item


class AlreadyReleased(Refusal, channel="inventory.refused"):
    """The release of this order came first."""

    order_id: OrderId


class StockSet(Event, channel="inventory.stock"):
    item: Item
    on_hand: Pieces


class StockHeld(Refusal, channel="inventory.refused"):
    """More pieces are reserved than would be there."""

    item: Item
    reserved: Pieces


class ReserveInventory(
    Command,
    service="inventory",
    http="POST /inventory/reserve",
    key="order_id",
    answers=(InventoryReserved, OutOfStock, AlreadyReleased),
):
    """Set aside one piece for each time an item is named: all of them or none."""

    order_id: OrderId
    items: Items


class ReleaseInventory(
    Command, service="inventory", http="POST /inventory/release", key="order_id", answers=(InventoryReleased,)
):
    """Put back what is set aside for the order, now and from now on."""

    order_id: OrderId


class SetStock(Command, service="inventory", http="PUT /inventory/stock/{item}", answers=(StockSet, StockHeld)):
    """How many pieces there are, those reserved counted."""

    item: Item
    on_hand: Pieces


class StockView(View):
    item: Item
    on_hand: Pieces
    reserved: Pieces
    available: Pieces


class StockPage(View):
    stock: list[StockView]
    after: Item | None = None


class ReservationView(View):
    order_id: OrderId
    items: list[Item]
    status: Literal["RESERVED", "RELEASED"]


class ReservationPage(View):
    reservations: list[ReservationView]
    after: OrderId | None = None


class GetStock(Query, service="inventory", http="GET /inventory/stock/{item}", answer=StockView):
    item: Item


class ListStock(Query, service="inventory", http="GET /inventory/stock", answer=StockPage):
    limit: PageSize = 50
    after: Item | None = None


class ListReservations(Query, service="inventory", http="GET /inventory/reservations", answer=ReservationPage):
    order_id: OrderId | None = None
    limit: PageSize = 50
    after: OrderId | None = None


# -- payment -----------------------------------------------------------------------------------------------------------


class PaymentProcessed(Event, channel="payment-events"):
    order_id: OrderId
    payment_status: Literal["SUCCESS"] = "SUCCESS"
    amount: Money


class PaymentRefunded(Event, channel="payment-events"):
    order_id: OrderId
    payment_status: Literal["REFUNDED"] = "REFUNDED"
    amount: Money


class PaymentDeclined(Refusal, channel="payment-events"):
    order_id: OrderId
    payment_status: Literal["DECLINED"] = "DECLINED"
    reason: Reason


class ProcessPayment(
    Command,
    service="payment",
    http="POST /payment/process",
    key="order_id",
    answers=(PaymentProcessed, PaymentDeclined),
):
    """Charge the customer, once for each order."""

    order_id: OrderId
    amount: Money
    customer_id: CustomerId | None = None


class RefundPayment(
    Command, service="payment", http="POST /payment/refund", key="order_id", answers=(PaymentRefunded,)
):
    """Give back whatever was charged for the order, and charge nothing for it any more."""

    order_id: OrderId


class PaymentView(View):
    order_id: OrderId
    amount: Money
    status: Literal["PAID", "REFUNDED"]


class PaymentPage(View):
    payments: list[PaymentView]
    after: OrderId | None = None


class ListPayments(Query, service="payment", http="GET /payment/payments", answer=PaymentPage):
    order_id: OrderId | None = None
    limit: PageSize = 50
    after: OrderId | None = None


# -- shipping ----------------------------------------------------------------------------------------------------------


class OrderShipped(Event, channel="shipping"):
    order_id: OrderId
    tracking_number: TrackingNumber


class ShipmentCancelled(Event, channel="shipping"):
    order_id: OrderId


class AddressRefused(Refusal, channel="shipping"):
    """The carrier takes no parcel for this order."""

    order_id: OrderId
    reason: Reason


class CreateShipment(
    Command, service="shipping", http="POST /shipping/create", key="order_id", answers=(OrderShipped, AddressRefused)
):
    """Hand the order's parcel to the carrier, once."""

    order_id: OrderId
    customer_id: CustomerId | None = None


class CancelShipment(
    Command, service="shipping", http="POST /shipping/cancel", key="order_id", answers=(ShipmentCancelled,)
):
    """Call back the order's parcel, if there is one, and send none any more."""

    order_id: OrderId


class ShipmentView(View):
    order_id: OrderId
    tracking_number: TrackingNumber | None
    status: Literal["SHIPPED", "CANCELLED"]


class ShipmentPage(View):
    shipments: list[ShipmentView]
    after: OrderId | None = None


class ListShipments(Query, service="shipping", http="GET /shipping/shipments", answer=ShipmentPage):
    order_id: OrderId | None = None
    limit: PageSize = 50
    after: OrderId | None = None


# -- notifications -----------------------------------------------------------------------------------------------------


class NoteView(View):
    order_id: OrderId
    text: str


class NotePage(View):
    notes: list[NoteView]
    after: OrderId | None = None


class ListNotes(Query, service="notifications", http="GET /notifications", answer=NotePage):
    order_id: OrderId | None = None
    limit: PageSize = 50
    after: OrderId | None = None
