"""Shipped for tests: contract suites that every adapter must pass."""
