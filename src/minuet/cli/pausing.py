"""`minuet sagas pause`, `resume`, `retry`, `cancel` and `paused`: what an operator says of work that goes on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from minuet.cli.audit import WhoOption, WhyOption, operator
from minuet.cli.loading import (
    AppOption,
    ConfigOption,
    DataOption,
    JsonOption,
    find_saga,
    observing,
    outside_of,
    run_async,
)
from minuet.cli.many import DryRunOption, MostOption, WhereOption, YesOption, do_to_many, filter_of, one_of
from minuet.cli.tables import console, in_one_line, moment, print_json, table

if TYPE_CHECKING:
    from minuet.bootstrap import System
    from minuet.core.operating import Filter
    from minuet.observer import PausedView

IdArgument = Annotated[str | None, typer.Argument(metavar="ID", help="Of the saga.")]
SagaOption = Annotated[
    str | None, typer.Option("--saga", help="With ID: the saga's name, where several sagas use one id.")
]
AllOfOption = Annotated[str | None, typer.Option("--all-of", metavar="SAGA", help="All sagas of this type.")]
ServiceOption = Annotated[
    str | None, typer.Option("--service", metavar="NAME", help="Whatever this service does; or the orchestrator.")
]

TOLD = {
    "cancel": (
        "{} is cancelled; everybody hears of it: whoever is next refuses its step, unless nothing can be refused any "
        "more",
        "{} was cancelled before",
    ),
    "pause": (
        "{} is paused; everybody hears of it: what is under way ends, and nothing more is begun",
        "{} was paused before; everybody is told once more",
    ),
    "resume": ("{} goes on; everybody hears of it", "{} was not paused; everybody is told all the same"),
    "retry": ("{} is tried again now, where it waits for its next attempt", ""),
}


def cancel_saga(
    saga_id: IdArgument = None,
    saga: SagaOption = None,
    where: WhereOption = None,
    limit: MostOption = 1000,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    who: WhoOption = None,
    why: WhyOption = "",
    app: AppOption = None,
    data: DataOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say that a saga is no longer wanted: whoever is next refuses its step, and what was done is undone.

    It may come too late, and then the saga completes.

    Example: minuet sagas cancel ORD12345 --why "the customer changed her mind"
    """
    one_of(ID=saga_id, where=where)
    which = filter_of(where) if where else None

    async def work() -> None:
        async with outside_of(app, data, config) as system:
            said = Said(system, "cancel", operator(who), why, as_json)
            if which:
                await said.to_many(which, limit, dry_run=dry_run, yes=yes)
            else:
                await said.to_one({"id": saga_id}, str(saga_id), saga_id, saga=_known(system, saga))

    run_async(work)


def _instructing(verb: str, what: str) -> Callable[..., None]:
    """A command that says this of one saga, all of a type, what a service does, or of many; ``what`` is its help."""

    def instruct(
        saga_id: IdArgument = None,
        saga: SagaOption = None,
        all_of: AllOfOption = None,
        service: ServiceOption = None,
        where: WhereOption = None,
        limit: MostOption = 1000,
        dry_run: DryRunOption = False,
        yes: YesOption = False,
        who: WhoOption = None,
        why: WhyOption = "",
        app: AppOption = None,
        data: DataOption = None,
        config: ConfigOption = None,
        as_json: JsonOption = False,
    ) -> None:
        one_of(ID=saga_id, all_of=all_of, service=service, where=where)
        which = filter_of(where) if where else None
        told = {"id": saga_id} if saga_id else {"all_of": all_of} if all_of else {"service": service}
        name = saga_id or (f"every {all_of}" if all_of else str(service))

        async def work() -> None:
            async with outside_of(app, data, config) as system:
                said = Said(system, verb, operator(who), why, as_json)
                if which:
                    await said.to_many(which, limit, dry_run=dry_run, yes=yes)
                else:
                    scope = {"saga": _known(system, saga), "all_of": _known(system, all_of), "service": service}
                    await said.to_one(told, name, saga_id, **scope)

        run_async(work)

    instruct.__doc__ = what
    return instruct


pause = _instructing(
    "pause",
    """Begin nothing more of a saga, of all sagas of a type, or of what a service does, until it is resumed.

    What is under way ends, and messages are kept. Deadlines go on counting.

    Example: minuet sagas pause --service payment --why "the bank is being moved"
    """,
)
resume = _instructing(
    "resume",
    """Let go on what was paused. What is paused in several ways goes on when the last of them is taken back.

    Example: minuet sagas resume --service payment
    """,
)
retry = _instructing(
    "retry",
    """Try at once what has failed and waits for its next attempt. What needs an operator: see `minuet parked retry`.

    Example: minuet sagas retry --service payment --why "the bank is back"
    """,
)


@dataclass(frozen=True, slots=True)
class Said:
    """What an operator says on the command line: of one thing, or of many sagas."""

    system: System
    verb: str
    who: str
    why: str
    as_json: bool

    async def to_one(self, told: dict[str, Any], name: str, saga_id: str | None, **scope: str | None) -> None:
        """Say it, and tell that.

        Args:
            told: what it was said of, for programs. name: the same, for people.
        """
        say = getattr(self.system, self.verb)
        is_old = await say(saga_id, **scope, who=self.who, why=self.why) is False
        if self.as_json:
            is_now = {"cancel": {"cancelled": True}, "pause": {"paused": True}, "resume": {"paused": False}}
            print_json({**told, **is_now.get(self.verb, {}), "before": is_old})
        else:
            typer.echo(in_one_line(TOLD[self.verb][is_old].format(name)))

    async def to_many(self, which: Filter, limit: int, *, dry_run: bool, yes: bool) -> None:
        """Ask, say it of each, and tell what came of it."""
        views = await self.system.operator.sagas(which, limit=limit)
        names = [f"{view.saga}/{view.id}" for view in views]
        acting = self.system.operator.to_sagas(self.verb, views, who=self.who, why=self.why)
        await do_to_many(self.verb, names, acting, dry_run=dry_run, yes=yes, as_json=self.as_json)


def _known(system: System, saga: str | None) -> str | None:
    """The same, if the app has such a saga; else it says which it has."""
    return None if saga is None else find_saga(system.app, saga).name


def paused(
    app: AppOption = None, data: DataOption = None, config: ConfigOption = None, as_json: JsonOption = False
) -> None:
    """List what is paused, the oldest first: by whom, since when, and why.

    Example: minuet sagas paused
    """

    async def look() -> list[PausedView]:
        async with observing(app, data, config) as observer:
            return await observer.paused()

    views = run_async(look)
    if as_json:
        print_json({"paused": views})
        return
    from rich.text import Text

    if not views:
        console().print("nothing is paused")
        return
    rows = table()
    for heading in ("paused", "since", "by", "at", "why"):
        rows.add_column(heading, overflow="fold")
    for one in views:
        told = (in_one_line(text) for text in (one.who, ", ".join(one.places), one.why))
        rows.add_row(Text(in_one_line(one.what)), moment(one.at), *map(Text, told))
    console().print(rows)
