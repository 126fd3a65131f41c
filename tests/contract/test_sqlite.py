"""The store and the transport on SQLite keep the promises, with their thread and without."""

from pathlib import Path

import pytest

from minuet.adapters.sqlite import SqliteStore, SqliteTransport
from minuet.adapters.system import SystemClock, SystemIds
from minuet.testing.store_contract import OpenStore, StoreContract
from minuet.testing.transport_contract import OpenTransport, TransportContract


class TestSqliteStore(StoreContract):
    @pytest.fixture
    def open_store(self, tmp_path: Path) -> OpenStore:
        return lambda: SqliteStore(tmp_path / "service.db", ids=SystemIds())


class TestSqliteStoreInline(StoreContract):
    shares_commits = False

    @pytest.fixture
    def open_store(self, tmp_path: Path) -> OpenStore:
        return lambda: SqliteStore(tmp_path / "service.db", ids=SystemIds(), inline=True)


class TestSqliteTransport(TransportContract):
    @pytest.fixture
    def open_transport(self, tmp_path: Path) -> OpenTransport:
        return lambda: SqliteTransport(tmp_path / "broker.db", ids=SystemIds(), clock=SystemClock())


class TestSqliteTransportInline(TransportContract):
    @pytest.fixture
    def open_transport(self, tmp_path: Path) -> OpenTransport:
        return lambda: SqliteTransport(tmp_path / "broker.db", ids=SystemIds(), clock=SystemClock(), inline=True)
