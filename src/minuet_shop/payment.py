"""Payment: charges and refunds through the payment company, and keeps the books of it."""

from collections.abc import AsyncIterator

from sqlalchemy import Column, Connection, MetaData, String, Table, select

from minuet import Deployment, IdempotencyKey, Service
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
from minuet_shop.tables import Cents, insert_new, insert_or_set, page

schema = MetaData()
payments = Table(
    "payments",
    schema,
    Column("order_id", String, primary_key=True),
    Column("amount", Cents, nullable=False),
    Column("status", String, nullable=False),
)
PAID = insert_new(payments)
REFUNDED = insert_or_set(payments, status="REFUNDED")

payment = Service("payment", schema=schema)


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
def record(outcome: PaymentProcessed | PaymentDeclined, db: Connection) -> None:
    """A payment that was refunded meanwhile stays refunded."""
    if isinstance(outcome, PaymentProcessed):
        db.execute(PAID, {"order_id": outcome.order_id, "amount": outcome.amount, "status": "PAID"})


@process.on_exhausted
async def take_back(command: ProcessPayment, gateway: Gateway) -> None:
    """Some attempt may have charged and its answer got lost: see to it that nothing is charged."""
    await gateway.refund(order_id=command.order_id)


@payment.handles(RefundPayment, retry=PATIENT)
async def refund(command: RefundPayment, gateway: Gateway) -> PaymentRefunded:
    return PaymentRefunded(order_id=command.order_id, amount=await gateway.refund(order_id=command.order_id))


@refund.on_outcome
def record_refund(outcome: PaymentRefunded, db: Connection) -> None:
    """A refund that comes before its payment is kept too: the payment then counts as refunded."""
    db.execute(REFUNDED, {"order_id": outcome.order_id, "amount": outcome.amount, "status": "REFUNDED"})


@payment.answers(ListPayments)
def list_payments(query: ListPayments, db: Connection) -> PaymentPage:
    found = select(payments)
    if query.order_id is not None:
        found = found.where(payments.c.order_id == query.order_id)
    rows, after = page(db, found, payments.c.order_id, after=query.after, limit=query.limit)
    return PaymentPage(payments=[PaymentView.model_validate(row, from_attributes=True) for row in rows], after=after)
