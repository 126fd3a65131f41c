"""What librdkafka's errors mean to us."""

from __future__ import annotations

from confluent_kafka import KafkaError, KafkaException

from minuet.adapters.broker.port import Disconnected
from minuet.adapters.kafka.url import Options
from minuet.core.errors import ConfigurationError, MessageError, MinuetError

HIDDEN = "***"

DENIED = frozenset(
    {
        KafkaError._AUTHENTICATION,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.ILLEGAL_SASL_STATE,
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
        KafkaError.UNSUPPORTED_SASL_MECHANISM,
    }
)
WRONG = frozenset(
    {
        KafkaError._INVALID_ARG,
        KafkaError.INVALID_CONFIG,
        KafkaError.INVALID_GROUP_ID,
        KafkaError.INVALID_PARTITIONS,
        KafkaError.INVALID_REPLICATION_FACTOR,
        KafkaError.POLICY_VIOLATION,
        KafkaError.TOPIC_EXCEPTION,
        KafkaError.UNSUPPORTED_ASSIGNOR,
    }
)
UNSUPPORTED = frozenset({KafkaError._UNSUPPORTED_FEATURE, KafkaError.UNSUPPORTED_VERSION})
HOPELESS = DENIED | WRONG | UNSUPPORTED
"""Trying again changes nothing."""
TOO_LARGE = frozenset({KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE, KafkaError.INVALID_MSG_SIZE})
NO_TOPIC = frozenset(
    {
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError.UNKNOWN_TOPIC_ID,
        KafkaError._UNKNOWN_TOPIC,
        KafkaError._UNKNOWN_PARTITION,
    }
)
NOT_OURS_ANY_MORE = frozenset(
    {
        KafkaError._ASSIGNMENT_LOST,
        KafkaError._NO_OFFSET,
        KafkaError.FENCED_MEMBER_EPOCH,
        KafkaError.ILLEGAL_GENERATION,
        KafkaError.UNKNOWN_MEMBER_ID,
    }
)
"""A commit that comes too late: the partition is another member's, or will be given to us anew."""


class Unroutable(MinuetError):
    """There is no such topic."""


def error_from(failure: KafkaError | BaseException | None, options: Options, doing: str) -> Exception:
    """The exception for a failed request; ``doing`` says what was asked for. No password is in it."""
    error = failure.args[0] if isinstance(failure, KafkaException) and failure.args else failure
    text = explain(error, options)
    if not isinstance(error, KafkaError):
        return Disconnected(f"Kafka at {options.servers}, {doing}: {text}")
    code = error.code()
    if code in DENIED:
        return ConfigurationError(
            f"Kafka at {options.servers} denies access, {doing}: {text}; check the user and password in the URL, "
            f"security.protocol and sasl.mechanism, and what the user may do"
        )
    # Which of the two it is depends on how far the handshake got when the client was told.
    if code in (KafkaError._SSL, KafkaError._TRANSPORT) and "certificate" in text.lower():
        return ConfigurationError(
            f"Kafka at {options.servers}, {doing}: {text}; set ssl.ca.location in the URL to the authority's file"
        )
    if code in UNSUPPORTED:
        return ConfigurationError(
            f"Kafka at {options.servers} does not know how, {doing}: {text}; for brokers older than Kafka 4.0 write "
            f"protocol=classic into the URL"
        )
    if code in WRONG:
        return ConfigurationError(f"Kafka at {options.servers} cannot do it, {doing}: {text}")
    if code in TOO_LARGE:
        return MessageError(f"Kafka at {options.servers}, {doing}: {text}; the topic's max.message.bytes is the limit")
    if code in NO_TOPIC:
        return Unroutable(f"Kafka at {options.servers}, {doing}: {text}; `minuet topology apply` makes it")
    return Disconnected(f"Kafka at {options.servers}, {doing}: {text}")


def explain(error: object, options: Options) -> str:
    text = error.str() if isinstance(error, KafkaError) else str(error)
    for secret in options.secrets:
        text = text.replace(secret, HIDDEN)
    return text
