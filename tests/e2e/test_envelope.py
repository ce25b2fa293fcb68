"""What stands around a payload: the properties of MQTT 5, there and back."""

import asyncio

import pytest

from agent.core.errors import NobodyListens
from agent.core.types import Message
from agent.mqtt.connection import Connection
from agent.mqtt.endpoint import Endpoint
from agent.mqtt.properties import Envelope
from harness.stage import Mosquitto

LETTER = Envelope(
    response_topic="slm/pi/answer",
    correlation=bytes(range(16)),
    expiry_s=30,
    content_type="application/json",
    user=(("id", "m-1"), ("device", "pi"), ("twice", "a"), ("twice", "b")),
)


async def exchanged(broker: Mosquitto, version: int) -> Message:
    """Publish a message in an envelope; return it as a subscriber gets it."""
    got: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
    url = f"mqtt://127.0.0.1:{broker.port}"
    reader = Connection(Endpoint(url, "reader", version=5), 1, None, got.set_result)
    writer = Connection(
        Endpoint(url, "writer", version=version), 1, None, lambda _message: None
    )
    await reader.open()
    await reader.subscribe(["t"])
    await writer.open()
    await (await writer.publish("t", b"x", envelope=LETTER, heard=True))
    message = await got
    message.ack()
    await reader.close()
    await writer.close()
    return message


async def test_envelope_arrives(broker: Mosquitto) -> None:
    """What a publisher writes on the envelope the subscriber reads, in order."""
    message = await exchanged(broker, 5)
    assert message.response_topic == "slm/pi/answer"
    assert message.correlation == bytes(range(16))
    assert message.content_type == "application/json"
    assert message.user == LETTER.user
    assert message.id == "m-1"


async def test_no_envelope_with_mqtt_3(broker: Mosquitto) -> None:
    """MQTT 3.1.1 has no properties: the payload goes without its envelope."""
    message = await exchanged(broker, 4)
    assert message.payload == b"x"
    assert message.response_topic is None
    assert message.correlation is None
    assert message.user == ()


async def test_nobody_listens(broker: Mosquitto) -> None:
    """A publish that must be heard fails where nobody subscribed; others do not."""
    endpoint = Endpoint(f"mqtt://127.0.0.1:{broker.port}", "writer")
    connection = Connection(endpoint, 1, None, lambda _message: None)
    await connection.open()
    for _ in range(2):
        await (await connection.publish("nobody", b"x"))
        with pytest.raises(NobodyListens):
            await (await connection.publish("nobody", b"x", heard=True))
    await connection.close()
