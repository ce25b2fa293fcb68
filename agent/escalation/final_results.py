"""How cases end: a final result each, written down once, published, then forgotten.

It stays in the outbox until the broker has acknowledged it. After a crash it is
published again: the same bytes, so that whoever knows the id can tell.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import TypeVar

import structlog
from pydantic_core import from_json, to_json

from agent.core.clock import Clock
from agent.core.errors import Refused, Undelivered
from agent.core.types import DeadLetter, Decision, Reason, Resolved, Result, Unresolved
from agent.mqtt.connection import Connection
from agent.mqtt.link import Link
from agent.mqtt.message_ids import checked_id
from agent.outbox import cases as book
from agent.outbox.cases import CaseRow, Final
from agent.outbox.store import Database, Full, Store
from agent.protocol.cases import Case, CaseOutcome, decode_case, field_of
from agent.protocol.messages import Topics, dead_letter_object, result_payload
from agent.protocol.publishing import publish_ending
from agent.telemetry.alerts import Alerts
from agent.telemetry.counters import Counters
from agent.telemetry.rejected_topics import RejectedTopics

T = TypeVar("T")

AT_ONCE = 50
AGAIN_S = 1.0
REFUSED_S = 30.0  # how long a result rests that the broker does not take
TOMBSTONES_S = 3600.0  # how long an ended case is remembered
PRUNE_S = 60.0
FULL_S = 5.0  # how long an outbox must take everything to count as not full
DISK_S = 1.0  # how often a full disk is tried: others may have made room
OUTBOX_FULL = "outbox_full"

log = structlog.get_logger()


class OutboxSpace:
    """Owns what is known of the room in the outbox: who waits for it, and the alert."""

    def __init__(
        self, alerts: Alerts, on_made: Callable[[], None] = lambda: None
    ) -> None:
        """`alerts` hear when there is none, `on_made` when something has left."""
        self._alerts = alerts
        self._on_made = on_made
        self._made = asyncio.Event()
        self._full_at = -FULL_S

    def try_again(self) -> None:
        """Say that somebody tries; what is made from now on is worth another try."""
        self._made.clear()

    def lack(self, why: str) -> None:
        """Say that there is none."""
        self._full_at = time.monotonic()
        if OUTBOX_FULL not in self._alerts.active:  # the first reason stays
            self._alerts.activate(OUTBOX_FULL, why)

    @property
    def lacking(self) -> bool:
        """Whether somebody lacked any a moment ago."""
        return time.monotonic() - self._full_at <= FULL_S

    def make(self) -> None:
        """Say that something has left."""
        self._made.set()
        self._on_made()

    async def wait(self) -> None:
        """Wait until something has left, or a while."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DISK_S):
                await self._made.wait()

    async def write(self, store: Store, change: Callable[[Database], T]) -> T:
        """Make a change, durably; a full disk is waited for."""
        while True:
            self.try_again()
            try:
                return await store.write(change)
            except Full as why:
                self.lack(str(why))
                await self.wait()

    def tell(self) -> None:
        """Clear the alert once nobody lacked any for a while."""
        if not self.lacking:
            self._alerts.clear(OUTBOX_FULL)


class ResultPublisher:
    """Owns what is ended and not yet published.

    `result_topics` are those of the pipelines, by name.
    """

    def __init__(
        self,
        device: str,
        result_topics: Mapping[str, str],
        store: Store,
        link: Link,
        counters: Counters,
        room: OutboxSpace,
        rejected_topics: RejectedTopics,
        clock: Clock,
    ) -> None:
        """Take what results need; `run` publishes them."""
        self._device = device
        self._topics = result_topics
        self._store = store
        self._link = link
        self._counters = counters
        self._room = room
        self._rejected_topics = rejected_topics
        self._clock = clock
        self._woken = asyncio.Event()
        self._woken.set()  # what the last process left
        self._resting: dict[str, float] = {}  # until when, by key
        self._out: set[str] = set()  # published, and not forgotten yet
        self._gone = asyncio.Event()
        self._prune_at = 0.0
        self._busy_since: float | None = None

    async def end(
        self, row: CaseRow, settled: CaseOutcome, *, waits: bool = True
    ) -> bool:
        """Write the end of a case down, durably; a full disk is waited for.

        `waits`: whether it is in the outbox. False: it ended before, and nothing
        changes.
        """
        case = readable(row)
        result = case and self._result(case, settled)
        topic, payload = self._said(result) if result else self._dead_letter(row)
        now = self._clock.now()

        def change(db: Database) -> bool:
            if waits:
                return book.finish(db, row.key, topic, payload)
            return book.drop(db, row, now, topic, payload)

        first = await self._room.write(self._store, change)
        if first:
            if result:
                self._count(result)
            else:
                self._counters.dead_letter(row.pipeline, Reason.UNREADABLE_CASE)
                log.error("unreadable_case", key=row.key, pipeline=row.pipeline)
            self._woken.set()
        return first

    def _said(self, result: Result) -> tuple[str, bytes]:
        # A pipeline that is gone has the topic it had unless it named another.
        own = Topics(self._device).result(result.pipeline)
        return self._topics.get(result.pipeline, own), result_payload(result)

    def _dead_letter(self, row: CaseRow) -> tuple[str, bytes]:
        """Return topic and payload for a case that nobody can read any more.

        It holds the case as it lay in the outbox, so that nothing vanishes.
        """
        letter = DeadLetter(
            id=checked_id(field_of(row.body, "id")) or "",
            device=self._device,
            pipeline=row.pipeline,
            topic=field_of(row.body, "topic"),
            reason=Reason.UNREADABLE_CASE,
            detail="written by another version",
            payload=row.body,
            size=len(row.body),
            received_at=datetime.now(UTC),
        )
        topic = Topics(self._device).dead_letter(row.pipeline)
        return topic, to_json(dead_letter_object(letter))

    def _result(self, case: Case, settled: CaseOutcome) -> Result:
        prediction = settled.prediction
        decision: Decision
        if prediction is None:
            decision = Unresolved(case.reason, case.guess)
        else:
            decision = Resolved(prediction, None, case.reason)
        waited = (datetime.now(UTC) - case.received_at).total_seconds() * 1000
        return Result(
            id=case.id,
            device=self._device,
            pipeline=case.pipeline,
            topic=case.topic,
            decision=decision,
            model=settled.model or case.model,
            received_at=case.received_at,
            timing=replace(case.timing, total=max(waited, 0.0)),
            rev=1,
            upstream=settled.outcome,
        )

    def _count(self, result: Result) -> None:
        if result.upstream is None:
            raise AssertionError("a case ends in an outcome")
        self._counters.case(
            result.pipeline, result.decision, result.upstream, result.timing
        )
        guess = result.decision.prediction
        log.info(
            "case_ended",
            id=result.id,
            pipeline=result.pipeline,
            upstream=result.upstream.value,
            by=guess and guess.by.value,
            ms_total=round(result.timing.total),
        )

    async def flush(self) -> None:
        """Wait until all is published but what rests."""
        while self._out or await self._due():
            self._gone.clear()
            await self._gone.wait()

    async def run(self) -> None:
        """Publish until cancelled."""
        while True:
            await self._wait()
            self._woken.clear()
            await self._forget()
            while finals := await self._due():
                connection = await self._link.connection()
                self._busy_since = time.monotonic()
                finals = [self._directed(final) for final in finals]
                pubacks = [await _publish(connection, final) for final in finals]
                outcomes = await asyncio.gather(*pubacks, return_exceptions=True)
                await self._published(finals, outcomes)
                self._busy_since = None

    def _directed(self, final: Final) -> Final:
        """Let a result go where those of its pipeline go now.

        It may have been written down by a version that was taken back because the
        broker refused its topic.
        """
        if final.topic == Topics(self._device).dead_letter(final.pipeline):
            return final
        return replace(final, topic=self._topics.get(final.pipeline, final.topic))

    def busy_s(self) -> float:
        """Return for how many seconds the same results are being published; 0: none."""
        since = self._busy_since
        return 0.0 if since is None else time.monotonic() - since

    async def _wait(self) -> None:
        """Wait for something new, or until what rests has rested."""
        pause = None
        if self._out:
            pause = AGAIN_S
        elif self._resting:
            pause = max(0.0, min(self._resting.values()) - time.monotonic())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause):
                await self._woken.wait()

    async def _due(self) -> list[Final]:
        now = time.monotonic()
        self._resting = {k: t for k, t in self._resting.items() if t > now}
        besides = [*self._resting, *self._out]
        due = partial(book.finished, limit=AT_ONCE, besides=besides)
        return await self._store.read(due)

    async def _published(
        self, finals: Sequence[Final], outcomes: Sequence[BaseException | None]
    ) -> None:
        for final, error in zip(finals, outcomes, strict=True):
            rest = AGAIN_S
            if error is None:
                self._out.add(final.key)
                self._rejected_topics.took(final.topic)
                continue
            if isinstance(error, Refused):
                self._rejected_topics.refused(error)
                rest = REFUSED_S
            if isinstance(error, Undelivered):
                log.warning("final_not_published", topic=final.topic, why=str(error))
                self._resting[final.key] = time.monotonic() + rest
            else:
                raise error
        await self._forget()

    async def _forget(self) -> None:
        """Forget what is published; a disk without any room at all is tried again."""
        if not self._out:
            return
        prune = time.monotonic() > self._prune_at
        change = partial(
            _forget, keys=list(self._out), now=self._clock.now(), prune=prune
        )
        try:
            await self._store.write(change)
        except Full as why:
            log.warning("final_not_forgotten", why=str(why))
            return
        self._out.clear()
        self._gone.set()
        self._room.make()
        if prune:
            self._prune_at = time.monotonic() + PRUNE_S


async def _publish(connection: Connection, final: Final) -> "asyncio.Future[None]":
    """Publish a final result; where it is too large, what fits of it."""
    document = partial(from_json, final.payload)
    published = await publish_ending(
        connection, final.topic, final.payload, document, final.payload
    )
    if published is None:
        raise AssertionError("a final result is not provisional")
    return published.puback


def readable(row: CaseRow) -> Case | None:
    """Return the case; None where another version wrote what this one cannot read."""
    try:
        return decode_case(row.body)
    except ValueError:
        return None


def _forget(db: Database, keys: Sequence[str], now: float, *, prune: bool) -> None:
    for key in keys:
        book.forget(db, key, now)
    if prune:
        book.prune(db, now - TOMBSTONES_S)
