"""Logs: JSON lines for machines, colours for a terminal; never a message's text."""

import logging
import os
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
PRIORITIES = {
    "debug": 7,
    "info": 6,
    "warning": 4,
}  # the journal's; all else is an error


def configure(level: str) -> None:
    """Write events of `level` and above to standard error."""
    set_level(level)
    structlog.configure(
        processors=[
            _drop_below,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *_rendering(),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )


def _rendering() -> list[structlog.typing.Processor]:
    """Return what makes a line of an event, for whoever reads standard error."""
    if sys.stderr.isatty():
        # Plain, because others show variables, and with them texts.
        plain = structlog.dev.plain_traceback
        return [structlog.dev.ConsoleRenderer(exception_formatter=plain)]
    line = _journal_line if _is_journal() else _json
    return [structlog.processors.format_exc_info, line]


def _is_journal() -> bool:
    """Tell whether standard error is the journal's: systemd names device and inode."""
    try:
        stream = os.fstat(sys.stderr.fileno())
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{stream.st_dev}:{stream.st_ino}"


_json = structlog.processors.JSONRenderer()


def _journal_line(
    logger: structlog.typing.WrappedLogger,
    method: str,
    event: structlog.typing.EventDict,
) -> str:
    """Return a line that begins with its priority, see sd-daemon(3)."""
    return f"<{PRIORITIES.get(method, 3)}>{_json(logger, method, event)!s}"


def set_level(level: str) -> None:
    """Write events of `level` and above from now on; raises KeyError."""
    _least["level"] = LEVELS[level]


_least = {"level": logging.INFO}


def _drop_below(
    _logger: object, method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    # Here, and not in the wrapper class: loggers are cached with their class.
    number = LEVELS.get(method, logging.ERROR)  # exception() is an error, too
    if number < _least["level"]:
        raise structlog.DropEvent
    return event
