"""What a handler wrote into its own tables stays only if its outcome does: on SQLite, where it gets a connection."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from minuet.app import App, Service
from minuet.bootstrap import running
from minuet.core.errors import NotYet
from minuet.core.retry import RetryPolicy
from minuet.settings import Settings
from tests.unit.runtime.shop import Boom, NoAddress, Paid, Pay, Ship, Shipped


def app_with(acts: list[str]) -> App:
    shipping, payment = (
        Service("shipping", schema="CREATE TABLE parcels (order_id TEXT)"),
        Service("payment", schema="CREATE TABLE payments (order_id TEXT)"),
    )

    @shipping.handles(Ship, retry=RetryPolicy(first_s=0.001))
    def ship(command: Ship, db: sqlite3.Connection) -> Shipped | NoAddress:
        db.execute("INSERT INTO parcels VALUES (?)", (command.order_id,))
        act = acts.pop(0)
        if act == "raise":
            raise Boom("after writing")
        return NoAddress(order_id=command.order_id) if act == "refuse" else Shipped(order_id=command.order_id)

    @payment.handles(Pay, retry=RetryPolicy(first_s=0.001))
    async def pay(command: Pay) -> Paid:
        return Paid(order_id=command.order_id, amount=command.amount)

    @pay.on_outcome
    def record(outcome: Paid, db: sqlite3.Connection) -> None:
        db.execute("INSERT INTO payments VALUES (?)", (outcome.order_id,))
        if acts.pop(0) == "raise":
            raise Boom("after writing")

    return App("rollback", services=[shipping, payment])


def rows(data: Path, service: str, table: str) -> int:
    with sqlite3.connect(data / f"{service}.db") as db:
        return int(db.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


@pytest.mark.parametrize(
    ("acts", "left"), [(["ok"], 1), (["refuse"], 0), (["raise", "raise", "ok"], 1), (["raise", "refuse"], 0)]
)
async def test_a_def_handlers_writes_commit_with_its_outcome(tmp_path: Path, acts: list[str], left: int) -> None:
    settings = Settings(data=tmp_path, channels={"*": "memory:"})
    async with running(app_with(list(acts)), settings, services=["shipping"]) as system:
        await system.send(Ship(order_id="o1"), key="k")
        await system.send(Ship(order_id="o1"), key="k")
    assert rows(tmp_path, "shipping", "parcels") == left


async def test_what_is_written_of_an_outcome_commits_with_it(tmp_path: Path) -> None:
    settings = Settings(data=tmp_path, channels={"*": "memory:"})
    async with running(app_with(["raise", "raise", "ok"]), settings, services=["payment"]) as system:
        await system.send(Pay(order_id="o1", amount=3))
    assert rows(tmp_path, "payment", "payments") == 1


async def test_a_failed_attempt_leaves_nothing_for_others_to_see(tmp_path: Path) -> None:
    settings = Settings(data=tmp_path, channels={"*": "memory:"})
    app = app_with(["raise"])
    ship = app.services["shipping"].commands[Ship]
    object.__setattr__(ship, "retry", RetryPolicy(first_s=1000, delay_max_s=1000))
    async with running(app, settings, services=["shipping"]) as system:
        with pytest.raises(NotYet):
            await system.send(Ship(order_id="o1"), key="k", wait_s=0)
        assert rows(tmp_path, "shipping", "parcels") == 0
