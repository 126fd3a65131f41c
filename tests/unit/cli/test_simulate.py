"""`minuet simulate`: seeds, replays and explorations, what it says, and how it ends."""

import re
import shlex
from typing import Any

import pytest

from minuet.core.errors import ConfigurationError
from minuet.core.messages import name_of
from minuet.testing.simulation.faults import KINDS
from minuet.testing.simulation.of_app import simulation_of
from tests.unit.cli import simulated
from tests.unit.cli.conftest import Minuet

HERE = "tests.unit.cli.simulated"
APP = f"{HERE}:app"
BROKEN = f"{HERE}:simulation"


def test_it_has_an_example_and_speaks_json(run: Minuet) -> None:
    text = " ".join(run("simulate", "--help").stdout.replace("│", "").split())
    assert "Example: minuet simulate" in text
    assert "--json" in text
    assert "simulate" in run("--help").stdout


# -- many seeds --------------------------------------------------------------------------------------------------------


def test_an_app_is_simulated_by_the_examples_of_its_commands(run: Minuet) -> None:
    result = run("simulate", APP, "--seeds", 3, "--orders", 4, "--processes", 1, "--faults", "none")
    assert result.exit_code == 0, result.output
    assert "3 seeds, 12 sagas in" in result.stdout
    assert "seeds/s" in result.stdout
    assert "sagas/s" in result.stdout
    assert "never happened" not in result.stdout  # nothing was to happen
    assert "every promise was kept, with 3 seeds" in result.stdout


def test_the_kinds_of_faults_that_never_happened_are_told(run: Minuet) -> None:
    mix = "message_doubled=0.5,disk_full=0"
    result = run("simulate", APP, "--seeds", 2, "--first", 5, "--orders", 2, "--processes", 1, "--faults", mix)
    assert result.exit_code == 0, result.output
    assert "message doubled" in result.stdout
    result = run("simulate", APP, "--seeds", 1, "--orders", 1, "--processes", 1, "--faults", "publish_refused=0.0001")
    assert "never happened: publish_refused" in result.stdout


@pytest.mark.slow
def test_several_processes_find_what_one_finds(run: Minuet, as_json: Any) -> None:
    def seeds(processes: int) -> Any:
        facts = as_json("simulate", APP, "--seeds", 4, "--orders", 3, "--processes", processes)
        return {name: facts[name] for name in ("seeds", "sagas", "faults", "broken", "never_happened")}

    one = seeds(1)
    assert one["seeds"] == 4
    assert one["broken"] is None
    assert sum(one["sagas"].values()) == 12
    assert set(one["faults"]) | set(one["never_happened"]) == set(KINDS)
    assert one == seeds(2)


# -- a broken promise, and how to see it again -------------------------------------------------------------------------


def again(output: str) -> list[str]:
    """The command line that it says, as whoever copies it would run it."""
    (line,) = re.findall("To see it again: (.*)", output)
    words = shlex.split(line)
    assert words[0] == "minuet"
    return words[1:]


def diagram(output: str) -> str:
    return output[output.index("seconds  ") : output.index("To see it again")]


@pytest.mark.slow
def test_a_broken_promise_is_made_small_and_repeated_by_the_command_that_is_printed(run: Minuet) -> None:
    result = run("simulate", BROKEN, "--processes", 1, "--faults", "message_doubled=0.3,store_busy=0.1,kill=10")
    assert result.exit_code == 1
    assert "No message comes twice." in result.stdout
    command = again(result.stdout)
    exactly = command[command.index("--exactly") + 1]
    assert re.fullmatch(r"message_doubled@[a-z]+/[A-Za-z]+/l\d#1", exactly)
    assert re.fullmatch(r"AskAgain/l\d", command[command.index("--only") + 1])
    repeated = run(*command)
    assert repeated.exit_code == 1
    assert diagram(repeated.stdout) == diagram(result.stdout)
    assert again(repeated.stdout) == command


@pytest.mark.slow
def test_without_shrinking_it_is_repeated_as_it_was(run: Minuet) -> None:
    result = run("simulate", BROKEN, "--processes", 1, "--shrink", 0)
    assert result.exit_code == 1
    repeated = run(*again(result.stdout))
    assert repeated.exit_code == 1
    told, told_again = (re.sub(", from .*", "", diagram(one.stdout)) for one in (result, repeated))
    assert told == told_again


@pytest.mark.slow
def test_a_failure_for_mermaid_and_in_json(run: Minuet) -> None:
    import json

    mix = ("--faults", "message_doubled=0.3", "--processes", 1, "--shrink", 30)
    assert "sequenceDiagram" in run("simulate", BROKEN, *mix, "--mermaid").stdout
    result = run("simulate", BROKEN, *mix, "--json")
    assert result.exit_code == 1
    broken = json.loads(result.stdout)["broken"]
    assert broken["promise"] == "No message comes twice."
    assert broken["faults"].startswith("message_doubled@")
    assert run(*shlex.split(broken["again"])[1:]).exit_code == 1


def test_one_seed_is_shown(run: Minuet, as_json: Any) -> None:
    result = run("simulate", APP, "--seed", 4, "--orders", 2, "--last", 7)
    assert result.exit_code == 0, result.output
    assert "moments before)" in result.stdout
    assert "seed 4: " in result.stdout
    facts = as_json("simulate", APP, "--seed", 4, "--orders", 2)
    assert facts["seed"] == 4
    assert sum(facts["sagas"].values()) == 2


@pytest.mark.parametrize("way", ["choreography", "orchestration"])
def test_the_coordination_can_be_chosen(run: Minuet, way: str) -> None:
    result = run("simulate", APP, "--seed", 0, "--orders", 3, "--faults", "none", "--coordination", way, "--last", 500)
    assert ("orchestrator" in result.stdout) == (way == "orchestration")


# -- in every way ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_everything_is_gone_through_and_counted(run: Minuet) -> None:
    result = run("simulate", APP, "--exhaustive", "--coordination", "choreography")
    assert result.exit_code == 0, result.output
    assert re.match(r"\d+ runs, all there are within these bounds: at most 1 fault a run", result.stdout)
    assert "runs/s; every promise was kept" in result.stdout


def test_what_an_exploration_finds_is_repeated_by_the_command_that_is_printed(run: Minuet) -> None:
    result = run("simulate", BROKEN, "--exhaustive")
    assert result.exit_code == 1
    command = again(result.stdout)
    assert "--choices" in command
    repeated = run(*command)
    assert repeated.exit_code == 1
    assert repeated.stdout == result.stdout


# -- what is wrong -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("no_example", r"command AskBlindly begins a saga and has no example: .* field amount .* Field\(examples="),
        ("wrong_example", "the example of command AskWrongly breaks its own rules, amount"),
        ("no_fresh_key", "command AskOnce: no other loan_id could be made from its example"),
        ("without_paper", "needs an operator though nothing goes wrong: desk: .*there is no paper"),
        ("nothing_provided", r"desk.write_with asks for Letters, .* declare it with @desk.provides"),
        ("nobody_begins", "no command of app nobody_begins is answered by Asked"),
        ("without_sagas", "app without_sagas has no saga"),
        ("not_an_app", "is a str, neither an App nor a Simulation"),
        ("nothing_there", "has no 'nothing_there'"),
        ("app.services.desk", "has no 'app.services.desk'"),
    ],
)
def test_what_cannot_be_simulated_is_told_in_one_line(run: Minuet, name: str, why: str) -> None:
    result = run("simulate", f"{HERE}:{name}", "--seeds", 1, "--processes", 1)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert re.search(why, result.stderr), result.stderr


@pytest.mark.slow
def test_an_app_that_needs_the_world_outside_says_so(run: Minuet) -> None:
    result = run("simulate", "minuet_shop:app", "--seeds", 1, "--orders", 1, "--processes", 1)
    assert result.exit_code == 1
    assert "Its own Gateway, Carrier may need the world outside" in result.stderr
    assert "Simulation(app, provided=...)" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--faults", "flood=1"], "there is no fault 'flood'; there are crash_before_commit"),
        (["--faults", "kill=often"], "'kill=often' has no rate"),
        (["--faults", "disk_full=2"], "a rate is from 0 to 1"),
        (["--coordination", "dancing"], "'dancing' is not choreography or orchestration"),
        (["--exactly", "kill"], "say which seed"),
        (["--seed", "1", "--exactly", "kill"], "'kill' is no fault"),
        (["--choices", "1:1"], "go with --exhaustive"),
        (["--exhaustive", "--choices", "one"], "'one' are no choices"),
    ],
)
def test_a_wrong_command_line_ends_with_2(run: Minuet, arguments: list[str], why: str) -> None:
    result = run("simulate", APP, *arguments)
    assert result.exit_code == 2
    assert why in " ".join(result.stderr.replace("│", "").split())


def test_choices_of_something_else_are_told(run: Minuet) -> None:
    result = run("simulate", APP, "--exhaustive", "--choices", "0:99")
    assert result.exit_code == 1
    assert "the choices are of another simulation" in result.stderr


def test_orders_are_not_for_a_simulation_with_a_driver_of_its_own(run: Minuet) -> None:
    result = run("simulate", BROKEN, "--orders", 3)
    assert result.exit_code == 1
    assert "whose driver says what is sent" in result.stderr


# -- what is sent to an app --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "keys"), [("app", 6), ("by_uuid", 6)])
def test_each_command_is_of_a_business_of_its_own(name: str, keys: int) -> None:
    report = simulation_of(getattr(simulated, name), orders=keys).run(1)
    assert len({saga_id for _, saga_id in report.outcomes}) == keys
    asked = {one.what for one in report.trace.moments if one.kind == "asks" and one.who == "client"}
    begun = [simulated.Ask, simulated.AskAgain] if name == "app" else [simulated.AskByUuid]
    assert asked == {name_of(command) for command in begun}


def test_every_example_is_sent() -> None:
    report = simulation_of(simulated.app_of("loans", simulated.AskAgain), orders=4).run(0)
    assert report.sagas == {"completed": 2, "compensated": 2}  # nobody lends 666


def test_an_app_of_which_nobody_knows_what_to_send_cannot_be_driven() -> None:
    with pytest.raises(ConfigurationError, match="nobody knows what to send"):
        simulation_of(simulated.without_sagas)
