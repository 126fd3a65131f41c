"""When to move what is in the write-ahead log into the database file."""

from __future__ import annotations

import os
from pathlib import Path

from minuet.adapters.sqlite.connection import Connection

HEADER_BYTES = 32
FRAME_HEADER_BYTES = 24
FRAMES_MAX = 2000
SHRINK_BYTES_MIN = 128 * 1024 * 1024


class WriteAheadLog:
    """The ``-wal`` file. SQLite puts no locks on it, so we may read it; only under the write lock, though.

    The file is written from its start again after a checkpoint, and does not get shorter, so its size says nothing.
    But each round has its own salt, in the header and in each frame (https://sqlite.org/fileformat2.html#walformat):
    if the frame at the limit has the header's salt, then this round is that long.
    """

    def __init__(self, database: Path, frames_max: int = FRAMES_MAX) -> None:
        self._file = os.open(f"{database}-wal", os.O_RDONLY | os.O_CREAT, 0o644)
        self._frames_max = frames_max

    def is_long(self) -> bool:
        header = os.pread(self._file, HEADER_BYTES, 0)
        page_bytes = int.from_bytes(header[8:12], "big")
        frame_at = HEADER_BYTES + (self._frames_max - 1) * (FRAME_HEADER_BYTES + page_bytes)
        salt = os.pread(self._file, 8, frame_at + 8)
        return len(salt) == 8 and salt == header[16:24]

    def checkpoint(self, connection: Connection) -> None:
        """Copy it into the database; the next writer begins it anew unless somebody still reads it."""
        cursor = connection.own_cursor()
        ((_, frames, copied),) = connection.run(cursor, "PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        if frames == copied and os.fstat(self._file).st_size > SHRINK_BYTES_MIN:
            connection.run(cursor, "PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def close(self) -> None:
        os.close(self._file)
