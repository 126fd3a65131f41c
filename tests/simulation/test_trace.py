"""How a run is shown: as text, as Mermaid, and over many seeds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from minuet.testing.simulation import Moment, Report, Tally, Trace
from minuet.testing.simulation.faults import KINDS
from tests.simulation.shop import shop_simulation

ROOT = Path(__file__).parents[2]
MINUET = (sys.executable, "-m", "minuet.cli.main")
MOMENTS = [
    Moment(0.5, "asks", "client", "orders", "PlaceOrder"),
    Moment(0.6, "commits", "orders", "", "PlaceOrder/o1 done: OrderCreated"),
    Moment(0.65, "says", "orders", "orders.created", "OrderCreated"),
    Moment(0.7, "answers", "orders", "client", "OrderCreated"),
    Moment(1.25, "hears", "orders", "stock", "OrderCreated PlaceOrder/o1"),
    Moment(2.0, "fault", "stock", "", "crash after commit"),
]
TEXT = """
  seconds  client       orders       stock
    0.500    |----------->|            |           PlaceOrder
    0.600    |            *            |           PlaceOrder/o1 done: OrderCreated
    0.700    |<...........|            |           OrderCreated
    1.250    |            |----------->|           OrderCreated PlaceOrder/o1
    2.000    |            |            !           FAULT crash after commit
""".strip("\n")
MERMAID = """
sequenceDiagram
    client->>orders: PlaceOrder
    Note over orders: PlaceOrder/o1 done: OrderCreated
    orders-->>client: OrderCreated
    orders-)stock: OrderCreated PlaceOrder/o1
    Note over stock: FAULT crash after commit
""".strip("\n")


@pytest.fixture
def trace() -> Trace:
    trace = Trace()
    trace.moments.extend(MOMENTS)
    return trace


def test_the_diagram_has_a_lane_for_each_and_an_arrow_for_each_message(trace: Trace) -> None:
    assert [line.rstrip() for line in trace.diagram().splitlines()] == ["(1 moments before)", *TEXT.splitlines()]


def test_only_the_last_moments_are_drawn(trace: Trace) -> None:
    assert trace.diagram(last=1).splitlines()[0] == "(5 moments before)"
    assert len(trace.diagram(last=1).splitlines()) == 3


def test_mermaid_gets_the_same(trace: Trace) -> None:
    assert trace.mermaid() == MERMAID


def test_the_digest_tells_any_difference(trace: Trace) -> None:
    before = trace.digest()
    trace.moments[0] = trace.moments[0]._replace(at_s=0.500001)
    assert trace.digest() != before


def test_a_tally_says_what_never_happened() -> None:
    tally = Tally()
    report: Report = shop_simulation(3).run(0)
    tally.add(report)
    assert set(tally.never_fired) == set(KINDS) - set(report.fired)
    assert "1 seeds, 3 sagas" in str(tally)


@pytest.mark.slow
def test_many_seeds_from_the_command_line() -> None:
    command = [*MINUET, "simulate", "tests.simulation.many_orders:simulation", "--seeds", "2"]
    told = subprocess.run(
        [*command, "--processes", "1"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=100
    )
    assert told.returncode == 0, told.stderr
    assert "2 seeds, 100 sagas" in told.stdout
    assert "never happened: " in told.stdout


@pytest.mark.slow
def test_the_first_failure_ends_it_and_is_explained(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text(
        "from tests.simulation.shop import shop_simulation\n"
        "simulation = shop_simulation(2)\n"
        "@simulation.eventually\n"
        "def two_and_two_are_five(world):\n"
        "    return 2 + 2 == 5\n"
    )
    command = [*MINUET, "simulate", "broken:simulation", "--processes", "2", "--seeds", "4", "--shrink", "20"]
    told = subprocess.run(
        command,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
        env={"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}:{tmp_path}"},
    )
    assert told.returncode == 1, told.stderr
    assert "broken with seed 0: two and two are five" in told.stdout
    assert "To see it again: minuet simulate broken:simulation --seed 0 --exactly '' --only ''\n" in told.stdout
