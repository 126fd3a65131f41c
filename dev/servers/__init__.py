"""Real servers for tests and development, without containers: each private, on free ports, in a folder of its own."""
