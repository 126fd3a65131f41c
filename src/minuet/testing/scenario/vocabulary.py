"""What the words of a sentence can mean in an app. A test that speaks of something else is wrong, and is told so at
once: it would wait for what cannot happen, or be sure of what nobody does."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from minuet.app import App, Handler, events_returned_by
from minuet.core.compile import UNDO_SUFFIX
from minuet.core.errors import MinuetError
from minuet.core.messages import Command, Event, Message, Query, StepRefused, name_of
from minuet.core.saga import Saga


class WrongSentence(MinuetError):
    """The test itself is wrong: no app could make it true, or false. Says what to write instead."""


class Vocabulary:
    """The messages of an app, and who does what with them."""

    def __init__(self, app: App) -> None:
        self.app = app
        self.commands = set(_commands(app))
        self.told: set[type[Event]] = {StepRefused, *_told(app)}
        self.heard: set[type[Event]] = set(_heard(app))

    # -- looking up ----------------------------------------------------------------------------------------------------

    def undos(self, command: type[Command]) -> Iterator[tuple[Saga, str, type[Command]]]:
        """The steps with this command that can be undone: their saga, the undo's rule and its command."""
        for saga in self.app.sagas:
            for step in saga.steps:
                if step.command is command and step.undo_command is not None:
                    yield saga, step.name + UNDO_SUFFIX, step.undo_command

    def tellers(self, event: type[Event]) -> Iterator[type[Command]]:
        """The commands that may be answered by this event, or with whose answer it is told."""
        for command in sorted(self.commands, key=name_of):
            service = self.app.services.get(command.__contract__.service)
            handler = service.commands.get(command) if service else None
            also = events_returned_by(handler.function) if handler else ()
            if event in (*command.__contract__.answers, *also):
                yield command

    def reactions_that_tell(self, event: type[Event]) -> Iterator[Handler]:
        """The reactions that may return this event."""
        for service in self.app.services.values():
            yield from (one for one in service.reactions if event in one.answers)

    def absent(self) -> dict[type[Command], Saga]:
        """Commands of sagas to services that are not in the app."""
        return {
            rule.command: saga
            for saga in self.app.sagas
            for rule in saga.rules.every
            if rule.service not in self.app.services and rule.watch is None
        }

    # -- mistakes ------------------------------------------------------------------------------------------------------

    def check_command(self, command: Any, where: str) -> type[Command]:
        """
        Raises:
            WrongSentence: it is no command of the app.
        """
        if not (isinstance(command, type) and issubclass(command, Command)):
            raise WrongSentence(f"{where}: {_shown(command)} is not the class of a command")
        if command not in self.commands:
            raise WrongSentence(
                f"{where}: nobody in app {self.app.name} does {name_of(command)}; commands there are "
                f"{_names(self.commands)}"
            )
        return command

    def check_sent(self, message: Message, where: str) -> None:
        """
        Raises:
            WrongSentence: nobody would take it, or hear it.
        """
        if isinstance(message, Event):
            if type(message) not in self.heard:
                raise WrongSentence(
                    f"{where}: nobody in app {self.app.name} listens to {name_of(message)}; listened to are "
                    f"{_names(self.heard)}"
                )
        elif self.check_command(type(message), where).__contract__.service not in self.app.services:
            raise WrongSentence(
                f"{where}: {message.__contract__.service} is not in app {self.app.name}, so nobody can send it "
                f"{name_of(message)} here"
            )

    def check_told(self, event: Any, where: str) -> type[Event]:
        """
        Raises:
            WrongSentence: nobody in the app tells this event.
        """
        if isinstance(event, type) and issubclass(event, Command):
            raise WrongSentence(f"{where}: {name_of(event)} is a command; write then_done({name_of(event)})")
        if not (isinstance(event, type) and issubclass(event, Event)):
            raise WrongSentence(f"{where}: {_shown(event)} is not an event")
        if not any(issubclass(one, event) for one in self.told):
            raise WrongSentence(
                f"{where}: nobody in app {self.app.name} tells {name_of(event)}; told are {_names(self.told)}"
            )
        return event

    def check_undo(self, command: Any, where: str) -> type[Command]:
        """
        Raises:
            WrongSentence: no step with this command can be undone.
        """
        known = self.check_command(command, where)
        if any(self.undos(known)):
            return known
        for saga in self.app.sagas:
            for step in saga.steps:
                if step.undo_command is known:
                    raise WrongSentence(
                        f"{where}: {name_of(known)} is the undo of {name_of(step.command)}; write "
                        f"then_undone({name_of(step.command)})"
                    )
                if step.command is known:
                    raise WrongSentence(
                        f"{where}: step {step.name} of saga {saga.name} has no undo, so {name_of(known)} is never "
                        f"undone; give it one with step({name_of(known)}, undo=...), or say then_never(...) of what "
                        "must not happen"
                    )
        raise WrongSentence(f"{where}: {name_of(known)} is not a step of a saga, so nothing undoes it")

    def check_query(self, query: Any, where: str) -> None:
        """
        Raises:
            WrongSentence: nobody in the app answers it.
        """
        if not isinstance(query, Query):
            raise WrongSentence(f"{where}: {_shown(query)} is not a query; give it with its fields")
        service = self.app.services.get(query.__contract__.service)
        if service is None or type(query) not in service.queries:
            raise WrongSentence(f"{where}: nobody in app {self.app.name} answers {name_of(query)}")

    def check_fields(self, kind: type[Any], fields: Iterable[str], where: str) -> None:
        """
        Raises:
            WrongSentence: messages of this kind have no such field.
        """
        for name in fields:
            if name not in kind.model_fields:
                raise WrongSentence(
                    f"{where}: {kind.__name__} has no field {name!r}; it has {', '.join(kind.model_fields) or 'none'}"
                )


def matches(message: Message | None, fields: Mapping[str, Any]) -> bool:
    """Whether the message has these values; others it may have too."""
    return not fields or (message is not None and all(getattr(message, name) == fields[name] for name in fields))


def given_fields(event: Event) -> dict[str, Any]:
    """The fields that were given when it was made; defaults are not."""
    return {name: getattr(event, name) for name in event.model_fields_set}


def _commands(app: App) -> Iterator[type[Command]]:
    for service in app.services.values():
        yield from service.commands
    for saga in app.sagas:
        yield from (rule.command for rule in saga.rules.every)


def _told(app: App) -> Iterator[type[Event]]:
    for command in _commands(app):
        yield from command.__contract__.answers
    for service in app.services.values():
        for handler in service.commands.values():
            yield from events_returned_by(handler.function)
        for reaction in service.reactions:
            yield from reaction.answers


def _heard(app: App) -> Iterator[type[Event]]:
    for saga in app.sagas:
        for events in saga.rules.events.values():
            yield from events
    for service in app.services.values():
        for reaction in service.reactions:
            assert issubclass(reaction.message, Event)
            yield reaction.message
    yield from (model.event for model in app.read_models)


def _names(messages: Iterable[type[Message]]) -> str:
    return ", ".join(sorted(map(name_of, messages))) or "none"


def _shown(what: Any) -> str:
    return what.__name__ if isinstance(what, type) else repr(what)
