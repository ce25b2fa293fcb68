"""Whatever its topic and payload: what a broker takes goes out, and nothing larger."""

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from harness.stage import Agent, Client, Mosquitto, text_of, topic_of

LIMITED = "listener {{port}} 127.0.0.1\nallow_anonymous true\nmax_packet_size {limit}\n"
PERSISTENT = "max_queued_messages 0\n"


@pytest.fixture
def limited(tmp_path: Path) -> Iterator[Callable[[int], Mosquitto]]:
    """Give a maker of brokers with a limit, by bytes of a packet."""
    made: list[Mosquitto] = []

    def make(limit: int) -> Mosquitto:
        settings = LIMITED.format(limit=limit) + PERSISTENT
        made.append(Mosquitto(tmp_path / f"limited-{limit}", settings))
        made[-1].start()
        return made[-1]

    yield make
    for broker in made:
        broker.close()


@pytest.mark.parametrize("version", [5, "3.1.1"])
def test_a_long_topic_with_a_large_payload(
    limited: Callable[[int], Mosquitto],
    new_agent: Callable[..., Agent],
    version: object,
) -> None:
    """A dead letter is cut to what the broker takes, also where its topic is long.

    MQTT 3.1.1 has no word for the limit; there the operator says it.
    """
    broker = limited(2**20)
    said = f"version = {json.dumps(version)}\nmax_packet_bytes = {2**20}"
    pipelines = {"home": (["home/+/utterance"], "max_bytes = 1_000_000")}
    agent = new_agent(broker.port, mqtt=said, pipelines=pipelines)
    agent.start()
    topic = f"home/{'t' * 6000}/utterance"
    with closing(Client(broker.port)) as client:
        client.send(topic, b"\xff" * 800_000, message_id="large")
        client.ask([1])
        client.wait_answered(2)
        assert agent.count_log("disconnected") == 0
        assert agent.terminate() == 0
        [letter] = client.dead[topic]
        assert letter["reason"] == "not_utf8"
        assert (letter["truncated"], letter["bytes"]) == (True, 800_000)
        assert 1_000_000 < len(json.dumps(letter)) < 2**20
        assert len(client.results[topic_of(1)]) == 1


def test_a_topic_that_doubles_in_json(
    limited: Callable[[int], Mosquitto], new_agent: Callable[..., Agent]
) -> None:
    """A result that its topic alone makes too large ends as one dead letter."""
    broker = limited(2**16)
    agent = new_agent(broker.port)
    agent.start()
    with closing(Client(broker.port)) as client:
        topic = "home/" + '"' * 40_000 + "/utterance"
        client.send(topic, text_of(7), message_id="quotes")
        client.ask([1])
        client.wait_answered(2)
        assert agent.count_log("disconnected") == 0
        assert agent.terminate() == 0
        [[letter]] = client.dead.values()
        assert (letter["id"], letter["reason"]) == ("quotes", "too_long")
        assert letter["topic_truncated"]
        assert letter["topic"].startswith('home/""""')
        assert client.answers == 2


def test_what_a_device_says_of_itself_is_cut(
    limited: Callable[[int], Mosquitto], new_agent: Callable[..., Agent]
) -> None:
    """Birth loses its largest part, and Home Assistant hears nothing.

    The device is online and answers; each is one line of the log.
    """
    broker = limited(2048)
    home = "[homeassistant]\nenable = true"
    agent = new_agent(broker.port, mqtt=home, enable=["home", "support", "media"])
    with closing(Client(broker.port)) as client:
        agent.start()
        client.ask([1])
        client.wait_answered(1)
        birth = json.loads(client.said["slm/pi/birth"][-1])
        assert birth["left_out"] == ["bundles"]
        assert "bundles" not in birth
        assert set(birth["pipelines"]) == {"home", "support", "media"}
        assert client.said["slm/pi/status"] == [b"online"]
        topics = [line["topic"] for line in agent.lines if line["event"] == "too_large"]
        assert topics == ["homeassistant/device/slm_pi/config", "slm/pi/birth"]
        assert agent.count_log("disconnected") == 0
        assert agent.terminate() == 0
