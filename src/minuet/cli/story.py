"""One saga as a sequence of messages: who said what, when, and who heard it. Drawn with a line for each service."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.text import Text

    from minuet.observer import Observer, SagaView

GAP = 2
"""Between the columns, and at least between two names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrow:
    """A message on its way.

    Attributes:
        after_ms: since the saga began.
        kind: command, event or refusal.
    """

    after_ms: float
    sender: str
    hearers: tuple[str, ...]
    message: str
    kind: str
    step: str


@dataclass(frozen=True, slots=True)
class Strokes:
    line: str
    wire: str
    crossing: str
    start: str
    right: str
    left: str


PRETTY = Strokes("│", "─", "┼", "●", "▶", "◀")
ASCII = Strokes("|", "-", "+", "o", ">", "<")
STYLES = {"command": "cyan", "event": "green", "refusal": "red"}


def arrows_of(view: SagaView, observer: Observer) -> list[Arrow]:
    """The saga's messages in the order of their time."""
    return [
        Arrow(
            after_ms=round(max(0.0, told.time - view.began_at) * 1000, 3),
            sender=told.sender,
            hearers=tuple(name for name in told.hearers if name and name != told.sender),
            message=told.type,
            kind=_kind_of(observer.codec.types.get(told.type)),
            step=told.step,
        )
        for told in view.messages
    ]


def _kind_of(message: type | None) -> str:
    from minuet.core.messages import Command, Refusal

    if message is None:
        return "event"
    return "command" if issubclass(message, Command) else "refusal" if issubclass(message, Refusal) else "event"


def lanes_of(arrows: Iterable[Arrow], order: Sequence[str]) -> list[str]:
    """Everybody who speaks or hears: known services first and in their order."""
    everybody = {name for arrow in arrows for name in (arrow.sender, *arrow.hearers)}
    return [name for name in order if name in everybody] + sorted(everybody - set(order))


def draw(arrows: Sequence[Arrow], lanes: Sequence[str], *, width: int, strokes: Strokes = PRETTY) -> list[Text]:
    """The diagram, line by line; no line is wider than ``width`` unless there are very many lanes."""
    from rich.text import Text

    times = [f"{arrow.after_ms:.1f} ms" for arrow in arrows]
    before = max(map(len, times), default=0) + GAP
    after = max((len(arrow.message) for arrow in arrows), default=0) + GAP
    places = _places(lanes, width - before - after)
    lines = [Text(" " * before + line, style="bold") for line in _heads(lanes, places)]
    for arrow, time in zip(arrows, times, strict=True):
        line = Text(f"{time:>{before - GAP}}{'':{GAP}}", style="dim")
        line.append(_wire(arrow, lanes, places, strokes), style="default not dim")
        line.append(f"{'':{GAP}}{arrow.message}", style=f"{STYLES[arrow.kind]} not dim")
        lines.append(line)
    return lines


def _places(lanes: Sequence[str], room: int) -> list[int]:
    """The column of each lane: as far apart as names need, or as room there is. The last name may stand above the
    messages."""
    places: list[int] = []
    for index, name in enumerate(lanes):
        half = len(name) // 2
        if not index:
            places.append(half)
            continue
        before = lanes[index - 1]
        places.append(places[-1] + len(before) - len(before) // 2 + GAP + half)
    if places and places[-1] >= room:
        apart = max(6, (room - 1 - places[0]) // max(1, len(lanes) - 1))
        places = [places[0] + index * apart for index in range(len(lanes))]
    return places


def _heads(lanes: Sequence[str], places: Sequence[int]) -> list[str]:
    """The names above their lanes, on two lines if they do not fit beside each other."""
    rows = ["", ""]
    for index, (name, place) in enumerate(zip(lanes, places, strict=True)):
        begin = max(0, place - len(name) // 2)
        row = next((one for one in (0, 1) if not rows[one] or len(rows[one]) < begin), index % 2)
        rows[row] = rows[row].ljust(begin) + name
    return [row for row in reversed(rows) if row]


def _wire(arrow: Arrow, lanes: Sequence[str], places: Sequence[int], strokes: Strokes) -> str:
    cells = [" "] * (places[-1] + 1)
    for place in places:
        cells[place] = strokes.line
    at = dict(zip(lanes, places, strict=True))
    start = at[arrow.sender]
    for hearer in arrow.hearers:
        for column in range(min(start, at[hearer]) + 1, max(start, at[hearer])):
            cells[column] = strokes.crossing if column in places else strokes.wire
    for hearer in arrow.hearers:
        cells[at[hearer]] = strokes.right if at[hearer] > start else strokes.left
    cells[start] = strokes.start
    return "".join(cells)


def print_story(console: Any, view: SagaView, observer: Observer) -> None:
    """Draw it as wide as the terminal is."""
    from minuet.bootstrap import everything

    arrows = arrows_of(view, observer)
    lanes = lanes_of(arrows, in_order(everything(observer.app)))
    strokes = ASCII if console.options.ascii_only else PRETTY
    for line in draw(arrows, lanes, width=console.width, strokes=strokes):
        console.print(line, no_wrap=True, overflow="ignore", crop=False)


def in_order(names: Iterable[str]) -> list[str]:
    """The orchestrator stands beside the service that begins, so that the drawing shows a conductor and his players."""
    found = list(names)
    if "orchestrator" in found:
        found.remove("orchestrator")
        found.insert(1, "orchestrator")
    return found
