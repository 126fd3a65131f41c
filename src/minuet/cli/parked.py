"""`minuet parked`: what no service can go on with by itself, and what an operator does about it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from minuet.cli.audit import WhoOption, WhyOption, operator
from minuet.cli.loading import AppOption, ConfigOption, DataOption, JsonOption, observing, outside_of, run_async
from minuet.cli.many import DryRunOption, MostOption, WhereOption, YesOption, do_to_many, filter_of, one_of
from minuet.cli.tables import console, in_one_line, listed, moment, print_json, readable, table

if TYPE_CHECKING:
    from minuet.bootstrap import System
    from minuet.core.operating import Filter
    from minuet.observer import ParkedView

app = typer.Typer(help="Messages and commands that need an operator.", no_args_is_help=True)

IdArgument = Annotated[str, typer.Argument(metavar="ID", help="As `minuet parked list` names it.")]
OneArgument = Annotated[str | None, typer.Argument(metavar="ID", help="As `minuet parked list` names it.")]


@app.command("list")
def list_parked(
    where: WhereOption = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=100_000, help="At most so many.")] = 200,
    app: AppOption = None,
    data: DataOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """List everything that is parked, the oldest first.

    Example: minuet parked list
    """

    which = filter_of(where) if where else None

    async def look() -> list[ParkedView]:
        if which:
            async with outside_of(app, data, config) as system:
                return await system.operator.parked(which, limit=limit)
        async with observing(app, data, config) as observer:
            return await observer.parked(limit=limit)

    views = run_async(look)
    if as_json:
        print_json({"parked": views})
    elif not views:
        console().print("nothing is parked")
    else:
        console().print(_list(views), crop=False)


def _list(views: list[ParkedView]) -> Any:
    from rich.text import Text

    rows = table()
    # An id is for copying, so it is never cut.
    rows.add_column("id", no_wrap=True, min_width=max(len(in_one_line(one.id)) for one in views))
    rows.add_column("what", no_wrap=True)
    rows.add_column("since", no_wrap=True)
    rows.add_column("why", ratio=4)
    for one in views:
        tried = f" (tried {one.attempts} times)" if one.attempts else ""
        what = in_one_line(f"{one.kind} {one.type}")
        rows.add_row(Text(in_one_line(one.id)), Text(what), moment(one.parked_at), Text(one.reason + tried))
    return rows


@app.command("show")
def show_parked(
    parked_id: IdArgument,
    app: AppOption = None,
    data: DataOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show one of them with its attributes and its body.

    Example: minuet parked show inventory:orders/17
    """

    async def look() -> ParkedView:
        async with observing(app, data, config) as observer:
            return await observer.parked_one(parked_id)

    view = run_async(look)
    if as_json:
        print_json(view)
    else:
        _print_one(view)


def _print_one(view: ParkedView) -> None:
    from rich.json import JSON
    from rich.text import Text

    screen = console()
    screen.print(Text(in_one_line(view.id), style="bold"), soft_wrap=True)
    where = f" on {view.channel}" if view.channel else ""
    screen.print(Text(in_one_line(f"{view.kind} {view.type}{where}, parked {moment(view.parked_at)}"), style="dim"))
    tried = f" (tried {view.attempts} times)" if view.attempts else ""
    screen.print(Text.assemble("why: ", (view.reason + tried, "red")))
    rows = table("Attributes", show_header=False, box=None, padding=(0, 2, 0, 0))
    for name, value in sorted(view.attributes.items()):
        rows.add_row(Text(in_one_line(name), style="dim"), Text(in_one_line(value)))
    screen.print()
    screen.print(rows)
    screen.print(Text("\nBody", style="bold"))
    body = readable(view.body)
    screen.print(Text(body) if isinstance(body, str) else JSON.from_data(body), soft_wrap=True)


@app.command("retry")
def retry(
    parked_id: OneArgument = None,
    body: Annotated[
        Path | None,
        typer.Option("--body", metavar="FILE", exists=True, dir_okay=False, help="Mend its body first."),
    ] = None,
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
    """Try it again: a message is taken in once more by whoever has parked it, a command is due once more.

    Example: minuet parked retry inventory:orders/17 --body mended.json
    """
    one_of(ID=parked_id, where=where)
    which = filter_of(where) if where else None
    if where and body is not None:
        raise typer.BadParameter("one body does not mend many", param_hint="--body")

    async def mend() -> None:
        async with outside_of(app, data, config) as system:
            if which:
                await _to_many(
                    system, "retry", which, limit, dry_run=dry_run, yes=yes, who=who, why=why, as_json=as_json
                )
                return
            assert parked_id is not None
            sent = body.read_bytes() if body else None
            taken = await system.operator.retry_parked(parked_id, body=sent, who=operator(who), why=why)
            services = sorted(one.service for one in taken)
            if as_json:
                print_json({"id": parked_id, "services": services})
            else:
                typer.echo(in_one_line(_retried(taken[0], services, is_mended=body is not None)))

    run_async(mend)


def _retried(view: ParkedView, services: list[str], *, is_mended: bool) -> str:
    if view.kind != "message":
        return f"{view.type} is due again; {view.service} takes it up as soon as it runs"
    mended = ", mended," if is_mended else ""
    goes_on = f"goes on as soon as {'it runs' if len(services) == 1 else 'they run'}"
    return f"{view.type}{mended} is taken in by {listed(services)}; what it makes due {goes_on}"


@app.command("discard")
def discard(
    parked_id: OneArgument = None,
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
    """Take a parked message away for good. A command is retried or answered: somebody is owed its answer.

    Example: minuet parked discard inventory:orders/17 --yes
    """
    one_of(ID=parked_id, where=where)
    which = filter_of(where) if where else None

    async def forget() -> None:
        async with outside_of(app, data, config) as system:
            if which:
                await _to_many(
                    system, "discard", which, limit, dry_run=dry_run, yes=yes, who=who, why=why, as_json=as_json
                )
                return
            assert parked_id is not None
            view = await system.observer.parked_one(parked_id)
            if view.kind == "message" and not yes:
                typer.confirm(f"Discard {view.type} for good? It cannot be brought back.", abort=True, err=True)
            view = await system.operator.discard_parked(parked_id, who=operator(who), why=why)
            if as_json:
                print_json(view)
            else:
                typer.echo(in_one_line(f"{view.id} is gone: {view.type}, parked because {view.reason}"))

    run_async(forget)


@app.command("answer")
def answer(
    parked_id: OneArgument = None,
    event: Annotated[
        str | None, typer.Option("--event", metavar="TYPE", help="The answer's type; a reaction owes none.")
    ] = None,
    body: Annotated[
        str,
        typer.Option(
            "--body",
            metavar="JSON",
            help="What it says; with --where, what it leaves out is taken from each command, by the same name.",
        ),
    ] = "{}",
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
    """Say what came of a parked command in the place of its service, which did it otherwise, or never will.

    The answer is published and goes its way as if the service had given it. A reaction is skipped.

    Example: minuet parked answer shipping:CancelShipment/o1 --event ShipmentCancelled --body '{"orderId": "o1"}'
    """
    import json

    one_of(ID=parked_id, where=where)
    which = filter_of(where) if where else None
    try:
        said = json.loads(body)
    except ValueError as error:
        raise typer.BadParameter(f"it is not JSON: {error}", param_hint="--body") from None
    if not isinstance(said, dict):
        raise typer.BadParameter("it is not a JSON object", param_hint="--body")

    async def settle() -> None:
        async with outside_of(app, data, config) as system:
            if which:
                await _to_many(
                    system,
                    "answer",
                    which,
                    limit,
                    dry_run=dry_run,
                    yes=yes,
                    who=who,
                    why=why,
                    as_json=as_json,
                    event=event,
                    content=said,
                )
                return
            assert parked_id is not None
            view = await system.observer.parked_one(parked_id)
            if event is not None:
                system.codec.event_of(event, said)  # before anybody is asked
            if view.kind != "message" and not yes:
                asked = f"answer {event} for {view.type}" if event else f"skip {view.type}"
                typer.confirm(in_one_line(f"{asked}? It cannot be taken back."), abort=True, err=True)
            await system.operator.answer_parked(parked_id, event, said, who=operator(who), why=why)
            if as_json:
                print_json({"id": parked_id, "event": event})
            else:
                told = (
                    f"{view.type} is done: {event or 'skipped'}; what follows from it goes on as soon as services run"
                )
                typer.echo(in_one_line(told))

    run_async(settle)


async def _to_many(
    system: System,
    verb: str,
    which: Filter,
    limit: int,
    *,
    dry_run: bool,
    yes: bool,
    who: str | None,
    why: str,
    as_json: bool,
    event: str | None = None,
    content: dict[str, Any] | None = None,
) -> None:
    views = await system.operator.parked(which, limit=limit)
    names = [view.id for view in views]
    acting = system.operator.to_parked(verb, views, who=operator(who), why=why, event=event, content=content)
    await do_to_many(verb, names, acting, dry_run=dry_run, yes=yes, as_json=as_json)
