"""Erasing: the words of a message are nowhere in the file, all others are."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from agent.core.errors import ConfigError
from agent.outbox import SCHEMA, answers, cases
from agent.outbox.cases import AddVerdict, CaseRow
from agent.outbox.erasing import Erased, erase
from agent.outbox.opening import open_database

DAY = 86_400.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Make an outbox: two cases wait, two have results, two answers are cached."""
    path = tmp_path / "outbox.db"
    with closing(open_database(path, SCHEMA, lambda _: None)) as db:
        for number, name in enumerate(["old", "ann", "bob", "eve"]):
            body = f'{{"id": "{name}", "text": "words of {name}"}}'.encode()
            cases.add(db, CaseRow(name, body, "home", 0, 1e9, 0), number * DAY)
        for name in ("old", "bob"):
            payload = f'{{"id": "{name}", "entities": ["words of {name}"]}}'.encode()
            cases.finish(db, name, "topic", payload)
        answers.remember(db, "first", b"an old answer", 1.0, 10)
        answers.remember(db, "second", b"a new answer", 3 * DAY, 10)
    return path


def left(path: Path) -> tuple[str, str]:
    """Return the keys of cases that wait, and of results."""
    with closing(sqlite3.connect(path)) as db:
        waiting = " ".join(row.key for row in cases.waiting(db, 10))
        return waiting, " ".join(final.key for final in cases.finished(db, 10))


@pytest.mark.parametrize(
    ("name", "gone", "rest"),
    [
        ("ann", Erased(1, 0, 0, 0, 0), ("eve", "old bob")),
        ("bob", Erased(0, 1, 0, 0, 0), ("ann eve", "old")),
        ("nobody", Erased(0, 0, 0, 0, 0), ("ann eve", "old bob")),
    ],
)
def test_one_message(
    path: Path, name: str, gone: Erased, rest: tuple[str, str]
) -> None:
    """Whether it waits or its result does, a message goes by its id, and only it."""
    assert erase(path, 4 * DAY, message=name) == gone
    assert left(path) == rest
    files = [path, Path(f"{path}-wal")]
    assert not any(
        f"words of {name}".encode() in file.read_bytes()
        for file in files
        if file.exists()
    )


def test_all_from_before_a_day(path: Path) -> None:
    """Cases, results, answers and damaged files go that are older."""
    for day in (0, 3):
        aside = path.with_name(f"outbox.db.damaged-2026120{day}T000000.0Z")
        aside.write_bytes(b"?")
        os.utime(aside, (day * DAY, day * DAY))
    assert erase(path, 4 * DAY, before=1.5 * DAY) == Erased(1, 1, 1, 1, 1)
    assert left(path) == ("eve", "bob")
    with closing(sqlite3.connect(path)) as db:
        assert answers.recall(db, "second", 4 * DAY, 2 * DAY)
    assert [file.name for file in path.parent.glob("*damaged*")] == [aside.name]


def test_a_message_that_is_erased_is_asked_about_no_more(path: Path) -> None:
    """Delivered again, it makes no second case."""
    erase(path, 4 * DAY, message="ann")
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        again = CaseRow("ann", b"{}", "home", 0, 1e9, 0)
        assert cases.add(db, again, 4 * DAY) is AddVerdict.DONE


def test_what_is_no_outbox(tmp_path: Path) -> None:
    """Without a file nothing is erased; one that is no database is named."""
    assert erase(tmp_path / "none.db", 0.0, message="x") == Erased(0, 0, 0, 0, 0)
    broken = tmp_path / "outbox.db"
    broken.write_bytes(b"no database, for more than one page" * 200)
    with pytest.raises(ConfigError, match=r"outbox\.db"):
        erase(broken, 0.0, message="x")
