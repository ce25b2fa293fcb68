"""Two clients with one id: an alert instead of a war, and peace once one is gone."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from harness.stage import DEVICE, Agent, Client, Mosquitto, topic_of

pytestmark = pytest.mark.slow

ALERT = f"slm/{DEVICE}/alert/id_taken_over"
HEALTH = f"slm/{DEVICE}/health"
HURRY = {
    "mqtt.link.YIELD_S": 2.0,
    "mqtt.link.STABLE_S": 4.0,
    "daemon.status.HEALTH_S": 0.2,
}


def alerts(health: bytes) -> list[str]:
    """Return the alerts that a health names."""
    found: list[str] = json.loads(health)["alerts"]
    return found


@contextmanager
def thief(port: int, protocol: int) -> Iterator[list[str]]:
    """Connect with the device's id, again and again; give what became of it."""
    story: list[str] = []
    client = paho.Client(
        CallbackAPIVersion.VERSION2,
        client_id=f"slm-agent-{DEVICE}",
        protocol=paho.MQTTProtocolVersion(protocol),
    )
    client.reconnect_delay_set(1, 1)
    client.on_connect = lambda *_: story.append("on")
    client.on_disconnect = lambda *_: story.append("off")
    client.connect("127.0.0.1", port)
    client.loop_start()
    try:
        yield story
    finally:
        client.disconnect()
        client.loop_stop()


def test_taken_over(
    broker: Mosquitto, new_agent: Callable[..., Agent], client: Client
) -> None:
    """Our id taken, we say so and give way; when the thief is gone we are back."""
    agent = new_agent(broker.port, hurry=HURRY)
    agent.start()
    with thief(broker.port, 5) as story:
        client.wait(lambda: any(client.said[ALERT]))
        assert json.loads(client.said[ALERT][-1])["times"] == 1
        waits = agent.wait_log("client_id_taken_over")["wait_s"]
        assert waits == HURRY["mqtt.link.YIELD_S"]
        assert story.count("on") <= 5
        connects = agent.count_log("connected")
    agent.wait_log("connected", connects + 1)
    client.ask([1])
    client.wait_answered(1)
    said = client.said[HEALTH]
    client.wait(lambda: any("id_taken_over" in alerts(health) for health in said))
    client.wait_said(ALERT, b"")
    client.wait(lambda: not alerts(said[-1]))
    assert agent.terminate() == 0
    with Client(broker.port, "late") as late:  # nothing retained
        late.wait_said(f"slm/{DEVICE}/status", b"offline")
        assert not late.said[ALERT]


@pytest.mark.parametrize("version", [5, 4])
def test_no_war(
    broker: Mosquitto, new_agent: Callable[..., Agent], client: Client, version: int
) -> None:
    """Against a thief that always returns we give way for longer and longer."""
    spoken = 5 if version == 5 else '"3.1.1"'
    agent = new_agent(
        broker.port,
        mqtt=f"version = {spoken}",
        hurry=HURRY | {"mqtt.link.YIELD_S": 0.5},
    )
    agent.start()
    with thief(broker.port, version) as story:
        waits = [
            agent.wait_log("client_id_taken_over", times)["wait_s"]
            for times in (1, 2, 3)
        ]
        assert waits == [0.5, 1.0, 2.0]
        assert json.loads(client.said[ALERT][-1])["alert"] == "id_taken_over"
        assert story.count("on") <= 8
        connects = agent.count_log("connected")
    agent.wait_log("connected", connects + 1)  # the thief had left us no session
    client.ask([1])
    client.wait(lambda: topic_of(1) in client.results)
    assert agent.terminate() == 0
