"""One call upstream: its turn, its booking, its reply, and whose fault a failure is."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog

from agent.core.blame import Blame
from agent.core.pacing import Pacer
from agent.escalation.budget import Booking, BudgetLedger
from agent.escalation.questions import Question
from agent.escalation.transport import EncodeAgain, Rejected, Transport, Unavailable
from agent.protocol.cases import Reply, Unusable

ASKED_PAUSE_MAX_S = 3600.0

log = structlog.get_logger()


class Caller:
    """Owns what is known of the upstream's state."""

    def __init__(
        self, transport: Transport, budget: BudgetLedger, rate: float, timeout_s: float
    ) -> None:
        """`rate`: most calls a second; `timeout_s`: the longest one may take."""
        self.down = ""  # why nobody answers; empty: somebody does, or nobody was asked
        self.unavailable = 0  # calls that nobody answered
        self._transport = transport
        self._budget = budget
        self._timeout_s = timeout_s
        self._pacer = Pacer(rate)
        self._blame = Blame()
        self._leaving = False
        self._calls = 0  # that are being made
        self._made = asyncio.Event()

    @property
    def is_failing(self) -> bool:
        """Whether upstream fails altogether, and is asked now and then only."""
        return self._pacer.circuit.is_failing

    async def finish(self) -> None:
        """Begin no call any more, and wait for those being made: they are paid for."""
        self._leaving = True
        while self._calls:
            self._made.clear()
            await self._made.wait()

    async def ask(self, question: Question) -> Reply:
        """Ask once, when it is our turn.

        Raises Unavailable, EncodeAgain among it; Rejected where it is the request's own
        fault; OverBudget, TooOften and Full where nobody was asked.
        """
        async with self._pacer.turn(), self._making():
            request, most = question.request, question.max_output_tokens
            body = self._transport.encode(request, most)
            booking = await self._budget.book(
                request,
                question.case,
                question.plan.limit,
                body,
                question.hidden.counters,
                most,
            )
            try:
                return await self._call(question, body, booking)
            finally:
                self._budget.close(booking)

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

    async def _call(self, question: Question, body: bytes, booking: Booking) -> Reply:
        """Make a booked call, set the books right, and tell circuit and blame."""
        try:
            reply = await self._heard(question, body, booking)
        except EncodeAgain as again:
            await self._budget.release(booking)
            if again.guessed:  # it failed for all we know
                self._pacer.circuit.failed(time.monotonic(), reached=True)
            raise
        except Unavailable as why:
            self._failed(why)
            if not why.maybe_paid:
                await self._budget.release(booking)
            raise
        except Rejected as why:
            await self._budget.release(booking)
            raise self._blamed(question, why) from why
        now = time.monotonic()
        self.down = ""
        self._pacer.circuit.answered(now)
        self._blame.answered(question.case.key, now)
        await self._budget.settle(booking, reply.usage)
        return reply

    async def _heard(self, question: Question, body: bytes, booking: Booking) -> Reply:
        """Ask once; who could ask nobody, but may later, is Unavailable, too."""
        reply = await self._transport.ask(question.request, body, self._timeout_s)
        if reply.status != "error" or reply.answer is not None:
            return reply
        if reply.reason == Unusable.REJECTED:
            raise Rejected(reply.error or "refused", sure=True)
        usage = reply.usage
        counted = usage.input_tokens or usage.output_tokens
        free = usage.cost == 0 and not counted
        if not free:
            await self._budget.settle(booking, usage)
        raise Unavailable(reply.error or "upstream error", maybe_paid=not free)

    def _failed(self, why: Unavailable) -> None:
        self.unavailable += 1
        self._is_down(str(why))
        pause_s = min(why.retry_after_s or 0.0, ASKED_PAUSE_MAX_S)
        self._pacer.circuit.failed(
            time.monotonic(), reached=why.reached, pause_s=pause_s
        )

    def _is_down(self, why: str) -> None:
        if not self.down:
            log.warning("upstream_unavailable", why=why)
        self.down = why

    def _blamed(self, question: Question, why: Rejected) -> Rejected | Unavailable:
        """Return what a refusal comes to: others are taken, or nobody is."""
        if why.sure or self._blame.refused(question.case.key, time.monotonic()):
            return why
        self.unavailable += 1
        self._pacer.circuit.failed(time.monotonic(), reached=True)
        if self._blame.is_general:
            self._is_down(f"{why}: of all that is asked")
        return Unavailable(str(why), maybe_paid=False)
