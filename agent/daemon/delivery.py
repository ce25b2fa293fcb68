"""Delivery: publish in order of arrival, acknowledge last, survive reconnects.

Cases are committed to the outbox first, all that wait in one commit; what is said while
they wait goes out afterwards, but before their final results.

A parcel whose connection ended waits for the next one. Then the broker says whether it
kept our session. If so, it sends the message again, and we forget this parcel; if not,
the message exists only here, and the parcel is published now.
"""

import asyncio
import heapq
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import structlog

from agent.core.errors import Refused, Undelivered
from agent.core.types import Message
from agent.escalation.cases import Escalation
from agent.inference.engine import Outgoing
from agent.mqtt.link import Link
from agent.telemetry.counters import Counters
from agent.telemetry.rejected_topics import RejectedTopics

log = structlog.get_logger()


class Delivery:
    """Owns the parcels that are not yet on their way."""

    def __init__(
        self,
        link: Link,
        counters: Counters,
        rejected_topics: RejectedTopics,
        done: Callable[[Message], None],
        escalation: Escalation | None = None,
    ) -> None:
        """`done` is called once for each parcel, whatever became of it.

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
        """Take a parcel; the earliest message goes first."""
        if outgoing.cases:
            self._uncommitted.append(outgoing)
            self._owing.set()
            return
        heapq.heappush(self._waiting, (outgoing.message.seq, outgoing))
        self._filled.set()

    async def run(self) -> None:
        """Deliver until cancelled."""
        while True:
            await self.deliver_once()

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
        cases = [case for outgoing in owing for case in outgoing.cases]
        for outgoing in owing:
            escalation.hold_back(outgoing.meanwhile)
        waits: dict[str, bool] = {}
        async for taken in escalation.take(cases):
            waits |= taken
            while owing and all(case.key in waits for case in owing[0].cases):
                self._committed(owing.popleft(), waits)

    def _dropped(self, outgoing: Outgoing) -> bool:
        """Forget a parcel whose message comes again, if that is known already."""
        message = outgoing.message
        again = self._link.connected and self._link.comes_again(message)
        if again:
            self._done(message)
        return again

    def _committed(self, outgoing: Outgoing, waits: Mapping[str, bool]) -> None:
        """Go on with a parcel whose cases are in the outbox.

        A case that ended before has its final result: nothing may be said after it.
        """
        said = (sent for key, sent in outgoing.meanwhile.items() if waits[key])
        sends = (*outgoing.sends, *said)
        if sends:
            self.put(Outgoing(outgoing.message, sends, meanwhile=outgoing.meanwhile))
        else:
            outgoing.message.ack()  # the outbox has it
            self._let_go(outgoing)

    def _let_go(self, outgoing: Outgoing) -> None:
        self._done(outgoing.message)
        if self._escalation:
            self._escalation.let_out(outgoing.meanwhile)

    async def deliver_once(self) -> None:
        """Wait for a parcel and a connection, and send the one with the other."""
        await self._filled.wait()
        connection = await self._link.connection()
        _, outgoing = heapq.heappop(self._waiting)
        if not self._waiting:
            self._filled.clear()
        if self._link.comes_again(outgoing.message):
            self._let_go(outgoing)
            return
        answers = [
            await connection.publish(topic, payload)
            for topic, payload in outgoing.sends
        ]
        together = asyncio.gather(*answers)
        together.add_done_callback(partial(self._answered, outgoing))

    def _answered(
        self, outgoing: Outgoing, together: "asyncio.Future[list[None]]"
    ) -> None:
        if together.cancelled():
            return
        error = together.exception()
        message = outgoing.message
        if error is None:
            for topic, _ in outgoing.sends:
                self._rejected_topics.took(topic)
            message.ack()
            self._let_go(outgoing)
        elif isinstance(error, Refused):
            self._refused(outgoing, error)
        elif isinstance(error, Undelivered):
            self.put(outgoing)
        else:
            raise error

    def _refused(self, outgoing: Outgoing, error: Refused) -> None:
        """Hang up: the broker sends the message again, and the operator sees it.

        Nobody would send a QoS 0 message again, so it is lost, and counted.
        """
        topics = [topic for topic, _ in outgoing.sends]
        log.error(
            "publish_refused", id=outgoing.message.id, topics=topics, why=str(error)
        )
        self._rejected_topics.refused(error)
        if outgoing.message.qos == 0:
            self._counters.lost += 1
            self._let_go(outgoing)
            return
        self.put(outgoing)
        self._link.hang_up()
