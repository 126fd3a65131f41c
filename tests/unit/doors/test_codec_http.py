"""The wire's small words: header values, addresses, names."""

import contextlib
import json
import re
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from minuet.codec_http import (
    attributes_in,
    filled,
    header_value,
    headers_of,
    strict_json,
    value_of,
    wait_s_of,
    words_of,
)
from tests.unit.doors.kit import RESERVE_ENVELOPE

TEXTS = st.text(st.characters(exclude_categories=["Cs"]))


@given(TEXTS)
@example('"quoted"')
@example("%41")
@example("\r\nX-Evil: 1")
def test_any_text_fits_a_header_and_comes_back(text: str) -> None:
    header = header_value(text)
    assert re.fullmatch(r"[\x21-\x7e]*", header)
    assert value_of(header) == text


def test_a_quoted_header_is_taken_out_of_its_quotes() -> None:
    assert value_of(r'"say \"hi\" %C3%BC"') == 'say "hi" ü'


def test_attributes_come_back_from_their_headers() -> None:
    found = attributes_in(headers_of(RESERVE_ENVELOPE))
    assert (found["id"], found["sagaid"]) == (RESERVE_ENVELOPE.id, "o-1")
    assert "datacontenttype" not in found
    assert attributes_in([("content-type", "application/json")]) == {}


@given(TEXTS.filter(bool))
def test_a_value_stays_one_segment_of_a_path(text: str) -> None:
    assert re.fullmatch(r"/orders/[A-Za-z0-9_.~%-]+/status", filled("/orders/{order_id}/status", {"order_id": text}))


@pytest.mark.parametrize("value", [None, ""])
def test_an_empty_value_is_no_address(value: str | None) -> None:
    with pytest.raises(ValueError, match="order_id is empty"):
        filled("/orders/{order_id}", {"order_id": value})


@pytest.mark.parametrize(
    ("name", "words"),
    [("OutOfStock", "Out of stock"), ("HTTPError", "HTTP error"), ("Gone", "Gone"), ("StepRefused2", "Step refused2")],
)
def test_a_name_in_words(name: str, words: str) -> None:
    assert words_of(name) == words


@given(
    st.recursive(st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXTS, st.lists, max_leaves=5), st.binary()
)
def test_strict_json_reads_what_is_json_and_raises_nothing_else(value: object, noise: bytes) -> None:
    assert strict_json(json.dumps(value, ensure_ascii=False).encode()) == value
    with contextlib.suppress(ValueError):
        strict_json(noise)


@given(st.text())
def test_no_preference_confuses(text: str) -> None:
    found = wait_s_of(text)
    assert found is None or found >= 0


def test_a_name_that_stands_twice_among_many_is_found_in_time() -> None:
    names = ",".join(f'"{number:05d}":1' for number in range(90_000))
    begun = time.perf_counter()
    with pytest.raises(ValueError, match="'89999' stands twice"):
        strict_json(f'{{{names},"89999":1}}'.encode())
    assert time.perf_counter() - begun < 5  # it was minutes, with the event loop standing still
