"""Ways to ask upstream: `open_transport` returns the one that the operator chose."""

from typing import assert_never

from agent.config.agent_file import HttpUpstreamSection, MqttUpstreamSection, Upstream
from agent.escalation.mqtt import MqttTransport, endpoint_of
from agent.escalation.transport import Transport
from agent.mqtt.endpoint import Endpoint


def open_transport(upstream: Upstream, device: str, own: Endpoint) -> Transport:
    """Return the transport; raises ConfigError for what cannot work.

    Nothing is connected yet. `device` is the device's id, `own` its connection to its
    broker: the one to ask where no url is given.
    """
    match upstream:
        case MqttUpstreamSection():
            return MqttTransport(upstream, device, endpoint_of(upstream, own))
        case HttpUpstreamSection():
            # Here, so that no device loads httpx that asks by MQTT: 5 MB.
            from agent.escalation.http import open_http  # noqa: PLC0415

            return open_http(upstream)
        case _:
            assert_never(upstream)
