"""Notifications: tells customers how their orders ended. It only listens, and no other service knows that it exists."""

from minuet import Database, Service
from minuet_shop.contracts import ListNotes, NotePage, NoteView, OrderShipped, OrderStatusUpdated
from minuet_shop.tables import page

SCHEMA = """
CREATE TABLE IF NOT EXISTS notes (
    order_id TEXT NOT NULL PRIMARY KEY,
    text TEXT NOT NULL
);
"""
WRITE = "INSERT INTO notes (order_id, text) VALUES (:order_id, :text) ON CONFLICT DO NOTHING"
NOTES = "SELECT order_id, text FROM notes"

notifications = Service("notifications", schema=SCHEMA)


@notifications.on(OrderShipped)
def tell_shipped(event: OrderShipped, db: Database) -> None:
    text = f"Your order {event.order_id} is on its way: {event.tracking_number}."
    db.execute(WRITE, order_id=event.order_id, text=text)


@notifications.on(OrderStatusUpdated)
def tell_cancelled(event: OrderStatusUpdated, db: Database) -> None:
    if event.status == "CANCELLED":
        why = f": {event.reason}" if event.reason else ""
        db.execute(WRITE, order_id=event.order_id, text=f"Your order {event.order_id} was cancelled{why}.")


@notifications.answers(ListNotes)
def list_notes(query: ListNotes, db: Database) -> NotePage:
    notes, after = page(
        db, NOTES, NoteView, key="order_id", after=query.after, limit=query.limit, order_id=query.order_id
    )
    return NotePage(notes=notes, after=after)
