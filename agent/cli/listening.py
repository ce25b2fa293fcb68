"""Hear what a broker has, by a connection beside the daemon's."""

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from agent.config.load import Config
from agent.daemon.endpoint import endpoint
from agent.mqtt.side_connection import SideConnection, side_connection


@asynccontextmanager
async def listening(
    config: Config, filters: Sequence[str]
) -> AsyncIterator[SideConnection]:
    """Subscribe as a client that may be there several times; raises Undelivered."""
    name = f"watch-{time.time_ns() % 100_000}"
    async with side_connection(endpoint(config), name) as aside:
        await aside.connection.subscribe(filters)
        yield aside
