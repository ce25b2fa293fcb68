"""A private broker and a real daemon, for the demo and the benchmark."""

import asyncio
import os
import shutil
import socket
import sysconfig
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from pydantic_core import from_json

from agent.core.errors import ConfigError, Undelivered
from agent.core.interpreter import PYTHON, environment, pip_install
from agent.core.types import Message
from agent.mqtt.endpoint import Endpoint
from agent.mqtt.side_connection import SideConnection, side_connection
from agent.protocol.messages import Topics

DEVICE = "demo"
START_S = 20.0

NATS = """\
server_name: slm-agent
host: 127.0.0.1
port: -1
max_payload: 8MB
jetstream {{ store_dir: "{folder}/nats" }}
mqtt {{ host: 127.0.0.1, port: {port} }}
"""
MOSQUITTO = """\
listener {port} 127.0.0.1
allow_anonymous true
set_tcp_nodelay true
max_queued_messages 0
persistence false
"""
AGENT = """\
[device]
id = "{device}"
[mqtt]
url = "mqtt://127.0.0.1:{port}"
version = {version}
[state]
dir = "{folder}/state"
"""


def free_port() -> int:
    """Return a TCP port that nobody listens on now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@asynccontextmanager
async def nats(folder: Path) -> AsyncIterator[int]:
    """Run the broker of the extra `demo` (MQTT 3.1.1); yield its port."""
    scripts = sysconfig.get_path("scripts")
    program = shutil.which("nats-server", path=scripts) or shutil.which("nats-server")
    if program is None:
        raise ConfigError(f"the embedded broker is missing: {pip_install('demo')}")
    async with _broker(folder, program, NATS) as port:
        yield port


@asynccontextmanager
async def mosquitto(folder: Path) -> AsyncIterator[int]:
    """Run the installed Mosquitto on a port of its own; yield the port."""
    program = shutil.which("mosquitto", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        raise ConfigError("mosquitto is missing: apt-get install mosquitto")
    async with _broker(folder, program, MOSQUITTO) as port:
        yield port


@asynccontextmanager
async def _broker(folder: Path, program: str, template: str) -> AsyncIterator[int]:
    port = free_port()
    config = folder / "broker.conf"
    config.write_text(template.format(folder=folder, port=port), "utf-8")
    with (folder / "broker.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            program,
            "-c",
            str(config),
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C is for us; we end it in order
        )
    try:
        await _listening(port, process, folder / "broker.log")
        yield port
    finally:
        await _stop(process)


@asynccontextmanager
async def daemon(
    folder: Path, port: int, version: str, more: str = ""
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run the real daemon against a broker; yield it once it says `online`.

    `version` is TOML: `5` or `"3.1.1"`; `more` is more of its agent.toml.
    """
    config = folder / "agent.toml"
    text = AGENT.format(device=DEVICE, port=port, version=version, folder=folder)
    config.write_text(text + more, "utf-8")
    async with side_connection(client(port), "watcher") as watcher:
        await watcher.connection.subscribe([Topics(DEVICE).status])
        with (folder / "agent.log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                *PYTHON,
                "-m",
                "agent",
                "run",
                "--config",
                str(config),
                env=environment(),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            await _online(watcher, process, folder / "agent.log")
            yield process
        finally:
            await _stop(process)


def client(port: int) -> Endpoint:
    """Return what an MQTT 3.1.1 client needs to know of the embedded broker."""
    return Endpoint(url=f"mqtt://127.0.0.1:{port}", client_id="slm-agent", version=4)


@asynccontextmanager
async def asking(port: int) -> AsyncIterator["Asker"]:
    """Connect to a broker on loopback as somebody who asks; raises Undelivered."""
    async with side_connection(client(port), "asker") as aside:
        base = f"slm/{DEVICE}"
        await aside.connection.subscribe([f"{base}/result/#", f"{base}/deadletter/#"])
        yield Asker(aside)


class Asker:
    """Publishes texts and hears results and dead letters."""

    def __init__(self, aside: SideConnection) -> None:
        """`aside` has subscribed."""
        self._aside = aside

    async def ask(self, number: int, text: str) -> None:
        """Publish a text; its answer names `topic_of(number)`."""
        await (await self.send(number, text))

    async def send(self, number: int, text: str) -> asyncio.Future[None]:
        """Publish a text without waiting for the broker's PUBACK, which is returned."""
        payload = text.encode("utf-8", "surrogatepass")
        return await self._aside.connection.publish(topic_of(number), payload)

    async def answer(self) -> "Answer":
        """Return the next answer; raises Undelivered once no more can come."""
        return _read(await self._aside.get())

    def answers(self) -> list["Answer"]:
        """Return the answers that are there already."""
        return [_read(message) for message in self._aside.waiting()]


Answer = tuple[str, dict[str, Any]]  # `result` or `deadletter`, and the object


def _read(message: Message) -> Answer:
    return message.topic.split("/")[2], from_json(message.payload)


def topic_of(number: int) -> str:
    """Return the topic of message `number`: one each, to tell answers apart."""
    return f"home/{number}/utterance"


async def _listening(port: int, process: asyncio.subprocess.Process, log: Path) -> None:
    async with asyncio.timeout(START_S):
        while process.returncode is None:
            try:
                async with side_connection(client(port), "probe"):
                    return
            except Undelivered:
                await asyncio.sleep(0.05)
    raise ConfigError(f"the broker ended: {log.read_text('utf-8', 'replace')}")


async def _online(
    watcher: SideConnection, process: asyncio.subprocess.Process, log: Path
) -> None:
    async def said() -> None:
        while (await watcher.get()).payload != b"online":
            pass

    waits = {asyncio.ensure_future(said()), asyncio.ensure_future(process.wait())}
    await asyncio.wait(waits, timeout=START_S, return_when=asyncio.FIRST_COMPLETED)
    ready = process.returncode is None and any(
        wait.done() and wait.exception() is None for wait in waits
    )
    for wait in waits:
        wait.cancel()
    if not ready:
        raise ConfigError(f"the daemon did not come up:\n{log.read_text('utf-8')}")


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.terminate()
        try:
            async with asyncio.timeout(15):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
