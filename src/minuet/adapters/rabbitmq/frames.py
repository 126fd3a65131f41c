"""The frames of AMQP 0-9-1 that go by the thousand, as bytes: messages, their confirmations and acknowledgements. Pure.

All others are the client's.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct
from typing import Final

HEAD: Final = Struct(">BHI")
"""Of a frame: its kind, its channel, and the size of its payload, after which one more byte follows."""
END: Final = b"\xce"
METHOD: Final = 1
HEADER: Final = 2
BODY: Final = 3
SHORT_BYTES_MAX: Final = 255
HEARTBEAT: Final = HEAD.pack(8, 0, 0) + END

PUBLISH: Final = bytes((0, 60, 0, 40))
RETURN: Final = bytes((0, 60, 0, 50))
DELIVER: Final = bytes((0, 60, 0, 60))
ACK: Final = bytes((0, 60, 0, 80))
NACK: Final = bytes((0, 60, 0, 120))
QOS: Final = bytes((0, 60, 0, 10))
QOS_OK: Final = bytes((0, 60, 0, 11))
METHOD_BYTES: Final = 4
"""What a method's payload begins with: one of these."""

_MULTIPLE: Final = 1
_REQUEUE: Final = 2
_TAG: Final = Struct(">QB")
_QOS: Final = Struct(">IHB")


@dataclass(frozen=True, slots=True)
class Delivery:
    """What the broker says of a message that it gives us."""

    tag: int
    is_redelivered: bool
    destination: str


def delivery_in(payload: bytes) -> Delivery:
    """Read a ``Basic.Deliver``."""
    at = METHOD_BYTES + 1 + payload[METHOD_BYTES]  # behind the name of the consumer
    tag, redelivered = _TAG.unpack_from(payload, at)
    exchange, at = short_in(payload, at + _TAG.size)
    key, _ = short_in(payload, at)
    # Names that are no UTF-8 are strangers', and none of our destinations.
    return Delivery(tag, bool(redelivered), f"{exchange.decode(errors='replace')}/{key.decode(errors='replace')}")


def reason_in(payload: bytes) -> str:
    """Why the broker gives a message back: the text of a ``Basic.Return``."""
    text, _ = short_in(payload, METHOD_BYTES + 2)  # behind the code
    return text.decode(errors="replace")


def confirmation_in(payload: bytes) -> tuple[int, bool]:
    """The number of the message that a ``Basic.Ack`` or ``Basic.Nack`` is about, and whether of all before it, too."""
    tag, bits = _TAG.unpack_from(payload, METHOD_BYTES)
    return tag, bool(bits & _MULTIPLE)


def publishing(channel: int, destination: str, header: bytes, body: bytes, *, mandatory: bool, part_max: int) -> bytes:
    """A whole message.

    Args:
        header: the payload of its content header.
        part_max: so many bytes of a body fit into one frame.

    Raises:
        ValueError: a name is too long, or cannot be written.
    """
    exchange, _, key = destination.partition("/")
    method = b"%b\0\0%b%b%b" % (PUBLISH, short(exchange), short(key), b"\1" if mandatory else b"\0")
    frames = [_frame(METHOD, channel, method), _frame(HEADER, channel, header)]
    frames += [_frame(BODY, channel, body[at : at + part_max]) for at in range(0, len(body), part_max)]
    return b"".join(frames)


def acknowledging(channel: int, tag: int, *, multiple: bool = False) -> bytes:
    return _frame(METHOD, channel, ACK + _TAG.pack(tag, _MULTIPLE if multiple else 0))


def putting_back(channel: int, tag: int) -> bytes:
    return _frame(METHOD, channel, NACK + _TAG.pack(tag, _REQUEUE))


def asking_for_prefetch(channel: int, prefetch: int) -> bytes:
    return _frame(METHOD, channel, QOS + _QOS.pack(0, prefetch, 0))


def short(text: str) -> bytes:
    """A short string, as AMQP writes it.

    Raises:
        ValueError: it has more than 255 bytes.
    """
    written = text.encode()
    if len(written) > SHORT_BYTES_MAX:
        raise ValueError(f"{text!r} has more than {SHORT_BYTES_MAX} bytes")
    return bytes((len(written),)) + written


def short_in(data: bytes, at: int) -> tuple[bytes, int]:
    """The short string that begins there, and where it ends."""
    end = at + 1 + data[at]
    return data[at + 1 : end], end


def _frame(kind: int, channel: int, payload: bytes) -> bytes:
    return HEAD.pack(kind, channel, len(payload)) + payload + END
