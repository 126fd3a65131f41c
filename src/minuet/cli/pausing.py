"""`minuet sagas pause`, `resume`, `retry`, `cancel` and `paused`: what an operator says of work that goes on."""

from __future__ import annotations

from pathlib import Path
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
from minuet.cli.many import DryRunOption, MostOption, WhereOption, YesOption, ask_first, do_to_all, filter_of, one_of
from minuet.cli.tables import console, in_one_line, moment, print_json, table

if TYPE_CHECKING:
    from minuet.bootstrap import System
    from minuet.observer import PausedView

IdArgument = Annotated[str | None, typer.Argument(metavar="[ID]", help="Of the saga.")]
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
    deployment = (app, data, config)
    if where:
        _to_many("cancel", where, limit, dry_run, yes, who, why, as_json, deployment)
    else:
        _to_one("cancel", saga_id, saga, None, None, who, why, as_json, deployment)


def pause(
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
    """Begin nothing more of a saga, of all sagas of a type, or of what a service does, until it is resumed.

    What is under way ends, and messages are kept. Deadlines go on counting.

    Example: minuet sagas pause --service payment --why "the bank is being moved"
    """
    one_of(ID=saga_id, all_of=all_of, service=service, where=where)
    deployment = (app, data, config)
    if where:
        _to_many("pause", where, limit, dry_run, yes, who, why, as_json, deployment)
    else:
        _to_one("pause", saga_id, saga, all_of, service, who, why, as_json, deployment)


def resume(
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
    """Let go on what was paused. What is paused in several ways goes on when the last of them is taken back.

    Example: minuet sagas resume --service payment
    """
    one_of(ID=saga_id, all_of=all_of, service=service, where=where)
    deployment = (app, data, config)
    if where:
        _to_many("resume", where, limit, dry_run, yes, who, why, as_json, deployment)
    else:
        _to_one("resume", saga_id, saga, all_of, service, who, why, as_json, deployment)


def retry(
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
    """Try at once what has failed and waits for its next attempt. What needs an operator: see `minuet parked retry`.

    Example: minuet sagas retry --service payment --why "the bank is back"
    """
    one_of(ID=saga_id, all_of=all_of, service=service, where=where)
    deployment = (app, data, config)
    if where:
        _to_many("retry", where, limit, dry_run, yes, who, why, as_json, deployment)
    else:
        _to_one("retry", saga_id, saga, all_of, service, who, why, as_json, deployment)


Deployment = tuple[str | None, Path | None, Path | None]


def _to_one(
    verb: str,
    saga_id: str | None,
    saga: str | None,
    all_of: str | None,
    service: str | None,
    who: str | None,
    why: str,
    as_json: bool,
    deployment: Deployment,
) -> None:
    async def work() -> bool:
        async with outside_of(*deployment) as system:
            for name in (saga, all_of):
                if name:
                    find_saga(system.app, name)
            what: dict[str, Any] = {"saga": saga}
            if verb != "cancel":
                what |= {"all_of": all_of, "service": service}
            is_new = await getattr(system, verb)(saga_id, **what, who=operator(who), why=why)
            return is_new is not False

    is_new = run_async(work)
    what = {"id": saga_id} if saga_id else {"all_of": all_of} if all_of else {"service": service}
    if as_json:
        told = {"cancel": {"cancelled": True}, "pause": {"paused": True}, "resume": {"paused": False}}.get(verb, {})
        print_json({**what, **told, "before": not is_new})
    else:
        name = saga_id or (f"every {all_of}" if all_of else str(service))
        typer.echo(in_one_line(TOLD[verb][not is_new].format(name)))


def _to_many(
    verb: str,
    where: list[str],
    limit: int,
    dry_run: bool,
    yes: bool,
    who: str | None,
    why: str,
    as_json: bool,
    deployment: Deployment,
) -> None:
    which = filter_of(where)

    async def work(system: System) -> None:
        views = await system.operator.sagas(which, limit=limit)
        names = [f"{view.saga}/{view.id}" for view in views]
        if ask_first(verb, names, dry_run=dry_run, yes=yes, as_json=as_json):
            acting = system.operator.to_sagas(verb, views, who=operator(who), why=why)
            await do_to_all(verb, names, acting, as_json=as_json)

    async def run() -> None:
        async with outside_of(*deployment) as system:
            await work(system)

    run_async(run)


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
