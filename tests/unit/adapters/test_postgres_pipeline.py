"""Several statements in one round trip, when the server goes in the middle of it. No server is needed."""

from collections.abc import Generator
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import psycopg
import pytest
from psycopg import generators, pq

from minuet.adapters.postgres.pipeline import Command, Prepared, in_one_go

FINE = SimpleNamespace(status=pq.ExecStatus.COMMAND_OK)
FATAL = SimpleNamespace(status=pq.ExecStatus.FATAL_ERROR)
GONE = SimpleNamespace(status=pq.ExecStatus.FATAL_ERROR)


def results_of(monkeypatch: pytest.MonkeyPatch, *answers: list[Any]) -> list[Any]:
    """What comes of three commands, when the server answers so; each is prepared first."""
    left = list(answers)

    def fetched(_: Any) -> Generator[Any, Any, list[Any]]:
        yield from ()
        return left.pop(0) if left else []

    monkeypatch.setattr(generators, "send", lambda _: iter(()))
    monkeypatch.setattr(generators, "fetch_many", fetched)
    exchange = in_one_go(MagicMock(), [Command(b"a"), Command(b"b"), Command(b"c")], Prepared())
    with pytest.raises(StopIteration) as end:
        next(exchange)
    found: list[Any] = end.value.value
    return found


def test_a_server_that_says_why_it_goes_has_failed_there(monkeypatch: pytest.MonkeyPatch) -> None:
    assert results_of(monkeypatch, [FINE], [FINE], [FINE], [FATAL, GONE]) == [FINE, FATAL]


def test_a_server_that_goes_without_a_word_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(psycopg.OperationalError):
        results_of(monkeypatch, [FINE], [FINE], [])


def test_all_answers_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    assert results_of(monkeypatch, *[[FINE]] * 7) == [FINE] * 3
