"""`minuet sagas pause`, `resume`, `retry`, `paused`, and what is done to many that are chosen."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from minuet import Settings, running
from tests.unit.cli import tiny
from tests.unit.cli.conftest import Minuet, perform


def acts(as_json: Any, data: Path) -> list[tuple[str, str]]:
    return [(one["verb"], one["what"]) for one in as_json("audit", "--data", data)["acts"]]


@pytest.mark.parametrize(
    ("what", "named", "told"),
    [
        (("w-3",), "Wishes/w-3", {"id": "w-3"}),
        (("--all-of", "Wishes"), "all Wishes", {"all_of": "Wishes"}),
        (("--service", "people"), "service people", {"service": "people"}),
    ],
)
def test_it_is_said_once_shown_and_taken_back(
    run: Minuet, as_json: Any, data: Path, what: tuple[str, ...], named: str, told: dict[str, str]
) -> None:
    said = (*what, "--who", "ada", "--why", "to look at it", "--data", data)
    assert as_json("sagas", "pause", *said) == {**told, "paused": True, "before": False}
    assert as_json("sagas", "pause", *said)["before"] is True
    assert "was paused before" in run("sagas", "pause", *said).stdout
    (one,) = as_json("sagas", "paused", "--data", data)["paused"]
    assert (one["what"], one["who"], one["why"]) == (named, "ada", "to look at it")
    text = " ".join(run("sagas", "paused", "--data", data).stdout.split())
    assert f"{named} " in text
    assert "ada orchestrator to look at it" in text
    shown = " ".join(run("sagas", "show", "w-3", "--data", data).stdout.split())
    assert f"paused: {named}" in shown
    (listed,) = as_json("sagas", "list", "--status", "needs operator", "--data", data)["sagas"]
    assert [pause["what"] for pause in listed["paused"]] == [named]
    assert as_json("sagas", "resume", *said) == {**told, "paused": False, "before": False}
    assert "goes on" not in run("sagas", "resume", *said).stdout
    assert run("sagas", "paused", "--data", data).stdout == "nothing is paused\n"
    assert acts(as_json, data) == [("resume", named), ("pause", named)]


def test_it_holds_for_whoever_runs_the_services_next(run: Minuet, as_json: Any, data: Path) -> None:
    """Said while nothing runs; the wish is heard, kept and granted when it goes on."""
    assert run("sagas", "pause", "--service", "fairy", "--data", data).exit_code == 0

    async def wish() -> list[str]:
        async with running(tiny.app, Settings(data=data)) as system:
            async with asyncio.timeout(20):
                while not any("fairy" in one.places for one in await system.observer.paused()):
                    await asyncio.sleep(0.01)  # it is a message like any other
            await system.send(tiny.Wish(wish_id="w-9", text="a kite"))
            async with asyncio.timeout(20):
                while not (found := (await system.observer.saga("w-9")).waiting) or "paused" not in found[0].why:
                    await asyncio.sleep(0.01)
            await system.drained()
            return [entry.why for entry in found]

    assert asyncio.run(wish())[0].startswith("service fairy was paused by ")
    assert run("sagas", "resume", "--service", "fairy", "--data", data).exit_code == 0
    perform(data, ("w-10", "a book"), until="w-9")


def test_retrying_is_said_and_kept(run: Minuet, as_json: Any, data: Path) -> None:
    assert "is tried again now" in run("sagas", "retry", "w-3", "--why", "now", "--data", data).stdout
    assert as_json("sagas", "retry", "--service", "people", "--data", data)["service"] == "people"
    assert acts(as_json, data) == [("retry", "service people"), ("retry", "Wishes/w-3")]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "say one of these: ID, --all-of, --service, --where"),
        (("w-3", "--service", "people"), "say one of these"),
        (("--all-of", "Nothing"), "no saga 'Nothing'"),
        (("--service", "nobody"), "no service 'nobody'"),
        (("nobody",), "has heard of a saga 'nobody'"),
        (("w-1",), "Wishes/w-1 is completed; there is nothing to pause"),
        (("--where", "what"), "is not NAME=VALUE"),
        (("--where", "colour=red"), "nothing is chosen by 'colour'"),
        (("--where", "type=Thank"), "a saga has no type of message"),
        (("--where", "status=lost"), "no status 'lost'"),
        (("--where", "older-than=soon"), "no length of time"),
        (("--where", "service=peeple"), "has no service 'peeple'; it has"),
        (("--where", "saga=Whishes"), "has no saga 'Whishes'; it has Wishes"),
        (("--where", "saga=a", "--where", "saga=b"), "is given twice"),
    ],
)
def test_what_makes_no_sense_is_told(run: Minuet, data: Path, arguments: tuple[str, ...], said: str) -> None:
    result = run("sagas", "pause", *arguments, "--data", data)
    assert result.exit_code != 0
    assert said in " ".join(result.output.replace("│", " ").split())


@pytest.mark.parametrize("verb", ["cancel", "pause", "resume", "retry"])
def test_a_filter_that_makes_no_sense_is_told_before_anything_is_opened(run: Minuet, tmp_path: Path, verb: str) -> None:
    result = run("sagas", verb, "--where", "what", "--data", tmp_path / "nothing")
    assert result.exit_code == 2
    assert "is not NAME=VALUE" in " ".join(result.output.split())


def test_a_saga_that_is_over_is_not_tried_again(run: Minuet, as_json: Any, data: Path) -> None:
    result = run("sagas", "retry", "w-1", "--data", data)
    assert result.exit_code == 1
    assert "Wishes/w-1 is completed; there is nothing to retry" in " ".join(result.output.split())
    assert acts(as_json, data) == []


def test_many_sagas_are_chosen_counted_asked_about_and_cancelled(run: Minuet, as_json: Any, data: Path) -> None:
    chosen = ("--where", "status=needs operator", "--where", "service=people", "--where", "reason=NO WORDS")
    dry = run("sagas", "cancel", *chosen, "--dry-run", "--data", data)
    assert dry.stdout.splitlines() == ["Wishes/w-3", "1 is meant; nothing was done"]
    assert as_json("sagas", "cancel", *chosen, "--dry-run", "--data", data) == {
        "count": 1,
        "dry_run": True,
        "ids": ["Wishes/w-3"],
    }
    assert acts(as_json, data) == []
    refused = run("sagas", "cancel", *chosen, "--data", data, input="n\n")
    assert (refused.exit_code, "cancel it?" in refused.output) == (1, True)
    assert run("sagas", "cancel", *chosen, "--json", "--data", data).exit_code == 2, "nobody can be asked"
    assert acts(as_json, data) == []
    done = run("sagas", "cancel", *chosen, "--yes", "--data", data)
    assert (done.exit_code, done.stdout) == (0, "cancel: 1 done\n")
    assert acts(as_json, data) == [("cancel", "Wishes/w-3")]
    none = as_json("sagas", "pause", "--where", "older-than=30d", "--yes", "--data", data)
    assert none == {"count": 0, "dry_run": False, "done": [], "failed": []}
    listed = as_json("sagas", "list", "--where", "service=people", "--data", data)["sagas"]
    assert [one["id"] for one in listed] == ["w-3"], "those that are over wait for nobody"
    listed = as_json("sagas", "list", "--where", "saga=Wishes", "--data", data)["sagas"]
    assert [one["id"] for one in listed] == ["w-3", "w-2", "w-1"]
    meant = as_json("sagas", "pause", "--where", "saga=Wishes", "--dry-run", "--data", data)
    assert meant["ids"] == ["Wishes/w-3"], "of those that are over nothing is to be done"
    over = as_json("sagas", "list", "--where", "saga=Wishes", "--status", "completed", "--data", data)["sagas"]
    assert [one["id"] for one in over] == ["w-1"]


def test_what_cannot_be_done_is_told_and_the_others_go_on(run: Minuet, as_json: Any, data: Path) -> None:
    tiny.broken.add("w-4")
    perform(data, ("w-4", "rain"))
    assert len(as_json("parked", "list", "--where", "service=people", "--data", data)["parked"]) == 2
    failed = run("parked", "discard", "--where", "type=Thank", "--yes", "--data", data)
    assert failed.exit_code == 1
    assert "discard: 0 done, 2 could not be" in failed.stdout
    assert "people:Thank/w-3 is a command of a saga that is owed an answer" in failed.stderr
    # What the body leaves out each command says itself.
    answered = as_json("parked", "answer", "--where", "type=Thank", "--event", "Thanked", "--yes", "--data", data)
    assert (answered["done"], answered["failed"]) == (["people:Thank/w-3", "people:Thank/w-4"], [])
    perform(data, ("w-5", "sun"))
    for wish in ("w-3", "w-4"):
        assert as_json("sagas", "show", wish, "--data", data)["status"] == "completed"
    assert sorted(acts(as_json, data)) == [("answer", "Thank/w-3"), ("answer", "Thank/w-4")]


def test_many_that_are_parked_are_tried_again(run: Minuet, as_json: Any, data: Path) -> None:
    tiny.broken.clear()
    retried = as_json("parked", "retry", "--where", "reason=no words", "--yes", "--who", "ada", "--data", data)
    assert (retried["count"], retried["done"]) == (1, ["people:Thank/w-3"])
    perform(data, until="w-3")
    assert acts(as_json, data) == [("retry", "Thank/w-3")]
    wrong = run("parked", "retry", "--where", "status=running", "--yes", "--data", data)
    assert (wrong.exit_code, "has no status" in wrong.output) == (1, True)
