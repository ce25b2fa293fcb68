"""All six shipped pipelines in one daemon: right answers, little memory."""

from collections.abc import Callable

import pytest

from agent.config.section import shipped
from agent.core.jsonl import read_records
from agent.daemon.checks import ExampleCase
from harness.stage import Agent, Client, Mosquitto, text_of

TOPICS = {
    "home": "home/{}/utterance",
    "assistant": "assistant/{}/utterance",
    "support": "support/{}/message",
    "media": "media/{}/utterance",
    "maintenance": "maintenance/{}/workorder",
    "privacy": "privacy/{}/text",
}
MOST_MB = 220


@pytest.mark.slow
def test_all_pipelines(
    broker: Mosquitto, client: Client, new_agent: Callable[..., Agent]
) -> None:
    """Every shipped example case comes back as it says, in at most 220 MB resident."""
    agent = new_agent(broker.port, enable=list(TOPICS), fresh=True)
    agent.start()
    asked: dict[str, ExampleCase] = {}
    for name, topic in TOPICS.items():
        path = shipped("pipelines") / f"{name}.cases.jsonl"
        for number, case in enumerate(read_records(path, ExampleCase, "cases")):
            place = topic.format(number)
            asked[place] = case
            client.send(place, case.text.encode())
    client.wait_answered(len(asked))
    for place, case in asked.items():
        [result] = client.results[place]
        assert case.status in {None, result["status"]}, (place, result)
        assert case.label in {None, result["label"]}, (place, result)
        if case.entities is not None:
            found = [(entity["label"], entity["text"]) for entity in result["entities"]]
            assert found == [(entity.label, entity.text) for entity in case.entities]
    topics = list(TOPICS.values())
    for number in range(3000):  # as many as it takes until memory has settled
        place = topics[number % len(topics)].format(f"more-{number}")
        client.send(place, f"{text_of(number)}, {number} times")
    client.wait_answered(len(asked) + 3000)
    assert agent.resident_mb() <= MOST_MB
    assert agent.terminate() == 0
