"""What stands in an ``amqp://`` URL: where the broker is, who we are, and how the adapter uses it.

    amqp://user:password@host:5672/exchange?vhost=/&queue=quorum
    amqp://user:password@host:5672/exchange/routing.{channel}

A password never gets into an error: what is wrong is told with the scheme and host only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlencode, urlsplit

from minuet.core.errors import ConfigurationError

EXCHANGE: Final = "minuet"
NAME_BYTES_MAX: Final = 255
PREFETCH: Final = 1000  # as many as `BrokerTransport` holds for a group: less would leave its hands half empty
PORTS: Final = {"amqp": 5672, "amqps": 5671}
QUEUE_TYPES: Final = ("classic", "quorum")
EXAMPLE: Final = "amqp://user:password@host:5672/exchange?vhost=/"
TLS_OPTIONS: Final = ("cafile", "certfile", "keyfile")
OPTIONS: Final = (
    *("auth", "cafile", "certfile", "heartbeat", "keyfile", "prefetch", "prefix", "queue", "single-active-consumer"),
    "vhost",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The server part of a URL, understood.

    Attributes:
        queue: the type of the queues that we make.
        prefix: before a group's name in the name of its queue.
        prefetch: how many messages the broker may send ahead of their acknowledgement, for each group.
        heartbeat_s: how often each side lets the other know that it is there.
        external: the TLS certificate says who we are; there is no password.
    """

    scheme: str
    host: str
    port: int
    user: str
    password: str = field(repr=False)
    vhost: str = "/"
    queue: str = "classic"
    single_active_consumer: bool = False
    prefix: str = "minuet."
    prefetch: int = PREFETCH
    heartbeat_s: int = 10
    external: bool = False
    cafile: str | None = None
    certfile: str | None = None
    keyfile: str | None = None

    @property
    def shown(self) -> str:
        """For people: the address without what is secret."""
        return f"{self.scheme}://{self.host}:{self.port} (virtual host {self.vhost})"


def split(url: str, channel: str) -> tuple[str, str]:
    """The server part of a URL, which identifies one connection, and the destination of this channel.

    Raises:
        ConfigurationError: says what of it makes no sense, and what to write.
    """
    parts = _parts(url)
    segments = [unquote(segment).replace("{channel}", channel) for segment in parts.path.split("/") if segment]
    shown = f"{parts.scheme}://{_host(parts)}"
    if len(segments) > 2:  # an exchange and a routing key
        raise ConfigurationError(
            f"the path of {shown} has {len(segments)} parts; write /exchange or /exchange/routing.key, and a virtual "
            f"host as ?vhost={quote('/'.join(segments[:1]))}"
        )
    exchange, routing_key = (*segments, *(EXCHANGE, channel)[len(segments) :])
    _check_name("exchange", exchange, shown)
    _check_name("routing key", routing_key, shown)
    if "/" in exchange:
        raise ConfigurationError(f"exchange {exchange!r} of {shown} has a slash in its name; use one without")
    if {"*", "#"} & set(routing_key.split(".")):
        raise ConfigurationError(f"routing key {routing_key!r} of {shown} is a pattern; write one key for one channel")
    server = parts._replace(path="/", query=urlencode(sorted(_options(parts).items())), fragment="").geturl()
    settings_of(server)
    return server, f"{exchange}/{routing_key}"


def settings_of(url: str) -> Settings:
    """What the server part says.

    Raises:
        ConfigurationError: as `split` does.
    """
    parts = _parts(url)
    options = _options(parts)
    shown = f"{parts.scheme}://{_host(parts)}"
    tls = {name: options[name] for name in TLS_OPTIONS if name in options}
    if tls and parts.scheme != "amqps":
        raise ConfigurationError(f"{shown} has the option {min(tls)} but no TLS; write amqps://")
    if "keyfile" in tls and "certfile" not in tls:
        raise ConfigurationError(f"{shown} has a keyfile but no certfile; name both, or a certfile that holds the key")
    queue = options.get("queue", "classic")
    if queue not in QUEUE_TYPES:
        raise ConfigurationError(f"option queue={queue} of {shown} is unknown; it may be {' or '.join(QUEUE_TYPES)}")
    auth = options.get("auth", "plain")
    if auth not in ("plain", "external"):
        raise ConfigurationError(f"option auth={auth} of {shown} is unknown; it may be plain or external")
    prefix = options.get("prefix", "minuet.")
    _check_name("prefix", prefix, shown)
    return Settings(
        scheme=parts.scheme,
        host=_host(parts),
        port=_port(parts),
        user=unquote(parts.username) if parts.username else "guest",
        password=unquote(parts.password) if parts.password else "guest",
        vhost=options.get("vhost", "/"),
        queue=queue,
        single_active_consumer=_flag("single-active-consumer", options, shown),
        prefix=prefix,
        prefetch=_number("prefetch", options, PREFETCH, 1, 65535, shown),
        heartbeat_s=_number("heartbeat", options, 10, 1, 3600, shown),
        external=auth == "external",
        cafile=tls.get("cafile"),
        certfile=tls.get("certfile"),
        keyfile=tls.get("keyfile"),
    )


def _parts(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _port(parts)
        host = parts.hostname
    except ValueError:  # its text may hold the password
        raise ConfigurationError(
            f"a RabbitMQ URL cannot be read; write {EXAMPLE}, with special characters of the password as %xx"
        ) from None
    if parts.scheme not in PORTS:
        raise ConfigurationError(f"{parts.scheme}:// is not RabbitMQ's; write {EXAMPLE}, or amqps:// for TLS")
    if not host:
        raise ConfigurationError(f"a RabbitMQ URL names no host; write {EXAMPLE}")
    return parts


def _host(parts: SplitResult) -> str:
    return parts.hostname or ""


def _port(parts: SplitResult) -> int:
    return parts.port or PORTS.get(parts.scheme, 0)


def _options(parts: SplitResult) -> Mapping[str, str]:
    options: dict[str, str] = {}
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        if name not in OPTIONS:
            raise ConfigurationError(
                f"option {name} of {parts.scheme}://{_host(parts)} is unknown; there are {', '.join(OPTIONS)}"
            )
        if name in options:
            raise ConfigurationError(f"option {name} of {parts.scheme}://{_host(parts)} is there twice; write it once")
        options[name] = value
    return options


def _flag(name: str, options: Mapping[str, str], shown: str) -> bool:
    value = options.get(name, "false")
    if value not in ("true", "false"):
        raise ConfigurationError(f"option {name}={value} of {shown} must be true or false")
    return value == "true"


def _number(name: str, options: Mapping[str, str], default: int, least: int, most: int, shown: str) -> int:
    text = options.get(name, str(default))
    if not text.isascii() or not text.isdigit() or not least <= int(text) <= most:
        raise ConfigurationError(f"option {name}={text} of {shown} must be a whole number from {least} to {most}")
    return int(text)


def _check_name(what: str, name: str, shown: str) -> None:
    if not name or len(name.encode()) > NAME_BYTES_MAX:
        raise ConfigurationError(f"{what} {name!r} of {shown} must have 1 to {NAME_BYTES_MAX} bytes")
