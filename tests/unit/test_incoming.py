"""Packets that arrive: each is read, or skipped, and none comes again for ever."""

import asyncio
import inspect
from collections.abc import Iterator

import paho.mqtt.client as paho
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from paho.mqtt.exception import MalformedPacket
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from agent.core.types import Message
from agent.mqtt.connection import Connection
from agent.mqtt.endpoint import Endpoint
from agent.mqtt.incoming import Incoming, Malformed, decode_publish
from agent.mqtt.properties import Envelope, publish_properties
from agent.mqtt.reader import KEPT_BYTES, PacketReader
from harness.scripted import Peer, scripted

pytestmark = pytest.mark.timeout(30)
FIRST = 0x32  # PUBLISH at QoS 1
WORDS = st.text(st.characters(codec="utf-8", exclude_characters="\0\ufeff"))
ANY = st.text(st.characters(codec="utf-8"))


def text(words: str) -> bytes:
    """Return a string as MQTT writes it."""
    return len(words.encode()).to_bytes(2, "big") + words.encode()


def body(properties: bytes, payload: bytes = b"x", topic: bytes = b"home/k") -> bytes:
    """Return what follows the length of a PUBLISH with identifier 7."""
    size = len(properties)
    length = bytes([size]) if size < 128 else bytes([size & 127 | 128, size >> 7])
    return (
        len(topic).to_bytes(2, "big") + topic + b"\0\7" + length + properties + payload
    )


def decoded(packet: bytes, *, v5: bool = True) -> Incoming:
    """Return what a whole packet at QoS 1 says."""
    return decode_publish(FIRST, packet, len(packet), v5=v5)


STRINGS = {
    "user value": (b"\x26" + text("note") + text("\ufeffx"), "user"),
    "user name": (b"\x26" + text("\ufeffid") + text("x"), "user"),
    "content type": (b"\x03" + text("text/plain\ufeff"), "content_type"),
    "response topic": (b"\x08" + text("slm/\ufeff/answer"), "response_topic"),
}


@pytest.mark.parametrize("kind", STRINGS)
def test_a_string_with_a_zero_width_space_is_read(kind: str) -> None:
    """MQTT 5 allows U+FEFF in every string (1.5.4-3), and so it stays where it was."""
    properties, name = STRINGS[kind]
    incoming = decoded(body(properties))
    assert "\ufeff" in str(getattr(incoming, name)) or name == "user"
    assert any("\ufeff" in part for pair in incoming.user for part in pair) == (
        name == "user"
    )
    assert (incoming.topic, incoming.payload, incoming.mid) == ("home/k", b"x", 7)
    assert not incoming.defect


@pytest.mark.parametrize("raw", [b"\xff", b"a\0b", b"\xed\xa0\x80"])
def test_a_string_that_is_none_is_read(raw: bytes) -> None:
    """What MQTT forbids in a string does not break the packet that it stands in."""
    size = len(raw).to_bytes(2, "big")
    incoming = decoded(body(b"\x26" + size + raw + size + raw))
    [(name, value)] = incoming.user
    assert name == value == raw.decode("utf-8", "replace")
    assert (incoming.payload, incoming.defect) == (b"x", "")


@pytest.mark.parametrize("kind", STRINGS)
def test_paho_still_needs_us(kind: str) -> None:
    """It takes such a string for a broken packet.

    Where this fails, a release of paho reads it, and agent/mqtt/reader.py may go, but
    for the limit.
    """
    properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
    raw = STRINGS[kind][0]
    with pytest.raises(MalformedPacket):
        properties.unpack(bytes([len(raw)]) + raw)  # type: ignore[no-untyped-call]


def test_paho_still_lets_us() -> None:
    """The private names that we override are there, and take what we expect.

    Where this fails, agent/mqtt/reader.py does nothing any more.
    """
    for name in ("_packet_read", "_packet_handle"):
        assert list(inspect.signature(getattr(paho.Client, name)).parameters) == [
            "self"
        ]
    client = paho.Client(paho.CallbackAPIVersion.VERSION2)
    assert client._in_packet.keys() >= {"command", "packet", "remaining_length"}


@given(WORDS, WORDS, WORDS, st.binary(max_size=40), WORDS, st.integers(1, 10**6))
def test_what_paho_wrote_is_read_as_paho_reads_it(
    content: str, name: str, value: str, correlation: bytes, answer: str, expiry: int
) -> None:
    """Each property means the same here and there."""
    envelope = Envelope(
        response_topic=answer,
        correlation=correlation,
        expiry_s=expiry,
        content_type=content,
        user=((name, value), ("id", value)),
    )
    packed = publish_properties(envelope).pack()  # type: ignore[no-untyped-call]
    size = len(packed) - (1 if len(packed) <= 128 else 2)
    incoming = decoded(body(packed[len(packed) - size :]))
    assert not incoming.defect
    assert incoming.content_type == content
    assert incoming.response_topic == answer
    assert incoming.correlation == correlation
    assert incoming.user == envelope.user
    assert incoming.payload == b"x"


@given(st.binary(max_size=200), st.sampled_from([4, 5]), st.integers(0, 255))
@example(b"\0\1t\0\1\xff\xff\xff\xff\xff", 5, FIRST)
@example(body(b"\x26\xff\xff"), 5, FIRST)
def test_any_bytes_are_read_or_given_up(
    packet: bytes, version: int, first: int
) -> None:
    """Nothing but Malformed is raised; what is read has a topic and an identifier."""
    try:
        incoming = decode_publish(first, packet, len(packet), v5=version == 5)
    except Malformed:
        return
    assert incoming.mid if incoming.qos else incoming.mid == 0
    assert incoming.topic.encode()


@pytest.mark.parametrize(
    ("packet", "defect"),
    [
        (body(b"\x7f\0"), "there is no property 127"),
        (body(b"\x26\0\x09x"), "bytes are missing"),
        (b"\0\1t\0\7\x90\x01", "bytes are missing"),
        (b"\0\1t\0\7" + b"\xff" * 9, "more than four bytes"),
        (body(b"", topic=b"home/\xff"), "the topic is not UTF-8"),
    ],
)
def test_what_is_wrong_is_told(packet: bytes, defect: str) -> None:
    """A message whose packet is broken has an identifier, so that it can end."""
    incoming = decoded(packet)
    assert defect in incoming.defect
    assert incoming.mid == 7


@pytest.mark.parametrize("packet", [b"", b"\0", b"\0\5ab", b"\0\1t", b"\0\1t\0\0x"])
def test_without_an_identifier_nothing_can_be_done(packet: bytes) -> None:
    """It is skipped; nobody could acknowledge it."""
    with pytest.raises(Malformed):
        decoded(packet)


async def heard(packets: list[bytes], limit: int = 2**20) -> list[Message]:
    """Return what a connection makes of packets that a broker sends, but the last."""
    messages: asyncio.Queue[Message] = asyncio.Queue()

    async def script(peer: Peer) -> None:
        await peer.welcome()
        for packet in packets:
            peer.send(packet)
        await peer.gone()

    async with scripted(script) as endpoint:
        limited = Endpoint(endpoint.url, "device", max_packet_bytes=limit)
        connection = Connection(limited, 1, None, messages.put_nowait)
        await connection.open()
        found = [await messages.get()]
        while found[-1].payload != b"last":
            found.append(await messages.get())
        assert not connection.ended.done()
        connection.abandon("done")
    return found[:-1]


def packet(contents: bytes) -> bytes:
    """Return a PUBLISH at QoS 1."""
    left, length = len(contents), bytearray()
    while left > 127:
        length.append(left & 127 | 128)
        left >>= 7
    return bytes([FIRST, *length, left]) + contents


LAST = packet(body(b"", b"last"))


async def test_the_connection_outlives_what_cannot_be_read() -> None:
    """A broken packet is skipped or told of, and what follows it is heard."""
    broken = [packet(b"\0\1t\0\0x"), packet(b""), packet(body(b"\x7f\0"))]
    [message] = await heard([*broken, LAST])
    assert "property 127" in message.defect


async def test_of_a_packet_beyond_the_limit_the_beginning_is_kept() -> None:
    """It is read to its end, so that it can be acknowledged, and no more is kept."""
    large = packet(body(b"\x26" + text("id") + text("m-1"), b"y" * 5_000_000))
    whole = packet(body(b"", b"z" * 1_000_000))
    first, second = await heard([large, whole, LAST])
    assert (first.id, first.topic) == ("m-1", "home/k")
    assert len(first.payload) < KEPT_BYTES
    assert len(first.payload) + first.cut == 5_000_000
    assert (len(second.payload), second.cut) == (1_000_000, 0)


def test_nothing_beyond_the_limit_is_in_memory() -> None:
    """Not even while it arrives, in pieces of any size."""

    def pieces() -> Iterator[bytes]:
        yield bytes([FIRST])
        yield from (bytes([each]) for each in b"\x80\x80\x80\x01")
        for _ in range(2):
            yield b"x" * 1_000_000

    client = PacketReader(1000, print, paho.CallbackAPIVersion.VERSION2)
    arriving = pieces()
    client._sock_recv = lambda _size: next(arriving)  # type: ignore[method-assign]
    with pytest.raises(StopIteration):
        client._packet_read()
    assert client._in_packet["remaining_length"] == 2_097_152
    assert len(client._in_packet["packet"]) == 1000
