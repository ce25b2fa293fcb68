"""Home Assistant's discovery payload, against the rules of its MQTT integration."""

import re
from typing import Any

import pytest
from jinja2 import Environment

from agent.daemon.status import HEALTH_S
from agent.protocol import homeassistant as home

TOPIC = re.compile(r"[^/]+/device/([a-zA-Z0-9_-]+)/config")
REQUIRED = {
    "binary_sensor": {"stat_t"},
    "sensor": {"stat_t"},
    "button": {"cmd_t"},
}
KNOWN = {
    "p",
    "uniq_id",
    "name",
    "stat_t",
    "val_tpl",
    "avty_t",
    "dev_cla",
    "stat_cla",
    "unit_of_meas",
    "ent_cat",
    "sug_dsp_prc",
    "exp_aft",
    "pl_on",
    "pl_off",
    "cmd_t",
    "pl_prs",
}
# What may stand where: entity categories by platform, device classes by platform, and
# for those of sensors their units and state classes.
CATEGORIES = {
    "sensor": {None, "diagnostic"},  # `config` is for what can be set
    "binary_sensor": {None, "diagnostic"},
    "button": {None, "config", "diagnostic"},
}
CLASSES = {
    "sensor": {None, "duration", "data_size", "temperature"},
    "binary_sensor": {None, "connectivity", "problem", "running", "update"},
    "button": {None, "restart", "update", "identify"},
}
TOTALS = {"measurement", "total", "total_increasing"}
UNITS = {
    "duration": {"d", "h", "min", "s", "ms"},
    "data_size": {"B", "kB", "MB", "GB", "KiB", "MiB", "GiB"},
    "temperature": {"°C", "°F", "K"},
}
STATES = {
    None: TOTALS,
    "duration": TOTALS,
    "data_size": TOTALS,
    "temperature": {"measurement"},
}
PAYLOAD = home.discovery("pi-3", "1.2.3", "aarch64", ["home", "media"])
COMPONENTS: dict[str, dict[str, Any]] = PAYLOAD["cmps"]


def test_the_topic_is_one_that_is_matched() -> None:
    """The config topic has the form that Home Assistant listens to."""
    assert TOPIC.fullmatch(home.discovery_topic("homeassistant", "pi-3"))


def test_device_origin_and_components() -> None:
    """The root has what is required, and no availability for all."""
    assert {"dev", "o", "cmps"} <= set(PAYLOAD)
    assert PAYLOAD["dev"]["ids"] == ["slm_pi-3"]
    assert PAYLOAD["o"]["name"]
    assert not {"avty", "avty_t", "~"} & set(PAYLOAD)


@pytest.mark.parametrize("key", COMPONENTS)
def test_each_component_is_whole(key: str) -> None:
    """Each has its platform, a unique id and what its platform requires, no more."""
    said = COMPONENTS[key]
    assert said["uniq_id"] == key
    assert REQUIRED[said["p"]] <= set(said)
    assert set(said) <= KNOWN
    assert len(said) > 2
    connected = key.endswith("_connected")
    assert ("avty_t" in said) is not connected


@pytest.mark.parametrize("key", COMPONENTS)
def test_values_are_allowed(key: str) -> None:
    """Home Assistant refuses an entity whose category, class or unit does not fit."""
    said = COMPONENTS[key]
    platform, kind = said["p"], said.get("dev_cla")
    assert said.get("ent_cat") in CATEGORIES[platform]
    assert kind in CLASSES[platform]
    if platform == "sensor":
        assert said["stat_cla"] in STATES[kind]
        unit = said.get("unit_of_meas")
        assert unit in UNITS[kind] if kind else unit in {None, "%"}
    else:
        assert not {"stat_cla", "unit_of_meas", "sug_dsp_prc"} & set(said)
    if "exp_aft" in said:  # several healths may be lost
        assert said["exp_aft"] > 3 * HEALTH_S


def test_names_are_short_and_differ() -> None:
    """The device's name stands before each; two alike could not be told apart."""
    names = [said["name"] for said in COMPONENTS.values()]
    assert len(set(names)) == len(names)
    assert not any("slm" in name.lower() for name in names)


def test_the_connected_sensor_can_be_off() -> None:
    """It shows `off`, not `unavailable`, when the last will speaks."""
    said = COMPONENTS["slm_pi-3_connected"]
    assert (said["stat_t"], said["pl_off"]) == ("slm/pi-3/status", "offline")


def test_a_pipeline_that_goes_takes_its_entities_along() -> None:
    """What vanished is removed once, by its platform, before it is left out."""
    after = home.discovery("pi-3", "1.2.3", "aarch64", ["home"])
    gone = home.vanished(home.platforms(PAYLOAD), after["cmps"])
    assert set(gone) == {"slm_pi-3_media_resolved", "slm_pi-3_media_open"}
    parting = home.without(after, gone)["cmps"]
    assert parting["slm_pi-3_media_open"] == {"p": "sensor"}
    assert set(parting) - set(gone) == set(after["cmps"])


@pytest.mark.parametrize(
    "key", [k for k in COMPONENTS if COMPONENTS[k]["p"] == "sensor"]
)
@pytest.mark.parametrize(
    "health",
    [
        {},
        {"outbox": None, "upstream": None, "pipelines": {}, "ms_p99": None},
        {"upstream": {"spent_today": None}, "pipelines": {"home": {}}},
    ],
)
def test_what_is_not_known_is_none(key: str, health: dict[str, Any]) -> None:
    """Home Assistant takes `None` for unknown; anything else is an error in its log."""
    template = Environment(autoescape=True).from_string(COMPONENTS[key]["val_tpl"])
    assert template.render(value_json=health) == "None"


def test_what_is_known_is_a_number() -> None:
    """Each sensor finds its figure."""
    health = {
        "percent_local": 99.5,
        "ms_p99": 3.25,
        "outbox": {"waiting": 0},
        "upstream": {"spent_today": {"calls": 7}},
        "pipelines": {"home": {"resolved": 5, "unresolved": 1}},
    }
    shown = {
        key.removeprefix("slm_pi-3_"): Environment(autoescape=True)
        .from_string(said["val_tpl"])
        .render(value_json=health)
        for key, said in COMPONENTS.items()
        if said["p"] == "sensor"
    }
    assert shown == {
        "share_local": "99.5",
        "p99": "3.25",
        "in_hand": "None",
        "outbox": "0",
        "calls": "7",
        "memory": "None",
        "temperature": "None",
        "home_resolved": "5",
        "home_open": "1",
        "media_resolved": "None",
        "media_open": "None",
    }
