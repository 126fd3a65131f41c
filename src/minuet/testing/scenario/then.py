"""What is asked of a sentence that was played: what must be so, in every coordination, and what it is told if not."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from minuet.core.compile import UNDO_SUFFIX
from minuet.core.errors import Rejected
from minuet.core.messages import Command, Event, Message, Query, View, name_of
from minuet.testing.scenario.happened import ENDS, Happened, SagaStory, is_at
from minuet.testing.scenario.stage import Story, play
from minuet.testing.scenario.vocabulary import WrongSentence, given_fields
from minuet.testing.simulation import World


class Then:
    """A sentence that was played, in each coordination; every word that follows is checked in each.

    A failure says in which coordination, what comes nearest, what became of every saga, and shows who said what to
    whom. Every word raises AssertionError if it is not so, and WrongSentence if it can never be so.
    """

    def __init__(self, story: Story) -> None:
        __tracebackhide__ = True
        self._story = story
        self._words = story.words
        self._runs: list[Happened] = []
        for coordination in story.coordinations:
            run = play(story, coordination)
            weakref.finalize(self, run.close)
            self._runs.append(run)
        for run in self._runs:
            for behaviour in run.unused:
                about = behaviour.about
                why = run.why_not_done(about, {}) if about is not None else ("nothing was parked then",)
                self._fail(run, f"when {behaviour.in_words}: it never came to that", why)

    def then(self, event: Event | type[Event], **fields: Any) -> Then:
        """Somebody told this event, a refusal too.

        Args:
            event: what is given of it is compared, and what is left out is not; or only its class.
            fields: values that it must have.
        """
        __tracebackhide__ = True
        where = f"then({_call(event, fields)})"
        kind = self._words.check_told(type(event) if isinstance(event, Event) else event, where)
        self._words.check_fields(kind, fields, where)
        wanted = {**(given_fields(event) if isinstance(event, Event) else {}), **fields}
        return self._each(where, lambda run: run.events(kind, wanted), lambda run: run.why_not_told(kind, wanted))

    def then_done(self, *commands: type[Command], **fields: Any) -> Then:
        """These commands were done, in this order; whether they were undone later is another question.

        Args:
            fields: values that each of them must have: ``then_done(ProcessPayment, order_id="o1")``.
        """
        __tracebackhide__ = True
        where = f"then_done({', '.join(map(_name, commands))}{''.join(f', {k}={v!r}' for k, v in fields.items())})"
        _check_some(commands, where)
        for command in commands:
            self._words.check_command(command, where)
            self._words.check_fields(command, fields, where)
        for command in commands:
            self._each(
                where,
                lambda run, command=command: any(one.is_done for one in run.asked(command, fields)),  # type: ignore[misc]
                lambda run, command=command: run.why_not_done(command, fields),  # type: ignore[misc]
            )

        def in_order(run: Happened) -> bool:
            last = 0
            for command in commands:
                later = [one.decided for one in run.asked(command, fields) if one.is_done and one.decided > last]
                if not later:
                    return False
                last = min(later)
            return True

        return self._each(where, in_order, lambda run: [_order(run, [name_of(one) for one in commands])])

    def then_undone(self, *commands: type[Command]) -> Then:
        """These commands, steps of a saga, were done and then undone: the undos in this order."""
        __tracebackhide__ = True
        where = f"then_undone({', '.join(map(_name, commands))})"
        _check_some(commands, where)
        undos: list[tuple[type[Command], dict[str, str]]] = []
        for command in commands:
            self._words.check_undo(command, where)
            undos.append((command, {saga.name: rule for saga, rule, _ in self._words.undos(command)}))
        for command, rules in undos:
            self._each(
                where,
                lambda run, rules=rules: any(_undone_at(story, rules) for story in run.sagas),  # type: ignore[misc]
                lambda run, command=command: [  # type: ignore[misc]
                    why for _, _, undo in self._words.undos(command) for why in run.why_not_done(undo, {})
                ],
            )

        def in_order(run: Happened) -> bool:
            for story in run.sagas:
                places = [_undone_at(story, rules) for _, rules in undos]
                if all(places) and places == sorted(places):
                    return True
            return False

        undo_names = [name_of(undo) for command in commands for _, _, undo in self._words.undos(command)]
        return self._each(where, in_order, lambda run: [_order(run, undo_names)])

    def then_never(self, message: type[Command] | type[Event] | Event, **fields: Any) -> Then:
        """Nobody was ever asked for this command, or ever told this event."""
        __tracebackhide__ = True
        where = f"then_never({_call(message, fields)})"
        if isinstance(message, type) and issubclass(message, Command):
            command = self._words.check_command(message, where)
            self._words.check_fields(command, fields, where)
            return self._each(
                where,
                lambda run: not run.asked(command, fields),
                lambda run: [str(one) for one in run.asked(command, fields)],
            )
        if isinstance(message, Command):
            raise WrongSentence(
                f"{where}: give the command's class, and fields: then_never({_name(type(message))}, ...)"
            )
        kind = self._words.check_told(type(message) if isinstance(message, Event) else message, where)
        self._words.check_fields(kind, fields, where)
        wanted = {**(given_fields(message) if isinstance(message, Event) else {}), **fields}
        return self._each(
            where, lambda run: not run.events(kind, wanted), lambda run: [str(one) for one in run.events(kind, wanted)]
        )

    def then_ends(self, end: str, key: str | None = None, *, sagas: int | None = None) -> Then:
        """The saga ends so: ``"completed"``, ``"compensated"`` or ``"needs operator"``.

        Args:
            key: which saga, by the value of its key. Without it: every one that began, and one did.
            sagas: exactly so many of them end so, whichever they are.
        """
        __tracebackhide__ = True
        where = f"then_ends({end!r}{f', {key!r}' if key is not None else ''}{f', sagas={sagas}' if sagas else ''})"
        if end not in ENDS:
            raise WrongSentence(f"{where}: a saga ends {', '.join(map(repr, ENDS))}")
        if not self._words.app.sagas:
            raise WrongSentence(f"{where}: app {self._words.app.name} has no saga")

        def of_key(run: Happened) -> list[SagaStory]:
            return [one for one in run.sagas if key is None or one.id == key]

        def is_so(run: Happened) -> bool:
            so = [one.end == end for one in of_key(run)]
            return so.count(True) == sagas if sagas is not None else bool(so) and all(so)

        def nearest(run: Happened) -> list[str]:
            told = [f"{one.name} {is_at(one.end)}" + _reasons(one) for one in of_key(run)]
            return told or [f"no saga {key or ''} began".replace("  ", " "), *run.problems, *run._refused_commands()]

        return self._each(where, is_so, nearest)

    def then_rejected(self, command: type[Command]) -> Then:
        """The client was told that this command will never be answered as it stands: its handler raised `Rejected`."""
        __tracebackhide__ = True
        where = f"then_rejected({_name(command)})"
        self._words.check_command(command, where)
        begin = f"{name_of(command)} was rejected"
        return self._each(
            where,
            lambda run: any(one.startswith(begin) for one in run.problems),
            lambda run: [str(one) for one in run.asked(command)] or ["nobody sent it"],
        )

    def then_shows(self, query: Query, **fields: Any) -> Then:
        """Asked at the end, the query's view has these values: ``then_shows(GetStock(item="ITEM001"), reserved=0)``."""
        __tracebackhide__ = True
        where = f"then_shows({query!r}{''.join(f', {name}={value!r}' for name, value in fields.items())})"
        self._words.check_query(query, where)
        self._words.check_fields(type(query).__answer__, fields, where)
        seen: dict[str, View | str] = {}

        for coordination in self._story.coordinations:

            async def look(world: World, coordination: str = coordination) -> None:
                try:
                    seen[coordination] = await world.ask(query)
                except Rejected as error:
                    seen[coordination] = f"{type(error).__name__}: {error}"

            play(self._story, coordination, look).close()

        def is_so(run: Happened) -> bool:
            view = seen[run.coordination]
            return isinstance(view, View) and all(getattr(view, name) == value for name, value in fields.items())

        return self._each(where, is_so, lambda run: [f"it shows {seen[run.coordination]!r}"])

    def then_holds(self, check: Callable[[World], object]) -> Then:
        """At the end this holds. It looks at the `World`, its ``rows`` and ``provided``; it asserts, or returns False.

        The same function can be an invariant of a `Simulation`.
        """
        __tracebackhide__ = True
        name = (check.__doc__ or check.__name__.replace("_", " ")).strip().partition("\n")[0]
        said: dict[str, str] = {}
        for run in self._runs:
            assert run.world is not None
            try:
                said[run.coordination] = "it returned False" if check(run.world) is False else ""
            except Exception as error:
                kind = "" if isinstance(error, AssertionError) and str(error) else f"{type(error).__name__} "
                said[run.coordination] = f"{kind}{error}".strip()
        return self._each(
            f"then_holds({name})", lambda run: not said[run.coordination], lambda run: [said[run.coordination]]
        )

    # -- failing -------------------------------------------------------------------------------------------------------

    def _each(
        self, what: str, is_so: Callable[[Happened], object], nearest: Callable[[Happened], Iterable[str]]
    ) -> Then:
        __tracebackhide__ = True
        for run in self._runs:
            if not is_so(run):
                others = "".join(f" By {one.coordination} it is so." for one in self._runs if is_so(one))
                self._fail(run, f"{what}: that is not so", nearest(run), others)
        return self

    def _fail(self, run: Happened, what: str, nearest: Iterable[str], others: str = "") -> None:
        __tracebackhide__ = True
        near = "\n".join(f"  {one}" for one in dict.fromkeys(nearest))
        raise AssertionError(f"{what}, played {run.where}(seed {run.seed}).{others}\n{near}\n\nWhat happened:\n\n{run}")


def _check_some(commands: tuple[Any, ...], where: str) -> None:
    if not commands:
        raise WrongSentence(f"{where}: which commands?")


def _undone_at(story: SagaStory, rules: Mapping[str, str]) -> int:
    """When the step was undone, counted in decisions; 0 if it was not."""
    undo = story.deed(rules.get(story.definition.name, ""))
    done = story.deed(rules.get(story.definition.name, "").removesuffix(UNDO_SUFFIX))
    return undo.decided if undo is not None and undo.is_done and done is not None and done.is_done else 0


def _order(run: Happened, wanted: list[str]) -> str:
    done = [name_of(one.command) for one in run.deeds if one.is_done and name_of(one.command) in wanted]
    return f"the order was {', '.join(done)}"


def _reasons(story: SagaStory) -> str:
    why = [str(one) for one in story.deeds if not (one.decided and one.is_done)]
    return f": {'; '.join(why)}" if why else ""


def _call(message: Any, fields: Mapping[str, Any]) -> str:
    shown = repr(message) if isinstance(message, Message) else _name(message)
    return shown + "".join(f", {name}={value!r}" for name, value in fields.items())


def _name(what: Any) -> str:
    return getattr(what, "__name__", repr(what))
