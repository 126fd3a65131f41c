"""The embedded broker's tables, verb by verb: one row for each message and group that wants it."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from minuet.adapters.sqlite.transaction import Rider
from minuet.codec import Attributes
from minuet.core.projection import Coordination
from minuet.ports import Delivery, Done, Outgoing, Settlement, Subscription

VERSION = "SELECT version FROM minuet_groups_version"
GROUPS = "SELECT subscription FROM minuet_groups ORDER BY name"
DECLARE = """INSERT INTO minuet_groups VALUES (?1, ?2)
    ON CONFLICT (name) DO UPDATE SET subscription = excluded.subscription WHERE subscription <> excluded.subscription"""
DECLARE_NEW = "INSERT INTO minuet_groups VALUES (?1, ?2) ON CONFLICT (name) DO NOTHING"
CHANGED = "UPDATE minuet_groups_version SET version = version + 1"

KEEP = "INSERT INTO minuet_queue (name, channel, key, attributes, body, owner, deliveries) VALUES (?, ?, ?, ?, ?, ?, ?)"
LAST = "SELECT last_insert_rowid()"
# Written as the conditions of the index, so that it is used.
IS_HELD = """SELECT 1 FROM minuet_queue
    WHERE (owner IS NOT NULL OR due_at > 0) AND name = ? AND key = ? LIMIT 1"""
# Nothing may be given out behind a message of its key that is in someone's hands or delayed. What comes earlier and is
# free and due is in this batch itself, in its order. The first OR is the condition of an index, which is used for it.
# The plus hides the time from the planner: it would otherwise plan anew for each time.
CLAIM = """UPDATE minuet_queue SET owner = ?1, deliveries = deliveries + 1 WHERE position IN (
        SELECT position FROM minuet_queue AS free
        WHERE name = ?2 AND owner IS NULL AND due_at <= +?3 AND (key = '' OR NOT EXISTS (
            SELECT 1 FROM minuet_queue AS earlier
            WHERE (owner IS NOT NULL OR due_at > 0) AND (owner IS NOT NULL OR due_at > +?3)
                AND name = ?2 AND key = free.key AND position < free.position))
        ORDER BY position LIMIT ?4)
    RETURNING position, channel, attributes, body, deliveries"""
NEXT_DUE = "SELECT min(due_at) FROM minuet_queue WHERE name = ? AND due_at > 0 AND due_at > ? AND owner IS NULL"
DONE = "DELETE FROM minuet_queue WHERE position = ? AND owner = ?"
AGAIN = "UPDATE minuet_queue SET owner = NULL, due_at = ? WHERE position = ? AND owner = ?"
END_DELAYS = "UPDATE minuet_queue SET due_at = 0 WHERE due_at > 0 AND due_at > ?"
OWNERS = "SELECT min(owner) FROM minuet_queue WHERE owner IS NOT NULL AND owner > ?"
ANY_FREE = "SELECT 1 FROM minuet_queue WHERE name = ? AND owner IS NULL LIMIT 1"
FREE = "UPDATE minuet_queue SET owner = NULL WHERE owner IS NOT NULL AND owner = ?"


def subscription_to_text(subscription: Subscription) -> str:
    wanted = {channel: dict(types) for channel, types in subscription.wanted.items()}
    return json.dumps([subscription.group, wanted, sorted(subscription.understood)], sort_keys=True)


def subscription_of(text: str) -> Subscription:
    group, wanted, understood = json.loads(text)
    return Subscription(
        group=group,
        wanted={
            channel: {name: Coordination(how) if how else None for name, how in types.items()}
            for channel, types in wanted.items()
        },
        understood=frozenset(understood),
    )


class Token(NamedTuple):
    position: int
    group: str


class Kept(NamedTuple):
    """A message on its way into the queue of a group."""

    group: str
    message: Outgoing
    attributes: str
    is_handed_over: bool


class Queues(Rider):
    """Used within the database's transactions only.

    **Handing over.** Who publishes is often also who hears. So a message may be kept as one that this instance has in
    hand already, and goes to the receiver when the transaction is durable: that saves the claim, a transaction of its
    own, and the reading. It is done only where a claim would give it out now: nothing of its key is held, and nothing
    is waiting.

    Args:
        handed_over: called with what was handed over, once that is durable.
    """

    def __init__(
        self,
        cursor: sqlite3.Cursor,
        instance: str,
        gone: Callable[[str], bool],
        handed_over: Callable[[Sequence[tuple[str, Delivery]]], None],
    ) -> None:
        self._cursor = cursor
        self._execute = cursor.execute
        self._instance = instance
        self._gone = gone
        self._groups: Sequence[Subscription] = ()
        self._groups_version = 0
        self._hand_over = handed_over
        self._handed: list[tuple[str, Delivery]] = []
        self._marks: list[int] = []

    # -- as a rider of the database's transactions ---------------------------------------------------------------------

    def begin(self) -> None:
        self._marks.append(len(self._handed))

    def end(self) -> None:
        self._marks.pop()

    def undo(self) -> None:
        del self._handed[self._marks.pop() :]
        self._groups_version = 0

    def handing_over(self, group: str) -> int:
        """How many messages this transaction has handed over to the group so far."""
        return sum(1 for name, _ in self._handed if name == group)

    def after_commit(self) -> Callable[[], None] | None:
        if not self._handed:
            return None
        handed, self._handed = self._handed, []
        return lambda: self._hand_over(handed)

    def rolled_back(self) -> None:
        self._marks.clear()
        self._handed.clear()
        self._groups_version = 0  # it may be of groups that were rolled back, and be given to others next

    # -- verbs ---------------------------------------------------------------------------------------------------------

    def declare(self, subscriptions: Sequence[Subscription], *, only_new: bool) -> None:
        changed = 0
        for subscription in subscriptions:
            changed += self._execute(
                DECLARE_NEW if only_new else DECLARE, (subscription.group, subscription_to_text(subscription))
            ).rowcount
        if changed:
            self._execute(CHANGED)

    def groups(self) -> Sequence[Subscription]:
        """As they are registered now, by whichever process."""
        ((version,),) = self._execute(VERSION).fetchall()
        if version != self._groups_version:
            self._groups = [subscription_of(text) for (text,) in self._execute(GROUPS).fetchall()]
            self._groups_version = version
        return self._groups

    def keep(self, messages: Sequence[tuple[Outgoing, str]], room: Mapping[str, int]) -> frozenset[str]:
        """Queue the messages, each given with its attributes as text; return the groups that have news.

        Args:
            room: the groups that hear here, and how many messages may be handed over to each.
        """
        groups = self.groups()
        room = {group: most for group, most in room.items() if most > 0 and not self._has_free(group)}
        kept: list[Kept] = []
        keys: set[tuple[str, str]] = set()
        for message, attributes in messages:
            for group in groups:
                if group.wants(message.channel, message.envelope):
                    key = (group.group, message.envelope.key)
                    over = room.get(group.group, 0) > 0 and (not key[1] or (key not in keys and not self._is_held(key)))
                    if over:
                        room[group.group] -= 1
                    keys.add(key)
                    kept.append(Kept(group.group, message, attributes, over))
        if kept:
            self._cursor.executemany(KEEP, map(self._row, kept))
            ((last,),) = self._execute(LAST).fetchall()
            first = last - len(kept) + 1
            placed = enumerate(kept, first)
            self._handed += [(one.group, delivery_at(position, one)) for position, one in placed if one.is_handed_over]
        return frozenset(one.group for one in kept if not one.is_handed_over)

    def _row(self, kept: Kept) -> tuple[Any, ...]:
        owned = (self._instance, 1) if kept.is_handed_over else (None, 0)
        envelope = kept.message.envelope
        return (kept.group, kept.message.channel, envelope.key, kept.attributes, envelope.body, *owned)

    def _is_held(self, key: tuple[str, str]) -> bool:
        return bool(self._execute(IS_HELD, key).fetchall())

    def _has_free(self, group: str) -> bool:
        return bool(self._execute(ANY_FREE, (group,)).fetchall())

    def claim(self, group: str, limit: int, now: float) -> tuple[Sequence[Delivery], float | None]:
        """Up to ``limit`` messages, or none and when to ask again, if a delayed one will become due."""
        rows = self._execute(CLAIM, (self._instance, group, now, limit)).fetchall()
        if not rows:
            ((due_at,),) = self._execute(NEXT_DUE, (group, now)).fetchall()
            return (), due_at
        return [delivery_of(row, group) for row in sorted(rows)], None

    def settle(self, settled: Sequence[tuple[Delivery, Settlement]], now: float) -> frozenset[str]:
        """Do so, and return the groups that have something which may be due now: it may have waited for these."""
        done = [(delivery.token.position, self._instance) for delivery, how in settled if isinstance(how, Done)]
        again = [
            (now + how.delay_s if how.delay_s > 0 else 0.0, delivery.token.position, self._instance)
            for delivery, how in settled
            if not isinstance(how, Done)
        ]
        if done:
            self._cursor.executemany(DONE, done)
        if again:
            self._cursor.executemany(AGAIN, again)
        groups = {delivery.token.group for delivery, _ in settled}
        return frozenset(group for group in groups if self._has_free(group))

    def end_delays(self, *, later_than: float = 0.0) -> None:
        """What was to be delivered after this time is due now."""
        self._execute(END_DELAYS, (later_than,))

    def free_mine(self) -> None:
        self._execute(FREE, (self._instance,))

    def free_the_gone(self) -> None:
        """What the gone had in hand is anybody's."""
        ((owner,),) = self._execute(OWNERS, ("",)).fetchall()
        while owner is not None:
            if self._gone(owner):
                self._execute(FREE, (owner,))
            ((owner,),) = self._execute(OWNERS, (owner,)).fetchall()


def delivery_of(row: tuple[Any, ...], group: str) -> Delivery:
    position, channel, attributes, body, deliveries = row
    return Delivery(channel, Attributes(attributes), body, deliveries, Token(position, group))


def delivery_at(position: int, kept: Kept) -> Delivery:
    envelope = kept.message.envelope
    return Delivery(
        kept.message.channel,
        Attributes(kept.attributes),
        envelope.body,
        1,
        Token(position, kept.group),
        envelope.unread(),
    )
