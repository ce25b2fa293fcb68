"""Home Assistant's device discovery: one retained payload describes the whole device.

Its form is that of Home Assistant's MQTT integration, device-based discovery.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import TypeAdapter, ValidationError

from agent.mqtt.topic_filters import checked_topic
from agent.protocol.figures import Sensor, notes
from agent.protocol.health import Health
from agent.protocol.messages import Topics

ORIGIN = "slm-agent"


def discovery_topic(prefix: str, device: str) -> str:
    """Return where the payload goes, retained."""
    return f"{prefix}/device/slm_{device}/config"


def status_topic(prefix: str) -> str:
    """Return where Home Assistant says that it is back: `online`."""
    return f"{prefix}/status"


def discovery(
    device: str, version: str, machine: str, pipelines: Sequence[str]
) -> dict[str, Any]:
    """Return the payload for a device and its pipelines."""
    return {
        "dev": {
            "ids": [f"slm_{device}"],
            "name": f"SLM {device}",
            "mf": ORIGIN,
            "mdl": machine,
            "sw": version,
        },
        "o": {"name": ORIGIN, "sw": version},
        "qos": 1,
        "cmps": _components(device, pipelines),
    }


def _components(device: str, pipelines: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return what there is to see and to press.

    Everything but `connected` is unavailable while the device is offline; that one says
    that it is.
    """
    topics = Topics(device)
    components: dict[str, dict[str, Any]] = {}

    def add(name: str, platform: str, title: str, payload: Mapping[str, Any]) -> None:
        key = f"slm_{device}_{name}"
        components[key] = {"p": platform, "uniq_id": key, "name": title, **payload}
        if name != "connected":
            components[key]["avty_t"] = topics.status

    def sensor(name: str, title: str, value: str, payload: Mapping[str, Any]) -> None:
        # `None` makes it unknown; a numeric sensor takes nothing else for it.
        template = f"{{{{ {value} | default(None) }}}}"
        add(
            name,
            "sensor",
            title,
            {**SENSOR, "stat_t": topics.health, "val_tpl": template, **payload},
        )

    add(
        "connected", "binary_sensor", "Connected", CONNECTED | {"stat_t": topics.status}
    )
    add("problem", "binary_sensor", "Problem", PROBLEM | {"stat_t": topics.health})
    for way, note in notes(Health):
        if isinstance(note, Sensor):
            place = (*way, note.part) if note.part else way
            sensor(note.name, note.title, _inside(*place), note.more)
    for name in pipelines:
        for outcome, key in (("resolved", "resolved"), ("unresolved", "open")):
            value = _inside("pipelines", name, outcome)
            sensor(f"{name}_{key}", f"{name} {outcome}", value, TOTAL)
    press = {"ent_cat": "config", "cmd_t": topics.request("reload"), "pl_prs": "{}"}
    add("reload", "button", "Reload configuration", press)
    return components


def _inside(*keys: str) -> str:
    """Return the expression for a value whose objects may all be missing, or null."""
    path = "value_json"
    for key in keys[:-1]:
        path = f"({path}['{key}'] | default({{}}, true))"
    return f"{path}['{keys[-1]}']"


CONNECTED = {
    "dev_cla": "connectivity",
    "ent_cat": "diagnostic",
    "pl_on": "online",
    "pl_off": "offline",
}
PROBLEM = {
    "dev_cla": "problem",
    "ent_cat": "diagnostic",
    "val_tpl": "{{ 'ON' if value_json.alerts else 'OFF' }}",
}
SENSOR = {"stat_cla": "measurement", "exp_aft": 300, "ent_cat": "diagnostic"}
TOTAL = {"stat_cla": "total_increasing"}


def without(payload: Mapping[str, Any], gone: Mapping[str, str]) -> dict[str, Any]:
    """Return the payload that removes components, given by key and platform.

    It is published once, before the payload that does not name them any more.
    """
    removed = {key: {"p": platform} for key, platform in gone.items()}
    return {**payload, "cmps": {**payload["cmps"], **removed}}


def platforms(payload: Mapping[str, Any]) -> dict[str, str]:
    """Return the platform of each component, to be remembered."""
    return {key: component["p"] for key, component in payload["cmps"].items()}


def remembered(data: bytes) -> dict[str, dict[str, str]]:
    """Read the platforms of components by topic, as JSON; raises ValueError."""
    try:
        topics = _REMEMBERED.validate_json(data)
    except ValidationError as error:
        raise ValueError(str(error.errors(include_url=False)[0]["msg"])) from error
    for topic in topics:
        if not _DISCOVERY.fullmatch(checked_topic(topic)):
            raise ValueError("a topic in it is none of discovery")
    return topics


_REMEMBERED = TypeAdapter(dict[str, dict[str, str]])
# By whatever prefix and id: both may have been others.
_DISCOVERY = re.compile(r".*/device/slm_[A-Za-z0-9_-]{1,64}/config")


def vanished(before: Mapping[str, str], now: Iterable[str]) -> dict[str, str]:
    """Return what was published before and is not now."""
    return {key: platform for key, platform in before.items() if key not in set(now)}
