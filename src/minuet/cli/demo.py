"""`minuet demo`: the same orders through the whole shop, by choreography and by orchestration."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from minuet.cli.loading import WAYS, JsonOption, run_async
from minuet.cli.tables import console, count, print_json
from minuet.core.errors import ConfigurationError

if TYPE_CHECKING:
    from rich.console import Console

    from minuet.bootstrap import System
    from minuet.cli.demo_orders import Plan
    from minuet.cli.demo_run import Ended, Run

STARTED = time.perf_counter() - time.process_time()
"""When the program began: what it did so far was to import, which is all work and no waiting."""
FILE_FORMAT = "JSON Lines with orderId, customerId, items, prices"


def demo(
    orders: Annotated[
        int | None, typer.Option("--orders", min=1, max=1_000_000, help="How many, each way; by default 200.")
    ] = None,
    from_: Annotated[
        Path | None,
        typer.Option(
            "--from", metavar="FILE", exists=True, dir_okay=False, help=f"Real orders instead: {FILE_FORMAT}."
        ),
    ] = None,
    serve: Annotated[bool, typer.Option("--serve", help="Afterwards go on running, for you to try it.")] = False,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data", metavar="DIR", file_okay=False, help="Keep the data in this folder; without it, none is kept."
        ),
    ] = None,
    host: Annotated[str, typer.Option("--host", help="With --serve: where to answer HTTP.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="With --serve; 0 takes a free one.")] = 8000,
    as_json: JsonOption = False,
) -> None:
    """Place orders with a shop of four services, once by choreography and once by orchestration, and compare.

    Nothing has to be installed or running.

    Example: minuet demo --orders 1000
    """
    if orders is not None and from_ is not None:
        raise typer.BadParameter("give either a number of orders or a file of them", param_hint="--orders, --from")
    stage = Stage(_plan(orders or 200, from_), console(to_stderr=as_json), as_json)
    where = (host, port) if serve else ("127.0.0.1", 0)
    if serve and port:
        run_async(lambda: _try_port(host, port))
    with _folder(data) as folder:
        runs = run_async(lambda: stage.play(folder, where, serve=serve))
    if not all(run.is_good for run in runs):
        raise typer.Exit(1)


def _plan(orders: int, file: Path | None) -> Plan:
    from minuet.cli.demo_orders import from_file, made_up

    return from_file(file) if file else made_up(orders)


async def _try_port(host: str, port: int) -> None:
    """Raises ConfigurationError now if it is taken, and not only after the first half of the orders."""
    from minuet.doors.server import serve

    async def nothing(*_: object) -> None: ...

    async with serve(nothing, host, port):
        pass


@contextmanager
def _folder(data: Path | None) -> Iterator[Path]:
    """Where the databases go: a temporary folder, or one that is kept."""
    if data is None:
        from tempfile import TemporaryDirectory

        with TemporaryDirectory(prefix="minuet-demo-", ignore_cleanup_errors=True) as temporary:
            yield Path(temporary)
        return
    for way in WAYS:
        if (data / way).exists():
            raise ConfigurationError(f"{data / way} is from an earlier demo; remove it, or choose another --data")
    yield data


class Stage:
    """One performance of the demo.

    Args:
        screen: for people; not stdout when the facts go there as JSON.
    """

    def __init__(self, plan: Plan, screen: Console, as_json: bool) -> None:
        self.plan = plan
        self.screen = screen
        self.as_json = as_json
        self.first_order_s = 0.0
        self.telling: list[str] = []

    async def play(self, folder: Path, where: tuple[str, int], *, serve: bool) -> list[Run]:
        from minuet.cli.demo_report import print_examples
        from minuet.cli.demo_run import shop
        from minuet.cli.run import Stop
        from minuet.core.projection import Coordination

        orders = count(len(self.plan.orders), "order")
        self.screen.print(f"{orders} through the shop, by choreography and then by orchestration")
        async with shop(folder / WAYS[0], Coordination.CHOREOGRAPHY, "127.0.0.1", 0) as system:
            runs = [await self.perform(system, WAYS[0])]
        async with shop(folder / WAYS[1], Coordination.ORCHESTRATION, *where) as system:
            runs.append(await self.perform(system, WAYS[1]))
            self.report(runs)
            if serve:
                stop = Stop()
                print_examples(self.screen, system.url or "", str(folder / WAYS[1]), self.plan.orders[0].order_id or "")
                await stop.asked.wait()
        return runs

    async def perform(self, system: System, way: str) -> Run:
        from minuet.cli.demo_run import perform, stories_of, worth_telling

        with self.progress(way) as advance:

            def tell(one: Ended) -> None:
                if not self.first_order_s:
                    self.say_first(one)
                advance()

            run = await perform(system, self.plan, way, tell)
        # The first went ahead alone; the others are what there is to measure.
        took = f" in {run.seconds:.2f} s" if len(run.ended) > 1 else ""
        self.screen.print(f"{way:<13}  {count(len(run.ended), 'order')}{took}", style="dim")
        self.telling = self.telling or worth_telling(run)
        run.stories = await stories_of(system, self.telling)
        return run

    def say_first(self, one: Ended) -> None:
        self.first_order_s = time.perf_counter() - STARTED
        when = f"after {one.seconds:.2f} s ({self.first_order_s:.1f} s after the start)"
        self.screen.print(f"first order {one.order_id} {one.status} {when}")

    @contextmanager
    def progress(self, way: str) -> Iterator[Callable[[], None]]:
        """A bar while it lasts, if somebody is looking."""
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (TextColumn("{task.description:<13}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=self.screen, transient=True, disable=not self.screen.is_terminal) as bars:
            task = bars.add_task(way, total=len(self.plan.orders))
            yield lambda: bars.advance(task)

    def report(self, runs: list[Run]) -> None:
        from minuet.cli.demo_report import facts_of, print_end, print_report

        if self.as_json:
            print_json(facts_of(runs, len(self.plan.orders), self.first_order_s))
        else:
            print_report(self.screen, runs)
            print_end(self.screen, runs)
