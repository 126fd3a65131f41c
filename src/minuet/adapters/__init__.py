"""Leaves: each package keeps the promises of `minuet.ports` with one technology. Only `bootstrap` imports them."""
