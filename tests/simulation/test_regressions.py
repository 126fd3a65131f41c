"""Mistakes that the simulator found in minuet, each with the seed and the faults that show it."""

from __future__ import annotations

import pytest

from minuet.testing.simulation import At, Faults
from tests.simulation.shop import shop_simulation


@pytest.mark.slow
@pytest.mark.parametrize(
    ("seed", "other_s", "one_s", "other_for_s"),
    [
        (5, 5.737410169338212, 13.671706083424047, 24.042973659834075),
        (10, 5.4284155681394815, 10.859528005540398, 17.41484715895585),
        (34, 5.173612297642474, 11.859587135641366, 23.709172737436827),
    ],
)
def test_an_entry_that_was_lost_and_comes_back_is_begun_again(
    seed: int, other_s: float, one_s: float, other_for_s: float
) -> None:
    """Two processes, each of which is taken for dead in its turn.

    The first one's attempt ends with `Lost`, because the second one owns its entry. In the same batch of transactions
    the first one takes the entry back, since by now the second one is gone. If the task that took it goes on before the
    one that lost it, `Place.begin` finds the entry still under way, and leaves it: due, owned, and nobody does it.
    """
    simulation = shop_simulation(30, coordination="orchestration", machines="twins", patience_s=100.0)
    schedule = (At(other_s, "zombie", "other", for_s=other_for_s), At(one_s, "zombie", "one", for_s=40.0))
    simulation.run(seed, faults=Faults(schedule=schedule))
