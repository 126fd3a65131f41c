"""The store and the transport in memory keep the promises."""

import pytest

from minuet.adapters.memory import MemoryBroker, MemoryDatabase, MemoryStore, MemoryTransport
from minuet.adapters.system import SystemIds
from minuet.testing.store_contract import OpenStore, StoreContract
from minuet.testing.transport_contract import OpenTransport, TransportContract


class TestMemoryStore(StoreContract):
    @pytest.fixture
    def open_store(self) -> OpenStore:
        database = MemoryDatabase()
        return lambda: MemoryStore(database, ids=SystemIds())


class TestMemoryTransport(TransportContract):
    @pytest.fixture
    def open_transport(self) -> OpenTransport:
        broker = MemoryBroker()
        return lambda: MemoryTransport(broker)
