"""What a PUBLISH packet says (MQTT 5, 3.3; MQTT 3.1.1, 3.3), read as far as it goes.

A message that cannot be read comes again, for ever, with each connection. So nothing
but a packet without an identifier is given up: strings are decoded whatever they hold,
and what is wrong with the rest is told, so that the message can end as a dead letter.
"""

from dataclasses import dataclass
from enum import IntEnum

DUPLICATE, RETAIN = 0x08, 0x01  # flags of the first byte


class Property(IntEnum):
    """Those that may stand in a PUBLISH (MQTT 5, 3.3.2.3)."""

    PAYLOAD_FORMAT = 0x01
    EXPIRY = 0x02
    CONTENT_TYPE = 0x03
    RESPONSE_TOPIC = 0x08
    CORRELATION = 0x09
    SUBSCRIPTION = 0x0B
    TOPIC_ALIAS = 0x23
    USER = 0x26


FIXED = {Property.PAYLOAD_FORMAT: 1, Property.EXPIRY: 4, Property.TOPIC_ALIAS: 2}


class Malformed(Exception):
    """A packet, or a part of it, that is not as MQTT demands; the message says what."""


@dataclass(frozen=True, slots=True)
class Incoming:
    """A message as it came; `mid` is 0 at QoS 0.

    `cut` is how many bytes of the payload were not kept; `defect` says what could not
    be read, empty: nothing.
    """

    topic: str
    payload: bytes
    qos: int
    mid: int
    retained: bool
    again: bool
    cut: int = 0
    defect: str = ""
    content_type: str | None = None
    response_topic: str | None = None
    correlation: bytes | None = None
    subscriptions: tuple[int, ...] = ()
    user: tuple[tuple[str, str], ...] = ()

    @property
    def producer_id(self) -> str | None:
        """The first user property `id`, whatever it is worth."""
        return next((value for name, value in self.user if name == "id"), None)


class _Reader:
    """Owns a place in a packet; raises Malformed where that ends."""

    def __init__(self, packet: memoryview) -> None:
        self._packet = packet
        self.at = 0

    @property
    def left(self) -> int:
        return len(self._packet) - self.at

    def take(self, number: int) -> memoryview:
        if number > self.left:
            raise Malformed(f"{number - self.left} bytes are missing")
        self.at += number
        return self._packet[self.at - number : self.at]

    def integer(self, number: int) -> int:
        return int.from_bytes(self.take(number), "big")

    def variable(self) -> int:
        value = 0
        for place in range(4):
            byte = self.integer(1)
            value |= (byte & 0x7F) << 7 * place
            if byte < 0x80:  # noqa: PLR2004  the top bit says that more follow
                return value
        raise Malformed("a length has more than four bytes")

    def binary(self) -> bytes:
        return bytes(self.take(self.integer(2)))

    def text(self) -> str:
        return self.binary().decode("utf-8", "replace")


def decode_publish(
    first: int, body: bytes | bytearray, size: int, *, v5: bool
) -> Incoming:
    """Return what a PUBLISH says; raises Malformed for one without topic or identifier.

    `first` is the first byte of the packet, `body` what follows the length, as far as
    it was kept, and `size` the length itself.
    """
    reader = _Reader(memoryview(body))
    qos = first >> 1 & 3
    name = reader.binary()
    mid = reader.integer(2) if qos else 0
    if qos and not mid:
        raise Malformed("the packet identifier is 0")
    values, defect = _properties(reader) if v5 else ({}, "")
    try:
        topic = name.decode()
    except UnicodeDecodeError:
        topic, defect = name.decode("utf-8", "replace"), "the topic is not UTF-8"
    return Incoming(
        topic=topic,
        payload=bytes(reader.take(reader.left)),
        qos=qos,
        mid=mid,
        retained=bool(first & RETAIN),
        again=bool(first & DUPLICATE),
        cut=size - len(body),
        defect=defect,
        **values,  # type: ignore[arg-type]
    )


def _properties(reader: _Reader) -> tuple[dict[str, object], str]:
    """Return the properties as fields of `Incoming`, and what is wrong with them."""
    try:
        block = _Reader(reader.take(reader.variable()))
    except Malformed as why:
        return {}, f"properties: {why}"
    values: dict[str, object] = {}
    user: list[tuple[str, str]] = []
    subscriptions: list[int] = []
    defect = ""
    try:
        while block.left:
            _property(block, values, user, subscriptions)
    except Malformed as why:
        defect = f"properties: {why}"
    return values | {"user": tuple(user), "subscriptions": tuple(subscriptions)}, defect


def _property(
    block: _Reader,
    values: dict[str, object],
    user: list[tuple[str, str]],
    subscriptions: list[int],
) -> None:
    match block.variable():
        case Property.USER:
            user.append((block.text(), block.text()))
        case Property.SUBSCRIPTION:
            subscriptions.append(block.variable())
        case Property.CONTENT_TYPE:
            values["content_type"] = block.text()
        case Property.RESPONSE_TOPIC:
            values["response_topic"] = block.text()
        case Property.CORRELATION:
            values["correlation"] = block.binary()
        case number if number in FIXED:
            block.take(FIXED[Property(number)])
        case number:
            raise Malformed(f"there is no property {number}")
