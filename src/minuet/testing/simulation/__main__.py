"""``python -m minuet.testing.simulation``: see `minuet.testing.simulation.many`."""

import sys

from minuet.testing.simulation.many import main

if __name__ == "__main__":
    sys.exit(main())
