"""What all transports on a real broker have in common, written once. An adapter implements `port.Broker` and no more."""
