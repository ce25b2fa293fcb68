"""Asking upstream: one case through privacy gate, budget, ledger and transport."""

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import structlog

from agent.core.types import Outcome, Prediction, Tier
from agent.escalation.answer_cache import AnswerCache
from agent.escalation.budget import Booking, BudgetLedger, TooOften
from agent.escalation.pacing import Pacer
from agent.escalation.privacy_gate import (
    Finder,
    Redacted,
    guess_without,
    redact,
    returned,
    withheld,
)
from agent.escalation.transport import EncodeAgain, Rejected, Transport, Unavailable
from agent.inference.pipeline import EscalationSpec
from agent.outbox.cases import wire_id
from agent.outbox.store import Database, Full, Store
from agent.protocol.cases import (
    LONGEST_QUOTE,
    BadReply,
    Case,
    CaseOutcome,
    Repair,
    Reply,
    Request,
    checked,
)
from agent.protocol.health import UpstreamHealth
from agent.protocol.messages import guess_object

ROUNDS = 2  # an answer and, if it is not valid, one more
TRIES = 3  # before another case has its turn; one, where three may have been paid
BACKOFF_S, BACKOFF_MAX_S = 0.25, 15.0  # before the next try, at random up to it
FULL_S = 1.0  # how often a full disk is tried
ASKED_PAUSE_MAX_S = 3600.0

Change = Callable[[Database], None]

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class UpstreamSettings:
    """On which terms upstream is asked: `rate` calls a second at most."""

    timeout_s: float
    rate: float
    cache_entries: int
    cache_age_s: float


class UpstreamClient:
    """Owns the terms, and what is known of the upstream's state."""

    def __init__(
        self,
        device: str,
        terms: UpstreamSettings,
        transport: Transport,
        budget: BudgetLedger,
        store: Store,
        finder: Finder | None,
        worker: Executor,
    ) -> None:
        """`finder` looks for personal data, in `worker`; None: no pipeline redacts."""
        self.transport = transport
        self.budget = budget
        self.down = ""  # why nobody answers; empty: somebody does, or nobody was asked
        self.full = ""  # why nobody can be asked; for whoever looks to take away
        self._leaving = False
        self._calls = 0  # that are being made
        self._made = asyncio.Event()
        self._unavailable = self._invalid = 0
        self._device = device
        self._terms = terms
        self._store = store
        self._finder = finder
        self._worker = worker
        self._hiding_since: float | None = None  # by the worker
        self._cache = AnswerCache(store, terms.cache_entries, terms.cache_age_s)
        self._pacer = Pacer(terms.rate)

    def health(self, seen: int) -> UpstreamHealth:
        """Return the figures of this process and of today.

        `seen` is the number of messages since the start.
        """
        return replace(
            self.budget.health(seen),
            transport=self.transport.name,
            to=self.transport.to,
            down=self.down or None,
            unavailable=self._unavailable,
            invalid_answers=self._invalid,
            from_cache=self._cache.hits,
            late_replies=self.transport.late,
        )

    async def settle(
        self, case: Case, plan: EscalationSpec, paid: int = 0
    ) -> CaseOutcome:
        """Ask until there is an answer or the deadline, or enough was paid for none.

        `paid`: how many calls may have been paid for it before. Raises OverBudget, and
        Unavailable when another case should have its turn.
        """
        left = case.deadline.timestamp() - time.time()
        try:
            async with asyncio.timeout(max(0.0, left)):
                known = await self._cache.recall(case, plan)
                if known:
                    return CaseOutcome(Outcome.ANSWERED, known.found, known.model)
                return await self._settle(case, plan, max(1, TRIES - paid))
        except TimeoutError:
            return CaseOutcome(Outcome.TIMEOUT)
        except TooOften:
            log.warning("asked_too_often", id=case.id, pipeline=case.pipeline)
            return CaseOutcome(Outcome.TIMEOUT)
        except Rejected as why:
            log.warning("rejected", id=case.id, pipeline=case.pipeline, why=str(why))
            return CaseOutcome(Outcome.REFUSED)

    async def finish(self) -> None:
        """Begin no call any more, and wait for those being made: they are paid for."""
        self._leaving = True
        while self._calls:
            self._made.clear()
            await self._made.wait()

    def busy_s(self) -> float:
        """Return for how many seconds the worker looks at one text; 0: it is idle."""
        since = self._hiding_since
        return 0.0 if since is None else time.monotonic() - since

    def close(self) -> None:
        """Let the worker go."""
        self._worker.shutdown(wait=False, cancel_futures=True)

    def remember(
        self, case: Case, plan: EscalationSpec, settled: CaseOutcome
    ) -> Change | None:
        """Return the change that keeps an answer for the same text, if there is one."""
        return self._cache.remember(case, plan, settled.prediction, settled.model)

    async def _settle(
        self, case: Case, plan: EscalationSpec, tries: int
    ) -> CaseOutcome:
        request, hidden = await self._request(case, plan)
        for _ in range(ROUNDS):
            reply = await self._reply(request, case, plan, hidden, tries)
            if reply.status == "abstain":
                break
            try:
                answer = checked(_said(reply), request)
                if answer.abstains:
                    break
                entities = returned(answer.entities, hidden)
            except BadReply as why:
                self._invalid += 1
                repair = Repair(answer=_quoted(reply.answer), error=str(why))
                request = request.model_copy(update={"repair": repair})
            else:
                model = reply.model or self.transport.name
                found = Prediction(Tier.UPSTREAM, answer.label, None, entities)
                return CaseOutcome(Outcome.ANSWERED, found, model)
        return CaseOutcome(Outcome.ABSTAINED)

    async def _request(
        self, case: Case, plan: EscalationSpec
    ) -> tuple[Request, Redacted]:
        """Return what of a case may leave; raises Rejected where that cannot be told.

        Models find what is to be hidden, and a runtime written in C++ raises anything:
        one bad text must not stop the daemon, at each start anew. An error may quote
        the text, so only its name is told.
        """
        name = await self._store.read(lambda db: wire_id(db, case.key))
        try:
            hidden = await self._redacted(case.text, plan)
            request = Request(
                id=name,  # the producer's may hold personal data
                device=self._device,
                pipeline=case.pipeline,
                text=hidden.text,
                labels=dict(plan.labels),
                entities=dict(plan.entities),
                guess=guess_without(guess_object(case.guess), case.text, hidden),
                redacted=sum(hidden.counters.values()),
                deadline_ms=int(case.deadline.timestamp() * 1000),
            )
        except Exception as error:
            why = f"the privacy gate failed: {type(error).__name__}"
            raise Rejected(why) from error
        return request, hidden

    async def _redacted(self, text: str, plan: EscalationSpec) -> Redacted:
        if not plan.redacts:
            return Redacted(text, {}, {})
        if self._finder is None:
            raise AssertionError("a pipeline redacts, and nothing was opened for it")
        find = self._finder.find

        def hide() -> Redacted:
            self._hiding_since = time.monotonic()
            try:
                return redact(text, withheld(text, find(text), plan))
            finally:
                self._hiding_since = None

        return await asyncio.get_running_loop().run_in_executor(self._worker, hide)

    async def _reply(
        self,
        request: Request,
        case: Case,
        plan: EscalationSpec,
        hidden: Redacted,
        tries: int,
    ) -> Reply:
        """Ask until somebody replies; raises Unavailable after so many tries.

        Or at once where upstream fails altogether: the next to ask is another case.
        """
        failed = 0
        while True:
            try:
                return await self._ask(request, case, plan, hidden)
            except EncodeAgain:
                continue
            except Full as why:
                self.full = str(why)
                await asyncio.sleep(FULL_S)
            except Unavailable:
                failed += 1
                if failed >= tries or self._pacer.circuit.is_failing:
                    raise
                await asyncio.sleep(_backoff(failed))

    async def _ask(
        self, request: Request, case: Case, plan: EscalationSpec, hidden: Redacted
    ) -> Reply:
        async with self._pacer.turn(), self._making():
            body = self.transport.encode(request)
            booking = await self.budget.book(
                request, case, plan.limit, body, hidden.counters
            )
            try:
                return await self._call(request, body, booking)
            finally:
                self.budget.close(booking)

    @asynccontextmanager
    async def _making(self) -> AsyncIterator[None]:
        """Count a call that is being made; once we leave, none begins."""
        if self._leaving:
            await asyncio.Event().wait()  # until cancelled: the case stays
        self._calls += 1
        try:
            yield
        finally:
            self._calls -= 1
            self._made.set()

    async def _call(self, request: Request, body: bytes, booking: Booking) -> Reply:
        """Make a booked call, set the books right, and tell the circuit."""
        try:
            reply = await self._heard(request, body, booking)
        except EncodeAgain:
            await self.budget.release(booking)
            raise
        except Unavailable as why:
            self._failed(why)
            if not why.maybe_paid:
                await self.budget.release(booking)
            raise
        except Rejected:
            await self.budget.release(booking)
            raise
        self.down = ""
        self._pacer.circuit.answered(time.monotonic())
        await self.budget.settle(booking, reply.usage)
        return reply

    def _failed(self, why: Unavailable) -> None:
        self._unavailable += 1
        if not self.down:
            log.warning("upstream_unavailable", why=str(why))
        self.down = str(why)
        pause_s = min(why.retry_after_s or 0.0, ASKED_PAUSE_MAX_S)
        self._pacer.circuit.failed(
            time.monotonic(), reached=why.reached, pause_s=pause_s
        )

    async def _heard(self, request: Request, body: bytes, booking: Booking) -> Reply:
        """Ask once; who could ask nobody, but may later, is Unavailable, too."""
        reply = await self.transport.ask(request, body, self._terms.timeout_s)
        usage = reply.usage
        counted = usage.input_tokens or usage.output_tokens
        if reply.status != "error" or reply.answer is not None or counted:
            return reply
        free = usage.cost == 0
        if not free:
            await self.budget.settle(booking, usage)
        raise Unavailable(reply.error or "upstream error", maybe_paid=not free)


def _said(reply: Reply) -> Any:
    """Return what was answered; raises BadReply for a reply that holds no answer."""
    if reply.status == "error":
        raise BadReply(reply.error or "no answer")
    return reply.answer


def _quoted(answer: Any) -> Any:
    """Return an unusable answer, as much of it as is worth paying for once more."""
    text = json.dumps(answer, ensure_ascii=False)
    return answer if len(text) <= LONGEST_QUOTE else text[:LONGEST_QUOTE]


def _backoff(failed: int) -> float:
    """Wait longer each time, and never all devices at once."""
    return random.uniform(0, min(BACKOFF_MAX_S, BACKOFF_S * 2**failed))  # noqa: S311
