from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from starlette.types import Receive, Scope, Send

from tests.unit.doors.kit import FakeDesk, Shop, running_shop


async def mounted_app(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["path"].endswith("/broken"):
        raise RuntimeError("secret of the mounted application")
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": scope["path"].encode()})


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served() -> AsyncIterator[Shop]:
    async with running_shop({"inventory": mounted_app}) as shop:
        yield shop


@pytest.fixture
def shop(served: Shop) -> Shop:
    """The module's server, with desks that remember nothing."""
    for desk in (served.orders, served.inventory):
        desk.__init__(desk.service)  # type: ignore[misc]
    assert isinstance(served.orders, FakeDesk)
    return served
