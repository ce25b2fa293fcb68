"""What may be spent upstream, and the record of what left the device.

A call is booked before it is made, with the most that it can take and with its line in
the egress ledger, in one commit; afterwards the books are set right. A call that may
have been made stays booked, also after a crash: so a budget is never exceeded. Where
the other side pays once for the same request, all tries of a day are one call.
"""

import asyncio
import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import structlog

from agent.config.section import Limit
from agent.escalation.transport import Transport
from agent.outbox import cases as book
from agent.outbox import idempotency, ledger, spending
from agent.outbox.ledger import Egress
from agent.outbox.spending import Spend, allows, today
from agent.outbox.store import Database, Full, Store
from agent.protocol.cases import Case, Request, Usage, same_question
from agent.protocol.health import Amounts, UpstreamHealth
from agent.protocol.prompt import messages

MOST_CALLS = 10  # for one case, of those that may have been paid
OVERHEAD_TOKENS = 100  # of roles and the like, beyond the bytes of the prompt
MILLION = 1_000_000

log = structlog.get_logger()


class OverBudget(Exception):
    """The day's budget of a scope is spent; the empty scope is the whole device."""

    def __init__(self, scope: str) -> None:
        """`scope` is a pipeline, or empty."""
        super().__init__(scope or "device")
        self.scope = scope


class TooOften(Exception):
    """As many calls as one case is worth may have been paid for it."""


@dataclass(frozen=True, slots=True)
class Booking:
    """A call that is being made for a case; `over` is set when it is.

    `again`: what an earlier try reserved for the same request is taken over. `first`:
    it is no repair of an answer.
    """

    number: int
    case: str  # its key
    again: bool
    first: bool
    over: asyncio.Future[None]


@dataclass(frozen=True, slots=True)
class Prices:
    """What a call takes: money for a million tokens.

    `rounds` is how often the other side may ask a model for one call of ours; each
    further time it may let the answer be twice as long.
    """

    money_in: float
    money_out: float
    rounds: int


class BudgetLedger:
    """Owns the day's books of one device."""

    def __init__(
        self,
        store: Store,
        transport: Transport,
        limit: Limit,
        prices: Prices,
        own: Sequence[Limit] = (),
    ) -> None:
        """`limit` is the device's, `own` those of its pipelines, for the figures."""
        self.calls = self.tokens = self.micros = 0  # since the start
        self._cases = 0  # that were paid for, since the start
        self._store = store
        self._transport = transport
        self._limit = limit
        self._own = own
        self._prices = prices
        self._today: Mapping[str, Spend] = {}  # by scope
        self._kept_since = ""
        self._owed: list[Callable[[Database], None]] = []  # each may be made twice
        self._open: dict[int, Booking] = {}  # calls that are being made now

    async def book(
        self,
        request: Request,
        case: Case,
        own: Limit,
        body: bytes,
        redactions: Mapping[str, int],
        max_output_tokens: int,
    ) -> Booking:
        """Book a call and its egress, durably; `close` says that it is over.

        `own` is what the pipeline may spend. What open calls take at most is mostly
        more than they will take: we wait for them before giving up. Raises OverBudget
        and TooOften, and then nothing is booked.
        """
        wanted = self.at_most(request, max_output_tokens)
        device = self._limit
        egress = Egress(
            at=time.time(),
            pipeline=case.pipeline,
            case=case.id,
            transport=self._transport.name,
            to=self._transport.to,
            bytes=len(body),
            sha256=hashlib.sha256(body).hexdigest(),
            redactions=redactions,
        )
        once = same_question(request) if self._transport.pays_once else None
        owed = list(self._owed)

        def change(db: Database) -> tuple[int, bool] | str:
            _apply(db, owed)
            day = today()  # of this try: a call that waits may see midnight pass
            known = idempotency.reserved(db, day, once) if once else None
            number = known or self._reserve(db, day, case, own, wanted)
            if number is None:
                spent = spending.spent(db, day, device.scope)
                return own.scope if allows(device, spent, wanted) else device.scope
            if once:
                idempotency.expect(db, number, once)
            ledger.record(db, egress)
            return number, known is not None

        while True:
            before = dict(self._open)
            booked = await self._store.write(change)
            self._paid_back(owed)
            if isinstance(booked, tuple):
                over = asyncio.get_running_loop().create_future()
                first = request.repair is None
                booking = Booking(booked[0], case.key, booked[1], first, over)
                self._open[booking.number] = booking
                return booking
            others = before | self._open
            if not others:
                raise OverBudget(booked)
            ends = [other.over for other in others.values()]
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)

    def _reserve(
        self, db: Database, day: str, case: Case, own: Limit, wanted: Spend
    ) -> int | None:
        """Reserve what a call may take; None: over budget. Raises TooOften."""
        if book.attempts(db, case.key) >= MOST_CALLS:
            raise TooOften
        number = spending.reserve(db, day, [self._limit, own], wanted)
        if number is not None:
            book.tried(db, case.key)
        return number

    def close(self, booking: Booking) -> None:
        """Say that a booked call is over.

        If it was neither settled nor released, it may have been paid: it stays booked.
        """
        del self._open[booking.number]
        booking.over.set_result(None)

    async def settle(self, booking: Booking, usage: Usage) -> None:
        """Set the books right: this is what the call took.

        Where nobody counted, the most that it can have taken stays booked.
        """
        self.calls += 1
        tokens = usage.input_tokens + usage.output_tokens
        if not tokens and usage.cost != 0:
            await self._correct(lambda db: idempotency.answered(db, booking.number))
            return
        micros = self._micros(usage.input_tokens, usage.output_tokens)
        if usage.cost is not None:
            micros = round(usage.cost * MILLION)
        await self._set_right(booking, Spend(1, tokens, micros))
        self.tokens += tokens
        self.micros += micros
        self._cases += booking.first and bool(tokens)

    async def release(self, booking: Booking) -> None:
        """Give back what was booked: the call was surely never made.

        But not what an earlier try reserved, for that one may have been.
        """
        if not booking.again:
            await self._set_right(booking, Spend())

    async def _set_right(self, booking: Booking, actual: Spend) -> None:
        def change(db: Database) -> None:
            first = spending.settle(db, booking.number, actual)
            idempotency.answered(db, booking.number)
            if first and not actual.calls:
                book.tried(db, booking.case, -1)

        await self._correct(change)

    async def _correct(self, change: Callable[[Database], None]) -> None:
        """Set something right; where there is no room now, before the next booking."""
        owed = [*self._owed, change]
        self._owed.append(change)
        try:
            await self._store.write(lambda db: _apply(db, owed))
        except Full as why:
            log.warning("booked_too_much", why=str(why))
        else:
            self._paid_back(owed)

    def _paid_back(self, owed: Sequence[Callable[[Database], None]]) -> None:
        self._owed = [each for each in self._owed if each not in owed]

    def at_most(self, request: Request, max_output_tokens: int) -> Spend:
        """Return an upper bound of a call: a token is at least a byte."""
        prices = self._prices
        prompt = sum(len(message["content"].encode()) for message in messages(request))
        schema = len(json.dumps(request.schema_))
        sent = prices.rounds * (prompt + schema + OVERHEAD_TOKENS)
        received = (2 * prices.rounds - 1) * max_output_tokens
        return Spend(1, sent + received, self._micros(sent, received))

    async def balance(self) -> None:
        """Look up what is spent today, and forget what was spent long ago."""
        day = today()
        if day != self._kept_since:
            await self._correct(spending.prune)
            await self._correct(lambda db: idempotency.prune(db, day))
            self._kept_since = day
        self._today = await self._store.read(lambda db: spending.by_scope(db, day))

    def health(self, seen: int) -> UpstreamHealth:
        """Return what was spent and what is left.

        `seen` is the number of messages since the start, for what it would have cost to
        send them all, at what the cases took that were paid for.
        """
        limit = self._limit
        spent = self._today.get(limit.scope, Spend())
        # A case may take two calls; without prices there is no cost to tell.
        mean = self.micros / self._cases if self._cases and self.micros else None
        return UpstreamHealth(
            calls=self.calls,
            tokens=self.tokens,
            cost=self.micros / MILLION,
            cost_if_all_upstream=mean and round(mean * seen / MILLION, 6),
            spent_today=_amounts(spent.calls, spent.tokens, spent.micros),
            spent_today_by={
                scope: _amounts(each.calls, each.tokens, each.micros)
                for scope, each in self._today.items()
                if scope != limit.scope
            },
            left_today=self._left(limit),
            left_today_by={own.scope: self._left(own) for own in self._own},
        )

    def _left(self, limit: Limit) -> Amounts:
        spent = self._today.get(limit.scope, Spend())
        return _amounts(
            _left(limit.calls, spent.calls),
            _left(limit.tokens, spent.tokens),
            _left(limit.micros, spent.micros),
        )

    def _micros(self, sent: int, received: int) -> int:
        # A price for a million tokens is one in millionths for a token.
        prices = self._prices
        return round(sent * prices.money_in + received * prices.money_out)


def _apply(db: Database, changes: Sequence[Callable[[Database], None]]) -> None:
    for change in changes:
        change(db)


def _left(limit: int | None, spent: int) -> int | None:
    return None if limit is None else max(0, limit - spent)


def _amounts(calls: int | None, tokens: int | None, micros: int | None) -> Amounts:
    return Amounts(calls, tokens, None if micros is None else micros / MILLION)
