from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from minuet import Database, Service
from minuet.adapters.sqlite.connection import connect
from minuet.adapters.sqlite.handle import SqliteHandle
from minuet.adapters.sqlite.schema import run_script
from minuet.adapters.sqlite.transaction import BEGIN

DatabaseOf = Callable[[Service], Database]


@pytest.fixture
def database_of(tmp_path: Path) -> Iterator[DatabaseOf]:
    """Opens a service's own database as a handler gets it, in a transaction, when the service starts. Nothing stays."""
    with ExitStack() as opened:

        def open_one(service: Service) -> Database:
            connection = connect(tmp_path / f"{service.name}.db")
            opened.callback(connection.really_close)
            connection.run(connection.own_cursor(), BEGIN)
            run_script(connection, service.schema)
            return SqliteHandle(connection)

        yield open_one
