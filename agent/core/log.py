"""Configure the log: JSON lines for machines, colours on a terminal.

The text of a message is never logged.
"""

import hashlib
import logging
import os
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

FIRST = ("event", "level", "timestamp")
HASH_SHOWN = 16  # hexadecimal digits of the hash of an id
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
}  # syslog priorities of the journal; all other events are errors (3)


def configure(level: str) -> None:
    """Write events of `level` (a key of LEVELS) and above to standard error.

    Raises KeyError for another level.
    """
    set_level(level)
    structlog.configure(
        processors=[
            _drop_below,
            _hash_id,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _ordered,
            *_rendering(),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )


def _rendering() -> list[structlog.typing.Processor]:
    """Return the processors that turn an event into a line on standard error."""
    if sys.stderr.isatty():
        # Plain tracebacks: others show local variables, which may be texts.
        plain = structlog.dev.plain_traceback
        return [structlog.dev.ConsoleRenderer(exception_formatter=plain)]
    line = _journal_line if _is_journal() else _json
    return [structlog.processors.format_exc_info, line]


def _is_journal() -> bool:
    """Tell whether standard error goes to the journal.

    systemd sets JOURNAL_STREAM to device and inode of that stream.
    """
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
    """Return a line that begins with its priority, as `<6>` (sd-daemon(3))."""
    return f"<{PRIORITIES.get(method, 3)}>{_json(logger, method, event)!s}"


def set_level(level: str) -> None:
    """Write events of `level` and above from now on; raises KeyError for others."""
    _least["level"] = LEVELS[level]


def hash_ids(*, wanted: bool) -> None:
    """Write hashes of producers' ids from now on, or the ids themselves."""
    _ids["hashed"] = wanted


_least = {"level": logging.INFO}
_ids = {"hashed": False}


def _hash_id(
    _logger: object, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    if _ids["hashed"] and isinstance(event.get("id"), str):
        event["id"] = hashlib.sha256(event["id"].encode()).hexdigest()[:HASH_SHOWN]
    return event


def _ordered(
    _logger: object, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """Put first what every event has: eyes find it, and so does a line that is cut."""
    first = {name: event[name] for name in FIRST if name in event}
    return {**first, **event}


def _drop_below(
    _logger: object, method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    # Not in the wrapper class: loggers are cached with their class and its level.
    number = LEVELS.get(method, logging.ERROR)  # exception() counts as an error
    if number < _least["level"]:
        raise structlog.DropEvent
    return event
