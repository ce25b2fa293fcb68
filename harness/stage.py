"""What the end-to-end tests stand on: a broker, the daemon, and clients, all real.

Nothing here sleeps to let something happen. Every wait is for a condition that an
observed event can make true, and it fails at its deadline.
"""

import contextlib
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

import paho.mqtt.client as paho
import psutil  # type: ignore[import-untyped]
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from harness.launch import Process, Template, template

PORTS = itertools.cycle(range(10_000 + os.getpid() % 100 * 200, 30_000))
REPOSITORY = Path(__file__).resolve().parents[1]
DEADLINE_S = 60.0
DEVICE = "pi"
UNIT = {"MALLOC_ARENA_MAX": "2"}  # the environment that the unit gives
BROKER = """\
listener {port} 127.0.0.1
allow_anonymous true
set_tcp_nodelay true
max_queued_messages 0
persistence true
persistence_location {folder}/
autosave_on_changes true
autosave_interval 1
"""
PIPELINE = """\
kind = "understand"
[input]
topics = {topics}
{input}
[model]
bundle = "home"
"""


def free_port() -> int:
    """Return a loopback TCP port that nobody listens on now.

    Below those that the kernel gives to connections, and of each process its own: no
    other test takes it before its server does.
    """
    while True:
        port = next(PORTS)
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.bind(("127.0.0.1", port))
            return port


class Mosquitto:
    """Owns a broker of our own; stopped and started, it keeps port and state."""

    def __init__(self, folder: Path, settings: str = BROKER, port: int = 0) -> None:
        """Take the configuration; it may use `{port}` and `{folder}`."""
        self.port = port or free_port()
        self.folder = folder
        self.settings = settings
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)

    def start(self) -> None:
        """Start it and wait until it takes connections."""
        self.write()
        program = "/usr/sbin/mosquitto"
        with (self.folder / "broker.log").open("ab") as log:
            self._process = subprocess.Popen(
                [program, "-c", self.folder / "broker.conf"], stdout=log, stderr=log
            )
        limit = time.monotonic() + DEADLINE_S
        while True:
            with contextlib.suppress(ConnectionError), self._dial():
                return
            assert self._process.poll() is None, self.log()
            assert time.monotonic() < limit, self.log()

    def write(self) -> None:
        """Write the configuration file."""
        as_root = "user root\n" if os.geteuid() == 0 else ""
        text = self.settings.format(port=self.port, folder=self.folder)
        (self.folder / "broker.conf").write_text(as_root + text, "utf-8")

    def reload(self) -> None:
        """Make the running broker read passwords and access lists again."""
        assert self._process
        self._process.send_signal(signal.SIGHUP)

    def stop(self) -> None:
        """Stop it in good order; it saves what it holds."""
        self._end(signal.SIGTERM)

    def close(self) -> None:
        """Make sure it is gone."""
        self._end(signal.SIGKILL)

    def log(self) -> str:
        """Return what it said."""
        return (self.folder / "broker.log").read_text("utf-8", "replace")

    def _dial(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=DEADLINE_S)

    def _end(self, number: int) -> None:
        if self._process is None:
            return
        limit = time.monotonic() + DEADLINE_S
        while self._process.poll() is None:
            # Again and again: Mosquitto forgets a signal that comes as it starts.
            self._process.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(1.0)
            assert time.monotonic() < limit, self.log()
        self._process = None


class Agent:
    """Owns the daemon: `slm-agent run` in a process of its own, as systemd has it."""

    forks: ClassVar = False  # of a template, for many tests; else each starts afresh

    def __init__(
        self,
        folder: Path,
        port: int,
        *,
        url: str = "",
        device: str = DEVICE,
        mqtt: str = "",
        hurry: dict[str, object] | None = None,
        broken: str = "",
        pipelines: dict[str, tuple[list[str], str]] | None = None,
        enable: list[str] | None = None,
        upstream: str = "",
        outbox: str = "",
        state: Path | str = "state",
        fresh: bool = False,
    ) -> None:
        """Write the configuration; `fresh`: never a fork, as what is measured.

        `mqtt`, `upstream` and `outbox` hold lines of those tables; `pipelines` topics
        and more lines of `[input]`, and tables after it, by name; None: the shipped
        ones, of which `enable` names some. `hurry` gives constants of the agent another
        value ("mqtt.link.YIELD_S"), where a test cannot wait as long; `broken` is
        Python that makes a part of it hang.
        """
        self._program = ["-m", "agent"]
        if hurry or broken:
            hurry = hurry or {}
            lines = ["import agent.daemon.app, agent.mqtt.link, agent.cli.main"]
            lines += [f"import agent.{name.rpartition('.')[0]}" for name in hurry]
            lines += [f"agent.{name} = {value}" for name, value in hurry.items()]
            self._program = ["-c", "\n".join([*lines, broken, "agent.cli.main.main()"])]
        self._fresh = fresh
        self.device = device
        self.lines: list[dict[str, Any]] = []  # of its log
        self.noise: list[str] = []  # on standard error, but no log line
        self._changed = threading.Condition()
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.config = folder / "agent.toml"
        enabled = f"[pipelines]\nenable = {enable}\n" if enable else ""
        if pipelines is not None:
            enabled = f'[pipelines]\ndir = "."\nenable = {list(pipelines)}\n'
        for name, (topics, more) in (pipelines or {}).items():
            text = PIPELINE.format(topics=topics, input=more)
            (folder / f"{name}.toml").write_text(text, "utf-8")
        self._rest = (
            f'[device]\nid = "{device}"\n'
            f'[mqtt]\nurl = "{url or f"mqtt://127.0.0.1:{port}"}"\n{mqtt}\n'
            f'[state]\ndir = "{state}"\n{enabled}'
        )
        self.state = folder / state
        self.write(upstream, outbox)

    def write(self, upstream: str = "", outbox: str = "") -> None:
        """Write agent.toml (again); takes effect with the next start."""
        tables = {"upstream": upstream, "outbox": outbox}
        said = [f"[{name}]\n{lines}\n" for name, lines in tables.items() if lines]
        self.config.write_text("\n".join([self._rest, *said]), "utf-8")

    @property
    def pid(self) -> int:
        """The process id of the running daemon."""
        assert self._process
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process lives."""
        return self._process is not None and self._process.poll() is None

    def start(self, *, ready: bool = True) -> None:
        """Start it; `ready` waits for its READY=1."""
        runtime = tempfile.TemporaryDirectory(prefix="slm-")  # socket paths are short
        self._runtime = runtime
        self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notify.bind(f"{runtime.name}/notify")
        env = os.environ | UNIT | {"NOTIFY_SOCKET": f"{runtime.name}/notify"}
        self._process = self._launch("run", env=env)
        self._reader = threading.Thread(target=self._read, args=(self._process,))
        self._reader.start()
        if ready:
            self.wait_told("READY=1")

    def command(self, *arguments: str) -> "subprocess.Popen[str]":
        """Start another command of slm-agent, with this agent's configuration."""
        return self._launch(*arguments, env=os.environ, stdout=True)

    def _launch(
        self, *arguments: str, env: Mapping[str, str], stdout: bool = False
    ) -> "subprocess.Popen[str]":
        program = [*self._program, *arguments, "--config", str(self.config)]
        if self.forks and not self._fresh:
            return Process(self._template(), program, env, stdout=stdout)
        return subprocess.Popen(
            [sys.executable, *program],
            cwd=REPOSITORY,
            env=env,
            stdout=subprocess.PIPE if stdout else None,
            stderr=subprocess.PIPE,
            text=True,
        )

    def _template(self) -> Template:
        return template("agent.cli.main", "agent.daemon.app")

    def wait_told(self, word: str, seconds: float = DEADLINE_S) -> str:
        """Return the next message to the service manager that contains a word."""
        limit = time.monotonic() + seconds
        self._notify.settimeout(0.2)
        while True:
            with contextlib.suppress(TimeoutError):
                told = self._notify.recv(4096).decode()
                if word in told:
                    return told
            assert self._process
            assert self._process.poll() is None, self.tail()
            assert time.monotonic() < limit, f"never told {word}\n{self.tail()}"

    def wait_log(self, event: str, count: int = 1, **having: object) -> dict[str, Any]:
        """Wait for the `count`th line of the log with this event and these values."""

        def found() -> list[dict[str, Any]]:
            wanted = {"event": event, **having}.items()
            return [line for line in self.lines if wanted <= _flat(line).items()]

        with self._changed:
            enough = self._changed.wait_for(lambda: len(found()) >= count, DEADLINE_S)
            assert enough, f"{event} {having} not {count} times\n{self.tail()}"
            return found()[count - 1]

    def count_log(self, event: str) -> int:
        """Return how often it logged an event."""
        with self._changed:
            return sum(line["event"] == event for line in self.lines)

    def kill(self) -> None:
        """End it as a crash would."""
        self._signal(signal.SIGKILL)

    def terminate(self) -> int:
        """Stop it as systemd would; return the exit status."""
        return self._signal(signal.SIGTERM)

    def interrupt(self) -> None:
        """Ask it to stop, and do not wait."""
        assert self._process
        self._process.terminate()

    def wait(self) -> int:
        """Wait for its end; return the exit status."""
        assert self._process
        assert self._reader
        try:
            status = self._process.wait(DEADLINE_S)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it does not end\n{self.tail()}") from None
        self._reader.join(DEADLINE_S)
        self._notify.close()
        self._runtime.cleanup()
        self._process = None
        return status

    def close(self) -> None:
        """Make sure it is gone."""
        if self._process:
            self.kill()

    def process_ended(self) -> bool:
        """Tell whether it ended by itself; then it can be started again."""
        assert self._process
        if self._process.poll() is None:
            return False
        self.wait()
        return True

    def peak_mb(self) -> float:
        """Return the most resident memory it ever had, in MB (a million bytes)."""
        assert self._fresh or not self.forks, "a fork has what its template had"
        status = Path(f"/proc/{self.pid}/status").read_text("utf-8")
        [line] = [each for each in status.splitlines() if each.startswith("VmHWM")]
        return int(line.split()[1]) * 1024 / 1e6

    def resident_mb(self) -> float:
        """Return its resident memory in MB (a million bytes)."""
        assert self._fresh or not self.forks, "a fork has what its template had"
        return float(psutil.Process(self.pid).memory_info().rss / 1e6)

    def tail(self) -> str:
        """Return the end of its log, but for the lines about single messages."""
        lines = [str(line) for line in self.lines if line["event"] != "handled"]
        return "\n".join([*lines[-20:], *self.noise[-40:]])

    def _signal(self, number: int) -> int:
        assert self._process
        self._process.send_signal(number)
        return self.wait()

    def _read(self, process: "subprocess.Popen[str]") -> None:
        assert process.stderr
        with process.stderr as stream:
            for line in stream:
                with self._changed:
                    if line.startswith('{"'):
                        self.lines.append(json.loads(line))
                    else:
                        self.noise.append(line.rstrip())
                    self._changed.notify_all()


def part(client: paho.Client) -> None:
    """Disconnect a client and end its thread."""
    client.disconnect()
    client.loop_stop()
    sock = client.socket()
    if sock is not None:  # it had just come back
        sock.close()


class Client:
    """Owns an MQTT 5 client that publishes texts and hears all that the device says."""

    def __init__(self, port: int, name: str = "client", device: str = "+") -> None:
        """Connect with a session that outlives the broker; subscribed when it returns.

        `device` limits what is heard to one device.
        """
        self.results: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self.dead: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self.said: dict[str, list[bytes]] = defaultdict(list)  # by full topic
        self.acked: dict[int, ReasonCode] = {}
        self.answers = 0
        self.on_answer: Callable[[], None] = lambda: None
        self._changed = threading.Condition()
        self._filter = f"slm/{device}/#"
        self.subscribed = 0  # how often
        self._client = paho.Client(
            CallbackAPIVersion.VERSION2, client_id=name, protocol=paho.MQTTv5
        )
        self._client.max_inflight_messages_set(200)
        self._client.reconnect_delay_set(1, 1)
        self._client.on_connect = self._connected
        self._client.on_subscribe = self._granted
        self._client.on_message = self._heard
        self._client.on_publish = self._published
        session = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        session.SessionExpiryInterval = 3600
        session.ReceiveMaximum = 1000
        self._client.connect(
            "127.0.0.1", port, clean_start=False, properties=session, keepalive=60
        )
        self._client.loop_start()
        self.wait(lambda: self.subscribed > 0)

    def __enter__(self) -> Self:
        """Return the client."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Disconnect."""
        self.close()

    def close(self) -> None:
        """Disconnect and end its thread."""
        part(self._client)

    def send(
        self,
        topic: str,
        payload: bytes | str,
        *,
        message_id: str = "",
        content_type: str = "",
        qos: int = 1,
        retain: bool = False,
    ) -> int:
        """Publish without waiting; return the packet identifier."""
        properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        if message_id:
            properties.UserProperty = [("trace", "x"), ("id", message_id)]
        if content_type:
            properties.ContentType = content_type
        info = self._client.publish(
            topic, payload, qos=qos, retain=retain, properties=properties
        )
        return info.mid

    def ask(self, numbers: Iterable[int], *, ids: bool = False, qos: int = 1) -> None:
        """Publish one text for each number, to a topic that names it."""
        for number in numbers:
            name = f"m-{number}" if ids else ""
            self.send(topic_of(number), text_of(number), message_id=name, qos=qos)

    def wait(self, done: Callable[[], bool], seconds: float = DEADLINE_S) -> None:
        """Wait until something heard or acknowledged makes `done` true."""
        with self._changed:
            if not self._changed.wait_for(done, seconds):
                raise AssertionError(
                    f"{len(self.results)} messages with results, {len(self.dead)} with "
                    f"dead letters, {self.answers} answers, {len(self.acked)} acked"
                )

    def wait_acked(self, number: int, seconds: float = DEADLINE_S) -> None:
        """Wait until the broker acknowledged that many of our publishes."""
        self.wait(lambda: len(self.acked) >= number, seconds)

    def wait_answered(self, number: int, seconds: float = DEADLINE_S) -> None:
        """Wait until that many messages have a result or dead letter."""
        self.wait(lambda: len(self.results) + len(self.dead) >= number, seconds)

    def wait_answers(self, number: int, seconds: float = DEADLINE_S) -> None:
        """Wait for that many results and dead letters, duplicates included."""
        self.wait(lambda: self.answers >= number, seconds)

    def wait_said(
        self, topic: str, payload: bytes, count: int = 1, seconds: float = DEADLINE_S
    ) -> None:
        """Wait until the device said this on a topic, that often."""
        self.wait(lambda: self.said[topic].count(payload) >= count, seconds)

    def _connected(
        self,
        client: paho.Client,
        _data: object,
        _flags: object,
        _code: object,
        _properties: object,
    ) -> None:
        client.subscribe(self._filter, qos=1)

    def _granted(
        self,
        _client: object,
        _data: object,
        _mid: int,
        _codes: object,
        _properties: object,
    ) -> None:
        with self._changed:
            self.subscribed += 1
            self._changed.notify_all()

    def _published(
        self,
        _client: object,
        _data: object,
        mid: int,
        code: ReasonCode,
        _properties: object,
    ) -> None:
        with self._changed:
            self.acked[mid] = code
            self._changed.notify_all()

    def _heard(self, _client: object, _data: object, raw: paho.MQTTMessage) -> None:
        payload = bytes(raw.payload)
        kind = raw.topic.split("/")[2]
        with self._changed:
            if kind in {"result", "deadletter"}:
                heard = self.results if kind == "result" else self.dead
                said = json.loads(payload)
                heard[said["topic"]].append(said)
                self.answers += 1
            else:
                self.said[raw.topic].append(payload)
            self._changed.notify_all()
        if kind in {"result", "deadletter"}:
            self.on_answer()


def topic_of(number: int) -> str:
    """Return the topic of message `number`; its answers name it."""
    return f"home/{number}/utterance"


ACTIONS = ("turn off", "turn on", "dim", "brighten", "change the colour of")
THINGS = ("the lights", "the lamp", "my bulbs", "all lights", "the hue lamps")
PLACES = ("kitchen", "bedroom", "garage", "hall", "bathroom", "office", "attic")


def text_of(number: int) -> str:
    """Return a text; neighbours differ, and every 175th is the same again."""
    action = ACTIONS[number % 5]
    thing = THINGS[number // 5 % 5]
    return f"{action} {thing} in the {PLACES[number // 25 % 7]}"


def _flat(line: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in line.items() if not isinstance(value, list)}
