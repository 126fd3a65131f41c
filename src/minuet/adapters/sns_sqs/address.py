"""What the URLs of this adapter say, and how topics and queues are named. Pure.

``sns://arn:aws:sns:us-east-1:123456789012:payment-events?endpoint=http://127.0.0.1:5000``: the topic of a channel.
``sns://us-east-1/standard?endpoint=...``: the part of it that makes one transport: the region, the kind of topics
(their promises differ), and the options. Credentials are the AWS SDK's affair and never in a URL.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlsplit

from minuet.core.errors import ConfigurationError

FIFO = ".fifo"
ARN_PARTS = 6  # arn, partition, service, region, account, topic
TOPIC = re.compile(r"[A-Za-z0-9_-]{1,256}|[A-Za-z0-9_-]{1,251}\.fifo")
REGION = re.compile(r"[a-z]{2,}(-[a-z]+)+-\d+")
ACCOUNT = re.compile(r"\d{12}")
QUEUE_NAME_MAX = 80
HOLD_S = 30
HOLD_S_MAX = 43_200  # twelve hours, as SQS allows
WAIT_S = 5
WAIT_S_MAX = 20
EXAMPLE = "write sns://arn:aws:sns:REGION:ACCOUNT:TOPIC, for example sns://arn:aws:sns:us-east-1:123456789012:orders"


@dataclass(frozen=True, slots=True)
class Address:
    """What one transport talks to.

    Attributes:
        is_fifo: its topics and queues are FIFO.
        endpoint: of SNS and SQS, if it is not for the SDK to know.
        filters: SNS leaves out what a group does not want.
        hold_s: visibility time-out, in whole seconds.
        wait_s: how long a poll waits for messages, in whole seconds.
    """

    region: str
    is_fifo: bool
    endpoint: str | None = None
    filters: bool = False
    hold_s: int = HOLD_S
    wait_s: int = WAIT_S


def split(url: str, channel: str) -> tuple[str, str]:
    """The address of the transport that serves this channel, and the ARN of the channel's topic.

    Without a topic, or with ``{channel}`` in it, the topic is named for the channel, with "-" for ".".

    Raises:
        ConfigurationError: the URL makes no sense; says what to write.
    """
    scheme, _, rest = url.partition("://")
    arn, _, options = rest.partition("?")
    if scheme != "sns" or "@" in arn:  # such a URL may hold a password
        raise ConfigurationError(f"the address of channel {channel} is not an SNS topic; {EXAMPLE}")
    parts = arn.rstrip("/").split(":")
    if len(parts) == ARN_PARTS - 1 or (len(parts) == ARN_PARTS and not parts[-1]):
        parts[ARN_PARTS - 1 :] = ["{channel}"]
    if len(parts) != ARN_PARTS or parts[0] != "arn" or not parts[1] or parts[2] != "sns":
        raise ConfigurationError(f"channel {channel}: {arn!r} is not the ARN of an SNS topic; {EXAMPLE}")
    region, account = parts[3], parts[4]
    topic = parts[5].replace("{channel}", channel.replace(".", "-"))
    if not REGION.fullmatch(region) or not ACCOUNT.fullmatch(account):
        raise ConfigurationError(
            f"channel {channel}: {arn!r} needs a region like us-east-1 and an account of twelve digits; {EXAMPLE}"
        )
    if not TOPIC.fullmatch(topic):
        raise ConfigurationError(
            f"channel {channel}: an SNS topic cannot be named {topic!r}; use letters, digits, - and _, at most 256, "
            f"and {FIFO} at the end for a FIFO topic"
        )
    kind = "fifo" if topic.endswith(FIFO) else "standard"
    server = f"sns://{region}/{kind}" + (f"?{options}" if options else "")
    parse(server)
    return server, ":".join([*parts[:5], topic])


def parse(server: str) -> Address:
    """What `split` gave as the address of a transport.

    Raises:
        ConfigurationError: an option that there is not, or a value that makes no sense.
    """
    parts = urlsplit(server)
    kind = parts.path.strip("/")
    if parts.scheme != "sns" or kind not in {"fifo", "standard"} or not parts.netloc:
        raise ConfigurationError(
            "the address of an SNS and SQS transport is sns://REGION/standard or sns://REGION/fifo"
        )
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    endpoint = options.pop("endpoint", None)
    filters = options.pop("filter", "none")
    hold_s = _seconds("visibility_s", options.pop("visibility_s", str(HOLD_S)), 1, HOLD_S_MAX)
    wait_s = _seconds("wait_s", options.pop("wait_s", str(WAIT_S)), 1, WAIT_S_MAX)
    if options:
        raise ConfigurationError(
            f"sns:// has no option {', '.join(sorted(options))}; there are endpoint, filter, visibility_s and wait_s"
        )
    if filters not in {"none", "types"}:
        raise ConfigurationError("sns://...?filter= is none or types")
    if endpoint is not None:
        _check_endpoint(endpoint)
    return Address(parts.netloc, kind == "fifo", endpoint, filters == "types", hold_s, wait_s)


def _seconds(name: str, text: str, least: int, most: int) -> int:
    if not text.isdecimal() or not least <= int(text) <= most:
        raise ConfigurationError(f"sns://...?{name}= is a whole number of seconds from {least} to {most}")
    return int(text)


def _check_endpoint(endpoint: str) -> None:
    parts = urlsplit(endpoint)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.username or parts.query:
        raise ConfigurationError(
            "sns://...?endpoint= is like https://sqs.example.org or http://127.0.0.1:5000, without a user or a password"
        )


def queue_name(group: str, destination: str) -> str:
    """Of the queue in which a group gets what is published to a topic.

    One queue for each topic, because SNS does not say in a raw message which topic it came from, and a stranger's
    message does not say it either.
    """
    topic = topic_name(destination)
    kind = FIFO if topic.endswith(FIFO) else ""
    # "_" keeps a group and a topic apart: a group's name has none after this.
    wanted = f"minuet-{re.sub('[^A-Za-z0-9-]', '-', group)}_{topic.removesuffix(FIFO)}"
    if len(wanted) + len(kind) > QUEUE_NAME_MAX:
        digest = hashlib.sha256(wanted.encode()).hexdigest()[:12]
        wanted = f"{wanted[: QUEUE_NAME_MAX - len(kind) - len(digest) - 1]}-{digest}"
    return wanted + kind


def topic_name(destination: str) -> str:
    return destination.rpartition(":")[2]
