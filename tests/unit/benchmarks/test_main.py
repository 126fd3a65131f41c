"""`python -m benchmarks --from`, for several runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.__main__ import merged


def row(contender: str, in_flight: int, orders_per_s: float) -> dict[str, Any]:
    return {"round": 0, "contender": contender, "in_flight": in_flight, "orders_per_s": orders_per_s}


def test_what_is_in_several_runs_is_taken_from_the_first(tmp_path: Path) -> None:
    runs = [
        {"contenders": [{"name": "a"}], "measurements": [row("a", 64, 1.0), row("a", 64, 2.0)], "machine": ["first"]},
        {
            "contenders": [{"name": "a"}, {"name": "b"}],
            "measurements": [row("a", 64, 3.0), row("a", 16, 4.0), row("b", 64, 5.0)],
            "machine": ["second"],
        },
    ]
    files = [tmp_path / f"{number}.json" for number in range(2)]
    for file, run in zip(files, runs, strict=True):
        file.write_text(json.dumps(run))
    found = merged(files)
    assert [one["orders_per_s"] for one in found["measurements"]] == [1.0, 2.0, 4.0, 5.0]
    assert found["contenders"] == [{"name": "a"}, {"name": "b"}]
    assert found["machine"] == ["first"]
