"""`minuet explain`: what each service listens to and does for a saga, and what the orchestrator would do instead."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from minuet.cli.loading import (
    AppOption,
    ConfigOption,
    DataOption,
    JsonOption,
    find_saga,
    load_app,
    load_settings,
    remembered_app,
)
from minuet.cli.tables import console, listed, print_indented, print_json, table
from minuet.core.errors import ConfigurationError

if TYPE_CHECKING:
    from rich.console import Console

    from minuet.app import App
    from minuet.cli.words import Does, Heard, Part
    from minuet.core.saga import Saga

ORCHESTRATOR = "orchestrator"


def explain(
    saga: Annotated[str, typer.Argument(metavar="SAGA", help="Its name, or MODULE:NAME:SAGA.")],
    service: Annotated[
        str | None, typer.Option("--service", metavar="NAME", help="Only this one's part, or the orchestrator's.")
    ] = None,
    app: AppOption = None,
    data: DataOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Explain a saga's rules in words: who listens to what, and does what when.

    Example: minuet explain OrderProcessing --service payment
    """
    found, chosen = _find(saga, app, data, config)
    names = _names(found, chosen, service)
    if as_json:
        print_json(_facts(found, chosen, names))
    else:
        _print(console(), found, chosen, names, is_whole=service is None)


def _find(saga: str, app: str | None, data: Path | None, config: Path | None) -> tuple[App, Saga]:
    where, _, name = saga.rpartition(":")
    found = load_app(where or app or remembered_app(load_settings(config, data=data).data))
    return found, find_saga(found, name)


def _names(app: App, saga: Saga, service: str | None) -> list[str]:
    """Whose parts to tell: those that take part in the order of the steps, then those that only listen."""
    from minuet.cli.words import part_of
    from minuet.core.projection import services

    taking_part = services(saga.rules)
    listening = [name for name in app.services if name not in taking_part and part_of(app, saga, name).reacts_to]
    everybody = [*taking_part, *listening, ORCHESTRATOR]
    if service is None:
        return everybody
    if service not in everybody and service not in app.services:
        raise ConfigurationError(f"saga {saga.name} knows no service {service!r}; it knows {listed(everybody)}")
    return [service]


def _facts(app: App, saga: Saga, names: list[str]) -> dict[str, Any]:
    from minuet.cli.words import part_of, span, table_of
    from minuet.core.messages import name_of

    facts: dict[str, Any] = {
        "saga": saga.name,
        "definition": saga.fingerprint,
        "begins_with": name_of(saga.begins_with),
        "key": saga.key,
        "deadline": span(saga.deadline) if saga.deadline else "",
        "choreography": [part_of(app, saga, name) for name in names if name != ORCHESTRATOR],
    }
    if ORCHESTRATOR in names:
        facts["orchestration"] = table_of(saga)
    return facts


def _print(screen: Console, app: App, saga: Saga, names: list[str], *, is_whole: bool) -> None:
    from rich.text import Text

    from minuet.cli.words import part_of, span
    from minuet.core.messages import name_of

    screen.print(Text.assemble((saga.name, "bold"), (f"  definition {saga.fingerprint}", "dim")))
    screen.print(f"It begins with {name_of(saga.begins_with)}; there is one for each {saga.key}.")
    if saga.deadline is not None:
        later = (
            f"After {span(saga.deadline)} whatever is not begun is refused, if it may be, and nothing is waited for."
        )
        screen.print(later)
    players = [name for name in names if name != ORCHESTRATOR]
    if players and is_whole:
        _print_heading(screen, "By choreography", "each service listens, and does its part by itself")
    for name in players:
        screen.print()
        _print_part(screen, part_of(app, saga, name))
    if ORCHESTRATOR in names:
        _print_heading(screen, "By orchestration", "the orchestrator asks one service after the other")
        _print_table(screen, saga)


def _print_heading(screen: Console, heading: str, rest: str) -> None:
    from rich.text import Text

    screen.print()
    screen.print(Text.assemble((heading, "bold underline"), f": {rest}"))


def _print_part(screen: Console, part: Part) -> None:
    from rich.text import Text

    screen.print(Text(part.service, style="bold"))
    if not (part.does or part.reacts_to):
        screen.print("  has no part in this saga")
        return
    if part.listens:
        screen.print(Text("  listens to", style="dim"))
        screen.print(_heard(part.service, part.listens))
    for one in part.does:
        _print_does(screen, one)
    if part.reacts_to:
        screen.print(Text("  does something of its own, of which the saga does not know, on", style="dim"))
        screen.print(_heard(part.service, part.reacts_to))


def _heard(service: str, heard: tuple[Heard, ...]) -> Any:
    """A line for each sender and channel; refusals apart."""
    from rich.padding import Padding
    from rich.text import Text

    groups: dict[tuple[str, str, bool], list[str]] = {}
    for one in heard:
        groups.setdefault((one.sender, one.channel, one.is_refusal), []).append(one.event)
    rows = table(show_header=False, box=None, padding=(0, 2, 0, 0))
    rows.add_column(min_width=18)
    for (sender, channel, is_refusal), events in groups.items():
        who = "itself" if sender == service else sender or "whoever begins it"
        what = "refusals by" if is_refusal else "by"
        rows.add_row(Text(", ".join(events)), Text(f"{what} {who}, on channel {channel}", style="dim"))
    return Padding(rows, (0, 0, 0, 4), expand=False)


FIRST_WORDS = {
    "do": "once it knows",
    "undo": "to undo, once it knows",
    "end": "at the end, once it knows",
    "watch": "from when it knows",
}


def _print_does(screen: Console, does: Does) -> None:
    from rich.text import Text

    clause = Text.assemble((FIRST_WORDS[does.kind], "dim"), f" {does.when}{f', {does.delay} later' * bool(does.delay)}")
    print_indented(screen, clause, 2)
    if does.waits:
        said = Text.assemble(("waits", "bold cyan"), f" {does.waits}, and tells {listed(does.answers)}; ")
        said.append(f"or gives it up with {listed(does.refusals)}, and then {_undone(does)}")
        print_indented(screen, said, 4)
        return
    said = Text.assemble((does.command, "bold cyan"), f", answered by {listed(does.answers, 'or')}")
    if does.asks:
        said.append(f"; for it, it asks {listed(does.asks)}")
    if does.deadline:
        said.append(f"; refused if it cannot begin within {does.deadline}")
    if does.refusals:
        said.append(f"; or it refuses with {listed(does.refusals, 'or')}, and then {_undone(does)}")
    elif does.until_done:
        said.append("; tried until it is done")
    print_indented(screen, said, 4)


def _undone(does: Does) -> str:
    if not does.then_undone:
        return "there is nothing to undo"
    return f"{listed(does.then_undone)} {'undoes' if len(does.then_undone) == 1 else 'undo'} what was done"


def _print_table(screen: Console, saga: Saga) -> None:
    from rich.text import Text

    from minuet.cli.words import table_of

    rows = table()
    for heading in ("", "asks", "to do", "once it knows", "if refused"):
        rows.add_column(heading)
    for line in table_of(saga):
        command = Text(line.command, style="bold cyan")
        if line.route:
            command.append(f"\n{line.route}", style="dim")
        rows.add_row(Text(str(line.number)), Text(line.service), command, Text(line.when), Text(line.if_refused))
    screen.print(rows)
