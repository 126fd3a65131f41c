"""The stream and its consumers as we want them, and what is different on the server. Pure.

Retention is by limits and not by interest: with interest, the server would say that it keeps what it throws away when
no consumer is there. So a confirmed message is on disk whoever listens, a stranger may read what was published before,
and what a group did not hear in ``max_age`` is gone. A stream that has reached ``max_bytes`` refuses what is published
instead of dropping what may be unread; our outbox keeps it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from nats.js.api import (
    AckPolicy,
    ConsumerConfig,
    DeliverPolicy,
    DiscardPolicy,
    RetentionPolicy,
    StorageType,
    StreamConfig,
)

from minuet.adapters.broker.port import Queue
from minuet.adapters.nats.address import DUPLICATE_WINDOW_S, MAX_AGE_S, Address


def consumer_name(group: str) -> str:
    return f"minuet-{group.replace('.', '-')}"


def new_stream(address: Address, destinations: Sequence[str]) -> StreamConfig:
    return StreamConfig(
        name=address.stream,
        subjects=_subjects(address, (), destinations),
        storage=StorageType.FILE,
        retention=RetentionPolicy.LIMITS,
        discard=DiscardPolicy.NEW if address.max_bytes else DiscardPolicy.OLD,
        num_replicas=address.replicas or 1,
        max_age=address.max_age_s or MAX_AGE_S,
        max_bytes=address.max_bytes or -1,
        duplicate_window=min(DUPLICATE_WINDOW_S, address.max_age_s or MAX_AGE_S),
    )


def changed_stream(address: Address, found: StreamConfig, destinations: Sequence[str]) -> StreamConfig:
    """The stream with what the URL says and with all subjects. Whatever else it is made like is left alone."""
    changed = replace(found, subjects=_subjects(address, found.subjects or (), destinations))
    if address.replicas:
        changed.num_replicas = address.replicas
    if address.max_age_s:
        changed.max_age = address.max_age_s
        changed.duplicate_window = min(found.duplicate_window, address.max_age_s)
    if address.max_bytes:
        changed.max_bytes = address.max_bytes
        changed.discard = DiscardPolicy.NEW
    return changed


def stream_differs(address: Address, found: StreamConfig, destinations: Sequence[str]) -> Sequence[str]:
    """In a sentence each."""
    wanted = changed_stream(address, found, destinations)
    differs = [
        f"stream {address.stream} does not take subject {subject}"
        for subject in wanted.subjects or ()
        if subject not in (found.subjects or ())
    ]
    differs += [
        f"stream {address.stream} has {name} {getattr(found, name)}, not {getattr(wanted, name)}"
        for name in ("num_replicas", "max_age", "max_bytes", "discard")
        if getattr(found, name) != getattr(wanted, name)
    ]
    return differs


def new_consumer(address: Address, queue: Queue) -> ConsumerConfig:
    return ConsumerConfig(
        durable_name=consumer_name(queue.group),
        deliver_policy=DeliverPolicy.NEW,
        ack_policy=AckPolicy.EXPLICIT,
        ack_wait=address.hold_s,
        max_ack_pending=address.max_ack_pending,
        max_deliver=-1,
        filter_subjects=list(queue.destinations),
    )


def changed_consumer(address: Address, found: ConsumerConfig, queue: Queue) -> ConsumerConfig:
    return replace(
        found,
        ack_wait=address.hold_s,
        max_ack_pending=address.max_ack_pending,
        max_deliver=-1,
        filter_subject=None,
        filter_subjects=list(queue.destinations),
    )


def consumer_differs(address: Address, found: ConsumerConfig, queue: Queue) -> Sequence[str]:
    """In a sentence each."""
    name = consumer_name(queue.group)
    listens = {found.filter_subject} if found.filter_subject else set(found.filter_subjects or ())
    differs = []
    if listens != set(queue.destinations):
        said = ", ".join(sorted(listens)) or "everything"
        differs.append(f"consumer {name} listens to {said}, not to {', '.join(queue.destinations)}")
    wanted = changed_consumer(address, found, queue)
    differs += [
        f"consumer {name} has {what} {getattr(found, what)}, not {getattr(wanted, what)}"
        for what in ("ack_wait", "max_ack_pending", "max_deliver")
        if getattr(found, what) != getattr(wanted, what)
    ]
    return differs


def unfit_stream(found: StreamConfig) -> str | None:
    """Why a stream of this name that somebody else made cannot keep our promises, or None."""
    if found.retention != RetentionPolicy.LIMITS:
        return f"it drops messages by {found.retention}, not by limits, and confirms what nobody gets"
    if found.storage != StorageType.FILE:
        return "it is kept in memory"
    if found.no_ack:
        return "it does not acknowledge what is published (no_ack)"
    return None


def unfit_consumer(found: ConsumerConfig) -> str | None:
    """Likewise for a consumer."""
    if found.deliver_subject:
        return "it is a push consumer"
    if found.ack_policy != AckPolicy.EXPLICIT:
        return f"its acknowledgement policy is {found.ack_policy}, not explicit"
    return None


def covers(pattern: str, subject: str) -> bool:
    """Whether a subject with ``*`` and ``>`` takes in another one."""
    wanted, found = pattern.split("."), subject.split(".")
    for index, part in enumerate(wanted):
        if part == ">":
            return len(found) > index
        if index >= len(found) or (part not in {"*", found[index]}) or found[index] == ">":
            return False
    return len(wanted) == len(found)


def _subjects(address: Address, found: Sequence[str], destinations: Sequence[str]) -> list[str]:
    """Those of the stream, with all that must be there and is not taken in already."""
    subjects = list(found)
    for wanted in [f"{address.stream}.>"] * (not found) + list(destinations):
        if not any(covers(subject, wanted) for subject in subjects):
            subjects.append(wanted)
    return subjects
