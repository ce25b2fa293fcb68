"""A link that is ended before it stands leaves nothing behind."""

import asyncio
from contextlib import suppress

from agent.mqtt.endpoint import Endpoint
from agent.mqtt.link import Link

CONNACK = b"\x20\x02\x00\x00"  # of MQTT 3.1.1: accepted, no session


async def _nothing(*_: object) -> None:
    """Be called."""


async def test_a_link_ended_while_it_subscribes_hangs_up() -> None:
    """A reload then would leave a connection that nobody reads, under our own id."""
    subscribing, gone = asyncio.Event(), asyncio.Event()

    async def broker(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        await reader.read(1000)  # CONNECT
        writer.write(CONNACK)
        await reader.read(1000)  # SUBSCRIBE, which is not answered
        subscribing.set()
        with suppress(ConnectionError):
            assert await reader.read() == b""  # not even a DISCONNECT: the will speaks
        gone.set()
        writer.close()

    server = await asyncio.start_server(broker, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    endpoint = Endpoint(f"mqtt://127.0.0.1:{port}", "pi", version=4)
    link = Link(endpoint, ["a"], None, lambda _message: None, _nothing, _nothing)
    running = asyncio.ensure_future(link.run())
    async with asyncio.timeout(10):
        await subscribing.wait()
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
        await gone.wait()
    server.close()
    await server.wait_closed()
