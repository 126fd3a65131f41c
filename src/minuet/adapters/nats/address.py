"""What the URLs of this adapter say. Pure.

``nats://user:password@host:4222,host2:4222/stream/subject?options``: the address of a channel. Stream and subject may
hold ``{channel}``; the stream is ``minuet`` and the subject ``<stream>.{channel}`` if they are left out. The same
without the subject is the part of it that makes one transport: one stream, over one connection.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from minuet.core.errors import ConfigurationError

SCHEMES = ("nats", "nats+tls")
PORT = 4222
STREAM = "minuet"
NAME = re.compile(r"[A-Za-z0-9_-]{1,128}")  # of a stream; more is allowed, but not on every file system
SUBJECT = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
INBOX = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
EXAMPLE = "write nats://HOST:4222/STREAM, for example nats://127.0.0.1:4222/minuet, or nats+tls://... for TLS"

HOLD_S = 30
MAX_AGE_S = 7 * 24 * 3600
MAX_ACK_PENDING = 20_000
DUPLICATE_WINDOW_S = 120


@dataclass(frozen=True, slots=True)
class Address:
    """What one transport talks to.

    Attributes:
        servers: host and port of each server to try.
        stream: the name of the JetStream stream.
        token, creds: other ways to say who we are than user and password; ``creds`` is a file.
        ca, certificate, key: files, for TLS.
        domain: of JetStream, behind a leaf node.
        inbox: what the subjects of answers to us begin with.
        replicas, max_age_s, max_bytes: of the stream; None where the URL does not say.
        hold_s: for how long a message is one member's, unless it says that it is still in work.
        max_ack_pending: so many messages of a group may be in work, at all its members together.
    """

    servers: tuple[tuple[str, int], ...]
    stream: str
    is_tls: bool = False
    user: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    creds: Path | None = None
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    domain: str | None = None
    inbox: str = "_INBOX"
    replicas: int | None = None
    max_age_s: int | None = None
    max_bytes: int | None = None
    hold_s: int = HOLD_S
    max_ack_pending: int = MAX_ACK_PENDING

    @property
    def name(self) -> str:
        """For people: without who we are."""
        servers = ",".join(f"{host}:{port}" for host, port in self.servers)
        return f"nats{'+tls' if self.is_tls else ''}://{servers}/{self.stream}"


def split(url: str, channel: str) -> tuple[str, str]:
    """The address of the transport that serves this channel, and the channel's subject.

    Raises:
        ConfigurationError: the URL makes no sense; says what to write.
    """
    parts = urlsplit(url)
    path = [unquote(part) for part in parts.path.split("/") if part]
    if len(path) > 2:
        raise ConfigurationError(f"channel {channel}: /{'/'.join(path)} is not a stream, or stream/subject; {EXAMPLE}")
    stream = (path[0] if path else STREAM).replace("{channel}", channel.replace(".", "-"))
    subject = (path[1] if path[1:] else f"{stream}.{{channel}}").replace("{channel}", channel)
    if not SUBJECT.fullmatch(subject):
        raise ConfigurationError(
            f"channel {channel}: {subject!r} cannot be a subject; use letters, digits, - and _, with dots between them"
        )
    server = parts._replace(path=f"/{stream}").geturl()
    parse(server)
    return server, subject


def parse(server: str) -> Address:
    """What `split` gave as the address of a transport.

    Raises:
        ConfigurationError: an option that there is not, or a value that makes no sense.
    """
    parts = urlsplit(server)
    stream = parts.path.strip("/")
    if parts.scheme not in SCHEMES or not parts.netloc or parts.fragment:
        raise ConfigurationError(f"this is not the address of a NATS stream; {EXAMPLE}")
    if not NAME.fullmatch(stream):
        raise ConfigurationError(f"{stream!r} cannot be a stream's name; use letters, digits, - and _, without dots")
    options = Options(parts)
    is_tls = parts.scheme == "nats+tls"
    user, password = _user_of(parts)
    address = Address(
        servers=_servers_of(parts),
        stream=stream,
        is_tls=is_tls,
        user=user,
        password=password,
        token=options.text("token"),
        creds=options.path("creds"),
        ca=options.path("ca"),
        certificate=options.path("certificate"),
        key=options.path("key"),
        domain=options.text("domain", NAME),
        inbox=options.text("inbox", INBOX) or "_INBOX",
        replicas=options.number("replicas", 1, 5),
        max_age_s=options.number("max_age_s", 60, 100 * 365 * 24 * 3600),
        max_bytes=options.number("max_bytes", 1, 2**62),
        hold_s=options.number("hold_s", 1, 3600) or HOLD_S,
        max_ack_pending=options.number("max_ack_pending", 1, 1_000_000) or MAX_ACK_PENDING,
    )
    options.no_others()
    if sum(told is not None for told in (address.user, address.token, address.creds)) > 1:
        raise ConfigurationError(f"{address.name}: give a user with a password, or token=, or creds=, only one of them")
    if not is_tls and (address.ca or address.certificate or address.key):
        raise ConfigurationError(f"{address.name}: ca=, certificate= and key= are for nats+tls://")
    if bool(address.certificate) != bool(address.key):
        raise ConfigurationError(f"{address.name}: certificate= and key= go together")
    return address


class Options:
    """The query of a URL. What it holds may be secret, so errors name options and never repeat their values."""

    def __init__(self, parts: SplitResult) -> None:
        self._found = dict(parse_qsl(parts.query, keep_blank_values=True))
        self._known: list[str] = []

    def text(self, name: str, form: re.Pattern[str] = re.compile(".+")) -> str | None:
        self._known.append(name)
        value = self._found.get(name)
        if value is not None and not form.fullmatch(value):
            raise ConfigurationError(f"nats://...?{name}= has to match {form.pattern}")
        return value

    def path(self, name: str) -> Path | None:
        value = self.text(name)
        return Path(value) if value is not None else None

    def number(self, name: str, least: int, most: int) -> int | None:
        value = self.text(name)
        if value is None:
            return None
        if not value.isascii() or not value.isdecimal() or not least <= int(value) <= most:
            raise ConfigurationError(f"nats://...?{name}= is a whole number from {least} to {most}")
        return int(value)

    def no_others(self) -> None:
        others = sorted(set(self._found) - set(self._known))
        if others:
            raise ConfigurationError(f"nats:// has no option {', '.join(others)}; there are {', '.join(self._known)}")


def _user_of(parts: SplitResult) -> tuple[str | None, str | None]:
    before, at, _ = parts.netloc.rpartition("@")
    user, colon, password = before.partition(":")
    if at and (not user or not colon):
        raise ConfigurationError("nats://user:password@host needs both user and password; a token goes in ?token=")
    return (unquote(user), unquote(password)) if at else (None, None)


def _servers_of(parts: SplitResult) -> tuple[tuple[str, int], ...]:
    servers = []
    for server in parts.netloc.rpartition("@")[2].split(","):
        try:
            one = urlsplit(f"//{server}")
            host, port = one.hostname, one.port or PORT
        except ValueError:
            host, port = None, 0
        if not host:
            raise ConfigurationError(f"{server!r} is not a host and port; {EXAMPLE}")
        servers.append((host, port))
    return tuple(servers)
