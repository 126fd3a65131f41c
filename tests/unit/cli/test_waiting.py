"""What waits, on the command line: explained, shown, and answered by an operator in the place of the outside."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from minuet import Settings, running
from minuet.cli.words import part_of, table_of
from minuet.core.projection import Coordination
from tests.scenarios.waiting import Order, app_of
from tests.unit.cli.conftest import Minuet

app = app_of(within=False, pace=0.01)
HERE = f"{__name__}:app"
APPROVED = ("--event", "Approved", "--body", '{"orderId": "o1"}')


async def begin_and_stop(data: Path, how: str) -> None:
    async with running(app, Settings(data=data, coordination={"Buying": Coordination(how)})) as system:
        await system.send(Order(order_id="o1"))
        async with asyncio.timeout(30):
            while not any("waits for Approved" in one.why for one in (await system.observer.saga("o1")).waiting):
                await asyncio.sleep(0.02)


async def end(data: Path, how: str) -> str:
    async with running(app, Settings(data=data, coordination={"Buying": Coordination(how)})) as system:
        async with asyncio.timeout(30):
            return (await system.ended("Buying", "o1")).value


@pytest.mark.parametrize(("how", "place"), [("choreography", "van"), ("orchestration", "orchestrator")])
def test_an_operator_answers_while_nothing_runs(
    run: Minuet, as_json: Any, tmp_path: Path, how: str, place: str
) -> None:
    asyncio.run(begin_and_stop(tmp_path, how))
    own = f"{place}:Buying/o1/approval"
    (waiting,) = as_json("sagas", "show", "o1", "--app", HERE, "--data", tmp_path)["waiting"]
    assert waiting["step"] == "approval"
    assert f"minuet parked answer {own}" in waiting["why"]
    shown = " ".join(run("sagas", "show", "o1", "--app", HERE, "--data", tmp_path).stdout.split())
    assert "9999" not in shown
    assert f"waits for approval: {place} waits for Approved;" in shown
    listed = " ".join(run("sagas", "list", "--app", HERE, "--data", tmp_path).stdout.split())
    assert f"approval ({place} waits for" in listed
    wrong = run(
        "parked",
        "answer",
        own,
        "--event",
        "Reserved",
        "--body",
        '{"orderId": "o1"}',
        "--yes",
        "--app",
        HERE,
        "--data",
        tmp_path,
    )
    assert wrong.exit_code == 1
    assert "waits for Approved or Disapproved, not for Reserved" in " ".join(wrong.output.replace("│", " ").split())
    said = run("parked", "answer", own, *APPROVED, "--yes", "--who", "ada", "--app", HERE, "--data", tmp_path)
    assert said.exit_code == 0, said.output
    assert run("parked", "answer", own, *APPROVED, "--yes", "--app", HERE, "--data", tmp_path).exit_code == 1
    assert asyncio.run(end(tmp_path, how)) == "completed"


def test_it_is_explained(run: Minuet) -> None:
    text = " ".join(run("explain", "Buying", "--app", HERE).stdout.split())
    assert "from when it knows Reserved waits for the outcome of pay, for 0.3 seconds at most, and tells" in text
    assert "from when it knows that pay was accepted waits for Approved or Disapproved, and tells StepAccepted" in text
    assert "or gives it up with StepAbandoned, and then Repay and Release undo what was done" in text
    assert "Approved, Disapproved by anybody, on channel office" in text


def test_the_words_of_each_part() -> None:
    (saga,) = app.sagas
    van = part_of(app, saga, "van")
    assert [(one.rule, one.waits) for one in van.does if one.waits] == [
        ("pay/within", "for the outcome of pay, for 0.3 seconds at most"),
        ("approval", "for Approved or Disapproved"),
    ]
    assert [one.delay for one in van.does if one.rule == "send"] == ["0.2 seconds"]
    assert ("StepAbandoned", "van.decided", "van") in [
        (one.event, one.channel, one.sender) for one in part_of(app, saga, "money").listens
    ]
    waits = [line for line in table_of(saga) if not line.service]
    assert [line.step for line in waits] == ["pay/within", "approval"]
    assert waits[1].if_refused == "StepAbandoned: then Repay, Release"
