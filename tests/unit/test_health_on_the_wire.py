"""Health on the wire: what a device says, and what is understood of it."""

import json
import re
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from agent.protocol import figures
from agent.protocol.figures import Sensor, notes
from agent.protocol.health import (
    Amounts,
    CasesHealth,
    Health,
    OutboxHealth,
    UpstreamHealth,
    document,
    understood,
)

PAGE = Path(__file__).resolve().parents[2] / "docs" / "operating.md"
WHOLE = Health(
    received=4,
    pipelines={"home": {"resolved": 2}},
    ms_p50=1.5,
    in_hand_oldest_s=0.1,
    fingerprints={"home@1": "f"},
    clock_wrong=False,
    alerts=("disk_low",),
    outbox=OutboxHealth(waiting=1, filled=0.5),
    cases=CasesHealth({"answered": 1}, 2.0, 3.0),
    upstream=UpstreamHealth(
        transport="http",
        spent_today=Amounts(calls=1, money=0.5),
        left_today_by={"home": Amounts(calls=2)},
    ),
)


def shown() -> dict[str, Any]:
    """Return the health that the documentation shows."""
    text = PAGE.read_text("utf-8").partition("\n## Health\n")[2]
    [health, *_] = re.findall(r"```json\n(.*?)```", text, re.DOTALL)
    return dict(json.loads(health))


def test_the_documented_health_is_said_as_it_is_shown() -> None:
    """Key by key, in the same order, down to the parts: it is a contract."""
    page = shown()
    said = document(understood(page))
    assert json.loads(json.dumps(said)) == page
    assert list(said) == list(page)
    for part in ("outbox", "cases", "upstream"):
        assert list(said[part]) == list(page[part])


def test_what_is_said_is_understood() -> None:
    """Through JSON and back it is the same."""
    assert understood(json.loads(json.dumps(document(WHOLE)))) == WHOLE


def test_a_part_that_is_not_there_is_not_said() -> None:
    """Without an outbox there is no key for it, but what is not known is null."""
    said = document(replace(WHOLE, outbox=None, cases=None, upstream=None))
    assert not {"outbox", "cases", "upstream"} & said.keys()
    assert said["temperature_c"] is None


@pytest.mark.parametrize(
    ("said", "health"),
    [
        ({}, Health()),
        ({"received": 5, "new": {"x": 1}}, Health(received=5)),
        ({"received": {}, "connects": 2}, Health(connects=2)),
        ({"alerts": [1], "ms_p50": "fast"}, Health()),
        ({"outbox": 1, "upstream": {"spent_today": {"calls": "x"}}}, Health()),
        ({"outbox": {"waiting": 3}}, Health(outbox=OutboxHealth(waiting=3))),
        ({"cases": {"answered": 2}}, Health(cases=CasesHealth({"answered": 2}))),
        ({"cases": [], "pipelines": {"home": 1}}, Health()),
    ],
)
def test_of_other_versions_and_of_anybody(said: Any, health: Health) -> None:
    """What is missing, unknown or nonsense takes nothing else with it."""
    assert understood(said) == health


def test_each_metric_has_one_place() -> None:
    """Two fields make one metric only where they are quantiles of it."""
    seen = set()
    for _, note in notes(Health):
        if isinstance(note, figures.Metric):
            key = (note.name, getattr(note, "quantile", ""))
            assert key not in seen
            seen.add(key)


def test_sensors_show_fields_that_exist() -> None:
    """Also those of Home Assistant that show a part of a value."""
    for way, note in notes(Health):
        if isinstance(note, Sensor) and note.part:
            value: Any = WHOLE
            for name in way:
                value = getattr(value, name)
            assert is_dataclass(value)
            assert note.part in {each.name for each in fields(value)}
