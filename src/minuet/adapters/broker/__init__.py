"""What all transports on a real broker have in common, once. An adapter implements `port.Broker` and no more."""

from minuet.adapters.broker.transport import BrokerTransport

__all__ = ["BrokerTransport"]
