"""Mistakes that the simulator found in minuet, each with the seed and the faults that show it."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from minuet.ports import Entry
from minuet.runtime.place import Place
from minuet.testing.simulation import At, Faults, SimulationFailed
from tests.simulation.many_orders import simulation as many_orders
from tests.simulation.shop import shop_simulation

REGRESSIONS = Path(__file__).with_name("regressions")
TAKEN_FOR_DEAD = (21, 33)
"""Cases of `taken_for_dead`. What else changes in the runtime moves them; the guard then says which show it now."""
CASES_MAX = 200


def taken_for_dead(case: int) -> None:
    """Run with two processes, each of which stands still for a while."""
    chance = Random(case)
    other_s, one_s, other_for_s = chance.uniform(5.2, 5.9), chance.uniform(11.2, 13.0), chance.uniform(20.0, 23.0)
    simulation = shop_simulation(30, coordination="orchestration", machines="twins", patience_s=100.0)
    schedule = (At(other_s, "zombie", "other", for_s=other_for_s), At(one_s, "zombie", "one", for_s=40.0))
    simulation.run(case % 12, faults=Faults(schedule=schedule))


@pytest.mark.slow
@pytest.mark.parametrize("case", TAKEN_FOR_DEAD)
def test_an_entry_that_was_lost_and_comes_back_is_begun_again(case: int) -> None:
    """Two processes, each of which is taken for dead in its turn.

    The first one's attempt ends with `Lost`, because the second one owns its entry. In the same batch of transactions
    the first one takes the entry back, since by now the second one is gone. If the task that took it goes on before the
    one that lost it, `Place.begin` finds the entry still under way, and left it: due, owned, and nobody did it.
    """
    taken_for_dead(case)


@pytest.mark.slow
def test_what_a_successor_has_renamed_is_not_brought_back() -> None:
    """Two processes again, each taken for dead in its turn, by choreography.

    A command that is built from a query is kept under its step's name first, and renamed to its business key when it is
    built. The successor renamed it. The first one, with the entry still in hand under the former name, saved that its
    attempt had failed: there was no such entry, so it was added as a new one, due for ever. The promise that holds now
    is in the suite of all stores: ``test_what_its_successor_has_renamed_is_not_brought_back``.
    """
    faults = ",".join((REGRESSIONS / "531.faults").read_text().split())
    many_orders.run(531, faults=Faults.from_text(faults), only=(REGRESSIONS / "531.sent").read_text().split())


@pytest.mark.slow
def test_the_seeds_still_show_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards the guard: with the mistake put back, it is found, mostly by those that are run above."""
    begin = Place.begin

    def begin_what_is_not_under_way(self: Place, entry: Entry) -> None:
        if entry.key not in self._under_way:
            begin(self, entry)

    monkeypatch.setattr(Place, "begin", begin_what_is_not_under_way)
    assert any(map(fails, (*TAKEN_FOR_DEAD, *range(CASES_MAX))))


def fails(case: int) -> bool:
    try:
        taken_for_dead(case)
    except SimulationFailed:
        return True
    return False
