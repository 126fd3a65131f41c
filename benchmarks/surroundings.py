"""The machine and the versions, as far as they matter for what was measured."""

from __future__ import annotations

import os
import platform
import sqlite3
from importlib.metadata import version
from pathlib import Path
from typing import Any


def surroundings(folder: Path) -> dict[str, Any]:
    """
    Args:
        folder: where the databases are.
    """
    return {
        "cores": os.cpu_count(),
        "processor": _first("/proc/cpuinfo", "model name"),
        "memory_mb": int(_first("/proc/meminfo", "MemTotal").split()[0]) // 1024,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "minuet": version("minuet"),
        "file_system": file_system(folder),
        "load_average": [round(one, 2) for one in os.getloadavg()],
    }


def file_system(folder: Path) -> str:
    """What kind of file system the folder is on. In memory, an fsync costs nothing and proves nothing."""
    place, kind = "", ""
    for line in Path("/proc/mounts").read_text().splitlines():
        _, mounted, its_kind, *_ = line.split()
        if folder.resolve().is_relative_to(mounted) and len(mounted) >= len(place):
            place, kind = mounted, its_kind
    return kind


def _first(file: str, name: str) -> str:
    for line in Path(file).read_text().splitlines():
        if line.startswith(name):
            return line.partition(":")[2].strip()
    return "0"
