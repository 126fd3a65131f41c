"""What every store must keep of its promises (`minuet.ports`), as a suite for pytest.

    class TestMyStore(StoreContract):
        @pytest.fixture
        def open_store(self, tmp_path):
            return lambda: MyStore(tmp_path / "service.db", ids=RandomIds())

``open_store`` makes one more instance on the same database; the suite starts and closes it.
"""

from __future__ import annotations

from minuet.testing.store_contract.examples import OpenStore
from minuet.testing.store_contract.inbox import InboxContract
from minuet.testing.store_contract.instances import InstancesContract
from minuet.testing.store_contract.messages import MessagesContract
from minuet.testing.store_contract.operating import OperatingContract
from minuet.testing.store_contract.transactions import TransactionsContract

__all__ = ["OpenStore", "StoreContract"]


class StoreContract(TransactionsContract, InboxContract, OperatingContract, MessagesContract, InstancesContract):
    """Subclass it and give it ``open_store``."""
