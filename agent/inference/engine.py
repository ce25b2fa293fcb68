"""The engine: whenever the workers are free, it takes all that waits.

An idle device answers at once, a loaded one takes more at a time; there are no timers.
What is decided about a text depends on the text alone, not on what else waits: a
message that comes again, after a crash as well, ends as it did before.
Tokenizing and inference run in worker threads, never in the event loop: each takes a
share of what waits, and onnxruntime lets go of the interpreter's lock.
"""

import asyncio
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import structlog

from agent.core.deaths import MOST_DEATHS
from agent.core.errors import Unreadable
from agent.core.types import (
    DeadLetter,
    Decision,
    Message,
    Reason,
    Resolved,
    Result,
    Text,
    Timing,
    Unresolved,
)
from agent.inference.decide import wants_upstream
from agent.inference.pipeline import EscalationSpec, Pipeline
from agent.mqtt.message_ids import IdTable
from agent.protocol.cases import Case
from agent.protocol.messages import score_of
from agent.protocol.payload import read
from agent.telemetry.counters import Counters

MOST_WORKERS = 4  # by default: more cores than that have other work, too
BATCH_BYTES = 20_000  # long texts go one by one: a batch must not look like a stall

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Send:
    """A value to be published on a topic.

    `case` is the key of the case that a provisional result belongs to.
    """

    topic: str
    ending: Result | DeadLetter
    case: str = ""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """All that one message caused: what to publish, in order, and its cases.

    They must be in the outbox before the message is acknowledged.
    """

    message: Message
    sends: tuple[Send, ...]
    cases: tuple[Case, ...] = ()


@dataclass(frozen=True, slots=True)
class TextTask:
    """A text that waits for its bundle."""

    pipeline: Pipeline
    text: Text


@dataclass(frozen=True, slots=True)
class WorkItem:
    """A message with the pipelines that want it."""

    message: Message
    pipelines: tuple[Pipeline, ...]


class Engine:
    """Owns the inbox and the worker threads."""

    def __init__(
        self,
        device: str,
        max_batch: int,
        counters: Counters,
        deliver: Callable[[Outgoing], None],
        ids: IdTable | None = None,
        workers: int = 1,
    ) -> None:
        """`deliver` gets what comes of each message, in order of arrival.

        `ids` counts at which messages the process died; None: nothing is counted.
        """
        self._device = device
        self._max_batch = max_batch
        self._counters = counters
        self._deliver = deliver
        self._ids = ids
        self._inbox: deque[WorkItem] = deque()
        self._waiting = asyncio.Event()
        self._workers = workers
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="model")
        self._busy_since: float | None = None

    def put(self, order: WorkItem) -> None:
        """Add a message; the caller has checked that there is room."""
        self._inbox.append(order)
        self._waiting.set()

    async def ask(self, pipeline: Pipeline, text: str) -> Decision:
        """Return what would be decided about a text, which is no message."""
        job = TextTask(pipeline, Text(text, ""))
        loop = asyncio.get_running_loop()
        [decision] = await loop.run_in_executor(self._pool, answer, [job])
        return decision

    def busy_s(self) -> float:
        """Return for how many seconds the current batch has been worked on; 0: idle."""
        since = self._busy_since
        return 0.0 if since is None else time.monotonic() - since

    async def run(self) -> None:
        """Work until cancelled."""
        try:
            while True:
                await self.work_once()
        finally:
            self._pool.shutdown(wait=False, cancel_futures=True)

    async def work_once(self) -> None:
        """Wait for messages, take what is there, up to a batch, and answer it."""
        await self._waiting.wait()
        batch = self._take()
        self._busy_since = time.monotonic()
        started = time.perf_counter()
        with self._at_work(batch):
            jobs, unreadable = self._read(batch)
            decisions = await self._decisions(jobs)
        predict_s = time.perf_counter() - started
        answers = iter(zip(jobs, decisions, strict=True))
        for index, order in enumerate(batch):
            sends, cases = [], []
            for pipeline in order.pipelines:
                why = unreadable.get((index, pipeline.name))
                if why:
                    sends.append(self._dead_letter(order.message, pipeline, why))
                    continue
                job, decision = next(answers)
                result = self._result(order.message, job, decision, predict_s, started)
                plan, topic = pipeline.plan, pipeline.result_topic
                if not plan or not wants_upstream(decision, pipeline.policy):
                    sends.append(Send(topic, result))
                    continue
                case = self._case(job, result, plan)
                cases.append(case)
                if plan.provisional:
                    sends.append(Send(topic, replace(result, final=False), case.key))
            self._deliver(Outgoing(order.message, tuple(sends), tuple(cases)))
        self._busy_since = None

    async def _decisions(self, jobs: Sequence[TextTask]) -> list[Decision]:
        """Return what is decided about each text; every worker takes its share."""
        loop = asyncio.get_running_loop()
        number = min(self._workers, len(jobs))
        shares = [jobs[first::number] for first in range(number)]
        asked = [loop.run_in_executor(self._pool, answer, share) for share in shares]
        decisions = await asyncio.gather(*asked)
        return [decisions[n % number][n // number] for n in range(len(jobs))]

    def _take(self) -> list[WorkItem]:
        """Return what is worked on together.

        A message at which the process died is worked on alone, so that none is counted
        for its neighbour.
        """
        batch: list[WorkItem] = []
        size = 0
        while self._inbox and len(batch) < self._max_batch:
            message = self._inbox[0].message
            size += len(message.payload)
            suspect = self._deaths(message) > 0
            if batch and (size > BATCH_BYTES or suspect):
                break
            batch.append(self._inbox.popleft())
            if suspect:
                break
        if not self._inbox:
            self._waiting.clear()
        return batch

    def _deaths(self, message: Message) -> int:
        return self._ids.deaths(message.mid) if self._ids and message.mid else 0

    @contextmanager
    def _at_work(self, batch: Sequence[WorkItem]) -> Iterator[None]:
        """Count a death of the process for each message, until this is over.

        An error of ours ends the process, too. A message that ends as poison keeps its
        count until it is acknowledged.
        """
        if self._ids is None:
            yield
            return
        mids = [order.message.mid for order in batch if order.message.mid]
        for mid in mids:
            self._ids.begin(mid)
        alive = False
        try:
            yield
            alive = True
        except asyncio.CancelledError:
            alive = True
            raise
        finally:
            for mid in mids if alive else ():
                if self._ids.deaths(mid) <= MOST_DEATHS:
                    self._ids.end(mid)

    def _read(
        self, batch: Sequence[WorkItem]
    ) -> tuple[list[TextTask], dict[tuple[int, str], Unreadable]]:
        jobs = []
        unreadable = {}
        for index, order in enumerate(batch):
            for pipeline in order.pipelines:
                try:
                    text = self._text(order.message, pipeline)
                except Unreadable as why:
                    # A new one: the old one holds frames, and they the message, in a
                    # cycle that only Python's collector would free.
                    copy = Unreadable(why.reason, why.detail)
                    unreadable[index, pipeline.name] = copy
                else:
                    jobs.append(TextTask(pipeline, text))
        return jobs, unreadable

    def _text(self, message: Message, pipeline: Pipeline) -> Text:
        deaths = self._deaths(message) - 1  # this work is not over
        if deaths >= MOST_DEATHS:
            raise Unreadable(Reason.POISON, f"the process died {deaths} times at it")
        return read(message, pipeline.reader)

    def _dead_letter(
        self, message: Message, pipeline: Pipeline, why: Unreadable
    ) -> Send:
        self._counters.dead_letter(pipeline.name, why.reason)
        log.warning(
            "dead_letter",
            id=message.id,
            pipeline=pipeline.name,
            topic=message.topic,
            reason=why.reason.value,
            detail=why.detail,
        )
        letter = DeadLetter(
            id=message.id,
            device=self._device,
            pipeline=pipeline.name,
            topic=message.topic,
            reason=why.reason,
            detail=why.detail,
            payload=message.payload,
            size=len(message.payload) + message.cut,
            received_at=message.received_at,
        )
        return Send(pipeline.dead_letter_topic, letter)

    def _result(
        self,
        message: Message,
        job: TextTask,
        decision: Decision,
        predict_s: float,
        started: float,
    ) -> Result:
        pipeline = job.pipeline
        timing = Timing(
            queue=(started - message.arrived) * 1000,
            predict=predict_s * 1000,
            total=(time.perf_counter() - message.arrived) * 1000,
        )
        result = Result(
            id=job.text.id,
            device=self._device,
            pipeline=pipeline.name,
            topic=message.topic,
            decision=decision,
            model=pipeline.bundle.id,
            received_at=message.received_at,
            timing=timing,
        )
        up = bool(pipeline.plan) and wants_upstream(decision, pipeline.policy)
        self._counters.result(pipeline.name, result.decision, timing, escalated=up)
        decision = result.decision
        resolved = isinstance(decision, Resolved)
        guess = decision.prediction
        log.info(
            "handled",
            id=result.id,
            pipeline=pipeline.name,
            outcome="resolved" if resolved else "escalated" if up else "unresolved",
            reason=None if isinstance(decision, Resolved) else decision.reason.value,
            by=guess and guess.by.value,
            score=score_of(guess),
            ms_queue=round(timing.queue, 2),
            ms_predict=round(timing.predict, 2),
        )
        return result

    def _case(self, job: TextTask, result: Result, plan: EscalationSpec) -> Case:
        if isinstance(result.decision, Resolved):
            raise TypeError("what is resolved is no case")
        return Case(
            id=result.id,
            pipeline=result.pipeline,
            topic=result.topic,
            text=job.text.text,
            reason=result.decision.reason,
            guess=result.decision.prediction,
            model=result.model,
            received_at=result.received_at,
            deadline=datetime.now(UTC) + timedelta(seconds=plan.deadline_s),
            timing=result.timing,
            priority=plan.priority,
        )


def default_workers() -> int:
    """Return a worker for each core that this process may use, up to four."""
    return min(MOST_WORKERS, len(os.sched_getaffinity(0)))


def answer(jobs: Sequence[TextTask]) -> list[Decision]:
    """Ask each pipeline once for all its texts."""
    decisions: dict[int, Decision] = {}
    by_pipeline: dict[str, list[int]] = {}
    for index, job in enumerate(jobs):
        by_pipeline.setdefault(job.pipeline.name, []).append(index)
    for indices in by_pipeline.values():
        pipeline = jobs[indices[0]].pipeline
        texts = [jobs[index].text.text for index in indices]
        decisions |= zip(indices, _ask(pipeline, texts), strict=True)
    return [decisions[index] for index in range(len(jobs))]


def _ask(pipeline: Pipeline, texts: Sequence[str]) -> list[Decision]:
    try:
        return pipeline.answer(texts)
    except Exception as error:
        # A runtime written in C++ raises anything. One bad text must neither stop the
        # daemon nor take its neighbours with it: ask for each alone.
        if len(texts) > 1:
            return [answer for text in texts for answer in _ask(pipeline, [text])]
        model = pipeline.bundle.id
        log.exception("model_failed", model=model, error=type(error).__name__)
        return [Unresolved(Reason.MODEL_FAILED)]
