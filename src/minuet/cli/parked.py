"""`minuet parked`: what no service can go on with by itself, and what an operator does about it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from minuet.cli.audit import WhoOption, WhyOption, act_of
from minuet.cli.loading import AppOption, ConfigOption, DataOption, JsonOption, observing, outside_of, run_async
from minuet.cli.tables import console, in_one_line, listed, moment, print_json, readable, table
from minuet.core.errors import ConfigurationError, NotFound

if TYPE_CHECKING:
    from minuet.observer import Observer, ParkedView
    from minuet.ports import Act

app = typer.Typer(help="Messages and commands that need an operator.", no_args_is_help=True)

COPIES_MAX = 10_000

IdArgument = Annotated[str, typer.Argument(metavar="ID", help="As `minuet parked list` names it.")]


@app.command("list")
def list_parked(
    limit: Annotated[int, typer.Option("--limit", min=1, max=100_000, help="At most so many.")] = 200,
    app: AppOption = None,
    data: DataOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """List everything that is parked, the oldest first.

    Example: minuet parked list
    """

    async def look() -> list[ParkedView]:
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
    parked_id: IdArgument,
    body: Annotated[
        Path | None,
        typer.Option("--body", metavar="FILE", exists=True, dir_okay=False, help="Mend its body first."),
    ] = None,
    who: WhoOption = None,
    why: WhyOption = "",
    app: AppOption = None,
    data: DataOption = None,
    config: ConfigOption = None,
) -> None:
    """Try it again: a message is taken in once more by whoever has parked it, a command is due once more.

    Example: minuet parked retry inventory:orders/17 --body mended.json
    """

    async def mend() -> str:
        async with _at_work(app, data, config) as work:
            act = act_of("retry", parked_id.partition(":")[2], who, why)
            return await work.retry(parked_id, body.read_bytes() if body else None, act)

    typer.echo(in_one_line(run_async(mend)))


@app.command("discard")
def discard(
    parked_id: IdArgument,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    who: WhoOption = None,
    why: WhyOption = "",
    app: AppOption = None,
    data: DataOption = None,
    config: ConfigOption = None,
) -> None:
    """Take a parked message away for good. A command is retried or answered: somebody is owed its answer.

    Example: minuet parked discard inventory:orders/17 --yes
    """

    async def forget() -> ParkedView:
        async with observing(app, data, config) as observer:
            view = await observer.parked_one(parked_id)
            if view.kind == "message" and not yes:
                typer.confirm(f"Discard {view.type} for good? It cannot be brought back.", abort=True, err=True)
            return await observer.forget(parked_id, act_of("discard", parked_id.partition(":")[2], who, why))

    view = run_async(forget)
    typer.echo(in_one_line(f"{view.id} is gone: {view.type}, parked because {view.reason}"))


@app.command("answer")
def answer(
    parked_id: IdArgument,
    event: Annotated[
        str | None, typer.Option("--event", metavar="TYPE", help="The answer's type; a reaction owes none.")
    ] = None,
    body: Annotated[str, typer.Option("--body", metavar="JSON", help="What it says.")] = "{}",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    who: WhoOption = None,
    why: WhyOption = "",
    app: AppOption = None,
    data: DataOption = None,
    config: ConfigOption = None,
) -> None:
    """Say what came of a parked command in the place of its service, which did it otherwise, or never will.

    The answer is published and goes its way as if the service had given it. A reaction is skipped.

    Example: minuet parked answer shipping:CancelShipment/o1 --event ShipmentCancelled --body '{"orderId": "o1"}'
    """
    import json

    try:
        said = json.loads(body)
    except ValueError as error:
        raise typer.BadParameter(f"it is not JSON: {error}", param_hint="--body") from None
    if not isinstance(said, dict):
        raise typer.BadParameter("it is not a JSON object", param_hint="--body")

    async def settle() -> str:
        from minuet.core.errors import Rejected

        async with outside_of(app, data, config) as system:
            view = await system.observer.parked_one(parked_id)
            if view.kind == "message":
                raise Rejected(f"{parked_id} is a message, which owes nobody an answer; retry or discard it")
            outcome = None if event is None else system.codec.event_of(event, said)
            if not yes:
                asked = f"answer {event} for {view.type}" if event else f"skip {view.type}"
                typer.confirm(in_one_line(f"{asked}? It cannot be taken back."), abort=True, err=True)
            own = parked_id.partition(":")[2]
            await system.places[view.service].answer_for(own, outcome, act_of("answer", own, who, why))
            return f"{view.type} is done: {event or 'skipped'}; what follows from it goes on as soon as services run"

    typer.echo(in_one_line(run_async(settle)))


@dataclass(frozen=True, slots=True)
class AtWork:
    """What a retry needs."""

    observer: Observer
    hear: Any

    async def retry(self, parked_id: str, body: bytes | None, act: Act) -> str:
        view = await self.observer.parked_one(parked_id)
        if view.kind == "message":
            return await self._hear(view, body, act)
        if body is not None:
            raise ConfigurationError(
                f"{parked_id} is a {view.kind}: what it says is decided, so retry it without --body"
            )
        if not await self.observer.reopen(parked_id, act):
            raise NotFound(f"nothing is parked as {parked_id!r} any more")
        return f"{view.type} is due again; {view.service} takes it up as soon as it runs"

    async def _hear(self, view: ParkedView, body: bytes | None, act: Act) -> str:
        """Whoever else has parked the same message hears it again as well."""
        own = view.id.partition(":")[2]
        copies = [one for one in await self.observer.parked(limit=COPIES_MAX) if one.id.partition(":")[2] == own]
        for copy in copies:
            said = copy.body if body is None else body
            await self.hear(copy.service, own, copy.channel, copy.attributes, said, act)
        hearers = listed(sorted(copy.service for copy in copies))
        mended = ", mended," if body is not None else ""
        goes_on = f"goes on as soon as {'it runs' if len(copies) == 1 else 'they run'}"
        return f"{view.type}{mended} is taken in by {hearers}; what it makes due {goes_on}"


@asynccontextmanager
async def _at_work(app: str | None, data: Path | None, config: Path | None) -> AsyncIterator[AtWork]:
    from functools import partial

    from minuet.bootstrap import hear_again
    from minuet.cli.loading import load_settings

    settings = load_settings(config, data=data)
    async with observing(app, data, config) as observer:
        yield AtWork(observer, partial(hear_again, observer.app, settings))
