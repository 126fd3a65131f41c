"""What the URLs of this adapter say. Pure.

``redis://user:password@host:6379/0?prefix=minuet:&options``: the address of a channel, whose stream is prefix and
channel. The same without the prefix is the part of it that makes one transport.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import SplitResult, parse_qsl, unquote, urlencode, urlsplit

from minuet.core.errors import ConfigurationError

SCHEMES = ("redis", "rediss")
PORT = 6379
PREFIX = "minuet:"
HOLD_S = 30
EXAMPLE = "write redis://HOST:6379/0, for example redis://127.0.0.1:6379/0?prefix=shop:, or rediss://... for TLS"


@dataclass(frozen=True, slots=True)
class Address:
    """What one transport talks to.

    Attributes:
        database: its number.
        ca, certificate, key: files, for TLS.
        replicas: so many must have a message before it counts as published.
        keep_s: messages that all groups have handled are kept for so long at least.
        hold_s: for how long a message is one member's, unless it says that it is still in work.
    """

    host: str
    port: int
    database: int
    is_tls: bool = False
    user: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    replicas: int = 0
    keep_s: int = 0
    hold_s: int = HOLD_S

    @property
    def name(self) -> str:
        """For people: without who we are."""
        return f"redis{'s' if self.is_tls else ''}://{self.host}:{self.port}/{self.database}"


def split(url: str, channel: str) -> tuple[str, str]:
    """The address of the transport that serves this channel, and the channel's stream.

    Raises:
        ConfigurationError: the URL makes no sense; says what to write.
    """
    parts = urlsplit(url)
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    stream = options.pop("prefix", PREFIX) + channel
    if not stream.isprintable() or " " in stream:
        raise ConfigurationError(f"channel {channel}: {stream!r} cannot be a stream; use a prefix without spaces")
    server = parts._replace(path=parts.path.rstrip("/") or "/0", query=urlencode(options)).geturl()
    parse(server)
    return server, stream


def parse(server: str) -> Address:
    """What `split` gave as the address of a transport.

    Raises:
        ConfigurationError: an option that there is not, or a value that makes no sense.
    """
    parts = urlsplit(server)
    try:
        host, port = parts.hostname, parts.port or PORT
    except ValueError:
        host, port = None, 0
    if parts.scheme not in SCHEMES or not host or parts.fragment:
        raise ConfigurationError(f"this is not the address of a Redis server; {EXAMPLE}")
    database = parts.path.strip("/") or "0"
    if not database.isascii() or not database.isdecimal():
        raise ConfigurationError(
            f"redis://{host}/{database}: after the slash comes the number of a database; {EXAMPLE}"
        )
    options = Options(parts)
    address = Address(
        host=host,
        port=port,
        database=int(database),
        is_tls=parts.scheme == "rediss",
        user=unquote(parts.username) if parts.username else None,
        password=unquote(parts.password) if parts.password else None,
        ca=options.path("ca"),
        certificate=options.path("certificate"),
        key=options.path("key"),
        replicas=options.number("replicas", 0, 100, 0),
        keep_s=options.number("keep_s", 0, 10 * 365 * 24 * 3600, 0),
        hold_s=options.number("hold_s", 1, 3600, HOLD_S),
    )
    options.no_others()
    if address.user and not address.password:
        raise ConfigurationError(f"{address.name}: a user needs a password; write redis://user:password@host")
    if not address.is_tls and (address.ca or address.certificate or address.key):
        raise ConfigurationError(f"{address.name}: ca=, certificate= and key= are for rediss://")
    if bool(address.certificate) != bool(address.key):
        raise ConfigurationError(f"{address.name}: certificate= and key= go together")
    return address


class Options:
    """The query of a URL."""

    def __init__(self, parts: SplitResult) -> None:
        self._found = dict(parse_qsl(parts.query, keep_blank_values=True))
        self._known: list[str] = []

    def path(self, name: str) -> Path | None:
        self._known.append(name)
        value = self._found.get(name)
        if value == "":
            raise ConfigurationError(f"redis://...?{name}= is a file")
        return Path(value) if value is not None else None

    def number(self, name: str, least: int, most: int, default: int) -> int:
        self._known.append(name)
        value = self._found.get(name)
        if value is None:
            return default
        if not value.isascii() or not value.isdecimal() or not least <= int(value) <= most:
            raise ConfigurationError(f"redis://...?{name}= is a whole number from {least} to {most}")
        return int(value)

    def no_others(self) -> None:
        others = sorted(set(self._found) - set(self._known))
        if others:
            known = ", ".join(["prefix", *self._known])
            raise ConfigurationError(f"redis:// has no option {', '.join(others)}; there are {known}")
