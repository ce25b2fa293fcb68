"""Logs: one event a line, on standard error, from the chosen level up."""

import hashlib
import json
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import structlog

from agent.core.log import LEVELS, configure, hash_ids


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """Leave structlog as it was."""
    yield
    structlog.reset_defaults()


def test_json_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """Away from a terminal, each event is one JSON object with a time."""
    configure("info")
    structlog.get_logger().info("handled", id="01JD", words="zwei\nZeilen")
    out, err = capsys.readouterr()
    assert out == ""
    event = json.loads(err)
    assert list(event)[:3] == ["event", "level", "timestamp"]
    assert event.pop("timestamp").endswith("Z")
    assert event == {
        "event": "handled",
        "id": "01JD",
        "words": "zwei\nZeilen",
        "level": "info",
    }


def test_traceback_stays_on_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    """An exception is part of its event."""
    configure("info")
    try:
        int("broken")
    except ValueError:
        structlog.get_logger().exception("model_failed")
    [line] = capsys.readouterr().err.splitlines()
    assert "ValueError: invalid literal" in json.loads(line)["exception"]


@pytest.mark.parametrize("level", LEVELS)
def test_levels(capsys: pytest.CaptureFixture[str], level: str) -> None:
    """A level says nothing of those below it."""
    configure(level)
    log = structlog.get_logger()
    for name in LEVELS:
        getattr(log, name)("said")
    heard = [json.loads(line)["level"] for line in capsys.readouterr().err.splitlines()]
    assert heard == list(LEVELS)[list(LEVELS).index(level) :]


def say_everything() -> None:
    """Log at every level, and a failure."""
    configure("debug")
    log = structlog.get_logger()
    for name in LEVELS:
        getattr(log, name)("said")
    try:
        int("broken")
    except ValueError:
        log.exception("failed")


@pytest.mark.parametrize("ours", [True, False])
def test_priorities_for_the_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, ours: bool
) -> None:
    """Where standard error is the journal's, `journalctl -p warning` tells them apart.

    It is not where a process in between has redirected it.
    """
    with (tmp_path / "journal").open("w") as stream:
        known = os.fstat(stream.fileno())
        inode = known.st_ino if ours else known.st_ino + 1
        monkeypatch.setenv("JOURNAL_STREAM", f"{known.st_dev}:{inode}")
        monkeypatch.setattr(sys, "stderr", stream)
        say_everything()
    lines = (tmp_path / "journal").read_text("utf-8").splitlines()
    priorities = ["<7>", "<6>", "<4>", "<3>", "<3>"] if ours else [""] * 5
    for line, priority in zip(lines, priorities, strict=True):
        assert line.startswith(priority + "{")
        assert json.loads(line.removeprefix(priority))["level"]


def drained(reader: int) -> str:
    """Return all that was written to a terminal, and close it."""
    parts = []
    with suppress(OSError):  # Linux's end of a terminal whose other side is closed
        while part := os.read(reader, 100_000):
            parts.append(part)
    os.close(reader)
    return b"".join(parts).decode()


def test_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """People get words instead of JSON, and of a failure no variables."""
    reader, writer = os.openpty()
    with os.fdopen(writer, "w") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        say_everything()
    shown = drained(reader)
    assert shown.count("said") == len(LEVELS)
    assert "ValueError: invalid literal" in shown
    assert "{" not in shown
    assert "locals" not in shown


def test_hashed_ids(capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever knows an id finds its line; whoever reads the line learns no id."""
    configure("info")
    hash_ids(wanted=True)
    structlog.get_logger().info("handled", id="jane.doe@example.com")
    structlog.get_logger().info("handled", id=7)
    hash_ids(wanted=False)
    structlog.get_logger().info("handled", id="jane.doe@example.com")
    said = [json.loads(line)["id"] for line in capsys.readouterr().err.splitlines()]
    digest = hashlib.sha256(b"jane.doe@example.com").hexdigest()
    assert said == [digest[:16], 7, "jane.doe@example.com"]
