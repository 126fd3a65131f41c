"""What happened in a run of a sentence, and how it is told to a person whose test has failed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from minuet.core.compile import UNDO_SUFFIX
from minuet.core.messages import Command, Event, Refusal, name_of
from minuet.core.saga import COMPENSATED, COMPLETED, Saga
from minuet.ports import EntryState
from minuet.testing.scenario.participants import Behaviour
from minuet.testing.scenario.vocabulary import Vocabulary, matches
from minuet.testing.simulation import World
from minuet.testing.simulation.trace import Moment, sequence_diagram

MOMENTS_SHOWN = 60
NOT_ENDED, NEEDS_OPERATOR = "not ended", "needs operator"
ENDS = (COMPLETED, COMPENSATED, NEEDS_OPERATOR)


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """An event that a service published."""

    event: Event
    sender: str

    def __str__(self) -> str:
        return f"{self.sender} told {self.event!r}"


@dataclass(slots=True, kw_only=True)
class Deed:
    """A command that a participant has in its inbox, and what came of it.

    Attributes:
        message: None while the command is not built.
        saga: its name and id, with the rule that made it due; None if a client sent it.
        decided: counts the decisions of the run; 0 while there is none.
    """

    service: str
    command: type[Command]
    message: Command | None
    saga: tuple[str, str] | None
    rule: str
    state: EntryState = EntryState.DUE
    attempts: int = 0
    error: str = ""
    answer: Event | None = None
    decided: int = 0

    @property
    def is_done(self) -> bool:
        return self.answer is not None and not isinstance(self.answer, Refusal)

    def __str__(self) -> str:
        name = name_of(self.command)
        if isinstance(self.answer, Refusal):
            return f"{self.service} refused {name} with {self.answer!r}"
        if self.answer is not None:
            return f"{self.service} did {name} and answered {self.answer!r}"
        if self.state is EntryState.PARKED:
            return f"{self.service} needs an operator for {name}, after {self.attempts} attempts: {self.error}"
        return f"{self.service} has {name} still to do{f': {self.error}' if self.error else ''}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SagaStory:
    """A saga that began: its deeds in the order of their decisions, and how it ended."""

    definition: Saga
    id: str
    end: str
    deeds: Sequence[Deed]

    @property
    def name(self) -> str:
        return f"{self.definition.name} {self.id}"

    def deed(self, rule: str) -> Deed | None:
        return next((one for one in self.deeds if one.rule == rule), None)

    def __str__(self) -> str:
        lines = [f"{self.name}: {self.end}"]
        lines += [f"  {one.rule:<24} {one}" for one in self.deeds] or ["  nobody was asked for anything"]
        return "\n".join(lines)


@dataclass(slots=True, kw_only=True)
class Happened:
    """One run, in one coordination, from the first `when` on.

    Attributes:
        problems: why commands that were sent got no answer.
        remarks: what whoever looks for the reason of a failure should know.
        unused: behaviours that never came to pass.
        world: as it was when all was over. close: what ends it for good.
    """

    words: Vocabulary
    coordination: str
    seed: int
    told: list[Told] = field(default_factory=list)
    deeds: list[Deed] = field(default_factory=list)
    sagas: list[SagaStory] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    unused: list[Behaviour] = field(default_factory=list)
    moments: list[Moment] = field(default_factory=list)
    world: World | None = None
    close: Callable[[], None] = lambda: None

    @property
    def where(self) -> str:
        return f"by {self.coordination} " if self.coordination else ""

    # -- what there is -------------------------------------------------------------------------------------------------

    def events(self, kind: type[Event], fields: dict[str, Any]) -> list[Told]:
        return [one for one in self.told if isinstance(one.event, kind) and matches(one.event, fields)]

    def asked(self, command: type[Command], fields: dict[str, Any] | None = None) -> list[Deed]:
        """In the order of their decisions; those without one are last."""
        found = [one for one in self.deeds if one.command is command and matches(one.message, fields or {})]
        return sorted(found, key=lambda one: (not one.decided, one.decided))

    # -- what there is not, and why ------------------------------------------------------------------------------------

    def why_not_told(self, kind: type[Event], fields: dict[str, Any]) -> Iterator[str]:
        """The nearest that there is to an event that nobody told."""
        others = self.events(kind, {})
        for one in others:
            wrong = [
                f"{name}={getattr(one.event, name)!r}, not {wanted!r}"
                for name, wanted in fields.items()
                if getattr(one.event, name) != wanted
            ]
            yield f"{one}: {', '.join(wrong)}"
        if others:
            return
        said: dict[str, None] = {}
        for command in self.words.tellers(kind):
            asked = self.asked(command)
            told = [str(one) for one in asked] or self.why_not_asked(command)
            said |= dict.fromkeys(told)
        for reaction in self.words.reactions_that_tell(kind):
            assert issubclass(reaction.message, Event)
            heard = "it was told" if self.events(reaction.message, {}) else "nobody told it"
            said[f"{reaction.service} does when it hears {name_of(reaction.message)}: {heard}"] = None
        yield from said or [f"nobody told {name_of(kind)}"]

    def why_not_done(self, command: type[Command], fields: dict[str, Any]) -> Iterator[str]:
        """What became of a command instead of its being done."""
        asked = self.asked(command)
        for one in asked:
            yield str(one) + (f" (asked was {one.message!r})" if one.is_done and fields else "")
        if not asked:
            yield from self.why_not_asked(command)

    def why_not_asked(self, command: type[Command]) -> Iterator[str]:
        """Why nobody was ever asked for it, of each saga in which it could have been."""
        said = f"{command.__contract__.service} was never asked for {name_of(command)}: "
        rules = [
            (saga, rule.id) for saga in self.words.app.sagas for rule in saga.rules.every if rule.command is command
        ]
        if not rules:
            yield said + "no saga does, and nobody sent it"
        for saga, rule in rules:
            begun = [one for one in self.sagas if one.definition.name == saga.name]
            if not begun:
                yield said + "; ".join([f"no {saga.name} began", *self.problems, *self._refused_commands()])
            for story in begun:
                yield f"{said}{self._obstacle(story, rule)} ({story.name} {is_at(story.end)})"

    def _refused_commands(self) -> list[str]:
        return [str(one) for one in self.deeds if one.saga is None and isinstance(one.answer, Refusal)]

    def _obstacle(self, story: SagaStory, rule: str) -> str:
        """What kept a rule of the saga from its turn."""
        stuck = [str(one) for one in story.deeds if one.answer is None]
        refusals = [str(one) for one in story.deeds if isinstance(one.answer, Refusal)]
        step = rule.removesuffix(UNDO_SUFFIX)
        if rule.endswith(UNDO_SUFFIX):
            done = story.deed(step)
            if done is None:
                return "; ".join([f"{step} was not even begun", *refusals])
            if not done.is_done:
                return str(done)
            return "; ".join(stuck or refusals or ["nobody refused anything"])
        if rule == COMPENSATED:
            return "; ".join(stuck or refusals or ["nobody refused anything"])
        return "; ".join(
            refusals or stuck or (["it began with an end"] if rule == COMPLETED else ["nothing led there"])
        )

    # -- telling it ----------------------------------------------------------------------------------------------------

    def __str__(self) -> str:
        """Everything: the sagas, what clients sent, and the sequence diagram."""
        parts = [str(story) for story in self.sagas]
        alone = [str(one) for one in self.deeds if one.saga is None]
        parts += ["\n".join([*alone, *self.problems])] if alone or self.problems else []
        parts += ["no saga began"] if self.words.app.sagas and not self.sagas else []
        parts += self.remarks
        shown = self.moments[-MOMENTS_SHOWN:]
        left_out = f"({len(self.moments) - len(shown)} moments before)\n" if len(self.moments) > len(shown) else ""
        parts.append(left_out + sequence_diagram(shown))
        return "\n\n".join(parts)


def is_at(end: str) -> str:
    """The end of a saga, in a sentence."""
    return {NOT_ENDED: "has not ended", NEEDS_OPERATOR: "needs an operator"}.get(end, f"is {end}")
