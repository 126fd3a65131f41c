"""What `minuet demo` says before it plays, and of an evening with one order; the acceptance tests see it whole."""

import socket
from types import SimpleNamespace
from typing import Any, cast

from minuet.cli.demo_report import MEASURES
from minuet.cli.demo_run import Run
from tests.unit.cli.conftest import Minuet


def test_a_port_that_is_taken_is_told_before_anything_runs(run: Minuet) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        result = run("demo", "--orders", 1, "--serve", "--port", taken.getsockname()[1])
    assert result.exit_code == 1
    assert "choose another --port" in result.stderr
    assert result.stdout == ""


def test_the_help_says_once_what_happens_without_data(run: Minuet) -> None:
    text = " ".join(run("demo", "--help").stdout.replace("│", "").split())
    assert "without it, none is kept" in text
    assert "by default .minuet" not in text


def test_one_order_has_no_rate() -> None:
    rate = dict(MEASURES)["orders/s"]
    assert rate(cast(Run, cast(Any, SimpleNamespace(orders_per_s=0.0)))) == "too few to tell"
    assert rate(cast(Run, cast(Any, SimpleNamespace(orders_per_s=1234.5)))) == "1,234"


def test_one_order_has_no_duration(run: Minuet) -> None:
    result = run("demo", "--orders", 1)
    assert result.exit_code == 0, result.output
    assert "1 order in" not in result.stdout
