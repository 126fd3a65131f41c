"""What happened in a run, in order, and how to look at it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

LANE = 13


class Moment(NamedTuple):
    """One thing that happened.

    Attributes:
        kind: ``asks``, ``answers``, ``hears`` (a message was delivered), ``says`` (a message was kept by the broker),
            ``commits``, ``fault`` or ``note``.
        who: a service, ``client``, or the name of something else.
        to: who is asked, answered or told; empty for what concerns one alone.
    """

    at_s: float
    kind: str
    who: str
    to: str
    what: str

    def __str__(self) -> str:
        return f"{self.at_s:.6f} {self.kind} {self.who}>{self.to} {self.what}"


class Trace:
    """Attributes:
    moments: all of them.
    """

    def __init__(self) -> None:
        self.moments: list[Moment] = []

    def __str__(self) -> str:
        return "\n".join(map(str, self.moments))

    def digest(self) -> str:
        """The same for two runs that are alike in everything."""
        return hashlib.sha256(str(self).encode()).hexdigest()[:16]

    def diagram(self, last: int = 40) -> str:
        """The last moments as a sequence diagram in plain text."""
        shown = [one for one in self.moments if one.kind != "says"][-last:]
        left_out = len(self.moments) - len(shown)
        lines = sequence_diagram(shown)
        return f"({left_out} moments before)\n{lines}" if left_out else lines

    def mermaid(self, last: int = 40) -> str:
        """The last moments as a Mermaid sequence diagram."""
        arrows = {"asks": "->>", "hears": "-)", "answers": "-->>"}
        lines = ["sequenceDiagram"]
        for one in [one for one in self.moments if one.kind != "says"][-last:]:
            # A line break in somebody's id would begin a line of its own.
            words = " ".join(_in_words(one).split()).replace(";", ",").replace("#", "no. ")
            if one.to and one.to != one.who:
                lines.append(f"    {one.who}{arrows.get(one.kind, '->>')}{one.to}: {words}")
            else:
                lines.append(f"    Note over {one.who}: {words}")
        return "\n".join(lines)


def sequence_diagram(moments: Sequence[Moment]) -> str:
    """One line a moment: a column for each of those who take part, arrows between them, the words to the right."""
    lanes = list(dict.fromkeys(name for one in moments for name in (one.who, one.to) if name))
    if "client" in lanes:
        lanes.remove("client")
        lanes.insert(0, "client")
    at = {name: index * LANE + 2 for index, name in enumerate(lanes)}
    lines = [f"{'seconds':>9}  " + "".join(f"{name[: LANE - 1]:<{LANE}}" for name in lanes)]
    for one in moments:
        drawn = [" "] * (LANE * len(lanes))
        for column in at.values():
            drawn[column] = "|"
        if one.to and one.to != one.who:
            _draw_arrow(drawn, at[one.who], at[one.to], "." if one.kind == "answers" else "-")
        else:
            drawn[at[one.who]] = "!" if one.kind == "fault" else "*"
        lines.append(f"{one.at_s:9.3f}  {''.join(drawn)} {_in_words(one)}".rstrip())
    return "\n".join(lines)


def _draw_arrow(drawn: list[str], begin: int, end: int, stroke: str) -> None:
    low, high = sorted((begin, end))
    for column in range(low + 1, high):
        drawn[column] = stroke
    drawn[high - 1 if begin < end else low + 1] = ">" if begin < end else "<"


def _in_words(one: Moment) -> str:
    return f"FAULT {one.what}" if one.kind == "fault" else one.what
