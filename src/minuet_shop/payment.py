"""Payment: charges and refunds through the payment company, and keeps the books of it."""

from collections.abc import AsyncIterator
from typing import Any

from minuet import Database, Deployment, IdempotencyKey, Service
from minuet_shop.contracts import (
    ListPayments,
    PaymentDeclined,
    PaymentPage,
    PaymentProcessed,
    PaymentRefunded,
    PaymentView,
    ProcessPayment,
    RefundPayment,
)
from minuet_shop.outside import PATIENT, Gateway, HttpGateway, SaysNo, connected
from minuet_shop.tables import from_cents, page, to_cents

# Amounts are in cents.
SCHEMA = """
CREATE TABLE IF NOT EXISTS payments (
    order_id TEXT NOT NULL PRIMARY KEY,
    amount BIGINT NOT NULL,
    status TEXT NOT NULL
);
"""
PAID = """
INSERT INTO payments (order_id, amount, status) VALUES (:order_id, :amount, 'PAID')
ON CONFLICT DO NOTHING
"""
REFUNDED = """
INSERT INTO payments (order_id, amount, status) VALUES (:order_id, :amount, 'REFUNDED')
ON CONFLICT (order_id) DO UPDATE SET status = 'REFUNDED'
"""
PAYMENTS = "SELECT order_id, amount, status FROM payments"

payment = Service("payment", schema=SCHEMA)


@payment.provides
async def gateway(deployment: Deployment) -> AsyncIterator[Gateway]:
    async with connected(deployment, "gateway") as (session, url):
        yield HttpGateway(session, url)


@payment.handles(ProcessPayment, retry=PATIENT)
async def process(command: ProcessPayment, gateway: Gateway, key: IdempotencyKey) -> PaymentProcessed | PaymentDeclined:
    """Charge the customer. The key is the order's, so whoever asks, and however often, there is one charge."""
    try:
        await gateway.charge(
            order_id=command.order_id, customer_id=command.customer_id or "", amount=command.amount, key=key
        )
    except SaysNo as no:
        return PaymentDeclined(order_id=command.order_id, reason=str(no))
    return PaymentProcessed(order_id=command.order_id, amount=command.amount)


@process.on_outcome
def record(outcome: PaymentProcessed | PaymentDeclined, db: Database) -> None:
    """A payment that was refunded meanwhile stays refunded."""
    if isinstance(outcome, PaymentProcessed):
        db.execute(PAID, order_id=outcome.order_id, amount=to_cents(outcome.amount))


@process.on_exhausted
async def take_back(command: ProcessPayment, gateway: Gateway) -> None:
    """Some attempt may have charged and its answer got lost: see to it that nothing is charged."""
    await gateway.refund(order_id=command.order_id)


@payment.handles(RefundPayment, retry=PATIENT)
async def refund(command: RefundPayment, gateway: Gateway) -> PaymentRefunded:
    return PaymentRefunded(order_id=command.order_id, amount=await gateway.refund(order_id=command.order_id))


@refund.on_outcome
def record_refund(outcome: PaymentRefunded, db: Database) -> None:
    """A refund that comes before its payment is kept too: the payment then counts as refunded."""
    db.execute(REFUNDED, order_id=outcome.order_id, amount=to_cents(outcome.amount))


@payment.answers(ListPayments)
def list_payments(query: ListPayments, db: Database) -> PaymentPage:
    payments, after = page(
        db, PAYMENTS, _view, key="order_id", after=query.after, limit=query.limit, order_id=query.order_id
    )
    return PaymentPage(payments=payments, after=after)


def _view(*, amount: int, **columns: Any) -> PaymentView:
    return PaymentView(amount=from_cents(amount), **columns)
