"""What the parts of the suite share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import ClassVar

import pytest

from minuet.ports import Store
from minuet.testing.store_contract.examples import (
    OpenStore,
    Start,
)


class Suite:
    """The fixtures of every part; see `minuet.testing.store_contract`."""

    shares_commits: ClassVar[bool] = True
    survives_restart: ClassVar[bool] = True

    @pytest.fixture
    def open_store(self) -> OpenStore:
        raise NotImplementedError("give the suite a fixture open_store")

    @pytest.fixture
    async def start(self, open_store: OpenStore) -> AsyncIterator[Start]:
        """Opens one more instance on the same database; closed at the end of the test."""
        async with AsyncExitStack() as stack:

            async def one() -> Store:
                store = open_store()
                await store.start()
                stack.push_async_callback(store.close)
                return store

            yield one

    @pytest.fixture
    async def store(self, start: Start) -> Store:
        return await start()
