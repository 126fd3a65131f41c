"""Sees what a run commits, and puts down what became of whom."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from minuet.adapters.sqlite.rows import outgoing_of
from minuet.app import App
from minuet.core.messages import Command, Event
from minuet.ports import Entry, EntryState
from minuet.runtime.performer import REACTION
from minuet.runtime.reactor import ORCHESTRATOR
from minuet.testing.scenario.happened import NEEDS_OPERATOR, NOT_ENDED, Deed, Happened, SagaStory, Told
from minuet.testing.simulation import World

ADDED = "SELECT position, channel, attributes, body FROM minuet_outbox WHERE position > :last ORDER BY position"


class Witness:
    """Sees what is committed, and puts it down."""

    def __init__(self, world: World, happened: Happened) -> None:
        self.world = world
        self.happened = happened
        self._places = tuple(_with_store(world.app))
        self._before = {name: set(self._entries(name)) for name in self._places}
        self._sagas_before = set(world.promises.sagas)
        self._last = dict.fromkeys(self._places, 0)
        self._decided: dict[tuple[str, int], int] = {}
        for name in self._places:
            self._last[name] = max(
                (row["position"] for row in self._added(name)), default=world.database(name).last_outgoing
            )

    def _entries(self, service: str) -> dict[int, Entry]:
        return self.world.database(service).entries

    def new_entries(self, service: str) -> list[Entry]:
        """What is in its inbox since the first `when`."""
        before = self._before.get(service, set())
        return [entry for position, entry in self._entries(service).items() if position not in before]

    def _added(self, service: str) -> list[dict[str, Any]]:
        return self.world.rows(service, ADDED, last=self._last[service])

    def look(self, service: str) -> None:
        """After a commit of the service."""
        for row in self._added(service):
            self._last[service] = row["position"]
            envelope = outgoing_of(tuple(row.values())).envelope
            event = self.world.codec.decode(envelope)
            if isinstance(event, Event):
                self.happened.told.append(Told(event=event, sender=envelope.source))
        for position, entry in self._entries(service).items():
            if position not in self._before[service] and entry.state is EntryState.DONE:
                self._decided.setdefault((service, position), len(self._decided) + 1)

    def end(self) -> None:
        """When all is over."""
        mine: dict[tuple[str, str, str], Deed] = {}
        alone: list[Deed] = []
        # The orchestrator only asks: what its participants have counts more.
        for service in self._places:
            for position, entry in self._entries(service).items():
                is_request = entry.state is EntryState.DONE and entry.answer is None  # a client's, kept with its key
                if position in self._before[service] or entry.key.startswith(REACTION) or is_request:
                    continue
                deed = self._deed(service, position, entry)
                if deed.saga is None:
                    alone.append(deed)
                else:
                    mine.setdefault((*deed.saga, deed.rule), deed)
        self.happened.deeds = sorted([*mine.values(), *alone], key=lambda one: (not one.decided, one.decided))
        self._tell_sagas()

    def _deed(self, service: str, position: int, entry: Entry) -> Deed:
        kind = self.world.codec.types[entry.handler]
        assert issubclass(kind, Command)
        ref = entry.envelope.saga
        answer = self.world.codec.decode(entry.answer) if entry.answer is not None else None
        return Deed(
            service=service,
            command=kind,
            message=command_of(self.world, entry),
            saga=(ref.name, ref.id) if ref else None,
            rule=ref.step if ref else "",
            state=entry.state,
            attempts=entry.attempts,
            error=entry.error,
            answer=answer if isinstance(answer, Event) else None,
            decided=self._decided.get((service, position), 0),
        )

    def _tell_sagas(self) -> None:
        parked = self.world.needing_an_operator()
        for key, record in self.world.promises.sagas.items():
            definition = self.world.app.saga(record.name, record.definition)
            if key in self._sagas_before or definition is None:
                continue
            end = NEEDS_OPERATOR if key in parked else self.world.promises.end_of(record) or NOT_ENDED
            deeds = [one for one in self.happened.deeds if one.saga == key]
            self.happened.sagas.append(SagaStory(definition=definition, id=record.id, end=end, deeds=deeds))


def command_of(world: World, entry: Entry) -> Command | None:
    message = world.codec.decode(entry.envelope) if entry.envelope.body else None
    return message if isinstance(message, Command) else None


def _with_store(app: App) -> Iterator[str]:
    """Everybody who keeps something, the orchestrator last."""
    for service in app.services.values():
        if service.commands or service.queries or service.reactions:
            yield service.name
    if app.sagas:
        yield ORCHESTRATOR
