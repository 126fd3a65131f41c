"""What the SDK's core has to say, in Python's logs. By itself it would write in colours to the console."""

from __future__ import annotations

import functools
import logging
import time

from temporalio.runtime import LogForwardingConfig, LoggingConfig, Runtime, TelemetryConfig, TelemetryFilter

SDK = logging.getLogger("minuet.temporal.sdk")
SAME_CHARACTERS = 60
SELDOM_S = 10.0


class Seldom(logging.Filter):
    """Lets what begins alike through once in a while: while a server is away, the core says so for each call."""

    def __init__(self) -> None:
        super().__init__()
        self._said: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        begins, now = record.getMessage()[:SAME_CHARACTERS], time.monotonic()
        if now - self._said.get(begins, -SELDOM_S) < SELDOM_S:
            return False
        if len(self._said) > 1000:
            self._said.clear()
        self._said[begins] = now
        return True


@functools.cache
def runtime() -> Runtime:
    """The core's threads, one set for all engines of a process. Made when the first one connects."""
    SDK.addFilter(Seldom())
    forwarding = LogForwardingConfig(SDK, append_target_to_name=False)
    wanted = TelemetryFilter(core_level="WARN", other_level="ERROR")
    return Runtime(telemetry=TelemetryConfig(logging=LoggingConfig(filter=wanted, forwarding=forwarding)))
