"""`minuet sagas begin`."""

from pathlib import Path
from typing import Any

from tests.unit.cli.conftest import Minuet, perform


def test_a_saga_begins_once_and_whoever_runs_the_services_goes_on_with_it(
    run: Minuet, as_json: Any, data: Path
) -> None:
    begin = ("sagas", "begin", "Wishes", "--body", '{"wishId": "w-9", "text": "snow"}', "--data", data)
    assert as_json(*begin) == {"saga": "Wishes", "id": "w-9", "begun": True}
    assert as_json(*begin)["begun"] is False
    assert "was begun with the same content before" in run(*begin).stdout
    perform(data, until="w-9")
    assert as_json("sagas", "show", "w-9", "--data", data)["status"] == "completed"


def test_what_does_not_fit_is_told(run: Minuet, data: Path) -> None:
    for saga, body, said in (
        ("Wishes", "{}", "--body is no Wished: wishId: Field required"),
        ("Wishes", "no", "--body is no Wished"),
        ("Wishes", '{"wishId": "w-1", "text": "another"}', "Wishes w-1 was begun with other content"),
        ("Dreams", "{}", "has no saga 'Dreams'"),
    ):
        result = run("sagas", "begin", saga, "--body", body, "--data", data)
        assert result.exit_code != 0
        assert said in " ".join(result.output.split()), result.output
