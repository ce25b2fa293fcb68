"""`slm-agent doctor`: whether everything around the daemon is as it needs it.

`check` looks at files; this looks at the machine and the network, too, beside a running
daemon and without disturbing it: nothing that it publishes means anything to anybody.
"""

import asyncio
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from itertools import chain
from urllib.parse import urlsplit

from pydantic_core import from_json

from agent.config.agent_file import MqttUpstreamSection
from agent.config.load import Config
from agent.core.errors import ConfigError, Refused, Undelivered
from agent.core.findings import Finding, Level
from agent.core.interpreter import PYTHON, environment
from agent.daemon.checks import membership
from agent.daemon.conditions import DISK_LOW
from agent.daemon.endpoint import endpoint
from agent.daemon.opened import transport_of
from agent.escalation.mqtt import endpoint_of
from agent.fleet.status import FleetStatus
from agent.inference.pipeline import bundles_of, open_pipelines
from agent.mqtt.connection import Connection
from agent.mqtt.endpoint import Endpoint
from agent.mqtt.side_connection import side_connection
from agent.protocol.homeassistant import status_topic
from agent.protocol.messages import Topics
from agent.telemetry.alerts import POISON
from agent.telemetry.host import UNSYNCHRONIZED, clock_fault, host_vitals

ECHO_S = 5.0
REACH_S = 5.0
IMPORT_S = 60.0
DISK_SCARCE = 0.1
UNIT = "slm-agent.service"
NAME = "doctor"  # of our connections, behind the client id
RESPONSE = b'{"status":"ok","data":{}}'
# In a process of its own: a wheel for another processor ends it with a signal.
RUNTIME = "import numpy, onnxruntime, tokenizers; print(onnxruntime.__version__)"


async def examine(status: FleetStatus) -> AsyncIterator[Finding]:
    """Yield findings as they are made; raises ConfigError."""
    config = status.config
    files = (_machine(config), _runtime(), _bundles(config), _unit())
    for finding in chain(membership(status), *files):
        yield finding
    async for finding in _broker(status):
        yield finding
    async for finding in _upstream(config):
        yield finding


def _machine(config: Config) -> Iterator[Finding]:
    folder = config.agent.state.dir
    probe = folder / ".doctor"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"x")
        probe.unlink()
    except OSError as error:
        yield Finding("error", "state", f"{folder}: {error.strerror}")
    else:
        yield Finding("ok", "state", f"{folder} can be written")
    now = host_vitals(folder)
    if now.disk_bytes and now.disk_free_bytes is not None:
        share = now.disk_free_bytes / now.disk_bytes
        yield Finding(_disk_level(share), "disk", f"{share:.0%} free")
    fault = clock_fault(folder)
    if fault:
        level: Level = "warning" if fault == UNSYNCHRONIZED else "error"
        yield Finding(level, "clock", f"{fault}: budgets and deadlines may fail")
    else:
        yield Finding("ok", "clock", "is plausible")
    if now.throttled:
        yield Finding("warning", "power", f"throttled: {now.throttled:#x}")


def _disk_level(share: float) -> Level:
    if share < DISK_LOW[0]:
        return "error"  # as the alert disk_low
    return "warning" if share < DISK_SCARCE else "ok"


def _runtime() -> Iterator[Finding]:
    try:
        done = subprocess.run(  # noqa: S603  our own interpreter
            [*PYTHON, "-c", RUNTIME],
            env=environment(),
            capture_output=True,
            text=True,
            timeout=IMPORT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        yield Finding("error", "runtime", "onnxruntime does not load")
        return
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or [f"status {done.returncode}"]
        yield Finding("error", "runtime", f"onnxruntime does not load: {last[0]}")
    else:
        yield Finding("ok", "runtime", f"onnxruntime {done.stdout.strip()}")


def _bundles(config: Config) -> Iterator[Finding]:
    try:
        pipelines = open_pipelines(config)
    except ConfigError as error:
        yield Finding("error", "bundles", str(error))
        return
    names = ", ".join(bundle.id for bundle in bundles_of(pipelines))
    yield Finding("ok", "bundles", f"{names}: hashes and probes as they should be")


def _unit() -> Iterator[Finding]:
    program = shutil.which("systemctl")
    if program is None:
        yield Finding("warning", "unit", "no systemd here")
        return
    done = subprocess.run(  # noqa: S603  found on the path
        [program, "is-enabled", UNIT], capture_output=True, text=True, check=False
    )
    state = done.stdout.strip() or "not installed"
    fine = state == "enabled"
    yield Finding("ok" if fine else "warning", "unit", f"{UNIT} is {state}")


async def _broker(status: FleetStatus) -> AsyncIterator[Finding]:
    """Ask for all that the daemon asks for."""
    config, known = status.config, endpoint(status.config)
    topics = Topics(config.agent.device.id)
    try:
        async with side_connection(known, NAME) as aside:
            connection = aside.connection
            yield Finding("ok", "broker", f"{known.url} accepts us")
            for limit, cost in connection.abilities.costs().items():
                yield Finding("warning", "broker", f"limits {limit}: {cost}")
            heard = [topics.alert(POISON)] + [topics.fleet] * (status.state is not None)
            for topic in heard:
                with suppress(Undelivered):
                    await connection.subscribe([topic])
            for subject, topic in _filters(config):
                yield await _subscribed(connection, subject, topic)
    except Undelivered as error:
        yield Finding("error", "broker", f"{known.url}: {error}")
        return
    # The answer to a request that nobody made, and the end of an alert that never was.
    yield await _published(known, topics.response("doctor"), RESPONSE)
    yield await _published(known, topics.alert("doctor"), b"")
    results = [p.output.topic or topics.result(n) for n, p in config.pipelines.items()]
    yield Finding(
        "ok",
        "results",
        f"not tried, for somebody may read them: {', '.join(results)}; where the "
        "broker takes none, the log says publish_refused",
    )
    # Retained, it came before the subscriptions that followed were granted.
    for message in aside.waiting():
        if message.topic == topics.alert(POISON) and message.payload:
            yield Finding("warning", "poison", _detail(message.payload))
        reason = _refusal(message.payload) if message.topic == topics.fleet else None
        if reason and status.state and reason != status.state.reason:
            yield Finding("warning", "fleet", f"the daemon last refused it: {reason!r}")


def _detail(alert: bytes) -> str:
    """Return what an alert says."""
    try:
        return str(from_json(alert)["detail"])
    except (ValueError, TypeError, KeyError):  # anybody may publish
        return "the alert cannot be read"


def _refusal(report: bytes) -> str | None:
    """Return why a device refuses its fleet's file, by its report."""
    try:
        fields = from_json(report)
        return str(fields["reason"]) if fields["state"] == "refused" else None
    except (ValueError, TypeError, KeyError):  # anybody may publish
        return None


def _filters(config: Config) -> Iterator[tuple[str, str]]:
    """Yield what the daemon subscribes to, and what for."""
    for name, pipeline in config.pipelines.items():
        yield from ((name, topic) for topic in pipeline.input.topics)
    yield "requests", Topics(config.agent.device.id).requests
    if config.agent.homeassistant.enable:
        yield "homeassistant", status_topic(config.agent.homeassistant.prefix)
    if config.agent.fleet and config.agent.fleet.topic:
        yield "fleet", config.agent.fleet.topic


async def _subscribed(connection: Connection, subject: str, topic: str) -> Finding:
    if topic.startswith("$share/"):  # we would take messages from those who share
        return Finding("ok", subject, f"{topic} is shared; not tried")
    try:
        await connection.subscribe([topic])
        await connection.unsubscribe([topic])
    except Undelivered as error:
        return Finding("error", subject, f"{topic}: {error}")
    return Finding("ok", subject, f"may subscribe to {topic}")


async def _published(known: Endpoint, topic: str, payload: bytes) -> Finding:
    """Publish what nobody waits for, and see whether the broker takes it.

    With MQTT 3.1.1 it never says no: there it must come back to us. Some brokers hang
    up after a refusal, so each has a connection of its own.
    """
    try:
        async with side_connection(known, NAME) as aside:
            connection = aside.connection
            if not connection.is_v5:
                await connection.subscribe([topic])
            await (await connection.publish(topic, payload))
            if not connection.is_v5:
                async with asyncio.timeout(ECHO_S):
                    await aside.get()
    except Undelivered as error:
        return Finding("error", "publish", f"{topic}: {error}")
    except TimeoutError:
        return Finding(
            "warning",
            "publish",
            f"{topic}: published, and it never came back; by MQTT 3.1.1 we cannot "
            "tell whether we may not publish, or only not read it",
        )
    return Finding("ok", "publish", f"may publish to {topic}")


async def _upstream(config: Config) -> AsyncIterator[Finding]:
    """See whether somebody listens where upstream should be; nothing is asked."""
    transport = transport_of(config)
    section = config.agent.upstream
    if transport is None or section is None:
        yield Finding("ok", "upstream", "none: nothing leaves this device")
    elif isinstance(section, MqttUpstreamSection):
        yield await _answers(config, section, transport.to)
    else:
        yield await _listens(section.url, transport.to)


async def _answers(config: Config, section: MqttUpstreamSection, to: str) -> Finding:
    """Subscribe to the answers, by the connection that is theirs."""
    known = endpoint_of(section, endpoint(config))
    topic = Topics(config.agent.device.id).answer
    try:
        async with side_connection(known, NAME) as aside:
            await aside.connection.subscribe([topic])
    except Refused as error:
        return Finding("error", "upstream", f"{to}: {error}")
    except Undelivered as error:
        return Finding("warning", "upstream", f"{to}: {error}")
    return Finding("ok", "upstream", f"{to}: may subscribe to {topic}; nothing asked")


async def _listens(url: str, to: str) -> Finding:
    parts = urlsplit(url)
    port = parts.port or {"http": 80, "https": 443}[parts.scheme]
    try:
        async with asyncio.timeout(REACH_S):
            _, writer = await asyncio.open_connection(parts.hostname, port)
    except (OSError, socket.gaierror, TimeoutError) as error:
        why = str(error) or "no answer"
        return Finding("warning", "upstream", f"{to}: {why}")
    writer.close()
    return Finding("ok", "upstream", f"{to}: somebody listens")
