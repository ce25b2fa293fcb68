"""Asking upstream: one case through privacy gate, budget, ledger and transport."""

import asyncio
import hashlib
import json
import time
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import structlog
from aiolimiter import AsyncLimiter
from purgatory import AsyncCircuitBreakerFactory
from purgatory.domain.model import OpenedState
from pydantic import TypeAdapter
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type
from tenacity.wait import wait_random_exponential

from agent.cases import (
    Answer,
    BadReply,
    Case,
    Repair,
    Reply,
    Request,
    checked,
    prediction,
)
from agent.outbox import answers
from agent.outbox.store import Database, Full, Store
from agent.pipeline import Plan
from agent.privacy import Finder, Redacted, guess_without, redact, restored
from agent.purse import OverBudget, Purse
from agent.transports import Rejected, Transport, Unavailable
from agent.types import Outcome, Prediction, Tier
from agent.wire import guess_object

ROUNDS = 2  # an answer and, if it is not valid, one more
FAILURES = 5  # in a row, and nobody is asked for a while
COOL_DOWN_S = 15.0
PAUSE_MAX_S = 30.0
ASKED_PAUSE_MAX_S = 3600.0

Change = Callable[[Database], None]
_ANSWER: TypeAdapter[Answer] = TypeAdapter(Answer)

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Terms:
    """On which terms upstream is asked: `rate` calls a second at most."""

    timeout_s: float
    rate: float
    cache_entries: int
    cache_age_s: float


@dataclass(frozen=True, slots=True)
class Settled:
    """What came of a case. Without a prediction the local guess is all there is."""

    outcome: Outcome
    prediction: Prediction | None = None
    model: str | None = None
    answer: Answer | None = None  # to be remembered


class Upstream:
    """Owns the terms, and what is known of the upstream's state."""

    def __init__(
        self,
        device: str,
        terms: Terms,
        transport: Transport,
        purse: Purse,
        store: Store,
        finder: Finder | None,
        worker: Executor,
    ) -> None:
        """`finder` looks for personal data, in `worker`; None: no pipeline redacts."""
        self.transport = transport
        self.purse = purse
        self.down = ""  # why nobody answers; empty: somebody does, or nobody was asked
        self._unavailable = self._invalid = self._cached = 0
        self._device = device
        self._terms = terms
        self._store = store
        self._finder = finder
        self._worker = worker
        self._limiter = AsyncLimiter(max(1.0, terms.rate), max(1.0, 1 / terms.rate))
        self._breakers = AsyncCircuitBreakerFactory(
            default_threshold=FAILURES,
            default_ttl=COOL_DOWN_S,
            exclude=[OverBudget, Rejected, Full],
        )

    def summary(self, seen: int) -> dict[str, Any]:
        """Return the figures of this process and of today, ready for JSON.

        `seen` is the number of messages since the start.
        """
        return {
            "transport": self.transport.name,
            "to": self.transport.to,
            "down": self.down or None,
            "unavailable": self._unavailable,
            "invalid_answers": self._invalid,
            "from_cache": self._cached,
            "late_replies": self.transport.late,
            **self.purse.summary(seen),
        }

    async def settle(self, case: Case, plan: Plan) -> Settled:
        """Ask until there is an answer or the deadline; raises OverBudget."""
        left = case.deadline.timestamp() - time.time()
        try:
            async with asyncio.timeout(max(0.0, left)):
                known = await self._recalled(case, plan)
                return known or await self._settle(case, plan)
        except TimeoutError:
            return Settled(Outcome.TIMEOUT)
        except Rejected as why:
            log.warning("rejected", id=case.id, pipeline=case.pipeline, why=str(why))
            return Settled(Outcome.REFUSED)

    def remember(self, case: Case, plan: Plan, settled: Settled) -> Change | None:
        """Return the change that keeps an answer for the same text, if there is one."""
        entries = self._terms.cache_entries
        if settled.answer is None or not entries:
            return None
        said = {
            "answer": _ANSWER.dump_python(settled.answer, mode="json"),
            "model": settled.model,
        }
        key, body = _question(case, plan), json.dumps(said).encode()
        return lambda db: answers.remember(db, key, body, time.time(), entries)

    async def _recalled(self, case: Case, plan: Plan) -> Settled | None:
        if not self._terms.cache_entries:
            return None
        key, age = _question(case, plan), self._terms.cache_age_s
        body = await self._store.read(
            lambda db: answers.recall(db, key, time.time(), age)
        )
        if body is None:
            return None
        said = json.loads(body)
        answer = _ANSWER.validate_python(said["answer"])
        self._cached += 1
        found = prediction(answer, case.text, Tier.CACHE)
        return Settled(Outcome.ANSWERED, found, said["model"])

    async def _settle(self, case: Case, plan: Plan) -> Settled:
        hidden = await self._redacted(case.text, plan)
        request = Request(
            id=case.id,
            device=self._device,
            pipeline=case.pipeline,
            text=hidden.text,
            labels=dict(plan.labels),
            entities=dict(plan.entities),
            guess=guess_without(guess_object(case.guess), case.text, hidden),
            redacted=sum(hidden.counts.values()),
            deadline_ms=int(case.deadline.timestamp() * 1000),
        )
        for _ in range(ROUNDS):
            reply = await self._reply(request, case, plan, hidden)
            if reply.status == "abstain":
                break
            try:
                answer = checked(_said(reply), request)
                if answer.abstains:
                    break
                answer = restored(answer, hidden.hidden)
                found = prediction(answer, case.text, Tier.UPSTREAM)
            except BadReply as why:
                self._invalid += 1
                repair = Repair(answer=reply.answer, error=str(why))
                request = request.model_copy(update={"repair": repair})
            else:
                model = reply.model or self.transport.name
                return Settled(Outcome.ANSWERED, found, model, answer)
        return Settled(Outcome.ABSTAINED)

    async def _redacted(self, text: str, plan: Plan) -> Redacted:
        if not plan.redacts:
            return Redacted(text, {}, {})
        if self._finder is None:
            raise AssertionError("a pipeline redacts, and nothing was opened for it")
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(self._worker, self._finder.find, text)
        return redact(text, found)

    async def _reply(
        self, request: Request, case: Case, plan: Plan, hidden: Redacted
    ) -> Reply:
        """Ask again and again, until somebody replies or the deadline cancels."""
        async for attempt in AsyncRetrying(
            retry=retry_if_exception_type((Unavailable, OpenedState, Full)),
            wait=_pause,
            before_sleep=self._note,
        ):
            with attempt:
                return await self._ask(request, case, plan, hidden)
        raise AssertionError("only a deadline ends the tries")

    def _note(self, state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        if isinstance(error, Unavailable):
            self._unavailable += 1
            if not self.down:
                log.warning("upstream_unavailable", why=str(error))
            self.down = str(error)

    async def _ask(
        self, request: Request, case: Case, plan: Plan, hidden: Redacted
    ) -> Reply:
        breaker = await self._breakers.get_breaker(self.transport.name)
        async with breaker, self._limiter:
            body = self.transport.encode(request)
            number = await self.purse.book(
                request, case, plan.limit, body, hidden.counts
            )
            try:
                reply = await self.transport.ask(request, body, self._terms.timeout_s)
            except (Unavailable, Rejected) as why:
                if isinstance(why, Rejected) or not why.maybe_paid:
                    await self.purse.release(number)
                raise
            await self.purse.settle(number, reply.usage)
            self.down = ""
            free = not (reply.usage.input_tokens or reply.usage.output_tokens)
            if reply.status == "error" and reply.answer is None and free:
                # The broker side could not ask anybody: it may, later.
                raise Unavailable(reply.error or "upstream error", maybe_paid=False)
        return reply


def _said(reply: Reply) -> Any:
    """Return what was answered; raises BadReply for a reply that holds no answer."""
    if reply.status == "error":
        raise BadReply(reply.error or "no answer")
    return reply.answer


def _pause(state: RetryCallState) -> float:
    """Wait longer each time, never all devices at once, and as long as asked to."""
    error = state.outcome.exception() if state.outcome else None
    asked = error.retry_after_s if isinstance(error, Unavailable) else None
    backoff = wait_random_exponential(multiplier=0.5, max=PAUSE_MAX_S)(state)
    return max(backoff, min(asked or 0.0, ASKED_PAUSE_MAX_S))


def _question(case: Case, plan: Plan) -> str:
    """Name a question: another pipeline, or other names to answer with, make another.

    A hash, so that no text lies in the cache but in answers.
    """
    named = [case.pipeline, dict(plan.labels), dict(plan.entities), case.text]
    return hashlib.sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()
