"""The link: stays connected for years, and knows which messages will come again."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import structlog

from agent.core.errors import Refused, Undelivered
from agent.core.types import Message
from agent.mqtt.abilities import QOS_NOT_SUPPORTED, RETAIN_NOT_SUPPORTED
from agent.mqtt.connection import Connection
from agent.mqtt.endpoint import Endpoint
from agent.mqtt.message_ids import IdTable
from agent.mqtt.side_connection import side_connection
from agent.mqtt.subscribing import Subscriptions
from agent.mqtt.topic_filters import number_of

STABLE_S = 60.0  # a connection that lasted this long forgives the failures before it
FLAP_S = 5.0  # a connection that did not last as long makes us wonder
FLAPS = 3  # so many in a row, and we look whether our id is somebody else's, too
GRACE_S = 1.0  # how much later another connection may notice that the network is gone
YIELD_S = 60.0  # how long we leave a stolen client id alone at first
YIELD_MAX_S = 3600.0
INTRODUCTION_S = 30.0  # for all that is said after a connect

log = structlog.get_logger()


@dataclass(slots=True)
class LinkCounters:
    """What happened since the start."""

    connects: int = 0
    takeovers: int = 0


def backoff(attempt: int, ceiling_s: float = 30.0) -> float:
    """Return seconds to wait before try `attempt` (from 1): capped, fully jittered."""
    return random.uniform(0.1, min(ceiling_s, 0.5 * 2.0 ** min(attempt, 16)))  # noqa: S311


class Link:
    """Owns the current connection and makes the next one.

    `on_message` and `on_up` are called in the event loop; `on_up` after each connect,
    once all subscriptions stand.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        filters: Sequence[str],
        ids: IdTable | None,
        on_message: Callable[[Message], None],
        on_up: Callable[[Connection], Awaitable[None]],
        on_stolen: Callable[[], Awaitable[None]],
        anew: Collection[str] = (),
        *,
        needs_all: bool = True,
    ) -> None:
        """Take all that a connection needs; `run` opens it.

        By the filters `anew` what is retained comes with each connection. `needs_all`:
        without one of the filters the connection is of no use.
        """
        self.counters = LinkCounters()
        self._endpoint = endpoint
        self._subscriptions = Subscriptions(filters, anew, needs_all=needs_all)
        self._ids = ids
        self._on_message = on_message
        self._on_up = on_up
        self._on_stolen = on_stolen
        self._epoch = 0
        self._session_since = 0  # the first epoch of the session the broker has now
        self._unheard = False  # whether a CONNACK may have been lost since the last one
        self._connection: Connection | None = None
        self._up = asyncio.Event()
        self._up_since = 0.0
        self._trying_since: float | None = None
        self._in_order = False
        self._costs: dict[str, str] = {}  # of the broker's limits, as was logged
        self._dropped = 0
        self._hung_up = False  # the current connection, by us

    @property
    def refused(self) -> Mapping[str, str]:
        """The filters that the broker refuses us, mostly none, and what it says."""
        return self._subscriptions.refused

    @property
    def dropped(self) -> int:
        """How many connections in a row the broker accepted and soon ended."""
        lasts = self.connected and time.monotonic() - self._up_since >= FLAP_S
        return 0 if lasts else self._dropped

    @property
    def connected(self) -> bool:
        """Whether the broker let us in, answered each SUBSCRIBE, and is still there."""
        return self._up.is_set()

    @property
    def settled(self) -> bool:
        """Whether nobody contested the current connection for a while."""
        return self.connected and time.monotonic() - self._up_since >= STABLE_S

    @property
    def trying_s(self) -> float:
        """How long the try to connect that goes on has taken; 0 while there is none."""
        since = self._trying_since
        return 0.0 if since is None else time.monotonic() - since

    async def connection(self) -> Connection:
        """Return the current connection; waits while there is none."""
        await self._up.wait()
        if self._connection is None:
            raise AssertionError("up without a connection")
        return self._connection

    def comes_again(self, message: Message) -> bool:
        """Tell whether the broker will send, or has sent, this message again.

        True for an unacknowledged message of an earlier connection if the broker kept
        our session since. False if it forgot the session: then we alone have it.
        """
        if message.qos == 0 or message.epoch == self._epoch:
            return False
        return message.epoch >= self._session_since

    def filters_of(self, message: Message) -> list[str] | None:
        """Return the filters that the broker says the message matched (MQTT 5)."""
        numbers = set(message.subscriptions)
        matched = [t for t in self._subscriptions.filters if number_of(t) in numbers]
        return matched or None  # None, too, for those of an earlier configuration

    def hang_up(self) -> None:
        """Drop the connection: the broker sends what we did not acknowledge again."""
        if self._connection:
            self._hung_up = True
            self._connection.hang_up()

    def fetch_again(self, epoch: int) -> None:
        """Come back at once, only to get what we left unacknowledged on `epoch`.

        If that connection is over, the broker sends it again without being asked.
        """
        if self._connection and self._connection.epoch == epoch == self._epoch:
            log.warning("fetching_again")
            self._in_order = self._hung_up = True
            self._connection.leave()

    async def ask_again(self) -> None:
        """Ask for the filters that were refused; raises Undelivered."""
        if self._connection and self.refused:
            await self._subscriptions.retry(self._connection)

    async def close(self) -> None:
        """Disconnect politely, if connected."""
        self._up.clear()
        if self._connection:
            await self._connection.close()

    async def run(self) -> None:
        """Connect, again and again, until cancelled."""
        attempt = flaps = stolen = 0
        last_failure = ""
        while True:
            attempt += 1
            self._trying_since = time.monotonic()
            try:
                connection = await self._connect()
            except (Undelivered, OSError) as error:
                if str(error) != last_failure:
                    last_failure = str(error)
                    log.warning(
                        "connect_failed", url=self._endpoint.url, why=last_failure
                    )
                self._trying_since = None
                await asyncio.sleep(backoff(attempt))
                continue
            self._trying_since = None
            last_failure = ""
            # Nothing is published meanwhile: some brokers hang up at what we publish.
            outlived = flaps >= FLAPS and await self._outlived(connection)
            self._go_up(connection)
            ended = await connection.ended
            self._up.clear()
            lasted = time.monotonic() - self._up_since
            log.warning("disconnected", why=ended.why, lasted_s=round(lasted, 1))
            if lasted >= STABLE_S or self._in_order:
                attempt = stolen = 0
            flaps = flaps + 1 if lasted < FLAP_S and ended.taken_over is None else 0
            self._in_order = False
            taken = ended.taken_over or (flaps > 0 and outlived)
            ours = taken or self._hung_up or lasted >= FLAP_S
            self._dropped = 0 if ours else self._dropped + 1
            if taken:
                stolen += 1
                await self._give_way(stolen)
            else:
                await asyncio.sleep(backoff(attempt))

    async def _connect(self) -> Connection:
        self._epoch += 1
        connection = Connection(
            self._endpoint, self._epoch, self._ids, self._on_message
        )
        try:
            await connection.open()
        except Undelivered as error:
            self._heed(connection)
            # A lost CONNACK may have said that our session is gone: the next one will
            # find the new session, and must not be believed that it is the old one.
            self._unheard |= connection.greeted and not isinstance(error, Refused)
            raise
        if self._unheard or not connection.session_present:
            self._session_since = self._epoch
        self._unheard = False
        self._connection = connection
        self._hung_up = False
        if connection.abilities.client_id:  # our session is that of this id
            self._endpoint = replace(
                self._endpoint, client_id=connection.abilities.client_id
            )
        costs = connection.abilities.costs()
        if costs != self._costs:
            self._costs = costs
            log.warning("broker_limits", **costs)
        try:
            await self._subscriptions.make(connection)
            async with asyncio.timeout(INTRODUCTION_S):
                await self._on_up(connection)
        except TimeoutError:
            connection.hang_up()
            raise Undelivered("the broker takes no messages") from None
        except Undelivered:
            self._dropped += connection.ended.done()
            connection.hang_up()
            raise
        except asyncio.CancelledError:
            connection.abandon("cancelled")  # nobody will read it any more
            raise
        if connection.ended.done():
            self._dropped += 1
            raise Undelivered(connection.ended.result().why)
        log.info(
            "connected",
            url=self._endpoint.url,
            client_id=self._endpoint.client_id,
            session_present=connection.session_present,
        )
        return connection

    def _go_up(self, connection: Connection) -> None:
        self.counters.connects += 1
        self._up_since = time.monotonic()
        if not connection.ended.done():
            self._up.set()

    def _heed(self, connection: Connection) -> None:
        """Ask for less where the broker refused how our last will is to be sent."""
        will = self._endpoint.will
        if will and connection.refusal == RETAIN_NOT_SUPPORTED:
            self._endpoint = replace(self._endpoint, will=replace(will, retain=False))
        elif will and connection.refusal == QOS_NOT_SUPPORTED:
            self._endpoint = replace(self._endpoint, will=replace(will, qos=0))

    async def _outlived(self, connection: Connection) -> bool:
        """Tell whether a connection ends soon while one with another id lives on.

        Some brokers do not say that somebody took our id. This tells a thief from a
        broker that restarts and from a network that breaks again and again.
        """
        try:
            async with side_connection(self._endpoint, "witness") as witness:
                if not await _ends(connection, FLAP_S):
                    return False
                return not await _ends(witness.connection, GRACE_S)
        except Undelivered:
            return False

    async def _give_way(self, times: int) -> None:
        """Leave the client id to whoever took it, and say so; no reconnect war."""
        self.counters.takeovers += 1
        pause = min(YIELD_MAX_S, YIELD_S * 2.0 ** (times - 1))
        log.error(
            "client_id_taken_over", client_id=self._endpoint.client_id, wait_s=pause
        )
        await self._on_stolen()
        await asyncio.sleep(random.uniform(pause, 1.5 * pause))  # noqa: S311


async def _ends(connection: Connection, within_s: float) -> bool:
    done, _ = await asyncio.wait({connection.ended}, timeout=within_s)
    return bool(done)
