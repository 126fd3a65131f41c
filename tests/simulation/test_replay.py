"""The same seed is the same run, to the last byte of its trace, in whichever process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from minuet.testing.simulation import Faults, SimulationFailed, World
from tests.simulation.shop import shop_simulation
from tests.simulation.test_mutations import does_not_begin_what_it_took_over

ROOT = Path(__file__).parents[2]
TELLER = """
import sys
from minuet.testing.simulation import Bounds, Faults, SimulationFailed
from tests.simulation.shop import shop_simulation
from tests.simulation.test_exploring import one_trip
for seed in (0, 1, 2):
    report = shop_simulation(6).run(seed)
    print(report, report.digest)
report = shop_simulation(6, faults=Faults.all(), machines="twins").run(3)
print(report.trace)
trip = one_trip("choreography")
print(trip.explore(Bounds(faults=("message_doubled",))))
trip.eventually(lambda world: not world.fired["store_deadlock"])
try:
    trip.run(0, faults=Faults(store_deadlock=0.3, message_doubled=0.3))
except SimulationFailed as failed:
    print(trip.shrink(failed, runs_max=30))
"""


def told_by_a_process(hash_seed: str) -> str:
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
    finished = subprocess.run(
        [sys.executable, "-c", TELLER], capture_output=True, text=True, check=False, timeout=100, env=environment
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


@pytest.mark.slow
@pytest.mark.parametrize("seed", [4])
def test_a_failure_is_repeated_by_its_faults_and_made_smaller(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    does_not_begin_what_it_took_over(monkeypatch)
    simulation = shop_simulation(8, faults=Faults.all(), patience_s=100.0)
    with pytest.raises(SimulationFailed) as first:
        simulation.run(seed)
    failed = first.value
    with pytest.raises(SimulationFailed) as second:
        simulation.run(failed.seed, faults=failed.faults)
    assert str(second.value.trace) == str(failed.trace)
    small = simulation.shrink(failed, runs_max=150)
    assert small.promise == failed.promise
    assert len(small.faults.schedule) + len(small.faults.exactly) <= 3
    assert len(small.sent) <= 3
    called = str(small).rpartition("To see it again: ")[2]
    with pytest.raises(SimulationFailed) as third:
        eval(called, {"simulation": simulation, "Faults": Faults})
    assert str(third.value.trace) == str(small.trace)


@pytest.mark.slow
def test_two_processes_tell_the_same_story_byte_for_byte() -> None:
    one, other = told_by_a_process("1"), told_by_a_process("4711")
    assert one == other
    assert one.count("\n") > 150
    assert "all there are within these bounds" in one
    assert "store_deadlock@" in one


def test_the_same_seed_twice_and_another() -> None:
    simulation = shop_simulation(4)
    first, again, another = simulation.run(1), simulation.run(1), simulation.run(2)
    assert str(first.trace) == str(again.trace)
    assert (first.steps, first.fired) == (again.steps, again.fired)
    assert another.digest != first.digest


def test_a_failure_is_repeated_by_its_seed_and_shows_what_happened() -> None:
    simulation = shop_simulation(4, coordination="choreography", faults=Faults())

    @simulation.always(of="shipping")
    def nothing_is_ever_shipped(world: World) -> None:
        assert not world.rows("shipping", "SELECT * FROM shipments WHERE status = 'SHIPPED'")

    def fails() -> SimulationFailed:
        with pytest.raises(SimulationFailed) as caught:
            simulation.run_many(range(20))
        return caught.value

    failed = fails()
    assert str(failed) == str(fails())
    text = str(failed)
    assert f"broken with seed {failed.seed}: nothing is ever shipped" in text
    assert f"simulation.run(seed={failed.seed})" in text
    assert "|------------>|" in text or "|----------->|" in text
    assert "CreateShipment/" in text
