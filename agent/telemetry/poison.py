"""The alert about messages that ended as `poison`, until none did for a while."""

import asyncio

from agent.core.types import DeadLetter, Reason
from agent.telemetry.alerts import POISON, Alerts

QUIET_S = 3600.0  # so long after the last one the alert ends


class PoisonAlert:
    """Owns the alert, and the time at which it ends."""

    def __init__(self, alerts: Alerts) -> None:
        """`alerts` hear of it."""
        self._alerts = alerts
        self._end: asyncio.TimerHandle | None = None

    def look(self, ending: object) -> None:
        """Raise the alert if this is the dead letter of a poison message."""
        if not isinstance(ending, DeadLetter) or ending.reason is not Reason.POISON:
            return
        self.tell(f"message {ending.id} on {ending.topic[:200]}: {ending.detail}")

    def tell(self, detail: str) -> None:
        """Raise the alert, until an hour passed without another one."""
        self._alerts.activate(POISON, detail)
        if self._end:
            self._end.cancel()
        loop = asyncio.get_running_loop()
        self._end = loop.call_later(QUIET_S, self._alerts.clear, POISON)
