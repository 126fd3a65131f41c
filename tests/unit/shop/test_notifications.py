from minuet_shop.contracts import ListNotes, OrderShipped, OrderStatusUpdated
from minuet_shop.notifications import list_notes, notifications, tell_cancelled, tell_shipped
from tests.unit.shop.conftest import DatabaseOf


def test_customers_hear_once_how_their_order_ended(database_of: DatabaseOf) -> None:
    db = database_of(notifications)
    for _ in range(2):
        tell_shipped(OrderShipped(order_id="A", tracking_number="TRK998877"), db)
        tell_cancelled(OrderStatusUpdated(order_id="A", status="SHIPPED"), db)
        tell_cancelled(OrderStatusUpdated(order_id="B", status="CANCELLED", reason="ITEM001 is out of stock"), db)
    notes = list_notes(ListNotes(), db).notes
    assert [note.text for note in notes] == [
        "Your order A is on its way: TRK998877.",
        "Your order B was cancelled: ITEM001 is out of stock.",
    ]
    assert [note.order_id for note in list_notes(ListNotes(order_id="B"), db).notes] == ["B"]
