"""Versions on probation: taken back for what they break, not for what others do."""

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import count
from pathlib import Path

import pytest

from harness.casework import asking, http, question, well
from harness.fleetwork import HURRY, LOST, Office, member, version
from harness.stage import Agent, Client, Mosquitto, text_of
from harness.upstreams import ScriptedLLM

FORBIDDEN = "forbidden"
OPEN = "topic read #\n" + "".join(
    f"topic write {part}/#\n"
    for part in ("slm", "office", "one", "two", "silent", "good", "bad")
)
PACE_S = 0.05
ALERT = "slm/pi/alert/result_refused"


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    """Run a Mosquitto that takes nothing on topics below `forbidden`."""
    settings = "listener {port} 127.0.0.1\nallow_anonymous true\n"
    with closing(
        Mosquitto(tmp_path / "broker", settings + "acl_file {folder}/acl\n")
    ) as running:
        (running.folder / "acl").write_text(OPEN)
        running.start()
        yield running


def joined(
    office: Office,
    new_agent: Callable[..., Agent],
    broker: Mosquitto,
    probation_s: float,
    **hurry: float,
) -> Agent:
    """Start a device of the fleet with the pipelines `one` and `two`."""
    pipelines = {name: ([f"{name}/+/utterance"], "") for name in ("one", "two")}
    agent = new_agent(broker.port, hurry=HURRY | hurry, pipelines=pipelines)
    office.join(agent, probation_s).start()
    return agent


def answered(client: Client, *topics: str) -> None:
    """Wait until there is a result for a message on each topic."""
    client.wait(lambda: client.results.keys() >= set(topics))


@contextmanager
def sending(client: Client, devices: Sequence[str]) -> Iterator[list[str]]:
    """Send texts to devices without a pause; give the topics, each for one answer."""
    sent: list[str] = []
    over = threading.Event()

    def send() -> None:
        for number in count():
            for device in devices:
                sent.append(f"{device}/{number}/utterance")
                client.send(sent[-1], text_of(number))
            if over.wait(PACE_S):
                return

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield sent
    finally:
        over.set()
        thread.join()


@pytest.mark.parametrize(
    "breaks",
    [LOST, f'pipelines.one.output.topic = "{FORBIDDEN}/x"'],
    ids=["cut off", "refused"],
)
def test_a_version_that_breaks_one_device_only(
    broker: Mosquitto,
    client: Client,
    office: Office,
    new_agent: Callable[..., Agent],
    breaks: str,
) -> None:
    """It returns, the other goes on; every message gets its answer all the while."""
    devices = "good", "bad"
    for device in devices:
        member(office, new_agent, broker, device, probation_s=3)
    with sending(client, devices) as sent:
        office.push(office.signed(version(1)))
        for device in devices:
            office.wait(device, state="applied", applied=1)
        layer = f'[[layer]]\nname = "odd"\ndevices = ["bad"]\n{breaks}\n'
        office.push(office.signed(f"{version(2, 0.2)}{layer}"))
        office.wait("bad", state="rolled_back", applied=1)
        office.wait("good", state="applied", applied=2)
        before = len(sent)
        answered(client, *sent[:before])
        client.wait(lambda: len(client.results) > before)  # and those that came since
    answered(client, *sent)
    assert client.results.keys() == set(sent)
    states = [json.loads(said)["state"] for said in client.said["slm/good/fleet"]]
    assert "rolled_back" not in states


@pytest.mark.parametrize(
    ("more", "topic"),
    [
        (f'[pipelines.one.output]\ntopic = "{FORBIDDEN}/x"', f"{FORBIDDEN}/x"),
        (
            f'[agent.homeassistant]\nenable = true\nprefix = "{FORBIDDEN}"',
            f"{FORBIDDEN}/device/slm_pi/config",
        ),
    ],
    ids=["results", "introduction"],
)
def test_a_version_whose_topics_are_refused_is_taken_back(
    broker: Mosquitto,
    client: Client,
    office: Office,
    new_agent: Callable[..., Agent],
    more: str,
    topic: str,
) -> None:
    """At once, however long its probation; what it could not say is said after all."""
    agent = joined(office, new_agent, broker, probation_s=3600)
    office.push(office.signed(f"version = 1\n{more}"))
    agent.wait_log("stopping")
    client.send("one/1/utterance", text_of(1))
    said = office.wait("pi", state="rolled_back", applied=None, probation=False)
    assert f"the broker refuses us the topic '{topic}'" in said["reason"]
    client.send("two/2/utterance", text_of(2))
    client.send("one/3/utterance", text_of(3))
    answered(client, "one/1/utterance", "two/2/utterance", "one/3/utterance")


def test_final_results_that_a_version_could_not_say(
    broker: Mosquitto, client: Client, office: Office, new_agent: Callable[..., Agent]
) -> None:
    """What upstream answered meanwhile goes where results go without that version."""
    with ScriptedLLM(well) as llm:
        pipelines = {"one": asking("one/+/utterance")}
        agent = new_agent(
            broker.port, hurry=HURRY, pipelines=pipelines, upstream=http(llm)
        )
        office.join(agent, probation_s=3600).start()
        topic = f'[pipelines.one.output]\ntopic = "{FORBIDDEN}/x"'
        office.push(office.signed(f"version = 1\n{topic}"))
        agent.wait_log("stopping")
        client.send("one/1/utterance", question(1))
        said = office.wait("pi", state="rolled_back", applied=None)
        assert f"the broker refuses us the topic '{FORBIDDEN}/x'" in said["reason"]
        answered(client, "one/1/utterance")
    [result] = client.results["one/1/utterance"]
    assert result["by"] == "upstream"


def test_a_version_that_hears_nothing_is_taken_back(
    broker: Mosquitto, client: Client, office: Office, new_agent: Callable[..., Agent]
) -> None:
    """When its probation is over and nothing came where something should."""
    joined(office, new_agent, broker, probation_s=1)
    deaf = '[pipelines.one.input]\ntopics = ["silent/+"]\nexpect_s = 0.3\n'
    office.push(office.signed(f"version = 1\n{deaf}"))
    said = office.wait("pi", state="rolled_back", applied=None)
    assert "after 1 s: input_stalled: no message for pipeline one" in said["reason"]
    client.send("one/1/utterance", text_of(1))
    client.send("two/2/utterance", text_of(2))
    answered(client, "one/1/utterance", "two/2/utterance")


def test_a_version_is_not_to_blame_for_what_was_refused_before(
    broker: Mosquitto, client: Client, office: Office, new_agent: Callable[..., Agent]
) -> None:
    """The operator's access list refuses results: an alert, and no version goes back.

    The connections that we end ourselves are not those of a stolen id.
    """
    topic = "slm/pi/result/one"
    (broker.folder / "acl").write_text(
        OPEN.replace("slm/#", "slm/pi/fleet")
        + "".join(f"topic write slm/pi/{n}/#\n" for n in ("alert", "response"))
        + "".join(f"topic write slm/pi/{n}\n" for n in ("status", "birth", "health"))
    )
    broker.reload()
    agent = joined(
        office,
        new_agent,
        broker,
        probation_s=0.5,
        **{"mqtt.link.FLAPS": 1, "mqtt.link.FLAP_S": 9},
    )
    client.send("one/1/utterance", text_of(1))
    client.wait(lambda: topic.encode() in b"".join(client.said[ALERT]))
    office.push(office.signed(version(1)))
    office.wait("pi", state="probation", applied=1)
    agent.wait_log("publish_refused", agent.count_log("publish_refused") + 3)
    (broker.folder / "acl").write_text(OPEN)
    broker.reload()
    answered(client, "one/1/utterance")
    office.wait("pi", state="applied", applied=1)
    client.wait(lambda: client.said[ALERT][-1] == b"")
    reports = [json.loads(said)["state"] for said in client.said["slm/pi/fleet"]]
    assert "rolled_back" not in reports
    health = [json.loads(said) for said in client.said["slm/pi/health"]]
    assert any(
        said["refused"] and "result_refused" in said["alerts"] for said in health
    )
    assert agent.count_log("client_id_taken_over") == 0
