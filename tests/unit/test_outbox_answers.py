"""Answers: given again for the same question, for a while, and not too many."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing

import pytest

from agent.outbox import answers
from agent.outbox.answers import LARGEST, recall, remember


@pytest.fixture
def db() -> Iterator[sqlite3.Connection]:
    """Return an empty cache."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
        db.executescript(answers.SCHEMA)
        yield db


def known(db: sqlite3.Connection, keys: str) -> str:
    """Return those keys that have an answer."""
    return "".join(key for key in keys if recall(db, key, 100.0, 1000.0) is not None)


def test_an_answer_is_given_again(db: sqlite3.Connection) -> None:
    """What was answered is remembered, byte for byte; nothing else is."""
    assert recall(db, "a", 1.0, 10.0) is None
    remember(db, "a", b"\x00answer", 1.0, 5)
    assert recall(db, "a", 1.0, 10.0) == b"\x00answer"
    assert recall(db, "b", 1.0, 10.0) is None


@pytest.mark.parametrize(
    ("now", "there"), [(5.0, True), (15.0, True), (15.5, False), (4.5, False)]
)
def test_age(db: sqlite3.Connection, now: float, *, there: bool) -> None:
    """An answer is given up to its age, and not where the clock was wrong."""
    remember(db, "a", b"answer", 5.0, 5)
    assert (recall(db, "a", now, 10.0) is not None) is there


def test_the_newest_stay(db: sqlite3.Connection) -> None:
    """Of more answers than there may be, the oldest goes."""
    for now, key in enumerate("abcde"):
        remember(db, key, b"answer", float(now), 3)
    assert known(db, "abcde") == "cde"


def test_a_newer_answer(db: sqlite3.Connection) -> None:
    """An answer that is given again replaces the one before, and is the newest."""
    for now, key in enumerate("abca"):
        remember(db, key, str(now).encode(), float(now), 3)
    assert recall(db, "a", 3.0, 10.0) == b"3"
    remember(db, "d", b"answer", 4.0, 3)
    assert known(db, "abcd") == "acd"


@pytest.mark.parametrize("entries", [0, 1, 2])
def test_fewer_than_before(db: sqlite3.Connection, entries: int) -> None:
    """A smaller cache forgets with the next answer; an empty one keeps none."""
    for now, key in enumerate("abcd"):
        remember(db, key, b"answer", float(now), 9)
    remember(db, "e", b"answer", 5.0, entries)
    assert known(db, "abcde") == "abcde"[5 - entries :]


def test_large_answers(db: sqlite3.Connection) -> None:
    """One large answer does not push out many; the others are kept."""
    remember(db, "a", b"answer", 1.0, 9)
    remember(db, "b", bytes(LARGEST), 1.0, 9)
    remember(db, "c", bytes(LARGEST + 1), 1.0, 9)
    assert known(db, "abc") == "ab"


def test_no_room(db: sqlite3.Connection) -> None:
    """A cache takes no room that cases need, and asks for none in a full file."""
    db.execute("PRAGMA max_page_count = 128")
    for number in range(3000):
        remember(db, str(number), bytes(200), 1.0, 100_000)
    (kept,) = db.execute("SELECT count(*) FROM answers").fetchone()
    assert kept == 128 * 4096 // 8 // 1024
    db.execute("PRAGMA max_page_count = 1")
    remember(db, "late", bytes(200), 1.0, 100_000)
    assert recall(db, "late", 1.0, 1.0) is None
