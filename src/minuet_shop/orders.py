"""Orders: takes them, prices them, and remembers how they ended."""

from decimal import Decimal

from sqlalchemy import JSON, Column, Connection, Index, MetaData, String, Table, bindparam, select, update

from minuet import NewId, NotFound, Service
from minuet_shop.catalogue import PRICES
from minuet_shop.contracts import (
    GetOrder,
    ImportOrder,
    ListOrders,
    OrderCreated,
    OrderExists,
    OrderPage,
    OrderPriced,
    OrderStatusUpdated,
    OrderView,
    PlaceOrder,
    UnknownItem,
    UpdateOrderStatus,
)
from minuet_shop.tables import Cents, begin_with, insert_new, page

schema = MetaData()
price_list = Table(
    "price_list",
    schema,
    Column("item", String, primary_key=True),
    Column("price", Cents, nullable=False),
)
placed = Table(
    "orders",
    schema,
    Column("order_id", String, primary_key=True),
    Column("customer_id", String, nullable=False),
    Column("items", JSON, nullable=False),
    Column("amount", Cents, nullable=False),
    Column("status", String, nullable=False),
    Column("reason", String),
    Index("orders_by_status", "status", "order_id"),
)
begin_with(price_list, [{"item": item, "price": price} for item, price in PRICES.items()])

# Statements are made once: what SQLAlchemy has compiled, it does not compile again.
PRICES_OF = select(price_list.c.item, price_list.c.price).where(
    price_list.c.item.in_(bindparam("items", expanding=True))
)
NEW_ORDER = insert_new(placed)
ORDER = select(placed).where(placed.c.order_id == bindparam("order_id"))
END = (
    update(placed)
    .where(placed.c.order_id == bindparam("the_order"), placed.c.status == "PENDING")
    .values(status=bindparam("end"), reason=bindparam("because"))
)

orders = Service("orders", schema=schema)


@orders.handles(PlaceOrder)
def place(
    command: PlaceOrder, db: Connection, new_id: NewId
) -> tuple[OrderCreated, OrderPriced] | UnknownItem | OrderExists:
    """Take the order at the prices of the list."""
    listed = db.execute(PRICES_OF, {"items": [*set(command.items)]})
    prices: dict[str, Decimal] = {row.item: row.price for row in listed}
    for item in command.items:
        if item not in prices:
            return UnknownItem(item=item)
    amount = sum((prices[item] for item in command.items), Decimal())
    return _take(db, command.order_id or f"ORD-{new_id}", command.customer_id, command.items, amount)


@orders.handles(ImportOrder)
def take_in(command: ImportOrder, db: Connection) -> tuple[OrderCreated, OrderPriced] | OrderExists:
    """Take the order at the prices it brings."""
    return _take(db, command.order_id, command.customer_id, command.items, command.amount)


def _take(
    db: Connection, order_id: str, customer_id: str, items: list[str], amount: Decimal
) -> tuple[OrderCreated, OrderPriced] | OrderExists:
    """Write the order down. One that is there already with the same content is the same order."""
    content = {"customer_id": customer_id, "items": items, "amount": amount}
    is_new = db.execute(NEW_ORDER, {"order_id": order_id, **content, "status": "PENDING"}).rowcount == 1
    if not is_new:
        known = db.execute(ORDER, {"order_id": order_id}).one()
        if any(getattr(known, name) != value for name, value in content.items()):
            return OrderExists(order_id=order_id)
    return (
        OrderCreated(order_id=order_id, customer_id=customer_id, items=items),
        OrderPriced(order_id=order_id, customer_id=customer_id, items=items, amount=amount, status="PENDING"),
    )


@orders.handles(UpdateOrderStatus)
def end(command: UpdateOrderStatus, db: Connection) -> OrderStatusUpdated:
    """Write down how the order ended, unless it has ended already; answer how it did."""
    wanted = {"the_order": command.order_id, "end": command.status, "because": command.reason}
    if db.execute(END, wanted).rowcount == 1:
        return OrderStatusUpdated(order_id=command.order_id, status=command.status, reason=command.reason)
    known = _order(command.order_id, db)
    return OrderStatusUpdated(order_id=known.order_id, status=known.status, reason=known.reason)


@orders.answers(GetOrder)
def get_order(query: GetOrder, db: Connection) -> OrderView:
    return _order(query.order_id, db)


@orders.answers(ListOrders)
def list_orders(query: ListOrders, db: Connection) -> OrderPage:
    found = select(placed)
    if query.status is not None:
        found = found.where(placed.c.status == query.status)
    rows, after = page(db, found, placed.c.order_id, after=query.after, limit=query.limit)
    return OrderPage(orders=[OrderView.model_validate(row, from_attributes=True) for row in rows], after=after)


def _order(order_id: str, db: Connection) -> OrderView:
    row = db.execute(ORDER, {"order_id": order_id}).one_or_none()
    if row is None:
        raise NotFound(f"there is no order {order_id}")
    return OrderView.model_validate(row, from_attributes=True)
