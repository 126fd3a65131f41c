"""Messages over RabbitMQ: a topic exchange, one durable queue for each group, CloudEvents in the headers."""

from minuet.adapters.rabbitmq.broker import RabbitMqBroker
from minuet.adapters.rabbitmq.url import split

__all__ = ["RabbitMqBroker", "split"]
