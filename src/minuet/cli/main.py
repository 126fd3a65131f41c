"""`minuet`, the command line."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from minuet.cli import audit, check, demo, explain, parked, run, sagas, simulate, store, topology
from minuet.core.errors import MinuetError

DEBUG = "MINUET_DEBUG"


class Commands(TyperGroup):
    """What goes wrong is told in one line; a traceback is for whoever asks for one."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except MinuetError as error:
            _tell(str(error))
        except BrokenPipeError:
            _stop_writing()
        except OSError as error:
            _tell(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}")
        except Exception as error:
            if _is_of_the_command_line(error) or os.environ.get(DEBUG):
                raise
            _tell(f"unexpected {type(error).__name__}: {error} (a bug; {DEBUG}=1 shows where)")
        raise typer.Exit(1)


def _is_of_the_command_line(error: Exception) -> bool:
    """Whether it says that the command line is wrong, or that it ends: typer tells it and picks the exit code."""
    return isinstance(error, typer.Exit | typer.Abort) or hasattr(error, "exit_code")


def _tell(what: str) -> None:
    from minuet.cli.tables import in_one_line

    sys.stderr.write(f"minuet: {in_one_line(' '.join(what.split()))}\n")


def _stop_writing() -> None:
    # Nobody reads any more, as in `minuet sagas list | head -1`; Python would complain once more when it flushes.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    raise typer.Exit(0)


app = typer.Typer(
    name="minuet",
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    # Help in boxes and colours needs modules that take longer to import than all of ours.
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
    help="One business transaction over several services, by choreography or by orchestration.",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"minuet {version('minuet')}")
        raise typer.Exit


@app.callback()
def about(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """One business transaction over several services, by choreography or by orchestration.

    Begin with: minuet demo
    """


app.command("demo")(demo.demo)
app.command("run")(run.run)
app.add_typer(sagas.app, name="sagas")
app.add_typer(parked.app, name="parked")
app.command("audit")(audit.audit)
app.command("explain")(explain.explain)
app.command("simulate")(simulate.simulate)
app.command("check")(check.check)
app.add_typer(topology.app, name="topology")
app.add_typer(store.app, name="store")


def main() -> None:
    """The program `minuet`."""
    app(prog_name="minuet")


if __name__ == "__main__":
    main()
