"""Who takes part in the benchmarks: all that the goals need, and peers whose requirements are locked."""

from __future__ import annotations

import importlib.util
import re

import pytest

from benchmarks.__main__ import plan
from benchmarks.contenders import CONTENDERS, NobodyOfThatName, chosen
from benchmarks.environments import NPM_PEER, PEERS, PYTHON_PEERS
from benchmarks.goals import needed
from dev.servers.together import SERVERS


def test_goals_speak_of_contenders_that_exist() -> None:
    by_name = {one.name: one for one in CONTENDERS}
    assert len(by_name) == len(CONTENDERS)
    for name, in_flight in needed():
        assert not by_name[name].only_in_flight or in_flight in by_name[name].only_in_flight


def test_every_contender_is_a_program_with_its_environment_and_servers() -> None:
    for one in CONTENDERS:
        assert importlib.util.find_spec(one.module), one.name
        assert one.environment in ("", *PYTHON_PEERS)
        assert set(one.servers) <= SERVERS.keys()


def test_contenders_are_chosen_by_pattern_in_their_order() -> None:
    assert [one.name for one in chosen(["raw-*", "orchestration"])] == [
        one.name for one in CONTENDERS if one.name.startswith("raw-") or one.name == "orchestration"
    ]
    assert chosen([]) == list(CONTENDERS)
    with pytest.raises(NobodyOfThatName, match="no contender fits 'dbos-oracle'"):
        chosen(["orchestration", "dbos-oracle"])


def test_a_round_measures_everybody_once_and_a_quick_one_what_goals_need() -> None:
    everything = plan(list(CONTENDERS), None, is_quick=False)
    assert len(everything) == len(set(everything)) == 4 * (len(CONTENDERS) - 1) + 1  # one is for one order alone
    quick = {(one.name, in_flight) for in_flight, one in plan(list(CONTENDERS), None, is_quick=True)}
    assert quick == needed()
    assert {number for number, _ in plan(list(CONTENDERS), [7], is_quick=True)} == {7}


@pytest.mark.parametrize("name", PYTHON_PEERS)
def test_locks_hold_hashes_and_no_address(name: str) -> None:
    lock = (PEERS / f"{name}.txt").read_text()
    assert "://" not in lock
    blocks = re.split(r"\n(?=[a-z])", lock.partition("\n\n")[2] or lock)
    requirements = [block for block in blocks if "==" in block]
    assert requirements
    assert all("--hash=sha256:" in block for block in requirements)
    for asked in (PEERS / f"{name}.in").read_text().split():
        wanted = re.split(r"[\[=]", asked)[0]
        assert re.search(rf"^{re.escape(wanted)}(\[[^]]*\])?==", lock, re.MULTILINE), wanted


def test_the_lock_of_npm_holds_no_address() -> None:
    lock = (PEERS / NPM_PEER / "package-lock.json").read_text()
    assert "://" not in lock
    assert lock.count('"integrity"') == lock.count('"node_modules/')
