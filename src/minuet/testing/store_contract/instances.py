"""Several instances on one database."""

from __future__ import annotations

import asyncio

from minuet.testing.store_contract.examples import (
    Start,
    adding,
    found,
)
from minuet.testing.store_contract.suite import Suite


class InstancesContract(Suite):
    """Several instances on one database."""

    async def test_instances_have_names_of_their_own(self, start: Start) -> None:
        assert (await start()).instance != (await start()).instance

    async def test_instances_see_each_others_commits(self, start: Start) -> None:
        first, second = await start(), await start()
        await first.transact(adding("a"))
        await found(second, "a")
        assert await second.transact(adding("a")) == [False]

    async def test_an_instance_hears_that_another_changed_the_database(self, start: Start) -> None:
        first, second = await start(), await start()
        heard = asyncio.Event()
        second.disturbed = heard.set
        await first.transact(adding("a"))
        await asyncio.wait_for(heard.wait(), 5)
