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
        counts: Counters,
        refusals: RejectedTopics,
        done: Callable[[Message], None],
        escalation: Escalation | None = None,
    ) -> None:
        """`done` is called once for each parcel, whatever became of it.

        `escalation` takes the cases; None: there are none.
        """
        self._link = link
        self._counts = counts
        self._refusals = refusals
        self._done = done
        self._waiting: list[tuple[int, Outgoing]] = []
        self._filled = asyncio.Event()
        self._escalation = escalation
        self._uncommitted: list[Outgoing] = []
        self._owing = asyncio.Event()

    def put(self, parcel: Outgoing) -> None:
        """Take a parcel; the earliest message goes first."""
        if parcel.cases:
            self._uncommitted.append(parcel)
            self._owing.set()
            return
        heapq.heappush(self._waiting, (parcel.message.seq, parcel))
        self._filled.set()

    async def run(self) -> None:
        """Deliver until cancelled."""
        while True:
            await self.deliver_once()

    async def commit(self) -> None:
        """Commit cases until cancelled."""
        while self._escalation:
            await self._owing.wait()
            parcels, self._uncommitted = self._uncommitted, []
            self._owing.clear()
            await self._commit(parcels, self._escalation)

    async def _commit(
        self, parcels: Sequence[Outgoing], escalation: Escalation
    ) -> None:
        owing = deque(parcel for parcel in parcels if not self._dropped(parcel))
        cases = [case for parcel in owing for case in parcel.cases]
        for parcel in owing:
            escalation.hold_back(parcel.meanwhile)
        waits: dict[str, bool] = {}
        async for taken in escalation.take(cases):
            waits |= taken
            while owing and all(case.key in waits for case in owing[0].cases):
                self._committed(owing.popleft(), waits)

    def _dropped(self, parcel: Outgoing) -> bool:
        """Forget a parcel whose message comes again, if that is known already."""
        message = parcel.message
        again = self._link.connected and self._link.comes_again(message)
        if again:
            self._done(message)
        return again

    def _committed(self, parcel: Outgoing, waits: Mapping[str, bool]) -> None:
        """Go on with a parcel whose cases are in the outbox.

        A case that ended before has its final result: nothing may be said after it.
        """
        said = (sent for key, sent in parcel.meanwhile.items() if waits[key])
        sends = (*parcel.sends, *said)
        if sends:
            self.put(Outgoing(parcel.message, sends, meanwhile=parcel.meanwhile))
        else:
            parcel.message.ack()  # the outbox has it
            self._let_go(parcel)

    def _let_go(self, parcel: Outgoing) -> None:
        self._done(parcel.message)
        if self._escalation:
            self._escalation.let_out(parcel.meanwhile)

    async def deliver_once(self) -> None:
        """Wait for a parcel and a connection, and send the one with the other."""
        await self._filled.wait()
        connection = await self._link.connection()
        _, parcel = heapq.heappop(self._waiting)
        if not self._waiting:
            self._filled.clear()
        if self._link.comes_again(parcel.message):
            self._let_go(parcel)
            return
        answers = [
            await connection.publish(topic, payload) for topic, payload in parcel.sends
        ]
        together = asyncio.gather(*answers)
        together.add_done_callback(partial(self._answered, parcel))

    def _answered(
        self, parcel: Outgoing, together: "asyncio.Future[list[None]]"
    ) -> None:
        if together.cancelled():
            return
        error = together.exception()
        message = parcel.message
        if error is None:
            for topic, _ in parcel.sends:
                self._refusals.took(topic)
            message.ack()
            self._let_go(parcel)
        elif isinstance(error, Refused):
            self._refused(parcel, error)
        elif isinstance(error, Undelivered):
            self.put(parcel)
        else:
            raise error

    def _refused(self, parcel: Outgoing, error: Refused) -> None:
        """Hang up: the broker sends the message again, and the operator sees it.

        Nobody would send a QoS 0 message again, so it is lost, and counted.
        """
        topics = [topic for topic, _ in parcel.sends]
        log.error(
            "publish_refused", id=parcel.message.id, topics=topics, why=str(error)
        )
        self._refusals.refused(error)
        if parcel.message.qos == 0:
            self._counts.lost += 1
            self._let_go(parcel)
            return
        self.put(parcel)
        self._link.hang_up()
