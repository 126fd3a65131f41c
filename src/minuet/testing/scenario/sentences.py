"""The sentences themselves: given an app, when something happens, then ... Nothing runs before the first `then`."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar

from minuet.app import App
from minuet.core.messages import Command, Event, Query, name_of
from minuet.core.projection import Coordination
from minuet.testing.scenario.participants import Behaviour, duration_s
from minuet.testing.scenario.stage import Story, Turn
from minuet.testing.scenario.then import Then
from minuet.testing.scenario.vocabulary import Vocabulary, WrongSentence
from minuet.testing.simulation import World

BOTH = tuple(one.value for one in Coordination)


class NothingAsked(UserWarning):
    """A sentence without a `then` has run nothing and checked nothing."""


class Sentence:
    """A sentence that is not finished. Each word makes a new one, so that several may go on from the same beginning.

    Args:
        keep: told of this one and of all that go on from it.

    Attributes:
        is_finished: it was gone on with, or it is no longer to be asked why not.
    """

    FOLLOWING: ClassVar[str]

    def __init__(self, story: Story, keep: Callable[[Sentence], object] | None = None) -> None:
        self.is_finished = False
        self._story = story
        self._keep = keep
        if keep is not None:
            keep(self)

    def __del__(self) -> None:
        if not getattr(self, "is_finished", True):
            warnings.warn(f"{self} checks nothing: {self.FOLLOWING}", NothingAsked, stacklevel=2)

    def __str__(self) -> str:
        told = f"given({self._story.app.name})"
        for message in self._story.having:
            told += f".having({name_of(message)})"
        for turn in self._story.turns:
            told += ".after(...)" if turn.after_s else ""
            for one in turn.messages:
                told += f".when({name_of(one)})"
            for behaviour in turn.behaviours:
                told += f".and_when({behaviour.in_words})"
        return told


class Given(Sentence):
    """The beginning of a sentence. Made by `given`."""

    FOLLOWING = "go on with .when(...) and at least one .then...(...)"

    def provided(self, kind: type[Any], maker: Callable[..., Any]) -> Given:
        """What handlers get that ask for this type: what stands for the world outside.

        Args:
            maker: a class or a function that makes it. Each coordination is a run of its own and gets another one. If
                it takes an argument, that is the simulated `World`: its ``sleep``, ``random`` and ``note``.
        """
        self.is_finished = True
        if not isinstance(kind, type):
            raise WrongSentence(f"provided({kind!r}, ...): first the type that handlers ask for, then what makes it")
        if not callable(maker):
            raise WrongSentence(
                f"provided({kind.__name__}, {maker!r}): every run needs one of its own; give the class, or a function "
                "that makes it"
            )
        return Given(replace(self._story, provided=(*self._story.provided, (kind, maker))), self._keep)

    def having(self, *messages: Command | Event) -> Given:
        """Commands that were done, or events that were heard, before: one after the other, and all that follows.

        Nothing of it counts for a `then`. A command that is refused is a mistake in the test.
        """
        self.is_finished = True
        for message in messages:
            _check_message(self._story, message, "having")
        return Given(replace(self._story, having=(*self._story.having, *messages)), self._keep)

    def when(self, *what: Command | Event | Behaviour) -> When:
        """Commands that a client sends, events that are heard from outside, and how participants behave meanwhile.

        What is given together, or with `When.and_when`, happens at once.
        """
        self.is_finished = True
        return When(replace(self._story, turns=(_turn(self._story, what),)), self._keep)


class When(Sentence):
    """A sentence that says what happens, and now can be asked what comes of it."""

    FOLLOWING = "say at least one .then...(...)"

    def __init__(self, story: Story, keep: Callable[[Sentence], object] | None, waits_s: float = 0.0) -> None:
        super().__init__(story, keep)
        self._waits_s = waits_s

    # -- going on ------------------------------------------------------------------------------------------------------

    def and_when(self, *what: Command | Event | Behaviour) -> When:
        """More that happens at the same time: as `Given.when`."""
        self.is_finished = True
        turn = _turn(self._story, what, self._waits_s)
        *before, last = self._story.turns
        if self._waits_s:
            turns = (*before, last, turn)
        else:
            behaviours, messages = (*last.behaviours, *turn.behaviours), (*last.messages, *turn.messages)
            turns = (*before, replace(last, behaviours=behaviours, messages=messages))
        return When(replace(self._story, turns=turns), self._keep)

    def when(self, *what: Command | Event | Behaviour) -> When:
        """The same as `and_when`; reads better behind `after`."""
        return self.and_when(*what)

    def after(self, seconds: float = 0.0, *, minutes: float = 0.0, hours: float = 0.0) -> When:
        """What is said next happens so long after what was said before. In virtual time: the test does not wait."""
        self.is_finished = True
        return When(self._story, self._keep, self._waits_s + duration_s("after", seconds, minutes, hours))

    # -- asking --------------------------------------------------------------------------------------------------------

    def then(self, event: Event | type[Event], **fields: Any) -> Then:
        """See `Then.then`."""
        __tracebackhide__ = True
        return self._played().then(event, **fields)

    def then_done(self, *commands: type[Command], **fields: Any) -> Then:
        """See `Then.then_done`."""
        __tracebackhide__ = True
        return self._played().then_done(*commands, **fields)

    def then_undone(self, *commands: type[Command]) -> Then:
        """See `Then.then_undone`."""
        __tracebackhide__ = True
        return self._played().then_undone(*commands)

    def then_never(self, message: type[Command] | type[Event] | Event, **fields: Any) -> Then:
        """See `Then.then_never`."""
        __tracebackhide__ = True
        return self._played().then_never(message, **fields)

    def then_ends(self, end: str, key: str | None = None, *, sagas: int | None = None) -> Then:
        """See `Then.then_ends`."""
        __tracebackhide__ = True
        return self._played().then_ends(end, key, sagas=sagas)

    def then_rejected(self, command: type[Command]) -> Then:
        """See `Then.then_rejected`."""
        __tracebackhide__ = True
        return self._played().then_rejected(command)

    def then_shows(self, query: Query, **fields: Any) -> Then:
        """See `Then.then_shows`."""
        __tracebackhide__ = True
        return self._played().then_shows(query, **fields)

    def then_holds(self, check: Callable[[World], object]) -> Then:
        """See `Then.then_holds`."""
        __tracebackhide__ = True
        return self._played().then_holds(check)

    def _played(self) -> Then:
        __tracebackhide__ = True
        self.is_finished = True
        if self._waits_s:
            raise WrongSentence("after(...) comes before what happens then; say .when(...) behind it")
        _check_absent(self._story)
        return Then(self._story)


def given(app: App, *, coordination: str | None = None, seed: int = 0) -> Given:
    """Begin a sentence about this app.

        given(app)
            .having(SetStock(item="ITEM001", on_hand=5))
            .when(PlaceOrder(order_id="o1", customer_id="c1", items=["ITEM001"]))
            .and_when(payment.refuses(ProcessPayment, PaymentDeclined(order_id="o1", reason="no money")))
            .then_undone(ReserveInventory)
            .then_ends("compensated")

    It is played on the real runtime and in-memory SQLite, every service a process of its own, in virtual time: once by
    choreography and once by orchestration.

    Args:
        coordination: one of them, if only that is meant.
        seed: of everything random; another one is another order of what happens at the same time.
    """
    return Given(begin(app, coordination=coordination, seed=seed))


def begin(app: App, *, coordination: str | None = None, seed: int = 0) -> Story:
    """The story of a sentence of which nothing is said yet. See `given`."""
    if coordination is None:
        coordinations = BOTH
    elif coordination in BOTH:
        coordinations = (coordination,)
    else:
        raise WrongSentence(f"given(..., coordination={coordination!r}): there are {' and '.join(BOTH)}")
    if not app.sagas:
        coordinations = ("",)
    return Story(app=app, words=Vocabulary(app), coordinations=coordinations, seed=seed)


def _turn(story: Story, what: tuple[Any, ...], after_s: float = 0.0) -> Turn:
    behaviours = tuple(one for one in what if isinstance(one, Behaviour))
    messages = tuple(one for one in what if not isinstance(one, Behaviour))
    if not what:
        raise WrongSentence("when(): what happens? Give a command, an event, or what a participant does")
    for behaviour in behaviours:
        behaviour.check(story.words, story.coordinations)
    for message in messages:
        _check_message(story, message, "when")
    return Turn(after_s=after_s, behaviours=behaviours, messages=messages)


def _check_message(story: Story, message: Any, where: str) -> None:
    if not isinstance(message, Command | Event):
        raise WrongSentence(
            f"{where}({getattr(message, '__name__', repr(message))}): give commands and events with their fields, or, "
            "for when, what a participant does: participant('payment').refuses(...)"
        )
    story.words.check_sent(message, f"{where}({name_of(message)})")


def _check_absent(story: Story) -> None:
    """Nobody would ever do a command to a service that is not there."""
    said = {one.about for one in story.behaviours}
    for command, saga in story.words.absent().items():
        if command not in said:
            service = command.__contract__.service
            raise WrongSentence(
                f"saga {saga.name} sends {name_of(command)} to {service}, which is not in app {story.app.name}; say "
                f"what it does: .and_when(participant({service!r}).answers({name_of(command)}, ...))"
            )
