"""What lasts from one daemon of a process to the next: signals, ids, and a goodbye."""

import asyncio
import ctypes
import errno
import gc
import os
import signal
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from agent.config.load import Config
from agent.core.errors import ConfigError, Undelivered
from agent.daemon.history import History
from agent.mqtt.connection import Endpoint
from agent.mqtt.message_ids import IdTable
from agent.mqtt.side_connection import publish_aside

FAREWELL_MAX_S = 5.0
BEGUN = 64  # requests that are remembered, by their ids

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Supervision:
    """What was asked of the process: to end, to reload, and requests by MQTT.

    A reload is asked for until somebody begins it, so that none is lost while one
    daemon makes room for the next. `begun` are requests that must not run again,
    `recent` the messages that can be explained.
    """

    stop: asyncio.Event = field(default_factory=asyncio.Event)
    hangup: asyncio.Event = field(default_factory=asyncio.Event)
    begun: deque[str] = field(default_factory=lambda: deque(maxlen=BEGUN))
    recent: History = field(default_factory=History)


@contextmanager
def signals(supervision: Supervision) -> Iterator[None]:
    """Take SIGTERM, SIGINT and SIGHUP while the context lasts."""
    loop = asyncio.get_running_loop()
    events = {
        signal.SIGTERM: supervision.stop,
        signal.SIGINT: supervision.stop,
        signal.SIGHUP: supervision.hangup,
    }
    for number, event in events.items():
        loop.add_signal_handler(number, event.set)
    try:
        yield
    finally:
        for number in events:
            loop.remove_signal_handler(number)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # by default it would end us


async def say_offline(endpoint: Endpoint | None) -> None:
    """Say what our last will would, were we not gone politely to make room."""
    if endpoint is None or endpoint.will is None:
        return
    will = endpoint.will
    try:
        async with asyncio.timeout(FAREWELL_MAX_S):
            await publish_aside(endpoint, will.topic, will.payload)
    except (Undelivered, TimeoutError) as error:
        log.warning("offline_not_said", why=str(error))


def id_table_path(config: Config) -> Path:
    """Return where message ids are kept: under systemd in memory, else as state."""
    runtime = os.environ.get("RUNTIME_DIRECTORY", "").split(":")[0]
    return Path(runtime or config.agent.state.dir) / "inflight.ids"


def id_table(config: Config, stack: ExitStack) -> IdTable | None:
    """Open the table of ids; None on a full disk; raises ConfigError."""
    path = id_table_path(config)
    try:
        return stack.enter_context(IdTable(path))
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise ConfigError(f"state.dir: {path}: {error}") from error
        log.warning("no_room_for_ids", path=str(path))  # duplicates differ in id
        return None


def give_back_memory() -> None:
    """Free the daemon that made room, and above all its models.

    It is a knot of references, which the collector alone would untie after thousands
    of messages, with a set of models more for each reload until then; and the C library
    would keep what is freed.
    """
    asyncio.get_running_loop().set_exception_handler(None)  # it was the daemon's
    gc.collect()
    with suppress(AttributeError, OSError):  # only glibc has it
        ctypes.CDLL(None).malloc_trim(0)
