"""The write-ahead log: when to move what is in it into the database file, and whether it is whole."""

from __future__ import annotations

import os
import sqlite3
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from minuet.adapters.sqlite.connection import CHECKED_BYTES_MAX, Connection

HEADER_BYTES = 32
FRAME_HEADER_BYTES = 24
FRAMES_MAX = 2000
SHRINK_BYTES_MIN = 128 * 1024 * 1024
MAGIC = {0x377F0682: "<", 0x377F0683: ">"}
"""In the header; it says in which order of bytes the checksums are counted."""


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


# -- whether it is whole -----------------------------------------------------------------------------------------------


class Frame(NamedTuple):
    """A page in the log. It is linked if its checksum continues that of the frame before."""

    ends_a_transaction: bool
    is_linked: bool


def check(database: Path) -> None:
    """Refuse a log of which SQLite would silently leave out what was durable.

    SQLite reads the log up to the first frame whose checksum is wrong, and takes that for its end, for a process that
    dies while it writes leaves such a frame. But then at most one transaction stands behind it: the next one begins
    only when the one before is on disk. Two that are linked to each other tell that the disk, or somebody, has changed
    what was durable. What is cut off at the end, or changed in the last transaction, nobody can tell from a crash.

    To be called before SQLite opens the file, by who has it alone: closing it would take the log away.

    Raises:
        sqlite3.DatabaseError: the log is damaged.
    """
    path = Path(f"{database}-wal")
    if not (path.exists() and HEADER_BYTES < path.stat().st_size <= CHECKED_BYTES_MAX):
        return
    with path.open("rb") as log:
        transactions = 0
        was_broken = False
        for frame in _frames(log):
            if not frame.is_linked:
                was_broken, transactions = True, 0
            transactions += frame.ends_a_transaction
            if was_broken and transactions > 1:
                raise sqlite3.DatabaseError("a part of its write-ahead log is damaged, with transactions behind it")


def _frames(log: BinaryIO) -> Iterator[Frame]:
    """Everything in the log; what is left in it of earlier rounds ends no transaction of this one."""
    header = log.read(HEADER_BYTES)
    order = MAGIC.get(int.from_bytes(header[:4], "big"))
    checksums = _two(header[24:32])
    if order is None or _continued((0, 0), header[:24], order) != checksums:
        raise sqlite3.DatabaseError("the header of its write-ahead log is damaged")
    page_bytes = int.from_bytes(header[8:12], "big")
    while len(frame := log.read(FRAME_HEADER_BYTES + page_bytes)) == FRAME_HEADER_BYTES + page_bytes:
        own = _two(frame[16:24])
        if frame[8:16] != header[16:24]:
            yield Frame(ends_a_transaction=False, is_linked=False)  # of an earlier round, or its salt is damaged
        else:
            expected = _continued(checksums, frame[:8] + frame[FRAME_HEADER_BYTES:], order)
            yield Frame(frame[4:8] != bytes(4), expected == own)
        checksums = own


def _two(numbers: bytes) -> tuple[int, int]:
    first, second = struct.unpack(">2I", numbers)
    return first, second


def _continued(checksums: tuple[int, int], content: bytes, order: str) -> tuple[int, int]:
    """https://sqlite.org/fileformat2.html#checksum_algorithm"""
    first, second = checksums
    for one, other in struct.iter_unpack(f"{order}2I", content):
        first = (first + one + second) & 0xFFFFFFFF
        second = (second + other + first) & 0xFFFFFFFF
    return first, second
