"""PostgreSQL dies in the middle of 300 orders, and comes back. What was answered stays, and nothing is done twice."""

import asyncio
from pathlib import Path

import pytest

from tests.acceptance.processes import COORDINATIONS, shop, until
from tests.acceptance.test_broker_killed import in_the_middle, nothing_lost_nothing_twice
from tests.servers import private_server

pytestmark = [pytest.mark.acceptance, pytest.mark.server, pytest.mark.timeout(400)]


@pytest.mark.parametrize("coordination", COORDINATIONS)
async def test_it_is_killed_and_started_again(tmp_path: Path, servers_path: Path, coordination: str) -> None:
    with private_server("postgres", servers_path) as server:
        async with shop(tmp_path, coordination, "postgres+nats", servers={"postgres": server.url}) as made:
            placing = await in_the_middle(made)
            assert not placing.done(), "it was not in the middle: all orders had been placed"
            await asyncio.to_thread(server.kill)

            async def is_told() -> bool:
                return bool(made.troubles.seen)

            await until(is_told, what="a customer is asked to come again")
            await asyncio.to_thread(server.start)
            await placing
            await nothing_lost_nothing_twice(made)
            assert set(made.troubles.seen) <= {"503"}, made.troubles.seen
            assert all(process.is_alive for process in made.processes)
