"""Stores that are filled in bulk look as if the orders had been run."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from benchmarks import filling
from benchmarks.order_saga import SAGA, app
from minuet import Coordination, Settings, running


@pytest.mark.parametrize("coordination", ["choreography", "orchestration"])
async def test_copies_are_finished_sagas_of_their_own(tmp_path: Path, coordination: str) -> None:
    await asyncio.to_thread(filling.finished, tmp_path, coordination, 20)  # it runs an event loop of its own
    async with running(app, Settings(data=tmp_path, coordination={SAGA: Coordination(coordination)})) as system:
        for saga_id in ("f-00000000", "f-00000018"):
            assert (await system.ended(SAGA, saga_id)).value == "completed"
    with closing(sqlite3.connect(tmp_path / "payment.db")) as database:
        assert database.execute("SELECT count(DISTINCT order_id) FROM payment").fetchone() == (20,)


def test_entries_are_parked(tmp_path: Path) -> None:
    filling.parked(tmp_path, "orchestration", 5, of=8)
    with closing(sqlite3.connect(tmp_path / "inventory.db")) as database:
        assert database.execute("SELECT count(*) FROM minuet_inbox WHERE state = 'parked'").fetchone() == (5,)
        assert database.execute("SELECT count(*) FROM minuet_inbox").fetchone() == (8,)
