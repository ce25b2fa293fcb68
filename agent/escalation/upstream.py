"""Asking upstream: a case until there is a valid answer, or an end to trying."""

import asyncio
import json
import random
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import structlog

from agent.core.types import Outcome, Prediction, Tier
from agent.escalation.answer_cache import AnswerCache
from agent.escalation.answer_quality import AnswerQuality
from agent.escalation.budget import BudgetLedger, OverBudget, TooOften
from agent.escalation.calls import Caller
from agent.escalation.privacy_gate import returned
from agent.escalation.questions import Poison, Question, Questions
from agent.escalation.transport import EncodeAgain, Rejected, Transport, Unavailable
from agent.inference.pipeline import EscalationSpec
from agent.outbox.store import Database, Full, Store
from agent.protocol.cases import (
    LONGEST_QUOTE,
    BadReply,
    Case,
    CaseOutcome,
    Reply,
    Unusable,
    checked,
)
from agent.protocol.health import UpstreamHealth

ROUNDS = 2  # an answer and, if it is of no use, one more
TRIES = 3  # before another case has its turn; one, where three may have been paid
BACKOFF_S, BACKOFF_MAX_S = 0.25, 15.0  # before the next try, at random up to it
FULL_S = 1.0  # how often a full disk is tried
EXPLAINED = 1000  # cases of which we know what was wrong with their answers

Change = Callable[[Database], None]

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class UpstreamSettings:
    """On which terms upstream is asked: `rate` calls a second at most."""

    timeout_s: float
    rate: float
    max_output_tokens: int
    cache_entries: int
    cache_age_s: float


class UpstreamClient:
    """Owns the terms, and what came of the answers so far."""

    def __init__(
        self,
        terms: UpstreamSettings,
        transport: Transport,
        budget: BudgetLedger,
        store: Store,
        questions: Questions,
        on_poison: Callable[[str], None],
    ) -> None:
        """`on_poison` hears of a case that ended the process again and again."""
        self.transport = transport
        self.budget = budget
        self.full = ""  # why nobody can be asked; for whoever looks to take away
        self._questions = questions
        self._on_poison = on_poison
        self._caller = Caller(transport, budget, terms.rate, terms.timeout_s)
        self._cache = AnswerCache(store, terms.cache_entries, terms.cache_age_s)
        self._quality = AnswerQuality()
        self._unusable: OrderedDict[str, list[dict[str, str]]] = OrderedDict()

    @property
    def down(self) -> str:
        """Why nobody answers; empty: somebody does, or nobody was asked."""
        return self._caller.down

    @property
    def complaint(self) -> str:
        """What is wrong with nearly all answers of the last hour; empty: nothing."""
        return self._quality.complaint(time.monotonic())

    def health(self, seen: int) -> UpstreamHealth:
        """Return the figures of this process and of today.

        `seen` is the number of messages since the start.
        """
        unusable = self._quality.unusable
        return replace(
            self.budget.health(seen),
            transport=self.transport.name,
            to=self.transport.to,
            down=self.down or None,
            unavailable=self._caller.unavailable,
            invalid_answers=unusable.total(),
            unusable={**dict.fromkeys(map(str, Unusable), 0), **unusable},
            from_cache=self._cache.hits,
            late_replies=self.transport.late,
        )

    def unusable_answers(self, message: str) -> list[dict[str, str]]:
        """Return what was wrong with the answers to the cases of a message."""
        return self._unusable.get(message, [])

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
                question = await self._questions.of(case, plan)
                return await self._settle(question, max(1, TRIES - paid))
        except TimeoutError:
            return CaseOutcome(Outcome.TIMEOUT)
        except TooOften:
            log.warning("asked_too_often", id=case.id, pipeline=case.pipeline)
            return CaseOutcome(Outcome.TIMEOUT)
        except Poison as why:
            self._on_poison(f"case {case.id} on {case.topic[:200]}: {why}")
            return CaseOutcome(Outcome.REFUSED)
        except Rejected as why:
            log.warning("rejected", id=case.id, pipeline=case.pipeline, why=str(why))
            return CaseOutcome(Outcome.REFUSED)

    async def finish(self) -> None:
        """Begin no call any more, and wait for those being made: they are paid for."""
        await self._caller.finish()

    def busy_s(self) -> float:
        """Return for how many seconds the worker looks at one text; 0: it is idle."""
        return self._questions.busy_s()

    def close(self) -> None:
        """Let the worker go."""
        self._questions.close()

    def remember(
        self, case: Case, plan: EscalationSpec, settled: CaseOutcome
    ) -> Change | None:
        """Return the change that keeps an answer for the same text, if there is one."""
        return self._cache.remember(case, plan, settled.prediction, settled.model)

    async def _settle(self, question: Question, tries: int) -> CaseOutcome:
        """Ask, and once more where the answer is of no use."""
        shortest = question.max_output_tokens
        for _ in range(ROUNDS):
            try:
                reply = await self._reply(question, tries)
            except OverBudget:
                if question.max_output_tokens == shortest:
                    raise
                break  # it would have been twice as dear as the case is worth
            try:
                prediction = _prediction(reply, question)
            except BadReply as why:
                self._note(question.case, why.reason)
                if reply.status == "abstain":
                    break
                if why.reason == Unusable.CUT:
                    question = question.longer()
                else:
                    question = question.repaired(_quoted(reply.answer), str(why))
                continue
            self._note(question.case, "")
            if prediction is None:
                break
            model = reply.model or self.transport.name
            return CaseOutcome(Outcome.ANSWERED, prediction, model)
        return CaseOutcome(Outcome.ABSTAINED)

    async def _reply(self, question: Question, tries: int) -> Reply:
        """Ask until somebody replies; raises Unavailable after so many tries.

        Or at once where upstream fails altogether: the next to ask is another case.
        """
        failed = 0
        while True:
            try:
                return await self._caller.ask(question)
            except EncodeAgain:
                continue
            except Full as why:
                self.full = str(why)
                await asyncio.sleep(FULL_S)
            except Unavailable:
                failed += 1
                if failed >= tries or self._caller.is_failing:
                    raise
                await asyncio.sleep(_backoff(failed))

    def _note(self, case: Case, reason: str) -> None:
        """Count an answer, and tell what is wrong with it; never what it says."""
        self._quality.note(reason, time.monotonic())
        if not reason:
            return
        pipeline = case.pipeline
        log.warning("answer_unusable", id=case.id, pipeline=pipeline, reason=reason)
        reasons = self._unusable.setdefault(case.id, [])
        reasons.append({"pipeline": pipeline, "reason": reason})
        while len(self._unusable) > EXPLAINED:
            self._unusable.popitem(last=False)


def _prediction(reply: Reply, question: Question) -> Prediction | None:
    """Return the answer; None: nothing fits. Raises BadReply where it is of no use."""
    if reply.status == "abstain":
        if reply.reason:
            raise BadReply(reply.error or "no answer", reply.reason)
        return None
    if reply.status == "error":
        raise BadReply(reply.error or "no answer", reply.reason or Unusable.NO_JSON)
    answer = checked(reply.answer, question.request)
    if answer.abstains:
        return None
    entities = returned(answer.entities, question.hidden)
    return Prediction(Tier.UPSTREAM, answer.label, None, entities)


def _quoted(answer: Any) -> Any:
    """Return an unusable answer, as much of it as is worth paying for once more."""
    text = json.dumps(answer, ensure_ascii=False)
    return answer if len(text) <= LONGEST_QUOTE else text[:LONGEST_QUOTE]


def _backoff(failed: int) -> float:
    """Wait longer each time, and never all devices at once."""
    return random.uniform(0, min(BACKOFF_MAX_S, BACKOFF_S * 2**failed))  # noqa: S311
