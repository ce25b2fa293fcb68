"""Who takes a version: stable, growing, and fair enough."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.fleet.checks import takers
from agent.fleet.model import Condition, drawn, meets
from harness.fleets import fleet, inventory

PERCENT = st.floats(0, 100)
IDS = st.from_regex(r"\A[A-Za-z0-9_-]{1,64}\Z")
FLEET = inventory(500)


def staged(percent: float, name: str = "x", more: str = "") -> list[str]:
    """Return which of 500 devices take a version."""
    toml = (
        f'devices_file = "d"\n[rollout]\nname = "{name}"\npercent = {percent}\n{more}\n'
    )
    return takers(fleet(toml, FLEET))


@given(st.text(min_size=1), IDS, PERCENT, PERCENT)
def test_growing_only_adds(name: str, device: str, one: float, other: float) -> None:
    """A device that takes it at a percentage takes it at every larger one."""
    less, more = sorted((one, other))
    if drawn(name, device) < less:
        assert drawn(name, device) < more
    assert 0 <= drawn(name, device) < 100


def test_drawn_is_for_ever() -> None:
    """The place in a rollout is the same on every machine, in every release."""
    assert drawn("2026-12", "pi-3") == pytest.approx(5.693151, abs=1e-6)


def test_ten_then_all() -> None:
    """From 10 to 30 to 100 percent the devices only become more."""
    ten, thirty = set(staged(10)), set(staged(30))
    assert ten < thirty < set(staged(100))
    assert len(staged(100)) == 500
    assert staged(0) == []


@pytest.mark.parametrize("percent", [5, 10, 25, 50, 90])
def test_share(percent: float) -> None:
    """The share that takes it is about the percentage, among any 500 devices."""
    for name in ("a", "b", "2026-12 new models"):
        assert abs(len(staged(percent, name)) / 5 - percent) < 6


def test_another_name_draws_others() -> None:
    """Not always the same devices go first: another name draws anew."""
    one, other = set(staged(10, "spring")), set(staged(10, "autumn"))
    assert len(one & other) < len(one) / 2


def test_groups_first() -> None:
    """A group takes it whatever the percentage, and nobody else at 0."""
    group = (
        '[[group]]\nname = "canary"\nselect = { site = "lima", room = ["r2", "r6"] }'
    )
    found = staged(0, more=f'groups = ["canary"]\n{group}')
    assert found
    assert all(int(device.removeprefix("pi-")) % 4 == 2 for device in found)


@pytest.mark.parametrize(
    ("select", "devices", "meant"),
    [
        ({}, [], True),
        ({"site": "perth"}, [], True),
        ({"site": "oslo"}, [], False),
        ({"site": ["oslo", "perth"]}, [], True),
        ({"site": "!perth"}, [], False),
        ({"site": "!oslo"}, [], True),
        ({"site": ["!oslo", "!perth"]}, [], False),
        ({"floor": "1"}, [], False),
        ({"floor": "!1"}, [], True),
        ({"site": "perth", "room": "r2"}, [], False),
        ({}, ["pi-1"], True),
        ({}, ["pi-2"], False),
        ({"site": "oslo"}, ["pi-1"], False),
    ],
)
def test_conditions(
    select: dict[str, str | list[str]], devices: list[str], *, meant: bool
) -> None:
    """All that a condition says must hold; a label a device lacks equals nothing."""
    condition = Condition(select=select, devices=devices)
    assert meets(condition, "pi-1", {"site": "perth", "room": "r1"}) is meant
