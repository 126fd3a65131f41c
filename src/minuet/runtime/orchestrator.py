"""The conductor: a place that evaluates every rule and does no work of its own. It asks the participants.

Doing a command here means asking the service that performs it, with the same key until there is a definite answer; that
answer is recorded, makes a literal known, and so other commands due. Everything else, durability, retries, recovery, is
what every `minuet.runtime.place.Place` does.
"""

from __future__ import annotations

from collections.abc import Iterable

from minuet.app import Handler
from minuet.core.envelope import Envelope
from minuet.core.errors import Conflict, MessageError, NotYet, Rejected
from minuet.core.messages import Command, Event, name_of
from minuet.core.saga import Saga
from minuet.ports import Entry
from minuet.runtime.directory import Directory
from minuet.runtime.reactor import ORCHESTRATOR


def asking_handlers(sagas: Iterable[Saga]) -> dict[str, Handler]:
    """A handler for every command of the sagas; each is done by asking."""
    commands: dict[str, type[Command]] = {
        name_of(rule.command): rule.command for saga in sagas for rule in saga.rules.every
    }
    return {
        name: Handler(ORCHESTRATOR, "ask", _never_called, command, {}, True, command.__contract__.answers)
        for name, command in commands.items()
    }


class Orchestrator:
    """Asks participants for the commands that the rules made due."""

    def __init__(self, directory: Directory, handlers: dict[str, Handler]) -> None:
        self.directory = directory
        self.handlers = handlers

    async def perform(self, entry: Entry) -> Envelope:
        """The participant's recorded answer.

        Raises:
            NotYet: there is none yet; the entry is tried again.
            Conflict, Rejected, MessageError: there never will be; the entry is parked for an operator.
        """
        command = self.handlers[entry.handler].message
        assert issubclass(command, Command)
        try:
            return await self.directory.ask(command, entry.envelope, key=entry.key)
        except (NotYet, Conflict, Rejected, MessageError):
            raise
        except Exception as error:
            # As over HTTP: a participant that fails has not answered. Whether it did its work only it can tell.
            raise NotYet(f"no answer from {command.__contract__.service}: {error!r}", retry_after_s=1.0) from error


def _never_called(command: Command) -> Event:
    raise AssertionError(f"the orchestrator asks for {name_of(command)}, it does not do it")
