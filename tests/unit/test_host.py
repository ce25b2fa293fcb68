"""How the machine is: when its clock is not to be believed."""

import os
import time
from pathlib import Path

import pytest

from agent.telemetry import host
from agent.telemetry.host import clock_fault

DAY_S = 86_400.0


@pytest.fixture(autouse=True)
def nobody_synchronizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let no systemd-timesyncd run; return where it would say that it does."""
    place = tmp_path / "timesync"
    monkeypatch.setattr(host, "TIMESYNC", place)
    return place


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """Return a folder with a file that was just written."""
    folder = tmp_path / "state"
    folder.mkdir()
    (folder / "outbox.db").touch()
    return folder


def test_a_clock_that_nothing_speaks_against(state: Path) -> None:
    """On a machine without systemd-timesyncd, and without any state, too."""
    assert clock_fault(state) == ""
    assert clock_fault(state / "gone") == ""
    assert not host.host_vitals(state).clock_wrong


def test_a_clock_that_is_years_behind(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It shows a time before this program was written."""
    monkeypatch.setattr(host.time, "time", lambda: 1_700_000_000.0)
    assert "years" in clock_fault(state)


@pytest.mark.parametrize(
    ("ahead_s", "fault"), [(-DAY_S, False), (30.0, False), (90.0, True), (DAY_S, True)]
)
def test_a_clock_behind_what_was_written(
    state: Path, ahead_s: float, *, fault: bool
) -> None:
    """A Pi that lost power starts an hour ago; its own files know better."""
    then = time.time() + ahead_s
    os.utime(state / "outbox.db", (then, then))
    assert ("outbox.db" in clock_fault(state)) is fault
    assert host.host_vitals(state).clock_wrong is fault


def test_a_clock_that_waits_for_a_time_server(
    state: Path, nobody_synchronizes: Path
) -> None:
    """While systemd-timesyncd runs, its word counts."""
    nobody_synchronizes.mkdir()
    assert "timesyncd" in clock_fault(state)
    (nobody_synchronizes / "synchronized").touch()
    assert clock_fault(state) == ""
