"""In rounds, no message overtakes another of its key, and one that fails holds back those behind it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minuet.adapters.broker.port import Disconnected, Sending
from minuet.adapters.broker.rounds import HeldBack, send_in_rounds


def sendings(*keys: str) -> list[Sending]:
    return [Sending("topic", key, {}, str(n).encode(), must_arrive=False) for n, key in enumerate(keys)]


class Wire:
    def __init__(self, fails: Callable[[Sending], bool] = lambda sending: False) -> None:
        self.rounds: list[list[str]] = []
        self.fails = fails

    async def send(self, messages: Sequence[Sending]) -> Sequence[Exception | None]:
        self.rounds.append([message.body.decode() for message in messages])
        return [ValueError("no") if self.fails(message) else None for message in messages]


async def test_the_first_of_each_key_goes_at_once_then_the_second() -> None:
    wire = Wire()
    assert await send_in_rounds(sendings("a", "", "a", "b", "", "a", "b"), wire.send) == [None] * 7
    assert [sorted(one) for one in wire.rounds] == [["0", "1", "3", "4"], ["2", "6"], ["5"]]


async def test_nothing_is_nothing() -> None:
    wire = Wire()
    assert await send_in_rounds([], wire.send) == []
    assert wire.rounds == []


async def test_what_fails_holds_back_its_key_only() -> None:
    wire = Wire(lambda sending: sending.body == b"2")
    outcomes = await send_in_rounds(sendings("a", "b", "a", "b", "a", "a"), wire.send)
    assert [type(outcome) for outcome in outcomes] == [
        *(type(None), type(None), ValueError, type(None)),
        *(HeldBack, HeldBack),
    ]
    assert "key 'a'" in str(outcomes[4])
    assert wire.rounds == [["0", "1"], ["2", "3"]]


async def test_without_a_key_nothing_is_held_back() -> None:
    wire = Wire(lambda sending: sending.body == b"0")
    outcomes = await send_in_rounds(sendings("", "", ""), wire.send)
    assert [outcome is None for outcome in outcomes] == [False, True, True]


async def test_a_lost_connection_is_the_outcome_of_all_that_was_not_confirmed() -> None:
    lost = Disconnected("gone")

    async def send(messages: Sequence[Sending]) -> Sequence[Exception | None]:
        if messages[0].body != b"0":
            raise lost
        return [None] * len(messages)

    assert await send_in_rounds(sendings("a", "a", "a", "b"), send) == [None, lost, lost, None]


async def test_an_adapter_that_forgets_an_outcome_is_found_out() -> None:
    async def send(messages: Sequence[Sending]) -> Sequence[Exception | None]:
        return []

    with pytest.raises(ValueError, match="zip"):
        await send_in_rounds(sendings("a"), send)


@given(keys=st.lists(st.sampled_from(["", "a", "b", "c"]), max_size=12), failing=st.sets(st.integers(0, 11)))
async def test_each_is_sent_once_in_order_unless_one_before_it_failed(keys: list[str], failing: set[int]) -> None:
    wire = Wire(lambda sending: int(sending.body) in failing)
    outcomes = await send_in_rounds(sendings(*keys), wire.send)
    sent = [int(one) for one_round in wire.rounds for one in one_round]
    assert len(sent) == len({*sent})
    for key in {*keys} - {""}:
        of_key = [n for n, one in enumerate(keys) if one == key]
        until = next((place for place, n in enumerate(of_key) if n in failing), len(of_key))
        assert [n for n in sent if keys[n] == key] == of_key[: until + 1]
    for number, outcome in enumerate(outcomes):
        assert (outcome is None) == (number in sent and number not in failing)
    for one_round in wire.rounds:
        told = [keys[int(n)] for n in one_round if keys[int(n)]]
        assert len(told) == len({*told})
