"""Upstreams that say what a test tells them: over HTTP, and over MQTT.

Both speak the real protocol on loopback, keep every body as it came over the wire, and
ask a script what to say, each request in a thread of its own: a script may wait.
"""

import contextlib
import json
import socket
import ssl
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from agent.config.agent_file import HttpUpstreamSection, MqttUpstreamSection
from agent.config.load import load
from agent.daemon.opened import transport_of
from agent.escalation.transport import Transport
from harness.stage import part

DEADLINE_S = 60.0


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as it came.

    `head` holds HTTP headers by their name in small letters, or the user properties of
    MQTT 5; `where` the path, or the topic.
    """

    body: bytes
    where: str
    head: Mapping[str, str] = field(default_factory=dict)
    response_topic: str | None = None
    correlation: bytes | None = None
    content_type: str | None = None
    expiry_s: int | None = None

    @property
    def document(self) -> dict[str, Any]:
        """The body's JSON."""
        document: dict[str, Any] = json.loads(self.body)
        return document

    @property
    def text(self) -> str:
        """The text of the message that is asked about."""
        document = self.document
        if "messages" not in document:
            return str(document["text"])
        asked = next(m for m in document["messages"] if m["role"] == "user")
        said = "\n" + asked["content"]
        inside = said.partition("\n<message>")[2].rpartition("</message>")[0]
        return str(inside.replace("<\\/message>", "</message>"))

    @property
    def schema(self) -> dict[str, Any]:
        """The JSON Schema of the answer; empty where the body holds none."""
        document = self.document
        if "messages" not in document:
            return dict(document["schema"])
        form = document.get("response_format", {})
        return dict(form.get("json_schema", {}).get("schema", {}))


@dataclass(frozen=True, slots=True)
class Says:
    """What an upstream says.

    `raw` goes out instead of a reply made of the rest: the payload, or the body with
    `http` as its status and `head` as its headers. `cut`: HTTP only; the connection
    ends in the middle of it.
    """

    status: Literal["ok", "abstain", "error"] = "ok"
    answer: Any = None
    tokens: tuple[int, int] = (11, 3)
    cost: float | None = None
    model: str = "scripted-1"
    raw: bytes | None = None
    http: int = 200
    head: Mapping[str, str] = field(default_factory=dict)
    cut: bool = False


def opened_as_told(folder: Path, told: Mapping[str, Any]) -> Transport | None:
    """Open the transport of an agent.toml with this [upstream]; raises ConfigError."""
    lines = [f"{key} = {json.dumps(value, default=str)}" for key, value in told.items()]
    path = folder / "agent.toml"
    path.write_text("\n".join(["[upstream]", *lines, ""]), "utf-8")
    return transport_of(load(path))


Script = Callable[[Asked], Says | None]  # None: never a word


def http_upstream(url: str, **keys: Any) -> HttpUpstreamSection:
    """Return [upstream] as agent.toml would have it, for an endpoint."""
    document = {"transport": "http", "url": url, "model": "m"}
    return HttpUpstreamSection.model_validate(document | keys)


def mqtt_upstream(**keys: Any) -> MqttUpstreamSection:
    """Return [upstream] as agent.toml would have it, for a broker side."""
    return MqttUpstreamSection.model_validate({"transport": "mqtt"} | keys)


def after(event: threading.Event, script: Script) -> Script:
    """Return a script that goes on only once an event has come."""

    def wait(asked: Asked) -> Says | None:
        event.wait(60)
        return script(asked)

    return wait


def first_choice(asked: Asked) -> Says:
    """Answer with the first label there is, and no entities."""
    form = asked.schema.get("properties", {})
    answer: dict[str, Any] = {}
    if "label" in form:
        answer["label"] = form["label"]["enum"][0]
    if "entities" in form:
        answer["entities"] = []
    return Says(answer=answer)


class Scripted:
    """What both upstreams have: a script, and a memory."""

    def __init__(self, script: Script) -> None:
        """Take what to say; `script` may be set anew at any time."""
        self.script = script
        self.asked: list[Asked] = []
        self.answered = 0  # how often something was said
        self._changed = threading.Condition()

    def calls(self, text: str) -> int:
        """Return how often it was asked about a text."""
        with self._changed:
            return sum(asked.text == text for asked in self.asked)

    def wait_asked(self, count: int, seconds: float = DEADLINE_S) -> None:
        """Wait until it was asked that often."""
        with self._changed:
            enough = self._changed.wait_for(lambda: len(self.asked) >= count, seconds)
            assert enough, f"asked {len(self.asked)} times, not {count}"

    def wait_answered(self, count: int, seconds: float = DEADLINE_S) -> None:
        """Wait until it said something that often."""
        with self._changed:
            enough = self._changed.wait_for(lambda: self.answered >= count, seconds)
            assert enough, f"answered {self.answered} times, not {count}"

    def note(self, asked: Asked) -> None:
        """Remember a request."""
        with self._changed:
            self.asked.append(asked)
            self._changed.notify_all()

    def note_answered(self) -> None:
        """Remember that something was said."""
        with self._changed:
            self.answered += 1
            self._changed.notify_all()


class ScriptedLLM(Scripted):
    """Owns an OpenAI-compatible endpoint, `POST /v1/chat/completions`."""

    def __init__(self, script: Script = first_choice, port: int = 0) -> None:
        """Serve at once."""
        super().__init__(script)
        self.connections = 0
        self._open: set[socket.socket] = set()
        llm = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def setup(self) -> None:
                super().setup()
                llm.connections += 1
                llm._open.add(self.connection)

            def finish(self) -> None:
                with contextlib.suppress(OSError):
                    super().finish()
                with llm._changed:
                    llm._open.discard(self.connection)
                    llm._changed.notify_all()

            def do_POST(self) -> None:
                with contextlib.suppress(OSError):  # who asked may be gone
                    llm._answer(self)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                """Say nothing."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            block_on_close = False
            request_queue_size = 128

            def handle_error(self, request: object, client_address: object) -> None:
                """Say nothing: who asked was killed."""

        self._server = Server(("127.0.0.1", port), Handler)
        self.port = self._server.server_port
        self.url = f"http://127.0.0.1:{self.port}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def __enter__(self) -> Self:
        """Return the endpoint."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Serve no more."""
        self.close()

    def close(self) -> None:
        """Refuse connections, and end those there are."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()
            self.hang_up()

    def hang_up(self) -> None:
        """End every connection; new ones are taken."""
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def wrap(self, context: ssl.SSLContext) -> None:
        """Speak TLS from now on."""
        self._server.socket = context.wrap_socket(
            self._server.socket, server_side=True, do_handshake_on_connect=False
        )

    def wait_gone(self, seconds: float = DEADLINE_S) -> None:
        """Wait until every connection has ended."""
        with self._changed:
            assert self._changed.wait_for(lambda: not self._open, seconds)

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        size = int(handler.headers.get("content-length", 0))
        body = handler.rfile.read(size)
        if len(body) < size:
            return  # who asked is gone
        head = {name.lower(): value for name, value in handler.headers.items()}
        asked = Asked(body, handler.path, head)
        self.note(asked)
        says = self.script(asked)
        if says is None:
            handler.rfile.read(1)  # until the other side hangs up
            handler.close_connection = True
            return
        said = completion(says) if says.raw is None else says.raw
        handler.send_response(says.http)
        for name, value in says.head.items():
            handler.send_header(name, value)
        if "Transfer-Encoding" not in says.head:
            handler.send_header("Content-Length", str(len(said)))
        handler.end_headers()
        handler.wfile.write(said[: len(said) // 2] if says.cut else said)
        handler.close_connection |= says.cut
        self.note_answered()


def completion(says: Says) -> bytes:
    """Return a chat completion; an `error` is content that is no JSON."""
    message: dict[str, Any] = {"role": "assistant", "content": json.dumps(says.answer)}
    if says.status == "abstain":
        message |= {"content": None, "refusal": "I would rather not."}
    elif says.status == "error":
        message |= {"content": "Certainly! Here is what you asked for."}
    sent, received = says.tokens
    usage = {"prompt_tokens": sent, "completion_tokens": received}
    cost = {} if says.cost is None else {"cost": says.cost}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    document = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "model": says.model,
        "choices": [choice],
        "usage": {**usage, "total_tokens": sent + received, **cost},
    }
    return json.dumps(document).encode()


class ScriptedBroker(Scripted):
    """Owns a client that answers cases over MQTT, as `slm-agent broker` would."""

    def __init__(
        self,
        port: int,
        script: Script = first_choice,
        *,
        topic: str = "slm/upstream",
        version: int = 5,
        name: str = "scripted-broker",
    ) -> None:
        """Connect; subscribed when it returns. `version` 4 is MQTT 3.1.1."""
        super().__init__(script)
        self._is_v5 = version == 5
        self._topic = f"{topic}/+"
        self._subscribed = threading.Event()
        self._client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=name,
            protocol=paho.MQTTv5 if self._is_v5 else paho.MQTTv311,
        )
        self._client.reconnect_delay_set(1, 1)
        self._client.on_connect = self._connected
        self._client.on_subscribe = self._granted
        self._client.on_message = self._heard
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        assert self._subscribed.wait(DEADLINE_S)

    def __enter__(self) -> Self:
        """Return the client."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave."""
        self.close()

    def close(self) -> None:
        """Disconnect and end its thread."""
        part(self._client)

    def reply(self, asked: Asked, says: Says) -> None:
        """Say something to a request, be it for the second time."""
        topic, properties = asked.response_topic, None
        if topic is None:
            topic = asked.document["reply_to"]
        if asked.correlation is not None:
            properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
            properties.CorrelationData = asked.correlation
        payload = reply(says, asked.document["id"]) if says.raw is None else says.raw
        self._client.publish(topic, payload, qos=1, properties=properties)
        self.note_answered()

    def _connected(self, client: paho.Client, *_: object) -> None:
        client.subscribe(self._topic, qos=1)

    def _granted(self, *_: object) -> None:
        self._subscribed.set()

    def _heard(self, _client: object, _data: object, raw: paho.MQTTMessage) -> None:
        properties = raw.properties if self._is_v5 else None
        asked = Asked(
            bytes(raw.payload),
            raw.topic,
            dict(getattr(properties, "UserProperty", ())),
            getattr(properties, "ResponseTopic", None),
            getattr(properties, "CorrelationData", None),
            getattr(properties, "ContentType", None),
            getattr(properties, "MessageExpiryInterval", None),
        )
        self.note(asked)
        threading.Thread(target=self._answer, args=(asked,), daemon=True).start()

    def _answer(self, asked: Asked) -> None:
        says = self.script(asked)
        if says is not None:
            self.reply(asked, says)


def reply(says: Says, case: str) -> bytes:
    """Return the payload of a reply to the case with this id."""
    sent, received = says.tokens
    document: dict[str, Any] = {
        "id": case,
        "status": says.status,
        "usage": {"input_tokens": sent, "output_tokens": received, "cost": says.cost},
        "model": says.model,
    }
    if says.status == "ok":
        document["answer"] = says.answer
    if says.status == "error":
        document["error"] = "no model could be asked"
    return json.dumps(document).encode()
