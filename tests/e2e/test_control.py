"""Control over MQTT and by signal: what is asked is answered, nothing is lost by it."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.stage import DEVICE, Agent, Client, Mosquitto, text_of, topic_of

BASE = f"slm/{DEVICE}"


def ask(client: Client, name: str, payload: object = None) -> dict[str, Any]:
    """Send a request and return its response."""
    topic = f"{BASE}/response/{name}"
    before = len(client.said[topic])
    body = b"" if payload is None else json.dumps(payload).encode()
    client.send(f"{BASE}/request/{name}", body)
    client.wait(lambda: len(client.said[topic]) > before)
    answer: dict[str, Any] = json.loads(client.said[topic][-1])
    return answer


def test_ping_echoes_the_transaction(agent: Agent, client: Client) -> None:
    """A request is answered with its own transaction, or with none."""
    assert agent.pid
    said = ask(client, "ping", {"transaction": "t-1"})
    assert (said["status"], said["transaction"]) == ("ok", "t-1")
    assert said["data"]["version"]
    assert "transaction" not in ask(client, "ping")


@pytest.mark.parametrize(
    ("name", "payload", "error"),
    [
        ("dance", {}, "there are: ping"),
        ("try", {"pipeline": "home"}, "text: must be given"),
        ("try", {"pipeline": "none", "text": "x"}, "there are: home"),
        ("try", {"pipeline": "home", "text": " "}, "text: empty"),
        ("explain", {"id": "unheard"}, "not among the last"),
        ("log_level", {"level": "loud"}, "is none of"),
        ("ping", [1], "no JSON object"),
    ],
)
def test_a_senseless_request_is_refused(
    agent: Agent, client: Client, name: str, payload: object, error: str
) -> None:
    """What cannot be done is answered with the reason, and nothing else happens."""
    assert agent.pid
    said = ask(client, name, payload)
    assert said["status"] == "error"
    assert said["data"] == {}
    assert error in said["error"]


def test_try_answers_without_a_message(agent: Agent, client: Client) -> None:
    """A text is answered to whoever asks; no result is published."""
    assert agent.pid
    said = ask(client, "try", {"pipeline": "home", "text": "turn the volume down"})
    assert said["data"]["label"] == "audio_volume_down"
    assert said["data"]["status"] == "resolved"
    assert not client.results


def test_explain_names_what_decided(agent: Agent, client: Client) -> None:
    """A result is explained by its id: scores, the deciding line, never the text.

    After a reload, too.
    """
    assert agent.pid
    client.ask([1], ids=True)
    client.wait_answered(1)
    said = ask(client, "explain", {"id": "m-1"})["data"]
    [result] = said["results"]
    assert result["score"] == client.results[topic_of(1)][0]["score"]
    decided = result["decided_by"]
    assert (decided["file"], decided["key"]) == ("pipelines/home.toml", MAX_ERROR)
    assert result["score"] >= decided["threshold"]
    assert said["text"] is None
    assert text_of(1) not in json.dumps(said)
    assert ask(client, "reload")["status"] == "ok"
    agent.wait_log("ready", 2)
    assert ask(client, "explain", {"id": "m-1"})["data"] == said


MAX_ERROR = "decide.max_error"


def test_explain_may_tell_the_text(
    broker: Mosquitto, client: Client, new_agent: Callable[..., Agent]
) -> None:
    """A pipeline that allows it tells the text of a message, too."""
    more = '[upstream]\n[output]\ntopic = ""\n'
    agent = new_agent(broker.port, pipelines={"open": (["home/+/utterance"], "")})
    path = agent.config.parent / "open.toml"
    path.write_text(f'explain = "text"\n{path.read_text("utf-8")}{more}', "utf-8")
    agent.start()
    client.ask([1], ids=True)
    client.wait_answered(1)
    assert ask(client, "explain", {"id": "m-1"})["data"]["text"] == text_of(1)


def test_log_level_changes_at_once(agent: Agent, client: Client) -> None:
    """At `warning` no message is logged; at `info` again each is."""
    assert ask(client, "log_level", {"level": "warning"})["status"] == "ok"
    client.ask([1])
    client.wait_answered(1)
    assert ask(client, "log_level", {"level": "info"})["status"] == "ok"
    client.ask([2])
    agent.wait_log("handled")
    client.wait_answered(2)
    assert agent.count_log("handled") == 1


@pytest.mark.parametrize("way", ["signal", "request"])
def test_reload_takes_a_new_configuration(
    broker: Mosquitto, client: Client, new_agent: Callable[..., Agent], way: str
) -> None:
    """In the middle of messages another pipeline takes over; every one is answered."""
    agent = new_agent(broker.port, pipelines={"one": (["home/+/utterance"], "")})
    agent.start()
    client.ask(range(100))
    renamed(agent.config.parent, "one", "two")
    if way == "signal":
        os.kill(agent.pid, signal.SIGHUP)
    else:
        assert ask(client, "reload")["status"] == "ok"
    client.ask(range(100, 200))
    agent.wait_log("ready", 2)
    client.send(topic_of(200), text_of(200), message_id="last")
    client.wait(lambda: len(client.results) >= 201)
    assert client.results[topic_of(200)][0]["pipeline"] == "two"
    assert b"offline" not in client.said[f"{BASE}/status"]


def renamed(folder: Path, old: str, new: str) -> None:
    """Give the pipeline another name, in both files."""
    (folder / f"{old}.toml").rename(folder / f"{new}.toml")
    config = folder / "agent.toml"
    config.write_text(config.read_text("utf-8").replace(f"'{old}'", f"'{new}'"))


def test_a_bad_configuration_is_refused(
    broker: Mosquitto, client: Client, new_agent: Callable[..., Agent]
) -> None:
    """A file that cannot be meant changes nothing, and everybody hears why."""
    agent = new_agent(broker.port, pipelines={"one": (["home/+/utterance"], "")})
    agent.start()
    good = agent.config.read_text("utf-8")
    agent.config.write_text(f"{good}\n[engine]\nthreads = 0\n", "utf-8")
    os.kill(agent.pid, signal.SIGHUP)
    told = agent.wait_told("STATUS=reload refused")
    assert "engine.threads" in told
    alert = f"{BASE}/alert/reload_refused"
    client.wait(lambda: any(b"engine.threads" in said for said in client.said[alert]))
    assert "engine.threads" in ask(client, "reload")["error"]
    client.ask([1], ids=True)
    client.wait_answered(1)
    agent.config.write_text(good, "utf-8")
    assert ask(client, "reload")["status"] == "ok"
    agent.wait_log("ready", 2)
    client.wait_said(alert, b"")
    client.ask([2], ids=True)
    client.wait_answered(2)
