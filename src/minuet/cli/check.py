"""`minuet check`: whether open sagas can go on under a new version of the app, asked before it is deployed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from minuet.cli.loading import ConfigOption, DataOption, JsonOption, load_app, observing, run_async
from minuet.cli.tables import console, count, print_indented, print_json
from minuet.core.errors import ConfigurationError, DefinitionError, MessageError

if TYPE_CHECKING:
    from minuet.app import App
    from minuet.core.formula import Literal
    from minuet.core.messages import Message
    from minuet.core.versions import Record, Verdict
    from minuet.observer import Observer
    from minuet.ports import Tx

PAGE = 500
Open = dict[tuple[str, str], int]
"""How many sagas are open, by name and definition."""


def check(
    app: Annotated[str, typer.Argument(metavar="APP", help="MODULE:NAME of the version that is to be deployed.")],
    record: Annotated[
        Path | None,
        typer.Option("--record", metavar="FILE", dir_okay=False, help="Write its definitions, for version control."),
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option("--against", metavar="FILE", dir_okay=False, help="Compare with definitions recorded earlier."),
    ] = None,
    count_open: Annotated[
        bool, typer.Option("--open", help="Also count the open sagas of each definition in the stores.")
    ] = False,
    data: DataOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check whether open sagas can go on under a new version; exit code 1 if some cannot.

    Example: minuet check minuet_shop:app --against sagas.json
    """
    if record is None and against is None:
        raise ConfigurationError("say --record FILE to write the definitions, or --against FILE to compare with them")
    found = load_app(app)
    # First the comparison: both may name the same file.
    recorded = _content_of(against) if against else {}
    judged = _judged(found, recorded, against) if against else []
    is_open = run_async(lambda: _open_sagas(app, data, config, recorded)) if count_open else None
    if record:
        _write(found, record)
    if as_json:
        print_json(_facts(found, record, judged, is_open))
    else:
        _print(found, record, judged, is_open)
    if not all(one.can_continue for one in judged):
        raise typer.Exit(1)


def _write(app: App, file: Path) -> None:
    from minuet.core.versions import record_of

    text = json.dumps(record_of(app.name, app.sagas), indent=2, sort_keys=True, ensure_ascii=False)
    file.write_text(text + "\n", "utf-8")


def _judged(app: App, recorded: Record, file: Path) -> list[Verdict]:
    from minuet.core.versions import verdicts

    try:
        return verdicts(recorded, app.sagas, app.messages())
    except DefinitionError as error:
        raise _unreadable(file, error) from error


def _content_of(file: Path) -> Record:
    try:
        content = json.loads(file.read_text("utf-8"))
        if not isinstance(content, dict):
            raise ValueError("it is not a JSON object")
        return content
    except FileNotFoundError:
        raise ConfigurationError(f"there is no {file}; write it with: minuet check APP --record {file}") from None
    except ValueError as error:
        raise _unreadable(file, error) from error


def _unreadable(file: Path, error: Exception) -> ConfigurationError:
    return ConfigurationError(f"{file} cannot be read: {error}; write it with: minuet check APP --record {file}")


# -- counting what is open ---------------------------------------------------------------------------------------------


async def _open_sagas(app: str, data: Path | None, config: Path | None, recorded: Record) -> Open:
    definitions = {(one["saga"], one["fingerprint"]): one for one in recorded.get("definitions", ())}
    async with observing(app, data, config) as observer:
        return await open_sagas(observer, definitions)


async def open_sagas(observer: Observer, recorded: Mapping[tuple[str, str], Record]) -> Open:
    """How many sagas have not ended, by name and by the definition under which they began, be it in the app or not.

    Args:
        recorded: definitions that the app may no longer have. Of neither, nobody knows the end: those count as open.
    """
    from minuet.core.coordinator import status
    from minuet.core.versions import has_ended

    types = observer.codec.types
    known: dict[tuple[str, str], set[Literal]] = {}
    began_under: dict[tuple[str, str], str] = {}
    for store in observer.stores.values():
        before: int | None = None
        while True:
            page = await store.transact(partial(_page, before=before, types=types), reads_only=True)
            for _, saga, literals, definition in page:
                known.setdefault(saga, set()).update(literals)
                if definition:
                    began_under[saga] = definition
            if len(page) < PAGE:
                break
            before = page[-1][0]
    found: Open = {}
    for (name, saga_id), definition in began_under.items():
        there, on_record = observer.app.saga(name, definition), recorded.get((name, definition))
        messages = known[name, saga_id]
        if there is not None:
            is_over = status(there.rules, messages).is_final
        else:
            is_over = on_record is not None and has_ended(on_record, messages)
        if not is_over:
            found[name, definition] = found.get((name, definition), 0) + 1
    return found


def _page(
    tx: Tx, *, before: int | None, types: Mapping[str, type[Message]]
) -> list[tuple[int, tuple[str, str], set[Literal], str]]:
    """Some sagas of one store: their place in its list, name and id, what is known of them there, their definition."""
    return [
        (place, (name, saga_id), _known_in(tx, name, saga_id, types), _definition_in(tx, name, saga_id))
        for place, name, saga_id in tx.known.recent(PAGE, before)
    ]


def _known_in(tx: Tx, name: str, saga_id: str, types: Mapping[str, type[Message]]) -> set[Literal]:
    from minuet.core.coordinator import literal_of
    from minuet.core.messages import Event
    from minuet.runtime.performer import REACTION

    found = set(tx.known.of(name, saga_id))
    for entry in tx.records.entries_of(name, saga_id):
        kind = types.get(entry.answer.type) if entry.answer else None
        # A reaction may return events too, but they answer no step.
        if kind is not None and issubclass(kind, Event) and entry.envelope.saga and not entry.key.startswith(REACTION):
            with suppress(MessageError):
                found.add(literal_of(entry.envelope.saga.step, kind))
    return found


def _definition_in(tx: Tx, name: str, saga_id: str) -> str:
    for envelope in tx.known.of(name, saga_id).values():
        for ref in (envelope.saga, *envelope.begins):
            if ref is not None and (ref.name, ref.id) == (name, saga_id):
                return ref.definition
    return ""


# -- telling it --------------------------------------------------------------------------------------------------------


def _facts(app: App, record: Path | None, judged: list[Verdict], is_open: Open | None) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "app": app.name,
        "definitions": [
            {"saga": saga.name, "fingerprint": saga.fingerprint, "is_current": app.saga(saga.name) is saga}
            for saga in app.sagas
        ],
    }
    if record:
        facts["recorded"] = str(record)
    if judged:
        facts["can_continue"] = all(one.can_continue for one in judged)
        facts["recorded_definitions"] = [
            {
                "saga": one.saga,
                "fingerprint": one.fingerprint,
                "can_continue": one.can_continue,
                "is_kept": one.is_kept,
                "differences": one.differences,
                "broken": one.broken,
                "remedy": one.remedy,
                **({"open": is_open.get((one.saga, one.fingerprint), 0)} if is_open is not None else {}),
            }
            for one in judged
        ]
    if is_open is not None:
        facts["open"] = [
            {"saga": name, "fingerprint": definition, "sagas": sagas}
            for (name, definition), sagas in sorted(is_open.items())
        ]
    return facts


def _print(app: App, record: Path | None, judged: list[Verdict], is_open: Open | None) -> None:
    from rich.text import Text

    screen = console()
    for one in judged:
        _print_verdict(one, is_open)
    told = {(one.saga, one.fingerprint) for one in judged}
    for (name, definition), sagas in sorted((is_open or {}).items()):
        if (name, definition) not in told:
            screen.print(f"{name} {definition}: {count(sagas, 'open saga')}")
    if record:
        written = ", ".join(f"{saga.name} {saga.fingerprint}" for saga in app.sagas) or "no sagas"
        print_indented(screen, Text(f"{record}: {written}"), 0)


def _print_verdict(one: Verdict, is_open: Open | None) -> None:
    from rich.text import Text

    screen = console()
    head = Text.assemble(
        (f"{one.saga} {one.fingerprint}", "bold"),
        ": ",
        ("can go on", "green") if one.can_continue else ("cannot go on", "bold red"),
    )
    if is_open is not None:
        head.append(f", {count(is_open.get((one.saga, one.fingerprint), 0), 'open saga')}")
    screen.print(head)
    for what in (*one.differences, *one.broken):
        print_indented(screen, Text(f"- {what}"), 2)
    if one.remedy:
        print_indented(screen, Text(f"To mend it, {one.remedy}."), 2)
