"""The net under the transports: finds what one participant told and another never heard, and hands it over.

A broker can lose what it has confirmed, a queue can be deleted, a store can be put back from a backup. What was told is
still in the store of whoever told it, and what was heard in those of the others; so comparing the stores shows what is
missing, whoever lost it and wherever. Handing it over is the same as hearing it, once: whoever has heard it already
does nothing, so a message that was only slow is no danger.

This is anti-entropy: Demers et al., "Epidemic Algorithms for Replicated Database Maintenance", 1987. It needs all the
stores, as a look at a saga does.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from minuet.core.envelope import Envelope
from minuet.core.errors import MessageError
from minuet.ports import Clock, Entry, Tx
from minuet.runtime.place import Place
from minuet.runtime.reactor import ORCHESTRATOR

log = logging.getLogger("minuet.reconciler")

PAGE = 200
PAUSE_S = 0.02
"""Between two sagas' comparisons, so that the work goes on meanwhile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Missed:
    """A message of a saga that a place should have heard, and had not.

    Attributes:
        by: whose it is. place: who had not heard it. told_at: in seconds since 1970.
    """

    saga: str
    id: str
    type: str
    by: str
    place: str
    told_at: float

    def __str__(self) -> str:
        return f"{self.place} has not heard {self.type} of {self.saga} {self.id}, told by {self.by}"


@dataclass(slots=True)
class Patience:
    """When an open saga is looked at next: each time after twice as long."""

    noted_at: float
    look_at: float = 0.0

    def look_again(self, now: float) -> None:
        self.look_at = now + (now - self.noted_at)


class Reconciler:
    """Compares the stores of an app's places.

    Args:
        places: all of them, at work or not; one that is missing is not compared with.
        end_of: how a saga, by its name and id, ended; None if it goes on.
    """

    def __init__(
        self, places: Mapping[str, Place], end_of: Callable[[str, str], Awaitable[object | None]], clock: Clock
    ) -> None:
        self.places = places
        self.end_of = end_of
        self.clock = clock
        self._open: dict[tuple[str, str], Patience] = {}
        self._seen: dict[str, int] = {}

    # -- one saga ------------------------------------------------------------------------------------------------------

    async def knows(self, saga: str, saga_id: str) -> bool:
        """Whether anybody has told or heard anything of it."""
        return bool(await self._told(saga, saga_id))

    async def missed(self, saga: str, saga_id: str, *, after_s: float = 0.0) -> list[tuple[Missed, Envelope]]:
        """What somebody should have heard of this saga and has not, in the order in which it was told.

        Args:
            after_s: what was told since is only on its way.
        """
        until = self.clock.now() - after_s
        told = [one for one in await self._told(saga, saga_id) if one.time <= until]
        told.sort(key=lambda one: one.time)
        found: list[tuple[Missed, Envelope]] = []
        for name, place in self.places.items():
            others = [one for one in told if one.source != name]
            for envelope in [
                *await place.unheard(others),
                *await place.unknown(await self._answered(saga, saga_id, name)),
            ]:
                missed = Missed(
                    saga=saga, id=saga_id, type=envelope.type, by=envelope.source, place=name, told_at=envelope.time
                )
                found.append((missed, envelope))
        return found

    async def mend(
        self,
        saga: str,
        saga_id: str,
        *,
        after_s: float = 0.0,
        tells: Callable[[Missed], None] = lambda missed: None,
    ) -> list[Missed]:
        """Hand over what `missed` finds; what that was.

        What another place then tells may be missing as well: it is found the next time.
        """
        mended = []
        for missed, envelope in await self.missed(saga, saga_id, after_s=after_s):
            tells(missed)
            try:
                await self.places[missed.place].hear(envelope)
            except MessageError as reason:
                log.error("%s, and would not take it in: %s", missed, reason)
                continue
            mended.append(missed)
        return mended

    async def _answered(self, saga: str, saga_id: str, place: str) -> list[Envelope]:
        """The commands that this place has answered, as the orchestrator wrote down: only a store that was put back
        from a backup does not know of them."""
        orchestrator = self.places.get(ORCHESTRATOR)
        if orchestrator is None or place == ORCHESTRATOR:
            return []
        entries = await orchestrator.store.transact(lambda tx: tx.records.entries_of(saga, saga_id), reads_only=True)
        return [entry.envelope for entry in entries if entry.answer is not None and entry.answer.source == place]

    async def _told(self, saga: str, saga_id: str) -> Collection[Envelope]:
        def look(tx: Tx) -> tuple[list[Envelope], Sequence[Entry]]:
            return list(tx.known.of(saga, saga_id).values()), tx.records.entries_of(saga, saga_id)

        told: dict[tuple[str, str], Envelope] = {}
        for place in self.places.values():
            known, entries = await place.store.transact(look, reads_only=True)
            answers = (entry.answer for entry in entries if entry.answer is not None)
            # What was told in another saga's name, or in nobody's, is not of this one.
            mine = (one for one in answers if one.saga and (one.saga.name, one.saga.id) == (saga, saga_id))
            for envelope in (*known, *mine):
                told.setdefault((envelope.source, envelope.id), envelope)
        return told.values()

    # -- all of them ---------------------------------------------------------------------------------------------------

    async def run(self, *, every_s: float, after_s: float, back_s: float, ready: Callable[[], bool]) -> None:
        """Look again and again, until cancelled, and say what was missing: it should not have been.

        Args:
            ready: whether what was told is published by now; if it is not, nobody can have heard it.
        """
        while True:
            await asyncio.sleep(every_s)
            if not ready():
                continue
            try:
                await self.look(after_s=after_s, back_s=back_s, tells=self._warn)
            except Exception as error:
                log.warning("cannot compare what was told with what was heard, trying again: %s", error)

    def _warn(self, missed: Missed) -> None:
        age_s = self.clock.now() - missed.told_at
        log.error("%s %.0f s ago; it is handed over now. Does the broker lose messages?", missed, age_s)

    async def look(
        self,
        *,
        after_s: float,
        back_s: float,
        with_ended: bool = False,
        mends: bool = True,
        tells: Callable[[Missed], None] = lambda missed: None,
    ) -> list[Missed]:
        """Compare once, all sagas that are not over; what was missing.

        Args:
            after_s: as for `missed`.
            back_s: sagas that were begun longer ago than that before our first look are not looked at.
            with_ended: also sagas that are over, as after a store was put back from a backup.
            mends: hand it over; else only look.
            tells: called with each, before it is handed over.
        """
        for name in self.places:
            await self._find_new(name, back_s)
        now, found = self.clock.now(), []
        for (saga, saga_id), patience in list(self._open.items()):
            if now < patience.look_at:
                continue
            patience.look_again(now)
            if await self.end_of(saga, saga_id) is not None:
                del self._open[saga, saga_id]
                if not with_ended:
                    continue
            if mends:
                found += await self.mend(saga, saga_id, after_s=after_s, tells=tells)
            else:
                found += [one for one, _ in await self.missed(saga, saga_id, after_s=after_s)]
            await asyncio.sleep(PAUSE_S)
        return found

    async def _find_new(self, name: str, back_s: float) -> None:
        """Note the sagas that the place has heard of since the last time, the newest first."""
        place, last = self.places[name], self._seen.get(name)
        now, newest, before = self.clock.now(), last or 0, None
        while True:
            page, oldest = await place.store.transact(partial(_page, before=before), reads_only=True)
            for position, saga, saga_id in page:
                newest = max(newest, position)
                if last is not None and position <= last:
                    break
                # What another app has left in the same data is not ours to compare.
                if place.participant.reactor.app.saga(saga) is not None:
                    self._open.setdefault((saga, saga_id), Patience(now))
            else:
                if len(page) == PAGE and (last is not None or oldest >= now - back_s):
                    before = page[-1][0]
                    await asyncio.sleep(PAUSE_S)
                    continue
            self._seen[name] = newest
            return


def _page(tx: Tx, *, before: int | None) -> tuple[Sequence[tuple[int, str, str]], float]:
    """Sagas that the place has heard of, and when the last of them was begun."""
    page = tx.known.recent(PAGE, before)
    known = tx.known.of(*page[-1][1:]).values() if page else ()
    return page, min((one.time for one in known), default=0.0)
