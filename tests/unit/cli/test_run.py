"""What `minuet run` takes; that it runs is seen in the acceptance tests, where it is a process."""

from pathlib import Path

import pytest

from minuet.cli.loading import load_settings
from tests.unit.cli import tiny
from tests.unit.cli.conftest import Minuet


@pytest.mark.parametrize("given", ["Wishes", "Wishes=", "=choreography", "Wishes=dancing"])
def test_a_coordination_that_is_none_is_a_wrong_command_line(run: Minuet, given: str) -> None:
    result = run("run", tiny.APP, "--coordination", given)
    assert result.exit_code == 2
    assert "SAGA=" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--service", "bakery"], "app tiny has no service 'bakery'; it has people, fairy, press, orchestrator"),
        (["--coordination", "Nothing=choreography"], "[coordination] names Nothing, but there is only Wishes"),
        (["--config", "nowhere.toml"], "there is no settings file nowhere.toml"),
    ],
)
def test_what_does_not_fit_the_app_is_told(run: Minuet, tmp_path: Path, arguments: list[str], why: str) -> None:
    result = run("run", tiny.APP, "--data", tmp_path / "data", "--port", 0, *arguments)
    assert result.exit_code == 1
    assert why in result.stderr
    assert result.stdout == ""


def test_a_flag_changes_one_saga_and_leaves_the_others(tmp_path: Path) -> None:
    config = tmp_path / "minuet.toml"
    config.write_text('port = 1234\n[coordination]\nOne = "orchestration"\nTwo = "orchestration"\n')
    settings = load_settings(config, coordination={"Two": "choreography"}, host=None)
    assert settings.coordination == {"One": "orchestration", "Two": "choreography"}
    assert settings.port == 1234


def test_the_help_says_where_it_listens(run: Minuet) -> None:
    text = " ".join(run("run", "--help").stdout.replace("│", "").split())
    assert "127.0.0.1 unless set" in text
    assert "8000 unless set" in text
