"""The books of the sandbox's payment company and carrier: one SQLite file, one connection.

They survive a killed process. For a stand-in that is enough: a power failure would take its callers along.
"""

import asyncio
import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from minuet_shop.outside import (
    ADDRESS_REFUSED,
    DECLINED,
    CarrierLedger,
    ChargeOrder,
    GatewayLedger,
    OfOrder,
    SendParcel,
    Wire,
)

Answer = tuple[int, str]
"""An HTTP status and a JSON body."""
Asked = TypeVar("Asked", bound=Wire)

SCHEMA = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = NORMAL;
CREATE TABLE IF NOT EXISTS answers (system TEXT, key TEXT, asked TEXT NOT NULL, status INTEGER NOT NULL,
    body TEXT NOT NULL, PRIMARY KEY (system, key)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS charges (id INTEGER PRIMARY KEY, order_id TEXT NOT NULL, customer_id TEXT NOT NULL,
    cents INTEGER NOT NULL, refunded INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS parcels (id INTEGER PRIMARY KEY, order_id TEXT NOT NULL, customer_id TEXT NOT NULL,
    cancelled INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS closed (system TEXT, order_id TEXT, PRIMARY KEY (system, order_id)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS charges_by_order ON charges (order_id);
CREATE INDEX IF NOT EXISTS parcels_by_order ON parcels (order_id);
"""
FIRST_TRACKING_NUMBER = 998877


def problem(status: int, kind: str, detail: str) -> Answer:
    """A refusal as RFC 9457 has it."""
    kind = kind if kind.startswith("/") else f"/problems/{kind}"
    title = kind.rpartition("/")[2].replace("-", " ")
    return status, json.dumps({"type": kind, "title": title, "status": status, "detail": detail})


class Books:
    """Every method works at once and in one piece; `are_durable` says when it is on the disk."""

    def __init__(self, path: Path) -> None:
        # Autocommit off by hand: transactions begin with the first write and end in `are_durable`.
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._db.executescript(SCHEMA)
        self._commit: asyncio.Task[None] | None = None

    def close(self) -> None:
        self._db.close()

    async def are_durable(self) -> None:
        """Wait until everything written so far is on the disk. Those who ask at the same time share one commit."""
        if not self._db.in_transaction:
            return
        if self._commit is None:
            self._commit = asyncio.create_task(self._commit_soon())
        await asyncio.shield(self._commit)

    async def _commit_soon(self) -> None:
        await asyncio.sleep(0)  # whoever is ready to write writes first
        self._commit = None
        try:
            self._db.execute("COMMIT")
        except sqlite3.Error:
            self._db.rollback()
            raise

    def once(self, system: str, key: str, asked: Asked, work: Callable[[Asked], Answer]) -> Answer:
        """Do the work for the first request with this key; answer the others as the first."""
        request = asked.model_dump_json()
        known = self._db.execute(
            "SELECT asked, status, body FROM answers WHERE system = ? AND key = ?", (system, key)
        ).fetchone()
        if known is not None:
            if known[0] != request:
                return problem(422, "key-reused", f"Idempotency-Key {key} was used for another request")
            return known[1], known[2]
        answer = work(asked)
        self._write("INSERT INTO answers VALUES (?, ?, ?, ?, ?)", system, key, request, *answer)
        return answer

    # -- the payment company -------------------------------------------------------------------------------------------

    def charge(self, order: ChargeOrder) -> Answer:
        if order.customer_id.startswith("DECLINE"):
            return problem(402, DECLINED, "the card was declined")
        if self._is_closed("gateway", order.order_id):
            return problem(402, DECLINED, "the order was refunded")
        charge_id = self._write(
            "INSERT INTO charges (order_id, customer_id, cents) VALUES (?, ?, ?)",
            order.order_id, order.customer_id, int(order.amount * 100),
        )  # fmt: skip
        return 201, json.dumps({"chargeId": f"CH{charge_id}", "orderId": order.order_id, "amount": float(order.amount)})

    def refund(self, order: OfOrder) -> Answer:
        """Refund every charge of the order, and decline the ones to come. Repeated, the answer is the same."""
        self._close("gateway", order.order_id)
        self._write("UPDATE charges SET refunded = 1 WHERE order_id = ?", order.order_id)
        (cents,) = self._db.execute("SELECT TOTAL(cents) FROM charges WHERE order_id = ?", (order.order_id,)).fetchone()
        return 200, json.dumps({"orderId": order.order_id, "amount": cents / 100})

    def gateway_ledger(self) -> GatewayLedger:
        rows = self._db.execute("SELECT id, order_id, customer_id, cents, refunded FROM charges ORDER BY id").fetchall()
        charges = [
            {"chargeId": f"CH{id_}", "orderId": order, "customerId": customer, "amount": cents / 100, "refunded": back}
            for id_, order, customer, cents, back in rows
        ]
        totals = {
            "charged": sum(cents for *_, cents, _ in rows) / 100,
            "refunded": sum(cents for *_, cents, back in rows if back) / 100,
        }
        return GatewayLedger.model_validate({"charges": charges, **totals})

    # -- the carrier ---------------------------------------------------------------------------------------------------

    def send(self, parcel: SendParcel) -> Answer:
        if parcel.customer_id.startswith("NOADDRESS"):
            return problem(422, ADDRESS_REFUSED, "there is no such address")
        if self._is_closed("carrier", parcel.order_id):
            return problem(422, ADDRESS_REFUSED, "the parcel was cancelled")
        number = self._write(
            "INSERT INTO parcels (order_id, customer_id) VALUES (?, ?)", parcel.order_id, parcel.customer_id
        )
        return 201, json.dumps({"trackingNumber": _tracking(number), "orderId": parcel.order_id})

    def cancel(self, order: OfOrder) -> Answer:
        """Call back every parcel of the order, and take none any more. Repeated, the answer is the same."""
        self._close("carrier", order.order_id)
        self._write("UPDATE parcels SET cancelled = 1 WHERE order_id = ?", order.order_id)
        return 200, json.dumps({"orderId": order.order_id})

    def carrier_ledger(self) -> CarrierLedger:
        rows = self._db.execute("SELECT id, order_id, customer_id, cancelled FROM parcels ORDER BY id")
        parcels = [
            {"trackingNumber": _tracking(number), "orderId": order, "customerId": customer, "cancelled": cancelled}
            for number, order, customer, cancelled in rows
        ]
        return CarrierLedger.model_validate({"parcels": parcels})

    # ------------------------------------------------------------------------------------------------------------------

    def _close(self, system: str, order_id: str) -> None:
        self._write("INSERT OR IGNORE INTO closed VALUES (?, ?)", system, order_id)

    def _is_closed(self, system: str, order_id: str) -> bool:
        found = self._db.execute("SELECT 1 FROM closed WHERE system = ? AND order_id = ?", (system, order_id))
        return found.fetchone() is not None

    def _write(self, sql: str, *values: object) -> int:
        if not self._db.in_transaction:
            self._db.execute("BEGIN IMMEDIATE")
        return self._db.execute(sql, values).lastrowid or 0


def _tracking(number: int) -> str:
    return f"TRK{FIRST_TRACKING_NUMBER - 1 + number}"
