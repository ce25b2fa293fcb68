"""`slm-agent doctor`: whether everything around the daemon is as it needs it.

`check` looks at files; this looks at the machine and the network, too, beside a running
daemon and without disturbing it.
"""

import asyncio
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from urllib.parse import urlsplit

from agent.check import Finding
from agent.config import Config
from agent.errors import ConfigError, Undelivered
from agent.interpreter import PYTHON, environment
from agent.mqtt import Connection, Endpoint
from agent.pipeline import bundles_of, open_pipelines
from agent.types import Message
from agent.vitals import vitals
from agent.wire import Topics
from agent.wiring import endpoint, transport_of

ECHO_S = 10.0
REACH_S = 5.0
IMPORT_S = 60.0
DISK_LOW = 0.05
UNIT = "slm-agent.service"
# In a process of its own: a wheel for another processor ends it with a signal.
RUNTIME = "import numpy, onnxruntime, tokenizers; print(onnxruntime.__version__)"


async def examine(config: Config) -> AsyncIterator[Finding]:
    """Yield findings as they are made; raises ConfigError."""
    for finding in (*_machine(config), *_runtime(), *_bundles(config), *_unit()):
        yield finding
    async for finding in _broker(config):
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
    now = vitals(folder)
    if now.disk_bytes and now.disk_free_bytes is not None:
        share = now.disk_free_bytes / now.disk_bytes
        low = share < DISK_LOW
        yield Finding("warning" if low else "ok", "disk", f"{share:.0%} free")
    if now.clock_wrong:
        yield Finding("error", "clock", "is years behind: budgets and deadlines fail")
    else:
        yield Finding("ok", "clock", "is plausible")
    if now.throttled:
        yield Finding("warning", "power", f"throttled: {now.throttled:#x}")


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


async def _broker(config: Config) -> AsyncIterator[Finding]:
    """Connect beside the daemon, hear ourselves, and ask for every subscription."""
    known = endpoint(config)
    aside = replace(
        known, client_id=f"{known.client_id}-doctor", session_expiry_s=0, will=None
    )
    heard = asyncio.Event()

    def hear(message: Message) -> None:
        message.ack()
        heard.set()

    connection = Connection(aside, 0, None, hear)
    try:
        await connection.open()
    except Undelivered as error:
        yield Finding("error", "broker", f"{known.url}: {error}")
        return
    yield Finding("ok", "broker", f"{known.url} accepts us")
    try:
        speaker = replace(aside, client_id=f"{aside.client_id}-2")
        yield await _echo(connection, speaker, config, heard)
        for name, pipeline in config.pipelines.items():
            for topic in pipeline.input.topics:
                yield await _subscribed(connection, name, topic)
    finally:
        await connection.close()


async def _echo(
    connection: Connection, speaker: Endpoint, config: Config, heard: asyncio.Event
) -> Finding:
    """Publish by a second connection: no connection hears itself."""
    topic = Topics(config.agent.device.id).response("doctor")
    try:
        await connection.subscribe([topic])
        other = Connection(speaker, 0, None, lambda message: message.ack())
        await other.open()
        await (await other.publish(topic, b"{}"))
        await other.close()
        async with asyncio.timeout(ECHO_S):
            await heard.wait()
    except Undelivered as error:
        return Finding("error", "publish", f"{topic}: {error}")
    except TimeoutError:
        return Finding("error", "publish", f"{topic}: published, and never came back")
    return Finding("ok", "publish", "what we publish under our name comes through")


async def _subscribed(connection: Connection, name: str, topic: str) -> Finding:
    if topic.startswith("$share/"):  # we would take messages from those who share
        return Finding("ok", name, f"{topic} is shared; not tried")
    try:
        await connection.subscribe([topic])
        await connection.unsubscribe([topic])
    except Undelivered as error:
        return Finding("error", name, f"{topic}: {error}")
    return Finding("ok", name, f"may subscribe to {topic}")


async def _upstream(config: Config) -> AsyncIterator[Finding]:
    """See whether somebody listens where upstream should be; nothing is asked."""
    transport = transport_of(config)
    said = config.agent.upstream
    if transport is None or said is None:
        yield Finding("ok", "upstream", "none: nothing leaves this device")
        return
    parts = urlsplit(said.url or config.agent.mqtt.url)
    ports = {"http": 80, "https": 443, "mqtt": 1883, "mqtts": 8883}
    port = parts.port or ports[parts.scheme]
    try:
        async with asyncio.timeout(REACH_S):
            _, writer = await asyncio.open_connection(parts.hostname, port)
    except (OSError, socket.gaierror, TimeoutError) as error:
        why = str(error) or "no answer"
        yield Finding("warning", "upstream", f"{transport.to}: {why}")
        return
    writer.close()
    yield Finding("ok", "upstream", f"{transport.to}: somebody listens")
