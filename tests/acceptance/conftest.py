"""Each scenario of the shop runs in both coordinations, and on the grounds that its marker names.

    @pytest.mark.grounds("seed", "sqlite+nats/choreography")

The embedded ground is always among them, unless the marker says ``only=True``. With ``ACCEPTANCE_GROUNDS=all`` all
scenarios run on all grounds. Two shops never stand on the seed's mix at the same time: names are fixed there.
"""

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest
import pytest_asyncio

from tests.acceptance.grounds import EMBEDDED, SEED, chosen
from tests.acceptance.processes import COORDINATIONS, Shop, shop
from tests.servers import private_server


class Site(NamedTuple):
    ground: str
    coordination: str


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "grounds(*names, only=False): on which stores and brokers a scenario runs too")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "site" not in metafunc.fixturenames:
        return
    marker = metafunc.definition.get_closest_marker("grounds")
    names = marker.args if marker else ()
    sites = []
    for name in names if marker and marker.kwargs.get("only") else chosen(names):
        ground, _, coordination = name.partition("/")
        marks = () if ground == EMBEDDED else (pytest.mark.server, pytest.mark.timeout(400))
        for one in (coordination,) if coordination else COORDINATIONS:
            sites.append(pytest.param(Site(ground, one), marks=marks, id=f"{ground}-{one}"))
    metafunc.parametrize("site", sites, indirect=True, scope="module")


@pytest.fixture(scope="module")
def site(request: pytest.FixtureRequest) -> Site:
    assert isinstance(request.param, Site)
    return request.param


@pytest.fixture(scope="module")
def coordination(site: Site) -> str:
    return site.coordination


@pytest.fixture(scope="session")
def seed_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, str]]:
    """For shops with the names of the seed, one after the other."""
    folder = tmp_path_factory.mktemp("seed")
    with ExitStack() as stack:
        started = {
            name: stack.enter_context(private_server(name, folder / name)) for name in ("kafka", "rabbitmq", "aws")
        }
        yield {name: str(getattr(server, "endpoint", server.url)) for name, server in started.items()}


@pytest.fixture(scope="module")
def servers(request: pytest.FixtureRequest, site: Site) -> Mapping[str, str]:
    """Those that the ground must not share with others."""
    return dict(request.getfixturevalue("seed_servers")) if site.ground == SEED else {}


@pytest_asyncio.fixture
async def empty(tmp_path: Path, site: Site, servers: Mapping[str, str]) -> AsyncIterator[Shop]:
    """A shop that no process runs yet."""
    async with shop(tmp_path, site.coordination, site.ground, servers=servers) as made:
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def whole(
    site: Site, servers: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Shop]:
    """A shop that one process runs, for all tests of a module."""
    async with shop(tmp_path_factory.mktemp("shop"), site.coordination, site.ground, servers=servers) as made:
        await made.start()
        yield made
