"""``kafka://user:password@host:9092,host2:9092/topic?options``: what it says, and what it means for librdkafka."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from urllib.parse import parse_qsl, unquote, urlsplit

from minuet.core.errors import ConfigurationError

FORM = "write kafka://host:9092,host2:9092/topic?option=value"
PORT = 9092
PARTITIONS = 6
RECONNECT_MS, RECONNECT_MS_MAX = 1000, 3000
MESSAGE_BYTES_MAX = 1_048_588  # Kafka's own default for ``max.message.bytes``
HEADERS_BYTES_MAX = 16 * 1024  # of a message, kept free for its attributes, its key and Kafka's frame
SECRET = re.compile(r"password|secret|\.pem$|sasl\.jaas|sasl\.oauthbearer\.config")
TOPIC = re.compile(r"[a-zA-Z0-9._-]{1,249}")
PREFIX = re.compile(r"[a-zA-Z0-9._-]{1,100}")
PASSED_ON = ("security.", "sasl.", "ssl.")
OURS = frozenset(
    {
        "acks",
        "auto.offset.reset",
        "bootstrap.servers",
        "enable.auto.commit",
        "enable.auto.offset.store",
        "enable.idempotence",
        "group.id",
        "group.protocol",
        "metadata.broker.list",
        "partitioner",
        "request.required.acks",
        "transactional.id",
    }
)
"""Settings of librdkafka that what we promise depends on."""


@dataclass(frozen=True, slots=True)
class Options:
    """Everything a URL says but the topic.

    Attributes:
        servers: ``host:port``, for people too: there is no password in it.
        client: settings of every client, as librdkafka names them. May hold a password.
        partitions, replication: of topics that `declare` makes; -1: as the broker does.
        fixed_partitions: ``partitions`` was said, so that a topic with fewer is not as it should be.
        topic: further settings of topics that `declare` makes.
        protocol: by which groups share partitions.
        prefix: before a group's name in the name of its consumer group.
        secrets: passwords and the like, to be kept out of errors.
    """

    servers: str
    client: Mapping[str, str]
    partitions: int = PARTITIONS
    replication: int = -1
    fixed_partitions: bool = False
    topic: Mapping[str, str] | None = None
    protocol: str = "consumer"
    prefix: str = "minuet."
    secrets: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"Options({self.servers})"

    @property
    def message_bytes_max(self) -> int:
        return int((self.topic or {}).get("max.message.bytes", MESSAGE_BYTES_MAX))


def split(url: str, channel: str) -> tuple[str, str]:
    """The server part, which names one transport, and the topic of this channel.

    Raises:
        ConfigurationError: it makes no sense; says what to write instead.
    """
    parts = urlsplit(url)
    topic = unquote(parts.path).strip("/").replace("{channel}", channel) or channel
    if not TOPIC.fullmatch(topic) or topic in {".", ".."}:
        raise ConfigurationError(
            f"{topic!r} cannot be a topic of Kafka: use letters, digits, '.', '_' and '-', at most 249; "
            f"write the topic for channel {channel} into its URL, as in kafka://host:{PORT}/topic"
        )
    server = f"{parts.scheme}://{parts.netloc}" + (f"?{parts.query}" if parts.query else "")
    options_from(server)
    return server, topic


def options_from(url: str) -> Options:
    """What the server part says.

    Raises:
        ConfigurationError: it makes no sense; says what to write instead. No password is in it.
    """
    parts = urlsplit(url)
    user, _, hosts = parts.netloc.rpartition("@")
    if parts.scheme != "kafka" or not hosts or parts.fragment:
        raise ConfigurationError(
            f"a URL that begins with {parts.scheme or 'nothing'}:// and is not one of Kafka: {FORM}"
        )
    name, _, password = user.partition(":")
    client = {"bootstrap.servers": ",".join(_with_port(host) for host in hosts.split(","))}
    partitions, replication, protocol, prefix = "", "", "consumer", "minuet."
    topic: dict[str, str] = {}
    for option, value in parse_qsl(parts.query, keep_blank_values=True):
        if option == "partitions":
            partitions = value
        elif option == "replication":
            replication = value
        elif option == "protocol" and value in {"consumer", "classic"}:
            protocol = value
        elif option == "prefix" and PREFIX.fullmatch(value):
            prefix = value
        elif option.startswith("topic."):
            topic[option.removeprefix("topic.")] = value
        elif option.startswith(PASSED_ON):
            client[option] = value
        elif option.startswith("librdkafka.") and option.removeprefix("librdkafka.") not in OURS:
            client[option.removeprefix("librdkafka.")] = value
        else:
            raise ConfigurationError(_unknown(option))
    if "max.message.bytes" in topic and _number("topic.max.message.bytes", topic["max.message.bytes"]) <= (
        2 * HEADERS_BYTES_MAX
    ):
        raise ConfigurationError(f"topic.max.message.bytes must be more than {2 * HEADERS_BYTES_MAX}")
    if name:
        client.setdefault("security.protocol", "sasl_ssl")
        client.setdefault("sasl.mechanism", client.pop("sasl.mechanisms", "PLAIN"))
        client |= {"sasl.username": unquote(name), "sasl.password": unquote(password)}
    copies = _number("replication", replication) if replication else -1
    if copies >= 3:  # without it, "acknowledged" would mean one copy as soon as the others are late
        topic.setdefault("min.insync.replicas", str(copies - 1))
    return Options(
        servers=client["bootstrap.servers"],
        client=client,
        partitions=_number("partitions", partitions) if partitions else PARTITIONS,
        replication=copies,
        fixed_partitions=bool(partitions),
        topic=topic,
        protocol=protocol,
        prefix=prefix,
        secrets=tuple(value for name, value in client.items() if value and SECRET.search(name)),
    )


def seldom(options: Options, chance: float) -> Options:
    """The same, with pauses between the attempts to connect, unless the URL says how long any of them is.

    When librdkafka can reach no broker at all, it begins anew with the addresses of the URL each time, and with the
    first pause, half of which it waits then, without jitter: at 100 ms, its default, each consumer knocks 19 times a
    second for as long as that lasts. So the first pause is long, and another one for each process. A connection that
    has lived for longer is replaced at once all the same.

    Args:
        chance: a random number in [0, 1).
    """
    first_ms = round(RECONNECT_MS * (1 + chance))
    pauses = {"reconnect.backoff.ms": str(first_ms), "reconnect.backoff.max.ms": str(RECONNECT_MS_MAX)}
    return options if pauses.keys() & options.client else replace(options, client={**pauses, **options.client})


def _with_port(host: str) -> str:
    if re.fullmatch(r"(\[[^\]]+\]|[^:\[\]]+):\d+", host):
        return host
    if host and re.fullmatch(r"\[[^\]]+\]|[^:\[\]]+", host):
        return f"{host}:{PORT}"
    raise ConfigurationError(f"{host!r} is not a host with a port: {FORM}")


def _number(option: str, value: str) -> int:
    if value.isdecimal() and int(value) > 0:
        return int(value)
    raise ConfigurationError(f"{option}={value!r} in a URL of Kafka must be a whole number above 0")


def _unknown(option: str) -> str:
    name = option.removeprefix("librdkafka.")
    if name in OURS:
        return f"{name} cannot be set in a URL of Kafka: delivery at least once and in order depends on it"
    if option == "protocol":
        return "protocol in a URL of Kafka is consumer or classic"
    if option == "prefix":
        return "prefix in a URL of Kafka is of 1 to 100 letters, digits, '.', '_' and '-'"
    return (
        f"{option!r} is no option of a URL of Kafka: there are partitions, replication, protocol=consumer|classic, "
        f"prefix, security.*, sasl.*, ssl.*, topic.* for settings of topics, and librdkafka.* for those of the client"
    )
