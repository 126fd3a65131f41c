"""What an operator means: by names and texts, as they are said on the command line and over HTTP."""

from __future__ import annotations

import pytest

from minuet.core.errors import Rejected
from minuet.core.operating import NAMES, Filter, Scope, Verb, seconds

THING = {
    "services": {"payment"},
    "saga": "Order",
    "reasons": ["TimeoutError: no answer"],
    "since": 1000.0,
    "now": 5000.0,
}


@pytest.mark.parametrize(
    ("said", "fits"),
    [
        ({"service": "payment"}, True),
        ({"service": "pay"}, False),
        ({"saga": "Order"}, True),
        ({"saga": "order"}, False),
        ({"reason": "NO answer"}, True),
        ({"reason": "refused"}, False),
        ({"older-than": "1h"}, True),
        ({"older-than": "4000"}, True),
        ({"older-than": "4001s"}, False),
        ({"older-than": "2h"}, False),
        ({"service": "payment", "saga": "Order", "reason": "timeout", "older-than": "10m"}, True),
        ({"service": "payment", "saga": "Other"}, False),
    ],
)
def test_all_that_is_said_has_to_be_true(said: dict[str, str], fits: bool) -> None:
    assert Filter.of(said).fits(**THING) is fits  # type: ignore[arg-type]


def test_a_clock_that_is_behind_leaves_nothing_out() -> None:
    assert Filter(saga="Order").fits(**{**THING, "now": 0.0})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({}, "say which: by service, saga, status, type, reason, older-than"),
        ({"colour": "red"}, "nothing is chosen by 'colour'"),
        ({"service": ""}, "service is empty"),
        ({"older_than_s": "5"}, "nothing is chosen by 'older_than_s'"),
        ({"older-than": "-5"}, "no length of time"),
        ({"older-than": "1 week"}, "no length of time"),
        ({"older-than": "9" * 400}, "no length of time"),
    ],
)
def test_what_means_nothing_is_told(said: dict[str, str], why: str) -> None:
    with pytest.raises(Rejected, match=why):
        Filter.of(said)


def test_lengths_of_time() -> None:
    assert [seconds(text) for text in ("90", "1.5s", "15m", "2h", "3d")] == [90.0, 1.5, 900.0, 7200.0, 259_200.0]


def test_it_tells_what_was_said() -> None:
    assert str(Filter.of({"service": "payment", "older-than": "2h"})) == "service payment, older-than 7200 s"
    assert list(NAMES) == ["service", "saga", "status", "type", "reason", "older-than"]
    scopes = (Scope(service="payment"), Scope(saga="Order"), Scope(saga="Order", saga_id="o/1"))
    assert [str(one) for one in scopes] == ["service payment", "all Order", "Order/o/1"]
    assert [one.topic for one in Verb] == [Verb.PAUSE, Verb.PAUSE, Verb.RETRY]
