"""`minuet sagas reconcile`: messages that a broker lost."""

import asyncio
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from minuet import Settings, running
from minuet.cli.loading import remember_app
from tests.unit.cli import tiny
from tests.unit.cli.conftest import Minuet, perform


@pytest.fixture
def bereft(tmp_path: Path) -> Iterator[Path]:
    """A folder in which one wish was told to a broker that has lost everything since."""
    folder = tmp_path / "data"
    perform(folder, ("w-1", "a pony"))

    async def tell() -> None:
        async with running(tiny.app, Settings(data=folder), services=["people"]) as system:
            await system.send(tiny.Wish(wish_id="w-2", text="peace"))
            await system.drained()

    asyncio.run(tell())
    (broker,) = folder.glob("*broker*.db")
    with closing(sqlite3.connect(broker)) as connection, connection:
        assert connection.execute("DELETE FROM minuet_queue").rowcount >= 2
    remember_app(folder, tiny.APP)
    yield folder
    tiny.printed.clear()


def missed(said: str) -> list[tuple[str, str, str]]:
    return sorted((one["id"], one["type"], one["place"]) for one in json.loads(said)["missed"])


MISSING = [("w-2", "Wished", "fairy"), ("w-2", "Wished", "press")]


def test_a_check_says_what_is_missing_and_changes_nothing(run: Minuet, bereft: Path) -> None:
    for _ in range(2):
        result = run("sagas", "reconcile", "--check", "--after", 0, "--data", bereft, "--json")
        assert (result.exit_code, missed(result.stdout)) == (1, MISSING)
    text = " ".join(run("sagas", "reconcile", "w-2", "--check", "--after", 0, "--data", bereft).stdout.split())
    assert "2 messages missing; without --check they are handed over" in text
    assert "Wished people" in text


def test_what_is_handed_over_is_taken_up_once(run: Minuet, as_json: Any, bereft: Path) -> None:
    mended = as_json("sagas", "reconcile", "--after", 0, "--data", bereft)
    assert (missed(json.dumps(mended)), mended["mended"]) == (MISSING, True)
    assert "everybody has heard what was told" in run("sagas", "reconcile", "--after", 0, "--data", bereft).stdout
    perform(bereft, ("w-3", "another"), until="w-2")
    assert tiny.printed.count("peace") == 1
    assert as_json("sagas", "reconcile", "--ended", "--after", 0, "--data", bereft)["missed"] == []


def test_what_was_told_just_now_is_on_its_way(as_json: Any, bereft: Path) -> None:
    assert as_json("sagas", "reconcile", "--data", bereft)["missed"] == []


def test_mistakes_are_told(run: Minuet, bereft: Path) -> None:
    for arguments, said in (
        (["nobody"], "has heard of a saga 'nobody'"),
        (["--saga", "Wishes"], "names the saga of an ID"),
        (["--check", "--every", "5"], "neither an ID nor --check"),
        (["w-2", "--saga", "Wines"], "has no saga 'Wines'"),
    ):
        result = run("sagas", "reconcile", *arguments, "--data", bereft)
        assert result.exit_code != 0
        assert said in " ".join(result.output.replace("│", " ").split()), result.output
