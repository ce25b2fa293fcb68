"""Home Assistant is told what there is of this device, and what there is no longer."""

import json
import platform
from collections.abc import Mapping
from pathlib import Path

import structlog
from pydantic_core import to_json

from agent import __version__
from agent.core.errors import Refused, TooLarge
from agent.core.files import replace
from agent.core.quarantine import Damaged, read_state, without
from agent.daemon.opened import Opened
from agent.mqtt.connection import Connection
from agent.protocol import homeassistant
from agent.telemetry.alerts import Alerts
from agent.telemetry.rejected_topics import RejectedTopics

COMPONENTS = "homeassistant.json"  # what it was told last, below state.dir
LARGEST_COMPONENTS = 2**20  # bytes

log = structlog.get_logger()

Told = Mapping[str, Mapping[str, str]]  # platforms of components, by topic


async def discover(
    connection: Connection,
    parts: Opened,
    alerts: Alerts,
    rejected_topics: RejectedTopics,
) -> None:
    """Publish what is new or gone; raises Undelivered.

    Where the broker refuses it, Home Assistant sees nothing, and all else goes on.
    """
    agent = parts.config.agent
    device, home = agent.device.id, agent.homeassistant
    names = [pipeline.name for pipeline in parts.pipelines]
    topic = homeassistant.discovery_topic(home.prefix, device)
    payload = homeassistant.discovery(device, __version__, platform.machine(), names)
    path = agent.state.dir / COMPONENTS
    before, damage = told_before(path)
    alerts.state_damaged(damage)
    now: Told = {topic: homeassistant.platforms(payload)} if home.enable else {}
    messages = [(old, b"") for old in before.keys() - now.keys()]
    if now:
        gone = homeassistant.vanished(before.get(topic, {}), payload["cmps"])
        if gone:
            messages.append((topic, to_json(homeassistant.without(payload, gone))))
        messages.append((topic, to_json(payload)))
    for place, message in messages:
        try:
            await (await connection.publish(place, message, retain=True))
        except TooLarge:  # Home Assistant reads it whole, or not at all
            now = {}
        except Refused as error:
            if place in now:
                rejected_topics.refused(error)
                return  # what it was told last stays written down
            # The access list may forbid us by now what we said once.
            log.warning("discovery_not_taken_back", topic=place, why=str(error))
        else:
            rejected_topics.took(place)
    if now != before:
        try:
            replace(path, json.dumps(now).encode())
        except OSError as error:
            log.warning("discovery_not_written_down", why=str(error))


def told_before(path: Path) -> tuple[Told, str]:
    """Return what was told last: components by topic.

    And what an alert says of the file, if it was damaged and is set aside.
    """
    try:
        data = read_state(path, LARGEST_COMPONENTS)
        return ({} if data is None else homeassistant.remembered(data)), ""
    except (Damaged, ValueError) as error:
        why = str(error) if isinstance(error, Damaged) else f"{path}: {error}"
        return {}, without(path, why)
