"""How participants behave in a sentence: what they answer instead, how often they fail, when they crash."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

from minuet.app import Service
from minuet.core.errors import NotYet
from minuet.core.messages import Command, Event, Refusal, name_of, refusals, successes
from minuet.core.projection import Coordination
from minuet.runtime.reactor import ORCHESTRATOR
from minuet.testing.scenario.vocabulary import Vocabulary, WrongSentence, matches

Answer = Event | Callable[[Any], Event]
"""An event, or a function that makes it from the command."""


class ToldToFail(Exception):
    """What a handler raises that a test told to fail."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Behaviour:
    """What one participant does other than usual. Made by `Participant`.

    Attributes:
        only: with commands that have these values; with all, if there are none.
    """

    service: str
    only: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.in_words

    @property
    def about(self) -> type[Command] | None:
        """The command that it is about, if it is about one."""
        return None

    @property
    def in_words(self) -> str:
        """As a sentence says it: ``payment fails 2 times at ProcessPayment``."""
        raise NotImplementedError

    def where(self, **fields: Any) -> Self:
        """The same, but only for commands with these values: ``.where(order_id="o1")``."""
        if self.about is None:
            raise WrongSentence(f"{self.in_words}: that is not about one command, so where(...) does not apply")
        return replace(self, only={**self.only, **fields})

    def acts_on(self, command: Command) -> bool:
        return matches(command, self.only)

    def check(self, words: Vocabulary, coordinations: tuple[str, ...]) -> None:
        """
        Raises:
            WrongSentence: it cannot happen in this app.
        """
        services = {*words.app.services, ORCHESTRATOR, *(one.__contract__.service for one in words.absent())}
        if self.service not in services:
            raise WrongSentence(
                f"{self.in_words}: app {words.app.name} has no service {self.service!r}; it has "
                f"{', '.join(words.app.services)}"
            )
        if self.service == ORCHESTRATOR and coordinations != (Coordination.ORCHESTRATION.value,):
            raise WrongSentence(
                f"{self.in_words}: nobody orchestrates in a choreography; write given(app, "
                'coordination="orchestration")'
            )
        if self.about is not None:
            self._check_command(words, self.about)

    def _check_command(self, words: Vocabulary, command: type[Command]) -> None:
        words.check_command(command, self.in_words)
        service = command.__contract__.service
        if self.service not in (service, ORCHESTRATOR):
            mine = ", ".join(sorted(name_of(one) for one in words.commands if one.__contract__.service == self.service))
            raise WrongSentence(
                f"{self.in_words}: {self.service} has no command {name_of(command)}, {service} has; commands to "
                f"{self.service} are {mine or 'none'}"
            )
        words.check_fields(command, self.only, self.in_words)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OfCommand(Behaviour):
    command: type[Command]

    @property
    def about(self) -> type[Command]:
        return self.command


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Says(OfCommand):
    """It answers this, and its handler is not called."""

    answer: Answer

    @property
    def in_words(self) -> str:
        answer = name_of(self.answer) if isinstance(self.answer, Event) else "what a function says"
        verb = "refuses" if isinstance(self.answer, Refusal) else "answers"
        return f"{self.service} {verb} {name_of(self.command)} with {answer}"

    def _check_command(self, words: Vocabulary, command: type[Command]) -> None:
        OfCommand._check_command(self, words, command)
        answer = self.answer
        if not isinstance(answer, Event):
            if isinstance(answer, type) or not callable(answer):
                raise WrongSentence(f"{self.in_words}: {answer!r} is not an event; give it with its fields")
        elif type(answer) not in command.__contract__.answers:
            declared = ", ".join(map(name_of, refusals(command) if isinstance(answer, Refusal) else successes(command)))
            what = "a declared refusal" if isinstance(answer, Refusal) else "a declared answer"
            raise WrongSentence(
                f"{self.in_words}: that is not {what} of the command; "
                + (f"declared: {declared}" if declared else "it cannot be refused")
                + f". Add {name_of(answer)} to answers=(...) of {name_of(command)}, or let it fail: "
                f"{self.service}.fails({name_of(command)})"
            )

    def answered(self, command: Command) -> Event:
        return self.answer if isinstance(self.answer, Event) else self.answer(command)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Fails(OfCommand):
    """Its handler raises at so many attempts; None: at every one."""

    times: int | None
    after_its_work: bool
    error: Exception | None

    @property
    def in_words(self) -> str:
        often = {None: "", 1: " once", 2: " twice"}.get(self.times, f" {self.times} times")
        return f"{self.service} fails{often} at {name_of(self.command)}"

    def raised(self) -> Exception:
        return self.error or ToldToFail(f"the test lets {name_of(self.command)} fail")

    def _check_command(self, words: Vocabulary, command: type[Command]) -> None:
        OfCommand._check_command(self, words, command)
        if self.times is not None and self.times < 1:
            raise WrongSentence(f"{self.in_words}: it fails at least once, or say nothing")
        if self.times is None and isinstance(self.error, NotYet):
            raise WrongSentence(f"{self.in_words}: NotYet for ever never ends; say how often with times=")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Takes(OfCommand):
    """Its handler waits before it does its work."""

    seconds: float

    @property
    def in_words(self) -> str:
        return f"{self.service} takes {self.seconds:g} seconds for {name_of(self.command)}"

    def _check_command(self, words: Vocabulary, command: type[Command]) -> None:
        OfCommand._check_command(self, words, command)
        service = words.app.services.get(self.service)
        if self.seconds <= 0:
            raise WrongSentence(f"{self.in_words}: no time is what everything takes already")
        if service is not None and not service.commands[command].is_async:
            raise WrongSentence(
                f"{self.in_words}: its handler {service.commands[command].name} is a plain def, which runs within a "
                f"transaction and takes no time; write {self.service}.is_down_for(seconds={self.seconds:g})"
            )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Crashes(OfCommand):
    """Its process is killed, once for each command."""

    at: Literal["during", "after"]

    @property
    def in_words(self) -> str:
        return f"{self.service} crashes {self.at} {name_of(self.command)}"

    def _check_command(self, words: Vocabulary, command: type[Command]) -> None:
        OfCommand._check_command(self, words, command)
        if self.service == ORCHESTRATOR and self.at == "during":
            raise WrongSentence(f"{self.in_words}: it only asks for it; write crashes(after={name_of(command)})")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class IsDown(Behaviour):
    """Its process answers nothing and does nothing for a while."""

    seconds: float

    @property
    def in_words(self) -> str:
        return f"{self.service} is down for {self.seconds:g} seconds"

    def check(self, words: Vocabulary, coordinations: tuple[str, ...]) -> None:
        Behaviour.check(self, words, coordinations)
        if self.service not in (*words.app.services, ORCHESTRATOR):
            raise WrongSentence(f"{self.in_words}: it is not in app {words.app.name}, so it does not run here at all")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OperatorRetries(Behaviour):
    service: str = "operator"

    @property
    def in_words(self) -> str:
        return "an operator retries what is parked"

    def check(self, words: Vocabulary, coordinations: tuple[str, ...]) -> None:
        """An operator is there for every app."""


def operator_retries() -> Behaviour:
    """An operator has everything tried again that is parked: as ``minuet parked retry``.

    .when(PlaceOrder(...)).and_when(payment.fails(RefundPayment, times=12))
    .after(hours=1).when(operator_retries())
    """
    return OperatorRetries()


class Participant:
    """A service, as a sentence speaks of it. Made by `participant`; each call says one thing that it does.

    Each holds from its `when` on, for every command of that kind; `Behaviour.where` narrows it. A service that a saga
    needs and that is not in the app, because somebody else writes it, is played by what you say of it.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def refuses(self, command: type[Command], refusal: Refusal | Callable[[Any], Refusal]) -> Behaviour:
        """It refuses the command with this refusal, one that the command declares; its handler is not called."""
        if isinstance(refusal, Event) and not isinstance(refusal, Refusal):
            raise WrongSentence(
                f"{self.name} refuses {_name(command)}: {name_of(refusal)} is no refusal; write "
                f"{self.name}.answers({_name(command)}, ...)"
            )
        return Says(service=self.name, command=command, answer=refusal)

    def answers(self, command: type[Command], event: Answer) -> Behaviour:
        """It answers the command with this event; its handler is not called, and what it would write is not there.

        Args:
            event: or a function of the command that makes it.
        """
        return Says(service=self.name, command=command, answer=event)

    def fails(
        self,
        command: type[Command],
        *,
        times: int | None = None,
        after_its_work: bool = False,
        error: Exception | None = None,
    ) -> Behaviour:
        """Its handler raises, and is called again as its retry policy says.

        Args:
            times: attempts of each command that fail, the later ones do not. None: all of them.
            after_its_work: the handler is called, and raises afterwards: an answer from outside that got lost.
            error: what it raises.
        """
        return Fails(service=self.name, command=command, times=times, after_its_work=after_its_work, error=error)

    def takes(self, command: type[Command], *, seconds: float) -> Behaviour:
        """Its handler, an ``async def``, takes so long. In virtual time: the test does not."""
        return Takes(service=self.name, command=command, seconds=seconds)

    def crashes(self, *, during: type[Command] | None = None, after: type[Command] | None = None) -> Behaviour:
        """Its process is killed, as by ``kill -9``, once for each command, and started again.

        Args:
            during: the handler has done its work, but nothing is committed.
            after: it is committed, and nobody has heard of it.
        """
        if (command := during or after) is None or (during and after):
            raise WrongSentence(f"{self.name} crashes: say either during= or after= which command")
        return Crashes(service=self.name, command=command, at="during" if during else "after")

    def is_down_for(self, seconds: float = 0.0, *, minutes: float = 0.0, hours: float = 0.0) -> Behaviour:
        """Its process stands still so long from that `when` on: it answers nobody and hears nothing."""
        return IsDown(service=self.name, seconds=duration_s(f"{self.name} is down", seconds, minutes, hours))


def participant(service: Service | str) -> Participant:
    """The service, for saying what it does: ``payment = participant("payment")``, then ``payment.refuses(...)``."""
    return Participant(service.name if isinstance(service, Service) else service)


def duration_s(where: str, seconds: float, minutes: float, hours: float) -> float:
    """
    Raises:
        WrongSentence: that is no time at all.
    """
    total = seconds + 60 * minutes + 3600 * hours
    if total <= 0:
        raise WrongSentence(f"{where}: for how long? Say seconds=, minutes= or hours=")
    return total


def _name(command: Any) -> str:
    return getattr(command, "__name__", repr(command))
