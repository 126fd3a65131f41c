"""What a member holds: in order per key, nothing lost, nothing twice, and never more than the window."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from minuet.adapters.broker.held import OVERHEAD_BYTES, Held, HeldMessage, size_of
from minuet.adapters.broker.port import Received

TOKENS = count(1)


def received(
    key: str = "", *, token: object = None, lane: str = "", body: bytes = b"", deliveries: int = 1
) -> Received:
    attributes = {"partitionkey": key} if key else {}
    return Received("topic", attributes, body, next(TOKENS) if token is None else token, deliveries, lane)


def holding(*keys: str, held: Held | None = None) -> Held:
    """With messages 0, 1, 2 ... of these keys."""
    held = Held() if held is None else held
    for token, key in enumerate(keys):
        assert held.add(received(key, token=token), "orders")
    return held


def tokens(messages: Sequence[HeldMessage]) -> list[object]:
    return [message.received.token for message in messages]


def test_what_came_goes_out() -> None:
    held = holding("a", "", "b", "")
    assert sorted(tokens(held.take(10, 0.0)), key=str) == [0, 1, 2, 3]
    assert held.take(10, 0.0) == []
    assert len(held) == 4


def test_no_more_than_asked_for() -> None:
    held = holding("a", "a", "a", "")
    assert tokens(held.take(2, 0.0)) == [0, 1]
    assert tokens(held.take(10, 0.0)) == [3]


def test_a_key_goes_out_together_and_then_waits_until_all_of_it_is_settled() -> None:
    held = holding("a", "a")
    first, second = held.take(10, 0.0)
    assert held.add(received("a", token=2), "orders")
    assert held.done(first)
    assert held.take(10, 0.0) == []
    assert held.done(second)
    assert tokens(held.take(10, 0.0)) == [2]


def test_messages_without_a_key_wait_for_nobody() -> None:
    held = holding("", "")
    held.take(1, 0.0)
    assert tokens(held.take(1, 0.0)) == [1]


def test_again_holds_up_its_key_until_it_is_due() -> None:
    held = holding("a", "a", "b")
    (first,) = held.take(1, 0.0)
    assert held.again(first, due_at=5.0)
    assert tokens(held.take(10, 4.9)) == [2]
    assert held.next_due() == 5.0
    again = held.take(10, 5.0)
    assert tokens(again) == [0, 1]
    assert [one.deliveries for one in again] == [2, 1]
    assert held.next_due() is None


def test_again_at_once() -> None:
    held = holding("a")
    (first,) = held.take(1, 0.0)
    assert held.again(first, due_at=0.0)
    assert held.take(1, 0.0) == [first]
    assert first.deliveries == 2


def test_a_batch_that_is_given_back_in_any_order_comes_in_its_own() -> None:
    held = holding("a", "a", "a", "a")
    zero, one, two, three = held.take(10, 0.0)
    held.again(two, due_at=0.0)
    held.again(three, due_at=0.0)
    held.done(one)
    assert held.take(10, 0.0) == []  # 0 is still out
    held.again(zero, due_at=0.0)
    assert tokens(held.take(10, 0.0)) == [0, 2, 3]


def test_a_later_message_that_is_delayed_does_not_hold_up_an_earlier_one() -> None:
    held = holding("a", "a")
    zero, one = held.take(10, 0.0)
    held.again(one, due_at=9.0)
    held.again(zero, due_at=0.0)
    assert tokens(held.take(10, 1.0)) == [0]
    held.done(zero)
    assert held.take(10, 8.0) == []
    assert tokens(held.take(10, 9.0)) == [1]


def test_heads_that_are_due_at_the_same_time() -> None:
    held = holding("a", "b", "a", "b")
    for message in held.take(10, 0.0):
        held.again(message, due_at=3.0)
    assert sorted(tokens(held.take(10, 3.0)), key=str) == [0, 1, 2, 3]


def test_what_is_settled_twice_counts_once() -> None:
    held = holding("a")
    (first,) = held.take(1, 0.0)
    assert held.done(first)
    assert not held.done(first)
    assert not held.again(first, due_at=0.0)
    assert (len(held), held.bytes) == (0, 0)


def test_keys_that_are_done_with_take_no_memory() -> None:
    held = holding(*map(str, range(100)))
    for message in held.take(100, 0.0):
        held.again(message, due_at=1.0)
    for message in held.take(100, 1.0):
        held.done(message)
    assert not held._lines
    assert not held._delayed
    assert not held._ready


def test_what_was_not_handed_out_cannot_be_settled() -> None:
    held = holding("a")
    (first,) = held.take(1, 0.0)
    held.again(first, due_at=0.0)
    assert not held.done(first)
    assert held.take(1, 0.0) == [first]


def test_what_the_broker_gives_twice_is_held_once() -> None:
    held = holding("a")
    assert not held.add(received("a", token=0), "orders")
    assert len(held) == 1


def test_a_lane_that_is_taken_away_is_forgotten() -> None:
    held = Held()
    for token, (key, lane) in enumerate([("a", "1"), ("b", "2"), ("a", "1"), ("", "1")]):
        held.add(received(key, token=token, lane=lane), "orders")
    (first,) = held.take(1, 0.0)
    held.drop_lane("1")
    assert not held.done(first)
    assert tokens(held.take(10, 0.0)) == [1]
    assert held.tokens() == [1]
    held.add(received("a", token=0, lane="1"), "orders")  # it is ours again
    assert tokens(held.take(10, 0.0)) == [0]


def test_what_stands_behind_a_message_of_a_lost_lane_may_go() -> None:
    held = Held()
    held.add(received("a", token=0, lane="1"), "orders")
    held.add(received("a", token=1, lane="2"), "orders")
    held.take(1, 0.0)
    held.drop_lane("1")
    assert tokens(held.take(10, 0.0)) == [1]


def test_everything_is_forgotten_with_the_connection() -> None:
    held = holding("a", "a", "b")
    out = held.take(1, 0.0)
    held.again(held.take(1, 0.0)[0], due_at=1.0)
    held.drop_all()
    assert not held.done(out[0])
    assert (len(held), held.bytes, held.next_due(), held.take(10, 9.0)) == (0, 0, None, [])
    holding("a", held=held)
    assert tokens(held.take(10, 0.0)) == [0]


def test_there_is_no_room_until_something_is_settled() -> None:
    held = holding(*"abc", held=Held(messages_max=3))
    assert held.room() == 0
    messages = held.take(10, 0.0)
    assert held.room() == 0
    held.done(messages[0])
    assert held.room() == 1


def test_large_messages_leave_less_room() -> None:
    held = Held(messages_max=100, bytes_max=20_000)
    assert held.room() == 1  # nothing is known yet about their size
    small = received(body=b"x" * (2000 - OVERHEAD_BYTES))
    held.expect([small])
    assert held.room() == 10
    held.add(small, "orders")
    assert held.room() == 9
    huge = received(body=b"x" * 20_000)
    held.add(huge, "orders")
    assert held.room() == 0
    for message in held.take(10, 0.0):
        held.done(message)
    assert held.room() == 10


def test_one_message_fits_however_large() -> None:
    held = Held(bytes_max=1)
    assert held.room() == 1


def test_a_fetch_of_nothing_teaches_nothing() -> None:
    held = Held()
    before = held.room()
    held.expect([])
    assert held.room() == before


@given(st.lists(st.sampled_from(["", "a", "b"])), st.integers(1, 5))
def test_without_settlements_everything_goes_out_at_most_once_and_in_order(keys: list[str], limit: int) -> None:
    held = holding(*keys)
    taken: list[HeldMessage] = []
    while some := held.take(limit, 0.0):
        assert len(some) <= limit
        taken += some
    assert len({*tokens(taken)}) == len(taken)
    for key in "ab":
        of_key = [token for token in tokens(taken) if keys[int(str(token))] == key]
        assert of_key == [token for token, one in enumerate(keys) if one == key][: len(of_key)]


class Holding(RuleBasedStateMachine):
    """Anything may happen in any order; beside it runs a model that is a plain list for each key."""

    @initialize(window=st.integers(1, 8))
    def begin(self, window: int) -> None:
        self.held = Held(messages_max=window)
        self.now = 1.0
        self.key_of: dict[object, str] = {}
        self.lane_of: dict[object, str] = {}
        self.undone: list[object] = []  # in the order in which they came
        self.out: dict[object, HeldMessage] = {}
        self.due: dict[object, float] = {}
        self.deliveries: dict[object, int] = {}
        self.stale: list[HeldMessage] = []

    @rule(keys=st.lists(st.sampled_from(["", "a", "b", "c"]), min_size=1, max_size=4))
    def fetch(self, keys: list[str]) -> None:
        for key in keys[: self.held.room()]:
            one = received(key, lane=f"lane-{key}")
            assert self.held.add(one, "orders")
            self.key_of[one.token], self.lane_of[one.token] = key, f"lane-{key}"
            self.undone.append(one.token)
            self.deliveries[one.token] = 0

    @rule(limit=st.integers(1, 5))
    def take(self, limit: int) -> None:
        blocked = {self.key_of[token] for token in self.out} - {""}
        free: dict[str, list[object]] = {}
        for token in self.undone:
            key = self.key_of[token]
            if token in self.out or key in blocked:
                continue
            if self.due.get(token, 0.0) > self.now:
                blocked |= {key} - {""}
                continue
            free.setdefault(key, []).append(token)
        taken = self.held.take(limit, self.now)
        assert len(taken) == min(limit, sum(map(len, free.values()))), "as much as may go, goes"
        for key in {message.received.attributes.get("partitionkey", "") for message in taken} - {""}:
            of_key = [token for token in tokens(taken) if self.key_of[token] == key]
            assert of_key == free[key][: len(of_key)]
        for message in taken:
            token = message.received.token
            assert token in free[self.key_of[token]]
            self.out[token] = message
            self.deliveries[token] += 1
            assert message.deliveries == self.deliveries[token]

    @precondition(lambda self: self.out)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        token = data.draw(st.sampled_from(sorted(self.out, key=str)))
        message = self.out.pop(token)
        assert self.held.done(message)
        self.forget(token)
        self.stale.append(message)

    @precondition(lambda self: self.out)
    @rule(data=st.data(), delay_s=st.sampled_from([0.0, 1.0, 2.0]))
    def try_again(self, data: st.DataObject, delay_s: float) -> None:
        token = data.draw(st.sampled_from(sorted(self.out, key=str)))
        due_at = self.now + delay_s if delay_s else 0.0
        assert self.held.again(self.out.pop(token), due_at)
        self.due[token] = due_at

    @rule(seconds=st.sampled_from([0.5, 1.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(key=st.sampled_from(["a", "b", ""]))
    def lose_a_lane(self, key: str) -> None:
        self.held.drop_lane(f"lane-{key}")
        for token in [token for token in self.undone if self.lane_of[token] == f"lane-{key}"]:
            self.forget(token)

    @rule()
    def lose_the_connection(self) -> None:
        self.held.drop_all()
        for token in list(self.undone):
            self.forget(token)

    @precondition(lambda self: self.stale)
    @rule(data=st.data())
    def settle_what_is_no_longer_ours(self, data: st.DataObject) -> None:
        message = data.draw(st.sampled_from(self.stale))
        assert not self.held.done(message)
        assert not self.held.again(message, 0.0)

    def forget(self, token: object) -> None:
        self.undone.remove(token)
        self.due.pop(token, None)
        if token in self.out:
            self.stale.append(self.out.pop(token))

    @invariant()
    def holds_what_is_not_done(self) -> None:
        if not hasattr(self, "held"):
            return
        assert list(self.held.tokens()) == self.undone
        assert len(self.held) <= self.held.messages_max
        assert (self.held.bytes == 0) == (not self.undone)

    def teardown(self) -> None:
        """In the end everything gets out."""
        if not hasattr(self, "held"):
            return
        for message in self.out.values():
            self.held.done(message)
        left = [token for token in self.undone if token not in self.out]
        heard: list[object] = []
        while taken := self.held.take(3, self.now + 100.0):
            heard += tokens(taken)
            for message in taken:
                assert self.held.done(message)
        assert sorted(heard, key=str) == sorted(left, key=str)
        assert (len(self.held), self.held.bytes) == (0, 0)


TestHolding = Holding.TestCase
TestHolding.settings = settings(deadline=None, max_examples=150, stateful_step_count=40)


@pytest.mark.parametrize("attributes", [{}, {"id": "x" * 1000}])
def test_attributes_count_too(attributes: dict[str, str]) -> None:
    one = Received("topic", attributes, b"12345", 1)
    assert size_of(one) == 5 + OVERHEAD_BYTES + sum(map(len, attributes.values()))
