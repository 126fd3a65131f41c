"""Several statements in one round trip, in libpq's pipeline mode, and values as the server takes them.

psycopg's own pipelines go through a cursor for each statement. What is sent here are always the same few statements,
many times a second, so they are prepared once and get their values in the binary format, whole columns as arrays.
"""

from __future__ import annotations

import struct
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import generators, pq
from psycopg.abc import Buffer
from psycopg.pq.abc import PGconn, PGresult

Value = bytes | None

TEXT, BYTEA, BIGINT, DOUBLE, BOOLEAN = 25, 17, 20, 701, 16
"""The server's numbers of these types."""

_bigint = struct.Struct("!q").pack
_double = struct.Struct("!d").pack
_length = struct.Struct("!i").pack
_head = struct.Struct("!iIIii").pack
_NULL = _length(-1)
_EMPTY = struct.pack("!iII", 0, 0, TEXT)
TRUE, FALSE = b"\x01", b"\x00"


@dataclass(frozen=True, slots=True)
class Command:
    """A statement and its values.

    Attributes:
        types: of the values; by default those that the statement gives them.
        formats: of the values; by default all are binary.
        answers_in: the format of its rows.
    """

    statement: bytes
    values: Sequence[Buffer | None] = ()
    types: tuple[int, ...] = ()
    formats: Sequence[pq.Format] | None = None
    answers_in: pq.Format = pq.Format.BINARY


def text(value: str | None) -> Value:
    return None if value is None else value.encode()


def bigint(value: int) -> bytes:
    return _bigint(value)


def double(value: float) -> bytes:
    return _double(value)


def array(kind: int, items: Sequence[Value]) -> bytes:
    """An array of values of that type."""
    if not items:
        return _EMPTY
    count, first = len(items), items[0]
    head = _head(1, None in items, kind, count, 1)
    if items.count(first) == count:  # of many columns all rows have the same, as their state
        return head + _item(first) * count
    return head + b"".join([_NULL if item is None else _length(len(item)) + item for item in items])


def _item(value: Value) -> bytes:
    return _NULL if value is None else _length(len(value)) + value


def arrays(kinds: Sequence[int], rows: Sequence[Sequence[Value]]) -> list[Value]:
    """The columns of these rows, each as an array of its type."""
    return [array(kind, column) for kind, column in zip(kinds, zip(*rows, strict=True), strict=True)]


Kind = tuple[bytes, tuple[int, ...]]
"""A statement, and the types of its values: what is prepared."""


class Prepared:
    """The statements that a session has prepared, and their names there. No name is given twice."""

    def __init__(self) -> None:
        self._names: dict[Kind, bytes] = {}
        self._given = 0

    def __len__(self) -> int:
        return len(self._names)

    def name_of(self, kind: Kind) -> bytes | None:
        return self._names.get(kind)

    def new_name(self) -> bytes:
        self._given += 1
        return b"minuet_%d" % self._given

    def keep(self, kind: Kind, name: bytes) -> None:
        self._names[kind] = name

    def forget(self) -> None:
        self._names.clear()


def in_one_go(pgconn: PGconn, commands: Sequence[Command], prepared: Prepared) -> Generator[Any, Any, list[PGresult]]:
    """Send all, and wait for the results: one for each command, up to and with the first that failed.

    Raises:
        psycopg.OperationalError: the connection is lost.
    """
    new: dict[Kind, bytes] = {}
    sent: list[Kind | None] = []  # what is prepared, or None for what is run
    for command in commands:
        kind = command.statement, command.types
        name = prepared.name_of(kind) or new.get(kind)
        if name is None:
            name = new[kind] = prepared.new_name()
            pgconn.send_prepare(name, *kind)
            sent.append(kind)
        formats = command.formats or (pq.Format.BINARY,) * len(command.values)
        pgconn.send_query_prepared(name, command.values, formats, command.answers_in)
        sent.append(None)
    pgconn.pipeline_sync()
    yield from generators.send(pgconn)
    results: list[PGresult] = []
    has_failed = False
    for prepares in sent:
        answers = yield from generators.fetch_many(pgconn)
        if has_failed:
            continue
        if not answers:
            raise psycopg.OperationalError("the server has answered less than it was asked")
        # A server that goes says why, and then libpq says that it has gone.
        failure = next((one for one in answers if one.status == pq.ExecStatus.FATAL_ERROR), None)
        has_failed = failure is not None
        if prepares is None or has_failed:
            results.append(failure or answers[0])
        else:
            prepared.keep(prepares, new[prepares])
    yield from generators.fetch_many(pgconn)  # the end of the pipeline
    return results
