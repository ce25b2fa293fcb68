"""From a request to the reply: from the store, from another broker, or from a model.

Nobody is paid twice for one case: its answer is on the disk before it is told, and
whoever comes while it is worked on waits for the same one.
"""

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import structlog

from agent.broker import reply_store
from agent.broker.claims import SharedAnswer, decode_told, encode
from agent.broker.config import BrokerFile
from agent.broker.counters import BrokerCounters
from agent.broker.deadlines import Deadlines
from agent.broker.group import BrokerGroup
from agent.broker.llm_router import LlmRouter, left_s, work_s
from agent.outbox import answers
from agent.outbox.store import Full, Store
from agent.protocol.cases import Reply, Request, Usage, same_question

MARGIN_S = 5.0  # how much longer a claim lasts than the work on its case may

log = structlog.get_logger()


class AllRest(Exception):
    """Nobody is asked any more; the case comes again, to whoever takes over."""


def lease_s(file: BrokerFile) -> float:
    """Return how long a claim lasts."""
    return work_s(file) + MARGIN_S


class Coordinator:
    """Owns what is being answered now, and what was just heard from others."""

    def __init__(
        self,
        file: BrokerFile,
        router: LlmRouter,
        store: Store,
        group: BrokerGroup,
        counters: BrokerCounters,
        progress: Deadlines,
    ) -> None:
        """Take all that an answer may come from."""
        self._file = file
        self._router = router
        self._names = tuple(model.model for model in file.models)
        self._store = store
        self._group = group
        self._counters = counters
        self._deadlines = progress
        self._slots = asyncio.Semaphore(file.broker.concurrency)
        self._working: dict[str, asyncio.Future[Reply | None]] = {}
        self._heard: dict[str, SharedAnswer] = {}  # from others, not on our disk yet
        self._resting = False
        self._asked: set[str] = set()  # keys of what is asked, or not yet stored
        self._nothing_asked = asyncio.Event()
        self._nothing_asked.set()

    async def answer(self, request: Request) -> Reply | None:
        """Return the reply to a request; None once its deadline has passed.

        Raises AllRest.
        """
        key = same_question(request)
        while key in self._working:
            reply = await asyncio.shield(self._working[key])
            if reply or left_s(request) <= 0:
                self._counters.repeated += 1
                return reply
            # It came before us, and had less time than we have.
        work = asyncio.get_running_loop().create_future()
        self._working[key] = work
        try:
            with self._deadlines.within("case", left_s(request)):
                reply = await self._found(key, request)
            work.set_result(reply)
        finally:
            work.cancel()  # whoever waits hears of it, if there is no reply
            del self._working[key]
        return reply

    async def rest(self) -> None:
        """Ask nobody any more, and wait for the answers that are paid."""
        self._resting = True
        await self._nothing_asked.wait()

    def heard(self, shared: SharedAnswer) -> None:
        """Take in what another broker answered, before it is on the disk."""
        self._heard[shared.key] = shared

    async def learn(self, shared: Sequence[SharedAnswer]) -> None:
        """Put on the disk what other brokers answered."""
        await self._keep(shared, own=False)
        for one in shared:
            self._heard.pop(one.key, None)

    async def own_since(self, since: float) -> list[bytes]:
        """Return the answers of ours that others may have missed."""
        return await self._store.read(
            lambda db: reply_store.own_since(db, since, time.time())
        )

    # -- where an answer may be

    async def _found(self, key: str, request: Request) -> Reply | None:
        known = await self._known(key)
        if known:
            self._counters.repeated += 1
            return known
        cached = await self._cached(request)
        if cached:
            self._counters.cached += 1
            return cached
        while left_s(request) > 0:
            try:
                async with asyncio.timeout(left_s(request)):
                    await self._slots.acquire()
            except TimeoutError:
                return None
            try:
                other = await self._turn(key, request)
                if not isinstance(other, asyncio.Future):
                    return other
            finally:
                self._slots.release()
            reply = await self._waited(other, request)
            if reply:
                self._counters.taken_over += 1
                return reply.reply
        return None

    async def _turn(
        self, key: str, request: Request
    ) -> "Reply | asyncio.Future[SharedAnswer | None] | None":
        """Work on a case if it is ours; else return what to wait for."""
        try:
            async with asyncio.timeout(left_s(request)):
                other = await self._group.claim(key)
        except TimeoutError:
            return None
        if other is not None:
            return other
        try:
            # Another may have told its answer while we waited for our turn.
            known = await self._known(key)
            if known:
                self._counters.taken_over += 1
                return known
            if self._resting:
                raise AllRest
            with self._deadlines.within("ask", lease_s(self._file)):
                return await self._paid(key, request)
        finally:
            await self._group.end(key)  # nothing to do, if it was told

    async def _paid(self, key: str, request: Request) -> Reply:
        """Ask, and store the answer."""
        self._asked.add(key)
        self._nothing_asked.clear()
        try:
            reply = await self._router.ask(request)
            if reply.status != "error":
                await self._done(key, request, reply)
            return reply
        finally:
            self._asked.discard(key)
            if not self._asked:
                self._nothing_asked.set()

    async def _waited(
        self, other: "asyncio.Future[SharedAnswer | None]", request: Request
    ) -> SharedAnswer | None:
        try:
            async with asyncio.timeout(left_s(request)):
                return await other
        except TimeoutError:
            return None

    async def _known(self, key: str) -> Reply | None:
        if key in self._heard:
            return self._heard[key].reply
        body = await self._store.read(lambda db: reply_store.find(db, key))
        shared = None if body is None else decode_told(body)
        return shared.reply if shared else None

    async def _cached(self, request: Request) -> Reply | None:
        cache = self._file.broker.cache
        if not cache.entries or request.repair:
            return None
        key = reply_store.question_key(request, self._names, shared=cache.shared)
        body = await self._store.read(
            lambda db: answers.recall(db, key, time.time(), cache.age_s)
        )
        if body is None:
            return None
        reply = Reply.model_validate_json(body)
        return reply.model_copy(update={"id": request.id, "usage": Usage(cost=0.0)})

    async def _done(self, key: str, request: Request, reply: Reply) -> None:
        """Store an answer, then tell the others."""
        answered = SharedAnswer(
            key=key, by=self._file.broker.name, deadline_ms=request.deadline_ms,
            reply=reply,
        )  # fmt: skip
        await self._keep([answered], own=True)
        cache = self._file.broker.cache
        if cache.entries and not request.repair and reply.answer is not None:
            names, shared = self._names, cache.shared
            question = reply_store.question_key(request, names, shared=shared)
            body = reply.model_dump_json().encode()
            await self._write(
                lambda db: answers.remember(
                    db, question, body, time.time(), cache.entries
                )
            )
        await self._group.tell(answered)

    async def _keep(self, shared: Sequence[SharedAnswer], *, own: bool) -> None:
        def change(db: Any) -> None:
            now = time.time()
            reply_store.prune(db, now - self._file.broker.keep_s)
            for one in shared:
                reply_store.keep(db, one, encode(one), now=now, own=own)

        await self._write(change)

    async def _write(self, change: Any) -> None:
        """Write; where there is no room, a paid answer is worth older ones."""
        try:
            await self._store.write(change)
        except Full:
            log.warning("store_full")
            with suppress(Full):  # others filled the disk: the reply goes out anyway
                await self._store.write(reply_store.prune_half)
                await self._store.write(change)
