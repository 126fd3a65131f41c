"""`minuet sagas`: where each piece of business is, put together from what the services have stored."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from minuet.cli import pausing
from minuet.cli.loading import (
    AppOption,
    ConfigOption,
    DataOption,
    JsonOption,
    find_saga,
    observing,
    outside_of,
    run_async,
)
from minuet.cli.many import WhereOption, filter_of
from minuet.cli.reconcile import reconcile
from minuet.cli.tables import console, count, in_one_line, moment, print_json, status_text, table

if TYPE_CHECKING:
    from minuet.observer import Attempt, Observer, SagaView, Waiting

app = typer.Typer(help="Where each saga is, what it waits for and what was said.", no_args_is_help=True)
app.command("reconcile")(reconcile)
app.command("cancel")(pausing.cancel_saga)
app.command("pause")(pausing.pause)
app.command("resume")(pausing.resume)
app.command("retry")(pausing.retry)
app.command("paused")(pausing.paused)


GAPS = 8
"""Between the columns of the list."""
WAITS_MIN = 24
"""As narrow as it can still be read."""


class Wanted(StrEnum):
    """What `--status` takes."""

    RUNNING = "running"
    COMPENSATING = "compensating"
    COMPLETED = "completed"
    COMPENSATED = "compensated"
    NEEDS_OPERATOR = "needs operator"


@app.command("list")
def list_sagas(
    status: Annotated[Wanted | None, typer.Option("--status", help="Only those.")] = None,
    where: WhereOption = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="At most so many.")] = 20,
    app: AppOption = None,
    data: DataOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the sagas that began last, the newest first.

    Example: minuet sagas list --status running --limit 5
    """

    async def look() -> list[SagaView]:
        if where:
            which = filter_of([*where, *([f"status={status}"] if status else [])])
            async with outside_of(app, data, config) as system:
                return await system.operator.sagas(which, limit=limit, also_ended=True)
        async with observing(app, data, config) as observer:
            return await observer.sagas(limit=limit, only=status)

    views = run_async(look)
    if as_json:
        print_json({"sagas": [_summary(view) for view in views]})
    else:
        _print_list(views, limit)


def _summary(view: SagaView) -> dict[str, Any]:
    fields = ("saga", "id", "status", "coordination", "definition", "began_at", "waiting", "paused")
    return {name: getattr(view, name) for name in fields}


def _print_list(views: list[SagaView], limit: int) -> None:
    from rich.text import Text

    screen = console()
    if not views:
        screen.print("no sagas")
        return
    # An id is for copying, so it is never cut; what a saga waits for gets a line of its own where there is no room.
    waits = {id(view): Text(", ".join(_waited_for(one) for one in view.waiting)) for view in views}
    others = max(sum(map(len, (view.saga, view.id, view.status, moment(view.began_at)))) for view in views)
    has_room = screen.width - others - GAPS >= WAITS_MIN
    rows = table()
    rows.add_column("saga", overflow="fold")
    rows.add_column("id", no_wrap=True, min_width=max(len(in_one_line(view.id)) for view in views))
    rows.add_column("status", overflow="fold")
    rows.add_column("began", overflow="fold")
    if has_room:
        rows.add_column("waits for", overflow="fold")
    for view in views:
        row = (view.saga, Text(in_one_line(view.id)), status_text(view.status), moment(view.began_at))
        rows.add_row(*row, *([waits[id(view)]] if has_room else []))
    screen.print(rows, crop=False)
    for view in views if not has_room else ():
        if view.waiting:
            screen.print(Text.assemble(f"{in_one_line(view.id)} waits for ", waits[id(view)]))
    if len(views) == limit:
        screen.print(f"the newest {limit}; more with --limit", style="dim")


@app.command("begin")
def begin_saga(
    saga: Annotated[str, typer.Argument(metavar="SAGA", help="Its name.")],
    body: Annotated[str, typer.Option("--body", metavar="JSON", help="What the event that begins it says.")],
    app: AppOption = None,
    data: DataOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Begin a saga with its event, as if a service had told it. The same again is the same saga.

    Example: minuet sagas begin OrderProcessing --body '{"orderId": "o1", "customerId": "c1", "items": ["ITEM001"]}'
    """

    async def begin() -> tuple[str, bool]:
        from pydantic import ValidationError

        from minuet.codec import explain
        from minuet.core.errors import MessageError

        async with outside_of(app, data, config) as system:
            definition = find_saga(system.app, saga)
            try:
                event = definition.begins_with.model_validate_json(body, by_alias=True, by_name=False)
            except ValidationError as error:
                raise MessageError(f"--body is no {definition.begins_with.__name__}: {explain(error)}") from None
            return str(getattr(event, definition.key)), await system.begin(event)

    saga_id, is_new = run_async(begin)
    if as_json:
        print_json({"saga": saga, "id": saga_id, "begun": is_new})
    elif is_new:
        typer.echo(in_one_line(f"{saga} {saga_id} has begun; whoever runs the services goes on with it"))
    else:
        typer.echo(in_one_line(f"{saga} {saga_id} was begun with the same content before"))


@app.command("show")
def show_saga(
    saga_id: Annotated[str, typer.Argument(metavar="ID", help="Of the saga: for the shop, the order's id.")],
    saga: Annotated[str | None, typer.Option("--saga", help="The saga's name, where several sagas use one id.")] = None,
    app: AppOption = None,
    data: DataOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show one saga: where it is, what it waits for and from whom, every attempt, every message.

    Example: minuet sagas show ORD12345
    """

    async def look() -> None:
        async with observing(app, data, config) as observer:
            if saga:
                find_saga(observer.app, saga)
            view = await observer.saga(saga_id, saga)
            if as_json:
                print_json(view)
            else:
                print_saga(view, observer)

    run_async(look)


def print_saga(view: SagaView, observer: Observer) -> None:
    from rich.text import Text

    from minuet.cli.story import print_story
    from minuet.observer import AWAITS

    screen = console()
    head = Text.assemble((in_one_line(f"{view.saga} {view.id}"), "bold"), "  ", status_text(view.status))
    screen.print(head)
    how = f"by {view.coordination}" if view.coordination else "coordination unknown"
    screen.print(f"{how}, definition {view.definition}, began {moment(view.began_at)}", style="dim")
    for one in view.waiting:
        of = f" of {one.service}" if one.service and one.command != AWAITS else ""
        screen.print(Text.assemble("waits for ", (_name(one), "bold"), f"{of}: {in_one_line(one.why)}"))
    for pause in view.paused:
        said = f" {moment(pause.at)} by {pause.who}{f': {pause.why}' if pause.why else ''}"
        screen.print(Text.assemble(("paused: ", "bold yellow"), in_one_line(pause.what + said)))
    if view.attempts:
        screen.print()
        screen.print(_attempts(view))
    if view.messages:
        screen.print(Text("Messages", style="bold"))
        screen.print()
        print_story(screen, view, observer)


def _waited_for(waiting: Waiting) -> str:
    return f"{_name(waiting)} ({in_one_line(waiting.why)})"


def _name(waiting: Waiting) -> str:
    """A command by its name; the steps that only wait all have the same one, and are told by their own."""
    from minuet.observer import AWAITS

    return waiting.step if waiting.command == AWAITS else waiting.command


def _attempts(view: SagaView) -> Any:
    from rich.text import Text

    from minuet.observer import AWAITS, YEAR_9999

    rows = table("Attempts")
    for heading in ("step", "command", "at", "state", "tried", "answer"):
        rows.add_column(heading, no_wrap=heading in ("state", "tried"))
    for one in view.attempts:
        # What is refused for a reason of ours says it: deadline passed, retries exhausted, cancelled.
        answer = ": ".join(said for said in (one.answer, one.error) if said)
        if one.state == "due" and one.changed_at < one.due_at < YEAR_9999:
            again = "again at" if one.attempts or one.error else "until" if one.command == AWAITS else "at"
            answer = f"{answer} ({again} {moment(one.due_at)})".lstrip()
        tried = count(one.attempts, "time") if one.attempts else ""
        rows.add_row(one.step, _command(one), one.at, one.state, tried, Text(answer))
    return rows


def _command(attempt: Attempt) -> str:
    from minuet.runtime.performer import REACTION

    name = attempt.command.removeprefix(REACTION)
    return name if name == attempt.command else f"reaction {name}"
