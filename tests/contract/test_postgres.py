"""The store on PostgreSQL keeps the promises, on a real server."""

from collections.abc import Iterator

import pytest

from minuet.testing.store_contract import OpenStore, StoreContract
from tests.contract.postgres_server import fresh_schema, opening

pytestmark = pytest.mark.server


class TestPostgresStore(StoreContract):
    @pytest.fixture
    def schema_name(self, postgres_url: str) -> Iterator[str]:
        with fresh_schema(postgres_url) as name:
            yield name

    @pytest.fixture
    def open_store(self, postgres_url: str, schema_name: str) -> OpenStore:
        return lambda: opening(postgres_url, schema_name)
