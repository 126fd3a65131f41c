"""Each test runs on every broker, on a private server of its kind behind a proxy."""

from collections.abc import AsyncIterator, Iterator

import pytest

from dev.servers import scratch
from tests.failures.grounds import GROUNDS, Ground, Site, site_on


@pytest.fixture(scope="session", params=list(GROUNDS))
def ground(request: pytest.FixtureRequest) -> Iterator[Ground]:
    with scratch.private(say=print) as folder:  # what a killed test process leaves behind, the next one ends
        made = GROUNDS[request.param](folder / "s")
        try:
            made.start()
            yield made
        finally:
            made.stop()


@pytest.fixture
async def site(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    """Names of this test's own on the broker; afterwards the proxy passes everything again."""
    async with site_on(ground, monkeypatch) as made:
        yield made
    ground.proxy.heal()
