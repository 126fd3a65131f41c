"""`minuet topology`: what an app needs on its brokers; made by somebody who may, before services run that may not."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Annotated, Any

import typer

from minuet.cli.loading import SHOP, ConfigOption, DataOption, JsonOption, load_app, load_settings, run_async
from minuet.cli.tables import console, count, listed, print_indented, print_json, table

if TYPE_CHECKING:
    from rich.console import Console

    from minuet.bootstrap.topology import BrokerView, ChannelView

app = typer.Typer(help="Topics, exchanges, queues and consumers on the brokers.", no_args_is_help=True)

ROOM_FOR_NAMES = 0.55
"""Of the width of the terminal, for channels and destinations on one line each."""

AppArgument = Annotated[str, typer.Argument(metavar="APP", help=f"MODULE:NAME of the app, as in {SHOP}.")]
ServiceOption = Annotated[
    list[str] | None,
    typer.Option("--service", metavar="NAME", help="Only this one's; may be repeated. By default all."),
]


@app.command("show")
def show(app: AppArgument, data: DataOption = None, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Show where each channel lies, who publishes there and who listens. Asks no broker.

    Example: minuet topology show minuet_shop:app
    """
    from minuet.bootstrap.topology import show_topology

    views = show_topology(load_app(app), load_settings(config, data=data))
    if as_json:
        print_json({"channels": views})
        return
    screen = console()
    for broker in dict.fromkeys(view.broker for view in views):
        screen.print(_table(screen, broker, [view for view in views if view.broker == broker]))


def _table(screen: Console, broker: str, views: list[ChannelView]) -> Any:
    from rich.text import Text

    where = [[view.channel for view in views]]
    if any(view.destination != view.channel for view in views):
        where.append([view.destination for view in views])
    # What is for copying is cut only where the rest would not fit.
    has_room = sum(max(map(len, names)) for names in where) <= screen.width * ROOM_FOR_NAMES
    rows = table(f"broker {broker}")
    for heading in ("channel", "destination")[: len(where)]:
        rows.add_column(heading, overflow="fold", no_wrap=has_room)
    longest = max(len(name) for view in views for name in (*view.events, ""))
    rows.add_column("events", overflow="fold", min_width=longest if has_room else None)
    for heading in ("publishes", "listens"):
        rows.add_column(heading, overflow="fold")
    for index, view in enumerate(views):
        who = [", ".join(names) or "nobody" for names in (view.publishes, view.listens)]
        cells = (*(names[index] for names in where), ", ".join(view.events), *who)
        rows.add_row(*map(Text, cells))
    return rows


@app.command("check")
def check(app: AppArgument, data: DataOption = None, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """List what is missing or different on each broker; exit code 1 if anything is. Changes nothing.

    Example: minuet topology check minuet_shop:app --config minuet.toml
    """
    from minuet.bootstrap.topology import check_topology

    _keep_quiet()
    found, settings = load_app(app), load_settings(config, data=data)
    views = run_async(lambda: check_topology(found, settings))
    is_ok = not any(view.missing for view in views)
    if as_json:
        print_json({"ok": is_ok, "brokers": [_facts(view) for view in views]})
    else:
        for view in views:
            _print_checked(console(), view)
    if not is_ok:
        raise typer.Exit(1)


@app.command("apply")
def apply(
    app: AppArgument,
    service: ServiceOption = None,
    data: DataOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make what is missing on each broker, and correct what is different. May be run again at any time.

    Example: minuet topology apply minuet_shop:app --config minuet.toml
    """
    from minuet.bootstrap.topology import apply_topology

    _keep_quiet()
    found, settings = load_app(app), load_settings(config, data=data)
    views = run_async(lambda: apply_topology(found, settings, service or None))
    is_ok = not any(view.missing for view in views)
    if as_json:
        print_json({"ok": is_ok, "brokers": [{**_facts(view), "made": view.made} for view in views]})
    else:
        for view in views:
            _print_applied(console(), view)
    if not is_ok:
        raise typer.Exit(1)


def _keep_quiet() -> None:
    # Without any handler, Python would print the warnings of connections between the answer's lines.
    logging.basicConfig(handlers=[logging.NullHandler()])


def _facts(view: BrokerView) -> dict[str, Any]:
    names = ("broker", "has_topology", "missing", "destinations", "groups")
    return {name: getattr(view, name) for name in names}


def _print_checked(screen: Console, view: BrokerView) -> None:
    if not view.has_topology:
        _print_head(screen, view, "nothing has to be there")
    elif not view.missing:
        _print_head(screen, view, f"everything is there: {_there(view)}")
    else:
        _print_head(screen, view, "missing or different:", "red")
        _print_lines(screen, view.missing)


def _print_applied(screen: Console, view: BrokerView) -> None:
    from rich.text import Text

    if not view.has_topology:
        _print_head(screen, view, "there is nothing to apply")
        return
    if view.made:
        _print_head(screen, view, "made; until now it was so:")
        _print_lines(screen, view.made)
        print_indented(screen, Text(f"now there: {_there(view)}", style="dim"), 2)
    elif not view.missing:
        _print_head(screen, view, f"everything was there: {_there(view)}")
    if view.missing:
        _print_head(screen, view, "still different, and not for minuet to change:", "red")
        _print_lines(screen, view.missing)


def _print_head(screen: Console, view: BrokerView, rest: str, style: str = "") -> None:
    from rich.text import Text

    screen.print(Text.assemble((view.broker, "bold"), "  ", (rest, style)), soft_wrap=True)


def _print_lines(screen: Console, lines: tuple[str, ...]) -> None:
    from rich.text import Text

    for line in lines:
        screen.print(Text(f"  {line}"), soft_wrap=True)


def _there(view: BrokerView) -> str:
    groups = f"the groups of {listed(view.groups)}" if view.groups else "no group"
    return f"{count(len(view.destinations), 'destination')} and {groups}"
