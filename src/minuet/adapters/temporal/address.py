"""What the setting ``[orchestration] engine`` says of Temporal. Pure.

``temporal://host:7233/namespace?options``. There is no secret in it: an API key comes from the variable
``TEMPORAL_API_KEY`` or from a file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from minuet.core.errors import ConfigurationError

SCHEME = "temporal"
PORT = 7233
NAMESPACE = "default"
API_KEY = "TEMPORAL_API_KEY"
NAME = re.compile(r"[A-Za-z0-9._-]{1,200}")
OPTIONS = ("task_queue", "tls", "ca", "certificate", "key", "server_name", "api_key_file", "activities_max")
ACTIVITIES_MAX = 1000
EXAMPLE = "write temporal://HOST:7233/NAMESPACE, for example temporal://127.0.0.1:7233/default"
WHERE = "settings: [orchestration] engine"


@dataclass(frozen=True, slots=True)
class Address:
    """Where Temporal is, and how to speak to it.

    Attributes:
        task_queue: on which our workflows and activities wait for workers; "" for the one named after the app.
        ca, certificate, key, api_key_file: files.
        server_name: what the server's certificate says, if that is not the host.
        activities_max: how many commands one process asks for at the same time.
    """

    host: str
    port: int = PORT
    namespace: str = NAMESPACE
    task_queue: str = ""
    is_tls: bool = False
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    server_name: str | None = None
    api_key_file: Path | None = None
    activities_max: int = ACTIVITIES_MAX

    @property
    def target(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def name(self) -> str:
        """For people."""
        return f"{SCHEME}://{self.target}/{self.namespace}"


def parse(url: str) -> Address:
    """
    Raises:
        ConfigurationError: it makes no sense; says what to write. Nothing of a user, password or option is repeated.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ConfigurationError(f"{WHERE} is not a URL; {EXAMPLE}") from None
    if parts.scheme != SCHEME or not host or parts.fragment:
        raise ConfigurationError(f"{WHERE} is neither embedded nor the address of a Temporal server; {EXAMPLE}")
    if parts.username is not None or parts.password is not None:
        raise ConfigurationError(f"{WHERE} names a user, and Temporal knows none; put an API key into {API_KEY}")
    namespace = unquote(parts.path.strip("/")) or NAMESPACE
    if not NAME.fullmatch(namespace):
        raise ConfigurationError(f"{WHERE}: {namespace!r} cannot be a namespace; {EXAMPLE}")
    options = _options(parts)
    ca, certificate, key = (_path(options, name) for name in ("ca", "certificate", "key"))
    if (certificate is None) != (key is None):
        raise ConfigurationError(f"{WHERE}: certificate and key belong together; give both, or none")
    api_key_file = _path(options, "api_key_file")
    server_name = options.get("server_name")
    needs_tls = any((ca, certificate, server_name, api_key_file))
    is_tls = _yes(options.get("tls"), default=needs_tls)
    if needs_tls and not is_tls:
        raise ConfigurationError(f"{WHERE} says tls=false, and has options that only TLS understands")
    task_queue = options.get("task_queue", "")
    if task_queue and not NAME.fullmatch(task_queue):
        raise ConfigurationError(f"{WHERE}: {task_queue!r} cannot be a task queue; use letters, digits, ., - and _")
    return Address(
        host=host,
        port=port or PORT,
        namespace=namespace,
        task_queue=task_queue,
        is_tls=is_tls,
        ca=ca,
        certificate=certificate,
        key=key,
        server_name=server_name,
        api_key_file=api_key_file,
        activities_max=_count(options.get("activities_max"), ACTIVITIES_MAX),
    )


def _options(parts: SplitResult) -> dict[str, str]:
    given = parse_qsl(parts.query, keep_blank_values=True)
    options = dict(given)
    if "api_key" in options:
        raise ConfigurationError(f"{WHERE}: an API key does not belong into a URL; put it into {API_KEY}")
    unknown = sorted(options.keys() - set(OPTIONS))
    if unknown:
        raise ConfigurationError(f"{WHERE}: there is no option {unknown[0]!r}; there are {', '.join(OPTIONS)}")
    if len(given) > len(options) or not all(options.values()):
        raise ConfigurationError(f"{WHERE}: each option is given once, and with a value")
    return options


def _path(options: dict[str, str], name: str) -> Path | None:
    return Path(options[name]) if name in options else None


def _yes(text: str | None, *, default: bool) -> bool:
    if text is None:
        return default
    if text not in ("true", "false"):
        raise ConfigurationError(f"{WHERE}: tls is true or false")
    return text == "true"


def _count(text: str | None, default: int) -> int:
    if text is None:
        return default
    if not text.isdecimal() or not int(text):
        raise ConfigurationError(f"{WHERE}: activities_max is a whole number from 1 on")
    return int(text)
