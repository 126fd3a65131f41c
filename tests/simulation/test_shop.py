"""The shop, whatever goes wrong: a small set of seeds. ``many_orders`` has many more."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from minuet.testing.simulation import Faults, Report, Tally
from tests.simulation.shop import shop_simulation

COORDINATIONS = ("choreography", "orchestration")
LAYOUTS = ("together", "apart", "twins")
SEEDS = 4
ORDERS = 10

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def tally(request: pytest.FixtureRequest) -> Iterator[Tally]:
    """Of all runs of this file; said at the end."""
    tally = Tally()
    yield tally
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print(f"\n{tally}")


@pytest.mark.parametrize("machines", LAYOUTS)
@pytest.mark.parametrize("coordination", COORDINATIONS)
def test_every_order_ends_as_it_should_whatever_goes_wrong(tally: Tally, coordination: str, machines: str) -> None:
    simulation = shop_simulation(ORDERS, coordination=coordination, machines=machines)  # type: ignore[arg-type]
    first = SEEDS * (COORDINATIONS.index(coordination) * len(LAYOUTS) + LAYOUTS.index(machines))
    for seed in range(first, first + SEEDS):
        check(tally, simulation.run(seed))


@pytest.mark.parametrize("coordination", COORDINATIONS)
def test_with_all_faults_at_once(tally: Tally, coordination: str) -> None:
    simulation = shop_simulation(ORDERS, coordination=coordination, faults=Faults.all())
    for seed in range(100, 102):
        check(tally, simulation.run(seed))


@pytest.mark.parametrize("coordination", COORDINATIONS)
def test_with_a_read_model_of_the_orders(tally: Tally, coordination: str) -> None:
    simulation = shop_simulation(ORDERS, coordination=coordination, queries={"GetOrder": "read_model"})
    for seed in range(200, 202):
        check(tally, simulation.run(seed))


def check(tally: Tally, report: Report) -> None:
    tally.add(report)
    assert report.sagas.total() == ORDERS
    assert set(report.sagas) <= {"completed", "compensated"}, report.sagas
