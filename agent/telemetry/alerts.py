"""Alerts: retained while active, emptied when cleared, said again after a reconnect."""

import asyncio
from collections.abc import Collection
from typing import Any, Protocol

import structlog

from agent.core.errors import Undelivered
from agent.mqtt.link import Link
from agent.protocol.publishing import publish_object

# All there are. A retained one may be left from a process that was killed: what is not
# active is cleared at the first connection.
POISON = "poison"
STATE_DAMAGED = "state_damaged"
STOLEN = "id_taken_over"  # but this one only after a while in peace
NAMES = (
    "outbox_full",
    "outbox_filling",
    "outbox_damaged",
    "upstream_gone",
    "answers_unusable",
    "reload_refused",
    "calibration_mismatch",
    "clock_wrong",
    "disk_low",
    "input_stalled",
    "result_refused",
    "subscription_refused",
    POISON,
    STATE_DAMAGED,
    STOLEN,
)

log = structlog.get_logger()


class AlertTopics(Protocol):
    """Who names the topic of an alert."""

    def alert(self, name: str) -> str:
        """Return where it is retained while it is active."""


class Alerts:
    """Owns what is wrong now, and what of it the broker has not heard yet."""

    def __init__(
        self, link: Link, topics: AlertTopics, names: Collection[str] = NAMES
    ) -> None:
        """`link` carries them; `run` publishes. `names` are all that may be raised."""
        self._link = link
        self._topics = topics
        self._active: dict[str, dict[str, Any]] = {}
        self._unsaid: set[str] = set(names) - {STOLEN}
        self._damages: list[str] = []
        self._changed = asyncio.Event()
        self._changed.set()

    @property
    def active(self) -> list[str]:
        """The names of the active alerts."""
        return sorted(self._active)

    def activate(self, name: str, detail: str, **more: Any) -> None:
        """Make an alert active; saying the same again changes nothing."""
        alert = {"alert": name, "detail": detail, **more}
        if self._active.get(name) == alert:
            return
        if name not in self._active:
            log.error("alert", alert=name, detail=detail)
        self._active[name] = alert
        self._say(name)

    def state_damaged(self, detail: str) -> None:
        """Tell of a damaged state file, beside others; empty: there is none."""
        if detail and detail not in self._damages:
            self._damages.append(detail)
            self.activate(STATE_DAMAGED, "; ".join(self._damages))

    def show(self, name: str, detail: str) -> None:
        """Make an alert active with a detail, or end it without."""
        if detail:
            self.activate(name, detail)
        else:
            self.clear(name)

    def clear(self, name: str) -> None:
        """End an alert, if it is active."""
        if self._active.pop(name, None):
            log.info("alert_cleared", alert=name)
            self._say(name)

    def repeat(self) -> None:
        """Say all that is active again, and what the broker did not hear.

        It may have forgotten the one, and missed that the other is over.
        """
        self._unsaid.update(self._active)
        self._changed.set()

    def _say(self, name: str) -> None:
        self._unsaid.add(name)
        self._changed.set()

    async def run(self) -> None:
        """Publish changes until cancelled."""
        while True:
            await self._changed.wait()
            connection = await self._link.connection()
            self._changed.clear()
            for name in sorted(self._unsaid):
                alert = self._active.get(name)
                topic = self._topics.alert(name)
                self._unsaid.discard(name)
                try:
                    if alert:
                        await publish_object(connection, topic, alert)
                    else:
                        await (await connection.publish(topic, b"", retain=True))
                except Undelivered as error:
                    log.warning("alert_not_published", alert=name, why=str(error))
                    self._unsaid.add(name)
