"""Which store a service has, as the settings say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from minuet.bootstrap.extras import extra
from minuet.core.errors import ConfigurationError
from minuet.ports import Ids, Store
from minuet.settings import Settings, writable

FORMS = "sqlite:, sqlite:///folder/{service}.db, postgresql://... and memory:"


class Stores:
    """Makes the stores of a deployment; opens none."""

    def __init__(self, settings: Settings, ids: Ids) -> None:
        self._settings = settings
        self._ids = ids

    def url_of(self, name: str) -> str:
        given = self._settings.stores
        return (given.get(name) or given.get("default", "sqlite:")).replace("{service}", name)

    def is_there(self, name: str) -> bool:
        """Whether there is a database that other processes see."""
        url = self.url_of(name)
        return is_postgres(url) or (url.startswith("sqlite:") and self.file_of(name).exists())

    def make(self, name: str, schema: Any) -> Store:
        """
        Raises:
            ConfigurationError: the URL is of no known form, or what it needs is not installed.
        """
        url = self.url_of(name)
        if url == "memory:":
            from minuet.adapters.memory import MemoryStore

            return MemoryStore(ids=self._ids)
        if url.startswith("sqlite:"):
            from minuet.adapters.sqlite import SqliteStore

            file = self.file_of(name)
            writable(file.parent)
            return SqliteStore(file, ids=self._ids, schema=schema)
        if is_postgres(url):
            with extra("postgres", f"[stores] {name}"):
                from minuet.adapters.postgres import PostgresStore

            return PostgresStore(
                url, schema_name=name, ids=self._ids, schema=schema, provision=self._settings.provision
            )
        scheme = url.partition(":")[0]  # what follows may hold a password
        raise ConfigurationError(f'settings: [stores] {name} = "{scheme}:..." is none of {FORMS}')

    def file_of(self, name: str) -> Path:
        """The file of a service whose store is on SQLite."""
        url = self.url_of(name)
        if url == "sqlite:":
            return self._settings.data / f"{name}.db"
        path = url.removeprefix("sqlite:")
        if not path.startswith("///") or len(path) < 4:
            raise ConfigurationError(f'settings: [stores] {name} = "{url}" is none of {FORMS}')
        given = self._settings.stores
        if name not in given and "{service}" not in given["default"]:
            raise ConfigurationError(
                f'settings: [stores] default = "{url}" would be one file for all services, and each has its own; write '
                f'{{service}} into it, for example "sqlite:///data/{{service}}.db"'
            )
        return Path(path[3:])


def is_postgres(url: str) -> bool:
    return url.startswith(("postgresql://", "postgres://"))
