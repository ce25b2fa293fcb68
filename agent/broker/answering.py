"""From a request to the reply: from the store, from another broker, or from a model.

Nobody is paid twice for one case: its answer is on the disk before it is told, and
whoever comes while it is worked on waits for the same one.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import structlog

from agent.broker import llm, replies
from agent.broker.claims import Told, decode_told, encode
from agent.broker.group import Group
from agent.broker.llm import Failed, Model, Said, Trouble
from agent.broker.settings import BrokerFile
from agent.broker.tally import Tally
from agent.cases import BadReply, Repair, Reply, Request, Usage, checked
from agent.outbox import answers, spending
from agent.outbox.spending import Limit, Spend
from agent.outbox.store import Full, Store
from agent.prompt import parse

ROUNDS = 2  # an answer and, if it is not valid, one more
SCOPE = "broker"
MARGIN_S = 5.0  # how much longer a claim lasts than the work on its case may
PAUSE_MAX_S = 8.0
FLAWS = 3  # failures in a row, and a model is asked after the others for a while
REST_S = 30.0

log = structlog.get_logger()


class OverBudget(Exception):
    """What a call may take at most is more than is left for the day."""


@dataclass(slots=True)
class _Flaws:
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


def lease_s(file: BrokerFile) -> float:
    """Return how long a claim lasts."""
    return work_s(file) + MARGIN_S


def limit_of(file: BrokerFile) -> Limit:
    """Return the day's budget."""
    budget = file.budget
    money = budget.money_per_day
    micros = None if money is None else round(money * 1_000_000)
    return Limit(SCOPE, budget.calls_per_day, budget.tokens_per_day, micros)


def today() -> str:
    """Return the day that is paid for, in UTC."""
    return datetime.now(UTC).date().isoformat()


class Answering:
    """Owns what is being answered now, and what was just heard from others."""

    def __init__(
        self,
        file: BrokerFile,
        models: tuple[Model, ...],
        store: Store,
        group: Group,
        tally: Tally,
    ) -> None:
        """Take all that an answer may come from."""
        self._file = file
        self._models = models
        self._names = tuple(model.spec.model for model in models)
        self._store = store
        self._group = group
        self._tally = tally
        self._limit = limit_of(file)
        self._slots = asyncio.Semaphore(file.broker.concurrency)
        self._working: dict[str, asyncio.Future[Reply | None]] = {}
        self._heard: dict[str, Told] = {}  # from others, not on our disk yet
        self._flaws = {model.spec.model: _Flaws() for model in models}

    async def answer(self, request: Request) -> Reply | None:
        """Return the reply to a request; None once its deadline has passed."""
        key = replies.case_key(request)
        if key in self._working:
            self._tally.repeated += 1
            return await asyncio.shield(self._working[key])
        work = asyncio.get_running_loop().create_future()
        self._working[key] = work
        try:
            reply = await self._found(key, request)
            work.set_result(reply)
        finally:
            work.cancel()  # whoever waits hears of it, if there is no reply
            del self._working[key]
        return reply

    def heard(self, told: Told) -> None:
        """Take in what another broker answered, before it is on the disk."""
        self._heard[told.key] = told

    async def learn(self, told: Sequence[Told]) -> None:
        """Put on the disk what other brokers answered."""
        await self._keep(told, own=False)
        for one in told:
            self._heard.pop(one.key, None)

    async def own_since(self, since: float) -> list[bytes]:
        """Return the answers of ours that others may have missed."""
        return await self._store.read(
            lambda db: replies.own_since(db, since, time.time())
        )

    # -- where an answer may be

    async def _found(self, key: str, request: Request) -> Reply | None:
        known = await self._known(key)
        if known:
            self._tally.repeated += 1
            return known
        cached = await self._cached(request)
        if cached:
            self._tally.cached += 1
            return cached
        while _left_s(request) > 0:
            try:
                async with asyncio.timeout(_left_s(request)):
                    await self._slots.acquire()
            except TimeoutError:
                return None
            try:
                other = await self._turn(key, request)
                if not isinstance(other, asyncio.Future):
                    return other
            finally:
                self._slots.release()
            told = await self._waited(other, request)
            if told:
                self._tally.taken_over += 1
                return told.reply
        return None

    async def _turn(
        self, key: str, request: Request
    ) -> "Reply | asyncio.Future[Told | None] | None":
        """Work on a case if it is ours; else return what to wait for."""
        try:
            async with asyncio.timeout(_left_s(request)):
                other = await self._group.claim(key)
        except TimeoutError:
            return None
        if other is not None:
            return other
        try:
            # Another may have told its answer while we waited for our turn.
            known = await self._known(key)
            if known:
                self._tally.taken_over += 1
                return known
            reply = await self._asked(request)
            if reply.status != "error":
                await self._done(key, request, reply)
            return reply
        finally:
            await self._group.end(key)  # nothing to do, if it was told

    async def _waited(
        self, other: "asyncio.Future[Told | None]", request: Request
    ) -> Told | None:
        try:
            async with asyncio.timeout(_left_s(request)):
                return await other
        except TimeoutError:
            return None

    async def _known(self, key: str) -> Reply | None:
        if key in self._heard:
            return self._heard[key].reply
        body = await self._store.read(lambda db: replies.find(db, key))
        told = None if body is None else decode_told(body)
        return told.reply if told else None

    async def _cached(self, request: Request) -> Reply | None:
        cache = self._file.broker.cache
        if not cache.entries or request.repair:
            return None
        key = replies.question_key(request, self._names)
        body = await self._store.read(
            lambda db: answers.recall(db, key, time.time(), cache.age_s)
        )
        if body is None:
            return None
        reply = Reply.model_validate_json(body)
        return reply.model_copy(update={"id": request.id, "usage": Usage(cost=0.0)})

    async def _done(self, key: str, request: Request, reply: Reply) -> None:
        """Store an answer, then tell the others."""
        told = Told(
            key=key, by=self._file.broker.name, deadline_ms=request.deadline_ms,
            reply=reply,
        )  # fmt: skip
        await self._keep([told], own=True)
        cache = self._file.broker.cache
        if cache.entries and not request.repair and reply.answer is not None:
            question = replies.question_key(request, self._names)
            body = reply.model_dump_json().encode()
            await self._write(
                lambda db: answers.remember(
                    db, question, body, time.time(), cache.entries
                )
            )
        await self._group.tell(told)

    async def _keep(self, told: Sequence[Told], *, own: bool) -> None:
        def change(db: Any) -> None:
            now = time.time()
            replies.prune(db, now - self._file.broker.keep_s)
            for one in told:
                replies.keep(db, one, encode(one), now=now, own=own)

        await self._write(change)

    async def _write(self, change: Any) -> None:
        """Write; where there is no room, a paid answer is worth older ones."""
        try:
            await self._store.write(change)
        except Full:
            log.warning("store_full")
            await self._store.write(replies.prune_half)
            with suppress(Full):  # others filled the disk: the reply goes out anyway
                await self._store.write(change)

    # -- asking

    async def _asked(self, request: Request) -> Reply:
        """Ask the models, and once more if the answer is not valid."""
        said: list[Said] = []
        try:
            async with asyncio.timeout(work_s(self._file)):
                return await self._rounds(request, said)
        except OverBudget:
            error = "budget"
        except TimeoutError:
            error = Trouble.TIMEOUT.value
        except Failed as why:
            error = why.trouble.value
        return Reply(id=request.id, status="error", error=error, usage=_usage(said))

    async def _rounds(self, request: Request, said: list[Said]) -> Reply:
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
                self._tally.repairs += 1
                repair = Repair(answer=answer, error=str(why))
                question = question.model_copy(update={"repair": repair})
                continue
            self._tally.answers[model] += 1
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

    async def _patiently(self, request: Request) -> Said:
        """Ask all models, and again after a pause; raises Failed, OverBudget."""
        attempt = 1
        while True:
            try:
                return await self._fallbacks(request)
            except Failed as why:
                pause = random.uniform(0.1, min(PAUSE_MAX_S, 2.0**attempt))  # noqa: S311
                final = why.trouble is Trouble.REFUSED or pause > _left_s(request)
                if final or attempt >= self._file.broker.attempts:
                    raise
            attempt += 1
            await asyncio.sleep(pause)

    async def _fallbacks(self, request: Request) -> Said:
        """Ask one model after the other; raises what is worth the most patience."""
        failed: Failed | None = None
        # Those that fail all the time go last, for a while.
        order = sorted(self._models, key=lambda m: self._flaws[m.spec.model].resting)
        for model in order:
            left = _left_s(request)
            if left <= 0:
                break
            flaws = self._flaws[model.spec.model]
            try:
                said = await self._paid(
                    model, request, min(left, self._file.broker.timeout_s)
                )
            except Failed as why:
                self._tally.failures[f"{model.spec.model}: {why.trouble}"] += 1
                log.warning("model_failed", model=model.spec.model, why=str(why))
                if why.trouble is not Trouble.REFUSED:
                    flaws.count += 1
                    flaws.last = time.monotonic()
                if failed is None or failed.trouble is Trouble.REFUSED:
                    failed = why
                continue
            flaws.count = 0
            return said
        raise failed or Failed(Trouble.TIMEOUT, "deadline", billed=False)

    async def _paid(self, model: Model, request: Request, timeout_s: float) -> Said:
        """Ask a model within the budget; raises Failed, OverBudget."""
        wanted = _spend(model, *model.at_most(request))
        reserved = await self._reserve(wanted)
        self._tally.calls += 1
        try:
            said = await llm.ask(model, request, timeout_s)
        except Failed as why:
            if reserved is not None and not why.billed:
                await self._store.write(lambda db: spending.release(db, reserved))
            raise
        sent, received = said.input_tokens, said.output_tokens
        self._tally.paid(sent, received, said.cost)
        if reserved is not None and (sent or received):  # else nobody counted
            actual = _spend(model, sent, received, said.cost)
            await self._store.write(lambda db: spending.settle(db, reserved, actual))
        return said

    async def _reserve(self, wanted: Spend) -> int | None:
        """Book what a call may take at most, durably; raises OverBudget."""
        if not self._file.budget.any:
            return None
        limit, day = self._limit, today()
        try:
            reserved = await self._store.write(
                lambda db: spending.reserve(db, day, [limit], wanted)
            )
        except Full:
            reserved = None  # what cannot be booked is not spent
        if reserved is None:
            raise OverBudget
        return reserved


def _left_s(request: Request) -> float:
    return request.deadline_ms / 1000 - time.time()


def _spend(model: Model, sent: int, received: int, cost: float | None = None) -> Spend:
    cost = model.cost(sent, received) if cost is None else cost
    return Spend(1, sent + received, round((cost or 0.0) * 1_000_000))


def _usage(said: list[Said]) -> Usage:
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
