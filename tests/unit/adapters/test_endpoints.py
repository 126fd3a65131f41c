"""Where the services of other processes answer: each `Endpoints` stands for a process."""

import os
from pathlib import Path

import pytest

from minuet.adapters.endpoints import Endpoints
from minuet.adapters.system import SystemIds
from minuet.core.errors import NotYet


@pytest.fixture
def asker(tmp_path: Path) -> Endpoints:
    return process(tmp_path)


def process(folder: Path) -> Endpoints:
    return Endpoints(folder / "endpoints", SystemIds())


def test_a_service_is_found_where_it_answers_as_long_as_it_does(asker: Endpoints, tmp_path: Path) -> None:
    with pytest.raises(NotYet, match="billing does not run"):
        asker.url_of("billing")
    other = process(tmp_path)
    other.announce("billing", "http://127.0.0.1:1")
    assert [asker.url_of("billing") for _ in range(3)] == ["http://127.0.0.1:1"] * 3
    other.withdraw()
    with pytest.raises(NotYet):
        asker.url_of("billing")


def test_the_one_that_came_last_is_found_and_then_the_one_before_it(asker: Endpoints, tmp_path: Path) -> None:
    first, second = process(tmp_path), process(tmp_path)
    first.announce("billing", "http://127.0.0.1:1")
    assert asker.url_of("billing") == "http://127.0.0.1:1"
    second.announce("billing", "http://127.0.0.1:2")
    assert asker.url_of("billing") == "http://127.0.0.1:2"
    second.withdraw()
    assert asker.url_of("billing") == "http://127.0.0.1:1"


def test_nobody_is_sent_to_one_that_died_without_a_word(asker: Endpoints, tmp_path: Path) -> None:
    first, second = process(tmp_path), process(tmp_path)
    first.announce("billing", "http://127.0.0.1:1")
    second.announce("billing", "http://127.0.0.1:2")
    assert asker.url_of("billing") == "http://127.0.0.1:2"
    killed(second)
    assert asker.url_of("billing") == "http://127.0.0.1:1"
    killed(first)
    with pytest.raises(NotYet):
        asker.url_of("billing")


def killed(one: Endpoints) -> None:
    """The kernel frees its lock, and its file stays."""
    for _, opened in one._mine:
        os.close(opened)
    one._mine.clear()


def test_who_comes_back_on_an_empty_folder_is_found(asker: Endpoints, tmp_path: Path) -> None:
    first = process(tmp_path)
    first.announce("billing", "http://127.0.0.1:1")
    assert asker.url_of("billing") == "http://127.0.0.1:1"
    first.withdraw()
    (tmp_path / "endpoints" / "billing").rmdir()
    with pytest.raises(NotYet):
        asker.url_of("billing")
    second = process(tmp_path)
    second.announce("billing", "http://127.0.0.1:2")
    assert asker.url_of("billing") == "http://127.0.0.1:2"
