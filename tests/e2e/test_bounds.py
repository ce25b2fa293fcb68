"""More than the daemon can take: bounded, counted, and nothing owed is lost."""

import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from harness.proxy import PUBACK, Fate, Proxy, Way, all_pass, kind
from harness.stage import DEVICE, Agent, Client, Mosquitto, text_of, topic_of

HEALTH = f"slm/{DEVICE}/health"


def test_flood(proxy: Proxy, new_agent: Callable[..., Agent], client: Client) -> None:
    """A flood at QoS 0 is dropped beyond the bound, and the drops are counted."""
    agent = new_agent(proxy.port, mqtt="max_backlog = 50")
    agent.start()
    client.ask(range(3000), qos=0)
    client.ask([5000])  # at QoS 1: behind the flood
    client.wait(lambda: bool(client.results[topic_of(5000)]))
    reports = len(client.said[HEALTH])
    proxy.drop_connections()  # on its return the daemon tells how it is
    client.wait(lambda: len(client.said[HEALTH]) > reports)
    health = json.loads(client.said[HEALTH][-1])
    assert health["dropped_qos0"] > 1000
    assert health["in_hand_max"] == 50
    client.wait_answers(health["received"] - health["dropped_qos0"])
    assert health["received"] - 3000 in {1, 2}  # the last acknowledgement may be lost
    assert agent.terminate() == 0
    assert client.answers == health["received"] - health["dropped_qos0"]


@pytest.mark.parametrize("version", ["5", '"3.1.1"'])
def test_overrun(
    broker: Mosquitto, new_agent: Callable[..., Agent], client: Client, version: str
) -> None:
    """What the broker sends beyond the bound at QoS 1 is fetched later, in order."""
    agent = new_agent(broker.port, mqtt=f"version = {version}\nmax_backlog = 15")
    agent.start()
    client.ask(range(150), ids=version == "5")
    client.wait_answered(150)
    assert agent.terminate() == 0
    assert agent.count_log("fetching_again") > 3
    assert client.answers == 150
    assert list(client.results) == [topic_of(number) for number in range(150)]


def test_overrun_behind_an_old_connection(
    proxy: Proxy, new_agent: Callable[..., Agent], client: Client
) -> None:
    """What is left because of messages of an earlier connection is fetched, too."""

    def no_answers(way: Way, packet: bytes) -> Fate:
        lost = way is Way.BROKER and kind(packet) == PUBACK
        return Fate.DROP if lost else Fate.PASS

    agent = new_agent(proxy.port, mqtt="max_backlog = 15")
    agent.start()
    proxy.gate = no_answers
    client.ask(range(60), ids=True)
    client.wait_answered(15)  # so 15 are in hand, and stay there
    proxy.gate = all_pass
    proxy.drop_connections()
    client.wait_answered(60)
    assert agent.terminate() == 0


def test_flood_beside_overrun(
    broker: Mosquitto, new_agent: Callable[..., Agent], client: Client
) -> None:
    """An endless flood at QoS 0 cannot keep QoS 1 from being answered."""
    agent = new_agent(broker.port, mqtt="max_backlog = 15")
    agent.start()
    next_flood = iter(range(10_000, 1_000_000))
    client.on_answer = lambda: client.ask([next(next_flood) for _ in range(3)], qos=0)
    client.ask([next(next_flood) for _ in range(100)], qos=0)
    client.ask(range(60))
    client.wait(lambda: all(topic_of(number) in client.results for number in range(60)))
    client.on_answer = lambda: None
    assert agent.terminate() == 0


def test_packet_too_large(tmp_path: Path, new_agent: Callable[..., Agent]) -> None:
    """A result too large for the broker goes without entities, `too_long`, once."""
    small = "listener {port} 127.0.0.1\nallow_anonymous true\nmax_packet_size 4000\n"
    with closing(Mosquitto(tmp_path / "broker", small)) as broker:
        broker.start()
        agent = new_agent(broker.port)
        agent.start()
        with Client(broker.port) as client:
            text = " and ".join(text_of(number) for number in range(80))
            client.send(topic_of(1), text, message_id="long")
            client.send(topic_of(2), b"\0" * 3500)
            client.ask([3])
            client.wait_answered(3)
            assert agent.terminate() == 0
            assert client.answers == 3
            [result] = client.results[topic_of(1)]
            assert (result["status"], result["reason"]) == ("unresolved", "too_long")
            assert (result["id"], result["entities"]) == ("long", [])
            assert result["label"]
            [letter] = client.dead[topic_of(2)]
            assert (letter["bytes"], letter["truncated"]) == (3500, True)
