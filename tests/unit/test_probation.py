"""Trials: a version is to blame for what it changed, and for nothing else."""

from dataclasses import replace

import pytest

from agent.config.load import Config
from agent.fleet.probation import DROPPED, DROPS, HealthSignals, Probation
from harness.fleets import resolve

WELL = HealthSignals(connected=True)
MINE = frozenset({"home"})
UPSTREAM = '[agent.upstream]\ntransport = "http"\nmodel = "a"\nurl = "http://one/v1"\n'
HOME = "[pipelines.home.input]\n"


def config(toml: str) -> Config:
    """Return the configuration that a fleet file makes."""
    return resolve(f'unlisted = "accept"\n{toml}').config


def probation(now: str, before: str, *alerts: str) -> Probation:
    """Return a trial of one fleet file after another."""
    return Probation(config(now), config(before), frozenset(alerts))


def refused(topic: str) -> HealthSignals:
    """Return the signs of a topic that the broker refuses."""
    return replace(WELL, refused=frozenset({topic}))


def test_well() -> None:
    """Whatever it changed, a version without a sign of trouble is well."""
    changed = probation(f'{UPSTREAM}[agent.mqtt]\nurl = "mqtt://b"', "")
    assert changed.broke(WELL) is None
    assert changed.spoilt(WELL) is None


def test_models_are_never_in_order_when_they_fail() -> None:
    """A model that fails counts, whatever was changed."""
    assert probation("", "").broke(replace(WELL, broken="a model failed"))


@pytest.mark.parametrize(
    ("now", "topic"),
    [
        ('[pipelines.home.output]\ntopic = "x/y"', "x/y"),
        (f'{HOME}topics = ["x/+"]', "x/+"),
        ('enable = ["home", "media"]', "slm/pi-1/result/media"),
        ('enable = ["home", "media"]', "slm/pi-1/deadletter/media"),
        ("agent.homeassistant.enable = true", "homeassistant/status"),
        (
            "agent.homeassistant.enable = true",
            "homeassistant/device/slm_pi-1/config",
        ),
    ],
)
def test_refused_topics(now: str, topic: str) -> None:
    """What the broker refuses counts if this version brought the topic."""
    why = probation(now, "").broke(refused(topic))
    assert why
    assert topic in why
    assert probation(now, now).broke(refused(topic)) is None
    assert probation(now, "").broke(refused("slm/pi-1/health")) is None


def test_a_calibration_that_does_not_fit() -> None:
    """It counts if this version chose the bundle."""
    signs = replace(WELL, uncalibrated=MINE)
    other = '[pipelines.home.model]\nbundle = "media"'
    assert probation(other, "").broke(signs)
    assert probation("", 'enable = ["media"]').broke(signs)
    assert probation("agent.engine.max_batch = 2", "").broke(signs) is None


@pytest.mark.parametrize("sign", ["stalled", "unread"])
def test_dead_input(sign: str) -> None:
    """Nothing heard, or nothing of it understood, counts if the input was changed."""
    signs = replace(WELL, **{sign: MINE})
    assert probation(f'{HOME}text = "a.b"', "").spoilt(signs)
    assert probation("agent.engine.max_batch = 2", "").spoilt(signs) is None
    assert probation(f'{HOME}text = "a.b"', "").broke(signs) is None  # it may pass
    before = probation(f'{HOME}text = "a.b"', "", "input_stalled").spoilt(signs)
    assert (before is None) is (sign == "stalled")


@pytest.mark.parametrize(
    ("alert", "now", "before", "other"),
    [
        (
            "upstream_gone",
            UPSTREAM.replace("one", "two"),
            UPSTREAM,
            f"{UPSTREAM}[agent.upstream.budget]\ncalls_per_day = 1",
        ),
        (
            "outbox_full",
            "agent.outbox.max_bytes = 2000000",
            "",
            "agent.engine.max_batch = 2",
        ),
        (
            "id_taken_over",
            'agent.mqtt.client_id = "x"',
            "",
            "agent.mqtt.max_backlog = 9",
        ),
    ],
)
def test_alerts(alert: str, now: str, before: str, other: str) -> None:
    """An alert counts if it is new, and this version changed what it is about."""
    signs = replace(WELL, alerts=frozenset({alert, "disk_low"}))
    assert probation(now, before).spoilt(signs) == alert
    assert probation(now, before, alert).spoilt(signs) is None
    assert probation(other, before).spoilt(signs) is None
    assert probation(now, before).broke(signs) is None  # it may pass


def test_the_way_to_the_broker() -> None:
    """Another address or name is another way; how much may be in hand is none."""
    assert probation('agent.mqtt.url = "mqtt://b"', "").moved
    assert probation('agent.mqtt.client_id = "b"', "").moved
    assert not probation("agent.mqtt.max_backlog = 9", "").moved


def test_connections_that_the_broker_ends() -> None:
    """So many in a row count whatever was changed, unless it was so before."""
    some = HealthSignals(connected=False, dropped=DROPS - 1)
    many = HealthSignals(connected=False, dropped=DROPS)
    why = probation("", "").broke(many)
    assert why
    assert f"ended {DROPS} connections" in why
    assert probation("", "").broke(some) is None
    assert DROPPED in many.before
    assert DROPPED not in some.before
    assert probation("", "", *many.before).broke(many) is None
