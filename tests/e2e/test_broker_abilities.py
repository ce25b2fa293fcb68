"""A broker that cannot do all of MQTT 5: devices are online, messages are answered.

Mosquitto refuses by its own configuration what it can refuse. A proxy in front of it
says that there are no subscription identifiers, and hangs up on who sends them.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from harness.proxy import CONNACK, PINGREQ, SUBSCRIBE, Fate, Proxy, Way, kind
from harness.stage import (
    BROKER,
    DEADLINE_S,
    DEVICE,
    Agent,
    Client,
    Mosquitto,
    free_port,
    topic_of,
)

NewAgent = Callable[..., Agent]
NO_IDENTIFIERS = b"\x29\x00"  # a property of CONNACK (MQTT 5, 3.2.2.3.12)
IDENTIFIER = 0x0B  # a property of SUBSCRIBE


@pytest.fixture
def limits() -> str:
    """Return what the broker's configuration says of the device's listener."""
    return ""


@pytest.fixture
def open_port() -> int:
    """Return the port of a listener without limits."""
    return free_port()


@pytest.fixture
def broker(tmp_path: Path, limits: str, open_port: int) -> Iterator[Mosquitto]:
    """Run a broker with a listener that allows little, and another one."""
    settings = f"{BROKER}{limits}\nlistener {open_port} 127.0.0.1\n"
    with closing(Mosquitto(tmp_path / "broker", settings)) as running:
        running.start()
        yield running


@pytest.fixture
def client(broker: Mosquitto, open_port: int) -> Iterator[Client]:
    """Connect a producer and consumer by the listener without limits."""
    assert broker.port != open_port
    with closing(Client(open_port)) as connected:
        yield connected


def answers(client: Client, agent: Agent) -> None:
    """See that a message is answered once, and that nobody hung up."""
    client.ask([1])
    client.wait_answered(1)
    [result] = client.results[topic_of(1)]
    assert result["device"] == DEVICE
    assert agent.count_log("disconnected") == 0, agent.tail()


@pytest.mark.parametrize(
    ("limits", "limit", "cost"),
    [
        ("max_qos 0", "qos", "lost"),
        ("retain_available false", "retain", "comes later"),
    ],
)
def test_what_a_limit_costs_is_said(
    broker: Mosquitto, client: Client, new_agent: NewAgent, limit: str, cost: str
) -> None:
    """With QoS 0 alone, or nothing retained, results come; the log says the cost."""
    agent = new_agent(broker.port)
    agent.start()
    answers(client, agent)
    assert cost in agent.wait_log("broker_limits")[limit]
    assert agent.terminate() == 0


@pytest.mark.parametrize("limits", ["max_keepalive 10"])
def test_the_keep_alive_of_the_broker(
    proxy: Proxy, client: Client, new_agent: NewAgent
) -> None:
    """A shorter keep alive of the broker counts, from the first ping on."""
    pinged = threading.Event()

    def gate(way: Way, packet: bytes) -> Fate:
        if way is Way.DEVICE and kind(packet) == PINGREQ:
            pinged.set()
        return Fate.PASS

    proxy.gate = gate
    agent = new_agent(proxy.port, mqtt="keepalive_s = 120")
    agent.start()
    agent.wait_log("connected")
    assert pinged.wait(DEADLINE_S)
    assert proxy.connections == 1
    answers(client, agent)


def test_no_subscription_identifiers(
    proxy: Proxy, client: Client, new_agent: NewAgent
) -> None:
    """Where the broker names no subscriptions, topics tell the pipeline."""

    def gate(way: Way, packet: bytes) -> Fate | bytes:
        if way is Way.BROKER and kind(packet) == CONNACK:
            return _with_property(packet, NO_IDENTIFIERS)
        if way is Way.DEVICE and kind(packet) == SUBSCRIBE:
            size = packet[4]  # of the properties, after header and packet identifier
            return Fate.CUT if IDENTIFIER in packet[5 : 5 + size] else Fate.PASS
        return Fate.PASS

    proxy.gate = gate
    agent = new_agent(proxy.port)
    agent.start()
    answers(client, agent)
    assert proxy.connections == 1
    assert client.results[topic_of(1)][0]["label"] is not None
    assert agent.terminate() == 0


def _with_property(packet: bytes, one: bytes) -> bytes:
    """Return a CONNACK, of less than 128 bytes, with one more property."""
    header, _, flags, code, size = packet[:5]
    head = [header, 3 + size + len(one), flags, code, size + len(one)]
    return bytes(head) + packet[5:] + one
