"""What the benchmarks make of their measurements: medians, ratios of one round, and verdicts on goals."""

from __future__ import annotations

from typing import Any

import pytest
from rich.console import Console

from benchmarks import goals, report
from benchmarks.contenders import CONTENDERS
from benchmarks.figures import Spread, failures, figure, number, points, ratios, spread
from benchmarks.goals import Goal, judge


def row(round_: int, contender: str, in_flight: int = 64, **figures: Any) -> dict[str, Any]:
    return {"round": round_, "contender": contender, "in_flight": in_flight, **figures}


ROWS = [
    row(0, "ours", orders_per_s=100.0, p50_ms=6.0),
    row(0, "theirs", orders_per_s=10.0, p50_ms=60.0),
    row(1, "ours", orders_per_s=30.0, p50_ms=9.0),
    row(1, "theirs", orders_per_s=15.0, p50_ms=45.0),
    row(2, "ours", orders_per_s=400.0, p50_ms=3.0),
    row(2, "theirs", failed="it ended"),
    row(0, "ours", 1, orders_per_s=7.0, p50_ms=2.0),
]


def test_a_figure_is_the_median_with_the_least_and_the_most() -> None:
    assert figure(ROWS, "ours", 64, "orders_per_s") == Spread(100.0, 30.0, 400.0, 3)
    assert figure(ROWS, "nobody", 64, "orders_per_s") is None
    assert figure([row(0, "ours", p999_ms=None)], "ours", 64, "p999_ms") is None


def test_a_ratio_is_of_two_figures_of_one_round() -> None:
    # Of the medians it would be 8, and the third round has no pair.
    assert ratios(ROWS, "orders_per_s", ("ours", 64), ("theirs", 64)) == Spread(6.0, 2.0, 10.0, 2)
    assert ratios(ROWS, "p50_ms", ("ours", 64), ("theirs", 64)) == Spread(0.15000000000000002, 0.1, 0.2, 2)
    assert ratios(ROWS, "orders_per_s", ("ours", 64), ("ours", 1)) == Spread(100 / 7, 100 / 7, 100 / 7, 1)
    assert ratios(ROWS, "orders_per_s", ("ours", 1), ("theirs", 1)) is None


def test_failures_are_kept_each_once() -> None:
    assert failures(ROWS * 2, "theirs", 64) == ["it ended"]
    assert failures(ROWS, "ours", 64) == []


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (0.12345, "0.123"), (12.345, "12.3"), (99.96, "100"), (1234.5, "1,234")]
)
def test_numbers_have_three_digits(value: float, text: str) -> None:
    assert number(value) == text


def test_a_spread_of_one_round_shows_no_range() -> None:
    assert str(spread([2.0])) == "2"
    assert str(spread([2.0, 3.0, 10.0])) == "3 (2 .. 10)"
    assert spread([]) is None


def test_the_line_of_a_plot_has_a_point_for_each_number_in_flight() -> None:
    assert points(ROWS, "ours") == [(7.0, 2.0, 1), (100.0, 6.0, 64)]
    assert points([row(0, "ours", failed="it ended")], "ours") == []


@pytest.mark.parametrize(
    ("bounds", "is_met"),
    [({"at_least": 6}, True), ({"at_least": 6.1}, False), ({"at_most": 6}, True), ({"at_most": 5.9}, False)],
)
def test_a_goal_is_judged_by_the_median_of_its_ratios(bounds: dict[str, float], *, is_met: bool) -> None:
    goal = Goal("faster", ("ours", 64), ("theirs", 64), **bounds)  # type: ignore[arg-type]
    verdict = judge(ROWS, {}, [goal])[0]
    assert (verdict.is_met, verdict.measured) == (is_met, "6 (2 .. 10)")


def test_a_goal_tells_the_ratio_of_processor_times_too() -> None:
    rows = [
        row(0, "ours", orders_per_s=6.0, cpu_ms_per_order=2.0),
        row(0, "theirs", orders_per_s=1.0, cpu_ms_per_order=8.0),
    ]
    assert judge(rows, {}, [Goal("faster", ("ours", 64), ("theirs", 64), at_least=1)])[0].by_cpu == "4"


def test_a_goal_that_was_not_measured_says_why() -> None:
    goal = Goal("faster", ("ours", 64), ("theirs", 64), at_least=1)
    failed = judge([row(0, "ours", orders_per_s=1.0), row(0, "theirs", failed="it cannot be had")], {}, [goal])[0]
    assert (failed.is_met, failed.why) == (None, "it cannot be had")
    assert judge([], {}, [goal])[0].why == "not in this run"


def test_goals_of_time_are_judged_by_their_bound() -> None:
    times = {"import_minuet_ms": Spread(149.0, 100.0, 900.0, 3), "minuet_help_ms": Spread(300.0, 300.0, 300.0, 1)}
    verdicts = {one.goal: one for one in judge([], times, [])}
    assert verdicts["import minuet"].is_met
    assert verdicts["minuet --help"].is_met is False
    assert verdicts["a million finished sagas, choreography: slower by"].is_met is None


def test_every_goal_has_one_bound() -> None:
    assert all((goal.at_least is None) != (goal.at_most is None) for goal in goals.GOALS)


def test_tables_show_everybody_and_leave_out_nobody() -> None:
    measured = [
        row(0, "orchestration", orders_per_s=100.0, p50_ms=6.0),
        row(1, "orchestration", orders_per_s=300.0, p50_ms=2.0),
        row(0, "restate", failed="there is no npm"),
    ]
    bare = [{"commits_per_s": 4800, "rows_per_s": 120_000}]
    written = report.markdown(report.tables(measured, CONTENDERS, judge(measured, {}), bare))
    assert "| orchestration | 200 (100 .. 300) | 4 |" in written
    assert "| restate | not measured |" in written
    assert "| restate | there is no npm |" in written
    assert "| orchestration, SQLite / Restate | at least 10 | there is no npm |  | ? |" in written
    assert "| 1 | 4,800 | 120,000 |" in written
    assert "dbos-sqlite |" not in written


def test_a_terminal_gets_the_same_tables() -> None:
    console = Console(width=200)
    with console.capture() as captured:
        report.show(console, [report.Table("title", ["", "orders/s"], [["ours [x]", "7"]])])
    assert "ours [x]" in captured.get()
