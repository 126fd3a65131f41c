"""What our messages look like on NATS, and what is made of what comes from there."""

import pytest

from minuet.adapters.broker.port import Sending
from minuet.adapters.nats.wire import Heard, attribute_named, attributes_in, headers_of, received_from, status_of
from minuet.core.errors import MessageError

REPLY = "$JS.ACK.shop.minuet-inventory.3.17.20.1700000000.0"


def sending(**attributes: str) -> Sending:
    return Sending(destination="shop.orders", key="", attributes=attributes, body=b"{}", must_arrive=True)


def heard(headers: bytes, reply: str = "") -> Heard:
    return Heard("shop.orders", reply, b"{}", headers)


def test_a_message_is_a_block_of_headers_and_a_body() -> None:
    message = sending(id="e-1", source="orders", type="OrderPlaced", datacontenttype="application/json", note='a "b"')
    lines = headers_of(message, "shop").decode().split("\r\n")
    (named,) = [line for line in lines if line.startswith("Nats-Msg-Id")]
    assert lines == [
        "NATS/1.0",
        "Nats-Expected-Stream: shop",
        "ce-id: e-1",
        "ce-source: orders",
        "ce-type: OrderPlaced",
        "content-type: application/json",
        "ce-note: a%20%22b%22",
        named,
        "",
        "",
    ]
    # What an earlier version of us has published must be known again by the server.
    assert named == "Nats-Msg-Id: shop.orders orders e-1 ba9341b06cee0310ee2651514f880b75"


@pytest.mark.parametrize(
    "value",
    ["", "plain", " around ", "100 %", '"quoted"', "two\r\nlines: of it", "tab\t", "Ünïcødé 漢字 🎉", "a:b", "%41"],
)
def test_a_value_comes_back_as_it_was(value: str) -> None:
    attributes = {"id": "e-1", "note": value}
    assert attributes_in(headers_of(sending(**attributes), "shop")) == attributes


@pytest.mark.parametrize("value", ["application/json", "text/plain; charset=utf-8"])
def test_the_kind_of_the_body_has_a_header_of_its_own(value: str) -> None:
    block = headers_of(sending(datacontenttype=value), "shop")
    assert f"content-type: {value}\r\n".encode() in block
    assert attributes_in(block) == {"datacontenttype": value}


@pytest.mark.parametrize("name", ["", "a b", "a\r\nb", "a:b", "ä"])
def test_a_name_that_can_be_no_header_is_refused(name: str) -> None:
    with pytest.raises(MessageError, match="cannot be sent"):
        headers_of(sending(**{"id": "e-1", name: "value"}), "shop")


@pytest.mark.parametrize(
    ("line", "attributes"),
    [
        (b"ce-id:e-1", {"id": "e-1"}),
        (b"CE-Id: \t e-1 \t", {"id": "e-1"}),
        (b" ce-id : e-1", {"id": "e-1"}),
        (b"Content-Type: text/plain", {"datacontenttype": "text/plain"}),
        (b"ce-id: e-1\r\nce-id: e-2", {"id": "e-2"}),
        (b"ce-time: 12:00:00", {"time": "12:00:00"}),
        (b"ce-note: \xc3\xa4 \xff", {"note": "ä \N{REPLACEMENT CHARACTER}"}),
        (b"ce-note: \xc2\xa0", {"note": "\N{NO-BREAK SPACE}"}),
        (b"ce-\xc3\xa4: e-1", {}),
        (b"ce-\xff: e-1", {}),
        (b"ce-a b: e-1", {}),
        (b"ce-id", {}),
        (b"ce-: e-1", {"": "e-1"}),
        (b": e-1", {}),
        (b"traceparent: 00-1-2-01", {}),
        (b"", {}),
    ],
)
def test_headers_of_strangers_do_no_harm(line: bytes, attributes: dict[str, str]) -> None:
    assert attributes_in(b"NATS/1.0\r\n" + line + b"\r\n\r\n") == attributes


def test_a_message_without_headers_has_no_attributes() -> None:
    received = received_from(heard(b"", REPLY))
    assert (received.attributes, received.token, received.deliveries) == ({}, REPLY, 3)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (b"NATS/1.0 503\r\n\r\n", ("503", "")),
        (b"NATS/1.0 404 No Messages\r\n\r\n", ("404", "No Messages")),
        (b"NATS/1.0 408 Request Timeout\r\nNats-Pending-Messages: 1\r\n\r\n", ("408", "Request Timeout")),
        (b"NATS/1.0\r\nce-id: e-1\r\n\r\n", ("", "")),
        (b"NATS/1.0 later\r\n\r\n", ("", "")),
        (b"", ("", "")),
    ],
)
def test_the_server_speaks_by_a_status(headers: bytes, status: tuple[str, str]) -> None:
    assert status_of(heard(headers)) == status


def test_a_message_of_a_stream_is_never_a_status() -> None:
    assert status_of(heard(b"NATS/1.0 404 No Messages\r\n\r\n", REPLY)) == ("", "")


def test_a_name_that_is_no_attributes_is_not_remembered() -> None:
    attribute_named.cache_clear()
    block = "NATS/1.0\r\nce-id: e-1\r\nce-" + "x" * 100_000 + ": 1\r\n\r\n"
    assert attributes_in(block.encode()) == {"id": "e-1"}
    assert attribute_named.cache_info().currsize == 1


@pytest.mark.parametrize("name", ["note", "datacontenttype"])
def test_what_is_no_text_is_refused(name: str) -> None:
    with pytest.raises(MessageError, match="surrogates"):
        headers_of(sending(id="e-1", **{name: "half \ud800"}), "shop")
