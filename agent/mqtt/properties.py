"""What stands around a payload on its way out, as properties of MQTT 5."""

from dataclasses import dataclass

from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties


@dataclass(frozen=True, slots=True)
class Envelope:
    """What stands around a payload (MQTT 5, 3.3.2.3); with 3.1.1 it is left off."""

    response_topic: str | None = None
    correlation: bytes | None = None
    expiry_s: int | None = None
    content_type: str | None = None
    user: tuple[tuple[str, str], ...] = ()


def publish_properties(envelope: Envelope) -> Properties:
    """Return an envelope as paho wants it."""
    properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
    if envelope.response_topic is not None:
        properties.ResponseTopic = envelope.response_topic
    if envelope.correlation is not None:
        properties.CorrelationData = envelope.correlation
    if envelope.expiry_s is not None:
        properties.MessageExpiryInterval = envelope.expiry_s
    if envelope.content_type is not None:
        properties.ContentType = envelope.content_type
    if envelope.user:
        properties.UserProperty = list(envelope.user)
    return properties


def block_bytes(properties: Properties | None) -> int:
    """Return the bytes of the properties with their length before them."""
    return 1 if properties is None else len(properties.pack())  # type: ignore[no-untyped-call]
