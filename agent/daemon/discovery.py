"""Home Assistant is told what there is of this device, and what there is no longer."""

import json
import platform
from collections.abc import Mapping
from pathlib import Path

import structlog
from pydantic_core import to_json

from agent import __version__
from agent.core.errors import TooLarge
from agent.core.files import replace
from agent.daemon.assembly import Opened
from agent.mqtt.connection import Connection
from agent.protocol import homeassistant

COMPONENTS = "homeassistant.json"  # what it was told last, below state.dir

log = structlog.get_logger()

Told = Mapping[str, Mapping[str, str]]  # platforms of components, by topic


async def discover(connection: Connection, parts: Opened) -> None:
    """Publish what is new or gone; raises Undelivered."""
    agent = parts.config.agent
    device, home = agent.device.id, agent.homeassistant
    names = [pipeline.name for pipeline in parts.pipelines]
    topic = homeassistant.discovery_topic(home.prefix, device)
    payload = homeassistant.discovery(device, __version__, platform.machine(), names)
    path = agent.state.dir / COMPONENTS
    before = _told(path)
    now: Told = {topic: homeassistant.platforms(payload)} if home.enable else {}
    said = [(old, b"") for old in before.keys() - now.keys()]
    if now:
        gone = homeassistant.vanished(before.get(topic, {}), payload["cmps"])
        if gone:
            said.append((topic, to_json(homeassistant.without(payload, gone))))
        said.append((topic, to_json(payload)))
    for place, told in said:
        try:
            await (await connection.publish(place, told, retain=True))
        except TooLarge:  # Home Assistant reads it whole, or not at all
            now = {}
    if now != before:
        try:
            replace(path, json.dumps(now).encode())
        except OSError as error:
            log.warning("discovery_not_written_down", why=str(error))


def _told(path: Path) -> Told:
    """Return what was told last."""
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    whole = isinstance(found, dict) and all(isinstance(c, dict) for c in found.values())
    return found if whole else {}
