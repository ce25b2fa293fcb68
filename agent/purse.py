"""What may be spent upstream, and the record of what left the device.

A call is booked before it is made, with the most that it can take and with its line in
the egress ledger, in one commit; afterwards the books are set right. A call that may
have been made stays booked, also after a crash: so a budget is never exceeded.
"""

import asyncio
import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import structlog

from agent.cases import Case, Request, Usage
from agent.outbox import cases as book
from agent.outbox import ledger, spending
from agent.outbox.ledger import Egress
from agent.outbox.spending import Limit, Spend
from agent.outbox.store import Database, Full, Store
from agent.prompt import messages
from agent.transports import Transport

KEPT = timedelta(days=30)  # how long the books of a day are kept
OVERHEAD_TOKENS = 100  # of roles and the like, beyond the bytes of the prompt
MILLION = 1_000_000

log = structlog.get_logger()


class OverBudget(Exception):
    """The day's budget of a scope is spent; the empty scope is the whole device."""

    def __init__(self, scope: str) -> None:
        """`scope` is a pipeline, or empty."""
        super().__init__(scope or "device")
        self.scope = scope


@dataclass(frozen=True, slots=True)
class Prices:
    """What a call takes: money for a million tokens, and its longest answer.

    `rounds` is how often the other side may ask a model for one call of ours.
    """

    money_in: float
    money_out: float
    max_output_tokens: int
    rounds: int


class Purse:
    """Owns the day's books of one device."""

    def __init__(
        self, store: Store, transport: Transport, limit: Limit, prices: Prices
    ) -> None:
        """`limit` is the device's; a pipeline brings its own."""
        self.calls = self.tokens = self.micros = 0  # since the start
        self._store = store
        self._transport = transport
        self._limit = limit
        self._prices = prices
        self._today: Mapping[str, Spend] = {}  # by scope
        self._kept_since = ""
        self._open: dict[
            int, asyncio.Future[None]
        ] = {}  # calls that are being made now

    async def book(
        self,
        request: Request,
        case: Case,
        own: Limit,
        body: bytes,
        redactions: Mapping[str, int],
    ) -> int:
        """Book a call and its egress, durably; return its number, for `close`.

        `own` is what the pipeline may spend. What open calls take at most is mostly
        more than they will take: we wait for them before giving up. Raises OverBudget,
        and then nothing is booked.
        """
        wanted = self.at_most(request)
        device = self._limit
        day = today()
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

        def change(db: Database) -> int | str:
            number = spending.reserve(db, day, [device, own], wanted)
            if number is None:
                spent = spending.spent(db, day, device.scope)
                return device.scope if exceeds(device, spent, wanted) else own.scope
            ledger.record(db, egress)
            book.tried(db, case.key)
            return number

        while True:
            before = dict(self._open)
            booked = await self._store.write(change)
            if isinstance(booked, int):
                self._open[booked] = asyncio.get_running_loop().create_future()
                return booked
            others = before | self._open
            if not others:
                raise OverBudget(booked)
            await asyncio.wait(others.values(), return_when=asyncio.FIRST_COMPLETED)

    def close(self, number: int) -> None:
        """Say that a booked call is over.

        If it was neither settled nor released, it may have been paid: it stays booked.
        """
        self._open.pop(number).set_result(None)

    async def settle(self, number: int, usage: Usage) -> None:
        """Set the books right: this is what the call took."""
        tokens = usage.input_tokens + usage.output_tokens
        micros = self._micros(usage.input_tokens, usage.output_tokens)
        if usage.cost is not None:
            micros = round(usage.cost * MILLION)
        actual = Spend(1, tokens, micros)
        await self._correct(lambda db: spending.settle(db, number, actual))
        self.calls += 1
        self.tokens += tokens
        self.micros += micros

    async def release(self, number: int) -> None:
        """Give back what was booked: the call was surely never made."""
        await self._correct(lambda db: spending.release(db, number))

    async def _correct(self, change: Callable[[Database], None]) -> None:
        try:
            await self._store.write(change)
        except Full as why:
            log.warning("booked_too_much", why=str(why))

    def at_most(self, request: Request) -> Spend:
        """Return an upper bound of a call: a token is at least a byte."""
        prices = self._prices
        prompt = sum(len(said["content"].encode()) for said in messages(request))
        schema = len(json.dumps(request.schema_))
        sent = prices.rounds * (prompt + schema + OVERHEAD_TOKENS)
        received = prices.rounds * prices.max_output_tokens
        return Spend(1, sent + received, self._micros(sent, received))

    async def balance(self) -> None:
        """Look up what is spent today, and forget what was spent long ago."""
        day = today()
        if day != self._kept_since:
            before = (datetime.now(UTC) - KEPT).date().isoformat()
            await self._correct(lambda db: spending.prune(db, before))
            self._kept_since = day
        self._today = await self._store.read(lambda db: spending.by_scope(db, day))

    def summary(self, seen: int) -> dict[str, Any]:
        """Return what was spent and what is left, ready for JSON.

        `seen` is the number of messages since the start, for what it would have cost to
        send them all.
        """
        limit = self._limit
        spent = self._today.get(limit.scope, Spend())
        mean = self.micros / self.calls if self.calls else None
        return {
            "calls": self.calls,
            "tokens": self.tokens,
            "cost": self.micros / MILLION,
            "cost_if_all_upstream": mean and round(mean * seen / MILLION, 6),
            "spent_today": _said(spent.calls, spent.tokens, spent.micros),
            "spent_today_by": {
                scope: _said(each.calls, each.tokens, each.micros)
                for scope, each in self._today.items()
                if scope != limit.scope
            },
            "left_today": _said(
                _left(limit.calls, spent.calls),
                _left(limit.tokens, spent.tokens),
                _left(limit.micros, spent.micros),
            ),
        }

    def _micros(self, sent: int, received: int) -> int:
        # A price for a million tokens is one in millionths for a token.
        prices = self._prices
        return round(sent * prices.money_in + received * prices.money_out)


def today() -> str:
    """Return the day that is booked on: UTC, ISO 8601."""
    return datetime.now(UTC).date().isoformat()


def exceeds(limit: Limit, spent: Spend, wanted: Spend) -> bool:
    """Tell whether a limit does not allow what is wanted on top of what is spent."""
    pairs = (
        (limit.calls, spent.calls + wanted.calls),
        (limit.tokens, spent.tokens + wanted.tokens),
        (limit.micros, spent.micros + wanted.micros),
    )
    return any(most is not None and total > most for most, total in pairs)


def _left(limit: int | None, spent: int) -> int | None:
    return None if limit is None else max(0, limit - spent)


def _said(
    calls: int | None, tokens: int | None, micros: int | None
) -> dict[str, float | None]:
    money = None if micros is None else micros / MILLION
    return {"calls": calls, "tokens": tokens, "money": money}
