"""One order, one fault, everywhere: each kind of crash at each of its opportunities, and each message twice.

Nothing is drawn here: for every opportunity that an undisturbed order has, there is a run in which that one is taken.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest

from minuet.testing.simulation import Faults, Nth, Report, Simulation, World
from minuet_shop.contracts import PlaceOrder
from tests.simulation.shop import books_balance, customers_hear_once, ends_are_true, outside, shelves_agree, shop

KINDS = (
    "crash_before_commit",
    "crash_after_commit",
    "crash_before_publish",
    "crash_after_publish",
    "crash_before_settle",
    "crash_after_settle",
    "disk_full",
    "message_doubled",
    "reply_lost",
)
LEAST = 80
"""So many opportunities there are at least: with fewer, something is not looked at any more."""

pytestmark = pytest.mark.slow


def one_order(coordination: str, customer: str) -> Simulation:
    simulation = Simulation(
        shop,
        coordination=coordination,
        machines="apart",
        ordered=True,
        faults=Faults(),
        provided=partial(outside, is_reliable=True),
    )

    @simulation.drive
    async def order(world: World) -> None:
        await world.send(PlaceOrder(order_id="o1", customer_id=customer, items=["ITEM001"]))

    for service, check in (("inventory", shelves_agree), ("orders", ends_are_true)):
        simulation.always(of=service)(check)
    simulation.eventually(books_balance)
    simulation.eventually(customers_hear_once)
    return simulation


def runs(simulation: Simulation, kind: str) -> Iterator[Report]:
    """With the first opportunity taken, the second, and so on to the last."""
    number = 1
    while True:
        report = simulation.run(0, faults=Faults(exactly=(Nth(kind, number),), until_s=1.0))
        if not report.fired:
            return
        yield report
        number += 1


@pytest.mark.parametrize(("customer", "end"), [("c1", "completed"), ("NOADDRESS1", "compensated")])
@pytest.mark.parametrize("coordination", ["choreography", "orchestration"])
def test_no_single_fault_changes_how_an_order_ends(coordination: str, customer: str, end: str) -> None:
    simulation = one_order(coordination, customer)
    undisturbed = simulation.run(0, faults=Faults(until_s=1.0))
    count = 0
    for kind in KINDS:
        of_this_kind = 0
        for report in runs(simulation, kind):
            assert report.outcomes == undisturbed.outcomes, (kind, of_this_kind + 1)
            assert dict(report.sagas) == {end: 1}
            of_this_kind += 1
        assert of_this_kind, kind
        count += of_this_kind
    print(f"{coordination}, {end}: {count} runs")
    assert count >= LEAST
