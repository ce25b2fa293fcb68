"""The broker in a process of its own, and a device that asks it by MQTT."""

import json
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from agent.broker.llm import QUIET
from agent.protocol.cases import Request, encode_request
from harness.launch import Template, template
from harness.stage import DEADLINE_S, Agent, part

LABELS = {"on": "switch on", "off": "switch off"}
ENTITIES = {"place": "a room"}
# A Mosquitto for many cases at once.
SETTINGS = """\
listener {port} 127.0.0.1
allow_anonymous true
set_tcp_nodelay true
max_queued_messages 0
"""
GOOD = json.dumps({"label": "off", "entities": [{"label": "place", "text": "hall"}]})
REPLIES = "slm/pi/answer"


class Broker(Agent):
    """Owns `slm-agent broker` in a process of its own, as systemd has it."""

    def __init__(
        self,
        folder: Path,
        port: int,
        bases: list[str],
        *,
        name: str = "one",
        more: str = "",
        url: str = "",
        mqtt: str = "",
        models: str = "",
        hurry: dict[str, object] | None = None,
    ) -> None:
        """Write broker.toml: a model for each address of `bases`.

        `more` are lines of [broker] and of whole tables after it, `models` lines of
        each model, `hurry` constants of modules, as {"status.HEALTH_S": 0.1}.
        """
        folder.mkdir(parents=True, exist_ok=True)
        config = folder / "broker.toml"
        text = (
            f'[mqtt]\nurl = "{url or f"mqtt://127.0.0.1:{port}"}"\n{mqtt}\n'
            f'[state]\ndir = "state"\n[broker]\nname = "{name}"\n{more}\n'
        )
        for number, base in enumerate(bases):
            text += (
                f'[[models]]\nmodel = "openai/model-{number}"\napi_base = "{base}/v1"\n'
                f'key_file = "key"\nprice_in = 1.0\nprice_out = 10.0\n{models}\n'
            )
        config.write_text(text, "utf-8")
        (folder / "key").write_text("secret\n", "utf-8")
        lines = ["import sys, agent.cli.main"]
        for constant, value in (hurry or {}).items():
            module = constant.partition(".")[0]
            lines.append(f"import agent.broker.{module}")
            lines.append(f"agent.broker.{constant} = {value}")
        lines.append(f"sys.argv = ['slm-agent', 'broker', '--config', {str(config)!r}]")
        lines.append("agent.cli.main.main()")
        self._program = ["-c", "\n".join(lines)]
        self._prepare(config)

    def _template(self) -> Template:
        return template("agent.cli.main", "agent.broker.service", "litellm", **QUIET)

    def _prepare(self, config: Path) -> None:
        self._fresh = False
        self.device = ""
        self.lines = []
        self.noise = []
        self._changed = threading.Condition()
        self._process = None
        self._reader = None
        self._folder = config.parent
        self.config = config


def case(number: int | str, text: str = "", **having: Any) -> Request:
    """Return a case; the number is its id, and in its text."""
    fields: dict[str, Any] = {
        "id": f"m-{number}",
        "device": "pi",
        "pipeline": "home",
        "text": text or f"turn off the lights in hall {number}",
        "labels": LABELS,
        "entities": ENTITIES,
        "deadline_ms": int(time.time() * 1000) + 3_600_000,
    }
    return Request(**fields | having)


class Device:
    """Owns an MQTT client that sends cases and hears replies, and all brokers say."""

    def __init__(self, port: int, version: int = 5) -> None:
        """Connect; subscribed when it returns."""
        self.replies: dict[bytes, list[dict[str, Any]]] = defaultdict(list)
        self.said: dict[str, list[bytes]] = defaultdict(list)
        self.acked = 0
        self._subscribed = False
        self._changed = threading.Condition()
        self._v5 = version == 5
        self._client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id="device",
            protocol=paho.MQTTv5 if self._v5 else paho.MQTTv311,
        )
        self._client.max_inflight_messages_set(200)
        self._client.on_message = self._heard
        self._client.on_publish = self._published
        self._client.on_connect = lambda client, *_: client.subscribe(
            [(REPLIES, 1), ("slm/broker/#", 1)]
        )
        self._client.on_subscribe = self._granted
        self._client.connect("127.0.0.1", port, keepalive=60)
        self._client.loop_start()
        self.wait(lambda: self._subscribed)

    def close(self) -> None:
        """Disconnect."""
        part(self._client)

    def send(
        self,
        request: Request | bytes,
        correlation: bytes = b"",
        reply_to: str = REPLIES,
    ) -> None:
        """Send a case, or what is none; named by its id if nothing else is given."""
        payload = request if isinstance(request, bytes) else encode_request(request)
        properties = None
        if self._v5:
            properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
            if reply_to:
                properties.ResponseTopic = reply_to
            if not correlation and isinstance(request, Request):
                correlation = request.id.encode()
            properties.CorrelationData = correlation
        self._client.publish("slm/upstream/home", payload, qos=1, properties=properties)

    def reply(self, correlation: str | bytes, count: int = 1) -> dict[str, Any]:
        """Wait for a reply, or the `count`th, and return it."""
        if isinstance(correlation, str):
            correlation = correlation.encode()
        self.wait(lambda: len(self.replies[correlation]) >= count)
        return self.replies[correlation][count - 1]

    def wait(self, done: Callable[[], bool], seconds: float = DEADLINE_S) -> None:
        """Wait until something heard or acknowledged makes `done` true."""
        with self._changed:
            assert self._changed.wait_for(done, seconds), (
                f"{len(self.replies)} replies, {self.acked} acknowledged, "
                f"{ {topic: len(said) for topic, said in self.said.items()} }"
            )

    def health(
        self, name: str, done: Callable[[dict[str, Any]], bool]
    ) -> dict[str, Any]:
        """Wait until the last health of a broker is so, and return it."""
        topic = f"slm/broker/{name}/health"

        def last() -> dict[str, Any]:
            said = self.said[topic]
            found: dict[str, Any] = json.loads(said[-1]) if said else {}
            return found

        self.wait(lambda: bool(last()) and done(last()))
        return last()

    def _granted(self, *_: object) -> None:
        with self._changed:
            self._subscribed = True
            self._changed.notify_all()

    def _published(self, *_: object) -> None:
        with self._changed:
            self.acked += 1
            self._changed.notify_all()

    def _heard(self, _client: object, _data: object, raw: paho.MQTTMessage) -> None:
        with self._changed:
            if raw.topic == REPLIES:
                reply = json.loads(raw.payload)
                key = getattr(raw.properties, "CorrelationData", None)
                self.replies[key or reply["id"].encode()].append(reply)
            else:
                self.said[raw.topic].append(bytes(raw.payload))
            self._changed.notify_all()
