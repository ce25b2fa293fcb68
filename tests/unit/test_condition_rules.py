"""The rules that raise alerts: a table, and what begins and ends them."""

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, cast

import pytest

from agent.daemon.conditions import RULES, Facts, look
from agent.protocol.health import OutboxHealth
from agent.telemetry.alerts import NAMES
from agent.telemetry.host import HostVitals

if TYPE_CHECKING:
    from agent.telemetry.alerts import Alerts

HOST = HostVitals(None, None, None, 0.0, 50, 100, clock_wrong=False)
WELL = Facts(HOST, outbox=OutboxHealth(waiting=1, filled=0.1))


def disk(free: int | None, size: int | None = 1000) -> Facts:
    """Return facts of a disk of 1000 bytes."""
    return replace(WELL, host=replace(HOST, disk_free_bytes=free, disk_bytes=size))


def outbox(filled: float | None) -> Facts:
    """Return facts of an outbox."""
    return replace(WELL, outbox=OutboxHealth(waiting=7, filled=filled))


@pytest.mark.parametrize(
    ("name", "facts", "begins", "goes_on"),
    [
        ("disk_low", disk(49), "4.9% of the disk is free", True),
        ("disk_low", disk(50), "", True),
        ("disk_low", disk(59), "", True),
        ("disk_low", disk(60), "", False),
        ("disk_low", disk(None), "", False),
        ("disk_low", disk(1, None), "", False),
        ("outbox_filling", outbox(0.8), "7 cases wait, 80% of their room", True),
        ("outbox_filling", outbox(0.79), "", True),
        ("outbox_filling", outbox(0.7), "", True),
        ("outbox_filling", outbox(0.69), "", False),
        ("outbox_filling", outbox(None), "", False),
        ("outbox_filling", replace(WELL, outbox=None), "", False),
        ("clock_wrong", replace(WELL, clock_fault="years"), "years", True),
        (
            "calibration_mismatch",
            replace(WELL, uncalibrated=["home", "desk"]),
            "the calibration does not fit: home, desk",
            True,
        ),
        (
            "input_stalled",
            replace(WELL, stalled=["home"]),
            "no message for home",
            True,
        ),
    ],
)
def test_what_begins_an_alert_and_what_keeps_it(
    name: str, facts: Facts, begins: str, *, goes_on: bool
) -> None:
    """Two limits each for what fluctuates, so that no alert comes and goes."""
    assert RULES[name](facts) == begins
    assert bool(RULES[name](replace(facts, active=[name]))) is goes_on


def test_rules_are_of_alerts_that_exist_and_nothing_is_wrong_for_itself() -> None:
    """A device that is well raises none."""
    assert RULES.keys() <= set(NAMES)
    assert not any(rule(WELL) for rule in RULES.values())


@dataclass
class Board:
    """Alerts as they are raised and cleared."""

    raised: dict[str, str] = field(default_factory=dict)
    cleared: set[str] = field(default_factory=set)

    def activate(self, name: str, detail: str) -> None:
        """Note it."""
        self.raised[name] = detail

    def clear(self, name: str) -> None:
        """Note it."""
        self.cleared.add(name)


def test_a_look_raises_and_clears_all_that_rules_decide() -> None:
    """What is wrong is raised with what is wrong, all else is cleared."""
    board = Board()
    look(disk(1), cast("Alerts", board))
    assert board.raised == {"disk_low": "0.1% of the disk is free"}
    assert board.cleared == RULES.keys() - {"disk_low"}
