"""Throughput against latency, drawn: ``python -m benchmarks.plot RUN.json NAME`` writes NAME.svg and NAME.png.

Runs in an environment of its own, which has matplotlib; see `benchmarks.environments`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from benchmarks.figures import points

STYLES = {"minuet": ("-", 2.2), "peer": ("--", 1.3), "limit": (":", 1.3)}
MARKERS = {1: "o", 16: "s", 64: "^", 256: "D"}
COLORS = {
    "minuet": ["#0b5fa5", "#e07b00", "#6a3d9a", "#00897b"],
    "peer": ["#b03a2e", "#7d6608", "#af7ac5", "#616a6b", "#d98880"],
    "limit": ["#222222", "#888888"],
}
COLUMNS = 3


def draw(run: dict[str, Any], name: Path) -> None:
    contenders = [one for one in run["contenders"] if points(run["measurements"], one["name"])]
    panels = list(dict.fromkeys(one["panel"] for one in contenders))
    lines = -(-len(panels) // COLUMNS)
    figure, axes = plt.subplots(
        lines, min(COLUMNS, len(panels)), figsize=(16, 1 + 5 * lines), sharex=True, sharey=True, squeeze=False
    )
    for panel, axis in zip(panels, axes.flat, strict=False):
        used = dict.fromkeys(COLORS, 0)
        for contender in (one for one in contenders if one["panel"] == panel):
            kind = contender["kind"]
            color = COLORS[kind][used[kind] % len(COLORS[kind])]
            used[kind] += 1
            found = points(run["measurements"], contender["name"])
            style, width = STYLES[kind]
            rates, latencies = [rate for rate, _, _ in found], [latency for _, latency, _ in found]
            axis.plot(rates, latencies, style, color=color, linewidth=width, label=contender["name"])
            for rate, latency, in_flight in found:
                axis.plot([rate], [latency], MARKERS.get(in_flight, "x"), color=color, markersize=6)
        axis.set(xscale="log", yscale="log", title=panel)
        axis.grid(visible=True, which="both", alpha=0.25)
        axis.legend(fontsize=8)
        axis.tick_params(labelbottom=True)
    for axis in list(axes.flat)[len(panels) :]:
        axis.set_visible(False)
    marks = ", ".join(f"{sign} {count}" for count, sign in ((1, "●"), (16, "■"), (64, "▲"), (256, "◆")))
    figure.supxlabel(f"orders per second, to the right is better; in flight: {marks}")
    figure.supylabel("median latency in ms, below is better")
    figure.tight_layout()
    figure.savefig(f"{name}.svg", metadata={"Date": None})
    figure.savefig(f"{name}.png", dpi=110)


if __name__ == "__main__":
    draw(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
