"""Asking: the models in order, within the budget, and once more if an answer is wrong.

What a call may take is booked on the disk before it is made.
"""

import asyncio
import math
import random
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import structlog

from agent.broker import llm
from agent.broker.config import BrokerFile
from agent.broker.counters import BrokerCounters
from agent.broker.llm import Completion, ErrorKind, Failed, LanguageModel
from agent.config.section import Limit
from agent.core.blame import Blame
from agent.core.pacing import Pacer, Resting
from agent.outbox import spending
from agent.outbox.spending import Spend, today
from agent.outbox.store import Full, Store
from agent.protocol.cases import (
    BadReply,
    Repair,
    Reply,
    Request,
    Unusable,
    Usage,
    checked,
    same_question,
)
from agent.protocol.forms import PromptForm, PromptForms
from agent.protocol.verdicts import Kind

ROUNDS = 2  # an answer and, if it is not valid, one more
SCOPE = "broker"
PAUSE_MAX_S = 8.0
REASONS = {
    Kind.UNUSABLE: Unusable.NO_JSON,
    Kind.CUT: Unusable.CUT,
    Kind.DECLINED: Unusable.DECLINED,
}

log = structlog.get_logger()


class BudgetSpent(Exception):
    """What a call may take at most is more than is left for the day."""


@dataclass(slots=True)
class _Standing:
    """What is known of a model: how it fares, what it takes, and whom it refuses."""

    forms: PromptForms
    pacer: Pacer = field(default_factory=lambda: Pacer(math.inf))
    blame: Blame = field(default_factory=Blame)

    def takes_another(self, pipeline: str, form: PromptForm, why: Failed) -> bool:
        """Tell whether a model may take a request in another form."""
        verdict = why.verdict
        if verdict is None or verdict.kind not in {Kind.FORM, Kind.REJECTED}:
            return False
        other = self.forms.refused(pipeline, form, verdict.part)
        if other and verdict.kind is Kind.REJECTED:  # it failed for all we know
            self.pacer.circuit.failed(time.monotonic(), reached=True)
        return other

    def failed(self, request: Request, why: Failed) -> Failed:
        """Take a failure in; return whose fault it is.

        A request that is refused is to blame only where others are answered.
        """
        now = time.monotonic()
        if why.trouble is ErrorKind.REFUSED:
            if self.blame.refused(same_question(request), now):
                return why
            why = why.of_all
        pause_s = (why.verdict and why.verdict.pause_s) or 0.0
        self.pacer.circuit.failed(now, reached=why.reached, pause_s=pause_s)
        return why

    def answered(self, request: Request, form: PromptForm) -> None:
        """Take in that a request was answered in a form."""
        now = time.monotonic()
        self.forms.worked(request.pipeline, form)
        self.blame.answered(same_question(request), now)
        self.pacer.circuit.answered(now)


@dataclass(frozen=True, slots=True)
class _Asked:
    """A request, and how many times a model's longest answer one may be."""

    request: Request
    longer: int = 1


def work_s(file: BrokerFile) -> float:
    """Return how long the work on one case may take."""
    calls = ROUNDS * file.broker.attempts * len(file.models)
    return calls * file.broker.timeout_s + file.broker.attempts * PAUSE_MAX_S


def limit_of(file: BrokerFile) -> Limit:
    """Return the day's budget."""
    budget = file.budget
    money = budget.money_per_day
    micros = None if money is None else round(money * 1_000_000)
    return Limit(SCOPE, budget.calls_per_day, budget.tokens_per_day, micros)


def left_s(request: Request) -> float:
    """Return how long a request may still wait, in seconds."""
    return request.deadline_ms / 1000 - time.time()


class LlmRouter:
    """Owns what is known of the models, and the day's budget."""

    def __init__(
        self,
        file: BrokerFile,
        models: tuple[LanguageModel, ...],
        store: Store,
        counters: BrokerCounters,
    ) -> None:
        """Take the models in order, and where spending is written down."""
        self._file = file
        self._models = models
        self._store = store
        self._counters = counters
        self._limit = limit_of(file)
        self._standing = {
            m.spec.model: _Standing(PromptForms(m.first_form)) for m in models
        }

    async def ask(self, request: Request) -> Reply:
        """Ask the models, and once more if the answer is not valid."""
        completions: list[Completion] = []
        try:
            async with asyncio.timeout(work_s(self._file)):
                return await self._rounds(request, completions)
        except BudgetSpent:
            error = "budget"
        except TimeoutError:
            error = ErrorKind.TIMEOUT.value
        except Failed as why:
            error = why.trouble.value
        reason = Unusable.REJECTED if error == ErrorKind.REFUSED else None
        usage = _usage(completions)
        return Reply(
            id=request.id, status="error", error=error, usage=usage, reason=reason
        )

    async def _rounds(self, request: Request, completions: list[Completion]) -> Reply:
        """Ask, and once more where the answer is of no use."""
        asked = _Asked(request)
        reason = ""
        for _ in range(ROUNDS):
            try:
                completion = await self._patiently(asked)
            except BudgetSpent:
                if asked.longer == 1:
                    raise
                break
            completions.append(completion)
            try:
                return self._answered(completion, request, completions)
            except BadReply as why:
                reason = why.reason
                self._counters.unusable[reason] += 1
                log.warning("answer_unusable", model=completion.model, reason=reason)
                verdict = completion.verdict
                if asked.request.repair or verdict.kind is Kind.DECLINED:
                    break
                self._counters.repairs += 1
                if verdict.kind is Kind.CUT:
                    asked = replace(asked, longer=2)
                else:
                    repair = Repair(answer=verdict.answer, error=str(why))
                    again = request.model_copy(update={"repair": repair})
                    asked = replace(asked, request=again)
        return Reply(
            id=request.id,
            status="abstain",
            usage=_usage(completions),
            model=completions[-1].model,
            reason=reason or None,
        )

    def _answered(
        self, completion: Completion, request: Request, completions: list[Completion]
    ) -> Reply:
        """Return the reply of a valid answer; raises BadReply."""
        verdict = completion.verdict
        if verdict.kind is not Kind.ANSWER:
            raise BadReply(verdict.why, REASONS[verdict.kind])
        answer = checked(verdict.answer, request)
        self._counters.answers[completion.model] += 1
        plain: dict[str, Any] = {"label": answer.label} if request.labels else {}
        if request.entities:
            plain["entities"] = [named.model_dump() for named in answer.entities]
        return Reply(
            id=request.id,
            status="abstain" if answer.abstains else "ok",
            answer=plain,
            usage=_usage(completions),
            model=completion.model,
        )

    async def _patiently(self, asked: _Asked) -> Completion:
        """Ask all models, and again after a pause; raises Failed, BudgetSpent."""
        attempt = 1
        while True:
            try:
                return await self._fallbacks(asked)
            except Failed as why:
                pause = random.uniform(0.1, min(PAUSE_MAX_S, 2.0**attempt))  # noqa: S311
                late = pause > left_s(asked.request)
                final = late or why.trouble is ErrorKind.REFUSED or self._all_rest
                if final or attempt >= self._file.broker.attempts:
                    raise
            attempt += 1
            await asyncio.sleep(pause)

    @property
    def _all_rest(self) -> bool:
        """Whether every model fails altogether, and is asked now and then only."""
        return all(each.pacer.circuit.is_failing for each in self._standing.values())

    async def _fallbacks(self, asked: _Asked) -> Completion:
        """Ask one model after the other; raises what is worth the most patience."""
        failed: Failed | None = None
        for model in self._models:
            left = left_s(asked.request)
            if left <= 0:
                break
            try:
                timeout_s = min(left, self._file.broker.timeout_s)
                return await self._once(model, asked, timeout_s)
            except Resting:
                why = Failed(ErrorKind.UNAVAILABLE, "it fails, and rests", billed=False)
            except Failed as error:
                why = error
                self._counters.failures[f"{model.spec.model}: {why.trouble}"] += 1
                log.warning("model_failed", model=model.spec.model, why=str(why))
            if failed is None or failed.trouble is ErrorKind.REFUSED:
                failed = why
        raise failed or Failed(ErrorKind.TIMEOUT, "deadline", billed=False)

    async def _once(
        self, model: LanguageModel, asked: _Asked, timeout_s: float
    ) -> Completion:
        """Ask a model, in each form that it may take; raises Failed and Resting."""
        standing = self._standing[model.spec.model]
        pipeline = asked.request.pipeline
        while True:
            async with standing.pacer.turn(patient=False):
                form = standing.forms.now(pipeline)
                try:
                    completion = await self._paid(model, asked, form, timeout_s)
                except Failed as why:
                    if standing.takes_another(pipeline, form, why):
                        continue
                    raise standing.failed(asked.request, why) from why
                standing.answered(asked.request, form)
                return completion

    async def _paid(
        self, model: LanguageModel, asked: _Asked, form: PromptForm, timeout_s: float
    ) -> Completion:
        """Ask a model within the budget; raises Failed, BudgetSpent."""
        wanted = _spend(model, *model.at_most(asked.request, asked.longer))
        reserved = await self._reserve(wanted)
        self._counters.calls += 1
        try:
            completion = await llm.ask(
                model, asked.request, form, asked.longer, timeout_s
            )
        except Failed as why:
            if reserved is not None and not why.billed:
                with suppress(Full):
                    await self._store.write(lambda db: spending.release(db, reserved))
            raise
        sent, received = completion.input_tokens, completion.output_tokens
        self._counters.paid(sent, received, completion.cost)
        if reserved is not None and (sent or received):  # else nobody counted
            actual = _spend(model, sent, received, completion.cost)
            with suppress(Full):  # what was booked stands, and the answer is paid
                await self._store.write(
                    lambda db: spending.settle(db, reserved, actual)
                )
        return completion

    async def _reserve(self, wanted: Spend) -> int | None:
        """Book what a call may take at most, durably; raises OverBudget."""
        if not self._file.budget.any:
            return None
        limit = self._limit
        try:
            reserved = await self._store.write(
                lambda db: spending.reserve(db, today(), [limit], wanted)
            )
        except Full:
            reserved = None  # what cannot be booked is not spent
        if reserved is None:
            raise BudgetSpent
        return reserved


def _spend(
    model: LanguageModel, sent: int, received: int, cost: float | None = None
) -> Spend:
    cost = model.cost(sent, received) if cost is None else cost
    return Spend(1, sent + received, round((cost or 0.0) * 1_000_000))


def _usage(completions: list[Completion]) -> Usage:
    """Return what all answers to a case took together."""
    costs = [one.cost for one in completions]
    known = [cost for cost in costs if cost is not None]
    sums = Counter(sent=0, received=0)
    for one in completions:
        sums.update(sent=one.input_tokens, received=one.output_tokens)
    return Usage.capped(
        sums["sent"],
        sums["received"],
        sum(known) if len(known) == len(costs) else None,
    )
