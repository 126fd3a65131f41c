"""Apache Kafka 4: topics, consumer groups and partitions."""

from minuet.adapters.kafka.broker import KafkaBroker
from minuet.adapters.kafka.url import split

__all__ = ["KafkaBroker", "split"]
