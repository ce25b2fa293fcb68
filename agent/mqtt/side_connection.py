"""A connection beside the daemon's: an id of its own, no session and no will."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

from agent.core.errors import Undelivered
from agent.core.types import Message
from agent.mqtt.connection import ANSWER_WAIT_S, Connection, Ended
from agent.mqtt.endpoint import Endpoint


class SideConnection:
    """Owns a connection and what came by it that nobody has read yet."""

    def __init__(
        self, connection: Connection, came: asyncio.Queue[Message | Ended]
    ) -> None:
        """`came` is filled by the connection; its end comes last."""
        self.connection = connection
        self._came = came
        connection.ended.add_done_callback(lambda end: came.put_nowait(end.result()))

    async def get(self) -> Message:
        """Return the next message; raises Undelivered once no more can come."""
        match await self._came.get():
            case Ended() as end:
                self._came.put_nowait(end)
                raise Undelivered(end.why)
            case message:
                return message

    def waiting(self) -> list[Message]:
        """Return what is there already."""
        there = []
        while not self._came.empty():
            match self._came.get_nowait():
                case Ended() as end:
                    self._came.put_nowait(end)
                    break
                case message:
                    there.append(message)
        return there


@asynccontextmanager
async def side_connection(
    endpoint: Endpoint, name: str
) -> AsyncIterator[SideConnection]:
    """Connect as `<client id>-<name>`; raises Undelivered.

    Messages are acknowledged as they come.
    """
    aside = replace(
        endpoint,
        client_id=f"{endpoint.client_id}-{name}",
        session_expiry_s=0,
        will=None,
    )
    came: asyncio.Queue[Message | Ended] = asyncio.Queue()

    def hear(message: Message) -> None:
        message.ack()
        came.put_nowait(message)

    try:
        connection = Connection(aside, 0, None, hear)
    except OSError as error:
        raise Undelivered(str(error)) from error  # TLS files just being replaced
    await connection.open()
    try:
        yield SideConnection(connection, came)
    finally:
        await connection.close()


async def publish_aside(endpoint: Endpoint, topic: str, payload: bytes) -> None:
    """Publish one retained message by a connection of its own; raises Undelivered.

    For what must be said while another client holds our id.
    """
    async with side_connection(endpoint, "aside") as aside:
        try:
            async with asyncio.timeout(ANSWER_WAIT_S):
                await (await aside.connection.publish(topic, payload, retain=True))
        except TimeoutError:
            raise Undelivered(f"{topic}: the broker does not acknowledge") from None
