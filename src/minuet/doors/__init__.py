"""How a message reaches a service besides a broker."""
