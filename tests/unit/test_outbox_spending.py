"""Spending: counted before it happens, so no limit is ever exceeded."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from agent.config.section import Limit
from agent.outbox import spending
from agent.outbox.spending import Spend, release, reserve, settle, spent

DAY = "2026-11-23"
NEXT = "2026-11-24"
DEVICE = Limit("", 10, None, None)


def new_database() -> sqlite3.Connection:
    """Return empty books."""
    db = sqlite3.connect(":memory:", isolation_level=None)
    db.executescript(spending.SCHEMA)
    return db


@pytest.fixture
def db() -> Iterator[sqlite3.Connection]:
    """Return empty books."""
    with closing(new_database()) as db:
        yield db


def booked(
    db: sqlite3.Connection, wanted: Spend, *limits: Limit, day: str = DAY
) -> int:
    """Reserve what is allowed, and return the reservation."""
    number = reserve(db, day, limits, wanted)
    assert number is not None
    return number


def test_a_reservation_counts_at_once(db: sqlite3.Connection) -> None:
    """What is reserved is spent, in every scope that has a limit, until settled."""
    number = booked(db, Spend(1, 500, 70), DEVICE, Limit("home", None, None, None))
    assert spent(db, DAY, "") == spent(db, DAY, "home") == Spend(1, 500, 70)
    assert spent(db, DAY, "media") == spent(db, NEXT, "") == Spend()
    settle(db, number, Spend(1, 420, 55))
    assert spent(db, DAY, "") == spent(db, DAY, "home") == Spend(1, 420, 55)


@pytest.mark.parametrize(
    "limit",
    [
        Limit("", 3, None, None),
        Limit("", None, 300, None),
        Limit("", None, None, 30),
        Limit("", 3, 300, 30),
    ],
)
def test_limits(db: sqlite3.Connection, limit: Limit) -> None:
    """A limit may be reached, by whichever measure, and not exceeded."""
    for _ in range(3):
        booked(db, Spend(1, 100, 10), limit)
    assert reserve(db, DAY, [limit], Spend(1, 100, 10)) is None
    assert spent(db, DAY, "") == Spend(3, 300, 30)
    assert reserve(db, NEXT, [limit], Spend(1, 100, 10)) is not None


def test_a_limit_of_nothing(db: sqlite3.Connection) -> None:
    """Zero is a limit, too."""
    assert reserve(db, DAY, [Limit("", 0, None, None)], Spend(1)) is None


def test_every_limit_counts(db: sqlite3.Connection) -> None:
    """One scope without money stops the call, and nothing is booked in the other."""
    home = Limit("home", 1, None, None)
    booked(db, Spend(1), DEVICE, home)
    assert reserve(db, DAY, [DEVICE, home], Spend(1)) is None
    assert spent(db, DAY, "") == Spend(1)
    booked(db, Spend(1), DEVICE, Limit("media", None, None, None))


def test_two_limits_of_one_scope(db: sqlite3.Connection) -> None:
    """A scope that is named twice is booked once, and both limits hold."""
    booked(db, Spend(1), DEVICE, Limit("", 1, None, None))
    assert spent(db, DAY, "") == Spend(1)
    assert reserve(db, DAY, [DEVICE, Limit("", 1, None, None)], Spend(1)) is None


def test_settled_once(db: sqlite3.Connection) -> None:
    """Whatever comes after the first settling changes nothing."""
    number = booked(db, Spend(1, 100, 10), DEVICE)
    settle(db, number, Spend(1, 60, 6))
    settle(db, number, Spend(1, 90, 9))
    release(db, number)
    settle(db, 999, Spend(1, 90, 9))
    assert spent(db, DAY, "") == Spend(1, 60, 6)


def test_released(db: sqlite3.Connection) -> None:
    """A call that was surely never made costs nothing; settling it is too late."""
    number = booked(db, Spend(1, 100, 10), DEVICE)
    release(db, number)
    release(db, number)
    settle(db, number, Spend(1, 60, 6))
    assert spent(db, DAY, "") == Spend()


def test_numbers_are_never_used_again(db: sqlite3.Connection) -> None:
    """Settling late cannot hit another's reservation."""
    first = booked(db, Spend(1, 100, 10), DEVICE)
    release(db, first)
    second = booked(db, Spend(1, 100, 10), DEVICE)
    settle(db, first, Spend(9, 9, 9))
    assert second > first
    assert spent(db, DAY, "") == Spend(1, 100, 10)


def test_settled_after_midnight(db: sqlite3.Connection) -> None:
    """A call counts on the day it was reserved."""
    number = booked(db, Spend(1, 100, 10), DEVICE)
    booked(db, Spend(1, 5, 5), DEVICE, day=NEXT)
    settle(db, number, Spend(1, 60, 6))
    assert spent(db, DAY, "") == Spend(1, 60, 6)
    assert spent(db, NEXT, "") == Spend(1, 5, 5)


def test_prune(db: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """Old days go, open reservations with them; settling those is too late."""
    monkeypatch.setattr(spending, "DAYS_KEPT", 1)
    old = booked(db, Spend(1, 100, 10), DEVICE)
    new = booked(db, Spend(1, 100, 10), DEVICE, day=NEXT)
    spending.prune(db)
    settle(db, old, Spend(1, 60, 6))
    settle(db, new, Spend(1, 60, 6))
    assert spent(db, DAY, "") == Spend()
    assert spent(db, NEXT, "") == Spend(1, 60, 6)


def test_prune_goes_by_no_clock(db: sqlite3.Connection) -> None:
    """A clock that jumps ahead, a few days or years, forgets nothing that was spent."""
    booked(db, Spend(5, 100, 10), DEVICE)
    for later in ("2026-12-25", "2027-02-01", "2031-01-01", "9999-12-31"):
        booked(db, Spend(1, 1, 1), DEVICE, day=later)
        spending.prune(db)
    assert spent(db, DAY, "") == Spend(5, 100, 10)


def test_the_books_are_bounded(db: sqlite3.Connection) -> None:
    """Whatever years pass, the books of so many days are kept, the newest."""
    days = [f"20{year:02}-01-{day:02}" for year in range(10) for day in range(1, 29)]
    for day in days:
        booked(db, Spend(1, 1, 1), DEVICE, day=day)
    spending.prune(db)
    [kept] = db.execute("SELECT count(DISTINCT day) FROM spending").fetchone()
    assert kept == spending.DAYS_KEPT
    assert spent(db, days[-1], "").calls == 1


# -- any order of all that

HOME = Limit("home", 4, None, 60)
ALL = Limit("", 6, 500, None)
SPENDS = st.builds(Spend, st.just(1), st.integers(0, 200), st.integers(0, 30))


class AnyDay(RuleBasedStateMachine):
    """Calls in any order, some never settled: no limit is exceeded, all is counted."""

    numbers = Bundle("numbers")

    def __init__(self) -> None:
        """Begin with nothing spent."""
        super().__init__()
        self.db = new_database()
        self.counted: dict[int, tuple[tuple[str, ...], Spend]] = {}
        self.wanted: dict[int, Spend] = {}
        self.open: set[int] = set()

    @rule(target=numbers, wanted=SPENDS, home=st.booleans())
    def reserve(self, wanted: Spend, *, home: bool) -> int:
        """Reserve, if it is allowed; it must be where all fits."""
        limits = [ALL, HOME] if home else [ALL]
        number = reserve(self.db, DAY, limits, wanted)
        fits = all(self.fits(limit, wanted) for limit in limits)
        assert (number is not None) is fits
        if number is None:
            return 0
        self.counted[number] = tuple(limit.scope for limit in limits), wanted
        self.wanted[number] = wanted
        self.open.add(number)
        return number

    @rule(number=numbers, tokens=st.floats(0, 1), micros=st.floats(0, 1))
    def settle(self, number: int, tokens: float, micros: float) -> None:
        """Settle with no more than was reserved."""
        most = self.wanted.get(number, Spend())
        actual = Spend(1, int(most.tokens * tokens), int(most.micros * micros))
        settle(self.db, number, actual)
        self.close(number, actual)

    @rule(number=numbers)
    def release(self, number: int) -> None:
        """Give back what was reserved."""
        release(self.db, number)
        self.close(number, Spend())

    def close(self, number: int, actual: Spend) -> None:
        """Count a reservation as settled, once."""
        if number in self.open:
            self.open.remove(number)
            scopes, _ = self.counted[number]
            self.counted[number] = scopes, actual

    def total(self, scope: str) -> Spend:
        """Return what was spent in a scope."""
        counted = [spend for scopes, spend in self.counted.values() if scope in scopes]
        return Spend(
            sum(spend.calls for spend in counted),
            sum(spend.tokens for spend in counted),
            sum(spend.micros for spend in counted),
        )

    def fits(self, limit: Limit, wanted: Spend) -> bool:
        """Tell whether a limit allows so much more."""
        total = self.total(limit.scope)
        return not any(
            (
                limit.calls is not None and total.calls + wanted.calls > limit.calls,
                limit.tokens is not None
                and total.tokens + wanted.tokens > limit.tokens,
                limit.micros is not None
                and total.micros + wanted.micros > limit.micros,
            )
        )

    @invariant()
    def never_exceeded(self) -> None:
        """Compare with the model, and with the limits."""
        for limit in (ALL, HOME):
            found = spent(self.db, DAY, limit.scope)
            assert found == self.total(limit.scope)
            assert limit.calls is None or found.calls <= limit.calls
            assert limit.tokens is None or found.tokens <= limit.tokens
            assert limit.micros is None or found.micros <= limit.micros

    def teardown(self) -> None:
        """Close the books."""
        self.db.close()


TestAnyDay = AnyDay.TestCase
TestAnyDay.settings = settings(max_examples=100, stateful_step_count=30)
