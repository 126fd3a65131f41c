from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import Connection, create_engine
from sqlalchemy.pool import StaticPool

from minuet import Service

DatabaseOf = Callable[[Service], Connection]


@pytest.fixture
def database_of() -> Iterator[DatabaseOf]:
    """Opens a service's own database, in memory, as it is when the service starts for the first time."""
    opened: list[Connection] = []

    def open_one(service: Service) -> Connection:
        db = create_engine("sqlite://", poolclass=StaticPool).connect()
        service.schema.create_all(db)
        opened.append(db)
        return db

    yield open_one
    for db in opened:
        db.close()
        db.engine.dispose()
