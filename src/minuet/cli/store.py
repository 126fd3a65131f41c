"""`minuet store`: the tables of the services; made by somebody who may, before services run that may not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from minuet.cli.loading import ConfigOption, DataOption, JsonOption, load_app, load_settings, run_async
from minuet.cli.tables import console, print_json, table
from minuet.cli.topology import AppArgument, ServiceOption

if TYPE_CHECKING:
    from minuet.bootstrap.tables import StoreView

app = typer.Typer(help="The tables of each service.", no_args_is_help=True)

NOT_KEPT = "nothing: it is kept in memory"


@app.command("migrate")
def migrate(
    app: AppArgument,
    service: ServiceOption = None,
    data: DataOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Create or update each service's tables: minuet's, and what is missing of its own. May be run again at any time.

    Example: minuet store migrate minuet_shop:app --service orders --config minuet.toml
    """
    from minuet.bootstrap.tables import migrate_stores

    found, settings = load_app(app), load_settings(config, data=data)
    views = run_async(lambda: migrate_stores(found, settings, service or None))
    if as_json:
        print_json({"stores": [_facts(view, "applied") for view in views]})
    else:
        _print("applied", [(view, view.applied, "nothing: it was up to date") for view in views])


@app.command("check")
def check(app: AppArgument, data: DataOption = None, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """List what `minuet store migrate` would apply; exit code 1 if there is anything. Changes nothing.

    Example: minuet store check minuet_shop:app --config minuet.toml
    """
    from minuet.bootstrap.tables import check_stores

    found, settings = load_app(app), load_settings(config, data=data)
    views = run_async(lambda: check_stores(found, settings))
    is_ok = not any(view.pending for view in views)
    if as_json:
        print_json({"ok": is_ok, "stores": [_facts(view, "pending") for view in views]})
    else:
        _print("pending", [(view, view.pending, "nothing") for view in views])
    if not is_ok:
        raise typer.Exit(1)


def _facts(view: StoreView, what: str) -> dict[str, Any]:
    return {name: getattr(view, name) for name in ("service", "store", "is_kept", what)}


def _print(heading: str, lines: list[tuple[StoreView, tuple[str, ...], str]]) -> None:
    from rich.text import Text

    if not lines:
        console().print("none of these services has tables")
        return
    rows = table()
    for column in ("service", "store", heading):
        rows.add_column(column, overflow="fold")
    for view, what, otherwise in lines:
        said = ", ".join(what) or (otherwise if view.is_kept else NOT_KEPT)
        rows.add_row(Text(view.service), Text(view.store), Text(said))
    console().print(rows)
