"""Logs: one JSON object a line, on standard error, from the chosen level up."""

import json
from collections.abc import Iterator

import pytest
import structlog

from agent.log import LEVELS, configure


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
