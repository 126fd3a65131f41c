"""A place where commands are done: a running service, or the orchestrator.

`Participant` is what happens inside the store's transactions; this is the event loop's side of it: callers who wait,
``async`` handlers under way, timers for the next attempt, and taking over what a dead instance left behind.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, TypeVar

from minuet.app import Handler
from minuet.codec import Codec
from minuet.core.envelope import Envelope
from minuet.core.errors import MessageError, MinuetError, NotFound, NotYet, Rejected
from minuet.core.messages import Event, Query, SagaCancelled, View, name_of
from minuet.core.operating import Scope, Verb
from minuet.ports import Act, Clock, Delivery, Entry, EntryState, ReadAhead, Store, Tx
from minuet.runtime.attempts import Attempts
from minuet.runtime.gather import Gatherer
from minuet.runtime.instructions import RETRY_S
from minuet.runtime.limits import Limit, Pace
from minuet.runtime.participant import Participant
from minuet.runtime.performer import AWAITS, DEPTH_MAX, After, Lost
from minuet.runtime.reactor import NEVER
from minuet.runtime.room import Room
from minuet.runtime.timers import Timers
from minuet.runtime.waiters import Waiters, not_yet

log = logging.getLogger("minuet.place")

T = TypeVar("T")

FIRST_ATTEMPT_S = 10.0
# Another process does it, and nothing here will be told when it is done.
ELSEWHERE_S = 0.2
# Nothing happens until an operator comes.
PARKED_S = 5.0
# Nor here, but he may come soon.
PAUSED_S = 2.0
# Too much is due already.
FULL_S = 2.0
# How often it is looked at what other processes on this store have heard from operators.
LOOK_S = 0.5
UNDER_WAY_MAX = 256
TAKE_MAX = 200
# All that is due here is in memory. Beyond this, what is not taken in yet stays where it is kept: in the transport.
DUE_MAX = 10_000
DUE_BYTES_MAX = 64 * 1024 * 1024


class Place:
    """One service (or the orchestrator) at work in this process. It is the service's `Desk`.

    Attributes:
        attempts: makes them.
        touched: told of each entry that was decided, or failed.

    Args:
        queries: the handlers of the service's queries, by query class.
        limits: by the service that does the work, how much of it at a time.
    """

    def __init__(
        self,
        store: Store,
        participant: Participant,
        gatherer: Gatherer,
        codec: Codec,
        clock: Clock,
        queries: dict[type[Query], Handler],
        limits: Mapping[str, Limit] = {},
    ) -> None:
        self.store = store
        self.participant = participant
        self.name = participant.place
        self.codec = codec
        self.clock = clock
        self.queries = queries
        self.attempts = Attempts(store, participant, gatherer, codec, self._got_built)
        self.touched: Callable[[Entry], None] = lambda entry: None
        self._waiters = Waiters()
        self._timers = Timers()
        self._tasks: set[asyncio.Task[None]] = set()
        self._under_way: dict[str, int] = {}
        # Of those the ones that are built by now, under the names that they have got.
        self._renamed: dict[str, Entry] = {}
        self._under_way_bytes = 0
        # For each service that does the work, so that one that hangs does not stop the orchestrator from asking others.
        self._rooms: defaultdict[str, Room] = defaultdict(lambda: Room(UNDER_WAY_MAX))
        self._paces: dict[str, Pace] = {}
        for service, limit in limits.items():
            if limit.in_flight is not None:
                self._rooms[service] = Room(limit.in_flight)
            if limit.rate_per_s is not None:
                self._paces[service] = Pace(limit.rate_per_s)
        participant.is_paced = self.name in self._paces
        # What is paused stays in the store; here is only what to look for there, with the attempts that it has had.
        self._held: dict[Scope, dict[str, int]] = {}
        self._delayed: dict[str, Entry] = {}
        self._looked_s = float("-inf")
        self._leaving = asyncio.Event()
        self._freed = asyncio.Event()
        self._again: dict[str, Entry] = {}
        self._cancelled: set[str] = set()
        self._is_draining = False
        self._stands_aside = False

    @property
    def is_full(self) -> bool:
        """Whether so much is under way, or waits for its next attempt, that nothing more should be taken in."""
        return (
            len(self._under_way) + len(self._timers) >= DUE_MAX
            or self._under_way_bytes + self._timers.weight >= DUE_BYTES_MAX
        )

    async def room(self) -> None:
        """Wait until it is not full."""
        while self.is_full:
            self._freed.clear()
            await self._freed.wait()

    # -- handed in by a caller -----------------------------------------------------------------------------------------

    async def ask(self, command: Envelope, *, key: str, wait_s: float) -> Envelope:
        """See `minuet.runtime.desk.Desk.ask`."""
        if self._is_draining:
            raise self._stopping()
        if self.is_full:
            raise NotYet(f"{self.name} has too much to do; ask again with the same key", retry_after_s=FULL_S)
        entry, after = await self._accept(command, key)
        if entry.state is EntryState.DONE:
            self.follow_up(after)
            return _answer(entry)
        if entry.state is EntryState.PARKED:
            self.follow_up(after)
            raise NotYet(not_yet(entry), retry_after_s=PARKED_S)
        with self._waiters.waiting(entry.key, patient=wait_s > 0) as decided:
            self.follow_up(after)
            if not self._is_under_way(entry.key):
                if self._is_draining:  # since a moment ago, and whoever waited then was sent away
                    raise self._stopping()
                if (scope := self.participant.paused_by(entry)) is not None:
                    raise NotYet(f"{self.name}: {entry.key} is kept, and {scope} is paused", retry_after_s=PAUSED_S)
            is_elsewhere = entry.owner not in (None, self.store.instance)
            patience_s = ELSEWHERE_S if is_elsewhere else wait_s or FIRST_ATTEMPT_S
            try:
                async with asyncio.timeout(patience_s):
                    return _answer(await decided)
            except TimeoutError:
                raise NotYet(not_yet(entry), retry_after_s=ELSEWHERE_S) from None

    async def _accept(self, command: Envelope, key: str) -> tuple[Entry, After]:
        try:
            return await self.store.transact(
                ReadAhead(
                    lambda tx: self.participant.accept(tx, command, key),
                    lambda: self.participant.accept_looks_at(command, key),
                )
            )
        except MinuetError:
            raise
        except Exception as error:  # as in `take_in`
            log.warning("%s: cannot accept %s at once: %r", self.name, command.type, error)
            try:
                return await self.store.transact(lambda tx: self.participant.accept(tx, command, key, apart=True))
            except MinuetError:
                raise
            except Exception as problem:
                log.warning("%s: cannot keep what it is asked: %s", self.name, problem)
                raise NotYet(f"{self.name} cannot keep anything now; ask again with the same key") from problem

    async def begin_with(self, event: Event) -> bool:
        """Begin the sagas that this event begins, in this place's name. False: the same has begun them before.

        Raises:
            Conflict: another one has.
        """
        return await self._handed_in(lambda tx, after: self.participant.begin(tx, event, after))

    async def cancel(self, event: SagaCancelled, act: Act) -> bool:
        """Let everybody know that a saga is no longer wanted, in this place's name. False: that is known."""

        def work(tx: Tx, after: After) -> bool:
            is_new = self.participant.cancel(tx, event, after)
            if is_new:
                tx.audit.add(act)
            return is_new

        return await self._handed_in(work)

    async def instruct(self, scope: Scope, verb: Verb, act: Act) -> bool:
        """See `minuet.runtime.participant.Participant.instruct`. The act is kept with it, if it changes anything."""

        def work(tx: Tx, after: After) -> bool:
            is_new = self.participant.instruct(tx, scope, verb, act, after)
            if is_new:
                tx.audit.add(act)
            return is_new

        return await self._handed_in(work)

    async def answer_for(self, key: str, event: Event | None, act: Act) -> None:
        """See `minuet.runtime.participant.Participant.answer_for`. The act is kept with it."""

        def work(tx: Tx, after: After) -> None:
            self.participant.answer_for(tx, key, event, after)
            tx.audit.add(act)

        await self._handed_in(work)

    async def hear_again(self, parked_id: str, delivery: Delivery, act: Act | None) -> None:
        """Take in a message that is parked here, and park it no more. The act is kept with it.

        Raises:
            MessageError: it would be parked again, or would not be heard.
            NotFound: it is not parked any more.
        """
        envelope = self.codec.envelope_of(
            delivery.attributes, delivery.body, channel=delivery.channel, now=self.clock.now()
        )
        self.codec.decode(envelope)
        if not self.participant.subscription.wants(delivery.channel, envelope):
            raise MessageError(
                f"{self.name} does not listen to {envelope.type} on {delivery.channel}, so it would not hear it; "
                "discard it"
            )

        def work(tx: Tx, after: After) -> None:
            self.participant.hear_again(tx, delivery, after)
            if not tx.parked.remove(parked_id):
                raise NotFound(f"nothing is parked as {self.name}:{parked_id} any more")
            if act is not None:
                tx.audit.add(act)

        await self._handed_in(work)

    async def _handed_in(self, work: Callable[[Tx, After], T]) -> T:
        """What somebody hands in who waits for nothing that comes of it: that is begun here, or by who is at work."""

        def run(tx: Tx) -> tuple[T, After]:
            after = After(depth=DEPTH_MAX)
            result = work(tx, after)
            if self._stands_aside:
                tx.inbox.release()
            return result, after

        result, after = await self.store.transact(run)
        self.follow_up(after)
        return result

    async def read(self, query: Query) -> View:
        """See `minuet.runtime.desk.Desk.read`."""
        handler = self.queries.get(type(query))
        if handler is None:
            raise Rejected(f"{self.name} does not answer {name_of(query)}")

        def work(tx: Tx) -> Any:
            entry = Entry(key="", handler="", envelope=_NO_ENVELOPE)
            return handler.function(query, **self.participant.arguments(handler, entry, tx))

        view = await self.store.transact(work, reads_only=True)
        if view is None:
            raise NotFound(f"{name_of(query)}: there is no such thing")
        if not isinstance(view, query.__answer__):
            raise TypeError(
                f"{handler.name} returned {type(view).__name__}; {name_of(query)} is answered by "
                f"{query.__answer__.__name__}"
            )
        return view

    async def take_in(self, deliveries: Sequence[Delivery]) -> list[Exception | None]:
        """Handle what a transport delivered; for each None once it is kept, or why it has to come again."""
        deliveries = [self.participant.read(delivery) for delivery in deliveries]
        try:
            after, problems = await self.store.transact(
                ReadAhead(
                    lambda tx: self.participant.take_in(tx, deliveries),
                    lambda: self.participant.take_in_looks_at(deliveries),
                )
            )
        except Exception as error:
            # Mostly the disk. But a handler, too, can make a commit fail or lose the transaction, and must not do that
            # to the others again and again: what is kept first and begun apart is an attempt of its own, and counted.
            log.warning("%s: cannot take in %d messages at once: %r", self.name, len(deliveries), error)
            after, problems = await self.store.transact(lambda tx: self.participant.take_in(tx, deliveries, apart=True))
        self.follow_up(after)
        return problems

    # -- what transports have lost -------------------------------------------------------------------------------------

    async def unheard(self, envelopes: Sequence[Envelope]) -> list[Envelope]:
        """Those of them that this place listens to, and from which something would come if it heard them."""
        return await self.store.transact(
            lambda tx: [one for one in envelopes if not self.participant.has_heard(tx, one)], reads_only=True
        )

    async def unknown(self, commands: Sequence[Envelope]) -> list[Envelope]:
        """Those commands of sagas of which nothing is known here."""
        return await self.store.transact(
            lambda tx: [one for one in commands if not self.participant.knows(tx, one)], reads_only=True
        )

    async def hear(self, envelope: Envelope) -> None:
        """Take in what no transport has delivered: an event, or a saga's command that is to be done again.

        Raises:
            MessageError: it would be parked.
        """
        await self._handed_in(lambda tx, after: self.participant.hear(tx, envelope, after))

    # -- after a commit ------------------------------------------------------------------------------------------------

    def follow_up(self, after: After) -> None:
        """Do what a durable transaction left to do: tell who waits, begin what is due, time what is due later."""
        for entry in after.decided:
            self._timers.cancel(entry.key)
            self._delayed.pop(entry.key, None)
            self._cancelled.discard(entry.key)
            self._waiters.decided(entry)
            self.touched(entry)
        for entry, error in after.faults:
            self._report(entry, error)
        for instruction in after.instructed:
            self.participant.in_force.heed(instruction)
            if instruction.verb is Verb.RESUME:
                self._let_go(instruction.scope)
            elif instruction.verb is Verb.RETRY:
                self._hurry(instruction.scope)
        for entry in after.cancelled:
            self._cancelled.add(entry.key)
            self._timers.cancel(entry.key)
            if (delayed := self._delayed.get(entry.key)) is not None:
                entry.attempts = max(entry.attempts, delayed.attempts)
            self.begin(entry)
        now = self.clock.now()
        for entry in after.failed:
            self._waiters.failed(entry, max(0.0, entry.due_at - now))
            self.touched(entry)
        for entry in after.start:
            if entry.due_at >= NEVER:
                continue  # somebody will say something, or nobody ever does
            if entry.due_at > now:
                # No longer than was meant when it was written down: the clock may have been put back since.
                delay_s = min(entry.due_at - now, max(1.0, entry.due_at - entry.changed_at))
                weight = None if self.participant.is_planned(entry) else _size_of(entry)
                self._delayed[entry.key] = entry
                self._timers.after(delay_s, entry.key, lambda entry=entry: self.begin(entry), weight=weight)  # type: ignore[misc]
            else:
                self.begin(entry)

    def _report(self, entry: Entry, error: Exception) -> None:
        """Failures are handled, but nobody mends what nobody hears of."""
        what = (self.name, entry.key, entry.attempts)
        # Where it comes from matters for a mistake; what somebody said on purpose speaks for itself.
        trace = None if isinstance(error, MinuetError) else error
        if entry.state is EntryState.PARKED:
            show = f"minuet parked show {self.name}:{entry.key}"
            log.error("%s: %s needs an operator after %d attempts (%s): %s", *what, show, entry.error, exc_info=trace)
        elif entry.state is EntryState.DONE:
            log.error("%s: %s is refused after %d attempts: %s", *what, entry.error, exc_info=trace)
        elif isinstance(error, NotYet):
            log.info("%s: %s, after %d attempts: %s", *what, error)
        else:
            log.warning("%s: %s, attempt %d failed and is made again: %s", *what, entry.error, exc_info=trace)

    def begin(self, entry: Entry) -> None:
        """Work on a due entry that this instance owns, unless it is being worked on, or this place is draining."""
        self._delayed.pop(entry.key, None)
        if self._is_draining:
            return
        if self._is_under_way(entry.key):
            # If it is lost there, this may be the same entry, which has come back to us.
            self._again[entry.key] = entry
            return
        if self._holds(entry):
            return
        self._under_way[entry.key] = size = _size_of(entry)
        self._under_way_bytes += size
        self._spawn(self._work_on(entry, entry.key))

    def _is_under_way(self, key: str) -> bool:
        return key in self._under_way or key in self._renamed

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _work_on(self, entry: Entry, key: str) -> None:
        after = After()
        service, saga = self.participant.service_of(entry), entry.envelope.saga
        room = self._rooms[service]
        try:
            await room.enter(saga.name if saga else "", saga.id if saga else key)
            try:
                if pace := self._paces.get(service):
                    await self._turn(pace)
                # Much may have been said while it waited.
                if not self._is_draining and not self._holds(entry):
                    if _was_planned(entry):
                        entry = await self.attempts.claim(entry)
                    if entry.key in self._cancelled and not entry.envelope.cancelled:
                        entry.envelope = replace(entry.envelope, cancelled=True)
                    after = await self.attempts.make(entry)
            finally:
                room.leave()
        except Lost:
            log.info("%s: another instance does %s", self.name, key)
            self._cancelled.discard(key)
            self._cancelled.discard(entry.key)
            after.start += [self._again[name] for name in dict.fromkeys((key, entry.key)) if name in self._again]
        except Exception as error:
            # The store itself failed. The entry is still due there, and this instance still owns it.
            log.warning("%s: cannot keep what came of %s, trying again: %s", self.name, key, error)
            if not _was_planned(entry):
                self.participant.taken_over(entry)  # its handler may have done it
            entry.due_at = self.clock.now() + 1.0
            after.start.append(entry)
        finally:
            self._under_way_bytes -= self._under_way.pop(key)
            self._again.pop(key, None)
            if self._renamed.get(entry.key) is entry:
                del self._renamed[entry.key]
                self._again.pop(entry.key, None)
            self._freed.set()
        self.follow_up(after)

    def _got_built(self, entry: Entry, after: After) -> None:
        if entry.key not in self._under_way:
            self._renamed[entry.key] = entry
        self.follow_up(after)

    async def _turn(self, pace: Pace) -> None:
        delay_s = pace.delay_s(asyncio.get_running_loop().time())
        if delay_s:
            with suppress(TimeoutError):
                async with asyncio.timeout(delay_s):
                    await self._leaving.wait()

    # -- what operators say --------------------------------------------------------------------------------------------

    async def look_for_instructions(self) -> None:
        """Heed what other processes on this store have heard; at most once in `LOOK_S`."""
        loop = asyncio.get_running_loop()
        if loop.time() - self._looked_s < LOOK_S:
            return
        in_force = self.participant.in_force
        before, since = in_force.changes, self.clock.now() - RETRY_S
        found = await self.store.transact(lambda tx: tx.instructions.in_force(since), reads_only=True)
        if in_force.changes != before:
            return  # what was read is older than what we have heard ourselves
        self._looked_s = loop.time()
        resumed, retried = in_force.replace(found)
        for scope in resumed:
            self._let_go(scope)
        for scope in retried:
            self._hurry(scope)

    def _holds(self, entry: Entry) -> bool:
        """Whether it is paused. Then it waits in the store, and does not count as something under way here."""
        scope = self.participant.paused_by(entry)
        if scope is None:
            return False
        held = self._held.setdefault(scope, {})
        # It may come again as the store has it, which does not know what `taken_over` does.
        held[entry.key] = max(entry.attempts, held.get(entry.key, 0))
        return True

    def _let_go(self, scope: Scope) -> None:
        """Begin what was held, as far as nothing else holds it."""
        held = self._held.pop(scope, None)
        if held and not self._is_draining:
            self._spawn(self._begin_held(scope, held))

    async def _begin_held(self, scope: Scope, held: dict[str, int]) -> None:
        while held and not self._is_draining:
            await self.room()
            page = list(held)[:TAKE_MAX]
            try:
                found = await self.store.transact(lambda tx, page=page: [*map(tx.inbox.find, page)], reads_only=True)  # type: ignore[misc]
            except Exception as error:
                log.warning("%s: cannot go on with %s yet: %s", self.name, scope, error)
                await self._in_a_second()
                continue
            start = []
            for key, entry in zip(page, found, strict=True):
                # What was known of it only here: that an instance that is gone may have begun it.
                attempts = held.pop(key)
                if entry is not None and entry.state is EntryState.DUE and entry.owner == self.store.instance:
                    entry.attempts = max(entry.attempts, attempts)
                    start.append(entry)
            self.follow_up(After(start=start))

    async def _in_a_second(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                await self._leaving.wait()

    def _hurry(self, scope: Scope) -> None:
        """Try now what has failed and waits for its next attempt."""
        in_force, service_of = self.participant.in_force, self.participant.service_of
        for key, entry in tuple(self._delayed.items()):
            if (entry.attempts or entry.error) and in_force.concerns(scope, entry, service_of(entry)):
                self._timers.cancel(key)
                self.begin(entry)

    # -- from start to end ---------------------------------------------------------------------------------------------

    async def recover(self) -> int:
        """Take over what instances that are gone left due here, or gave up; how many entries that were."""
        given_up, left = await self.store.transact(
            lambda tx: (tx.inbox.take(TAKE_MAX, released=True), tx.inbox.take(TAKE_MAX))
        )
        for entry in left:
            self.participant.taken_over(entry)
        entries = [*given_up, *left]
        for entry in entries:
            if self.participant.in_force.is_to_be_retried(entry, self.participant.service_of(entry)):
                entry.due_at = 0.0
        self.follow_up(After(start=entries))
        return len(entries)

    async def look_for_views(self) -> bool:
        """Go on with what waits for a read-model entry that is there by now: another process may have heard of it.

        Whether there was any.
        """
        awaited = self.attempts.awaited
        if not awaited:
            return False

        def look(tx: Tx) -> tuple[set[str], list[Entry]]:
            there = {what for what in awaited if tx.read_models.get(*what.split("/", 1)) is not None}
            return there, [entry for what in there for entry in tx.inbox.waiting_for(what)]

        there, entries = await self.store.transact(look, reads_only=True)
        awaited -= there
        self.follow_up(After(start=entries))
        return bool(there)

    def stand_aside(self) -> None:
        """Begin nothing, ever: what is handed in is for those who are at work, and who may be so while we are here."""
        self._is_draining = self._stands_aside = True

    async def drain(self) -> None:
        """Begin nothing new; wait for what is under way, and leave the rest to others."""
        self._is_draining = True
        self._timers.cancel_all()
        self._delayed.clear()
        self._leaving.set()
        self._freed.set()
        while self._tasks:
            await asyncio.wait(set(self._tasks))

    async def stop(self, grace_s: float) -> None:
        """Drain for so many seconds, then cut off what is still under way; it is done again with the same key."""
        cut_off: set[str] = set()
        try:
            async with asyncio.timeout(grace_s):
                await self.drain()
        except TimeoutError:
            cut_off = {*self._under_way, *self._renamed}
            for task in tuple(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
        self._waiters.send_away(self._stopping)
        await self.store.transact(lambda tx: self._give_up(tx, cut_off))

    def _stopping(self) -> NotYet:
        return NotYet(f"{self.name} is being stopped; ask again with the same key", retry_after_s=0.5)

    def _give_up(self, tx: Tx, cut_off: Collection[str]) -> None:
        """Leave everything to others, and tell them what may have been begun."""
        for key in cut_off:
            entry = tx.inbox.find(key)
            if entry is not None and entry.state is EntryState.DUE and entry.owner == self.store.instance:
                self.participant.taken_over(entry)
                tx.inbox.save(entry)
        tx.inbox.release()


def _size_of(entry: Entry) -> int:
    """In bytes: its body's, or, while it is not built, that of what it is built from."""
    return len(entry.envelope.body) or sum(len(one.body) for one in (entry.known or {}).values())


def _was_planned(entry: Entry) -> bool:
    """Whether it was written down for later, and is begun now for the first time."""
    return entry.due_at > entry.changed_at and not entry.attempts and not entry.error and entry.handler != AWAITS


def _answer(entry: Entry) -> Envelope:
    if entry.answer is None:
        raise NotYet(not_yet(entry))
    return entry.answer


_NO_ENVELOPE = Envelope(id="", type="", source="", time=0.0, body=b"")
