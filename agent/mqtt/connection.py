"""One MQTT connection: paho behind this module, asyncio outside.

The law of this file: nothing that matters lives in paho. Every connection is a fresh
paho client in manual-acknowledgement mode with its own number, the epoch. Publishes
that were not acknowledged when a connection ends fail with Undelivered, and an
acknowledgement can only go to the connection its message came by: after a reconnect
packet identifiers mean other messages. `agent/mqtt/link.py` decides when to connect
again.
"""

import asyncio
import socket
import ssl
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import paho.mqtt.client as paho
import structlog
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from agent.core.errors import NobodyListens, Refused, TooLarge, Undelivered
from agent.core.types import Message
from agent.mqtt.abilities import Abilities, abilities_of
from agent.mqtt.endpoint import Endpoint, connect_properties, tls_context
from agent.mqtt.incoming import Incoming
from agent.mqtt.message_ids import IdTable, checked_id, new_ulid, ulid_text
from agent.mqtt.packets import (
    LARGEST_PACKET,
    LEAST_PACKET,
    packet_bytes,
    remaining_bytes,
)
from agent.mqtt.properties import Envelope, block_bytes, publish_properties
from agent.mqtt.reader import PacketReader
from agent.mqtt.topic_filters import checked_topic, number_of

if TYPE_CHECKING:
    from paho.mqtt.client import SocketLike

MQTT5 = 5
UNSPECIFIED = 0x80
CLOSED = "the connection was closed without a reason"
UNANSWERED = """the connection was closed before the broker answered; is it an MQTT \
port, with TLS if the url says mqtts://?"""
NO_SUBSCRIBERS = 0x10
FAILURE = 0x80
SESSION_TAKEN_OVER = 0x8E
V311_WINDOW = 20  # what brokers keep in flight by default; 3.1.1 cannot tell
OUR_WINDOW = 100
ANSWER_WAIT_S = 10.0  # for CONNACK and SUBACK
PARTING_S = 2.0  # how long we wait for the broker to close after we did
DISCONNECT = b"\xe0\x00"  # normal, in both versions

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Ended:
    """Why a connection is over.

    `taken_over`: whether another client took our id; None where nobody said anything,
    as Mosquitto 2.0.11 does not, nor any broker with MQTT 3.1.1.
    """

    why: str
    taken_over: bool | None = False


class Connection:
    """Owns one paho client and its socket, from CONNECT to the end."""

    def __init__(
        self,
        endpoint: Endpoint,
        epoch: int,
        ids: IdTable | None,
        on_message: Callable[[Message], None],
    ) -> None:
        """Prepare a connection; `on_message` is called in the event loop.

        `ids` names messages without a producer's id; None: every one gets a new id.
        """
        self.epoch = epoch
        self.session_present = False
        # With MQTT 3.1.1 a broker cannot tell what it takes; the operator can.
        v5 = endpoint.version == MQTT5
        ours = max(endpoint.max_packet_bytes, LEAST_PACKET)
        self.max_packet_bytes = LARGEST_PACKET if v5 else ours
        self.abilities = Abilities()
        self.refusal = 0  # the reason code of a CONNACK that refused us
        self.greeted = False  # whether our CONNECT may have reached the broker
        self._loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[Ended] = self._loop.create_future()
        self._endpoint = endpoint
        self._ids = ids
        self._on_message = on_message
        self._accepted = False
        self._parting = False
        self._arrivals = 0
        self._unacked: dict[int, bool] = {}  # mid -> may be acked
        self._puback: dict[int, tuple[str, asyncio.Future[None]]] = {}  # with topics
        self._too_large: set[str] = set()  # topics of which the log has said so
        self._to_be_heard: set[int] = set()  # mids of publishes that need a subscriber
        self._suback: dict[int, asyncio.Future[list[ReasonCode]]] = {}
        self._window = asyncio.Semaphore(OUR_WINDOW)
        self._connack: asyncio.Future[None] = self._loop.create_future()
        self._tick: asyncio.TimerHandle | None = None
        self._client: PacketReader = self._new_client()

    @property
    def is_v5(self) -> bool:
        """Whether MQTT 5 is spoken, so that refusals can be seen."""
        return self._endpoint.version == MQTT5

    async def open(self) -> None:
        """Connect and wait for a successful CONNACK; raises Undelivered."""
        parts = urlsplit(self._endpoint.url)
        port = parts.port or (8883 if parts.scheme == "mqtts" else 1883)
        kwargs: dict[str, object] = {}
        if self.is_v5:
            kwargs = {
                "clean_start": self._endpoint.session_expiry_s == 0,
                "properties": connect_properties(self._endpoint),
            }
        connect = partial(
            self._client.connect,
            parts.hostname or "",
            port,
            keepalive=self._endpoint.keepalive_s,
            **kwargs,  # type: ignore[arg-type]
        )
        try:
            await self._loop.run_in_executor(None, connect)
            async with asyncio.timeout(ANSWER_WAIT_S):
                await self._connack
        except TimeoutError:
            self.abandon("no answer to CONNECT")
            raise Undelivered("no answer to CONNECT") from None
        except (OSError, ValueError) as error:
            raise Undelivered(f"{type(error).__name__}: {error}") from error
        except asyncio.CancelledError:
            self.abandon("cancelled")
            raise

    async def subscribe(
        self, filters: Sequence[str], anew: Collection[str] = ()
    ) -> None:
        """Subscribe at QoS 1.

        What is retained comes if the subscription is new; by the filters `anew` (and
        with 3.1.1 by all) each time. Raises Undelivered when the broker refuses one or
        does not answer.
        """
        for topic in filters:
            if why := self.abilities.refusal_of(topic):
                raise Refused(f"{topic}: {why}", topic)
            if self.is_v5:
                retained = SubscribeOptions.RETAIN_SEND_IF_NEW_SUB
                if topic in anew:
                    retained = SubscribeOptions.RETAIN_SEND_ON_SUBSCRIBE
                shared = topic.startswith("$share/")
                options = SubscribeOptions(
                    qos=1,
                    noLocal=not shared,  # MQTT 5, 3.8.3.1: an error if shared
                    retainHandling=retained,
                )
                properties = Properties(PacketTypes.SUBSCRIBE)  # type: ignore[no-untyped-call]
                if self.abilities.identifiers:
                    properties.SubscriptionIdentifier = number_of(topic)
                _, mid = self._client.subscribe(
                    topic, options=options, properties=properties
                )
            else:
                _, mid = self._client.subscribe(topic, qos=1)
            codes = await self._granted("subscription", topic, mid)
            if self.abilities.qos and codes[0].value == 0:
                log.warning("subscribed_at_qos_0", topic=topic)

    async def unsubscribe(self, filters: Sequence[str]) -> None:
        """Take back subscriptions of this session; raises Undelivered."""
        for topic in filters:
            _, mid = self._client.unsubscribe(topic)
            await self._granted("end of subscription", topic, mid)

    async def _granted(
        self, wish: str, topic: str, mid: int | None
    ) -> list[ReasonCode]:
        if mid is None:
            raise Undelivered("connection lost")
        answer = self._suback[mid] = self._loop.create_future()
        try:
            async with asyncio.timeout(ANSWER_WAIT_S):
                codes: list[ReasonCode] = await answer
        except TimeoutError:
            raise Undelivered(f"no answer: {wish} {topic}") from None
        if any(code.value >= FAILURE for code in codes):
            why = f"{codes[0]} (0x{codes[0].value:02X})"
            raise Refused(f"{wish} {topic} refused: {why}", topic)
        return codes

    async def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        retain: bool = False,
        envelope: Envelope | None = None,
        heard: bool = False,
    ) -> asyncio.Future[None]:
        """Send at QoS 1 once the window has room; return the future of its PUBACK.

        The future fails with Refused on a reason code of failure, with Undelivered when
        the connection ends first; with NobodyListens if it shall be `heard` and the
        broker says that nobody subscribed. Raises TooLarge where the packet is larger
        than the broker takes, and Refused for a topic that is none.
        """
        properties = publish_properties(envelope) if envelope and self.is_v5 else None
        self._check(topic, payload, properties)
        await self._window.acquire()
        if self._parting:
            await asyncio.shield(self.ended)
        answer: asyncio.Future[None] = self._loop.create_future()
        if self.ended.done():
            self._window.release()
            answer.set_exception(Undelivered(self.ended.result().why))
            return answer
        can = self.abilities
        info = self._client.publish(
            topic,
            payload,
            qos=can.qos,
            retain=retain and can.retain,
            properties=properties,
        )
        if can.qos == 0:  # nobody says whether it came
            self._window.release()
            answer.set_result(None)
            return answer
        self._puback[info.mid] = topic, answer
        if heard:
            self._to_be_heard.add(info.mid)
        return answer

    def _check(self, topic: str, payload: bytes, properties: Properties | None) -> None:
        """Measure the packet; the broker hangs up on one that is too large."""
        try:
            checked_topic(topic)
        except ValueError as error:
            raise Refused(str(error), topic) from error
        block = block_bytes(properties) if self.is_v5 else 0
        name, limit = topic.encode(), self.max_packet_bytes
        size = packet_bytes(remaining_bytes(name, block, len(payload)))
        if size <= limit:
            return
        if topic not in self._too_large:
            self._too_large.add(topic)
            log.warning("too_large", topic=topic[:200], bytes=size, limit=limit)
        room = limit - 5 - remaining_bytes(name, block, 0)  # 5: the longest header
        raise TooLarge(topic, size, limit, room)

    def hang_up(self) -> None:
        """End the connection without a word: what is not acknowledged comes again."""
        self._part(b"")

    def leave(self) -> None:
        """End it with a DISCONNECT: the broker keeps our last will to itself."""
        self._part(DISCONNECT)

    async def close(self) -> None:
        """Leave, and wait until the broker closed."""
        self.leave()
        await asyncio.shield(self.ended)

    def _part(self, last_words: bytes) -> None:
        """Send no more, and read until the broker closes.

        TCP answers with a reset when a socket is closed with bytes unread, and the
        reset overtakes our last acknowledgements.
        """
        sock = self._client.socket()
        if self._parting:
            return
        if not isinstance(sock, socket.socket):
            self._end(Ended("hung up"))
            return
        self._parting = True
        self._unacked.clear()
        limit = self._loop.call_later(PARTING_S, self.abandon, "hung up")
        self.ended.add_done_callback(lambda _: limit.cancel())
        self._client.loop_write()  # acknowledgements just given
        try:
            if last_words and not self._client.want_write():
                sock.send(last_words)
            socket.socket.shutdown(sock, socket.SHUT_WR)  # ssl's own forgets the TLS
        except OSError:
            self.abandon("hung up")

    def abandon(self, why: str) -> None:
        """End it here and now, whatever the broker makes of it."""
        self._end(Ended(why))
        sock = self._client.socket()
        if sock is not None:
            self._closed(None, None, sock)
            sock.close()

    # -- what paho calls; all but _opened and _want_write come from the event loop

    def _new_client(self) -> PacketReader:
        endpoint = self._endpoint
        client = PacketReader(
            endpoint.max_packet_bytes,
            self._received,
            CallbackAPIVersion.VERSION2,
            client_id=endpoint.client_id,
            clean_session=None if self.is_v5 else endpoint.session_expiry_s == 0,
            protocol=paho.MQTTv5 if self.is_v5 else paho.MQTTv311,
            reconnect_on_failure=False,
            manual_ack=True,
        )
        client.max_inflight_messages_set(0)  # the window is ours
        if endpoint.login.username is not None:
            client.username_pw_set(endpoint.login.username, endpoint.login.password)
        if endpoint.url.startswith("mqtts:"):
            client.tls_set_context(tls_context(endpoint))
        if endpoint.will:
            client.will_set(
                endpoint.will.topic,
                endpoint.will.payload,
                qos=endpoint.will.qos,
                retain=endpoint.will.retain,
            )
        client.on_connect = self._connected
        client.on_disconnect = self._disconnected
        client.on_publish = self._published
        client.on_subscribe = client.on_unsubscribe = self._subscribed
        client.on_socket_open = self._opened
        client.on_socket_close = self._closed
        client.on_socket_register_write = self._want_write
        client.on_socket_unregister_write = self._no_write
        return client

    def _opened(self, _client: object, _data: object, sock: "SocketLike") -> None:
        if isinstance(sock, socket.socket):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.greeted = True
        self._loop.call_soon_threadsafe(self._watch, sock)

    def _watch(self, sock: "SocketLike") -> None:
        if sock.fileno() < 0:
            return
        if self.ended.done():  # hung up while connecting
            sock.close()
            return
        self._loop.add_reader(sock.fileno(), self._readable)
        self._keep_alive()

    def _closed(self, _client: object, _data: object, sock: "SocketLike") -> None:
        if sock.fileno() >= 0:
            self._loop.remove_reader(sock.fileno())
            self._loop.remove_writer(sock.fileno())
        if self._tick:
            self._tick.cancel()

    def _want_write(self, _client: object, _data: object, sock: "SocketLike") -> None:
        self._loop.call_soon_threadsafe(self._watch_write, sock)

    def _watch_write(self, sock: "SocketLike") -> None:
        if self._client.want_write() and sock.fileno() >= 0:
            self._client.loop_write()
            if self._client.want_write() and sock.fileno() >= 0:
                self._loop.add_writer(sock.fileno(), self._client.loop_write)

    def _no_write(self, _client: object, _data: object, sock: "SocketLike") -> None:
        if sock.fileno() >= 0:
            self._loop.remove_writer(sock.fileno())

    def _readable(self) -> None:
        try:
            self._client.loop_read()
            sock = self._client.socket()
            while isinstance(sock, ssl.SSLSocket) and sock.pending() > 0:
                self._client.loop_read()
                sock = self._client.socket()
        except Exception as error:  # noqa: BLE001  paho raises anything on a broken
            # packet and would read it again for ever: only a new connection helps.
            self.abandon(f"unreadable packet: {error!r}")

    def _keep_alive(self) -> None:
        if not self._parting:
            self._client.loop_misc()
        if not self.ended.done():
            ours, theirs = self._endpoint.keepalive_s, self.abilities.keepalive_s
            pause = (ours if theirs is None else theirs) / 4
            self._tick = self._loop.call_later(pause, self._keep_alive)

    def _connected(
        self,
        _client: object,
        _data: object,
        flags: paho.ConnectFlags,
        code: ReasonCode,
        properties: Properties | None,
    ) -> None:
        if self._connack.done():
            return
        if code.value >= FAILURE:
            self.refusal = code.value
            self._connack.set_exception(Refused(f"connection refused: {code}"))
            return
        self._accepted = True
        self.session_present = flags.session_present
        window = V311_WINDOW
        if self.is_v5:
            self.abilities = abilities_of(properties)
            window = self.abilities.window
            self.max_packet_bytes = self.abilities.packet_bytes or LARGEST_PACKET
            if self._tick:  # the first pause was chosen by our own keep alive
                self._tick.cancel()
                self._keep_alive()
        self._window = asyncio.Semaphore(min(window, OUR_WINDOW))
        if self.max_packet_bytes < LEAST_PACKET:
            why = f"the broker takes packets of {self.max_packet_bytes} bytes at most"
            self._loop.call_soon(self.abandon, f"{why}, {LEAST_PACKET} are needed")
            return
        self._connack.set_result(None)

    def _disconnected(
        self,
        _client: object,
        _data: object,
        flags: paho.DisconnectFlags,
        code: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        if self._parting:
            self._end(Ended("hung up"))
        elif flags.is_disconnect_packet_from_server:
            self._end(Ended(str(code), code.value == SESSION_TAKEN_OVER))
        elif code.value == UNSPECIFIED:
            self._end(Ended(CLOSED if self._accepted else UNANSWERED, None))
        else:
            self._end(Ended(str(code), None))

    def _end(self, ended: Ended) -> None:
        if self.ended.done():
            return
        self.ended.set_result(ended)
        if self._ids and self._accepted:
            self._ids.connection_ended()
        lost = Undelivered(ended.why)
        if not self._connack.done():
            self._connack.set_exception(lost)
            self._connack.exception()  # seen; nobody may be waiting any more
        pubacks, subacks = list(self._puback.values()), list(self._suback.values())
        self._puback.clear()
        self._suback.clear()
        self._unacked.clear()
        for _, puback in pubacks:
            self._window.release()
            if not puback.done():
                puback.set_exception(lost)
        for suback in subacks:
            if not suback.done():
                suback.set_exception(lost)

    def _published(
        self,
        _client: object,
        _data: object,
        mid: int,
        code: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        topic, answer = self._puback.pop(mid, ("", None))
        unheard = code.value == NO_SUBSCRIBERS and mid in self._to_be_heard
        self._to_be_heard.discard(mid)
        if answer is None:
            return
        self._window.release()
        if answer.done():
            return
        if code.value >= FAILURE:
            answer.set_exception(Refused(f"publish refused: {code}", topic))
        elif unheard:
            answer.set_exception(NobodyListens("nobody subscribed to the topic"))
        else:
            answer.set_result(None)

    def _subscribed(
        self,
        _client: object,
        _data: object,
        mid: int,
        codes: list[ReasonCode],
        _properties: Properties | None,
    ) -> None:
        answer = self._suback.pop(mid, None)
        if answer and not answer.done():
            answer.set_result(codes)

    def _received(self, incoming: Incoming) -> None:
        if self._parting:
            return  # it comes again
        self._arrivals += 1
        made = self._made_id(incoming)
        message = Message(
            topic=incoming.topic,
            payload=incoming.payload,
            qos=incoming.qos,
            id=checked_id(incoming.producer_id or "") or made,
            seq=self.epoch << 40 | self._arrivals,
            epoch=self.epoch,
            received_at=datetime.now(UTC),
            arrived=time.perf_counter(),
            ack=partial(self._ack, incoming.mid) if incoming.qos else _nothing,
            content_type=incoming.content_type,
            subscriptions=incoming.subscriptions,
            correlation=incoming.correlation,
            response_topic=incoming.response_topic,
            user=incoming.user,
            retained=incoming.retained,
            again=incoming.again,
            cut=incoming.cut,
            defect=incoming.defect,
            mid=incoming.mid,
        )
        if incoming.qos:
            self._unacked[incoming.mid] = False
        # Not here: an error of ours would leave paho with half a packet.
        self._loop.call_soon(self._on_message, message)

    def _made_id(self, incoming: Incoming) -> str:
        if not incoming.qos or self._ids is None:
            return ulid_text(new_ulid())
        return self._ids.name(
            incoming.mid,
            redelivered=incoming.again,
            topic=incoming.topic,
            payload=incoming.payload,
        )

    def _ack(self, mid: int) -> None:
        """Acknowledge in order of arrival (MQTT 5, 4.6), each as soon as it may."""
        if mid not in self._unacked:
            return  # the connection is over: the broker sends it again
        self._unacked[mid] = True
        while self._unacked:
            ready, may = next(iter(self._unacked.items()))
            if not may:
                return
            del self._unacked[ready]
            self._client.ack(ready, 1)
            if self._ids:
                self._ids.acknowledged(ready)


def _nothing() -> None:
    """Acknowledge a QoS 0 message: nobody waits for it."""
