"""The one place where paho is changed: how it reads a PUBLISH, and how large.

paho 2.2 takes a property with U+FEFF, which MQTT 5 allows (1.5.4-3), for a broken
packet and ends the connection: the broker sends the message again, for ever. It copies
the rest of a packet for each property, and keeps a packet in memory whatever its size.
So PUBLISH packets are read by `agent/mqtt/incoming.py`, and of one beyond a limit only
the beginning is kept. tests/unit/test_incoming.py tells when a release of paho makes
this unnecessary, or impossible.
"""

from collections.abc import Callable
from typing import Any, Self

import paho.mqtt.client as paho
import structlog
from paho.mqtt.enums import MQTTErrorCode

from agent.mqtt.incoming import Incoming, Malformed, decode_publish

PUBLISH = 0x30
KEPT_BYTES = 262_144  # of a packet beyond the limit: topic, properties, some payload

log = structlog.get_logger()


class PacketReader(paho.Client):
    """A paho client that hands over every PUBLISH; it calls no `on_message`."""

    def __init__(
        self,
        limit: int,
        on_incoming: Callable[[Incoming], None],
        *args: Any,
        **options: Any,
    ) -> None:
        """`limit` is in bytes of a packet; the rest is paho's."""
        super().__init__(*args, **options)
        self._limit = limit
        self._on_incoming = on_incoming

    def _packet_read(self) -> MQTTErrorCode:
        if not self._in_packet["packet"]:
            self._in_packet["packet"] = _Kept(self._most)
        return super()._packet_read()

    def _most(self) -> int:
        """Return how many bytes of the current packet are kept."""
        size = self._in_packet["remaining_length"]
        return size if size <= self._limit else min(KEPT_BYTES, self._limit)

    def _packet_handle(self) -> MQTTErrorCode:
        first, body = self._in_packet["command"], self._in_packet["packet"]
        if first & 0xF0 != PUBLISH:
            return super()._packet_handle()
        size = self._in_packet["remaining_length"]
        try:
            incoming = decode_publish(
                first, body, size, v5=self._protocol == paho.MQTTv5
            )
        except Malformed as why:  # nobody can acknowledge it: go on with the next
            log.error("unreadable_packet", why=str(why), bytes=size)  # noqa: TRY400
        else:
            self._on_incoming(incoming)
        return MQTTErrorCode.MQTT_ERR_SUCCESS


class _Kept(bytearray):
    """The bytes of a packet as they are read, as many as are kept."""

    def __init__(self, most: Callable[[], int]) -> None:
        super().__init__()
        self._most = most

    def __iadd__(self, more: Any) -> Self:  # type: ignore[misc]
        room = self._most() - len(self)
        if room >= len(more):
            return super().__iadd__(more)
        return super().__iadd__(more[:room]) if room > 0 else self
