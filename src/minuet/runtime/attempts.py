"""One attempt at a due entry: its command is put together, its handler is called, and what came of it is kept.

What `Participant` does inside a transaction is done in one here, and what needs none between two of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from minuet.codec import Codec
from minuet.core.envelope import Envelope
from minuet.core.messages import Event
from minuet.ports import Entry, EntryState, ReadAhead, Store, Tx
from minuet.runtime.gather import Gatherer
from minuet.runtime.participant import Participant
from minuet.runtime.performer import After, Lost

Performed = Sequence[Event] | Envelope
"""What came of an entry: a handler's events, or the envelope of an answer that a participant recorded."""


class Attempts:
    """Makes them, for one place.

    Attributes:
        perform: does an entry outside of any transaction: calls its ``async`` handler, or asks its participant.
        awaited: the read-model entries that commands need and that were not there, each as ``kind/key``.

    Args:
        built: told of an entry that has got its command, and with it the name under which it is kept from now on.
    """

    def __init__(
        self,
        store: Store,
        participant: Participant,
        gatherer: Gatherer,
        codec: Codec,
        built: Callable[[Entry, After], None],
    ) -> None:
        self.store = store
        self.participant = participant
        self.gatherer = gatherer
        self.codec = codec
        self.perform: Callable[[Entry], Awaitable[Performed]] = self.call_handler
        self.awaited: set[str] = set()
        self._built = built

    async def make(self, entry: Entry) -> After:
        """Do the entry, or note why that failed and when it is tried again.

        Raises:
            Lost: another instance does it.
            Exception: the store's; nothing is noted then.
        """
        try:
            self.participant.check_handled(entry)
            if not entry.envelope.body:
                if self.participant.is_late(entry):
                    return await self._in_transaction(entry, self._refuse_late)
                if not await self._build(entry):
                    return After()
            if not self.participant.handlers[entry.handler].is_async:
                return await self._in_transaction(entry, self.participant.perform)
            if self.participant.is_late(entry):
                return await self._in_transaction(entry, self._refuse_late)
            if self.participant.is_exhausted(entry):
                await self.last_resort(entry)
                return await self._in_transaction(entry, self._refuse_exhausted)
            performed = await self.perform(entry)
            return await self._in_transaction(entry, lambda tx, entry, after: self._record(tx, entry, performed, after))
        except Lost:
            raise
        except asyncio.CancelledError:
            if (task := asyncio.current_task()) is None or task.cancelling():
                raise
            # Not this task was cancelled, but something that the handler waited for.
            problem: Exception = RuntimeError("the handler waited for something that was cancelled")
        except Exception as error:
            problem = error
        return await self._in_transaction(
            entry, lambda tx, entry, after: self.participant.fail(tx, entry, problem, after)
        )

    async def claim(self, entry: Entry) -> Entry:
        """Its time has come. Until now anybody could refuse it, whoever owns it; from here on only its owner does.

        Raises:
            Lost: somebody has.
        """

        def claim(tx: Tx) -> Entry:
            found = tx.inbox.find(entry.key)
            if found is None or found.state is not EntryState.DUE:
                raise Lost(entry.key)
            found.due_at, found.known = 0.0, entry.known
            if not tx.inbox.save(found):
                raise Lost(entry.key)
            return found

        return await self.store.transact(claim)

    async def _in_transaction(self, entry: Entry, work: Callable[[Tx, Entry, After], object]) -> After:
        def run(tx: Tx) -> After:
            after = After()
            # A copy: if the commit fails, the entry must be as it was.
            work(tx, entry.copy(), after)
            return after

        return await self.store.transact(ReadAhead(run, lambda: self.participant.outcome_looks_at(entry)))

    def _record(self, tx: Tx, entry: Entry, performed: Performed, after: After) -> None:
        if isinstance(performed, Envelope):
            event = self.codec.decode(performed)
            assert isinstance(event, Event)
            saga = entry.envelope.saga
            answer = performed if performed.saga == saga else replace(performed, saga=saga)
            self.participant.record(tx, entry, (event,), [answer], after)
        else:
            self.participant.finish(tx, entry, tuple(performed), after)

    def _refuse_late(self, tx: Tx, entry: Entry, after: After) -> None:
        self.participant.refuse(tx, entry, self.participant.why_late(entry), after)

    def _refuse_exhausted(self, tx: Tx, entry: Entry, after: After) -> None:
        self.participant.refuse(tx, entry, "retries exhausted", after)

    async def last_resort(self, entry: Entry) -> None:
        """Have the handler make sure that nothing of the command remains."""
        (handler,) = self.participant.handlers[entry.handler].last_resorts
        await handler.function(self.codec.decode(entry.envelope), **self.participant.arguments(handler, entry, None))

    async def call_handler(self, entry: Entry) -> Performed:
        """Call the ``async`` handler of an entry."""
        handler = self.participant.handlers[entry.handler]
        message = self.codec.decode(entry.envelope)
        returned = await handler.function(message, **self.participant.arguments(handler, entry, None))
        return self.participant.checked(handler, returned)

    async def _build(self, entry: Entry) -> bool:
        """Put the command together from what is known and what is asked. False: not now, or no longer needed."""
        command = await self.gatherer.command_for(entry)
        if command is None:
            if entry.waits_for:
                self.awaited.add(entry.waits_for)
            return False
        is_wanted, built = True, entry

        def keep(tx: Tx, copy: Entry, after: After) -> None:
            nonlocal is_wanted, built
            is_wanted, built = self.participant.built(tx, copy, command, after), copy

        after = await self._in_transaction(entry, keep)
        # Only now: what is not kept yet may have to be done over, from where it began.
        entry.key, entry.envelope, entry.waits_for = built.key, built.envelope, built.waits_for
        entry.attempts, entry.error = built.attempts, built.error
        self._built(entry, after)
        return is_wanted
