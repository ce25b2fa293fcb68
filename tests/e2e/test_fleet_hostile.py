"""Whatever a signed file says, the device answers as before after its probation."""

import json
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from itertools import count

import paho.mqtt.client as paho
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from paho.mqtt.enums import CallbackAPIVersion

from harness.fleetwork import HURRY, Office, version
from harness.proxy import PUBLISH, Fate, Proxy, Way, kind, topic_of
from harness.stage import Agent, Client, Mosquitto, part, text_of

PROBATION_S = 1.0
UNREAD_S = 5.0  # after which a file that is not desired was not read
FILES_TRIED = int(os.environ.get("SLM_FLEET_FILES", "15"))
WITHIN_S = PROBATION_S + 60.0
READ = "pi/+/utterance"
HASTE = HURRY | {"mqtt.link.FLAP_S": 1, "daemon.app.FINISH_S": 1}


class Ear:
    """Owns a client that hears everything at a broker, whatever the topic."""

    def __init__(self, port: int) -> None:
        """Subscribe, and wait until it counts."""
        self._heard: set[str] = set()
        self._changed = threading.Condition()
        granted = threading.Event()
        self._client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
        self._client.on_connect = lambda client, *_: client.subscribe("#", qos=1)
        self._client.on_subscribe = lambda *_: granted.set()
        self._client.on_message = self._hear
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        assert granted.wait(10)

    def _hear(self, _client: object, _data: object, raw: paho.MQTTMessage) -> None:
        with suppress(ValueError, TypeError, KeyError), self._changed:
            self._heard.add(json.loads(raw.payload)["topic"])
            self._changed.notify_all()

    def wait(self, topic: str, seconds: float) -> bool:
        """Wait for an answer to a message on this topic."""
        with self._changed:
            return self._changed.wait_for(lambda: topic in self._heard, seconds)

    def close(self) -> None:
        """Disconnect."""
        part(self._client)


@pytest.fixture
def ear(broker: Mosquitto) -> Iterator[Ear]:
    """Listen to everything."""
    with closing(Ear(broker.port)) as ear:
        yield ear


def answers(client: Client, ear: Ear, name: str) -> bool:
    """Ask the device in its own topic; tell whether it answers in time."""
    topic = f"pi/{name}/utterance"
    client.send(topic, text_of(1))
    return ear.wait(topic, WITHIN_S)


# -- a broker that ends connections without naming the topic, as some clouds do


BREAKS = {
    "results": '[pipelines.one.output]\ntopic = "cut/x"',
    "input": f'[pipelines.one.input]\ntopics = ["{READ}", "cut/x"]',
    "introduction": '[agent.homeassistant]\nenable = true\nprefix = "cut"',
}

REASONS = {
    "results": "the broker ended 5 connections in a row",
    "input": "the broker refuses us the topic 'cut/x'",
    "introduction": "the broker refuses us the topic 'cut/status'",
}


def cutting(way: Way, packet: bytes) -> Fate:
    """End the connection of a device that names a topic below `cut`."""
    # Not what a payload says: a report may quote the topic.
    named = topic_of(packet) if kind(packet) == PUBLISH else packet
    return Fate.CUT if way is Way.DEVICE and b"cut/" in named else Fate.PASS


@pytest.mark.parametrize(
    ("breaks", "mqtt"),
    [
        ("results", "5"),
        ("input", "5"),
        ("introduction", "5"),
        ("results", '"3.1.1"'),
    ],
)
def test_a_version_that_makes_the_broker_hang_up(
    client: Client,
    ear: Ear,
    office: Office,
    proxy: Proxy,
    new_agent: Callable[..., Agent],
    breaks: str,
    mqtt: str,
) -> None:
    """It is taken back long before its probation ends; every message is answered."""
    proxy.gate = cutting
    pipelines = {"one": ([READ], "")}
    spoken = f"version = {mqtt}"
    hurry = HASTE | {"mqtt.link.FLAP_S": 5, "mqtt.link.backoff": "lambda _: 0.3"}
    agent = new_agent(proxy.port, hurry=hurry, mqtt=spoken, pipelines=pipelines)
    office.join(agent, probation_s=3600).start()
    office.push(office.signed(version(1, more=BREAKS[breaks])))
    agent.wait_log("stopping")
    assert answers(client, ear, "meanwhile"), agent.tail()
    said = office.wait("pi", state="rolled_back", applied=None)
    assert REASONS[breaks] in said["reason"]
    assert answers(client, ear, "after"), agent.tail()


# -- whatever file


NASTY = [
    "a\u0001b",
    "a\u007fb",
    "a\u009fb",
    "\ufdd0",
    "a\uffff",
    "\U0001fffe",
    "a\tb",
    "$share/a+b/c",
    "$share/a#/c",
    "$share//c",
    "$share/g",
    "$share",
    "$share/g/",
    "$SYS/x",
    "$share/g/x",
    "#",
    "+",
    "a/#/b",
    "a+",
    "",
    "/",
    "/".join("a" * 202),
    "x" * 65_535,
    "x" * 65_536,
    "\ufeff",
    "pi/hall/utterance",
    "slm/pi/status",
    "office/fleet",
    "slm/pi/fleet",
    "$queue/x",
    "${device.id}/x",
    "${x}",
    "$${x}",
]
WORDS = st.one_of(st.sampled_from(NASTY), st.text(max_size=8))
HOSTS = ["mqtt://127.0.0.1:9", "mqtt://nowhere.invalid", f"mqtt://{'a' * 300}", "x"]
HOSTS += [
    "mqtts://127.0.0.1:9",
    "mqtt://127.0.0.1:99999",
    "mqtt://[::1",
    "mqtt://\u2603",
]
NUMBERS = st.one_of(
    st.sampled_from([0, 1, 2, 1024, 2**20, 2**31, 2**63]), st.integers()
)


def line(key: str, values: st.SearchStrategy[object]) -> st.SearchStrategy[str]:
    """Return lines of TOML that set a key; JSON's strings are TOML's, here."""
    return values.map(lambda value: f"{key} = {json.dumps(value, ensure_ascii=True)}")


LINES = [
    line("pipelines.one.output.topic", WORDS),
    line("pipelines.one.input.topics", WORDS.map(lambda topic: [READ, topic])),
    line("pipelines.one.input.encoding", WORDS),
    line("pipelines.one.fields.house_place.pattern", WORDS),
    WORDS.map(
        lambda prefix: (
            "agent.homeassistant.enable = true\n"
            f"agent.homeassistant.prefix = {json.dumps(prefix)}"
        )
    ),
    WORDS.map(
        lambda topic: (
            'agent.upstream.transport = "mqtt"\n'
            f"agent.upstream.topic = {json.dumps(topic)}"
        )
    ),
    st.sampled_from(HOSTS).map(
        lambda url: (
            f'agent.upstream.transport = "mqtt"\nagent.upstream.url = {json.dumps(url)}'
        )
    ),
    line("agent.mqtt.url", st.sampled_from(HOSTS)),
    line("agent.mqtt.client_id", WORDS),
    line("agent.mqtt.username", WORDS),
    line("agent.mqtt.version", st.sampled_from([3, 4, 5, "5", "3.1.1"])),
    line("agent.mqtt.password_file", WORDS),
    line("agent.metrics.address", WORDS),
    line("agent.metrics.port", NUMBERS),
    line("agent.models.on_mismatch", st.just("escalate_all")),
    line("enable", st.sampled_from([["one"], ["one", "nothing"], []])),
    line("variables.x", st.one_of(NUMBERS, WORDS, st.just("${x}"))),
    *(
        line(f"agent.{key}", NUMBERS)
        for key in (
            "mqtt.keepalive_s",
            "mqtt.max_inflight",
            "mqtt.max_packet_bytes",
            "mqtt.max_backlog",
            "mqtt.max_backlog_bytes",
            "mqtt.session_expiry_s",
            "outbox.max_bytes",
            "engine.max_batch",
        )
    ),
]
FILES = st.lists(
    st.integers(0, len(LINES) - 1), min_size=1, max_size=3, unique=True
).flatmap(lambda chosen: st.tuples(*(LINES[each] for each in chosen)))


def judged(office: Office, agent: Agent, number: int) -> str:
    """Wait until the device has said what became of a version, and return it.

    A file that is refused before its version is read names none. A process that ends
    is started again, as systemd would.
    """
    begun = time.monotonic()
    while (passed := time.monotonic() - begun) < WITHIN_S:
        if not agent.running:
            agent.wait()
            agent.start(ready=False)
        report = office.report("pi")
        if report.get("desired") == number and report["state"] != "probation":
            return str(report["state"])
        if passed > UNREAD_S and report.get("desired") != number:
            return "refused"
        ready = threading.Event()
        ready.wait(0.05)
    raise AssertionError(f"never judged: {office.report('pi')}\n{agent.tail()}")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_whatever_a_signed_file_says(
    broker: Mosquitto,
    client: Client,
    ear: Ear,
    office: Office,
    new_agent: Callable[..., Agent],
) -> None:
    """After a minute at most the device answers in its own topic, as before."""
    agent = new_agent(broker.port, hurry=HASTE, pipelines={"one": ([READ], "")})
    office.join(agent, PROBATION_S).start()
    numbers = count(1)
    tried: Counter[str] = Counter()

    @settings(
        max_examples=FILES_TRIED, deadline=None, suppress_health_check=list(HealthCheck)
    )
    @given(FILES)
    def check(lines: tuple[str, ...]) -> None:
        number = next(numbers)
        said = "\n".join(lines)
        office.push(office.signed(f"version = {number}\n{said}"))
        tried[judged(office, agent, number)] += 1
        assert answers(client, ear, f"m-{number}"), f"{said}\n{agent.tail()}"

    check()
    assert tried["applied"], tried  # else nothing was seen to work
    assert tried["rolled_back"] + tried["refused"], tried
