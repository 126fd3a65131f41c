from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.acceptance.processes import COORDINATIONS, Shop, shop


@pytest.fixture(params=COORDINATIONS)
def coordination(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest_asyncio.fixture
async def empty(tmp_path: Path, coordination: str) -> AsyncIterator[Shop]:
    """A shop that no process runs yet."""
    async with shop(tmp_path, coordination) as made:
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=COORDINATIONS)
async def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Shop]:
    """A shop that one process runs, for all tests of a module."""
    async with shop(tmp_path_factory.mktemp("shop"), str(request.param)) as made:
        await made.start()
        yield made
