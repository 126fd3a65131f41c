"""`minuet check`: recording definitions, and judging a new version by them."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from minuet import App, Saga, Settings, running, step
from tests.unit.cli import tiny
from tests.unit.cli.conftest import Minuet

APP = tiny.APP
HERE = "tests.unit.cli.test_check"
wishes = tiny.app.sagas[0]
shorter = Saga("Wishes", begins_with=tiny.Wished, key="wish_id", steps=[step(tiny.Grant)])
changed = App("tiny", services=[tiny.people, tiny.fairy, tiny.press], sagas=[shorter])
with_old = App("tiny", services=[tiny.people, tiny.fairy, tiny.press], sagas=[shorter, wishes])


@pytest.fixture
def recorded(run: Minuet, tmp_path: Path) -> Path:
    file = tmp_path / "sagas.json"
    result = run("check", APP, "--record", file)
    assert result.exit_code == 0, result.output
    assert wishes.fingerprint in result.stdout
    return file


def test_the_file_is_for_version_control(run: Minuet, recorded: Path) -> None:
    first = recorded.read_text()
    run("check", APP, "--record", recorded)
    assert recorded.read_text() == first
    assert first.endswith("}\n")
    assert json.loads(first)["definitions"][0]["fingerprint"] == wishes.fingerprint


def test_the_same_app_can_go_on(run: Minuet, recorded: Path) -> None:
    result = run("check", APP, "--against", recorded)
    assert (result.exit_code, result.stdout) == (0, f"Wishes {wishes.fingerprint}: can go on\n")


def test_a_changed_saga_cannot_and_its_reason_is_told(run: Minuet, recorded: Path) -> None:
    result = run("check", f"{HERE}:changed", "--against", recorded)
    assert result.exit_code == 1
    assert f"Wishes {wishes.fingerprint}: cannot go on" in result.stdout
    assert "- step thank was removed" in result.stdout
    assert "App(sagas=[new, old])" in " ".join(result.stdout.split())
    assert max(map(len, result.stdout.splitlines())) <= 100


def test_with_the_old_one_beside_it_it_can(run: Minuet, as_json: Any, recorded: Path) -> None:
    assert run("check", f"{HERE}:with_old", "--against", recorded).exit_code == 0
    facts = as_json("check", f"{HERE}:with_old", "--against", recorded)
    assert facts["can_continue"] is True
    assert [(one["fingerprint"], one["is_current"]) for one in facts["definitions"]] == [
        (shorter.fingerprint, True),
        (wishes.fingerprint, False),
    ]


def test_in_json(run: Minuet, recorded: Path) -> None:
    result = run("check", f"{HERE}:changed", "--against", recorded, "--json")
    assert result.exit_code == 1
    facts = json.loads(result.stdout)
    assert facts["can_continue"] is False
    (one,) = facts["recorded_definitions"]
    assert (one["saga"], one["is_kept"], one["can_continue"]) == ("Wishes", False, False)
    assert one["differences"]
    assert "open" not in one


def test_both_at_once_compare_before_they_write(run: Minuet, recorded: Path) -> None:
    assert run("check", f"{HERE}:changed", "--against", recorded, "--record", recorded).exit_code == 1
    assert run("check", f"{HERE}:changed", "--against", recorded).exit_code == 0
    assert run("check", APP, "--against", recorded).exit_code == 1


def test_open_sagas_are_counted_under_the_definition_they_began_with(
    run: Minuet, as_json: Any, recorded: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    tiny.broken.update({"c-1", "c-2"})

    async def wish() -> None:
        async with running(tiny.app, Settings(data=data)) as system:
            for number in range(5):
                await system.send(tiny.Wish(wish_id=f"c-{number}", text="peace"))
            for number in (0, 3, 4):
                async with asyncio.timeout(10):
                    await system.ended("Wishes", f"c-{number}")
            async with asyncio.timeout(10):
                while len(await system.observer.parked()) < 2:
                    await asyncio.sleep(0.01)

    try:
        asyncio.run(wish())
    finally:
        tiny.broken.clear()
    for app in (APP, f"{HERE}:with_old"):
        (one,) = as_json("check", app, "--against", recorded, "--open", "--data", data)["recorded_definitions"]
        assert one["open"] == 2
    result = run("check", f"{HERE}:changed", "--against", recorded, "--open", "--data", data)
    assert "cannot go on, 2 open sagas" in result.stdout
    facts = as_json("check", APP, "--open", "--record", tmp_path / "again.json", "--data", data)
    assert facts["open"] == [{"saga": "Wishes", "fingerprint": wishes.fingerprint, "sagas": 2}]


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "there is no"), ("{", "cannot be read"), ("[]", "not a JSON object"), ('{"format": 7}', "its format is 7")],
)
def test_a_file_that_is_none(run: Minuet, tmp_path: Path, content: str | None, message: str) -> None:
    file = tmp_path / "sagas.json"
    if content is not None:
        file.write_text(content)
    result = run("check", APP, "--against", file)
    assert result.exit_code == 1
    assert message in result.stderr
    assert "minuet check" in result.stderr


def test_it_wants_to_know_what_to_do(run: Minuet) -> None:
    result = run("check", APP)
    assert result.exit_code == 1
    assert "--record FILE" in result.stderr
    assert "--against FILE" in result.stderr
