from decimal import Decimal

import pytest

from minuet import Database, IdempotencyKey
from minuet_shop.contracts import (
    ListPayments,
    PaymentDeclined,
    PaymentProcessed,
    PaymentRefunded,
    ProcessPayment,
    RefundPayment,
)
from minuet_shop.outside import SaysNo
from minuet_shop.payment import list_payments, payment, process, record, record_refund, refund, take_back
from tests.unit.shop.conftest import DatabaseOf

COMMAND = ProcessPayment(order_id="A", amount=Decimal("150.75"), customer_id="CUST987")
PROCESSED = PaymentProcessed(order_id="A", amount=Decimal("150.75"))
REFUNDED = PaymentRefunded(order_id="A", amount=Decimal("150.75"))


class FakeGateway:
    """Remembers what it was asked."""

    def __init__(self, *, says_no: str = "") -> None:
        self.says_no = says_no
        self.charged: dict[str, tuple[str, str, Decimal]] = {}
        self.refunded: list[str] = []

    async def charge(self, *, order_id: str, customer_id: str, amount: Decimal, key: str) -> None:
        if self.says_no:
            raise SaysNo(self.says_no)
        self.charged[key] = order_id, customer_id, amount

    async def refund(self, *, order_id: str) -> Decimal:
        self.refunded.append(order_id)
        return Decimal("150.75")


@pytest.fixture
def db(database_of: DatabaseOf) -> Database:
    return database_of(payment)


def books(db: Database) -> list[tuple[str, Decimal, str]]:
    return [(one.order_id, one.amount, one.status) for one in list_payments(ListPayments(), db).payments]


async def test_a_payment_is_charged_under_the_key_it_is_given() -> None:
    gateway = FakeGateway()
    assert await process(COMMAND, gateway, IdempotencyKey("K")) == PROCESSED
    assert gateway.charged == {"K": ("A", "CUST987", Decimal("150.75"))}


async def test_who_pays_may_be_left_out_as_in_the_seed() -> None:
    gateway = FakeGateway()
    await process(
        ProcessPayment.model_validate_json('{"orderId": "A", "amount": 150.75}'), gateway, IdempotencyKey("K")
    )
    assert gateway.charged == {"K": ("A", "", Decimal("150.75"))}


async def test_a_decline_carries_its_reason(db: Database) -> None:
    declined = await process(COMMAND, FakeGateway(says_no="no money"), IdempotencyKey("K"))
    assert declined == PaymentDeclined(order_id="A", reason="no money")
    record(declined, db)
    assert books(db) == []


async def test_a_refund_gives_back_what_was_charged() -> None:
    assert await refund(RefundPayment(order_id="A"), FakeGateway()) == REFUNDED


async def test_when_every_attempt_failed_nothing_stays_charged() -> None:
    gateway = FakeGateway()
    await take_back(COMMAND, gateway)
    assert gateway.refunded == ["A"]


def test_a_payment_is_written_down_once(db: Database) -> None:
    record(PROCESSED, db)
    record(PROCESSED, db)
    assert books(db) == [("A", Decimal("150.75"), "PAID")]


def test_a_refund_is_final_whichever_comes_first(db: Database) -> None:
    record(PROCESSED, db)
    record_refund(REFUNDED, db)
    record(PROCESSED, db)
    assert books(db) == [("A", Decimal("150.75"), "REFUNDED")]
    record_refund(PaymentRefunded(order_id="B", amount=Decimal(0)), db)
    record(PaymentProcessed(order_id="B", amount=Decimal(5)), db)
    assert books(db)[1] == ("B", Decimal("0.00"), "REFUNDED")


def test_payments_are_found_by_their_order(db: Database) -> None:
    for order_id in ("A", "B"):
        record(PaymentProcessed(order_id=order_id, amount=Decimal(1)), db)
    assert [one.order_id for one in list_payments(ListPayments(order_id="B"), db).payments] == ["B"]
