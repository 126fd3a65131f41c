"""The pytest plugin: what its fixtures refuse to let pass, and its seeds. Each test runs a pytest of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from minuet.testing.pytest_plugin import SEED

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[3]
HEAD = """
from minuet.testing import NothingAsked, given as begin, participant
from tests.unit.testing.buying import *
money = participant("money")
"""


def run(tmp_path: Path, test: str, *options: str) -> str:
    """What pytest prints about this test file."""
    file = tmp_path / "test_it.py"
    file.write_text(f"{HEAD}\n{test}")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:randomly", "-q", "-rA", "-c"]
    done = subprocess.run(
        [*command, str(tmp_path / "none.ini"), "--rootdir", str(tmp_path), str(file), *options],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        timeout=120,
        check=False,
    )
    return done.stdout + done.stderr


@pytest.fixture(autouse=True)
def _configured(tmp_path: Path) -> None:
    (tmp_path / "none.ini").write_text("[pytest]\n")


def test_what_checks_nothing_fails(tmp_path: Path) -> None:
    said = run(
        tmp_path,
        """
def test_no_then(given):
    given(buying()).provided(Bank, Bank).when(Place(order_id="o1")).and_when(money.fails(Pay, times=1))

def test_no_when(given):
    given(buying())

def test_a_then(given):
    given(buying()).provided(Bank, Bank).when(Place(order_id="o1")).then_ends("completed")

def test_that_failed_already(given):
    given(buying())
    assert False, "for another reason"

def test_never_run(simulation):
    simulation(buying())

def test_run(simulation, minuet_seed):
    assert simulation(buying(), provided=lambda world: {Bank: Bank()}).run().seed == minuet_seed == 0
""",
    )
    assert "given(buying).when(Place).and_when(money fails once at Pay) checks nothing: say at least one .then" in said
    assert "given(buying) checks nothing: go on with .when(...) and at least one .then...(...)" in said
    assert "the simulation of buying was never run: call run()" in said
    assert said.count("PASSED") >= 2
    assert "3 errors" in said
    assert "1 failed" in said
    assert "ERROR test_it.py::test_that_failed_already" not in said


def test_seeds(tmp_path: Path) -> None:
    test = """
import pytest

@pytest.mark.parametrize("end", ["completed", "compensated"])
def test_ends(given, minuet_seed, end):
    given(buying()).provided(Bank, Bank).when(Place(order_id="o1")).then_ends(end)

def test_without_any():
    pass
"""
    said = run(tmp_path, test, "--minuet-seeds", "3", "--minuet-seed", "5")
    assert "3 failed, 4 passed" in said
    assert "played by choreography (seed 7)" in said
    assert "pytest 'test_it.py::test_ends[compensated]' --minuet-seed 7" in said
    said = run(tmp_path, test, "--minuet-seed", "7", "-k", "compensated")
    assert "played by choreography (seed 7)" in said
    assert "1 failed" in said
    assert "at least one seed" in run(tmp_path, test, "--minuet-seeds", "0")


def test_a_failed_simulation_says_how_to_see_it_again(tmp_path: Path) -> None:
    said = run(
        tmp_path,
        """
def test_it(simulation):
    world = simulation(buying(), provided=lambda world: {Bank: Bank()})

    @world.eventually
    def never(world):
        return False

    world.run()
""",
        "--minuet-seed",
        "4",
    )
    assert "broken with seed 4" in said
    assert "pytest 'test_it.py::test_it' --minuet-seed 4" in said


def test_the_traceback_shows_the_sentence_and_not_how_it_is_played(tmp_path: Path) -> None:
    said = run(
        tmp_path,
        """
def test_it(given):
    (
        given(buying()).provided(Bank, Bank).when(Place(order_id="o1"))
        .then_done(Pay)
        .then_ends("compensated")
    )
""",
    )
    assert "test_it.py:" in said
    assert "then.py" not in said
    assert "sentences.py" not in said


def test_a_sentence_without_the_fixture_warns(tmp_path: Path) -> None:
    test = """
def test_it():
    begin(buying()).when(Place(order_id="o1"))

def test_mistaken():
    try:
        begin(buying()).when(Place)
    except Exception:
        pass
"""
    said = run(tmp_path, test)
    assert "NothingAsked: given(buying).when(Place) checks nothing: say at least one .then" in said
    assert "given(buying) checks nothing" not in said
    assert "1 failed" in run(tmp_path, test, "-W", "error", "-p", "no:asyncio")


def test_the_plugin_is_there_and_loads_little() -> None:
    """Who runs pytest and asks for none of it pays for no simulator."""
    code = (
        "import json, sys, pytest\n"
        "pytest.main(['--help', '-p', 'no:cacheprovider'])\n"
        "print('\\n' + json.dumps(sorted(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert "--minuet-seeds" in done.stdout
    modules = set(json.loads(done.stdout.splitlines()[-1]))
    assert "minuet.testing.pytest_plugin" in modules
    # sqlite3 is not here: other plugins of this environment load it.
    heavy = {"aiohttp", "fastapi", "minuet.bootstrap", "minuet.testing.simulation", "minuet.testing.scenario"}
    assert not modules & heavy


def test_the_public_names_are_there() -> None:
    import minuet.testing

    for name in minuet.testing.__all__:
        assert getattr(minuet.testing, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'gievn'"):
        _ = minuet.testing.gievn
    assert SEED == "minuet_seed"
