"""The fleet's word at work: takes signed files, judges how they do, says what became.

What a file may do is `agent/fleet/rollout.py`'s to say; this carries it out.
"""

import asyncio
from collections.abc import Callable
from typing import Any

import structlog
from pydantic_core import to_json

from agent.core.errors import ConfigError, Undelivered
from agent.core.types import Message
from agent.daemon.assembly import Opened
from agent.daemon.config_source import ConfigSource
from agent.fleet.probation import HealthSignals
from agent.fleet.rollout import RolloutOutcome
from agent.mqtt.connection import Connection
from agent.mqtt.link import Link
from agent.protocol.messages import Topics

TURN_S = 0.5  # how often we look what came, and how we do

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
        self._said: dict[str, Any] | None = None

    def takes(self, message: Message) -> bool:
        """Take a message if it is a fleet file; empty: it was taken off its topic."""
        if not self._config_source.topic or message.topic != self._config_source.topic:
            return False
        message.ack()  # it is retained: it comes again with the next connection
        self._came = message.payload or None
        return True

    async def introduce(self, connection: Connection) -> None:
        """Say on a new connection what we run, if we belong to a fleet."""
        report = self._config_source.report()
        if report:
            said = to_json(report)
            await (await connection.publish(self._topic, said, retain=True))

    def retire(self) -> None:
        """Say that something else takes over: what comes now is for that."""
        self._retired = True

    async def run(self) -> None:
        """Work until something else takes over."""
        while self._config_source.active:
            await asyncio.sleep(TURN_S)
            async with self._turn:
                if self._retired:
                    return
                outcome = await self._look()
                if outcome and outcome.switch and await self._gave_way(outcome):
                    return
            await self._tell()

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

    async def _tell(self) -> None:
        report = self._config_source.report()
        if report is None or report == self._said or not self._link.connected:
            return
        connection = await self._link.connection()
        try:
            said = to_json(report)
            await (await connection.publish(self._topic, said, retain=True))
        except Undelivered as error:
            log.warning("fleet_report_not_published", why=str(error))
        else:
            self._said = report
