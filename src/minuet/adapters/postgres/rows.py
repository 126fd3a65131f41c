"""Between rows and what the ports speak of."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from minuet.adapters.postgres.pipeline import Value, bigint, double, text
from minuet.adapters.sql.unreadable import UNREADABLE, attributes_from, unreadable_entry
from minuet.codec import attributes_to_text, envelope_from_text
from minuet.core.envelope import Envelope
from minuet.core.formula import Literal
from minuet.core.operating import Scope, Verb
from minuet.ports import Entry, EntryState, Instruction, Outgoing, ParkedMessage

Row = tuple[Any, ...]

CHANGING = (
    "digest",
    "state",
    "attempts",
    "due_at",
    "owner",
    "waits_for",
    "answer_attributes",
    "answer_body",
    "error",
    "changed_at",
)
"""What changes of an entry when something came of it; the envelope mostly does not."""
ENTRY = ", ".join(("key, handler, attributes, body", *CHANGING))

ESCAPE = "\u2400"  # SYMBOL FOR NULL


def kept(text: str) -> str:
    """As it is kept: PostgreSQL has no U+0000 in a text, but a stranger may put one into an id."""
    if "\0" in text or ESCAPE in text:
        return text.replace(ESCAPE, ESCAPE + ".").replace("\0", ESCAPE + "0")
    return text


def told(text: str) -> str:
    """The reverse of `kept`."""
    if ESCAPE in text:
        return text.replace(ESCAPE + "0", "\0").replace(ESCAPE + ".", ESCAPE)
    return text


def changing(entry: Entry) -> tuple[Value, ...]:
    """An entry's `CHANGING` columns."""
    answer = entry.answer
    return (
        text(entry.digest),
        text(entry.state.value),
        bigint(entry.attempts),
        double(entry.due_at),
        text(entry.owner),
        entry.waits_for if entry.waits_for is None else text(kept(entry.waits_for)),
        text(attributes_to_text(answer)) if answer else None,
        answer.body if answer else None,
        text(kept(entry.error)),
        double(entry.changed_at),
    )


def entry_of(row: Row) -> Entry:
    """The row's entry; a parked one if it cannot be read."""
    (key, handler, attributes, body, digest, state, attempts, due_at, owner, waits_for, answered, answer, error, at) = (
        row
    )
    try:
        envelope = envelope_from_text(attributes, body)
        return Entry(
            key=told(key),
            handler=handler,
            envelope=envelope,
            written=envelope,
            digest=digest,
            state=EntryState(state),
            attempts=attempts,
            due_at=due_at,
            owner=owner,
            waits_for=waits_for if waits_for is None else told(waits_for),
            answer=envelope_from_text(answered, answer) if answered is not None else None,
            error=told(error),
            changed_at=at,
        )
    except UNREADABLE as problem:
        return unreadable_entry(told(key), handler, body, problem, at)


def outgoing_of(row: Row) -> Outgoing:
    position, channel, attributes, body = row
    return Outgoing(position, told(channel), envelope_from_text(attributes, body))


def parked_of(row: Row) -> ParkedMessage:
    message_id, channel, attributes, body, reason, parked_at = row
    return ParkedMessage(
        id=told(message_id),
        channel=told(channel),
        attributes=attributes_from(attributes),
        body=body,
        reason=told(reason),
        parked_at=parked_at,
    )


def instruction_row(instruction: Instruction) -> Row:
    scope, verb = instruction.scope, instruction.verb
    what = (verb.topic.value, kept(scope.saga), kept(scope.saga_id), kept(scope.service))
    return (*what, verb.value, instruction.at, kept(instruction.who), kept(instruction.why))


def instruction_of(row: Row) -> Instruction:
    saga, saga_id, service, verb, at, who, why = row
    scope = Scope(saga=told(saga), saga_id=told(saga_id), service=told(service))
    return Instruction(scope=scope, verb=Verb(verb), at=at, who=told(who), why=told(why))


literal_of = functools.lru_cache(maxsize=10_000)(Literal.parse)


KnownRow = tuple[str, str, bytes]


class KnownOfSaga(Mapping[Literal, Envelope]):
    """What is known of a saga.

    Mostly the message that was just learnt is all that anybody looks at, so the rest is read when somebody asks for it
    (within the same transaction), and an envelope is made when it is looked at.

    Args:
        load: reads the rows.
        learnt: what is known for sure without reading.
    """

    def __init__(self, load: Callable[[], Iterable[KnownRow]], learnt: Mapping[Literal, Envelope]) -> None:
        self._load = load
        self._learnt = learnt
        self._rows: dict[Literal, tuple[str, bytes]] | None = None

    def _all(self) -> dict[Literal, tuple[str, bytes]]:
        if self._rows is None:
            self._rows = {literal_of(literal): (attributes, body) for literal, attributes, body in self._load()}
        return self._rows

    def __getitem__(self, literal: Literal) -> Envelope:
        return self._learnt[literal] if literal in self._learnt else envelope_from_text(*self._all()[literal])

    def __contains__(self, literal: object) -> bool:
        return literal in self._learnt or literal in self._all()

    def __iter__(self) -> Iterator[Literal]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())

    def __repr__(self) -> str:
        return f"{type(self).__name__}({dict(self)!r})"
