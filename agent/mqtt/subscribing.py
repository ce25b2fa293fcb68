"""The subscriptions of a link, one by one: what a broker refuses costs that alone."""

import time
from collections.abc import Collection, Sequence

from agent.core.errors import Refused, Undelivered
from agent.mqtt.connection import Connection

HANG_UPS = 3  # in a row at the same filter, and we leave it out
LEFT_OUT_S = 3600.0  # for so long: each try costs a connection
HUNG_UP = "the broker hung up each time"


class Subscriptions:
    """Owns which filters the broker grants us, and why it refuses others."""

    def __init__(
        self, filters: Sequence[str], anew: Collection[str], *, needs_all: bool
    ) -> None:
        """Take what is wanted; what is retained comes by `anew` with each connection.

        `needs_all`: without one of the filters the connection is of no use.
        """
        self.filters = list(dict.fromkeys(filters))
        self.refused: dict[str, str] = {}  # by filter, what the broker said
        self._anew = frozenset(anew)
        self._needs_all = needs_all
        self._hung_up_at = ("", 0)  # a filter, and how often in a row
        self._left_out: dict[str, float] = {}  # until when, as time.monotonic() tells

    async def make(self, connection: Connection) -> None:
        """Subscribe to all; raises Undelivered when the connection breaks.

        Some brokers hang up instead of refusing. A filter at which they did it again
        and again is left out for a while, if others are granted.
        """
        self.refused = {}
        granted = 0
        for topic in self.filters:
            if self._is_left_out(topic):
                self.refused[topic] = f"subscription {topic}: {HUNG_UP}"
                continue
            granted += await self._grants(connection, topic)
        if self._left_out and not granted:
            self._left_out.clear()
            raise Undelivered(f"no subscription, and {HUNG_UP}")

    async def retry(self, connection: Connection) -> None:
        """Ask again for what was refused; raises Undelivered."""
        for topic in list(self.refused):
            if not self._is_left_out(topic):
                await self._grants(connection, topic)

    def _is_left_out(self, topic: str) -> bool:
        return time.monotonic() < self._left_out.get(topic, 0.0)

    async def _grants(self, connection: Connection, topic: str) -> bool:
        try:
            await connection.subscribe([topic], self._anew)
        except Refused as error:
            self.refused[topic] = str(error)
            if self._needs_all:
                raise
            return False
        except Undelivered:
            if connection.ended.done() and not self._needs_all:
                self._count(topic)
            raise
        self.refused.pop(topic, None)
        if self._hung_up_at[0] == topic:
            self._hung_up_at = ("", 0)
        return True

    def _count(self, topic: str) -> None:
        """Note that the connection ended while we asked for a filter."""
        last, times = self._hung_up_at
        self._hung_up_at = (topic, times + 1 if topic == last else 1)
        if self._hung_up_at[1] >= HANG_UPS:
            self._left_out[topic] = time.monotonic() + LEFT_OUT_S
            self._hung_up_at = ("", 0)
