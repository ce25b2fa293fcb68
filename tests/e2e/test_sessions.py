"""The broker's session: what it keeps, what it loses, and what we may believe."""

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from harness.proxy import CONNACK, PUBACK, PUBLISH, Fate, Proxy, Way, all_pass, kind
from harness.stage import Agent, Client, Mosquitto, text_of, topic_of

FORGETFUL = """\
listener {port} 127.0.0.1
allow_anonymous true
max_queued_messages 0
persistence false
"""


@pytest.fixture
def forgetful(tmp_path: Path) -> Iterator[Mosquitto]:
    """Run a broker that loses every session when it stops."""
    with closing(Mosquitto(tmp_path / "broker", FORGETFUL)) as running:
        running.start()
        yield running


@pytest.fixture
def network(forgetful: Mosquitto) -> Iterator[Proxy]:
    """Put a network between device and forgetful broker."""
    proxy = Proxy(forgetful.port)
    yield proxy
    proxy.cut()


def hold_results(way: Way, packet: bytes) -> Fate:
    """Lose what the device publishes, so that it keeps its messages in hand."""
    held = way is Way.DEVICE and kind(packet) == PUBLISH and b"/result/" in packet
    return Fate.DROP if held else Fate.PASS


def lose_session(broker: Mosquitto, network: Proxy, client: Client) -> None:
    """Restart the broker; the client is back before the device can be."""
    network.cut()
    broker.stop()
    before = client.subscribed
    broker.start()
    client.wait(lambda: client.subscribed > before)


def test_session_kept(
    proxy: Proxy, new_agent: Callable[..., Agent], client: Client
) -> None:
    """If the broker kept our session, it sends all again: each is answered once."""
    agent = new_agent(proxy.port)
    agent.start()
    proxy.gate = hold_results
    client.ask(range(30), ids=True)
    agent.wait_log("handled", 30)
    proxy.gate = all_pass
    proxy.drop_connections()
    client.wait_answered(30)
    client.send("home/last/utterance", text_of(0))
    client.wait_answered(31)
    assert agent.terminate() == 0
    assert client.answers == 31


def test_session_lost(
    forgetful: Mosquitto, network: Proxy, new_agent: Callable[..., Agent]
) -> None:
    """If the broker forgot our session, what is in hand is answered all the same."""
    agent = new_agent(network.port)
    agent.start()
    with Client(forgetful.port) as client:
        network.gate = hold_results
        client.ask(range(30), ids=True)
        agent.wait_log("handled", 30)
        lose_session(forgetful, network, client)
        network.gate = all_pass
        network.restore()
        client.wait_answered(30)
        assert agent.terminate() == 0
        assert client.answers == 30


def test_session_lost_unheard(
    forgetful: Mosquitto, network: Proxy, new_agent: Callable[..., Agent]
) -> None:
    """The same if the CONNACK that said so was lost, and the next finds a session."""
    connacks = 0

    def lose_one(way: Way, packet: bytes) -> Fate:
        nonlocal connacks
        if way is Way.BROKER and kind(packet) == CONNACK:
            connacks += 1
            return Fate.CUT if connacks == 1 else Fate.PASS
        return Fate.PASS

    agent = new_agent(network.port)
    agent.start()
    with Client(forgetful.port) as client:
        network.gate = hold_results
        client.ask(range(10), ids=True)
        agent.wait_log("handled", 10)
        lose_session(forgetful, network, client)
        network.gate = lose_one
        network.restore()
        assert agent.wait_log("connected", 2)["session_present"]
        client.wait_answered(10)
        assert agent.terminate() == 0


def test_stale_acknowledgement(
    forgetful: Mosquitto, network: Proxy, new_agent: Callable[..., Agent]
) -> None:
    """A message's acknowledgement never goes to another one of a later connection.

    After the loss of the session the second message has the first one's identifier.
    """
    acknowledged = 0

    def hold_second(way: Way, packet: bytes) -> Fate:
        nonlocal acknowledged
        if way is Way.DEVICE and kind(packet) == PUBACK:
            acknowledged += 1
        held = way is Way.DEVICE and topic_of(2).encode() in packet
        return Fate.DROP if held else Fate.PASS

    agent = new_agent(network.port)
    agent.start()
    with Client(forgetful.port) as client:
        network.gate = hold_results
        client.ask([1])
        agent.wait_log("handled")
        lose_session(forgetful, network, client)
        network.gate = hold_second
        network.restore()
        agent.wait_log("connected", 2)
        client.wait_answered(1)
        client.ask([2])
        agent.wait_log("handled", 2)
        client.ask([3])  # its result passes after the held one
        client.wait(lambda: topic_of(3) in client.results)
        assert acknowledged == 0
        agent.kill()
        network.gate = all_pass
        agent.start()
        client.wait(lambda: topic_of(2) in client.results)
        assert agent.terminate() == 0


def test_shared_subscription(
    broker: Mosquitto, new_agent: Callable[..., Agent], client: Client
) -> None:
    """Agents of a group share the load: each message is answered by one of them."""
    shared = {"home": (["$share/crew/home/+/utterance"], "")}
    agents = [
        new_agent(broker.port, device=d, pipelines=shared) for d in ("one", "two")
    ]
    for agent in agents:
        agent.start()
    client.ask(range(200), ids=True)
    client.wait_answered(200)
    assert [agent.terminate() for agent in agents] == [0, 0]
    assert client.answers == 200
    by = [result["device"] for [result] in client.results.values()]
    assert min(by.count("one"), by.count("two")) > 50


def test_two_pipelines(
    broker: Mosquitto, new_agent: Callable[..., Agent], client: Client
) -> None:
    """Pipelines whose filters overlap give one result each for each message."""
    pipelines = {
        "narrow": (["home/+/utterance"], ""),
        "same": (["home/+/utterance"], ""),
        "wide": (["home/#"], ""),
        "json": (["home/+/utterance"], 'text = "text"'),
    }
    agent = new_agent(broker.port, pipelines=pipelines)
    agent.start()
    client.ask(range(100), ids=True)
    client.wait_answers(400)
    assert agent.terminate() == 0
    assert client.answers == 400
    for number in range(100):
        results = client.results[topic_of(number)]
        assert sorted(r["pipeline"] for r in results) == ["narrow", "same", "wide"]
        assert {r["id"] for r in results} == {f"m-{number}"}
        [letter] = client.dead[topic_of(number)]
        assert letter["pipeline"] == "json"
    assert results[0]["label"] == results[2]["label"]


def test_filters_changed(
    broker: Mosquitto, new_agent: Callable[..., Agent], client: Client
) -> None:
    """What waits under an earlier configuration's filters is answered by the new one.

    And what comes later is answered once, though the broker still knows the old ones.
    """
    agent = new_agent(
        broker.port, pipelines={"a": (["x/#"], ""), "b": (["home/#"], "")}
    )
    agent.start()
    assert agent.terminate() == 0
    client.ask(range(20))
    client.wait_acked(20)
    agent = new_agent(
        broker.port, pipelines={"b": (["home/+/utterance"], ""), "a": (["x/#"], "")}
    )
    agent.start()
    client.wait_answered(20)
    client.ask(range(20, 40))
    client.wait_answered(40)
    client.send("x/utterance", text_of(0))  # behind every second copy
    client.wait_answered(41)
    assert agent.terminate() == 0
    assert client.answers == 41
    by = {topic: result["pipeline"] for topic, [result] in client.results.items()}
    assert by == {topic_of(n): "b" for n in range(40)} | {"x/utterance": "a"}
