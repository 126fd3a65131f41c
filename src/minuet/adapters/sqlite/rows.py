"""Between rows and what the ports speak of."""

from __future__ import annotations

import functools
from typing import Any

from minuet.adapters.sql.unreadable import UNREADABLE, attributes_from, unreadable_entry
from minuet.codec import attributes_to_text, envelope_from_text
from minuet.core.formula import Literal
from minuet.core.operating import Scope, Verb
from minuet.ports import Act, Entry, EntryState, Instruction, Outgoing, ParkedMessage

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
ENTRY = ", ".join(("key, handler, attributes, body", *CHANGING))


def changing(entry: Entry) -> Row:
    """An entry's `CHANGING` columns."""
    answer = entry.answer
    return (
        entry.digest,
        entry.state.value,
        entry.attempts,
        entry.due_at,
        entry.owner,
        entry.waits_for,
        attributes_to_text(answer) if answer else None,
        answer.body if answer else None,
        entry.error,
        entry.changed_at,
    )


def entry_of(row: Row) -> Entry:
    """The row's entry; a parked one if it cannot be read."""
    (key, handler, attributes, body, digest, state, attempts, due_at, owner, waits_for, answered, answer, error, at) = (
        row
    )
    try:
        envelope = envelope_from_text(attributes, body)
        return Entry(
            key=key,
            handler=handler,
            envelope=envelope,
            written=envelope,
            digest=digest,
            state=EntryState(state),
            attempts=attempts,
            due_at=due_at,
            owner=owner,
            waits_for=waits_for,
            answer=envelope_from_text(answered, answer) if answered is not None else None,
            error=error,
            changed_at=at,
        )
    except UNREADABLE as problem:
        return unreadable_entry(key, handler, body, problem, at)


def outgoing_of(row: Row) -> Outgoing:
    position, channel, attributes, body = row
    return Outgoing(position, channel, envelope_from_text(attributes, body))


def parked_of(row: Row) -> ParkedMessage:
    message_id, channel, attributes, body, reason, parked_at = row
    return ParkedMessage(
        id=message_id,
        channel=channel,
        attributes=attributes_from(attributes),
        body=body,
        reason=reason,
        parked_at=parked_at,
    )


def act_of(row: Row) -> Act:
    at, who, verb, what, why = row
    return Act(at=at, who=who, verb=verb, what=what, why=why)


def instruction_row(instruction: Instruction) -> Row:
    scope, verb = instruction.scope, instruction.verb
    what = (verb.topic.value, scope.saga, scope.saga_id, scope.service)
    return (*what, verb.value, instruction.at, instruction.who, instruction.why)


def instruction_of(row: Row) -> Instruction:
    saga, saga_id, service, verb, at, who, why = row
    scope = Scope(saga=saga, saga_id=saga_id, service=service)
    return Instruction(scope=scope, verb=Verb(verb), at=at, who=who, why=why)


literal_of = functools.lru_cache(maxsize=10_000)(Literal.parse)
