"""docs/operating.md and the access list, held against a real daemon and broker."""

import json
import re
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from harness.casework import http, well
from harness.stage import DEADLINE_S, REPOSITORY, Agent, Client, Mosquitto, free_port
from harness.upstreams import ScriptedLLM

DEVICE = "pi-3"
BASE = f"slm/{DEVICE}"
PAGE = (REPOSITORY / "docs/operating.md").read_text("utf-8")
PASSWORD = "sesame"  # noqa: S105
USERS = ("pi-3", "producer", "consumer", "operator", "upstream", "homeassistant")
DOORS = """\
per_listener_settings true
listener {guarded} 127.0.0.1
allow_anonymous false
password_file {folder}/passwd
acl_file {folder}/acl
listener {{port}} 127.0.0.1
allow_anonymous true
"""


def examples(heading: str) -> list[Any]:
    """Return the JSON of a section."""
    text = PAGE.partition(f"\n{heading}\n")[2]
    section = re.split(r"^##", text, maxsplit=1, flags=re.MULTILINE)[0]
    blocks = re.findall(r"```json\n(.*?)```", section, re.DOTALL)
    return [json.loads(block) for block in blocks]


def shape(value: Any) -> Any:
    """Return which keys there are; of counts by names only that there are some."""
    if isinstance(value, dict):
        return {key: shape(each) for key, each in value.items()}
    if isinstance(value, list):
        return [shape(each) for each in value]
    if isinstance(value, int | float) and not isinstance(value, bool):
        return "a number"
    return type(value).__name__


def test_the_page_shows_what_is_answered(
    broker: Mosquitto, new_agent: Callable[..., Agent]
) -> None:
    """Each request of the page, sent, is answered in the form that the page shows."""
    terms = '[upstream]\nprivacy = "allow"\n'
    with (
        ScriptedLLM(well) as llm,
        closing(Client(broker.port)) as client,
    ):
        agent = new_agent(
            broker.port,
            device=DEVICE,
            hurry={"daemon.status.HEALTH_S": 0.2},
            upstream=f"{http(llm, '')}\n[upstream.budget]\ncalls_per_day = 500\n",
            pipelines={"home": (["home/+/utterance"], terms)},
        )
        agent.start()
        for number, (place, text) in enumerate(
            [
                ("kitchen", "turn off the lights in the kitchen"),
                ("hall", "do something about the hall"),
            ],
            1,
        ):
            topic = f"home/{place}/utterance"
            client.send(topic, text, message_id=f"m-{number}")
            client.wait_answers(number)
        client.send("home/x/utterance", b"\xff")
        client.send("home/x/utterance", b"")
        client.wait_answers(4)
        for name in ("ping", "try", "explain", "log_level", "reload"):
            said = examples(f"### `{name}`")
            for request, response in zip(said[::2], said[1::2], strict=True):
                heard = client.said[f"{BASE}/response/{name}"]
                before = len(heard)
                client.send(f"{BASE}/request/{name}", json.dumps(request))
                client.wait(lambda b=before, h=heard: len(h) > b)  # type: ignore[misc]
                assert shape(json.loads(heard[-1])) == shape(response), name


def test_the_page_shows_health(
    broker: Mosquitto, new_agent: Callable[..., Agent]
) -> None:
    """It has the keys of the page, and the page has its."""
    [shown] = examples("## Health")
    with (
        ScriptedLLM(well) as llm,
        closing(Client(broker.port)) as client,
    ):
        agent = new_agent(broker.port, device=DEVICE, upstream=http(llm, ""))
        agent.start()
        client.wait(lambda: bool(client.said[f"{BASE}/health"]))
        health = json.loads(client.said[f"{BASE}/health"][-1])
    assert health.keys() == shown.keys() - {"fleet"}  # it is in none
    for part in ("outbox", "upstream"):
        assert health[part].keys() == shown[part].keys()


# -- the access list


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[tuple[Mosquitto, int]]:
    """Run a broker with the access list that is shipped, and a door without one."""
    (tmp_path / "acl").write_bytes((REPOSITORY / "systemd/mosquitto.acl").read_bytes())
    for number, user in enumerate(USERS):
        create = [] if number else ["-c"]
        words = [*create, "-b", str(tmp_path / "passwd"), user, PASSWORD]
        subprocess.run(["mosquitto_passwd", *words], check=True)
    (tmp_path / "passwd").chmod(0o644)
    port = free_port()
    settings = DOORS.format(guarded=port, folder=tmp_path)
    with closing(Mosquitto(tmp_path / "broker", settings)) as running:
        running.start()
        yield running, port


def said_to(port: int, user: str, topic: str) -> bool:
    """Publish by a name; return whether that is allowed."""
    told: list[bool] = []
    done = threading.Event()

    def published(*event: Any) -> None:
        told.append(not event[3].is_failure)
        done.set()

    speaker = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
    speaker.username_pw_set(user, PASSWORD)
    speaker.on_publish = published
    speaker.connect("127.0.0.1", port)
    speaker.loop_start()
    speaker.publish(topic, "{}", qos=1)
    assert done.wait(DEADLINE_S)
    speaker.disconnect()
    speaker.loop_stop()
    return told == [True]


def test_a_device_lives_with_the_access_list(
    guarded: tuple[Mosquitto, int], tmp_path: Path, new_agent: Callable[..., Agent]
) -> None:
    """All that the agent says and hears is allowed, also about Home Assistant."""
    broker, port = guarded
    secret = tmp_path / "secret"
    secret.write_text(PASSWORD, "utf-8")
    agent = new_agent(
        port,
        device=DEVICE,
        mqtt=f'username = "{DEVICE}"\npassword_file = "{secret}"',
        pipelines={"home": (["home/+/utterance"], "")},
    )
    more = "[homeassistant]\nenable = true\n"
    agent.config.write_text(agent.config.read_text("utf-8") + more, "utf-8")
    agent.start()
    with closing(Client(broker.port)) as client:
        client.ask([1])
        client.wait_answered(1)
        assert said_to(port, "operator", f"{BASE}/request/ping")
        client.wait(lambda: bool(client.said[f"{BASE}/response/ping"]))
    assert agent.count_log("connect_failed") == 0
    assert agent.count_log("publish_refused") == 0


@pytest.mark.parametrize(
    ("user", "topic", "allowed"),
    [
        ("pi-3", f"{BASE}/result/home", True),
        ("pi-3", "slm/upstream/home", True),
        ("pi-3", "slm/pi-4/result/home", False),
        ("pi-3", "slm/pi-4/request/reload", False),
        ("pi-3", "slm/fleet", False),
        ("producer", "home/kitchen/utterance", True),
        ("producer", f"{BASE}/request/reload", False),
        ("producer", f"{BASE}/answer", False),
        ("consumer", f"{BASE}/request/try", False),
        ("operator", f"{BASE}/request/reload", True),
        ("operator", f"{BASE}/answer", False),
        ("upstream", f"{BASE}/answer", True),
        ("upstream", f"{BASE}/request/reload", False),
        ("homeassistant", f"{BASE}/request/reload", True),
        ("homeassistant", f"{BASE}/request/explain", False),
    ],
)
def test_who_may_say_what(
    guarded: tuple[Mosquitto, int], user: str, topic: str, *, allowed: bool
) -> None:
    """Only who is named may ask a device, and only upstream may answer a case."""
    _, port = guarded
    assert said_to(port, user, topic) is allowed
