"""The pure heart: messages, sagas, and the rules they compile to. No I/O, clock, randomness or async in here."""
