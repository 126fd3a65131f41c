"""`minuet sagas`, on a folder of data whose services do not run."""

from pathlib import Path
from typing import Any

import pytest

from minuet.cli.loading import remember_app
from minuet.cli.sagas import _command
from minuet.observer import Attempt
from tests.unit.cli import tiny
from tests.unit.cli.conftest import Minuet, perform


def test_the_list_has_the_newest_first(as_json: Any, data: Path) -> None:
    sagas = as_json("sagas", "list", "--data", data)["sagas"]
    assert [(one["saga"], one["id"], one["status"]) for one in sagas] == [
        ("Wishes", "w-3", "needs operator"),
        ("Wishes", "w-2", "compensated"),
        ("Wishes", "w-1", "completed"),
    ]
    (waiting,) = sagas[0]["waiting"]
    assert (waiting["service"], waiting["command"]) == ("people", "Thank")
    assert waiting["why"] == "needs operator at people after 1 attempts: RuntimeError: no words"


@pytest.mark.parametrize(
    ("status", "ids"),
    [("completed", ["w-1"]), ("compensated", ["w-2"]), ("needs operator", ["w-3"]), ("running", [])],
)
def test_a_status_is_looked_for_behind_newer_sagas(as_json: Any, data: Path, status: str, ids: list[str]) -> None:
    sagas = as_json("sagas", "list", "--data", data, "--status", status, "--limit", 1)["sagas"]
    assert [one["id"] for one in sagas] == ids


def test_the_list_for_people(run: Minuet, data: Path) -> None:
    text = run("sagas", "list", "--data", data).stdout
    assert "w-3" in text
    assert "needs operator" in text
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) <= 100
    assert run("sagas", "list", "--data", data, "--status", "running").stdout == "no sagas\n"
    assert "more with --limit" in run("sagas", "list", "--data", data, "--limit", 1).stdout


def test_one_saga_with_its_attempts_and_messages(as_json: Any, data: Path) -> None:
    saga = as_json("sagas", "show", "w-3", "--data", data)
    assert saga["coordination"] == "choreography"
    assert [(one["command"], one["at"], one["state"], one["attempts"]) for one in saga["attempts"]] == [
        ("Grant", "fairy", "done", 1),
        ("Thank", "people", "needs operator", 1),
    ]
    assert [(one["type"], one["sender"], one["hearers"]) for one in saga["messages"]] == [
        ("Wished", "people", ["fairy"]),
        ("Granted", "fairy", ["people"]),
    ]
    assert saga["messages"][0]["body"]["text"] == "peace"


def test_one_saga_for_people(run: Minuet, data: Path) -> None:
    text = run("sagas", "show", "w-3", "--data", data, "--saga", "Wishes").stdout
    assert "Wishes w-3  needs operator" in text
    assert "waits for Thank of people: needs operator at people after 1 attempts" in text
    assert "●─────" in text


@pytest.mark.parametrize("columns", [30, 60, 80, 100, 140])
def test_the_list_never_cuts_an_id(run: Minuet, tmp_path: Path, columns: int) -> None:
    ids = [f"{number}-{'0123456789' * 4}" for number in range(2)]
    tiny.broken.add(ids[1])
    try:
        perform(tmp_path / "long", *((one, "a pony") for one in ids))
    finally:
        tiny.broken.clear()
    text = run("sagas", "list", "--data", tmp_path / "long", "--app", tiny.APP, env={"COLUMNS": str(columns)}).stdout
    lines = text.splitlines()
    assert all(any(one in line.split() for line in lines) for one in ids)
    assert "…" not in text
    assert "waits for" in text


def test_a_reaction_is_called_so() -> None:
    attempt = Attempt(
        step="grant", command="on/report", at="press", state="done", attempts=1, error="", answer="",
        changed_at=0.0, due_at=0.0,
    )  # fmt: skip
    assert _command(attempt) == "reaction report"


def test_the_folders_of_the_demo_are_hinted_at(run: Minuet, tmp_path: Path) -> None:
    for way in ("choreography", "orchestration"):
        remember_app(tmp_path / "keep" / way, tiny.APP)
    result = run("sagas", "list", "--data", "keep")
    assert result.exit_code == 1
    assert result.stderr == (
        "minuet: keep is what minuet demo kept; choose --data keep/choreography or keep/orchestration\n"
    )


def test_a_saga_of_another_app_is_told(run: Minuet, data: Path) -> None:
    result = run("sagas", "show", "w-1", "--saga", "Buying", "--data", data)
    assert result.stderr == "minuet: app tiny has no saga 'Buying'; it has Wishes; name another app with --app\n"


def test_a_saga_that_nobody_knows(run: Minuet, data: Path) -> None:
    result = run("sagas", "show", "w-9", "--data", data)
    assert result.exit_code == 1
    assert result.stderr == "minuet: no service here has heard of a saga 'w-9'\n"


def test_looking_makes_nothing(run: Minuet, tmp_path: Path) -> None:
    result = run("sagas", "list", "--data", tmp_path / "nothing")
    assert result.exit_code == 1
    assert "has stored anything in" in result.stderr
    assert not (tmp_path / "nothing").exists()
