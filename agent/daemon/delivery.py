"""Delivery: publish in order of arrival, commit cases, acknowledge last.

What is provisional is published before its case is committed, so no final result can
come before it; a message whose case is known already says nothing more. All cases that
wait are committed together.

What waits when its connection ends waits for the next one. Then the broker says whether
it kept our session. If so, it sends the message again, and we forget it; if not, the
message exists only here, and what came of it is published now.
"""

import asyncio
import heapq
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial

import structlog

from agent.core.errors import Refused, Undelivered
from agent.core.types import Message, Reason, Result
from agent.escalation.cases import Escalation
from agent.inference.engine import Outgoing, Send
from agent.mqtt.connection import Connection
from agent.mqtt.link import Link
from agent.protocol.messages import ending_object, ending_payload
from agent.protocol.publishing import Published, publish_ending
from agent.telemetry.counters import Counters
from agent.telemetry.rejected_topics import RejectedTopics

log = structlog.get_logger()


class Delivery:
    """Owns what came of messages and is not yet on its way."""

    def __init__(
        self,
        link: Link,
        counters: Counters,
        rejected_topics: RejectedTopics,
        done: Callable[[Message], None],
        escalation: Escalation | None = None,
    ) -> None:
        """`done` is called once for each message, whatever became of it.

        `escalation` takes the cases; None: there are none.
        """
        self._link = link
        self._counters = counters
        self._rejected_topics = rejected_topics
        self._done = done
        self._waiting: list[tuple[int, Outgoing]] = []
        self._filled = asyncio.Event()
        self._escalation = escalation
        self._uncommitted: list[Outgoing] = []
        self._owing = asyncio.Event()

    def put(self, outgoing: Outgoing) -> None:
        """Take what came of a message; the earliest message goes first."""
        if not outgoing.sends:
            self._owe(outgoing)
            return
        heapq.heappush(self._waiting, (outgoing.message.seq, outgoing))
        self._filled.set()

    async def run(self) -> None:
        """Deliver until cancelled."""
        while True:
            await self.deliver_once()

    async def deliver_once(self) -> None:
        """Wait for what came of a message and a connection, and publish it there."""
        await self._filled.wait()
        connection = await self._link.connection()
        _, outgoing = heapq.heappop(self._waiting)
        if not self._waiting:
            self._filled.clear()
        if self._link.comes_again(outgoing.message):
            self._done(outgoing.message)
            return
        sends = await self._unsaid(outgoing)
        sent = [await self._publish(connection, outgoing, send) for send in sends]
        published = [each for each in sent if each]
        together = asyncio.gather(*(each.puback for each in published))
        topics = [each.topic for each in published]
        together.add_done_callback(partial(self._answered, outgoing, topics))

    async def _unsaid(self, outgoing: Outgoing) -> Sequence[Send]:
        """Leave out what is provisional about a case that the outbox knows.

        It was said before the case was committed, and its final result may be out.
        """
        keys = [send.case for send in outgoing.sends if send.case]
        if not keys or not self._escalation:
            return outgoing.sends
        known = await self._escalation.known(keys)
        return [send for send in outgoing.sends if send.case not in known]

    async def _publish(
        self, connection: Connection, outgoing: Outgoing, send: Send
    ) -> Published | None:
        document = partial(ending_object, send.ending)
        original = outgoing.message.payload
        published = await publish_ending(
            connection, send.topic, ending_payload(send.ending), document, original
        )
        elsewhere = published and published.topic != send.topic
        if elsewhere and isinstance(send.ending, Result):
            self._counters.dead_letter(send.ending.pipeline, Reason.TOO_LONG)
        return published

    def _answered(
        self,
        outgoing: Outgoing,
        topics: Sequence[str],
        together: "asyncio.Future[list[None]]",
    ) -> None:
        if together.cancelled():
            return
        error = together.exception()
        if error is None:
            for topic in topics:
                self._rejected_topics.took(topic)
            self._owe(outgoing)
        elif isinstance(error, Refused):
            self._refused(outgoing, topics, error)
        elif isinstance(error, Undelivered):
            self.put(outgoing)
        else:
            raise error

    def _refused(
        self, outgoing: Outgoing, topics: Sequence[str], error: Refused
    ) -> None:
        """Hang up: the broker sends the message again, and the operator sees it.

        Nobody would send a QoS 0 message again, so it is lost, and counted.
        """
        log.error(
            "publish_refused", id=outgoing.message.id, topics=topics, why=str(error)
        )
        self._rejected_topics.refused(error)
        if outgoing.message.qos == 0:
            self._counters.lost += 1
            self._done(outgoing.message)
            return
        self.put(outgoing)
        self._link.hang_up()

    # -- cases

    def _owe(self, outgoing: Outgoing) -> None:
        """Acknowledge a message once its cases are in the outbox."""
        if outgoing.cases and self._escalation:
            self._uncommitted.append(outgoing)
            self._owing.set()
        else:
            self._acknowledge(outgoing.message)

    def _acknowledge(self, message: Message) -> None:
        message.ack()
        self._done(message)

    async def commit(self) -> None:
        """Commit cases until cancelled."""
        while self._escalation:
            await self._owing.wait()
            outgoings, self._uncommitted = self._uncommitted, []
            self._owing.clear()
            await self._commit(outgoings, self._escalation)

    async def _commit(
        self, outgoings: Sequence[Outgoing], escalation: Escalation
    ) -> None:
        owing = deque(outgoing for outgoing in outgoings if not self._dropped(outgoing))
        committed = 0
        async for number in escalation.take([c for o in owing for c in o.cases]):
            committed += number
            while owing and committed >= len(owing[0].cases):
                committed -= len(owing[0].cases)
                self._acknowledge(owing.popleft().message)

    def _dropped(self, outgoing: Outgoing) -> bool:
        """Forget a message that comes again, if that is known already."""
        message = outgoing.message
        again = self._link.connected and self._link.comes_again(message)
        if again:
            self._done(message)
        return again
