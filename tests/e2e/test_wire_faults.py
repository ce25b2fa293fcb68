"""One connection against a broker that does what no broker should."""

import asyncio
import time
from itertools import pairwise

import pytest

from agent.core.errors import Refused, Undelivered
from agent.core.types import Message
from agent.mqtt import connection, link
from agent.mqtt.connection import Connection
from agent.mqtt.link import Link, backoff
from harness.scripted import PUBACK, Peer, scripted

BROKEN = {
    "length too long": b"\x32\xff\xff\xff\xff\xff\x01",
    "type reserved": b"\xf3\0",
    "PUBACK cut": b"\x40\x01\0",
    "SUBACK cut": b"\x90\0",
    "DISCONNECT with nonsense": b"\xe0\x02\x8b\x7f",
}


def ignore(_message: Message) -> None:
    """Take a message and do nothing."""


@pytest.mark.parametrize("packet", BROKEN.values(), ids=BROKEN)
async def test_broken_packet(packet: bytes) -> None:
    """A packet that is no message, and broken, ends the connection for good.

    No session holds it, so it does not come again.
    """

    async def script(peer: Peer) -> None:
        await peer.welcome()
        peer.send(packet)
        await peer.gone()

    heard: list[Message] = []
    async with scripted(script) as endpoint, asyncio.timeout(10):
        connection = Connection(endpoint, 1, None, heard.append)
        await connection.open()
        await asyncio.shield(connection.ended)
        answer = await connection.publish("t", b"x")
        with pytest.raises(Undelivered):
            await answer
        spent = time.process_time()
        await asyncio.sleep(0.2)  # not to wait, but to see that nothing spins
        assert time.process_time() - spent < 0.1
        assert not heard


async def test_reading_raises() -> None:
    """What raises while a packet is read ends the connection; it is not read again."""
    raised: list[None] = []

    async def script(peer: Peer) -> None:
        await peer.welcome()
        peer.publish(1, b"t")
        await peer.gone()

    def read(*_: object) -> None:
        raised.append(None)
        raise LookupError("a bug")

    async with scripted(script) as endpoint, asyncio.timeout(10):
        connection = Connection(endpoint, 1, None, ignore)
        connection._client._on_incoming = read
        await connection.open()
        ended = await asyncio.shield(connection.ended)
        assert "a bug" in ended.why
        await asyncio.sleep(0.1)  # not to wait, but to see that nothing comes
    assert len(raised) == 1


async def test_connect_refused() -> None:
    """A CONNACK that says no is the broker's word, with its reason."""

    async def script(peer: Peer) -> None:
        peer.send(b"\x20\x03\0\x87\0")
        await peer.gone()

    async with scripted(script) as endpoint, asyncio.timeout(10):
        with pytest.raises(Refused, match="Not authorized"):
            await Connection(endpoint, 1, None, ignore).open()


@pytest.mark.parametrize("speaks", [True, False])
async def test_no_connack(monkeypatch: pytest.MonkeyPatch, *, speaks: bool) -> None:
    """Who does not answer CONNECT, or hangs up, is no broker."""
    monkeypatch.setattr(connection, "ANSWER_WAIT_S", 0.2)

    async def script(peer: Peer) -> None:
        if speaks:
            await peer.gone()

    async with scripted(script) as endpoint, asyncio.timeout(10):
        with pytest.raises(Undelivered):
            await Connection(endpoint, 1, None, ignore).open()


async def test_nobody_there() -> None:
    """A refused TCP connection is Undelivered, as every failure to connect."""
    async with scripted(Peer.welcome) as endpoint:
        pass
    with pytest.raises(Undelivered, match="Connection"):
        await Connection(endpoint, 1, None, ignore).open()


async def test_subscription_refused() -> None:
    """A refused subscription is no connection to rely on."""

    async def script(peer: Peer) -> None:
        await peer.welcome()
        await peer.grant(0x87)
        await peer.gone()

    async with scripted(script) as endpoint, asyncio.timeout(10):
        connection = Connection(endpoint, 1, None, ignore)
        await connection.open()
        with pytest.raises(Refused, match="home/# refused"):
            await connection.subscribe(["home/#"])
        await connection.close()


async def test_receive_maximum() -> None:
    """We never have more publishes on the way than the broker's Receive Maximum."""

    async def script(peer: Peer) -> None:
        await peer.welcome(b"\x21\0\x03")  # Receive Maximum 3
        for _ in range(5):
            mids = [(await peer.published())[0] for _ in range(3)]
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):  # a fourth would come at once
                    await peer.published()
            for mid in mids:
                peer.puback(mid)
        await peer.gone()

    async with scripted(script) as endpoint, asyncio.timeout(10):
        connection = Connection(endpoint, 1, None, ignore)
        await connection.open()
        answers = [await connection.publish("t", b"x") for _ in range(15)]
        await asyncio.gather(*answers)
        await connection.close()


async def test_publish_refused() -> None:
    """A reason code of failure fails the publish; `no subscribers` does not."""

    async def script(peer: Peer) -> None:
        await peer.welcome()
        for code in (0x10, 0x87):
            peer.puback((await peer.published())[0], code)
        await peer.gone()

    async with scripted(script) as endpoint, asyncio.timeout(10):
        connection = Connection(endpoint, 1, None, ignore)
        await connection.open()
        await (await connection.publish("t", b"x"))
        with pytest.raises(Refused, match="Not authorized"):
            await (await connection.publish("t", b"x"))
        await connection.close()


async def test_acknowledged_in_order() -> None:
    """Acknowledgements go out in order of arrival (MQTT 5, 4.6), however given."""
    order: list[int] = []

    async def script(peer: Peer) -> None:
        await peer.welcome()
        for mid in (7, 3, 9):
            peer.publish(mid, b"t")
        while len(order) < 3:
            order.append(int.from_bytes((await peer.receive(PUBACK))[:2], "big"))
        await peer.gone()

    heard: list[Message] = []
    all_there = asyncio.Event()

    def hear(message: Message) -> None:
        heard.append(message)
        if len(heard) == 3:
            all_there.set()

    async with scripted(script) as endpoint, asyncio.timeout(10):
        connection = Connection(endpoint, 1, None, hear)
        await connection.open()
        await all_there.wait()
        for index in (2, 0, 1):
            heard[index].ack()
        await connection.close()
    assert order == [7, 3, 9]


async def test_last_acknowledgement_survives_parting() -> None:
    """What we acknowledged before we hung up reaches a broker that still sends."""
    read: list[int] = []

    async def script(peer: Peer) -> None:
        await peer.welcome()
        peer.publish(1, b"t")
        for mid in range(2, 2000):  # more than the device will ever read
            peer.publish(mid, b"t", b"x" * 100)
        read.append(int.from_bytes((await peer.receive(PUBACK))[:2], "big"))

    async with scripted(script) as endpoint, asyncio.timeout(10):
        connection: Connection

        def hear(message: Message) -> None:
            if not connection.ended.done():
                message.ack()
                connection.hang_up()

        connection = Connection(endpoint, 1, None, hear)
        await connection.open()
        await asyncio.shield(connection.ended)
    assert read == [1]


def test_backoff() -> None:
    """Waits grow, up to a ceiling, and no two devices wait the same."""
    for attempt in (1, 3, 10, 1000):
        waits = {backoff(attempt) for _ in range(200)}
        assert len(waits) > 150
        assert (
            0.1 <= min(waits) <= max(waits) <= min(30.0, 0.5 * 2.0 ** min(attempt, 9))
        )
    assert max(backoff(1000) for _ in range(200)) > 15


async def test_refused_connections_are_paced(monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker that always says no is asked with growing pauses, and once logged."""
    asked: list[float] = []
    enough = asyncio.Event()

    async def script(peer: Peer) -> None:
        asked.append(time.monotonic())
        if len(asked) == 4:
            enough.set()
        peer.send(b"\x20\x03\0\x87\0")
        await peer.gone()

    async def nothing(*_: object) -> None:
        pass

    monkeypatch.setattr(link, "backoff", lambda attempt: 0.05 * 2.0**attempt)
    async with scripted(script) as endpoint, asyncio.timeout(10):
        run = asyncio.ensure_future(
            Link(endpoint, ["t"], None, ignore, nothing, nothing).run()
        )
        await enough.wait()
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
    pauses = [after - before for before, after in pairwise(asked)]
    assert all(pause > 0.1 * 2**n for n, pause in enumerate(pauses))


async def test_a_refused_subscription_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A link that may not subscribe says to what, until it may."""
    enough = asyncio.Event()
    found: list[list[str]] = []

    async def script(peer: Peer) -> None:
        await peer.welcome()
        if enough.is_set():
            await peer.grant()
        else:
            await peer.grant(0x87)
        await peer.gone()

    async def up(_connection: Connection) -> None:
        found.append(sorted(road.refused))

    async def nothing() -> None:
        pass

    def again(_attempt: int) -> float:
        found.append(sorted(road.refused))
        enough.set()
        return 0.0

    monkeypatch.setattr(link, "backoff", again)
    async with scripted(script) as endpoint, asyncio.timeout(10):
        road = Link(endpoint, ["t"], None, ignore, up, nothing)
        run = asyncio.ensure_future(road.run())
        await road.connection()
        found.append(sorted(road.refused))
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
    assert found == [["t"], [], []]
