"""Measurements. Run them with `make bench`, or `python -m benchmarks --help`."""
