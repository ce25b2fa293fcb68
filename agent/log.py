"""Logs: JSON lines for machines, colours for a terminal; never a message's text."""

import logging
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


def configure(level: str) -> None:
    """Write events of `level` and above to standard error."""
    terminal = sys.stderr.isatty()
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer()
        if terminal
        else structlog.processors.JSONRenderer()
    )
    set_level(level)
    structlog.configure(
        processors=[
            _drop_below,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )


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
