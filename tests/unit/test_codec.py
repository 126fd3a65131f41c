"""Bytes and messages: nothing is lost on the way there and back, and what cannot be read is said to be so."""

from __future__ import annotations

import json
import types
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minuet.codec import BODY_BYTES_MAX, STRANGER, Codec, attributes_of, envelope_from, explain, seconds, timestamp
from minuet.core.envelope import Envelope, SagaRef
from minuet.core.errors import DefinitionError, MessageError
from minuet.core.messages import Command, Event
from minuet.core.projection import Coordination


class ParcelSent(
    Event,
    channel="parcels",
    version=3,
    upcasts={
        1: lambda old: {"parcelId": old["parcel"], "grams": int(old["weight"] * 1000)},
        2: lambda old: {"parcelId": old["parcelId"], "grams": old["grams"], "tags": []},
    },
):
    parcel_id: str
    grams: int
    tags: list[str]


class ParcelLost(Event, channel="parcels"):
    parcel_id: str
    reason: str


class SendParcel(Command, service="parcels", answers=(ParcelSent,)):
    parcel_id: str
    note: str | None = None


CODEC = Codec([ParcelSent, ParcelLost, SendParcel])
TEXT = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), min_size=1, max_size=20)
TIMES = st.integers(0, 4_000_000_000_000_000).map(lambda micros: micros / 1_000_000)
REFS = st.builds(SagaRef, TEXT, TEXT, TEXT, st.sampled_from(Coordination), TEXT)
BEGINS = st.builds(SagaRef, TEXT, TEXT, TEXT, st.sampled_from(Coordination), st.just("begin"))
ENVELOPES = st.builds(
    Envelope,
    id=TEXT,
    type=TEXT,
    source=TEXT,
    time=TIMES,
    body=st.binary(max_size=50),
    key=st.just("") | TEXT,
    version=st.integers(1, 9),
    saga=st.none() | REFS,
    begins=st.lists(BEGINS, max_size=3).map(tuple),
    correlation=st.just("") | TEXT,
    causation=st.just("") | TEXT,
    traceparent=st.just("") | TEXT,
    expires=st.none() | TIMES,
    may_refuse=st.booleans(),
    saga_expires=st.none() | TIMES,
    cancelled=st.booleans(),
    hops=st.integers(0, 99),
)


def envelope(kind: str, body: Any, version: int = 1) -> Envelope:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Envelope(id="e", type=kind, source="s", time=0.0, body=content, version=version)


@given(ENVELOPES)
def test_attributes_say_everything_and_are_text(sent: Envelope) -> None:
    attributes = attributes_of(sent)
    assert all(name.isalnum() and name.islower() and isinstance(value, str) for name, value in attributes.items())
    received = envelope_from(attributes, sent.body)
    assert received.expires == pytest.approx(sent.expires, abs=2e-6)
    assert received.saga_expires == pytest.approx(sent.saga_expires, abs=2e-6)
    assert (received.may_refuse, received.cancelled) == (sent.may_refuse, sent.cancelled)
    assert received.time == pytest.approx(sent.time, abs=2e-6)
    assert attributes_of(received).keys() == attributes.keys()
    same = {name: value for name, value in attributes.items() if name not in ("time", "expirytime", "sagadeadline")}
    assert {name: attributes_of(received)[name] for name in same} == same


@given(
    st.dictionaries(
        st.sampled_from(
            [
                *sorted(attributes_of(envelope("T", {}))),
                "saga",
                "sagaid",
                "sagabegins",
                "hops",
                "expirytime",
                "dataversion",
            ]
        ),
        TEXT,
    ),
    st.binary(max_size=60),
)
def test_whatever_a_stranger_sends_is_read_or_said_to_be_unreadable(attributes: dict[str, str], body: bytes) -> None:
    with suppress(MessageError):
        CODEC.decode(CODEC.envelope_of(attributes, body, channel="parcels", now=5.0))


@given(TEXT, st.integers(), st.lists(TEXT))
def test_a_body_says_all_that_its_message_says(parcel: str, grams: int, tags: list[str]) -> None:
    sent = ParcelSent(parcel_id=parcel, grams=grams, tags=tags)
    body = CODEC.encode(sent, time=1.5)
    assert json.loads(body) == {
        "eventType": "ParcelSent",
        "parcelId": parcel,
        "grams": grams,
        "tags": tags,
        "timestamp": "1970-01-01T00:00:01.500000Z",
    }
    assert CODEC.decode(envelope("ParcelSent", body, 3)) == sent


def test_a_command_says_nothing_of_what_it_leaves_out() -> None:
    assert json.loads(CODEC.encode(SendParcel(parcel_id="p"), time=0.0)) == {"parcelId": "p"}


def test_older_versions_are_brought_up_step_by_step() -> None:
    current = ParcelSent(parcel_id="p", grams=1500, tags=[])
    assert CODEC.decode(envelope("ParcelSent", {"parcel": "p", "weight": 1.5}, 1)) == current
    assert CODEC.decode(envelope("ParcelSent", {"parcelId": "p", "grams": 1500}, 2)) == current


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (envelope("ParcelSent", {}, 4), "newer than 3"),
        (envelope("ParcelLost", {}, 2), "newer than 1"),
        (envelope("Unheard", {}), "nobody here understands 'Unheard'"),
        (envelope("ParcelLost", {"parcelId": "p"}), "reason: Field required"),
        (envelope("ParcelLost", b"[" * 100_000), "ParcelLost e"),
        (envelope("ParcelLost", b"\xff"), "ParcelLost e"),
        (envelope("SendParcel", {"parcelId": "p", "more": 1}), "more"),
    ],
)
def test_what_cannot_be_decoded_says_why(wrong: Envelope, says: str) -> None:
    with pytest.raises(MessageError, match=says):
        CODEC.decode(wrong)


def test_an_error_does_not_tell_the_values_which_may_be_secret() -> None:
    with pytest.raises(MessageError) as told:
        CODEC.decode(envelope("ParcelLost", {"parcelId": {"password": "hunter2"}, "reason": "x"}))
    assert "hunter2" not in str(told.value)
    assert explain(ValueError("plain")) == "plain"


def test_a_message_larger_than_any_transport_takes_is_refused_when_written() -> None:
    with pytest.raises(MessageError, match=str(BODY_BYTES_MAX)):
        CODEC.encode(ParcelLost(parcel_id="p", reason="x" * BODY_BYTES_MAX), time=0.0)


def test_a_stranger_who_says_nothing_is_understood_by_his_body() -> None:
    named = b'{"eventType": "ParcelLost", "parcelId": "p", "reason": "rain"}'
    read = CODEC.envelope_of({}, named, channel="parcels", now=5.0)
    assert (read.type, read.source, read.time) == ("ParcelLost", STRANGER, 5.0)
    assert read.id == CODEC.envelope_of({}, named, channel="parcels", now=9.0).id
    assert read.id != CODEC.envelope_of({}, named, channel="other", now=5.0).id
    assert (
        CODEC.envelope_of({}, b'{"parcelId": "p", "reason": "rain"}', channel="parcels", now=5.0).type == "ParcelLost"
    )


@pytest.mark.parametrize("body", [b"[]", b"7", b'{"eventType": 7}', b"{}"])
def test_a_stranger_whom_nobody_understands_is_told_so(body: bytes) -> None:
    with pytest.raises(MessageError, match="neither ce-type nor eventType"):
        CODEC.envelope_of({}, body, channel="parcels", now=5.0)


def test_two_classes_with_one_name_are_a_mistake() -> None:
    other = types.new_class("ParcelLost", (Event,), {"channel": "x"})
    with pytest.raises(DefinitionError, match="two message classes are named ParcelLost"):
        Codec([ParcelLost, other])


def test_a_time_needs_its_zone() -> None:
    assert seconds(timestamp(1234567.25)) == 1234567.25
    assert seconds("1970-01-01T01:00:00+01:00") == 0.0
    with pytest.raises(ValueError, match="no zone"):
        seconds("1970-01-01T00:00:00")


@pytest.mark.parametrize("name", ["id", "correlationid", "partitionkey"])
def test_a_name_that_others_would_inherit_is_not_endless(name: str) -> None:
    attributes = {"id": "1", "type": "OrderCreated", "source": "s", "time": "2026-01-31T12:00:00Z"} | {name: "x" * 3000}
    with pytest.raises(MessageError, match=f"{name} of a message on orders has 3000 characters"):
        CODEC.envelope_of(attributes, b"{}", channel="orders", now=0.0)


def test_hops_count_from_zero() -> None:
    attributes = {"id": "1", "type": "OrderCreated", "source": "s", "time": "2026-01-31T12:00:00Z", "hops": "-1"}
    with pytest.raises(MessageError, match="hops is -1"):
        CODEC.envelope_of(attributes, b"{}", channel="orders", now=0.0)
