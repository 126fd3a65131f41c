"""What is needed from an extra of the package, and what to say when it is not there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from minuet.core.errors import ConfigurationError


@contextmanager
def extra(name: str, setting: str) -> Iterator[None]:
    """Import what an extra brings.

    Raises:
        ConfigurationError: it is not installed; says what to type.
    """
    try:
        yield
    except ImportError as error:
        if error.name is None or error.name.startswith("minuet"):
            raise
        raise ConfigurationError(
            f'settings: {setting} needs {error.name}, which is not installed: pip install "minuet[{name}]"'
        ) from error
