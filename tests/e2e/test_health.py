"""What the device says of itself: metrics, alerts and Home Assistant tell the same."""

import json
import os
import signal
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

from prometheus_client.parser import text_string_to_metric_families

from agent.protocol.health import understood
from agent.telemetry.metrics import Collector
from harness.casework import ask, asking, http, well
from harness.stage import DEVICE, Agent, Client, Mosquitto, free_port
from harness.upstreams import ScriptedLLM

BASE = f"slm/{DEVICE}"
HURRY = {"daemon.status.HEALTH_S": 0.2, "daemon.status.JITTER_S": (0.0, 0.0)}


def scraped(port: int) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Return every sample that Prometheus would read, by name and labels."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        text = answer.read().decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def last_health(client: Client, done: Callable[[dict[str, Any]], bool]) -> Any:
    """Wait for a health that is as wanted, and return it."""

    def found() -> dict[str, Any] | None:
        said = client.said[f"{BASE}/health"]
        health = json.loads(said[-1]) if said else {}
        return health if health and done(health) else None

    client.wait(lambda: found() is not None)
    return found()


def extended(agent: Agent, more: str) -> Agent:
    """Add lines to the agent's configuration."""
    agent.config.write_text(agent.config.read_text("utf-8") + more, "utf-8")
    return agent


def test_metrics_are_the_numbers_of_health(
    broker: Mosquitto, client: Client, new_agent: Callable[..., Agent]
) -> None:
    """Prometheus's own parser reads the same figures as the health topic tells."""
    port = free_port()
    agent = extended(new_agent(broker.port, hurry=HURRY), f"[metrics]\nport = {port}\n")
    agent.start()
    client.ask(range(10))
    client.send("home/x/utterance", b"\xff")
    client.wait_answered(11)
    health = last_health(
        client, lambda said: sum(said["pipelines"].get("home", {}).values()) == 11
    )
    samples = scraped(port)
    assert samples["slm_received_total", ()] == 11
    assert samples["slm_dead_letters_total", (("reason", "not_utf8"),)] == 1
    for outcome, number in health["pipelines"]["home"].items():
        labels = (("outcome", outcome), ("pipeline", "home"))
        assert samples["slm_messages_total", labels] == number
    assert samples["slm_share_local", ()] == health["share_local"]
    assert samples["slm_resident_memory_bytes", ()] > 10_000_000
    assert all(name.startswith("slm_") for name, _ in samples)


# In health alone: its version, a share once more for Home Assistant, and a text.
NO_METRIC = {"v", "percent_local", "upstream.down"}


def numbered(said: Any, numbers: dict[str, float], path: str = "") -> Any:
    """Return a document whose every number, known or not, is another."""
    if path == "clock_wrong":
        return True
    if isinstance(said, dict):
        return {
            key: numbered(value, numbers, f"{path}.{key}".lstrip("."))
            for key, value in said.items()
        }
    if path in NO_METRIC or isinstance(said, str | list):
        return said
    numbers[path] = 1000 + len(numbers)
    return numbers[path]


def test_each_number_of_health_is_a_metric(
    broker: Mosquitto, client: Client, new_agent: Callable[..., Agent]
) -> None:
    """Nothing that the device tells of itself is missing where Prometheus looks."""
    budget = "[upstream.budget]\ncalls_per_day = 9\ntokens_per_day = 900000\n"
    with ScriptedLLM(well) as llm:
        agent = new_agent(
            broker.port,
            hurry=HURRY,
            upstream=f"{http(llm)}\n{budget}",
            pipelines={"ask": asking()},
        )
        agent.start()
        ask(client, [1])
        client.send("ask/2", b"\xff")
        client.wait_answered(2)
        health = last_health(
            client, lambda said: said["upstream"]["spent_today_by"] and said["cases"]
        )
    assert health["upstream"]["spent_today_by"]["ask"]["calls"] == 1
    assert 0 <= health["heard_s"]["ask"] < 60
    numbers: dict[str, float] = {}
    told = numbered(health, numbers)
    found = {
        sample.value
        for family in Collector(lambda: understood(told)).collect()
        for sample in family.samples
    }
    missing = [
        path
        for path, number in numbers.items()
        if number not in found and not (".ms_" in f".{path}" and number / 1000 in found)
    ]
    assert not missing


def test_a_taken_port_is_only_a_warning(
    broker: Mosquitto, client: Client, new_agent: Callable[..., Agent]
) -> None:
    """Where somebody else has the metrics' port, messages are answered all the same."""
    more = f"[metrics]\nport = {broker.port}\n"
    agent = extended(new_agent(broker.port), more)
    agent.start()
    agent.wait_log("no_metrics", port=broker.port)
    client.ask([1])
    client.wait_answered(1)


def test_home_assistant_is_told_and_told_again(
    broker: Mosquitto, new_agent: Callable[..., Agent]
) -> None:
    """Discovery is retained, repeated when Home Assistant comes back, and shrinks."""
    topic = f"homeassistant/device/slm_{DEVICE}/config"
    both: dict[str, tuple[list[str], str]] = {
        "one": (["home/+/utterance"], ""),
        "two": (["other/+/utterance"], ""),
    }
    agent = new_agent(broker.port, hurry=HURRY, pipelines=both)
    extended(agent, "[homeassistant]\nenable = true\n")
    with Listener(broker.port, topic) as home:
        agent.start()
        home.wait(lambda: len(home.payloads) == 1)
        assert f"slm_{DEVICE}_two_open" in json.loads(home.payloads[0])["cmps"]
        home.send("homeassistant/status", "online")
        home.wait(lambda: len(home.payloads) == 2)
        agent.terminate()
        path: Path = agent.config
        path.write_text(path.read_text("utf-8").replace("['one', 'two']", "['one']"))
        agent.start()
        home.wait(lambda: len(home.payloads) == 4)
        parting, after = (json.loads(said)["cmps"] for said in home.payloads[2:])
        assert parting[f"slm_{DEVICE}_two_open"] == {"p": "sensor"}
        assert f"slm_{DEVICE}_two_open" not in after


def test_home_assistant_is_told_first_and_for_good(
    broker: Mosquitto, new_agent: Callable[..., Agent]
) -> None:
    """Discovery, status and health come in this order, and are kept for who comes."""
    config = f"homeassistant/device/slm_{DEVICE}/config"
    topics = [config, f"{BASE}/status", f"{BASE}/health"]
    agent = extended(new_agent(broker.port), "[homeassistant]\nenable = true\n")
    with Listener(broker.port, "#") as witness:
        agent.start()
        witness.wait(lambda: set(topics) <= set(witness.topics))
    order = [topic for topic in witness.topics if topic in topics]
    assert order[:3] == topics
    for topic in topics:
        with Listener(broker.port, topic) as late:
            late.wait(lambda heard=late.payloads: bool(heard))  # type: ignore[misc]
            assert late.retained == [True]
    agent.terminate()
    with Listener(broker.port, f"{BASE}/status") as late:
        late.wait(lambda: late.payloads == [b"offline"])


def test_home_assistant_forgets_a_renamed_device(
    broker: Mosquitto, new_agent: Callable[..., Agent]
) -> None:
    """The old name's payload is emptied before the new one's is there."""
    old, new = (f"homeassistant/device/slm_{name}/config" for name in (DEVICE, "new"))
    agent = extended(new_agent(broker.port), "[homeassistant]\nenable = true\n")
    with Listener(broker.port, "homeassistant/#") as home:
        agent.start()
        home.wait(lambda: old in home.topics)
        agent.terminate()
        text = agent.config.read_text("utf-8")
        agent.config.write_text(text.replace(f'id = "{DEVICE}"', 'id = "new"'), "utf-8")
        agent.start()
        home.wait(lambda: new in home.topics)
    assert home.topics == [old, old, new]
    assert home.payloads[1] == b""
    with Listener(broker.port, "homeassistant/#") as late:
        late.wait(lambda: bool(late.payloads))
    assert late.topics == [new]


def test_home_assistant_is_told_when_it_is_over(
    broker: Mosquitto, new_agent: Callable[..., Agent]
) -> None:
    """A device that is no longer to be described is taken back, once."""
    agent = new_agent(broker.port)
    before = agent.config.read_text("utf-8")
    extended(agent, "[homeassistant]\nenable = true\n")
    with Listener(broker.port, f"homeassistant/device/slm_{DEVICE}/config") as home:
        agent.start()
        home.wait(lambda: len(home.payloads) == 1)
        agent.config.write_text(before, "utf-8")
        for _ in range(2):
            os.kill(agent.pid, signal.SIGHUP)
            agent.wait_told("RELOADING=1")
            agent.wait_told("READY=1")
        assert home.payloads[1:] == [b""]


def test_an_alert_stands_over_a_reload(
    broker: Mosquitto, client: Client, new_agent: Callable[..., Agent]
) -> None:
    """What is as wrong as before is not cleared in between, nor said later."""
    agent = new_agent(broker.port, hurry={"daemon.conditions.DISK_LOW": (2.0, 2.0)})
    agent.start()
    said = client.said[f"{BASE}/alert/disk_low"]
    client.wait(lambda: len(said) == 1)
    assert last_health(client, lambda _health: True)["alerts"] == ["disk_low"]
    os.kill(agent.pid, signal.SIGHUP)
    client.wait(lambda: len(said) == 2)
    assert all(b"disk" in payload for payload in said)


class Listener(Client):
    """A client that hears one topic only."""

    def __init__(self, port: int, topic: str) -> None:
        """Connect and subscribe."""
        self.topic = topic
        self.payloads: list[bytes] = []
        self.topics: list[str] = []  # where they came
        self.retained: list[bool] = []  # whether the broker had them
        super().__init__(port, f"home-assistant-{uuid4()}")

    def _connected(self, client: Any, *_: object) -> None:
        client.subscribe(self.topic, qos=1)

    def _heard(self, _client: object, _data: object, raw: Any) -> None:
        with self._changed:
            self.topics.append(raw.topic)
            self.retained.append(raw.retain)
            self.payloads.append(bytes(raw.payload))
            self._changed.notify_all()
