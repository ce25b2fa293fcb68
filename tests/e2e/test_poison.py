"""No message can silence a device: what would come again for ever ends, and is told."""

import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from harness.brokers import Broker, Device, case
from harness.casework import http, question, well
from harness.stage import DEVICE, Agent, Client, Mosquitto, text_of, topic_of
from harness.upstreams import ScriptedLLM

NewAgent = Callable[..., Agent]
# Python that ends the process as a crash in native code does, at a text.
ABORT = """
import os, agent.inference.engine as engine
answer = engine.answer
def deadly(jobs):
    if any("abort" in job.text.text for job in jobs):
        os.abort()
    return answer(jobs)
engine.answer = deadly
"""
GATE = """
import os
from agent.escalation.privacy_gate import Finder
find = Finder.find
def deadly(self, text):
    if "deadly" in text:
        os.abort()
    return find(self, text)
Finder.find = deadly
"""
SPACE = "\ufeff"
STRINGS: dict[str, list[str]] = {
    "user value": ["user-property", "note", f"{SPACE}x"],
    "user name": ["user-property", f"{SPACE}note", "x"],
    "id": ["user-property", "id", f"{SPACE}m-1"],
    "content type": ["content-type", f"text/plain{SPACE}"],
    "response topic": ["response-topic", f"slm/{SPACE}/x"],
}


def publish(broker: Mosquitto, topic: str, text: str, *properties: str) -> None:
    """Publish with properties that paho would not send."""
    command = ["mosquitto_pub", "-V", "mqttv5", "-p", str(broker.port), "-q", "1"]
    said = [["-D", "publish", *words.split("\n")] for words in properties]
    parts = [word for words in said for word in words]
    subprocess.run([*command, "-t", topic, "-m", text, *parts], check=True)


def test_a_case_that_ends_the_process(
    broker: Mosquitto, new_agent: NewAgent, client: Client
) -> None:
    """A text at which the privacy gate dies thrice ends refused; the others are asked.

    Its message was acknowledged long before: the case comes again from the outbox.
    """
    redacting = 'policy = "always_upstream"\nprivacy = "redact"'
    pipelines = {"home": (["ask/+"], f"[upstream]\n{redacting}\n")}
    with ScriptedLLM(well) as llm:
        agent = new_agent(
            broker.port, broken=GATE, pipelines=pipelines, upstream=http(llm)
        )
        agent.start()
        client.send("ask/0", "deadly words")
        deaths = 0
        while deaths < 3:
            assert agent.wait()
            deaths += 1
            agent.start(ready=False)
        for number in range(1, 4):
            client.send(f"ask/{number}", question(number))
        client.wait_answered(4)
        client.wait(lambda: any(client.said["slm/pi/alert/poison"]))
        assert agent.terminate() == 0
    [result] = client.results["ask/0"]
    assert (result["status"], result["upstream"]) == ("unresolved", "refused")
    for number in range(1, 4):
        [result] = client.results[f"ask/{number}"]
        assert result["by"] == "upstream"


@pytest.mark.parametrize("version", ["5", '"3.1.1"'])
def test_a_message_that_ends_the_process(
    broker: Mosquitto, new_agent: NewAgent, client: Client, version: str
) -> None:
    """It ends three processes; the fourth gives it back as poison, and goes on.

    All that stands behind it is answered, the alert rises, and doctor names it.
    """
    agent = new_agent(broker.port, broken=ABORT, mqtt=f"version = {version}")
    agent.start()
    client.ask([1])
    client.wait_answered(1)
    client.send(topic_of(2), "please abort", message_id="deadly")
    client.ask(range(3, 30))
    deaths = 0
    while True:
        try:
            client.wait(lambda: bool(client.dead[topic_of(2)]), 1.0)
        except AssertionError:
            if agent.process_ended():
                deaths += 1
                assert deaths <= 3
                agent.start(ready=False)
        else:
            break
    assert deaths == 3
    client.wait_answered(29)
    [letter] = client.dead[topic_of(2)]
    assert (letter["reason"], letter["bytes"]) == ("poison", 12)
    assert client.results.keys() == {topic_of(n) for n in range(1, 30)} - {topic_of(2)}
    client.wait(lambda: bool(client.said["slm/pi/alert/poison"]))
    client.wait(lambda: b"3 times" in client.said["slm/pi/alert/poison"][-1])
    running = agent.command("doctor", "--json")
    findings = [json.loads(line) for line in running.communicate()[0].splitlines()]
    [poison] = [each for each in findings if each["subject"] == "poison"]
    assert poison["level"] == "warning"
    assert topic_of(2) in poison["detail"]
    agent.kill()
    agent.start()
    client.ask([30])
    client.wait(lambda: topic_of(30) in client.results)
    assert len(client.dead[topic_of(2)]) == 1
    assert agent.terminate() == 0


@pytest.mark.parametrize("kind", STRINGS)
def test_a_string_that_paho_rejects(agent: Agent, broker: Mosquitto, kind: str) -> None:
    """U+FEFF in a property is no reason to hang up; text and request are answered.

    The clients here are paho's, and hear none of it.
    """
    with ExitStack() as stack:
        results, responses = (
            stack.enter_context(Client(broker.port, part, f"{DEVICE}/{part}"))
            for part in ("result", "response")
        )
        publish(broker, topic_of(1), text_of(1), "\n".join(STRINGS[kind]))
        publish(broker, f"slm/{DEVICE}/request/ping", "{}", "\n".join(STRINGS[kind]))
        results.ask([2])
        results.wait_answered(2)
        responses.wait(lambda: bool(responses.said[f"slm/{DEVICE}/response/ping"]))
        assert len(results.results[topic_of(1)]) == 1
        assert agent.count_log("disconnected") == 0
        assert agent.terminate() == 0


@pytest.fixture
def beside(broker: Mosquitto, tmp_path: Path) -> Iterator[Broker]:
    """Run the broker side, whose model nobody answers for."""
    with closing(Broker(tmp_path / "one", broker.port, ["http://127.0.0.1:9"])) as one:
        one.start()
        yield one


@pytest.mark.parametrize("kind", STRINGS)
def test_a_string_that_paho_rejects_at_the_broker_side(
    beside: Broker, broker: Mosquitto, kind: str
) -> None:
    """A case with such a property, and what comes behind it, is answered there."""
    with closing(Device(broker.port)) as device:
        publish(broker, "slm/upstream/home", '{"id": "m"', "\n".join(STRINGS[kind]))
        device.send(b'{"device": "pi"}', b"second")
        assert device.reply("second")["status"] == "error"
        assert beside.count_log("disconnected") == 0
        device.send(case(1, deadline_ms=1), b"late")
    assert beside.terminate() == 0


BOMBS = {  # what a payload begins with, what fills it, and its end
    "nested lists": (b'{"x": ', b"[", b""),
    "many lists": (b'{"x": [', b"[],", b'[]], "text": "on"}'),
    "many keys": (b"", b'{"a":1,', b""),
    "long text": (b'{"text": "', b"x", b'"}'),
    "white space": (b"", b" ", b""),
}


@pytest.mark.parametrize("size", [15 * 2**20, 40 * 2**20])
@pytest.mark.parametrize("version", ["5", '"3.1.1"'])
def test_memory_bombs(
    broker: Mosquitto, new_agent: NewAgent, client: Client, size: int, version: str
) -> None:
    """However large a message, and whatever is in it, the process stays small.

    Each ends as one dead letter, `too_long`, and what comes behind it is answered. With
    MQTT 5 the broker keeps what is larger than we take.
    """
    pipelines = {
        "note": (["note/+/utterance"], 'text = "text"'),
        "home": (["home/+/utterance"], ""),
    }
    agent = new_agent(
        broker.port, pipelines=pipelines, mqtt=f"version = {version}", fresh=True
    )
    agent.start()
    heard = version != "5" or size <= 16 * 2**20
    for number, (begin, filling, end) in enumerate(BOMBS.values()):
        bomb = begin + filling * (size // len(filling)) + end
        client.send(f"note/{number}/utterance", bomb)
        client.ask([number])
        client.wait_answered((number + 1) * (1 + heard))
    assert len(client.results) == len(BOMBS)
    for letters in client.dead.values():
        [letter] = letters
        assert letter["reason"] == "too_long"
        assert size - 30 <= letter["bytes"] <= size + 30
        assert letter["truncated"] == (version != "5")  # where no limit is known
    assert agent.peak_mb() <= 250
    assert agent.terminate() == 0
