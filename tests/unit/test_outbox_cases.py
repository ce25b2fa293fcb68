"""Cases: each has one final result, and is known for a while after it."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from operator import itemgetter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
)

from agent.outbox import SCHEMA, cases
from agent.outbox.cases import AddVerdict, CaseRow, Final, Stats
from agent.outbox.store import Full, room

PAGE = 4096


def row(name: str, **but: object) -> CaseRow:
    """Return a case."""
    made = CaseRow(name, f"body of {name}".encode(), "home", 0, 1000.0, 0)
    return replace(made, **but)  # type: ignore[arg-type]


def new_database() -> sqlite3.Connection:
    """Return an outbox in memory."""
    db = sqlite3.connect(":memory:", isolation_level=None)
    db.executescript(SCHEMA)
    return db


@pytest.fixture
def db() -> Iterator[sqlite3.Connection]:
    """Return an empty outbox."""
    with closing(new_database()) as db:
        yield db


def keys(rows: list[CaseRow]) -> str:
    """Return the keys of cases, in order."""
    return "".join(row.key for row in rows)


def add_all(db: sqlite3.Connection, names: str) -> None:
    """Add a case for each letter."""
    for now, name in enumerate(names):
        assert cases.add(db, row(name), now) is AddVerdict.NEW


def end(db: sqlite3.Connection, key: str, payload: bytes = b"final") -> None:
    """Finish and forget a case."""
    assert cases.finish(db, key, "topic", payload)
    cases.forget(db, key, 50.0)


def test_a_case_comes_back_as_it_was(db: sqlite3.Connection) -> None:
    """Nothing of a case is lost in the table."""
    case = CaseRow("k", b"\x00\xff", "home", -3, 1764000000.123, 2)
    cases.add(db, case, 1.0)
    assert cases.waiting(db, 10) == [case]


def test_verdicts(db: sqlite3.Connection) -> None:
    """A case is new once; then known, and done when its result is published."""
    assert cases.add(db, row("a"), 1.0) is AddVerdict.NEW
    assert cases.add(db, row("a", body=b"other"), 2.0) is AddVerdict.KNOWN
    cases.finish(db, "a", "topic", b"final")
    assert cases.add(db, row("a"), 3.0) is AddVerdict.KNOWN
    cases.forget(db, "a", 4.0)
    assert cases.add(db, row("a"), 5.0) is AddVerdict.DONE
    assert cases.waiting(db, 10) == []


def test_order(db: sqlite3.Connection) -> None:
    """The highest priority goes first, and among equals who came first."""
    for name, priority in ("a", 0), ("b", 5), ("c", -1), ("d", 5), ("e", 0):
        cases.add(db, row(name, priority=priority), 1.0)
    assert keys(cases.waiting(db, 10)) == "bdaec"
    assert keys(cases.waiting(db, 3)) == "bda"
    assert keys(cases.waiting(db, 2, besides={"b", "a"})) == "de"


def test_barred_pipelines(db: sqlite3.Connection) -> None:
    """A pipeline whose budget is spent does not hold up the others."""
    for name, pipeline in ("a", "home"), ("b", "media"), ("c", "home"):
        cases.add(db, row(name, pipeline=pipeline), 1.0)
    assert keys(cases.waiting(db, 10, barred={"home"})) == "b"
    assert keys(cases.waiting(db, 10, {"b"}, {"home": "today"})) == ""


def test_expired(db: sqlite3.Connection) -> None:
    """A deadline passes when it is reached; the longest overdue come first."""
    for name, deadline in ("a", 30.0), ("b", 10.0), ("c", 20.0), ("d", 21.0):
        cases.add(db, row(name, deadline=deadline), 1.0)
    assert keys(cases.expired(db, 20.0, 10)) == "bc"
    assert keys(cases.expired(db, 99.0, 1)) == "b"
    cases.finish(db, "b", "topic", b"final")
    assert keys(cases.expired(db, 20.0, 10)) == "c"


def test_victims(db: sqlite3.Connection) -> None:
    """Dropped is the oldest, or the oldest of the lowest priority; none in hand."""
    for name, priority in ("a", 5), ("b", 1), ("c", 1), ("d", 9):
        cases.add(db, row(name, priority=priority), 1.0)

    def dropped(*, lowest: bool, besides: str = "") -> str:
        found = cases.victim(db, lowest=lowest, besides=set(besides))
        return found.key if found else ""

    assert dropped(lowest=False) == "a"
    assert dropped(lowest=True) == "b"
    assert dropped(lowest=False, besides="ab") == "c"
    assert dropped(lowest=True, besides="b") == "c"
    assert dropped(lowest=True, besides="bc") == "a"
    assert dropped(lowest=True, besides="abcd") == ""
    for name in "abcd":
        end(db, name)
    assert dropped(lowest=True) == dropped(lowest=False) == ""


def test_tried(db: sqlite3.Connection) -> None:
    """Attempts are counted for the one case."""
    add_all(db, "ab")
    cases.tried(db, "a")
    cases.tried(db, "a")
    cases.tried(db, "unknown")
    assert [row.attempts for row in cases.waiting(db, 10)] == [2, 0]


def test_one_final(db: sqlite3.Connection) -> None:
    """Whoever finishes first, finishes; nobody does so for an unknown case."""
    add_all(db, "a")
    assert cases.finish(db, "a", "topic", b"first")
    assert not cases.finish(db, "a", "topic", b"second")
    assert not cases.finish(db, "unknown", "topic", b"final")
    assert cases.finished(db, 10) == [Final("a", "topic", b"first", "home")]
    cases.forget(db, "a", 1.0)
    assert not cases.finish(db, "a", "topic", b"third")
    assert cases.finished(db, 10) == []


def test_dropped_before_it_waited(db: sqlite3.Connection) -> None:
    """A case there is no room for ends at once, once, and is remembered like any."""
    assert cases.drop(db, row("a"), 1.0, "topic", b"final")
    assert not cases.drop(db, row("a"), 2.0, "topic", b"other")
    assert cases.finished(db, 10) == [Final("a", "topic", b"final", "home")]
    assert cases.stats(db) == Stats(0, 1, 5, None)
    cases.forget(db, "a", 3.0)
    assert not cases.drop(db, row("a"), 4.0, "topic", b"other")
    assert cases.add(db, row("a"), 5.0) is AddVerdict.DONE


def test_known(db: sqlite3.Connection) -> None:
    """A case is known while it waits, when it is finished, and when it is forgotten."""
    keys = ["a", "unknown"]
    assert cases.known(db, keys) == frozenset()
    add_all(db, "a")
    assert cases.known(db, keys) == {"a"}
    cases.finish(db, "a", "topic", b"final")
    assert cases.known(db, keys) == {"a"}
    cases.forget(db, "a", 3.0)
    assert cases.known(db, keys) == {"a"}


def test_finals_come_in_the_order_they_were_made(db: sqlite3.Connection) -> None:
    """Whoever is asked first is not always answered first."""
    add_all(db, "abcd")
    for name in "cab":
        cases.finish(db, name, "topic", name.encode())
    assert [final.key for final in cases.finished(db, 10)] == ["c", "a", "b"]
    cases.forget(db, "a", 1.0)
    cases.finish(db, "d", "topic", b"d")
    assert [final.key for final in cases.finished(db, 10)] == ["c", "b", "d"]
    assert [final.key for final in cases.finished(db, 1)] == ["c"]
    assert [final.key for final in cases.finished(db, 10, {"c"})] == ["b", "d"]
    assert keys(cases.waiting(db, 10)) == ""


def test_only_what_ended_is_forgotten(db: sqlite3.Connection) -> None:
    """A case that waits for its answer stays, and leaves no tombstone."""
    add_all(db, "a")
    cases.forget(db, "a", 1.0)
    cases.forget(db, "unknown", 1.0)
    assert keys(cases.waiting(db, 10)) == "a"
    assert cases.prune(db, 100.0) == 0
    assert cases.add(db, row("unknown"), 1.0) is AddVerdict.NEW


def test_prune(db: sqlite3.Connection) -> None:
    """Tombstones go when they are old; then the same message is a new case."""
    add_all(db, "abc")
    for at, name in enumerate("abc"):
        cases.finish(db, name, "topic", b"final")
        cases.forget(db, name, float(at))
    assert cases.prune(db, 2.0) == 2
    assert cases.add(db, row("a"), 9.0) is AddVerdict.NEW
    assert cases.add(db, row("c"), 9.0) is AddVerdict.DONE


def test_tombstones_are_bounded(
    db: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of many tombstones the newest stay."""
    monkeypatch.setattr(cases, "TOMBSTONES", 3)
    add_all(db, "abcde")
    for name in "abcde":
        end(db, name)
    verdicts = [cases.add(db, row(name), 9.0) for name in "abcde"]
    assert verdicts == 2 * [AddVerdict.NEW] + 3 * [AddVerdict.DONE]


def test_stats(db: sqlite3.Connection) -> None:
    """What waits and what is finished are counted, with their bytes."""
    assert cases.stats(db) == Stats(0, 0, 0, None)
    cases.add(db, row("a", body=b"12345"), 7.0)
    cases.add(db, row("b", body=b"123"), 8.0)
    assert cases.stats(db) == Stats(2, 0, 8, 7.0)
    cases.finish(db, "a", "topic", b"1234567")
    assert cases.stats(db) == Stats(1, 1, 10, 8.0)
    cases.forget(db, "a", 9.0)
    assert cases.stats(db) == Stats(1, 0, 3, 8.0)
    end(db, "b")
    assert cases.stats(db) == Stats(0, 0, 0, None)


def test_the_next_deadline(db: sqlite3.Connection) -> None:
    """It is that of the cases that wait, however many have ended."""
    assert cases.deadline(db) is None
    for name, at in (("a", 30.0), ("b", 10.0), ("c", 20.0)):
        cases.add(db, row(name, deadline=at), 1.0)
    assert cases.deadline(db) == 10.0
    cases.finish(db, "b", "topic", b"final")
    assert cases.deadline(db) == 20.0
    plan = db.execute(
        "EXPLAIN QUERY PLAN SELECT min(deadline) FROM cases WHERE finish IS NULL"
    )
    assert "cases_deadline" in str(plan.fetchall())


# -- no room


def crowd(db: sqlite3.Connection, size: int = 600, first: int = 0) -> int:
    """Add cases until there is no room; return how many there are."""
    for number in range(first, first + 100_000):
        name = f"{number:032x}"
        case = row(name, body=bytes(size), priority=number % 10)
        try:
            cases.add(db, case, 1.0)
        except Full:
            return number
    raise AssertionError("never full")


@pytest.fixture
def small(db: sqlite3.Connection) -> sqlite3.Connection:
    """Return an outbox of a megabyte."""
    db.execute(f"PRAGMA max_page_count = {2**20 // PAGE}")
    return db


def test_a_full_outbox_can_be_worked_off(small: sqlite3.Connection) -> None:
    """What is full takes no more cases, and still every one can end."""
    count = crowd(small)
    assert 700 < count < 1000
    with pytest.raises(Full, match=f"{count} cases wait"):
        cases.add(small, row("more"), 1.0)
    assert cases.add(small, row(f"{1:032x}"), 1.0) is AddVerdict.KNOWN
    for case in cases.waiting(small, count):
        cases.tried(small, case.key)
        end(small, case.key, bytes(700))
    assert cases.stats(small) == Stats(0, 0, 0, None)
    assert crowd(small, first=count) > count + 500


@pytest.mark.parametrize("size", [10, 600, 20_000])
def test_how_full_it_is(small: sqlite3.Connection, size: int) -> None:
    """Whatever the size of cases, it is nearly full before it takes no more."""
    assert cases.filled(small) < 0.2
    count = crowd(small, size)
    assert 0.9 < cases.filled(small) <= 1.0
    for case in cases.waiting(small, count):
        end(small, case.key)
    assert cases.filled(small) < 0.5


def test_results_larger_than_cases(small: sqlite3.Connection) -> None:
    """There is room for all results at once, if they are like the cases in size."""
    count = crowd(small)
    for case in cases.waiting(small, count):
        cases.finish(small, case.key, "topic", bytes(650))
    assert cases.stats(small).finished == count
    for final in cases.finished(small, count):
        cases.forget(small, final.key, 1.0)


@pytest.mark.parametrize("lowest", [True, False])
def test_one_goes_for_one_that_comes(
    small: sqlite3.Connection, *, lowest: bool
) -> None:
    """A full outbox that drops cases does not drop many for a few new ones."""
    count = crowd(small)
    dropped = 0
    for number in range(count, count + 300):
        while True:
            try:
                cases.add(small, row(f"{number:032x}", body=bytes(600), priority=5), 1)
                break
            except Full:
                victim = cases.victim(small, lowest=lowest)
                assert victim is not None
                end(small, victim.key)
                dropped += 1
    assert 300 <= dropped < 450


def test_nothing_left_at_all(small: sqlite3.Connection) -> None:
    """Without a single free page, cases end and are forgotten, if not remembered."""
    count = crowd(small)
    small.execute("PRAGMA max_page_count = 1")  # as many as there are
    ended = cases.waiting(small, count)
    for case in ended:
        end(small, case.key, bytes(600))
    assert cases.stats(small).waiting == 0
    assert cases.add(small, ended[0], 1.0) is AddVerdict.NEW
    assert cases.add(small, ended[-1], 1.0) is AddVerdict.DONE  # there was room again


def test_room_that_others_took(small: sqlite3.Connection) -> None:
    """However few cases there are, the last pages are for what goes out."""
    small.execute("CREATE TABLE others (body)")
    while room(small).free >= 2**20 // 16:
        small.execute("INSERT INTO others VALUES (zeroblob(3000))")
    with pytest.raises(Full, match="0 cases wait"):
        cases.add(small, row("more"), 1.0)


def test_tombstones_take_their_share(small: sqlite3.Connection) -> None:
    """A small outbox remembers less: tombstones may not crowd out the living."""
    small.execute("BEGIN")
    for number in range(10_000):
        cases.add(small, row(f"{number:032x}"), 1.0)
        end(small, f"{number:032x}")
    (kept,) = small.execute("SELECT count(*) FROM tombstones").fetchone()
    assert kept == 2**20 // 8 // cases.TOMBSTONE_BYTES
    assert room(small).free > 2**20 * 3 // 4


def test_costs(db: sqlite3.Connection) -> None:
    """With thousands waiting, no question looks at all of them."""
    db.execute("BEGIN")
    for number in range(20_000):
        case = row(f"{number:032x}", priority=number % 3, deadline=float(number))
        cases.add(db, case, 1.0)
    for number in range(50):
        cases.finish(db, f"{number:032x}", "topic", b"final")
    busy = {f"{number:032x}" for number in range(50, 100)}
    questions: list[Callable[[], object]] = [
        lambda: cases.waiting(db, 10, busy),
        lambda: cases.expired(db, 60.0, 10),
        lambda: cases.victim(db, lowest=True, besides=busy),
        lambda: cases.victim(db, lowest=False, besides=busy),
        lambda: cases.finished(db, 10, busy),
        lambda: cases.stats(db),
        lambda: cases.add(db, row("new"), 1.0),
        lambda: cases.finish(db, f"{900:032x}", "topic", b"final"),
        lambda: cases.forget(db, f"{900:032x}", 1.0),
    ]
    steps = 0

    def step() -> None:
        nonlocal steps
        steps += 100

    db.set_progress_handler(step, 100)
    for ask in questions:
        steps = 0
        ask()
        assert steps <= 3000


# -- any order of all that


@dataclass
class Known:
    """What the model knows of a case."""

    row: CaseRow
    added: float
    place: int
    final: bytes | None = None
    finish: int = 0


class AnyLife(RuleBasedStateMachine):
    """Cases in a table and in a dictionary: both say the same, always."""

    names = Bundle("names")

    def __init__(self) -> None:
        """Begin with nothing."""
        super().__init__()
        self.db = new_database()
        self.live: dict[str, Known] = {}
        self.tombs: dict[str, float] = {}
        self.now = 0.0
        self.places = 0

    @initialize(target=names)
    def first(self) -> str:
        """Begin with one name."""
        return "first"

    @rule(
        target=names,
        name=st.text("abc", min_size=1, max_size=2),
        priority=st.integers(-1, 1),
        wait=st.integers(0, 20),
        pipeline=st.sampled_from(["home", "media"]),
    )
    def add(self, name: str, priority: int, wait: int, pipeline: str) -> str:
        """Add a case, known or not."""
        self.now += 1
        case = CaseRow(name, name.encode(), pipeline, priority, self.now + wait, 0)
        verdict = cases.add(self.db, case, self.now)
        if name in self.tombs:
            assert verdict is AddVerdict.DONE
        elif name in self.live:
            assert verdict is AddVerdict.KNOWN
        else:
            assert verdict is AddVerdict.NEW
            self.places += 1
            self.live[name] = Known(case, self.now, self.places)
        return name

    @rule(name=names)
    def tried(self, name: str) -> None:
        """Count an attempt."""
        cases.tried(self.db, name)
        if name in self.live:
            known = self.live[name]
            known.row = replace(known.row, attempts=known.row.attempts + 1)

    @rule(name=names, payload=st.binary(max_size=5))
    def finish(self, name: str, payload: bytes) -> None:
        """Give a result."""
        known = self.live.get(name)
        first = known is not None and known.final is None
        assert cases.finish(self.db, name, "topic", payload) is first
        if known and first:
            self.places += 1
            known.final, known.finish = payload, self.places

    @rule(name=names)
    def forget(self, name: str) -> None:
        """Forget what was published."""
        cases.forget(self.db, name, self.now)
        if name in self.live and self.live[name].final is not None:
            del self.live[name]
            self.tombs[name] = self.now

    @rule(age=st.integers(0, 10))
    def prune(self, age: int) -> None:
        """Forget tombstones."""
        old = [name for name, at in self.tombs.items() if at < self.now - age]
        assert cases.prune(self.db, self.now - age) == len(old)
        for name in old:
            del self.tombs[name]

    def waiting(self) -> list[Known]:
        """Return what waits, oldest first."""
        return sorted(
            (known for known in self.live.values() if known.final is None),
            key=lambda known: known.place,
        )

    @invariant()
    def same(self) -> None:
        """Compare the answer to every question with that of the model."""
        waits = self.waiting()
        ordered = sorted(waits, key=lambda known: -known.row.priority)
        assert cases.waiting(self.db, 99) == [known.row for known in ordered]
        media = [k.row for k in ordered if k.row.pipeline == "media"]
        assert cases.waiting(self.db, 99, (), ["home"]) == media
        late = [k.row for k in waits if k.row.deadline <= self.now]
        found = cases.expired(self.db, self.now, 99)
        assert sorted(found, key=lambda row: row.key) == sorted(
            late, key=lambda row: row.key
        )
        assert cases.victim(self.db, lowest=False) == (waits[0].row if waits else None)
        assert cases.victim(self.db, lowest=True) == min(
            (known.row for known in waits), key=lambda row: row.priority, default=None
        )

    @invariant()
    def same_finals(self) -> None:
        """Compare finals and figures with those of the model."""
        done = sorted(
            (known.finish, known.row.key, known.final, known.row.pipeline)
            for known in self.live.values()
            if known.final is not None
        )
        assert cases.finished(self.db, 99) == [
            Final(key, "topic", final, pipeline) for _, key, final, pipeline in done
        ]
        waits = self.waiting()
        size = sum(len(known.row.body) for known in waits)
        size += sum(map(len, map(itemgetter(2), done)))
        oldest = waits[0].added if waits else None
        assert cases.stats(self.db) == Stats(len(waits), len(done), size, oldest)

    def teardown(self) -> None:
        """Close the table."""
        self.db.close()


TestAnyLife = AnyLife.TestCase
TestAnyLife.settings = settings(max_examples=60, stateful_step_count=40)
