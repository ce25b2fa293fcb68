"""The two halves of the escalation RPC: a transport of ours asks a broker of ours."""

import asyncio
from collections.abc import Callable

import pytest

from agent.escalation.mqtt import MqttTransport
from agent.escalation.transports import open_transport
from agent.mqtt.endpoint import Endpoint
from agent.protocol.cases import checked
from harness.brokers import Broker, case
from harness.provider import Provider
from harness.stage import Mosquitto
from harness.upstreams import mqtt_upstream


@pytest.mark.parametrize("version", [5, 4], ids=["mqtt 5", "mqtt 3.1.1"])
async def test_asked_and_answered(
    mosquitto: Mosquitto,
    model: Provider,
    new_broker: Callable[..., Broker],
    version: int,
) -> None:
    """What the transport asks the broker answers: valid, counted and paid once."""
    new_broker(model.base).start()
    own = Endpoint(f"mqtt://127.0.0.1:{mosquitto.port}", "device", version=version)
    transport = open_transport(mqtt_upstream(), "pi", own)
    assert isinstance(transport, MqttTransport)
    run = asyncio.ensure_future(transport.run())
    await transport._link.connection()
    asked = [case(number) for number in range(5)]
    replies = await asyncio.gather(
        *(transport.ask(one, transport.encode(one, 400), 60) for one in asked)
    )
    for one, reply in zip(asked, replies, strict=True):
        assert (reply.id, reply.status) == (one.id, "ok")
        assert checked(reply.answer, one).label == "off"
        assert reply.usage.input_tokens > 0
        assert reply.usage.cost
        assert reply.model
    assert transport.late == 0
    run.cancel()
    await asyncio.wait([run])
