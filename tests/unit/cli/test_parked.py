"""`minuet parked`: looking at what is stuck, and mending it."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from minuet import Settings, running
from minuet.core.envelope import Envelope
from minuet.ports import Outgoing
from tests.unit.cli import tiny
from tests.unit.cli.conftest import Minuet, perform

GARBLED = b'{"wishId": 4, "text": "a garbled one"}'


def publish(data: Path, kind: str, body: bytes, *, id_: str) -> None:
    """What a stranger sends on the channel of wishes; back when somebody has parked it."""

    async def work() -> None:
        async with running(tiny.app, Settings(data=data)) as system:
            envelope = Envelope(id=id_, type=kind, source="abroad", time=1.0, body=body)
            (transport,) = system.transports.values()
            assert list(await transport.publish([Outgoing(0, "wishes", envelope)])) == [None]
            async with asyncio.timeout(10):
                while len([one for one in await system.observer.parked() if id_ in one.id]) < 3:
                    await asyncio.sleep(0.01)

    asyncio.run(work())


@pytest.fixture
def garbled(data: Path) -> Path:
    publish(data, "Wished", GARBLED, id_="g-1")
    return data


def ids(as_json: Any, data: Path) -> list[str]:
    return [one["id"] for one in as_json("parked", "list", "--data", data)["parked"]]


def test_the_list_has_commands_and_messages(run: Minuet, as_json: Any, garbled: Path) -> None:
    assert sorted(ids(as_json, garbled)) == [
        "fairy:wishes/abroad/g-1",
        "orchestrator:wishes/abroad/g-1",
        "people:Thank/w-3",
        "press:wishes/abroad/g-1",
    ]
    text = run("parked", "list", "--data", garbled).stdout
    assert "command Thank" in text
    assert "RuntimeError: no words (tried 1 times)" in " ".join(text.split())


def test_one_with_its_attributes_and_body(run: Minuet, as_json: Any, garbled: Path) -> None:
    one = as_json("parked", "show", "fairy:wishes/abroad/g-1", "--data", garbled)
    assert (one["kind"], one["type"], one["channel"]) == ("message", "Wished", "wishes")
    assert one["body"] == json.loads(GARBLED)
    assert "wishId: Input should be a valid string" in one["reason"]
    text = run("parked", "show", "fairy:wishes/abroad/g-1", "--data", garbled).stdout
    assert "a garbled one" in text
    assert "abroad" in text


def test_a_command_is_due_again_and_done_when_its_service_runs(run: Minuet, as_json: Any, data: Path) -> None:
    result = run("parked", "retry", "people:Thank/w-3", "--data", data)
    assert result.stdout == "Thank is due again; people takes it up as soon as it runs\n"
    tiny.broken.clear()
    perform(data, until="w-3")
    assert as_json("sagas", "show", "w-3", "--data", data)["status"] == "completed"
    assert ids(as_json, data) == []


def test_a_mended_message_is_taken_in_by_all_who_parked_it(
    run: Minuet, as_json: Any, garbled: Path, tmp_path: Path
) -> None:
    mended = tmp_path / "mended.json"
    mended.write_text('{"wishId": "w-4", "text": "a mended one"}')
    result = run("parked", "retry", "fairy:wishes/abroad/g-1", "--body", mended, "--data", garbled)
    assert result.stdout.startswith(
        "Wished, mended, is taken in by fairy, orchestrator and press; what it makes due goes on as soon as they run"
    )
    assert ids(as_json, garbled) == ["people:Thank/w-3"]
    perform(garbled, until="w-4")
    assert as_json("sagas", "show", "w-4", "--data", garbled)["status"] == "completed"
    assert tiny.printed.count("a mended one") == 1


def test_what_would_only_be_parked_again_stays(run: Minuet, as_json: Any, garbled: Path) -> None:
    result = run("parked", "retry", "fairy:wishes/abroad/g-1", "--data", garbled)
    assert result.exit_code == 1
    assert "wishId: Input should be a valid string" in result.stderr
    assert "fairy:wishes/abroad/g-1" in ids(as_json, garbled)


def test_a_command_cannot_be_given_another_body(run: Minuet, data: Path, tmp_path: Path) -> None:
    body = tmp_path / "body.json"
    body.write_text("{}")
    result = run("parked", "retry", "people:Thank/w-3", "--body", body, "--data", data)
    assert result.exit_code == 1
    assert "retry it without a body" in result.stderr


def test_discarding_asks_first(run: Minuet, as_json: Any, garbled: Path) -> None:
    result = run("parked", "discard", "fairy:wishes/abroad/g-1", "--data", garbled, input="n\n")
    assert result.exit_code == 1
    assert "fairy:wishes/abroad/g-1" in ids(as_json, garbled)
    result = run("parked", "discard", "fairy:wishes/abroad/g-1", "--data", garbled, input="y\n")
    assert result.exit_code == 0
    assert result.stdout.strip(" y\n").startswith(
        "fairy:wishes/abroad/g-1 is gone: Wished, parked because Wished g-1: wishId:"
    )
    assert run("parked", "discard", "press:wishes/abroad/g-1", "--data", garbled, "--yes").exit_code == 0
    assert sorted(ids(as_json, garbled)) == ["orchestrator:wishes/abroad/g-1", "people:Thank/w-3"]


def test_a_command_that_somebody_waits_for_is_not_discarded(run: Minuet, data: Path) -> None:
    result = run("parked", "discard", "people:Thank/w-3", "--data", data, "--yes")
    assert result.exit_code == 1
    assert "it can be retried or answered, not discarded" in result.stderr


@pytest.mark.parametrize("verb", ["show", "retry", "discard"])
@pytest.mark.parametrize(("id_", "why"), [("people:nothing", "nothing is parked"), ("nothing", "names no service")])
def test_an_id_that_names_nothing(run: Minuet, data: Path, verb: str, id_: str, why: str) -> None:
    result = run("parked", verb, id_, "--data", data)
    assert result.exit_code == 1
    assert why in result.stderr


def test_nothing_is_parked(run: Minuet, data: Path) -> None:
    tiny.broken.clear()
    run("parked", "retry", "people:Thank/w-3", "--data", data)
    assert run("parked", "list", "--data", data).stdout == "nothing is parked\n"


@pytest.mark.parametrize("verb", ["list", "retry", "discard"])
def test_a_filter_that_makes_no_sense_is_told_before_anything_is_opened(run: Minuet, tmp_path: Path, verb: str) -> None:
    data = tmp_path / "nowhere"
    result = run("parked", verb, "--where", "colour=red", "--data", data)
    assert result.exit_code != 0
    assert "nothing is chosen by 'colour'" in result.stderr
    assert not data.exists()
