"""The way of a case: into the outbox, upstream, and out as one final result.

A case is in the outbox from before its message is acknowledged until its final result
is. What ends it is written down before it is published, so that it ends only once,
whatever breaks in between; publishing it twice is the same result twice.
"""

import asyncio
import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

import structlog

from agent.alerts import Alerts
from agent.cases import Case, decode_case, encode_case
from agent.counts import Counts
from agent.finals import Finals
from agent.link import Link
from agent.outbox import cases as book
from agent.outbox.cases import Row
from agent.outbox.store import Database, Full, Store
from agent.pipeline import Pipeline
from agent.purse import OverBudget, today
from agent.types import Decision, Outcome, Resolved, Result, Unresolved
from agent.upstream import Settled, Upstream
from agent.wire import Topics, result_payload

FULL_S = 5.0  # how long an outbox must take everything to count as not full
TURN_S = 1.0  # how often deadlines are looked at, and a full disk is tried again
AT_ONCE = 50
OUTBOX_FULL = "outbox_full"
UPSTREAM_GONE = "upstream_gone"

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Terms:
    """How cases are kept and worked on."""

    device: str
    max_bytes: int
    concurrency: int
    when_full: str  # stop_acking, drop_oldest or drop_lowest
    queues: bool  # whether cases over budget wait for the next day


class Escalation:
    """Owns the cases between their messages and their results.

    `upstream` is None where nobody may be asked any more: then what an earlier
    configuration left in the outbox ends unresolved.
    """

    def __init__(
        self,
        terms: Terms,
        pipelines: Sequence[Pipeline],
        store: Store,
        upstream: Upstream | None,
        link: Link,
        alerts: Alerts,
        counts: Counts,
    ) -> None:
        """Take what cases need; `run` works on them."""
        self._terms = terms
        self._pipelines: Mapping[str, Pipeline] = {p.name: p for p in pipelines}
        self._topics = Topics(terms.device)
        self._store = store
        self._room = asyncio.Event()
        self._upstream = upstream
        self._finals = Finals(store, link, self._room.set)
        self._alerts = alerts
        self._counts = counts
        self._busy: set[str] = set()  # keys that a worker has in hand
        self._barred: dict[str, str] = {}  # scopes whose budget is spent: on which day
        self._arrived = asyncio.Event()
        self._turn = asyncio.Lock()
        self._full_at = -FULL_S
        self._stats: book.Stats | None = None

    async def run(self) -> None:
        """Work until cancelled."""
        self._arrived.set()
        async with asyncio.TaskGroup() as group:
            if self._upstream:
                transport = self._upstream.transport
                group.create_task(transport.run(), name="transport")
            group.create_task(self._watch(), name="deadlines")
            group.create_task(self._finals.run(), name="finals")
            for number in range(self._terms.concurrency):
                group.create_task(self._work(), name=f"case-{number}")

    def close(self) -> None:
        """Close the outbox; what waits is taken up at the next start."""
        self._store.close()

    def summary(self) -> dict[str, Any]:
        """Return what waits and what was spent, ready for JSON."""
        stats = self._stats
        oldest = stats.oldest if stats else None
        outbox = {
            "waiting": stats.waiting if stats else 0,
            "unpublished": stats.finished if stats else 0,
            "oldest_s": None if oldest is None else round(time.time() - oldest),
            "bytes": self._store.bytes,
            "bytes_max": self._terms.max_bytes,
        }
        if self._upstream is None:
            return {"outbox": outbox, "cases": self._counts.cases()}
        return {
            "outbox": outbox,
            "cases": self._counts.cases(),
            "upstream": self._upstream.summary(self._counts.received),
        }

    # -- in

    async def take(self, cases: Sequence[Case]) -> dict[str, tuple[str, bytes]]:
        """Commit cases to the outbox; return results of those dropped, by their keys.

        Waits while the outbox is full and the policy is not to drop: the messages stay
        unacknowledged, and the broker holds what follows.
        """
        rows = [_row(case) for case in cases]
        dropped: dict[str, tuple[str, bytes]] = {}
        while rows:
            try:
                await self._store.write(partial(_add, rows=rows, now=time.time()))
                break
            except Full as why:
                self._full(f"{why}; {self._terms.when_full}")
                rows, gone = await self._make_room(rows)
                dropped |= gone
        self._arrived.set()
        return dropped

    async def _make_room(
        self, rows: list[Row]
    ) -> tuple[list[Row], dict[str, tuple[str, bytes]]]:
        """Drop something, or wait; return what is still to be added, and results."""
        lowest = self._terms.when_full == "drop_lowest"
        if self._terms.when_full == "stop_acking":
            await self._wait_for_room()
            return rows, {}
        kept: list[Row] = []
        dropped = {}
        for row in rows:
            victim = await self._store.read(
                lambda db: book.victim(db, lowest=lowest, besides=self._busy)
            )
            if victim is None:  # all that waits is being asked right now
                await self._wait_for_room()
                kept.append(row)
            elif lowest and victim.priority > row.priority:
                dropped[row.key] = self._end(decode_case(row.body), FULL)
            else:
                await self._finish(victim.key, decode_case(victim.body), FULL)
                kept.append(row)
        return kept, dropped

    def _full(self, why: str) -> None:
        self._full_at = time.monotonic()
        self._alerts.rise(OUTBOX_FULL, why)

    async def _wait_for_room(self) -> None:
        self._room.clear()
        # After a while the disk may have room again, whoever made it.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(TURN_S):
                await self._room.wait()

    # -- up

    async def _work(self) -> None:
        while True:
            row = await self._next()
            try:
                await self._handle(row)
            finally:
                self._busy.discard(row.key)

    async def _next(self) -> Row:
        async with self._turn:
            while True:
                self._arrived.clear()
                rows = await self._store.read(
                    lambda db: book.waiting(
                        db, 1, besides=self._busy, barred=self._barred
                    )
                )
                if rows:
                    self._busy.add(rows[0].key)
                    return rows[0]
                await self._arrived.wait()

    async def _handle(self, row: Row) -> None:
        case = decode_case(row.body)
        pipeline = self._pipelines.get(case.pipeline)
        if self._upstream is None or pipeline is None or pipeline.plan is None:
            await self._finish(row.key, case, Settled(Outcome.REFUSED))
            return
        try:
            settled = await self._upstream.settle(case, pipeline.plan)
        except OverBudget as over:
            if not self._terms.queues:
                await self._finish(row.key, case, Settled(Outcome.BUDGET))
                return
            self._bar(over.scope)
            return
        await self._finish(row.key, case, settled)

    def _bar(self, scope: str) -> None:
        """Let the cases of a scope wait for the next day; empty: all of them."""
        day = today()
        for name in [scope] if scope else list(self._pipelines):
            if self._barred.get(name) != day:
                log.warning("budget_spent", pipeline=name, day=day)
            self._barred[name] = day

    # -- out

    def _result(self, case: Case, settled: Settled) -> Result:
        found = settled.prediction
        decision: Decision
        if found is None:
            decision = Unresolved(case.reason, case.guess)
        else:
            decision = Resolved(found, None, case.reason)
        waited = (datetime.now(UTC) - case.received_at).total_seconds() * 1000
        return Result(
            id=case.id,
            device=self._terms.device,
            pipeline=case.pipeline,
            topic=case.topic,
            decision=decision,
            model=settled.model or case.model,
            received_at=case.received_at,
            timing=replace(case.timing, total=max(waited, 0.0)),
            rev=1,
            upstream=settled.outcome,
        )

    def _end(self, case: Case, settled: Settled) -> tuple[str, bytes]:
        """Count a case as ended; return topic and payload of its final result."""
        result = self._result(case, settled)
        self._count(result, settled.outcome)
        return self._topic(case.pipeline), result_payload(result)

    def _topic(self, pipeline: str) -> str:
        known = self._pipelines.get(pipeline)
        return known.result_topic if known else self._topics.result(pipeline)

    def _count(self, result: Result, outcome: Outcome) -> None:
        self._counts.case(result.pipeline, result.decision, outcome, result.timing)
        guess = result.decision.prediction
        log.info(
            "case_ended",
            id=result.id,
            pipeline=result.pipeline,
            upstream=outcome.value,
            by=guess and guess.by.value,
            ms_total=round(result.timing.total),
        )

    async def _finish(self, key: str, case: Case, settled: Settled) -> None:
        """Write the end of a case down; a full disk is waited for."""
        result = self._result(case, settled)
        topic, payload = self._topic(case.pipeline), result_payload(result)
        while True:
            try:
                first = await self._store.write(
                    lambda db: book.finish(db, key, topic, payload)
                )
                break
            except Full as why:
                self._full(str(why))
                await self._wait_for_room()
        if not first:
            return  # it ended already
        self._count(result, settled.outcome)
        self._finals.wake()
        await self._remember(case, settled)

    async def _remember(self, case: Case, settled: Settled) -> None:
        pipeline = self._pipelines.get(case.pipeline)
        if self._upstream is None or pipeline is None or pipeline.plan is None:
            return
        change = self._upstream.remember(case, pipeline.plan, settled)
        if change is None:
            return
        try:
            await self._store.write(change)
        except Full as why:
            log.warning("answer_not_remembered", why=str(why))

    # -- time

    async def _watch(self) -> None:
        """End what is too old, take up what may go again, and keep the figures."""
        while True:
            await asyncio.sleep(TURN_S)
            expired = partial(book.expired, now=time.time(), limit=AT_ONCE)
            late = await self._store.read(expired)
            for row in late:
                if row.key not in self._busy:
                    await self._finish(row.key, decode_case(row.body), LATE)
            day = today()
            if any(barred != day for barred in self._barred.values()):
                self._barred.clear()
            if not self._arrived.is_set():
                self._arrived.set()
            self._stats = await self._store.read(book.stats)
            if self._upstream:
                await self._upstream.purse.balance()
            self._tell()

    def _tell(self) -> None:
        """Raise and clear the alerts about upstream and outbox."""
        if self._upstream and self._upstream.down:
            self._alerts.rise(UPSTREAM_GONE, self._upstream.down)
        else:
            self._alerts.clear(UPSTREAM_GONE)
        if time.monotonic() - self._full_at > FULL_S:
            self._alerts.clear(OUTBOX_FULL)


FULL = Settled(Outcome.FULL)
LATE = Settled(Outcome.TIMEOUT)


def _row(case: Case) -> Row:
    return Row(
        key=case.key,
        body=encode_case(case),
        pipeline=case.pipeline,
        priority=case.priority,
        deadline=case.deadline.timestamp(),
        attempts=0,
    )


def _add(db: Database, rows: Sequence[Row], now: float) -> None:
    for row in rows:
        book.add(db, row, now)
