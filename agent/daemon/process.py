"""The daemon's process: one daemon after another, a new one after each reload."""

import asyncio
import errno
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from agent.config.load import Config, load
from agent.core.errors import ConfigError, Undelivered, Unready
from agent.core.ownership import Ownership
from agent.daemon.app import Daemon, Lasting, Next
from agent.daemon.assembly import volatile_dir
from agent.daemon.config_source import ConfigSource
from agent.daemon.opened import prepare
from agent.daemon.supervise import one_after_another, one_line, signals
from agent.mqtt.message_ids import IdTable
from agent.mqtt.side_connection import publish_aside

if TYPE_CHECKING:
    from agent.mqtt.endpoint import Endpoint

FAREWELL_MAX_S = 5.0

log = structlog.get_logger()


class Process:
    """Owns what one daemon leaves to the next."""

    def __init__(self) -> None:
        """Nothing ran yet."""
        self.lasting = Lasting()
        self.ownership = Ownership()
        self._online: Endpoint | None = None  # where `online` stands while nobody runs
        self._last: tuple[ConfigSource, Config] | None = None

    async def run(self, this: Next) -> Next | None:
        """Run a daemon; return what takes over. Raises ConfigError and Unready."""
        self.ownership.take(this.parts.config.agent.state.dir)
        with ExitStack() as stack:
            ids = id_table(this.parts.config, stack)
            daemon = Daemon(this, ids, self.lasting)
            this.config_source.runs(this.parts)
            self._last = this.config_source, this.parts.config
            following = await daemon.run()
            if daemon.introduced:
                self._online = this.parts.endpoint if following else None
        return following

    def instead(self, this: Next, error: ConfigError | Unready) -> Next:
        """Return what runs instead of what could not be run; or raise its error."""
        if isinstance(error, Unready):
            raise error
        why = one_line(error)
        try:
            return Next(this.config_source, this.config_source.failed(why))
        except ConfigError:
            if self._last is None or self._last[0] is this.config_source:
                raise
        before, config = self._last
        log.error("reload_refused", why=why)
        before.stays()
        return Next(before, prepare(config), why)

    async def say_offline(self) -> None:
        """Say what our last will would, were we not gone politely to make room."""
        endpoint = self._online
        if endpoint is None or endpoint.will is None:
            return
        will = endpoint.will
        try:
            async with asyncio.timeout(FAREWELL_MAX_S):
                await publish_aside(endpoint, will.topic, will.payload)
        except (Undelivered, TimeoutError) as error:
            log.warning("offline_not_said", why=str(error))

    def leave(self, unrun: Next | None) -> None:
        """Note that the process ends in order, whatever was opened and never ran."""
        if unrun:
            unrun.config_source.leaves()
        if self._last:
            self._last[0].leaves()


def begin(path: Path | None, on_config: Callable[[Config], None]) -> Next:
    """Return what runs first; raises ConfigError."""
    config_source = ConfigSource(path, on_config)
    return Next(config_source, config_source.begin())


async def run(path: Path | None, on_config: Callable[[Config], None]) -> None:
    """Run the daemon until it is told to stop; raises ConfigError and Unready.

    `path` is that of agent.toml; `on_config` hears of every configuration before it
    runs.
    """
    process = Process()
    supervision = process.lasting.supervision
    with signals(supervision), process.ownership:
        try:
            # Before anything there is read or written.
            process.ownership.take(load(path).agent.state.dir)
            unrun = await one_after_another(
                supervision,
                partial(begin, path, on_config),
                process.run,
                process.instead,
            )
        finally:
            await process.say_offline()
        process.leave(unrun)


def id_table(config: Config, stack: ExitStack) -> IdTable | None:
    """Open the table of ids; None on a full disk; raises ConfigError."""
    path = volatile_dir(config) / "inflight.ids"
    try:
        return stack.enter_context(IdTable(path))
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise ConfigError(f"state.dir: {path}: {error}") from error
        log.warning("no_room_for_ids", path=str(path))  # duplicates differ in id
        return None
