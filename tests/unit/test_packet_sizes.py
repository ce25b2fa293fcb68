"""Packets: what a publish takes is measured, and nothing larger is ever sent."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic_core import to_json

from agent.core.errors import Refused, TooLarge, Undelivered
from agent.mqtt.connection import Connection
from agent.mqtt.packets import LEAST_PACKET
from agent.mqtt.properties import Envelope
from agent.protocol.messages import dead_letter_object, ending_object
from agent.protocol.publishing import publish_ending, publish_object
from agent.protocol.shortening import shortened
from harness.scripted import PUBLISH, Peer, scripted
from harness.tiny import answered, unread

pytestmark = pytest.mark.timeout(120)
# What a broker lets through: no control and other forbidden characters, no wildcards.
TOPIC = st.text(
    st.characters(
        codec="utf-8", exclude_categories=["Cc", "Cn", "Cs"], exclude_characters="+#$"
    ),
    min_size=1,
)
TOPICS = st.one_of(
    TOPIC,
    st.builds(
        lambda char, number: char * number,
        st.sampled_from(['"', "t", "\N{FOX FACE}", "\\"]),
        st.integers(1, 16_000),
    ),
)
IDS = st.builds(
    lambda char, number: char * number,
    st.sampled_from(['"', "i", "\N{FOX FACE}"]),
    st.integers(1, 256),
)
LIMITS = st.one_of(st.integers(LEAST_PACKET, 5000), st.integers(LEAST_PACKET, 70_000))
USER = st.lists(st.tuples(TOPIC, TOPIC), max_size=5).map(tuple)


@dataclass
class Taker:
    """A broker's side that takes everything, and says how large each packet was."""

    packets: "asyncio.Queue[tuple[int, bytes]]" = field(default_factory=asyncio.Queue)

    async def serve(self, peer: Peer) -> None:
        """Take publishes until the device goes."""
        await peer.welcome()
        while True:
            size, body = await peer.packet(PUBLISH)
            topic = int.from_bytes(body[:2], "big")
            peer.puback(int.from_bytes(body[2 + topic : 4 + topic], "big"))
            self.packets.put_nowait((size, body))


@asynccontextmanager
async def connected(limit: int) -> AsyncIterator[tuple[Connection, Taker]]:
    """Connect to a broker that takes packets of so many bytes at most."""
    taker = Taker()
    async with scripted(taker.serve) as endpoint:
        connection = Connection(endpoint, 1, None, lambda _message: None)
        await connection.open()
        connection.max_packet_bytes = limit
        try:
            yield connection, taker
        finally:
            connection.abandon("done")


@given(TOPICS, st.integers(0, 70_000), USER, st.binary(max_size=50), LIMITS)
@settings(max_examples=60, deadline=None)
def test_what_is_measured_is_what_is_sent(
    topic: str,
    size: int,
    user: tuple[tuple[str, str], ...],
    correlation: bytes,
    limit: int,
) -> None:
    """A packet of exactly the limit goes; TooLarge tells a size that does not."""

    async def sizes(connection: Connection, taker: Taker, size: int) -> int:
        envelope = Envelope(correlation=correlation, user=user)
        said = await connection.publish(topic, bytes(size), envelope=envelope)
        await said
        return taker.packets.get_nowait()[0]

    async def check() -> None:
        async with connected(10**6) as (connection, taker):
            whole = await sizes(connection, taker, size)
            connection.max_packet_bytes = whole
            assert await sizes(connection, taker, size) == whole
            connection.max_packet_bytes = limit
            if whole <= limit:
                assert await sizes(connection, taker, size) == whole
                return
            with pytest.raises(TooLarge) as caught:
                await sizes(connection, taker, size)
            assert caught.value.size == whole
            if caught.value.room >= 0:
                fits = await sizes(connection, taker, caught.value.room)
                assert limit - 3 <= fits <= limit

    asyncio.run(check())


@given(
    TOPICS,
    IDS,
    st.integers(0, 300),
    st.builds(bytes, st.integers(0, 70_000)),
    TOPICS,
    st.booleans(),
    LIMITS,
)
@settings(max_examples=100, deadline=None)
def test_every_message_ends_once_within_the_limit(
    topic: str,
    name: str,
    entities: int,
    original: bytes,
    result_topic: str,
    dead: bool,  # noqa: FBT001
    limit: int,
) -> None:
    """Whatever its size: one result or dead letter, of its id, no larger than allowed.

    It names the pipeline and the device, and what is missing from it says so.
    """
    made = unread(original, name, topic=topic) if dead else answered(name, topic=topic)
    document = ending_object(made)
    if entities and not dead:
        entity = {"label": "e", "text": "\u00e9" * 20, "start": 0, "end": 9}
        document["entities"] = [entity] * entities

    async def check() -> None:
        async with connected(limit) as (connection, taker):
            published = await publish_ending(
                connection, result_topic, to_json(document), lambda: document, original
            )
            assert published
            await published.puback
            size, body = taker.packets.get_nowait()
            assert taker.packets.empty()
            assert size <= limit
            said = json.loads(body[5 + int.from_bytes(body[:2], "big") :])
            assert (said["id"], said["device"]) == (name, "pi")
            if "status" in said:
                assert published.topic == result_topic
                whole = said["entities"] == document["entities"]
                assert whole or said["reason"] == "too_long"
                return
            assert published.topic in {result_topic, "slm/pi/deadletter/home"}
            assert said["topic"] == topic or said["topic_truncated"]
            assert said["bytes"] == len(original)
            kept = base64.b64decode(said["payload"])
            assert original.startswith(kept)
            assert said["truncated"] or kept == original

    asyncio.run(check())


@given(
    st.dictionaries(
        st.text(max_size=20),
        st.one_of(st.text(max_size=3000), st.lists(st.integers(), max_size=300)),
        max_size=8,
    ),
    st.integers(40, 3000),
)
def test_what_a_device_says_of_itself_is_shortened(
    document: dict[str, object], room: int
) -> None:
    """It loses its largest parts, names them, and is JSON no larger than allowed."""
    payload = shortened(document, room)
    if not payload:
        return
    said = json.loads(payload)
    assert len(payload) <= room
    assert not set(said["left_out"]) & (said.keys() - {"left_out"})
    assert document.keys() <= said.keys() | set(said["left_out"])


async def test_the_log_says_once_what_does_not_fit(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A health that is too large goes every half minute, the line about it once."""
    async with connected(LEAST_PACKET) as (connection, taker):
        for _ in range(3):
            health = {"received": 1, "bundles": ["x"] * 1000}
            await publish_object(connection, "slm/pi/health", health)
        sizes = [taker.packets.get_nowait()[0] for _ in range(3)]
    assert max(sizes) <= LEAST_PACKET
    assert capsys.readouterr().out.count("too_large") == 1


async def test_a_topic_that_is_none_is_refused() -> None:
    """A wildcard or a NUL would end the connection, and all that is under way on it."""
    async with connected(LEAST_PACKET) as (connection, _):
        for topic in ("a/#", "a/+", "a\0b", "t" * 65_536):
            with pytest.raises(Refused):
                await connection.publish(topic, b"x")


async def test_a_broker_that_takes_next_to_nothing() -> None:
    """Where not even a dead letter fits, we do not connect, and say why."""

    async def script(peer: Peer) -> None:
        await peer.welcome(b"\x27" + (LEAST_PACKET - 1).to_bytes(4, "big"))
        await peer.gone()

    async with scripted(script) as endpoint:
        connection = Connection(endpoint, 1, None, lambda _message: None)
        with pytest.raises(Undelivered, match="2047 bytes at most, 2048 are"):
            await connection.open()


def test_the_largest_names_fit_into_the_least_packet() -> None:
    """A dead letter with the longest id and names needs no more than is demanded."""
    letter = replace(
        unread(b"", '"' * 256), device="d" * 64, pipeline="p" * 64, size=10**8
    )
    topic = f"slm/{letter.device}/deadletter/{letter.pipeline}"
    room = LEAST_PACKET - len(topic) - 10
    for name in (letter.id, "\N{FOX FACE}" * 256):
        document = dead_letter_object(replace(letter, id=name))
        assert len(to_json(document | {"topic_truncated": True})) <= room
