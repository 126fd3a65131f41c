"""Notifications: tells customers how their orders ended. It only listens, and no other service knows that it exists."""

from sqlalchemy import Column, Connection, MetaData, String, Table, select

from minuet import Service
from minuet_shop.contracts import ListNotes, NotePage, NoteView, OrderShipped, OrderStatusUpdated
from minuet_shop.tables import insert_new, page

schema = MetaData()
notes = Table(
    "notes",
    schema,
    Column("order_id", String, primary_key=True),
    Column("text", String, nullable=False),
)
WRITE = insert_new(notes)

notifications = Service("notifications", schema=schema)


@notifications.on(OrderShipped)
def tell_shipped(event: OrderShipped, db: Connection) -> None:
    text = f"Your order {event.order_id} is on its way: {event.tracking_number}."
    db.execute(WRITE, {"order_id": event.order_id, "text": text})


@notifications.on(OrderStatusUpdated)
def tell_cancelled(event: OrderStatusUpdated, db: Connection) -> None:
    if event.status == "CANCELLED":
        why = f": {event.reason}" if event.reason else ""
        db.execute(WRITE, {"order_id": event.order_id, "text": f"Your order {event.order_id} was cancelled{why}."})


@notifications.answers(ListNotes)
def list_notes(query: ListNotes, db: Connection) -> NotePage:
    found = select(notes)
    if query.order_id is not None:
        found = found.where(notes.c.order_id == query.order_id)
    rows, after = page(db, found, notes.c.order_id, after=query.after, limit=query.limit)
    return NotePage(notes=[NoteView.model_validate(row, from_attributes=True) for row in rows], after=after)
