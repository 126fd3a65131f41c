"""Who did what, and why: kept beside what it was done to, in the same transaction."""

from __future__ import annotations

import getpass
import os
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from minuet.cli.loading import AppOption, ConfigOption, DataOption, JsonOption, observing, run_async
from minuet.cli.tables import console, in_one_line, moment, print_json, table

if TYPE_CHECKING:
    from minuet.ports import Act

OPERATOR = "MINUET_OPERATOR"

WhoOption = Annotated[
    str | None,
    typer.Option("--who", envvar=OPERATOR, show_envvar=True, help="Whose act it is; else the user of this machine."),
]
WhyOption = Annotated[str, typer.Option("--why", help="Kept with it.")]


def operator(who: str | None) -> str:
    try:
        return who or getpass.getuser()
    except (OSError, KeyError):  # a container without names for its users
        return f"user {os.getuid()}"


def audit(
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="At most so many.")] = 50,
    app: AppOption = None,
    data: DataOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """List what operators did, the newest first: who, when, why.

    Example: minuet audit --limit 10
    """

    async def look() -> list[tuple[str, Act]]:
        async with observing(app, data, config) as observer:
            return await observer.audit(limit=limit)

    found = run_async(look)
    if as_json:
        print_json({"acts": [{"at_service": service, **asdict(act)} for service, act in found]})
        return
    from rich.text import Text

    screen = console()
    if not found:
        screen.print("no operator has done anything")
        return
    rows = table()
    for heading in ("when", "who", "did", "to", "why"):
        rows.add_column(heading, overflow="fold")
    for service, act in found:
        what = f"{service}:{act.what}"
        rows.add_row(moment(act.at), *(Text(in_one_line(one)) for one in (act.who, act.verb, what, act.why)))
    screen.print(rows)
