"""The purse: what may be spent is never exceeded, whatever becomes of a call."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from agent.config.section import Limit
from agent.core.types import Reason, Timing
from agent.escalation import budget as module
from agent.escalation.budget import (
    MOST_CALLS,
    Booking,
    BudgetLedger,
    OverBudget,
    Prices,
    TooOften,
)
from agent.outbox import SCHEMA, cases, spending
from agent.outbox.cases import CaseRow
from agent.outbox.spending import Spend, today
from agent.outbox.store import Full, Store
from agent.protocol.cases import (
    Case,
    Repair,
    Reply,
    Request,
    Usage,
    encode_case,
    encode_request,
)
from agent.protocol.health import Amounts

DEVICE = Limit("", None, None, None)
HOME = Limit("home", None, None, None)
PRICES = Prices(money_in=1.0, money_out=2.0, rounds=1)


@dataclass
class Wire:
    """A transport that asks nobody."""

    pays_once: bool
    name: str = "wire"
    to: str = "nowhere"
    late: int = 0

    def encode(self, request: Request, _most: int) -> bytes:
        """Return the request as it is."""
        return encode_request(request)

    async def ask(self, request: Request, body: bytes, timeout_s: float) -> Reply:
        """Never say a word."""
        raise NotImplementedError

    async def run(self) -> None:
        """Keep nothing."""


def case(number: int = 0) -> Case:
    """Return a case."""
    now = datetime.now(UTC)
    return Case(
        id=f"m-{number}",
        pipeline="home",
        topic="home/hall",
        text="turn off the lamp",
        reason=Reason.LOW_CONFIDENCE,
        guess=None,
        model="home@1",
        received_at=now,
        deadline=now + timedelta(hours=1),
        timing=Timing(0.1, 1.0, 2.0),
    )


@dataclass
class Books:
    """A purse on a real outbox, in which the cases wait."""

    store: Store
    wire: Wire
    limit: Limit = DEVICE
    own: Limit = HOME

    def __post_init__(self) -> None:
        """Open the purse."""
        self.budget = BudgetLedger(
            self.store, self.wire, self.limit, PRICES, [self.own]
        )

    def request(self, number: int = 0) -> Request:
        """Return the request of a case: every time the same."""
        return Request(
            id=case(number).key,
            device="pi",
            pipeline="home",
            text="turn off the lamp",
            labels={"off": "off"},
            deadline_ms=1,
        )

    async def take(self, number: int = 0) -> None:
        """Put a case into the outbox."""
        one = case(number)
        row = CaseRow(one.key, encode_case(one), "home", 0, 9e9, 0)
        await self.store.write(lambda db: cases.add(db, row, 1.0))

    async def book(self, number: int = 0) -> Booking:
        """Book a call."""
        asked = self.request(number)
        body = self.wire.encode(asked, 100)
        return await self.budget.book(asked, case(number), self.own, body, {}, 100)

    async def fail(self, number: int = 0, *, paid: bool) -> None:
        """Make a call that nobody answers, surely unpaid or not."""
        booking = await self.book(number)
        if not paid:
            await self.budget.release(booking)
        self.budget.close(booking)

    async def answered(self, usage: Usage, number: int = 0) -> None:
        """Make a call that is answered."""
        booking = await self.book(number)
        await self.budget.settle(booking, usage)
        self.budget.close(booking)

    async def spent(self, scope: str = "") -> Spend:
        """Return what is booked today."""
        return await self.store.read(lambda db: spending.spent(db, today(), scope))

    async def attempts(self, number: int = 0) -> int:
        """Return how many calls may have been paid for a case."""
        key = case(number).key
        return await self.store.read(lambda db: cases.attempts(db, key))


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    """Return an outbox."""
    with closing(Store(tmp_path / "outbox.db", SCHEMA, 2**22)) as store:
        yield store


@pytest.fixture
async def books(store: Store) -> Books:
    """Return the books of a device whose upstream may be paid for every try."""
    books = Books(store, Wire(pays_once=False))
    await books.take()
    return books


@pytest.fixture
async def once(store: Store) -> Books:
    """Return the books of a device whose upstream is paid once for a request."""
    books = Books(store, Wire(pays_once=True))
    await books.take()
    return books


PAID = Usage(input_tokens=10, output_tokens=5)


async def test_nobody_counted(books: Books) -> None:
    """What no reply tells the size of stays booked as large as it may be.

    What is told to be free is free.
    """
    most = books.budget.at_most(books.request(), 100)
    await books.answered(Usage())
    assert await books.spent() == most
    assert most.tokens > 100
    assert most.micros > 200
    await books.answered(Usage(cost=0.5))  # of what?
    assert await books.spent() == Spend(2, 2 * most.tokens, 2 * most.micros)
    await books.answered(Usage(cost=0.0))
    assert await books.spent() == Spend(3, 2 * most.tokens, 2 * most.micros)
    await books.answered(PAID)
    assert (await books.spent()).tokens == 2 * most.tokens + 15


async def test_each_try_may_be_paid(books: Books) -> None:
    """Where every try may be paid, every one is booked; one that was not is not."""
    most = books.budget.at_most(books.request(), 100)
    for _ in range(3):
        await books.fail(paid=True)
    await books.fail(paid=False)
    assert await books.spent() == Spend(3, 3 * most.tokens, 3 * most.micros)
    assert await books.attempts() == 3


async def test_tries_of_one_request(once: Books) -> None:
    """Where a request is paid once, all tries are one call, until it is answered."""
    most = once.budget.at_most(once.request(), 100)
    for _ in range(3):
        await once.fail(paid=True)
    once = Books(once.store, once.wire)  # after a crash
    await once.fail(paid=True)
    await once.fail(paid=False)  # this one; not those before
    assert await once.spent() == await once.spent("home") == most
    assert await once.attempts() == 1
    await once.take(2)
    await once.fail(2, paid=True)
    assert await once.spent() == Spend(2, 2 * most.tokens, 2 * most.micros)
    await once.answered(PAID)
    await once.answered(PAID, 2)
    assert await once.spent() == Spend(2, 30, 40)


async def test_surely_not_made(once: Books) -> None:
    """What the first try reserved comes back if it surely was not made."""
    await once.fail(paid=False)
    assert await once.spent() == Spend()
    assert await once.attempts() == 0
    await once.fail(paid=True)
    assert (await once.spent()).calls == 1


async def test_books_that_cannot_be_set_right_yet(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What could not be given back on a full disk is, before anything else is booked.

    Until then nothing is, and no case is nearer to its last call.
    """
    whole = spending.settle

    def full(*_: object) -> bool:
        raise Full("disk")

    monkeypatch.setattr(spending, "settle", full)
    await books.fail(paid=False)
    assert (await books.spent()).calls == 1
    for _ in range(MOST_CALLS):
        with pytest.raises(Full):
            await books.book()
    monkeypatch.setattr(spending, "settle", whole)
    await books.fail(paid=True)
    assert (await books.spent()).calls == 1
    assert await books.attempts() == 1


async def test_answered_without_a_count(once: Books) -> None:
    """What was answered, and may be paid again, is booked again."""
    await once.fail(paid=True)
    await once.answered(Usage())
    await once.fail(paid=True)
    assert (await once.spent()).calls == 2


async def test_tries_of_two_days(once: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that may be paid on another day is booked on that day, too."""
    await once.fail(paid=True)
    assert (await once.spent()).calls == 1
    later = "2100-01-01"
    monkeypatch.setattr(module, "today", lambda: later)
    for _ in range(2):
        await once.fail(paid=True)
        await once.budget.balance()  # forgets what was reserved before
        found = await once.store.read(lambda db: spending.spent(db, later, ""))
        assert found.calls == 1
    assert (await once.spent()).calls == 1


async def test_sent_again_with_less_time_left(once: Books) -> None:
    """A request is known again though it may wait less long: it is paid for once."""
    asked = once.request()
    for waits_until in (5, 4, 3):
        again = asked.model_copy(update={"deadline_ms": waits_until})
        body = once.wire.encode(again, 100)
        booking = await once.budget.book(again, case(), HOME, body, {}, 100)
        once.budget.close(booking)
    assert (await once.spent()).calls == 1
    other = asked.model_copy(update={"text": "turn on the lamp"})
    booking = await once.budget.book(other, case(), HOME, b"other", {}, 100)
    once.budget.close(booking)
    assert (await once.spent()).calls == 2


async def test_midnight_passes_while_a_call_waits(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call is booked on the day on which it is made, however long it waited."""
    days = ["2026-12-01"]
    monkeypatch.setattr(module, "today", lambda: days[-1])
    books = Books(store, Wire(pays_once=False), Limit("", 1, None, None))
    await books.take()
    await books.take(2)
    first = await books.book()
    waiting = asyncio.ensure_future(books.book(2))
    await store.read(lambda _: None)  # it has tried, and found no room today
    await asyncio.sleep(0)
    days.append("2026-12-02")
    books.budget.close(first)
    second = await waiting
    books.budget.close(second)
    spent = [
        await store.read(lambda db, day=day: spending.spent(db, day, "").calls)  # type: ignore[misc]
        for day in days
    ]
    assert spent == [1, 1]


async def test_a_clock_that_jumps_and_comes_back(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forty days ahead and back again, what was spent today is spent."""
    days = ["2026-12-01"]
    monkeypatch.setattr(module, "today", lambda: days[-1])
    books = Books(store, Wire(pays_once=False), Limit("", 1, None, None))
    await books.take()
    await books.fail(paid=True)
    for day in ("2027-01-10", "2026-12-01"):
        days.append(day)
        await books.budget.balance()
    with pytest.raises(OverBudget):
        await books.book()


async def test_too_often(books: Books) -> None:
    """For one case only so many calls may be paid; others are not concerned."""
    for _ in range(MOST_CALLS):
        await books.fail(paid=False)
    for _ in range(MOST_CALLS):
        await books.fail(paid=True)
    with pytest.raises(TooOften):
        await books.book()
    assert (await books.spent()).calls == MOST_CALLS
    await books.take(2)
    await books.fail(2, paid=True)


async def test_figures(store: Store) -> None:
    """What is spent and left is told for the device and for each pipeline."""
    books = Books(
        store,
        Wire(pays_once=False),
        Limit("", 9, 5000, None),
        Limit("home", 4, None, 2020),
    )
    await books.answered(PAID)
    await books.budget.balance()
    health = books.budget.health(1)
    assert health.spent_today == Amounts(calls=1, tokens=15, money=2e-5)
    assert health.spent_today_by == {"home": health.spent_today}
    assert health.left_today == Amounts(calls=8, tokens=4985, money=None)
    assert health.left_today_by == {"home": Amounts(calls=3, tokens=None, money=0.002)}


async def test_cost_of_asking_about_all(books: Books) -> None:
    """It is told by the cases that were paid for, repairs included, answers kept not.

    Where nobody said what they cost it is unknown.
    """
    for usage in (Usage(), Usage(cost=0.0), Usage(input_tokens=9, cost=0.0)):
        await books.answered(usage)
        assert books.budget.health(100).cost_if_all_upstream is None
    books = Books(books.store, books.wire)
    await books.answered(Usage(input_tokens=100, output_tokens=50))
    await books.answered(Usage(cost=0.0))
    repair = books.request().model_copy(
        update={"repair": Repair(answer="", error="is no label")}
    )
    booking = await books.budget.book(repair, case(), HOME, b"again", {}, 100)
    await books.budget.settle(booking, Usage(input_tokens=150, output_tokens=75))
    books.budget.close(booking)
    assert books.budget.health(100).cost_if_all_upstream == 100 * 500 / 1e6


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("pays_once", [True, False])
async def test_never_exceeded(store: Store, seed: int, *, pays_once: bool) -> None:
    """Whatever becomes of calls, what was paid is booked, and within the limit."""
    dice = random.Random(seed)  # noqa: S311
    limit = Limit("", 30, 20_000, 30_000)
    books = Books(store, Wire(pays_once), limit)
    most = books.budget.at_most(books.request(), 100)
    answers: dict[int, Usage] = {}  # what the other side keeps
    paid = Spend()
    for number in range(20):
        await books.take(number)
    for _ in range(300):
        number = dice.randrange(20)
        try:
            booking = await books.book(number)
        except (OverBudget, TooOften):
            continue
        fate = dice.choice(["unsent", "lost", "silent", "crash", "answered"])
        if fate in {"silent", "crash", "answered"} and (
            not pays_once or number not in answers
        ):
            usage = Usage(
                input_tokens=dice.randrange(1, most.tokens - 100),
                output_tokens=dice.randrange(101),
            )
            answers[number] = usage
            took = usage.input_tokens + usage.output_tokens
            micros = usage.input_tokens + 2 * usage.output_tokens
            paid = Spend(paid.calls + 1, paid.tokens + took, paid.micros + micros)
        if fate == "unsent":
            await books.budget.release(booking)
        if fate == "answered":
            await books.budget.settle(booking, answers[number])
        if fate == "crash":
            books = Books(store, Wire(pays_once), limit)
        else:
            books.budget.close(booking)
        spent = await books.spent()
        assert paid.calls <= spent.calls <= 30
        assert paid.tokens <= spent.tokens <= 20_000
        assert paid.micros <= spent.micros <= 30_000
    assert paid.calls > 5
