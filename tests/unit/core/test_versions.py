"""Definitions on record, and what is said of them when the app has changed."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from typing import Any

import pytest

from minuet import App, Command, Event, Refusal, RetryPolicy, Saga, parallel, step
from minuet.core.errors import DefinitionError
from minuet.core.formula import Literal, Outcome
from minuet.core.messages import StepRefused
from minuet.core.saga import Part
from minuet.core.versions import MENTIONS_MAX, Verdict, has_ended, record_of, verdicts


class Placed(Event, channel="orders"):
    order_id: str


class Imported(Event, channel="orders"):
    order_id: str
    sheet: str


class Held(Event, channel="stock"):
    order_id: str


class SoldOut(Refusal, channel="stock"):
    order_id: str


class Freed(Event, channel="stock"):
    order_id: str


class Charged(Event, channel="bank"):
    order_id: str


class Declined(Refusal, channel="bank"):
    order_id: str


class Refunded(Event, channel="bank"):
    order_id: str


class Sent(Event, channel="post"):
    order_id: str


class Closed(Event, channel="orders"):
    order_id: str


class Hold(Command, service="stock", answers=(Held, SoldOut)):
    order_id: str


class Free(Command, service="stock", answers=(Freed,)):
    order_id: str


class Charge(Command, service="bank", answers=(Charged, Declined)):
    order_id: str


class Refund(Command, service="bank", answers=(Refunded,)):
    order_id: str


class Send(Command, service="post", answers=(Sent,)):
    order_id: str


class Wrap(Command, service="post", answers=(Sent,)):
    order_id: str


class Close(Command, service="orders", answers=(Closed,)):
    order_id: str


def hold(placed: Placed) -> Hold:
    return Hold(order_id=placed.order_id)


def send(held: Held) -> Send:
    return Send(order_id=held.order_id)


HELD, CHARGED = step(Hold, undo=Free), step(Charge, undo=Refund)


def saga(*steps: Part, **changes: Any) -> Saga:
    return Saga("Orders", **{"begins_with": Placed, "key": "order_id", "steps": list(steps), **changes})


BEFORE = saga(HELD, CHARGED, Send, completed=Close)


def judged(old: Saga, *sagas: Saga) -> Verdict:
    """What is said of the old definition when the app has these."""
    (verdict,) = verdicts(on_record(old), sagas, App("shop", services=[], sagas=sagas).messages())
    return verdict


def on_record(*sagas: Saga) -> Any:
    return json.loads(json.dumps(record_of("shop", sagas)))


def test_the_record_is_stable_and_says_what_decides() -> None:
    record = on_record(BEFORE)
    assert record == on_record(saga(HELD, CHARGED, Send, completed=Close))
    (definition,) = record["definitions"]
    assert (definition["saga"], definition["fingerprint"], definition["key"]) == (
        "Orders",
        BEFORE.fingerprint,
        "order_id",
    )
    rules = {rule["id"]: rule for rule in definition["rules"]}
    assert list(rules) == ["hold", "hold/undo", "charge", "charge/undo", "send", "completed"]
    assert rules["charge"]["when"] == "hold:succeeded"
    assert rules["hold/undo"]["when"] == {"all": ["hold:succeeded", {"any": ["charge:refused", "charge:undone"]}]}
    assert rules["hold/undo"]["needs"] == ["charge:refused", "charge:undone", "hold:succeeded"]
    assert rules["charge"]["content"]["fields"] == {"order_id": "hold:succeeded"}
    commands = ["Charge", "Close", "Free", "Hold", "Refund", "Send"]
    events = ["Charged", "Closed", "Declined", "Freed", "Held", "Placed", "Refunded", "Sent", "SoldOut"]
    assert definition["messages"] == sorted([*commands, *events])
    assert set(record["messages"]) == set(definition["messages"])
    assert StepRefused.__name__ not in record["messages"]


def test_the_same_definition_goes_on_and_so_does_one_that_is_kept() -> None:
    assert judged(BEFORE, BEFORE).can_continue
    newer = saga(HELD, Send)
    kept = judged(BEFORE, newer, BEFORE)
    assert kept.can_continue
    assert (kept.differences, kept.broken, kept.remedy) == ((), (), "")
    told = on_record(newer, BEFORE)["definitions"]
    assert [(one["fingerprint"], one["is_current"]) for one in told] == [
        (newer.fingerprint, True),
        (BEFORE.fingerprint, False),
    ]


def test_what_is_not_kept_cannot_go_on_and_the_remedy_says_what_to_do() -> None:
    verdict = judged(BEFORE, saga(HELD, CHARGED, completed=Close))
    assert not verdict.can_continue
    assert not verdict.is_kept
    assert BEFORE.fingerprint in verdict.remedy
    assert "App(sagas=[new, old])" in verdict.remedy
    assert "step send was removed" in verdict.differences


def test_a_saga_that_is_gone() -> None:
    other = Saga("Others", begins_with=Placed, key="order_id", steps=[HELD])
    verdict = judged(BEFORE, other)
    assert verdict.differences == ("the app has no saga Orders any more",)
    assert "App(sagas=[old])" in verdict.remedy


PATIENT = RetryPolicy(attempts_max=3)
CHANGES: dict[str, tuple[Saga, list[str]]] = {
    "a step is new": (
        saga(HELD, CHARGED, Wrap, Send, completed=Close),
        ["step wrap is new", "step send starts under another condition: once charge succeeded", "once wrap succeeded"],
    ),
    "a step was removed": (saga(HELD, Send, completed=Close), ["step charge was removed"]),
    "a step was renamed": (
        saga(HELD, step(Charge, undo=Refund, name="take_money"), Send, completed=Close),
        ["step charge is named take_money now"],
    ),
    "a step moved": (
        saga(CHARGED, HELD, Send, completed=Close),
        ["moved: once", "now once"],
    ),
    "steps became parallel": (
        saga(parallel(HELD, CHARGED), Send, completed=Close),
        ["step charge starts under another condition", "step send starts under another condition"],
    ),
    "another command": (
        saga(HELD, CHARGED, step(Wrap, name="send"), completed=Close),
        ["step send sent Send, and sends Wrap now"],
    ),
    "no undo": (saga(step(Send), completed=Close), ["the undo of step hold was removed", "step hold was removed"]),
    "a deadline": (
        saga(HELD, step(Charge, undo=Refund, deadline=timedelta(minutes=2)), Send, completed=Close),
        ["step charge: its deadline was none, and is 120 s now"],
    ),
    "retries": (
        saga(HELD, step(Charge, undo=Refund, retry=PATIENT), Send, completed=Close),
        ["step charge: its retries were the handler's, and are 3 times, from 0.05 s to 30 s now"],
    ),
    "filled by a function": (
        saga(step(hold, undo=Free), CHARGED, Send, completed=Close),
        ["step hold: Hold is filled"],
    ),
    "another event to begin with": (
        saga(HELD, CHARGED, Send, completed=Close, begins_with=Imported, key="sheet"),
        ["it began with Placed, and begins with Imported now", "its key was order_id, and is sheet now"],
    ),
    "no end": (saga(HELD, CHARGED, Send), ["the end when it is completed was removed"]),
    "a new end": (
        saga(HELD, CHARGED, Send, completed=Close, compensated=Close),
        ["the end when it is compensated is new"],
    ),
}


@pytest.mark.parametrize("what", CHANGES)
def test_the_differences_in_words(what: str) -> None:
    after, wanted = CHANGES[what]
    differences = judged(BEFORE, after).differences
    for words in wanted:
        assert any(words in one for one in differences), differences


def test_a_renamed_step_is_no_other_difference_for_those_that_follow_it() -> None:
    after, _ = CHANGES["a step was renamed"]
    assert judged(BEFORE, after).differences == ("step charge is named take_money now",)


def test_as_few_steps_as_possible_have_moved() -> None:
    before = saga(HELD, Send, Wrap, Close)
    after = saga(HELD, Close, Send, Wrap)
    moved = [one for one in judged(before, after).differences if " moved" in one]
    assert len(moved) == 1
    assert moved[0].startswith("step close moved: once")


def test_messages_count_also_where_the_definition_is_kept() -> None:
    record = on_record(BEFORE)
    record["messages"]["Charge"]["fields"]["coupon"] = {"required": False, "schema": {"type": "string"}}
    record["messages"]["Held"]["version"] = 2
    (verdict,) = verdicts(record, [BEFORE], App("shop", services=[], sagas=[BEFORE]).messages())
    assert verdict.is_kept
    assert not verdict.can_continue
    assert [one.partition(";")[0] for one in verdict.broken] == [
        "Charge lost its field coupon",
        "Held was version 2 already and is 1: what was written since is too new",
    ]
    assert "upcasts" in verdict.remedy


def test_a_saga_of_many_parallel_steps_is_recorded_too() -> None:
    steps = [step(Hold, undo=Free, name=f"s{number}") for number in range(40)]
    many = saga(parallel(*steps), compensated=Close)
    record = on_record(many)
    texts = [rule["when"] for rule in record["definitions"][0]["rules"]]
    digested = [one for one in texts if isinstance(one, dict) and "digest" in one]
    assert digested
    assert len(json.dumps(record)) < 40 * 40 * MENTIONS_MAX * 10
    assert judged(many, many).can_continue
    different = judged(many, saga(parallel(*steps[1:]), compensated=Close)).differences
    assert [one for one in different if re.search(r"once a condition on \d+ messages; now once a condition on", one)]


def test_the_record_knows_when_a_saga_is_over() -> None:
    with_end, without = (on_record(one)["definitions"][0] for one in (BEFORE, saga(HELD, CHARGED)))
    begun, held, charged, sent, completed = (
        Literal(name, Outcome.SUCCEEDED) for name in ("begin", "hold", "charge", "send", "completed")
    )
    refused, undone = Literal("charge", Outcome.REFUSED), Literal("hold", Outcome.UNDONE)
    assert not has_ended(without, {begun, held})
    assert has_ended(without, {begun, held, charged})
    assert not has_ended(without, {begun, held, refused})
    assert has_ended(without, {begun, held, refused, undone})
    assert not has_ended(with_end, {begun, held, charged, sent})
    assert has_ended(with_end, {begun, held, charged, sent, completed})
    many = saga(parallel(*(step(Hold, undo=Free, name=f"s{number}") for number in range(40))))
    assert not has_ended(on_record(many)["definitions"][0], {Literal("s0", Outcome.REFUSED)})


@pytest.mark.parametrize(
    "record", [{}, {"format": 2}, {"format": 1}, {"format": 1, "definitions": [{}], "messages": {}}]
)
def test_what_is_no_record_says_so(record: Any) -> None:
    with pytest.raises(DefinitionError):
        verdicts(record, [BEFORE], [])
