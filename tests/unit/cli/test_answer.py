"""`minuet parked answer`: what an operator says in the place of a service. `minuet audit`: what is kept of it."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from minuet import Settings, running
from minuet.core.projection import Coordination
from minuet.ports import Act
from tests.unit.cli import tiny
from tests.unit.cli.conftest import Minuet, perform

STUCK = "people:Thank/w-3"
THANKED = ("--event", "Thanked", "--body", '{"wishId": "w-3"}')


def acts(as_json: Any, data: Path) -> list[tuple[str, str, str, str]]:
    found = as_json("audit", "--data", data)["acts"]
    return [(one["who"], one["verb"], f"{one['at_service']}:{one['what']}", one["why"]) for one in found]


def test_an_answer_is_given_once_and_the_saga_ends(run: Minuet, as_json: Any, data: Path) -> None:
    assert as_json("sagas", "show", "w-3", "--data", data)["status"] == "needs operator"
    said = run("parked", "answer", STUCK, *THANKED, "--yes", "--who", "ada", "--why", "by phone", "--data", data)
    assert (said.exit_code, "Thank is done: Thanked" in said.stdout) == (0, True), said.output
    again = run("parked", "answer", STUCK, *THANKED, "--yes", "--data", data)
    assert (again.exit_code, "nothing is parked as" in again.output) == (1, True)
    perform(data, ("w-4", "more"))
    view = as_json("sagas", "show", "w-3", "--data", data)
    assert (view["status"], view["waiting"]) == ("completed", [])
    assert acts(as_json, data) == [("ada", "answer", STUCK, "by phone")]


def test_it_asks_before_it_does(run: Minuet, as_json: Any, data: Path) -> None:
    refused = run("parked", "answer", STUCK, *THANKED, "--data", data, input="n\n")
    assert refused.exit_code == 1
    assert "answer Thanked for Thank?" in refused.output
    assert as_json("sagas", "show", "w-3", "--data", data)["status"] == "needs operator"
    assert run("parked", "answer", STUCK, *THANKED, "--data", data, input="y\n").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--event", "Denied", "--body", '{"wishId": "w-3"}'], "Thank is answered by Thanked, not by Denied"),
        (["--event", "Thanked", "--body", "{}"], "Thanked: wishId: Field required"),
        (["--event", "Nothing"], "there is no event 'Nothing'"),
        (["--event", "Thanked", "--body", "[1]"], "not a JSON object"),
        (["--event", "Thanked", "--body", "no"], "not JSON"),
        ([], "not by nothing"),
    ],
)
def test_what_is_no_answer_is_told_and_changes_nothing(
    run: Minuet, as_json: Any, data: Path, arguments: list[str], said: str
) -> None:
    result = run("parked", "answer", STUCK, *arguments, "--yes", "--data", data)
    assert result.exit_code != 0
    assert said in " ".join(result.output.replace("│", " ").split())
    assert as_json("sagas", "show", "w-3", "--data", data)["status"] == "needs operator"
    assert acts(as_json, data) == []


def test_every_act_is_kept_with_who_and_why(
    run: Minuet, as_json: Any, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINUET_OPERATOR", "grace")
    assert run("parked", "retry", STUCK, "--why", "words were found", "--data", data).exit_code == 0
    assert run("parked", "retry", STUCK, "--data", data).exit_code == 1, "it is due"
    assert acts(as_json, data) == [("grace", "retry", STUCK, "words were found")]
    text = " ".join(run("audit", "--data", data).stdout.split())
    assert "grace retry people:Thank/w-3 words were found" in text


async def ends_in(data: Path, coordination: Coordination) -> str:
    settings = Settings(data=data, coordination={"Wishes": coordination})
    async with running(tiny.app, settings) as system:
        await system.send(tiny.Wish(wish_id="w-7", text="a kite"))
        async with asyncio.timeout(20):
            while not [one for one in await system.observer.parked() if one.service == "people"]:
                await asyncio.sleep(0.01)
        (parked,) = [one for one in await system.observer.parked() if one.service == "people"]
        own = parked.id.partition(":")[2]
        act = Act(at=1.0, who="x", verb="answer", what=own)
        await system.places["people"].answer_for(own, tiny.Thanked(wish_id="w-7"), act)
        async with asyncio.timeout(20):
            return (await system.ended("Wishes", "w-7")).value


@pytest.mark.parametrize("coordination", list(Coordination))
def test_a_running_saga_goes_on_at_once_in_both_coordinations(coordination: Coordination, tmp_path: Path) -> None:
    tiny.broken.add("w-7")
    try:
        assert asyncio.run(ends_in(tmp_path, coordination)) == "completed"
    finally:
        tiny.broken.clear()
