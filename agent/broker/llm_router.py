"""Asking: the models in order, within the budget, and once more if an answer is wrong.

What a call may take is booked on the disk before it is made.
"""

import asyncio
import random
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import structlog

from agent.broker import llm
from agent.broker.config import BrokerFile
from agent.broker.counters import BrokerCounters
from agent.broker.llm import Completion, ErrorKind, Failed, LanguageModel
from agent.config.section import Limit
from agent.outbox import spending
from agent.outbox.spending import Spend, today
from agent.outbox.store import Full, Store
from agent.protocol.cases import BadReply, Repair, Reply, Request, Usage, checked
from agent.protocol.prompt import parse

ROUNDS = 2  # an answer and, if it is not valid, one more
SCOPE = "broker"
PAUSE_MAX_S = 8.0
FLAWS = 3  # failures in a row, and a model is asked after the others for a while
REST_S = 30.0

log = structlog.get_logger()


class BudgetSpent(Exception):
    """What a call may take at most is more than is left for the day."""


@dataclass(slots=True)
class _Failures:
    """Failures of a model in a row."""

    count: int = 0
    last: float = 0.0

    @property
    def resting(self) -> bool:
        return self.count >= FLAWS and time.monotonic() - self.last < REST_S


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
        self._flaws = {model.spec.model: _Failures() for model in models}

    async def ask(self, request: Request) -> Reply:
        """Ask the models, and once more if the answer is not valid."""
        said: list[Completion] = []
        try:
            async with asyncio.timeout(work_s(self._file)):
                return await self._rounds(request, said)
        except BudgetSpent:
            error = "budget"
        except TimeoutError:
            error = ErrorKind.TIMEOUT.value
        except Failed as why:
            error = why.trouble.value
        return Reply(id=request.id, status="error", error=error, usage=_usage(said))

    async def _rounds(self, request: Request, said: list[Completion]) -> Reply:
        question = request
        for _ in range(ROUNDS):
            said.append(await self._patiently(question))
            model = said[-1].model
            answer: Any = said[-1].content
            try:
                answer = parse(answer)
                found = checked(answer, request)
            except (ValueError, BadReply) as why:
                if question.repair:
                    break
                self._counters.repairs += 1
                repair = Repair(answer=answer, error=str(why))
                question = question.model_copy(update={"repair": repair})
                continue
            self._counters.answers[model] += 1
            plain: dict[str, Any] = {"label": found.label} if request.labels else {}
            if request.entities:
                plain["entities"] = [named.model_dump() for named in found.entities]
            return Reply(
                id=request.id,
                status="abstain" if found.abstains else "ok",
                answer=plain,
                usage=_usage(said),
                model=model[:256],
            )
        return Reply(
            id=request.id, status="abstain", usage=_usage(said), model=model[:256]
        )

    async def _patiently(self, request: Request) -> Completion:
        """Ask all models, and again after a pause; raises Failed, OverBudget."""
        attempt = 1
        while True:
            try:
                return await self._fallbacks(request)
            except Failed as why:
                pause = random.uniform(0.1, min(PAUSE_MAX_S, 2.0**attempt))  # noqa: S311
                final = why.trouble is ErrorKind.REFUSED or pause > left_s(request)
                if final or attempt >= self._file.broker.attempts:
                    raise
            attempt += 1
            await asyncio.sleep(pause)

    async def _fallbacks(self, request: Request) -> Completion:
        """Ask one model after the other; raises what is worth the most patience."""
        failed: Failed | None = None
        # Those that fail all the time go last, for a while.
        order = sorted(self._models, key=lambda m: self._flaws[m.spec.model].resting)
        for model in order:
            left = left_s(request)
            if left <= 0:
                break
            flaws = self._flaws[model.spec.model]
            try:
                said = await self._paid(
                    model, request, min(left, self._file.broker.timeout_s)
                )
            except Failed as why:
                self._counters.failures[f"{model.spec.model}: {why.trouble}"] += 1
                log.warning("model_failed", model=model.spec.model, why=str(why))
                if why.trouble is not ErrorKind.REFUSED:
                    flaws.count += 1
                    flaws.last = time.monotonic()
                if failed is None or failed.trouble is ErrorKind.REFUSED:
                    failed = why
                continue
            flaws.count = 0
            return said
        raise failed or Failed(ErrorKind.TIMEOUT, "deadline", billed=False)

    async def _paid(
        self, model: LanguageModel, request: Request, timeout_s: float
    ) -> Completion:
        """Ask a model within the budget; raises Failed, OverBudget."""
        wanted = _spend(model, *model.at_most(request))
        reserved = await self._reserve(wanted)
        self._counters.calls += 1
        try:
            said = await llm.ask(model, request, timeout_s)
        except Failed as why:
            if reserved is not None and not why.billed:
                with suppress(Full):
                    await self._store.write(lambda db: spending.release(db, reserved))
            raise
        sent, received = said.input_tokens, said.output_tokens
        self._counters.paid(sent, received, said.cost)
        if reserved is not None and (sent or received):  # else nobody counted
            actual = _spend(model, sent, received, said.cost)
            with suppress(Full):  # what was booked stands, and the answer is paid
                await self._store.write(
                    lambda db: spending.settle(db, reserved, actual)
                )
        return said

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


def _usage(said: list[Completion]) -> Usage:
    """Return what all answers to a case took together."""
    costs = [one.cost for one in said]
    known = [cost for cost in costs if cost is not None]
    sums = Counter(sent=0, received=0)
    for one in said:
        sums.update(sent=one.input_tokens, received=one.output_tokens)
    return Usage.capped(
        sums["sent"],
        sums["received"],
        sum(known) if len(known) == len(costs) else None,
    )
