"""What doctor makes of what it finds."""

import pytest

from agent.daemon.diagnosis import _disk_level, _refusal


@pytest.mark.parametrize(
    ("share", "level"),
    [(0.049, "error"), (0.05, "warning"), (0.099, "warning"), (0.1, "ok"), (1.0, "ok")],
)
def test_a_full_disk(share: float, level: str) -> None:
    """What raises the alert `disk_low` is an error, what will soon is a warning."""
    assert _disk_level(share) == level


@pytest.mark.parametrize(
    ("report", "why"),
    [
        (b'{"state": "refused", "reason": "a key"}', "a key"),
        (b'{"state": "applied", "reason": null}', None),
        (b'{"state": "refused"}', None),
        (b"[]", None),
        (b"1", None),
        (b"", None),
        (b"\xff", None),
    ],
)
def test_a_report_of_whatever_kind(report: bytes, why: str | None) -> None:
    """Only a refusal is told: anybody may publish anything."""
    assert _refusal(report) == why
