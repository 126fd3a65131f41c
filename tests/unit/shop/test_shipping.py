import pytest

from minuet import Database, IdempotencyKey
from minuet_shop.contracts import (
    AddressRefused,
    CancelShipment,
    CreateShipment,
    ListShipments,
    OrderShipped,
    ShipmentCancelled,
)
from minuet_shop.outside import SaysNo
from minuet_shop.shipping import cancel, create, list_shipments, record, record_cancel, shipping, take_back
from tests.unit.shop.conftest import DatabaseOf

COMMAND = CreateShipment(order_id="A", customer_id="CUST987")
SHIPPED = OrderShipped(order_id="A", tracking_number="TRK998877")


class FakeCarrier:
    """Remembers what it was asked."""

    def __init__(self, *, says_no: str = "") -> None:
        self.says_no = says_no
        self.shipped: dict[str, tuple[str, str]] = {}
        self.cancelled: list[str] = []

    async def ship(self, *, order_id: str, customer_id: str, key: str) -> str:
        if self.says_no:
            raise SaysNo(self.says_no)
        self.shipped[key] = order_id, customer_id
        return "TRK998877"

    async def cancel(self, *, order_id: str) -> None:
        self.cancelled.append(order_id)


@pytest.fixture
def db(database_of: DatabaseOf) -> Database:
    return database_of(shipping)


def books(db: Database) -> list[tuple[str, str | None, str]]:
    return [(one.order_id, one.tracking_number, one.status) for one in list_shipments(ListShipments(), db).shipments]


async def test_a_parcel_is_handed_over_under_the_key_it_is_given() -> None:
    carrier = FakeCarrier()
    assert await create(COMMAND, carrier, IdempotencyKey("K")) == SHIPPED
    assert carrier.shipped == {"K": ("A", "CUST987")}


async def test_a_refused_address_carries_its_reason(db: Database) -> None:
    refused = await create(COMMAND, FakeCarrier(says_no="no such street"), IdempotencyKey("K"))
    assert refused == AddressRefused(order_id="A", reason="no such street")
    record(refused, db)
    assert books(db) == []


async def test_a_parcel_is_called_back_on_demand_and_when_every_attempt_failed() -> None:
    carrier = FakeCarrier()
    assert await cancel(CancelShipment(order_id="A"), carrier) == ShipmentCancelled(order_id="A")
    await take_back(COMMAND, carrier)
    assert carrier.cancelled == ["A", "A"]


def test_a_cancellation_is_final_whichever_comes_first(db: Database) -> None:
    record(SHIPPED, db)
    record(SHIPPED, db)
    assert books(db) == [("A", "TRK998877", "SHIPPED")]
    record_cancel(ShipmentCancelled(order_id="A"), db)
    record_cancel(ShipmentCancelled(order_id="B"), db)
    record(OrderShipped(order_id="B", tracking_number="TRK1"), db)
    assert books(db) == [("A", "TRK998877", "CANCELLED"), ("B", None, "CANCELLED")]
