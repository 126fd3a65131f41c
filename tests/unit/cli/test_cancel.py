"""`minuet sagas cancel`."""

from pathlib import Path
from typing import Any

from tests.unit.cli.conftest import Minuet


def test_it_is_said_once_and_kept_with_who_and_why(run: Minuet, as_json: Any, data: Path) -> None:
    cancel = ("sagas", "cancel", "w-3", "--who", "ada", "--why", "by phone", "--data", data)
    assert as_json(*cancel) == {"id": "w-3", "cancelled": True, "before": False}
    assert as_json(*cancel)["before"] is True
    assert "w-3 was cancelled before" in run(*cancel).stdout
    (act,) = as_json("audit", "--data", data)["acts"]
    assert (act["who"], act["verb"], act["what"], act["why"]) == ("ada", "cancel", "Wishes/w-3", "by phone")


def test_what_is_over_or_unknown_is_told(run: Minuet, data: Path) -> None:
    for saga_id, said in (("w-1", "Wishes w-1 is completed; there is nothing to cancel"), ("w-99", "w-99")):
        result = run("sagas", "cancel", saga_id, "--data", data)
        assert result.exit_code == 1
        assert said in " ".join(result.output.split())
