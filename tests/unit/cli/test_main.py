"""What holds for every command: help, errors in one line, exit codes."""

import pytest

from minuet.cli import main, sagas
from tests.unit.cli.conftest import Minuet

COMMANDS = [
    ["demo"],
    ["run"],
    ["explain"],
    ["sagas", "list"],
    ["sagas", "show"],
    ["sagas", "begin"],
    ["sagas", "cancel"],
    ["sagas", "reconcile"],
    ["parked", "list"],
    ["parked", "show"],
    ["parked", "retry"],
    ["parked", "discard"],
    ["parked", "answer"],
    ["audit"],
    ["simulate"],
    ["check"],
    ["topology", "show"],
    ["topology", "check"],
    ["topology", "apply"],
    ["store", "check"],
    ["store", "migrate"],
]


def test_the_help_names_every_command(run: Minuet) -> None:
    result = run("--help")
    assert result.exit_code == 0
    assert all(command[0] in result.stdout for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_has_an_example(run: Minuet, command: list[str]) -> None:
    result = run(*command, "--help")
    assert result.exit_code == 0
    assert f"Example: minuet {' '.join(command)}" in " ".join(result.stdout.split())


@pytest.mark.parametrize(
    "command", [one for one in COMMANDS if one[-1] not in ("run", "retry", "discard", "answer")], ids=" ".join
)
def test_every_reading_command_speaks_json(run: Minuet, command: list[str]) -> None:
    assert "--json" in run(*command, "--help").stdout


def test_the_version_is_told(run: Minuet) -> None:
    result = run("--version")
    assert result.exit_code == 0
    assert result.stdout.startswith("minuet 0.")


@pytest.mark.parametrize("arguments", [["nonsense"], ["sagas", "show"], ["sagas", "list", "--limit", "0"], ["run"]])
def test_a_wrong_command_line_ends_with_2(run: Minuet, arguments: list[str]) -> None:
    assert run(*arguments).exit_code == 2


def test_what_minuet_knows_to_be_wrong_is_one_line_and_ends_with_1(run: Minuet) -> None:
    result = run("sagas", "list", "--app", "no_such_module:app")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith("minuet: there is no module no_such_module here")
    assert len(result.stderr.splitlines()) == 1


def test_a_bug_is_one_line_unless_someone_asks_for_more(run: Minuet, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("oh\nno")

    monkeypatch.setattr(sagas, "run_async", fail)
    result = run("sagas", "list")
    assert result.exit_code == 1
    assert result.stderr == "minuet: unexpected RuntimeError: oh no (a bug; MINUET_DEBUG=1 shows where)\n"
    monkeypatch.setenv(main.DEBUG, "1")
    assert isinstance(run("sagas", "list").exception, RuntimeError)


def test_an_error_of_the_operating_system_names_the_file(run: Minuet, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise PermissionError(13, "Permission denied", "/data/orders.db")

    monkeypatch.setattr(sagas, "run_async", fail)
    assert run("sagas", "list").stderr == "minuet: Permission denied: /data/orders.db\n"
