"""`minuet run`: an app, or some of its services, until a signal says stop."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from minuet.cli.loading import (
    SHOP,
    WAYS,
    ConfigOption,
    DataOption,
    load_app,
    load_settings,
    remember_app,
    run_async,
)
from minuet.cli.process import settle
from minuet.cli.tables import count, harmless, in_one_line

if TYPE_CHECKING:
    from minuet.app import App
    from minuet.bootstrap import System
    from minuet.settings import Settings

LOG_LINE = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def _coordination(given: list[str] | None) -> dict[str, str]:
    """``["OrderProcessing=orchestration"]`` as a mapping."""
    found = {}
    for one in given or ():
        saga, is_given, how = one.partition("=")
        if not (saga and is_given and how in WAYS):
            raise typer.BadParameter(f"{one!r} is not SAGA={'|'.join(WAYS)}", param_hint="--coordination")
        found[saga] = how
    return found


def run(
    app: Annotated[str, typer.Argument(metavar="APP", help=f"MODULE:NAME of the app, as in {SHOP}.")],
    service: Annotated[
        list[str] | None, typer.Option("--service", metavar="NAME", help="Run only this one; may be repeated.")
    ] = None,
    coordination: Annotated[
        list[str] | None,
        typer.Option("--coordination", metavar="SAGA=WAY", help="`choreography` or `orchestration`; may be repeated."),
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(
            "--engine", metavar="URL", help="What orchestrates: `embedded` or `temporal://host:7233/namespace`."
        ),
    ] = None,
    data: DataOption = None,
    host: Annotated[str | None, typer.Option("--host", help="Where to answer HTTP; 127.0.0.1 unless set.")] = None,
    port: Annotated[
        int | None, typer.Option("--port", min=0, max=65535, help="8000 unless set; 0 takes a free one.")
    ] = None,
    config: ConfigOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Say that it is ready in JSON.")] = False,
) -> None:
    """Run an app until SIGTERM or Ctrl-C: all its services, or some, sharing the data with other processes.

    Example: minuet run minuet_shop:app --service orders --service inventory --data .minuet --port 8001
    """
    ways = _coordination(coordination)
    orchestration = {"engine": engine} if engine else None
    settings = load_settings(
        config, data=data, host=host, port=port, coordination=ways or None, orchestration=orchestration
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Lines(LOG_LINE))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    found = load_app(app)

    async def serve() -> None:
        with_signals = Stop()
        remember_app(settings.data, app)
        await _serve(found, settings, service or None, with_signals, as_json)

    run_async(serve)


class Lines(logging.Formatter):
    """Only a record begins at the beginning of a line, whatever is in an id or in an exception; its traceback is
    indented."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the library's name
        return in_one_line(super().formatMessage(record))

    def format(self, record: logging.LogRecord) -> str:
        return harmless(super().format(record)).replace("\n", "\n  ")


class Stop:
    """Told by SIGTERM and SIGINT. The first one asks for a stop in order, the second one leaves at once."""

    def __init__(self) -> None:
        import asyncio

        self.asked = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._hear, number)

    def _hear(self, number: int) -> None:
        if self.asked.is_set():
            os._exit(128 + number)
        self.asked.set()


async def _serve(app: App, settings: Settings, services: list[str] | None, stop: Stop, as_json: bool) -> None:
    from minuet.bootstrap import running

    async with running(app, settings, services=services, serve=True) as system:
        settle()
        _say_ready(system, as_json)
        await stop.asked.wait()
        if not as_json:
            print("stopping; the same signal again leaves at once", file=sys.stderr, flush=True)


def _say_ready(system: System, as_json: bool) -> None:
    if as_json:
        line = json.dumps({"url": system.url, "services": list(system.services), "pid": os.getpid()})
        print(line, flush=True)
        return
    width = max(map(len, system.services))
    for name in system.services:
        print(f"{name:<{width}}  {system.url}")
    what = f"{count(len(system.services), 'service')} of {system.app.name}, data in {system.settings.data}"
    print(f"ready: {what}; API at {system.url}/docs; Ctrl-C stops", flush=True)
