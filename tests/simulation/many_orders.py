"""What ``make simulate`` runs: ``minuet simulate tests.simulation.many_orders:simulation --seeds 2000``.

Fifty orders for each seed, so that 2,000 seeds are 100,000 orders.
"""

from tests.simulation.shop import shop_simulation

simulation = shop_simulation(50)
