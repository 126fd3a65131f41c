"""How long it takes until something happens: importing minuet, and its command line. Prints one JSON line."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.figures import Spread, spread

TIMES = 9
COMMANDS = {
    "python_ms": [sys.executable, "-c", "pass"],
    "import_minuet_ms": [sys.executable, "-c", "import minuet"],
    "declare_ms": [sys.executable, "-c", "from minuet import App, Command, Event, Saga, Service, step"],
    "minuet_help_ms": [str(Path(sys.executable).with_name("minuet")), "--help"],
}
"""Each in a process of its own. The interpreter's own start is in all of them. `minuet` loads its names when they are
asked for, so that what every app imports is measured too."""


def took_ms(command: Sequence[str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return (time.perf_counter() - began) * 1e3


def times(repeat: int = TIMES) -> dict[str, Spread]:
    """Each of them after a first time that does not count, which fills the caches of the disk."""
    for command in COMMANDS.values():
        took_ms(command)
    return {
        name: found for name, command in COMMANDS.items() if (found := spread(took_ms(command) for _ in range(repeat)))
    }


if __name__ == "__main__":
    print(json.dumps({name: round(found.median, 1) for name, found in times().items()}))
