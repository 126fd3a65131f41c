"""Doing something to one or to many: which are meant, a question before it is done, and what came of each."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from minuet.cli.tables import console, count, in_one_line, print_json

if TYPE_CHECKING:
    from minuet.bootstrap.operator import Outcome
    from minuet.core.operating import Filter

SHOWN_MAX = 20
BY = "service, saga, status (of sagas), type (of what is parked), reason, older-than"

WhereOption = Annotated[
    list[str] | None,
    typer.Option("--where", metavar="NAME=VALUE", help=f"All of which this is true; may be given again. By {BY}."),
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="With --where: only say which those are.")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
MostOption = Annotated[int, typer.Option("--limit", min=1, max=100_000, help="With --where: at most so many.")]


def filter_of(where: Sequence[str]) -> Filter:
    """What `--where` says, given once or more."""
    from minuet.core.operating import Filter

    said: dict[str, str] = {}
    for one in where:
        name, is_said, value = one.partition("=")
        if not is_said or name in said:
            wrong = "is given twice" if is_said else "is not NAME=VALUE, as in service=payment"
            raise typer.BadParameter(f"{name!r} {wrong}", param_hint="--where")
        said[name] = value
    return Filter.of(said)


def one_of(**given: object) -> None:
    """Exactly one of these has to be said; each is an option's name, or the argument's."""
    said = [name for name, value in given.items() if value]
    if len(said) != 1:
        names = ", ".join(name if name.isupper() else f"--{name.replace('_', '-')}" for name in given)
        raise typer.BadParameter(f"say one of these: {names}")


async def do_to_many(
    what: str, names: Sequence[str], acting: AsyncIterator[Outcome], *, dry_run: bool, yes: bool, as_json: bool
) -> None:
    """Tell which are meant, ask, do it and tell what came of each. Ends with 1 if something could not be done.

    Args:
        acting: does it to one after the other, as far as it is gone through.
    """
    if _is_wanted(what, names, dry_run=dry_run, yes=yes, as_json=as_json):
        await _do_to_all(what, names, acting, as_json=as_json)


def _is_wanted(what: str, names: Sequence[str], *, dry_run: bool, yes: bool, as_json: bool) -> bool:
    """Tell which are meant, and ask unless told not to."""
    if dry_run and as_json:
        print_json({"count": len(names), "dry_run": True, "ids": list(names)})
        return False
    if not as_json:
        screen = console(to_stderr=not dry_run)
        for name in names[: None if dry_run else SHOWN_MAX]:
            screen.print(in_one_line(name), markup=False, soft_wrap=True)
        if not dry_run and len(names) > SHOWN_MAX:
            screen.print(f"and {len(names) - SHOWN_MAX:,} more")
    if dry_run:
        typer.echo(f"{count(len(names), 'is', 'are')} meant; nothing was done")
        return False
    if names and not yes:
        if as_json:
            raise typer.BadParameter("nobody can be asked: give --yes or --dry-run with --json")
        typer.confirm(f"{what} {'it' if len(names) == 1 else f'these {len(names):,}'}?", abort=True, err=True)
    return True


async def _do_to_all(what: str, names: Sequence[str], acting: AsyncIterator[Outcome], *, as_json: bool) -> None:
    outcomes: list[Any] = []
    shows = sys.stderr.isatty() and not as_json
    async for one in acting:
        outcomes.append(one)
        if shows:
            sys.stderr.write(f"\r{what}: {len(outcomes):,} of {len(names):,}")
            sys.stderr.flush()
    if shows and outcomes:
        sys.stderr.write("\n")
    failed = [one for one in outcomes if one.why]
    if as_json:
        done = [one.id for one in outcomes if not one.why]
        told = [{"id": one.id, "why": one.why} for one in failed]
        print_json({"count": len(names), "dry_run": False, "done": done, "failed": told})
    else:
        for one in failed:
            typer.echo(in_one_line(f"{one.id}: {one.why}"), err=True)
        left = f", {len(failed):,} could not be" if failed else ""
        typer.echo(f"{what}: {len(outcomes) - len(failed):,} done{left}")
    if failed:
        raise typer.Exit(1)
