"""The way of a case: into the outbox, upstream, and out as one final result.

A case is in the outbox from before its message is acknowledged until its final result
is. What ends it is written down before it is published, so that it ends only once,
whatever breaks in between; publishing it twice is the same result twice.
"""

import asyncio
import contextlib
import time
from collections.abc import (
    AsyncIterator,
    Callable,
    Collection,
    Iterator,
    Mapping,
    Sequence,
)
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial

import structlog

from agent.core.clock import Clock
from agent.core.types import Outcome
from agent.escalation.budget import MOST_CALLS, OverBudget
from agent.escalation.final_results import OutboxSpace, ResultPublisher, readable
from agent.escalation.transport import Unavailable
from agent.escalation.upstream import TRIES, UpstreamClient
from agent.inference.pipeline import Pipeline
from agent.mqtt.link import Link
from agent.outbox import cases as book
from agent.outbox.cases import CaseRow
from agent.outbox.spending import today
from agent.outbox.store import Database, Full, Store
from agent.protocol.cases import Case, CaseOutcome, encode_case
from agent.protocol.health import OutboxHealth, UpstreamHealth
from agent.telemetry.alerts import Alerts
from agent.telemetry.counters import Counters
from agent.telemetry.rejected_topics import RejectedTopics

TURN_S = 1.0  # at most so often is looked what is to be done, and so often if much is
IDLE_S = 30.0  # at least so often: the clock may have been set, or a day have ended
REST_S = 30.0  # how long a case rests that nobody could be asked about, at least
BARRED_S = 30.0  # how often cases over budget are tried
LARGEST = 8  # what a case may take at most of the outbox: an eighth
AT_ONCE = 50
UPSTREAM_GONE = "upstream_gone"
UNUSABLE = "answers_unusable"

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class EscalationSettings:
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
        terms: EscalationSettings,
        pipelines: Sequence[Pipeline],
        store: Store,
        upstream: UpstreamClient | None,
        link: Link,
        alerts: Alerts,
        counters: Counters,
        rejected_topics: RejectedTopics,
        clock: Clock,
    ) -> None:
        """Take what cases need; `run` works on them."""
        self._terms = terms
        self._pipelines: Mapping[str, Pipeline] = {p.name: p for p in pipelines}
        self._store = store
        self._stirred = asyncio.Event()  # something changed that figures tell of
        self._room = OutboxSpace(alerts, self._stirred.set)
        self._upstream = upstream
        topics = {p.name: p.result_topic for p in pipelines}
        self._publisher = ResultPublisher(
            terms.device,
            topics,
            store,
            link,
            counters,
            self._room,
            rejected_topics,
            clock,
        )
        self._clock = clock
        self._alerts = alerts
        self._counters = counters
        self._busy: set[str] = set()  # keys that somebody has in hand
        self._resting: dict[str, float] = {}  # until when (monotonic), by key
        self._barred: dict[str, float] = {}  # pipelines over budget: until (monotonic)
        self._spent_on: dict[str, str] = {}  # when that was last said: day, by pipeline
        self._arrived = asyncio.Event()
        self._turn = asyncio.Lock()
        self._stats: book.Stats | None = None
        self._filled = 0.0  # a share of the outbox's room
        self._deadline: float | None = None  # the next one of those that wait
        self._due = time.monotonic()  # when the next turn is to begin

    async def run(self) -> None:
        """Work until cancelled."""
        self._arrived.set()
        async with asyncio.TaskGroup() as group:
            if self._upstream:
                transport = self._upstream.transport
                group.create_task(transport.run(), name="transport")
            group.create_task(self._watch(), name="deadlines")
            group.create_task(self._publisher.run(), name="finals")
            for number in range(self._terms.concurrency):
                group.create_task(self._work(), name=f"case-{number}")

    async def end_calls(self) -> None:
        """Begin no call any more; wait until what those being made bring is stored."""
        if self._upstream:
            await self._upstream.finish()
            await self._store.read(book.stats)  # after all that was to be written

    async def publish_ended(self) -> None:
        """Wait until the results of what has ended are published."""
        await self._publisher.flush()

    def close(self) -> None:
        """Close the outbox; what waits is taken up at the next start."""
        self._store.close()
        if self._upstream:
            self._upstream.close()

    def outbox(self) -> OutboxHealth:
        """Return what waits."""
        stats = self._stats
        oldest = stats.oldest if stats else None
        return OutboxHealth(
            waiting=stats.waiting if stats else 0,
            unpublished=stats.finished if stats else 0,
            oldest_s=None if oldest is None else round(self._clock.now() - oldest),
            bytes=self._store.bytes,
            bytes_max=self._terms.max_bytes,
            filled=round(self._filled, 4),
        )

    def upstream(self) -> UpstreamHealth | None:
        """Return what was asked and spent; None: nobody may be asked."""
        seen = self._counters.received
        return self._upstream.health(seen) if self._upstream else None

    def unusable_answers(self, message: str) -> list[dict[str, str]]:
        """Return what was wrong with answers to a message's cases, by pipeline."""
        return self._upstream.unusable_answers(message) if self._upstream else []

    def busy_s(self) -> dict[str, float]:
        """Return for how many seconds each part has been at one thing; 0: it is idle.

        Whoever waits for room, for a connection or for upstream is idle.
        """
        late = max(0.0, time.monotonic() - self._due)
        return {
            "outbox": self._store.busy_s(),
            "privacy": self._upstream.busy_s() if self._upstream else 0.0,
            "finals": self._publisher.busy_s(),
            "cases": 0.0 if self.lacks_room else late,
        }

    @property
    def lacks_room(self) -> bool:
        """Whether the outbox or the disk is full."""
        return self._room.lacking

    # -- in

    async def known(self, keys: Collection[str]) -> frozenset[str]:
        """Return those of the keys whose cases wait or have ended."""
        return await self._store.read(partial(book.known, keys=keys))

    async def take(self, cases: Sequence[Case]) -> AsyncIterator[int]:
        """Commit cases, in order; yield how many more are.

        Waits while the outbox is full and the policy is not to drop: the messages stay
        unacknowledged, and the broker holds what follows.
        """
        left = list(cases)
        while left:
            self._room.try_again()
            now = self._clock.now()
            rows = [self._row(case, now) for case in left]
            adding = partial(book.add_all, rows=rows, now=now)
            try:
                number = await self._store.write(adding)
            except Full as why:
                self._room.lack(f"{why}; {self._terms.when_full}")
                await self._make_room(rows[0])
                continue
            self._arrived.set()
            self._stirred.set()
            yield number
            del left[:number]

    def _row(self, case: Case, now: float) -> CaseRow:
        """Return a case as it waits from now on."""
        plan = self._pipelines[case.pipeline].plan
        return CaseRow(
            key=case.key,
            body=encode_case(case),
            pipeline=case.pipeline,
            priority=case.priority,
            deadline=now + (plan.deadline_s if plan else 0.0),
            attempts=0,
        )

    async def _make_room(self, row: CaseRow) -> None:
        """Drop something, be it the case that is to be added; or wait for room.

        Nothing is dropped while something ended is about to leave.
        """
        if len(row.body) > self._terms.max_bytes // LARGEST:
            await self._publisher.end(row, CaseOutcome(Outcome.REFUSED), waits=False)
            return
        lowest = self._terms.when_full == "drop_lowest"
        victim = None
        if self._terms.when_full != "stop_acking":
            victim = await self._store.read(
                lambda db: _victim(db, lowest=lowest, besides=self._busy)
            )
        if victim is None or victim.key in self._busy:
            await self._room.wait()
        elif lowest and victim.priority > row.priority:
            await self._publisher.end(row, CaseOutcome(Outcome.FULL), waits=False)
        else:
            with self._in_hand(victim):
                await self._publisher.end(victim, CaseOutcome(Outcome.FULL))

    # -- up

    @contextlib.contextmanager
    def _in_hand(self, row: CaseRow) -> Iterator[None]:
        self._busy.add(row.key)
        try:
            yield
        finally:
            self._busy.discard(row.key)
            self._stirred.set()

    async def _work(self) -> None:
        while True:
            row = await self._next()
            with self._in_hand(row):
                await self._handle(row)

    async def _next(self) -> CaseRow:
        async with self._turn:
            while True:
                self._arrived.clear()
                besides = self._busy | self._resting.keys()
                rows = await self._store.read(
                    partial(book.waiting, limit=1, besides=besides, barred=self._barred)
                )
                if not rows:
                    await self._arrived.wait()
                elif rows[0].key not in self._busy:  # nobody took it meanwhile
                    self._busy.add(rows[0].key)
                    return rows[0]

    async def _handle(self, row: CaseRow) -> None:
        pipeline = self._pipelines.get(row.pipeline)
        case = readable(row)
        if not (case and self._upstream and pipeline and pipeline.plan):
            await self._publisher.end(row, CaseOutcome(Outcome.REFUSED))
            return
        left_s = row.deadline - self._clock.now()
        if left_s <= 0:  # `_watch` ends it, or sets it right where the clock was set
            self._resting[row.key] = time.monotonic() + TURN_S
            return
        deadline = datetime.now(UTC) + timedelta(seconds=left_s)
        case = replace(case, deadline=deadline)
        try:
            settled = await self._upstream.settle(case, pipeline.plan, row.attempts)
        except OverBudget as over:
            if self._terms.queues:
                self._bar(over.scope)
            else:
                await self._publisher.end(row, CaseOutcome(Outcome.BUDGET))
        except Unavailable:
            await self._rest(row.key)
        else:
            change = self._upstream.remember(case, pipeline.plan, settled)
            if await self._publisher.end(row, settled) and change:
                await self._remember(change)

    async def _rest(self, key: str) -> None:
        """Let a case wait, twice as long after each call that may have been paid."""
        paid = await self._store.read(lambda db: book.attempts(db, key))
        doublings = max(0, paid - TRIES) if paid < MOST_CALLS else 0  # then it ends
        self._resting[key] = time.monotonic() + REST_S * 2**doublings

    async def _remember(self, change: Callable[[Database], None]) -> None:
        try:
            await self._store.write(change)
        except Full as why:
            log.warning("answer_not_remembered", why=str(why))

    def _bar(self, scope: str) -> None:
        """Let the cases of a scope wait; empty: all of them.

        Not for the next day: what was booked and not paid comes back.
        """
        day = today()
        for name in [scope] if scope else list(self._pipelines):
            if self._spent_on.get(name) != day:
                log.warning("budget_spent", pipeline=name, day=day)
            self._spent_on[name] = day
            self._barred[name] = time.monotonic() + BARRED_S

    # -- time

    async def _watch(self) -> None:
        """End what is too old, take up what may go again, and keep the figures."""
        while True:
            await self._set_right()
            while await self._expire():
                pass
            now = time.monotonic()
            self._barred = {k: t for k, t in self._barred.items() if t > now}
            self._resting = {k: t for k, t in self._resting.items() if t > now}
            self._arrived.set()
            self._stats, self._filled, self._deadline = await self._store.read(
                lambda db: (book.stats(db), book.filled(db), book.deadline(db))
            )
            if self._upstream:
                await self._upstream.budget.balance()
            self._tell()
            await self._rest_until_due()

    async def _rest_until_due(self) -> None:
        """Wait until something changes or is due; never less than a turn."""
        began, pause = time.monotonic(), self._pause_s()
        self._due = began + max(pause, TURN_S)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause):
                await self._stirred.wait()
        await asyncio.sleep(began + TURN_S - time.monotonic())
        self._stirred.clear()

    def _pause_s(self) -> float:
        """Return in how many seconds something is to be done, if nothing changes."""
        if self._busy or self.lacks_room:
            return TURN_S
        now = time.monotonic()
        moments = [*self._barred.values(), *self._resting.values()]
        if self._deadline is not None:
            moments.append(now + self._deadline - self._clock.now())
        return max(0.0, min([now + IDLE_S, *moments]) - now)

    async def _set_right(self) -> None:
        """Where the wall clock was set, let what waits wait as long as it was to."""
        step = self._clock.look()
        if step is None:
            return
        log.warning("clock_set", by_s=round(step.by))
        await self._room.write(self._store, partial(book.shift, step=step))

    async def _expire(self) -> int:
        """End some cases whose deadline has passed; return how many."""
        self._due = time.monotonic()
        expired = partial(book.expired, now=self._clock.now(), limit=AT_ONCE)
        late = await self._store.read(expired)
        late = [row for row in late if row.key not in self._busy]
        with contextlib.ExitStack() as hands:
            for row in late:
                hands.enter_context(self._in_hand(row))
            outcome = CaseOutcome(Outcome.TIMEOUT)
            await asyncio.gather(*(self._publisher.end(row, outcome) for row in late))
        return len(late)

    def _tell(self) -> None:
        """Raise and clear the alerts about upstream and outbox."""
        upstream = self._upstream
        if upstream and upstream.full:
            self._room.lack(upstream.full)
            upstream.full = ""
        self._alerts.show(UPSTREAM_GONE, upstream.down if upstream else "")
        self._alerts.show(UNUSABLE, upstream.complaint if upstream else "")
        self._room.tell()


def _victim(db: Database, *, lowest: bool, besides: Collection[str]) -> CaseRow | None:
    """Return what a full outbox drops, unless room is being made anyway."""
    if book.stats(db).finished:
        return None
    return book.victim(db, lowest=lowest, besides=besides)
