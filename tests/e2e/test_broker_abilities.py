"""A broker that cannot do all of MQTT 5: devices are online, messages are answered.

Mosquitto refuses by its own configuration what it can refuse. A proxy in front of it
says what else it cannot do, and hangs up on who asks for it all the same.
"""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from harness.proxy import (
    CONNACK,
    CONNECT,
    PINGREQ,
    PUBACK,
    PUBLISH,
    SUBACK,
    SUBSCRIBE,
    Fate,
    Proxy,
    Way,
    kind,
)
from harness.proxy import topic_of as topic_name
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
# Properties of CONNACK (MQTT 5, 3.2.2.3).
NO_WILDCARDS, NO_IDENTIFIERS, NO_SHARED = b"\x28\x00", b"\x29\x00", b"\x2a\x00"
ONE_AT_A_TIME, NO_ALIASES = b"\x21\x00\x01", b"\x22\x00\x00"
ASSIGNED = b"\x12\x00\x08assigned"
NOT_AUTHORIZED = 0x87
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
    """With QoS 0 alone, or nothing retained, results come; log and doctor say it."""
    agent = new_agent(broker.port)
    agent.start()
    answers(client, agent)
    assert cost in agent.wait_log("broker_limits")[limit]
    told = agent.command("doctor", "--json").communicate()[0].splitlines()
    details = [json.loads(line)["detail"] for line in told]
    [said] = [detail for detail in details if detail.startswith(f"limits {limit}")]
    assert cost in said
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


def other_and_homes(other: str) -> dict[str, tuple[list[str], str]]:
    """Return two pipelines; the topic of the first is the one that is refused."""
    return {"other": ([other], ""), "homes": (["home/k/utterance"], "")}


def refused_alone(client: Client, agent: Agent, topic: str, why: str) -> None:
    """See that an alert names topic and reason, and that the other pipeline answers."""
    alert = f"slm/{DEVICE}/alert/subscription_refused"
    client.wait(lambda: any(client.said[alert]))
    detail = json.loads(next(filter(None, client.said[alert])))["detail"]
    assert detail.startswith("pipeline other: ")
    assert topic in detail
    assert why in detail
    client.send("home/k/utterance", "turn off the lights in the kitchen")
    client.wait(lambda: "home/k/utterance" in client.results)
    assert agent.terminate() == 0


def test_one_refused_subscription(
    proxy: Proxy, client: Client, new_agent: NewAgent
) -> None:
    """A subscription that is not authorised costs its pipeline, until it is granted."""
    allowed = threading.Event()
    mids = set()

    def gate(way: Way, packet: bytes) -> Fate | bytes:
        if way is Way.DEVICE and kind(packet) == SUBSCRIBE and b"else/" in packet:
            mids.add(packet[2:4])
        if way is Way.BROKER and kind(packet) == SUBACK and packet[2:4] in mids:
            mids.discard(packet[2:4])
            if not allowed.is_set():
                return packet[:-1] + bytes([NOT_AUTHORIZED])
        return Fate.PASS

    proxy.gate = gate
    agent = new_agent(
        proxy.port,
        pipelines=other_and_homes("else/x"),
        hurry={"daemon.status.HEALTH_S": 0.5},
    )
    agent.start()
    agent.wait_log("alert", alert="subscription_refused")
    allowed.set()
    agent.wait_log("alert_cleared", alert="subscription_refused")
    client.send("else/x", "play some jazz")
    client.wait_answered(1)
    refused_alone(client, agent, "else/x", "Not authorized (0x87)")
    assert proxy.connections == 1


def test_a_broker_that_hangs_up_at_a_subscription(
    proxy: Proxy, client: Client, new_agent: NewAgent
) -> None:
    """Where the broker hangs up at one filter each time, the others are served."""

    def gate(way: Way, packet: bytes) -> Fate:
        cut = way is Way.DEVICE and kind(packet) == SUBSCRIBE and b"else/" in packet
        return Fate.CUT if cut else Fate.PASS

    proxy.gate = gate
    agent = new_agent(proxy.port, pipelines=other_and_homes("else/x"))
    agent.start()
    refused_alone(client, agent, "else/x", "hung up")


@pytest.mark.parametrize(
    ("lacks", "topic", "why"),
    [
        (NO_WILDCARDS, "else/+/x", "wildcards"),
        (NO_SHARED, "$share/us/else/x", "shared"),
    ],
)
def test_filters_that_a_broker_lacks(
    proxy: Proxy,
    client: Client,
    new_agent: NewAgent,
    lacks: bytes,
    topic: str,
    why: str,
) -> None:
    """A filter that the broker cannot serve is not sent: it would hang up."""

    def gate(way: Way, packet: bytes) -> Fate | bytes:
        if way is Way.BROKER and kind(packet) == CONNACK:
            return _with_property(packet, lacks)
        cut = way is Way.DEVICE and kind(packet) == SUBSCRIBE and b"else/" in packet
        return Fate.CUT if cut else Fate.PASS

    proxy.gate = gate
    agent = new_agent(proxy.port, pipelines=other_and_homes(topic))
    agent.start()
    refused_alone(client, agent, topic, why)
    assert agent.wait_log("broker_limits")
    assert proxy.connections == 1


def test_one_message_at_a_time(
    proxy: Proxy, client: Client, new_agent: NewAgent
) -> None:
    """With a Receive Maximum of 1 no message goes out before the last is acknowledged.

    The broker hangs up on who sends two, or a topic alias, of which it takes none.
    """
    unacked: set[bytes] = set()

    def gate(way: Way, packet: bytes) -> Fate | bytes:
        if way is Way.BROKER and kind(packet) == CONNACK:
            one = _with_property(packet, ONE_AT_A_TIME)
            return _with_property(one, NO_ALIASES)
        if way is Way.BROKER and kind(packet) == PUBACK:
            unacked.discard(packet[2:4])
        if way is Way.DEVICE and kind(packet) == PUBLISH and packet[0] & 6:
            topic = topic_name(packet)
            start = packet.index(topic) + len(topic)
            unacked.add(packet[start : start + 2])
            return Fate.CUT if len(unacked) > 1 or not topic else Fate.PASS
        return Fate.PASS

    proxy.gate = gate
    agent = new_agent(proxy.port)
    agent.start()
    client.ask(range(1, 41))
    client.wait_answered(40)
    assert proxy.connections == 1
    assert agent.count_log("disconnected") == 0
    assert agent.terminate() == 0


def test_a_client_id_from_the_broker(
    proxy: Proxy, client: Client, new_agent: NewAgent
) -> None:
    """The next connection has the id, and so the session, that the broker gave us."""
    ids = []

    def gate(way: Way, packet: bytes) -> Fate | bytes:
        if way is Way.DEVICE and kind(packet) == CONNECT:
            ids.append(b"assigned" in packet)
        if way is Way.BROKER and kind(packet) == CONNACK:
            return _with_property(packet, ASSIGNED)
        return Fate.PASS

    proxy.gate = gate
    agent = new_agent(proxy.port)
    agent.start()
    agent.wait_log("connected")
    proxy.drop_connections()
    agent.wait_log("connected", 2)
    assert ids == [False, True]
    client.ask([1])
    client.wait_answered(1)
    assert "assigned" in agent.wait_log("broker_limits")["client_id"]


SIZES = {0x11: 4, 0x21: 2, 0x22: 2, 0x24: 1, 0x25: 1, 0x27: 4, 0x13: 2}  # with theirs


def _with_property(packet: bytes, one: bytes) -> bytes:
    """Return a CONNACK, of less than 128 bytes, with one more property, or another."""
    header, _, flags, code, size = packet[:5]
    rest, kept = packet[5 : 5 + size], b""
    while rest:
        length = 1 + SIZES[rest[0]]
        kept += rest[:length] if rest[0] != one[0] else b""
        rest = rest[length:]
    kept += one
    return bytes([header, 3 + len(kept), flags, code, len(kept)]) + kept
