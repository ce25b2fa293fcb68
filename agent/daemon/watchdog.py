"""Systemd's watchdog: fed while the work moves on, so that what hangs is restarted.

Whoever waits for others does not hang: no connection, nobody upstream, no room in the
outbox, a full disk. Only for PUBACKs our patience has an end: what a restart cannot
mend, its first connection finds out, and from then on it is no connection.
"""

import time

from agent.escalation.cases import Escalation
from agent.inference.engine import Engine
from agent.mqtt.backlog import Backlog
from agent.mqtt.link import Link

STALL_S = 60.0  # what takes a thread longer is hung: a batch, a commit, a text
STILL_S = 300.0  # so long may nothing end that is in hand, and cases not be looked at


class Watchdog:
    """Owns what is known of how the work moves on."""

    def __init__(
        self,
        engine: Engine,
        link: Link,
        backlog: Backlog,
        escalation: Escalation | None,
    ) -> None:
        """Take what is watched."""
        self._engine = engine
        self._link = link
        self._backlog = backlog
        self._escalation = escalation
        self._ended = 0
        self._moved = time.monotonic()

    def hung(self) -> list[str]:
        """Name what does not move on though it could."""
        seconds = {"model": self._engine.busy_s(), "delivery": self._still_s()}
        if self._escalation:
            seconds |= self._escalation.busy_s()
        most = {"delivery": STILL_S, "finals": STILL_S, "cases": STILL_S}
        return [part for part, s in seconds.items() if s >= most.get(part, STALL_S)]

    def _still_s(self) -> float:
        """Return for how many seconds nothing ended that is in hand, though it could.

        Looked at often enough, for it does not see what was in between.
        """
        waits = self._escalation is not None and self._escalation.lacks_room
        able = self._backlog.messages > 0 and self._link.connected and not waits
        if not able or self._backlog.ended != self._ended:
            self._ended = self._backlog.ended
            self._moved = time.monotonic()
        return time.monotonic() - self._moved
