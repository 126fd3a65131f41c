"""Several statements in one round trip, in libpq's pipeline mode, and values as the server takes them.

psycopg's own pipelines go through a cursor for each statement. What is sent here are always the same few statements,
many times a second, so they are prepared once and get their values in the binary format, whole columns as arrays.
"""

from __future__ import annotations

import struct
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

from psycopg import generators, pq
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
    """A statement and its values. The types of the values are those that the statement gives them."""

    statement: bytes
    values: Sequence[Value] = ()


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


class Prepared:
    """The statements that a session has prepared, and their names there. No name is given twice."""

    def __init__(self) -> None:
        self._names: dict[bytes, bytes] = {}
        self._given = 0

    def name_of(self, statement: bytes) -> bytes | None:
        return self._names.get(statement)

    def new_name(self) -> bytes:
        self._given += 1
        return b"minuet_%d" % self._given

    def keep(self, statement: bytes, name: bytes) -> None:
        self._names[statement] = name

    def forget(self) -> None:
        self._names.clear()


def in_one_go(pgconn: PGconn, commands: Sequence[Command], prepared: Prepared) -> Generator[Any, Any, list[PGresult]]:
    """Send all, and wait for the results: one for each command, up to and with the first that failed."""
    new: dict[bytes, bytes] = {}
    sent: list[bytes | None] = []  # what is prepared, or None for what is run
    for command in commands:
        statement = command.statement
        name = prepared.name_of(statement) or new.get(statement)
        if name is None:
            name = new[statement] = prepared.new_name()
            pgconn.send_prepare(name, statement)
            sent.append(statement)
        formats = (pq.Format.BINARY,) * len(command.values)
        pgconn.send_query_prepared(name, command.values, formats, pq.Format.BINARY)
        sent.append(None)
    pgconn.pipeline_sync()
    yield from generators.send(pgconn)
    results: list[PGresult] = []
    has_failed = False
    for prepares in sent:
        (result,) = yield from generators.fetch_many(pgconn)
        if has_failed:
            continue
        has_failed = result.status == pq.ExecStatus.FATAL_ERROR
        if prepares is None or has_failed:
            results.append(result)
        else:
            prepared.keep(prepares, new[prepares])
    yield from generators.fetch_many(pgconn)  # the end of the pipeline
    return results
