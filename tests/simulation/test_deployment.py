"""A new definition of the saga is deployed while orders are under way: each finishes under the one it began with."""

from __future__ import annotations

from collections import Counter

import pytest

from minuet import App, Saga, step
from minuet.testing.simulation import Faults
from minuet_shop.contracts import RefundPayment, ReleaseInventory, ReserveInventory
from minuet_shop.process import cancel_order, charge, order_processing, order_view, ship, ship_order
from tests.simulation.shop import shop, shop_simulation

paid_first = Saga(
    "OrderProcessing",
    begins_with=order_processing.begins_with,
    key="order_id",
    steps=[step(charge, undo=RefundPayment), step(ReserveInventory, undo=ReleaseInventory), step(ship)],
    completed=ship_order,
    compensated=cancel_order,
)
SERVICES = [*shop.services.values()]
before = App("shop", services=SERVICES, sagas=[order_processing, paid_first], read_models=[order_view])
after = App("shop", services=SERVICES, sagas=[paid_first, order_processing], read_models=[order_view])


@pytest.mark.slow
@pytest.mark.parametrize("coordination", ["choreography", "orchestration"])
def test_orders_finish_under_the_definition_with_which_they_began(coordination: str) -> None:
    simulation = shop_simulation(12, app=before, next_app=after, coordination=coordination)
    definitions: Counter[str] = Counter()
    deployments = 0
    for seed in range(300, 306):
        faults = Faults.all() if seed % 2 else Faults(deploy_per_minute=20.0)
        report = simulation.run(seed, faults=faults)
        assert set(report.sagas) <= {"completed", "compensated"}
        deployments += report.fired["deploy"]
        definitions += report.definitions
    assert deployments >= 6
    assert set(definitions) == {order_processing.fingerprint, paid_first.fingerprint}
    assert min(definitions.values()) >= 6
