"""The fleet's word at work: takes signed files, judges how they do, says what became.

What a file may do is `agent/fleet/rollout.py`'s to say; this carries it out.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import structlog

from agent.core.errors import ConfigError, Undelivered
from agent.core.types import Message
from agent.daemon.config_source import ConfigSource
from agent.daemon.opened import Opened
from agent.fleet.probation import HealthSignals
from agent.fleet.rollout import RolloutOutcome
from agent.mqtt.connection import Connection
from agent.mqtt.link import Link
from agent.protocol.messages import Topics
from agent.protocol.publishing import publish_object

SETTLE_S = 0.2  # after a file came: we may just be introducing ourselves
LOOK_S = 0.5  # how often we look how we do, while a version is on probation

log = structlog.get_logger()


class FleetUpdates:
    """Owns the fleet file that came last, until it is judged."""

    def __init__(
        self,
        config_source: ConfigSource,
        link: Link,
        topics: Topics,
        signs: Callable[[], HealthSignals],
        switch: Callable[[Opened], None],
        turn: asyncio.Lock,
    ) -> None:
        """`signs` are those of now; `switch` lets other parts take over.

        `turn` is held by whoever looks what runs next: we, or a reload.
        """
        self._config_source = config_source
        self._link = link
        self._topic = topics.fleet
        self._signs = signs
        self._switch = switch
        self._turn = turn
        self._retired = False
        self._came: bytes | None = None
        self._stirred = asyncio.Event()  # a file came, or something else took over
        self._news = asyncio.Event()  # there may be something to report
        self._said: dict[str, Any] | None = None

    def takes(self, message: Message) -> bool:
        """Take a message if it is a fleet file; empty: it was taken off its topic."""
        if not self._config_source.topic or message.topic != self._config_source.topic:
            return False
        message.ack()  # it is retained: it comes again with the next connection
        self._came = message.payload or None
        self._stirred.set()
        return True

    async def introduce(self, connection: Connection) -> None:
        """Say on a new connection what we run, if we belong to a fleet."""
        report = self._config_source.report()
        if report:
            await publish_object(connection, self._topic, report)
            self._said = report
            self._news.set()  # it may have changed while this was on its way

    def retire(self) -> None:
        """Say that something else takes over: what comes now is for that."""
        self._retired = True
        self._stirred.set()

    async def run(self) -> None:
        """Work until something else takes over."""
        while self._config_source.active:
            await self._wait()
            async with self._turn:
                if self._retired:
                    return
                outcome = await self._look()
                if outcome and outcome.switch and await self._gave_way(outcome):
                    return
            self._news.set()

    async def _wait(self) -> None:
        """Wait until a file comes; while one is on probation, no longer than a look."""
        watches = self._config_source.on_probation
        with suppress(TimeoutError):
            async with asyncio.timeout(LOOK_S if watches else None):
                await self._stirred.wait()
                await asyncio.sleep(SETTLE_S)
        self._stirred.clear()

    async def _gave_way(self, outcome: RolloutOutcome) -> bool:
        try:
            parts = await asyncio.to_thread(
                self._config_source.parts, outcome.effective
            )
        except ConfigError as error:  # better on probation for ever than not at all
            log.error("fleet_version_kept", why=str(error))  # noqa: TRY400
            return False
        self._config_source.leaves()
        self._switch(parts)
        return True

    async def _look(self) -> RolloutOutcome | None:
        payload, self._came = self._came, None
        if payload is not None:
            signs = self._signs()
            return await asyncio.to_thread(self._config_source.offer, payload, signs)
        if not self._config_source.on_probation:
            return None
        return await asyncio.to_thread(self._config_source.judge, self._signs())

    async def tell(self) -> None:
        """Report what changed until cancelled; `introduce` does on a new connection."""
        while True:
            await self._news.wait()
            connection = await self._link.connection()
            self._news.clear()
            report = self._config_source.report()
            if report is None or report == self._said:
                continue
            try:
                await publish_object(connection, self._topic, report)
            except Undelivered as error:
                log.warning("fleet_report_not_published", why=str(error))
            else:
                self._said = report
