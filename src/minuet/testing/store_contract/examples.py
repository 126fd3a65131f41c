"""What the suite writes, and how it looks at what is there."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from minuet.core.envelope import Envelope, SagaRef
from minuet.core.formula import Literal, Outcome
from minuet.core.operating import Scope, Verb
from minuet.core.projection import Coordination
from minuet.ports import Entry, EntryState, Instruction, Outgoing, ParkedMessage, Store, Tx

T = TypeVar("T")

OpenStore = Callable[[], Store]
Start = Callable[[], Awaitable[Store]]

RESERVED = Literal("reserve", Outcome.SUCCEEDED)
CHARGED = Literal("charge", Outcome.SUCCEEDED)
REFUSED = Literal("charge", Outcome.REFUSED)
FAR_AWAY = 4e9
"""A time after that of all envelopes, in seconds since 1970."""


STRANGE_TEXTS = [
    "a\0b",
    "\0",
    "a\u2400b",
    "a\u24000b",
    "a\\x00b",
    "'; --",
    "\u00e9\u4e2d\U0001f3bb",
    " a\n\tb ",
    "%s $1 ?",
]


class Broken(Exception):
    """Raised on purpose."""


def saga_ref(saga_id: str = "o-1", name: str = "Orders") -> SagaRef:
    return SagaRef(name, saga_id, "f1", Coordination.CHOREOGRAPHY, "reserve")


def said(scope: Scope, verb: Verb, at: float, *, who: str = "ada", why: str = "") -> Instruction:
    return Instruction(scope=scope, verb=verb, at=at, who=who, why=why)


def an_envelope(message_id: str = "m-1", *, saga: SagaRef | None = None) -> Envelope:
    return Envelope(id=message_id, type="Reserve", source="orders", time=1_700_000_000.25, body=b'{"a":1}', saga=saga)


def full_envelope() -> Envelope:
    """With everything that an envelope can hold."""
    return Envelope(
        id="m-\u00e9\u4e2d\U0001f3bb",
        type="Reserve",
        source="orders",
        time=1_700_000_000.123456,
        body='{"name":"\u00e9\u4e2d\U0001f3bb"}'.encode(),
        key="k-\u00e9'\";--",
        version=3,
        saga=saga_ref("o-\u00fc"),
        begins=(SagaRef("Other", "x", "f2", Coordination.ORCHESTRATION, "begin"),),
        correlation="corr",
        causation="cause",
        traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        expires=1_700_000_060.5,
        saga_expires=1_700_000_090.25,
        may_refuse=False,
        hops=7,
    )


def an_entry(key: str = "e-1", *, state: EntryState = EntryState.DUE, waits_for: str | None = None) -> Entry:
    return Entry(key=key, handler="reserve", envelope=an_envelope(key), state=state, waits_for=waits_for)


def adding(*keys: str) -> Callable[[Tx], list[bool]]:
    return lambda tx: [tx.inbox.add(an_entry(key)) for key in keys]


def finding(key: str) -> Callable[[Tx], Entry | None]:
    return lambda tx: tx.inbox.find(key)


async def found(store: Store, key: str) -> Entry:
    entry = await store.transact(finding(key), reads_only=True)
    assert entry is not None, f"{key} is not there"
    return entry


def sending(*ids: str) -> Callable[[Tx], None]:
    def work(tx: Tx) -> None:
        for one in ids:
            tx.outbox.add("orders", an_envelope(one))

    return work


def then_breaking(work: Callable[[Tx], object]) -> Callable[[Tx], None]:
    def broken(tx: Tx) -> None:
        work(tx)
        raise Broken

    return broken


async def pages(store: Store, verb: str, before: float, *, limit: int) -> int:
    """Go through all pages; how many there were."""
    at: int | None = 0
    for count in range(100):
        if at is None:
            return count
        at = await store.transact(lambda tx, at=at: getattr(tx.retention, verb)(before, at, limit))  # type: ignore[misc]
    raise AssertionError("it goes round in circles")


def ids_of(outgoing: Sequence[Outgoing]) -> list[str]:
    return [one.envelope.id for one in outgoing]


def a_parked_message(*, reason: str = "not JSON") -> ParkedMessage:
    attributes = {"type": "Strange", "note": "\u00e9\u4e2d"}
    return ParkedMessage(
        id="p-1", channel="orders", attributes=attributes, body=b"\xff{", reason=reason, parked_at=1_700_000_000.5
    )
