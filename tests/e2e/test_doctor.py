"""doctor, against a real broker and beside a real daemon."""

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from harness.stage import BROKER, DEVICE, Agent, Client, Mosquitto, free_port

PLUGIN = "mosquitto_dynamic_security.so"
BASE = f"slm/{DEVICE}"
OPEN = "listener {port} 127.0.0.1\nallow_anonymous true\n"


def findings(agent: Agent) -> tuple[int, dict[str, list[dict[str, str]]]]:
    """Return the exit status of doctor and its findings by subject."""
    running = agent.command("doctor", "--json")
    out, noise = running.communicate()
    found: dict[str, list[dict[str, str]]] = {}
    for line in out.splitlines():
        said = json.loads(line)
        found.setdefault(said["subject"], []).append(said)
    assert "Traceback" not in noise, noise
    return running.returncode, found


def levels(found: dict[str, list[dict[str, str]]], subject: str) -> set[str]:
    """Return how a subject is."""
    return {said["level"] for said in found[subject]}


def test_all_is_well(agent: Agent, client: Client) -> None:
    """Beside a running daemon everything is found in order, and nobody notices."""
    status, found = findings(agent)
    assert status == 0, found
    for subject in (
        "state",
        "clock",
        "runtime",
        "bundles",
        "broker",
        "home",
        "requests",
        "publish",
        "results",
        "upstream",
    ):
        assert levels(found, subject) == {"ok"}, found[subject]
    assert agent.count_log("disconnected") == agent.count_log("handled") == 0
    assert client.answers == 0
    own = {f"{BASE}/{kind}/doctor" for kind in ("response", "alert")}
    client.wait(lambda: own <= client.said.keys())
    assert client.said[f"{BASE}/status"] == [b"online"]


def test_nobody_answers(new_agent: Callable[..., Agent]) -> None:
    """Without a broker there is one error about it, and the rest is looked at."""
    status, found = findings(new_agent(free_port()))
    assert status == 2
    assert levels(found, "broker") == {"error"}
    assert levels(found, "bundles") == {"ok"}


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Mosquitto]:
    """Run a broker to which nobody may publish."""
    rules = tmp_path / "acl"
    rules.write_text("topic read #\n", "utf-8")
    with closing(Mosquitto(tmp_path / "b", f"{OPEN}acl_file {rules}\n")) as broker:
        broker.start()
        yield broker


@pytest.mark.parametrize("more", ["", "max_queued_messages 0\n"])
def test_publishing_is_refused(
    read_only: Mosquitto, new_agent: Callable[..., Agent], more: str
) -> None:
    """Each topic that the access list closes is named, though the broker hangs up.

    Mosquitto 2.0.11 does after a refusal, if it limits no queue.
    """
    read_only.settings += more
    read_only.stop()
    read_only.start()
    status, found = findings(new_agent(read_only.port))
    assert status == 2
    for said, topic in zip(found["publish"], ("response", "alert"), strict=True):
        why = f"{BASE}/{topic}/doctor: publish refused: Not authorized"
        assert (said["level"], said["detail"]) == ("error", why)


def test_what_cannot_be_seen_is_no_error(
    read_only: Mosquitto, new_agent: Callable[..., Agent]
) -> None:
    """By MQTT 3.1.1 no refusal comes: what does not come back is doubtful."""
    agent = new_agent(
        read_only.port, mqtt='version = "3.1.1"', hurry={"cli.doctor.ECHO_S": 0.5}
    )
    status, found = findings(agent)
    assert (status, levels(found, "publish")) == (0, {"warning"})


def test_mqtt_311_is_well(broker: Mosquitto, new_agent: Callable[..., Agent]) -> None:
    """By MQTT 3.1.1 what comes back may be published."""
    status, found = findings(new_agent(broker.port, mqtt='version = "3.1.1"'))
    assert (status, levels(found, "publish")) == (0, {"ok"})


def closed(folder: Path, *topics: str) -> Mosquitto:
    """Return a broker where nobody may subscribe to these filters."""
    acls = [
        {"acltype": "subscribePattern", "topic": topic, "priority": 0, "allow": False}
        for topic in topics
    ]
    kinds = ("publishClientSend", "publishClientReceive", "subscribe", "unsubscribe")
    rules: dict[str, Any] = {
        "defaultACLAccess": dict.fromkeys(kinds, True),
        "clients": [],
        "groups": [{"groupname": "all", "roles": [{"rolename": "all"}]}],
        "roles": [{"rolename": "all", "acls": acls}],
        "anonymousGroup": "all",
    }
    folder.mkdir()
    (folder / "rules.json").write_text(json.dumps(rules), "utf-8")
    [plugin] = Path("/usr/lib").glob(f"*/{PLUGIN}")
    lines = f"plugin {plugin}\nplugin_opt_config_file {{folder}}/rules.json\n"
    return Mosquitto(folder, BROKER + lines)


def test_subscribing_is_refused(
    tmp_path: Path, new_agent: Callable[..., Agent]
) -> None:
    """Every filter of the daemon's that the broker closes is an error of its own."""
    refused = {
        "home": "home/+/utterance",
        "requests": f"{BASE}/request/+",
        "upstream": f"{BASE}/answer",
    }
    with closing(closed(tmp_path / "b", *refused.values())) as broker:
        broker.start()
        agent = new_agent(broker.port, upstream='transport = "mqtt"')
        status, found = findings(agent)
    assert status == 2
    for subject, topic in refused.items():
        [said] = found[subject]
        assert said["level"] == "error"
        assert f"subscription {topic} refused: Not authorized" in said["detail"]
    assert levels(found, "publish") == levels(found, "broker") == {"ok"}


def test_answers_may_be_heard(
    broker: Mosquitto, new_agent: Callable[..., Agent]
) -> None:
    """Upstream by MQTT is well where its answers may be subscribed to."""
    status, found = findings(new_agent(broker.port, upstream='transport = "mqtt"'))
    assert (status, levels(found, "upstream")) == (0, {"ok"})
    assert f"{BASE}/answer" in found["upstream"][0]["detail"]


def test_the_clock_is_behind(new_agent: Callable[..., Agent]) -> None:
    """A clock that shows a time before our own files were written is an error."""
    agent = new_agent(free_port())
    agent.state.mkdir(parents=True, exist_ok=True)
    written = agent.state / "written"
    written.touch()
    tomorrow = time.time() + 86_400
    os.utime(written, (tomorrow, tomorrow))
    status, found = findings(agent)
    assert (status, levels(found, "clock")) == (2, {"error"})


def test_the_state_cannot_be_written(new_agent: Callable[..., Agent]) -> None:
    """A state folder that is none is an error."""
    agent = new_agent(free_port())
    (agent.config.parent / "state").write_text("a file", "utf-8")
    status, found = findings(agent)
    assert (status, levels(found, "state")) == (2, {"error"})
