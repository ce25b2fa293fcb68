"""A broker that does what a test tells it, packet by packet; MQTT 5 only."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from agent.mqtt.endpoint import Endpoint

CONNECT, PUBLISH, PUBACK, SUBSCRIBE = 1, 3, 4, 8
Script = Callable[["Peer"], Awaitable[None]]


class Peer:
    """Owns the broker's side of one connection."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Take the streams of an accepted connection."""
        self._reader = reader
        self._writer = writer

    async def receive(self, kind: int) -> bytes:
        """Return the body of the next packet of a type; others are read over."""
        return (await self.packet(kind))[1]

    async def packet(self, kind: int) -> tuple[int, bytes]:
        """Return the bytes of the next packet of a type, all of them, and its body."""
        while True:
            head = (await self._reader.readexactly(1))[0]
            size = shift = 0
            while True:
                byte = (await self._reader.readexactly(1))[0]
                size |= (byte & 127) << shift
                shift += 7
                if byte < 128:
                    break
            body = await self._reader.readexactly(size)
            if head >> 4 == kind:
                return 1 + shift // 7 + size, body

    def send(self, packet: bytes) -> None:
        """Send bytes as they are."""
        self._writer.write(packet)

    async def welcome(self, properties: bytes = b"") -> None:
        """Answer CONNECT: accepted, no session."""
        await self.receive(CONNECT)
        body = bytes([0, 0, len(properties)]) + properties
        self.send(bytes([0x20, len(body)]) + body)

    async def grant(self, code: int = 1) -> None:
        """Answer SUBSCRIBE."""
        mid = (await self.receive(SUBSCRIBE))[:2]
        self.send(b"\x90\x04" + mid + b"\0" + bytes([code]))

    def publish(self, mid: int, topic: bytes, payload: bytes = b"x") -> None:
        """Send a message at QoS 1."""
        body = len(topic).to_bytes(2, "big") + topic + mid.to_bytes(2, "big") + b"\0"
        body += payload
        self.send(bytes([0x32, len(body)]) + body)

    async def published(self) -> tuple[int, bytes]:
        """Return packet identifier and payload of the next message at QoS 1."""
        body = await self.receive(PUBLISH)
        size = int.from_bytes(body[:2], "big")
        mid = int.from_bytes(body[2 + size : 4 + size], "big")
        return mid, body[5 + size :]

    def puback(self, mid: int, code: int = 0) -> None:
        """Acknowledge a message."""
        self.send(b"\x40\x04" + mid.to_bytes(2, "big") + bytes([code, 0]))

    async def gone(self) -> None:
        """Wait until the other side closed."""
        while await self._reader.read(4096):
            pass


@asynccontextmanager
async def scripted(*scripts: Script) -> AsyncIterator[Endpoint]:
    """Serve one connection after the other, each by its script; the last for ever."""
    waiting = list(scripts)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        script = waiting.pop(0) if len(waiting) > 1 else waiting[0]
        try:
            await script(Peer(reader, writer))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the device hung up
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        yield Endpoint(url=f"mqtt://127.0.0.1:{port}", client_id="device")
    finally:
        server.close()
