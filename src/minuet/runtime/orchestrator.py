"""The conductor: a place that evaluates every rule and does no work of its own. It asks the participants.

Doing a command here means asking the service that performs it, with the same key until there is a definite answer; that
answer is recorded, makes a literal known, and so other commands due. Everything else, durability, retries, recovery, is
what every `minuet.runtime.place.Place` does.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace

from minuet.app import Handler
from minuet.core.compile import Kind
from minuet.core.envelope import Envelope
from minuet.core.errors import Conflict, MessageError, NotYet, Rejected
from minuet.core.messages import Command, Event, name_of
from minuet.core.saga import Saga
from minuet.ports import Entry, Ids, Store
from minuet.runtime.directory import Directory
from minuet.runtime.reactor import ORCHESTRATOR, commands_channel


def asking_handlers(sagas: Iterable[Saga]) -> dict[str, Handler]:
    """A handler for every command of the sagas; each is done by asking."""
    commands: dict[str, type[Command]] = {
        name_of(rule.command): rule.command
        for saga in sagas
        for rule in saga.rules.every
        if rule.kind is not Kind.WATCH
    }
    return {
        name: Handler(ORCHESTRATOR, "ask", _never_called, command, {}, True, command.__contract__.answers)
        for name, command in commands.items()
    }


class AsksByMessages:
    """Asks participants by a message on their own channel. The answer is the event that everybody hears.

    Args:
        services: those that are asked so.
        again_s: after how long one that is silent is asked again. It does nothing twice, but says again what it said.
    """

    def __init__(self, store: Store, ids: Ids, services: Collection[str], again_s: float) -> None:
        self.store = store
        self.ids = ids
        self.services = services
        self.again_s = again_s

    async def ask(self, service: str, command: Envelope) -> NotYet:
        """Put the command into the outbox; what to say of it until the answer comes."""
        # Each asking is a message of its own: a broker would drop one that it has seen.
        message = replace(command, id=f"{command.id}~{self.ids.new()}")
        channel = commands_channel(service)
        await self.store.transact(lambda tx: tx.outbox.add(channel, message))
        return NotYet(f"asked {service} on {channel}, and waits for its answer", retry_after_s=self.again_s)


class Orchestrator:
    """Asks participants for the commands that the rules made due."""

    def __init__(self, directory: Directory, handlers: dict[str, Handler], by_messages: AsksByMessages) -> None:
        self.directory = directory
        self.handlers = handlers
        self.by_messages = by_messages

    async def perform(self, entry: Entry) -> Envelope:
        """The participant's recorded answer.

        Raises:
            NotYet: there is none yet; the entry is tried again.
            Conflict, Rejected, MessageError: there never will be; the entry is parked for an operator.
        """
        command = self.handlers[entry.handler].message
        assert issubclass(command, Command)
        service = command.__contract__.service
        if service in self.by_messages.services:
            raise await self.by_messages.ask(service, entry.envelope)
        try:
            return await self.directory.ask(command, entry.envelope, key=entry.key)
        except (NotYet, Conflict, Rejected, MessageError):
            raise
        except Exception as error:
            # As over HTTP: a participant that fails has not answered. Whether it did its work only it can tell.
            raise NotYet(f"no answer from {service}: {error!r}", retry_after_s=1.0) from error


def _never_called(command: Command) -> Event:
    raise AssertionError(f"the orchestrator asks for {name_of(command)}, it does not do it")
