"""The egress ledger: nothing that was written can change unseen."""

import contextlib
import hashlib
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

import pytest

from agent.outbox import SCHEMA, answers, ledger
from agent.outbox.ledger import Egress, entries, head, record, verify
from agent.outbox.store import Full

EGRESS = Egress(
    at=1764000000.25,
    pipeline="home",
    case="01JD5Z0000000000000000000A",
    transport="http",
    to="https://llm.example/v1",
    bytes=612,
    sha256="ab" * 32,
    redactions={"PERSON": 2, "EMAIL_ADDRESS": 1},
)


@pytest.fixture
def db() -> Iterator[sqlite3.Connection]:
    """Return an empty ledger."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
        db.executescript(SCHEMA)
        yield db


def write(db: sqlite3.Connection, count: int, keep: int = 1000) -> None:
    """Write that many lines."""
    for number in range(count):
        record(db, replace(EGRESS, bytes=number), keep)


def unlock(db: sqlite3.Connection) -> None:
    """Remove the triggers, as whoever means harm would."""
    named = db.execute("SELECT name FROM sqlite_schema WHERE type = 'trigger'")
    for (name,) in named.fetchall():
        db.execute(f"DROP TRIGGER {name}")


def test_lines(db: sqlite3.Connection) -> None:
    """Lines are numbered from 1, chained, and come back as they were written."""
    one = record(db, EGRESS)
    two = record(db, replace(EGRESS, redactions={}))
    assert (one.number, two.number) == (1, 2)
    assert one.egress == EGRESS
    assert one.previous == 64 * "0"
    assert two.previous == one.hash
    assert entries(db) == [one, two]
    assert entries(db, after=1) == [two]
    assert entries(db, after=2) == []
    assert entries(db, limit=1) == [one]
    assert head(db) == (2, two.hash)
    assert verify(db) is None


def test_the_hash_is_as_documented(db: sqlite3.Connection) -> None:
    """Anybody can check a line with SHA-256 and JSON, without our code."""
    record(db, EGRESS)
    entry = record(db, EGRESS)
    line = (
        '{"at":1764000000.25,"bytes":612,"case":"01JD5Z0000000000000000000A",'
        '"number":2,"pipeline":"home",'
        '"redactions":{"EMAIL_ADDRESS":1,"PERSON":2},"sha256":"' + 32 * "ab" + '",'
        '"to":"https://llm.example/v1","transport":"http"}'
    )
    assert json.loads(line)["number"] == entry.number
    digest = hashlib.sha256((entry.previous + line).encode()).hexdigest()
    assert entry.hash == digest


def test_numbers_of_any_kind(db: sqlite3.Connection) -> None:
    """A whole second, and a hash in capitals, are no change."""
    record(db, replace(EGRESS, at=1764000000, sha256="AB" * 32))
    assert verify(db) is None


def test_what_is_no_hash(db: sqlite3.Connection) -> None:
    """A hash that is none is refused, and nothing is written."""
    with pytest.raises(ValueError, match="hexadecimal"):
        record(db, replace(EGRESS, sha256="none"))
    assert entries(db) == []
    assert verify(db) is None


def test_an_empty_ledger_holds(db: sqlite3.Connection) -> None:
    """A device that sent nothing has nothing to prove."""
    assert verify(db) is None
    assert entries(db) == []
    assert head(db) == (0, 64 * "0")


@pytest.mark.parametrize(
    "harm",
    [
        "UPDATE ledger SET bytes = 0 WHERE number = 3",
        "DELETE FROM ledger WHERE number = 3",
        "DELETE FROM ledger",
        (
            "INSERT INTO ledger SELECT number + 9, 0, '', '', '', '', 0, '', '', ''"
            " FROM ledger"
        ),
        "INSERT OR REPLACE INTO ledger SELECT * FROM ledger",
        "UPDATE ledger_ends SET number = 2 WHERE name = 'head'",
        "UPDATE ledger_ends SET name = 'tail' WHERE name = 'head'",
        "DELETE FROM ledger_ends",
    ],
)
def test_accidents_are_refused(db: sqlite3.Connection, harm: str) -> None:
    """SQL that would change what was written fails, whatever it is."""
    write(db, 5)
    before = entries(db)
    with pytest.raises(sqlite3.IntegrityError, match="the ledger"):
        db.execute(harm)
    assert entries(db) == before
    assert verify(db) is None


@pytest.mark.parametrize(
    ("harm", "what"),
    [
        ("UPDATE ledger SET bytes = 99 WHERE number = 3", "entry 3: changed"),
        ("UPDATE ledger SET at = at + 1 WHERE number = 1", "entry 1: changed"),
        ("UPDATE ledger SET \"to\" = 'x' WHERE number = 5", "entry 5: changed"),
        ("UPDATE ledger SET pipeline = 'x' WHERE number = 2", "entry 2: changed"),
        ("UPDATE ledger SET \"case\" = 'x' WHERE number = 2", "entry 2: changed"),
        ("UPDATE ledger SET transport = 'x' WHERE number = 2", "entry 2: changed"),
        ("UPDATE ledger SET sha256 = hash WHERE number = 2", "entry 2: changed"),
        ("UPDATE ledger SET redactions = '{}' WHERE number = 2", "entry 2: changed"),
        ("UPDATE ledger SET redactions = '{' WHERE number = 2", "entry 2: changed"),
        ("UPDATE ledger SET sha256 = 'x' WHERE number = 2", "entry 2: changed"),
        ("UPDATE ledger SET sha256 = 1.5 WHERE number = 2", "entry 2: changed"),
        ("UPDATE ledger SET hash = sha256 WHERE number = 2", "entry 2: changed"),
        ("UPDATE ledger SET hash = zeroblob(32) WHERE number = 5", "entry 5: changed"),
        ("DELETE FROM ledger WHERE number = 1", "entry 1: missing"),
        ("DELETE FROM ledger WHERE number IN (3, 4)", "entry 3: missing"),
        (
            "DELETE FROM ledger WHERE number > 3",
            "entry 4: missing, and all to the last, 5",
        ),
        ("DELETE FROM ledger", "entry 1: missing, and all to the last, 5"),
        (
            "UPDATE ledger_ends SET number = 4 WHERE name = 'head'",
            "entry 4: not the last as it was written",
        ),
        (
            "UPDATE ledger_ends SET hash = zeroblob(32) WHERE name = 'head'",
            "entry 5: not the last as it was written",
        ),
        (
            "UPDATE ledger_ends SET hash = zeroblob(32) WHERE name = 'anchor'",
            None,  # it was that already
        ),
        ("UPDATE ledger_ends SET number = 2 WHERE name = 'anchor'", "entry 3: changed"),
        ("UPDATE ledger SET number = 9 WHERE number = 2", "entry 2: missing"),
        ("DELETE FROM ledger_ends WHERE name = 'head'", "the ends are missing"),
        ("DELETE FROM ledger_ends", "the ends are missing"),
    ],
)
def test_harm_is_found(db: sqlite3.Connection, harm: str, what: str | None) -> None:
    """Without its triggers the ledger still tells what was done to it, and where."""
    write(db, 5)
    unlock(db)
    db.execute(harm)
    assert verify(db) == what


def test_swapped_lines(db: sqlite3.Connection) -> None:
    """Two lines in each other's place are two changed lines."""
    write(db, 5)
    unlock(db)
    for number, to in (2, 99), (4, 2), (99, 4):
        db.execute("UPDATE ledger SET number = ? WHERE number = ?", (to, number))
    assert verify(db) == "entry 2: changed"


def test_an_end_written_anew(db: sqlite3.Connection) -> None:
    """Whoever writes a whole new end cannot give it the hash that was noted."""
    write(db, 5)
    noted = head(db)
    unlock(db)
    db.execute("DELETE FROM ledger WHERE number = 5")
    (hash_,) = db.execute("SELECT hash FROM ledger WHERE number = 4").fetchone()
    db.execute(
        "UPDATE ledger_ends SET number = 4, hash = ? WHERE name = 'head'", (hash_,)
    )
    record(db, replace(EGRESS, bytes=1))
    assert verify(db) is None
    assert head(db)[0] == noted[0]
    assert head(db) != noted


def test_the_oldest_go(db: sqlite3.Connection) -> None:
    """Beyond what is kept the oldest lines go, and the rest of the chain holds."""
    write(db, 10, keep=4)
    found = entries(db)
    assert [entry.number for entry in found] == [7, 8, 9, 10]
    assert found[0].previous == entries(db, after=6)[0].previous != 64 * "0"
    assert entries(db, after=8)[0].previous == found[1].hash
    assert verify(db) is None
    unlock(db)
    db.execute("DELETE FROM ledger WHERE number = 7")
    assert verify(db) == "entry 7: missing"


def test_a_smaller_ledger(db: sqlite3.Connection) -> None:
    """Where less is to be kept than before, lines go a few at a time."""
    write(db, 500)
    record(db, EGRESS, keep=10)
    assert len(entries(db)) == 501 - ledger.PRUNED
    for _ in range(5):
        record(db, EGRESS, keep=10)
    assert len(entries(db)) == 10
    assert verify(db) is None


def test_its_share_of_the_file(db: sqlite3.Connection) -> None:
    """The ledger takes no more than a quarter of the file, whatever is to be kept."""
    db.execute("PRAGMA max_page_count = 256")
    write(db, 3000, keep=100_000)
    assert len(entries(db, limit=9999)) == 2**20 // 4 // ledger.ENTRY_BYTES
    (pages,) = db.execute(
        "SELECT sum(pageno > 0) FROM dbstat WHERE name = 'ledger'"
    ).fetchone()
    assert pages < 256 // 4
    assert verify(db) is None


def test_no_room(db: sqlite3.Connection) -> None:
    """In a full file nothing leaves the device, for it could not be recorded."""
    write(db, 5)
    db.execute("PRAGMA max_page_count = 1")  # no more than there are
    with pytest.raises(Full, match="ledger"):
        record(db, EGRESS)
    assert verify(db) is None


def fill(db: sqlite3.Connection) -> None:
    """Take all the room that there is."""
    with contextlib.suppress(sqlite3.OperationalError):
        while True:
            db.execute("INSERT INTO others VALUES (zeroblob(3000))")


def test_answers_and_tombstones_make_room(db: sqlite3.Connection) -> None:
    """In a full file a line is worth more than a cache: else no case would ever end."""
    for number in range(250):
        answers.remember(db, str(number), bytes(500), 1.0, 1000)
        db.execute("INSERT INTO tombstones (key, at) VALUES (?, 1)", (str(number),))
    db.execute("CREATE TABLE others (body)")
    db.execute("PRAGMA max_page_count = 1")  # no more than there are
    for _ in range(6):  # each takes the room of a hundred
        fill(db)
        record(db, EGRESS)
    fill(db)
    with pytest.raises(Full, match="ledger"):
        record(db, EGRESS)
    for table in ("answers", "tombstones"):
        assert db.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)  # noqa: S608
    assert verify(db) is None
