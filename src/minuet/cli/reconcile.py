"""`minuet sagas reconcile`: what one service told and another never heard is found, and handed over."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from minuet.cli.loading import (
    AppOption,
    ConfigOption,
    DataOption,
    JsonOption,
    find_saga,
    outside_of,
    run_async,
)
from minuet.cli.tables import console, count, in_one_line, moment, print_json, table

if TYPE_CHECKING:
    from minuet.runtime.reconciler import Missed, Reconciler


def reconcile(
    saga_id: Annotated[str | None, typer.Argument(metavar="ID", help="Only this saga, over or not.")] = None,
    saga: Annotated[str | None, typer.Option("--saga", help="The saga's name, where several sagas use one id.")] = None,
    after: Annotated[
        float | None, typer.Option("--after", min=0, help="What was told less than so many seconds ago is on its way.")
    ] = None,
    back: Annotated[
        float | None, typer.Option("--back", min=0, help="Sagas begun up to so many seconds ago; a day unless set.")
    ] = None,
    ended: Annotated[
        bool, typer.Option("--ended", help="Also sagas that are over, as after a store was put back from a backup.")
    ] = False,
    check: Annotated[bool, typer.Option("--check", help="Change nothing; end with 1 if something is missing.")] = False,
    every: Annotated[
        float | None, typer.Option("--every", min=0.1, help="Look again every so many seconds, until Ctrl-C.")
    ] = None,
    app: AppOption = None,
    data: DataOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Find messages that a broker lost, and hand them to whoever should have heard them.

    It compares the stores, so it must reach all of them. A process that runs the whole app over brokers does this by
    itself, every minute.

    Example: minuet sagas reconcile --check
    """
    if saga and not saga_id:
        raise typer.BadParameter("names the saga of an ID; give one", param_hint="--saga")
    if every and (saga_id or check):
        raise typer.BadParameter("goes with neither an ID nor --check", param_hint="--every")

    async def look() -> list[Missed]:
        import asyncio

        async with outside_of(app, data, config) as system:
            if saga:
                find_saga(system.app, saga)
            reconciler, chosen = system.reconciler(), system.settings.reconciliation
            after_s = chosen.after_s if after is None else after
            if saga_id:
                names = [saga] if saga else list(system.app.current_sagas)
                return await _one(reconciler, names, saga_id, after_s, check)
            back_s = chosen.back_s if back is None else back
            while True:
                found = await reconciler.look(after_s=after_s, back_s=back_s, with_ended=ended, mends=not check)
                if not every:
                    return found
                if found:
                    _print(found, check, as_json)
                await asyncio.sleep(every)

    found = run_async(look)
    _print(found, check, as_json)
    if check and found:
        raise typer.Exit(1)


async def _one(reconciler: Reconciler, names: list[str], saga_id: str, after_s: float, check: bool) -> list[Missed]:
    from minuet.core.errors import NotFound

    there = [name for name in names if await reconciler.knows(name, saga_id)]
    if not there:
        raise NotFound(f"no service here has heard of a saga {saga_id!r}")
    found: list[Missed] = []
    for name in there:
        if check:
            found += [missed for missed, _ in await reconciler.missed(name, saga_id, after_s=after_s)]
        else:
            found += await reconciler.mend(name, saga_id, after_s=after_s)
    return found


def _print(found: list[Missed], check: bool, as_json: bool) -> None:
    from rich.text import Text

    if as_json:
        print_json({"missed": [asdict(one) for one in found], "mended": not check})
        return
    screen = console()
    if not found:
        screen.print("everybody has heard what was told")
        return
    rows = table()
    for heading in ("saga", "id", "message", "told by", "at", "not heard by"):
        rows.add_column(heading, overflow="fold")
    for one in found:
        rows.add_row(one.saga, Text(in_one_line(one.id)), one.type, one.by, moment(one.told_at), one.place)
    screen.print(rows)
    what = count(len(found), "message")
    screen.print(f"{what} missing; without --check they are handed over" if check else f"{what} handed over")
