"""The code in docs/testing.md does what it says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from minuet.testing.simulation import Faults, Simulation
from minuet.testing.simulation.faults import KINDS, PER_MINUTE

PAGE = (Path(__file__).parents[2] / "docs" / "testing.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.mark.slow
def test_the_tutorial_runs() -> None:
    names: dict[str, object] = {}
    for block in BLOCKS:
        exec(compile(block, "docs/testing.md", "exec"), names)
    for test in ("test_every_order_ends", "test_and_if_not_why", "test_every_way"):
        names[test]()  # type: ignore[operator]
    for name in ("calm", "rough", "mine"):
        simulation = names[name]
        assert isinstance(simulation, Simulation)
        simulation.drive(names["customers"])  # type: ignore[type-var]
        assert simulation.run(0).sagas.total() == 5


def test_every_fault_is_told_of() -> None:
    told = set(re.findall(r"`([a-z_]+)`", PAGE))
    assert {name for name in Faults.__dataclass_fields__ if name not in ("schedule", "exactly")} <= told
    assert {name.removesuffix(PER_MINUTE).removesuffix("_s") for name in told} >= set(KINDS)
