"""How things look on a terminal: tables, times, and the same facts as JSON."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console, ConsoleOptions
    from rich.segment import Segment
    from rich.table import Table
    from rich.text import Text

WIDTH = 100
"""Where there is no terminal."""

STATUS_STYLES = {
    "running": "cyan",
    "compensating": "yellow",
    "completed": "green",
    "compensated": "magenta",
    "needs operator": "bold red",
}


# What a terminal obeys instead of showing it: control characters but tab and newline, and what turns text around.
_OBEYED = (*range(9), *range(11, 32), *range(0x7F, 0xA0), 0x61C, 0x200E, 0x200F, *range(0x202A, 0x202F))
_OBEYED += tuple(range(0x2066, 0x206A))
_SHOWN = {code: f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" for code in _OBEYED}
_ENDS_A_LINE = {ord("\n"): "\\n", ord("\t"): "\\t", 0x2028: "\\u2028", 0x2029: "\\u2029"}
_IN_JSON = {code: f"\\u{code:04x}" for code in _OBEYED if code >= 0x7F}  # the others are written like this anyway


def harmless(text: str) -> str:
    """The text without anything that a terminal would obey; ids and types come from whoever likes to send some."""
    return text.translate(_SHOWN)


def in_one_line(text: str) -> str:
    """As `harmless`, and no second line that looks like one of ours."""
    return text.translate(_SHOWN | _ENDS_A_LINE)


def console(*, to_stderr: bool = False) -> Console:
    """Where to print. Without a terminal there are no colours, and lines are as long as they need to be."""
    from rich.console import Console

    class Screen(Console):
        def render(self, renderable: Any, options: ConsoleOptions | None = None) -> Iterator[Segment]:
            for one in super().render(renderable, options):
                yield one if one.control else one._replace(text=harmless(one.text))

    stream = sys.stderr if to_stderr else sys.stdout
    width = None if stream.isatty() or "COLUMNS" in os.environ else WIDTH
    return Screen(stderr=to_stderr, width=width, highlight=False, soft_wrap=False)


def table(title: str = "", **options: Any) -> Table:
    """An empty table in the house style."""
    from rich import box
    from rich.table import Table

    settings: dict[str, Any] = {
        "box": box.SIMPLE_HEAD,
        "title_justify": "left",
        "title_style": "bold",
        "header_style": "dim",
        "pad_edge": False,
        "title": title or None,
    }
    return Table(**(settings | options))


def print_indented(screen: Console, text: Text, columns: int) -> None:
    """Wrapped, every line so many columns in."""
    for line in text.wrap(screen, screen.width - columns):
        line.rstrip()
        line.pad_left(columns)
        screen.print(line, no_wrap=True, overflow="ignore", crop=False)


def print_json(facts: Any) -> None:
    """The facts on stdout, as JSON that a program reads and a person can."""
    sys.stdout.write(json.dumps(plain(facts), indent=2, ensure_ascii=False).translate(_IN_JSON) + "\n")
    sys.stdout.flush()


def plain(fact: Any) -> Any:
    """The fact in what JSON knows. A message's body becomes what it says."""
    match fact:
        case bytes():
            return readable(fact)
        case Enum():
            return fact.value
        case Path():
            return str(fact)
        case Mapping():
            return {str(name): plain(value) for name, value in fact.items()}
        case list() | tuple() | set() | frozenset():
            return [plain(one) for one in fact]
        case _ if dataclasses.is_dataclass(fact) and not isinstance(fact, type):
            return {field.name: plain(getattr(fact, field.name)) for field in dataclasses.fields(fact)}
        case None | bool() | int() | float() | str():
            return fact
        case _:
            return str(fact)


def readable(body: bytes) -> Any:
    """What a body says: JSON if it is, else its text."""
    try:
        return json.loads(body)
    except ValueError:
        return body.decode(errors="backslashreplace")


def status_text(status: str) -> Any:
    from rich.text import Text

    return Text(status, style=STATUS_STYLES.get(status, ""))


def moment(seconds: float) -> str:
    """A point in time, here and now, as a person reads it: local time, or the date as well if it was another day."""
    if not seconds:
        return ""
    then = datetime.fromtimestamp(seconds, UTC).astimezone()
    is_today = then.date() == datetime.now(UTC).astimezone().date()
    return then.strftime("%H:%M:%S" if is_today else "%Y-%m-%d %H:%M:%S")


def count(number: int, one: str, many: str = "") -> str:
    """``1 order``, ``2 orders``."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def listed(names: Sequence[str], joiner: str = "and") -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} {joiner} {names[-1]}"
