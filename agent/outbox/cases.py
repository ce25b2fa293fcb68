"""The table of cases: each waits, then has its one final result, then is remembered.

Functions on an open connection; none commits, so that several can be one change. Bodies
and payloads are opaque bytes. What is forgotten leaves a tombstone, so that a message
which comes again is known to be done with.
"""

import hmac
import json
import sqlite3
from collections.abc import Collection
from dataclasses import dataclass, replace
from enum import Enum, auto

from agent.core.clock import Step
from agent.outbox.store import Full, room

TOMBSTONES = 50_000  # most of them, and no more than an eighth of the file
TOMBSTONE_BYTES = 90
CASE_BYTES = 200  # that a case takes beside its body: keys, indices

SCHEMA = """
CREATE TABLE IF NOT EXISTS cases (
    number INTEGER PRIMARY KEY,
    key TEXT NOT NULL UNIQUE,
    pipeline TEXT NOT NULL,
    priority INTEGER NOT NULL,
    deadline REAL NOT NULL,
    attempts INTEGER NOT NULL,  -- calls that may have been paid
    added REAL NOT NULL,
    finish INTEGER,  -- its place among the finished; NULL: it waits
    topic TEXT,
    body BLOB,
    payload BLOB
);
CREATE INDEX IF NOT EXISTS cases_waiting
    ON cases (priority DESC, number, pipeline) WHERE finish IS NULL;
CREATE INDEX IF NOT EXISTS cases_deadline ON cases (deadline) WHERE finish IS NULL;
CREATE INDEX IF NOT EXISTS cases_finished ON cases (finish) WHERE finish IS NOT NULL;

-- Counted as they come and go: a Pi should not count thousands every second.
CREATE TABLE IF NOT EXISTS cases_totals (
    only INTEGER PRIMARY KEY CHECK (only = 0),
    waiting INTEGER NOT NULL,
    waiting_bytes INTEGER NOT NULL,
    finished INTEGER NOT NULL,
    finished_bytes INTEGER NOT NULL
);
INSERT OR IGNORE INTO cases_totals VALUES (0, 0, 0, 0, 0);
CREATE TRIGGER IF NOT EXISTS cases_added AFTER INSERT ON cases BEGIN
    UPDATE cases_totals SET
        waiting = waiting + 1, waiting_bytes = waiting_bytes + length(new.body);
END;
CREATE TRIGGER IF NOT EXISTS cases_ended AFTER UPDATE OF finish ON cases BEGIN
    UPDATE cases_totals SET
        waiting = waiting - 1, waiting_bytes = waiting_bytes - length(old.body),
        finished = finished + 1, finished_bytes = finished_bytes + length(new.payload);
END;
CREATE TRIGGER IF NOT EXISTS cases_gone AFTER DELETE ON cases BEGIN
    UPDATE cases_totals SET
        finished = finished - 1, finished_bytes = finished_bytes - length(old.payload);
END;

CREATE TABLE IF NOT EXISTS tombstones (
    number INTEGER PRIMARY KEY,
    key TEXT NOT NULL UNIQUE,
    at REAL NOT NULL
);

-- A case's name upstream is made with this: whoever knows the name, and all of the
-- message but what was hidden, could else try what that was.
CREATE TABLE IF NOT EXISTS secret (
    only INTEGER PRIMARY KEY CHECK (only = 0),
    value BLOB NOT NULL
);
INSERT OR IGNORE INTO secret VALUES (0, randomblob(32));
"""


class AddVerdict(Enum):
    """What a case is that arrives."""

    NEW = auto()
    KNOWN = auto()  # it waits already, or its result does
    DONE = auto()  # it ended a while ago: only acknowledge


@dataclass(frozen=True, slots=True)
class CaseRow:
    """A case that waits. Larger priorities go first; `deadline` is Unix time."""

    key: str
    body: bytes
    pipeline: str
    priority: int
    deadline: float
    attempts: int


@dataclass(frozen=True, slots=True)
class Final:
    """The final result of a case, to be published."""

    key: str
    topic: str
    payload: bytes
    pipeline: str


@dataclass(frozen=True, slots=True)
class Stats:
    """What is in hand: cases, bytes of bodies and payloads, when the oldest was added.

    `oldest` is Unix time, of those that wait; None: none does.
    """

    waiting: int
    finished: int
    bytes: int
    oldest: float | None


def add(db: sqlite3.Connection, row: CaseRow, now: float) -> AddVerdict:
    """Add a case, unless it is known already; `now` is Unix time.

    Raises Full while there still is some room, for without any nothing could go out.
    """
    known = _known(db, row.key)
    if known:
        return known
    if filled(db, CASE_BYTES + len(row.body)) > 1.0:
        raise Full(f"{stats(db).waiting} cases wait")
    _insert(db, row, now)
    return AddVerdict.NEW


def filled(db: sqlite3.Connection, more: int = 0) -> float:
    """Return which share of the room that cases may take is taken.

    `more` are bytes that are wanted beside; beyond 1 they are not to be had. By pages,
    because that is what there is, and by bytes, because a case that is dropped makes
    room at once, though its page is free only when its neighbours went.
    """
    space = room(db)
    waiting, size = db.execute(
        "SELECT waiting, waiting_bytes FROM cases_totals"
    ).fetchone()
    by_pages = (space.most - space.free) / (space.most - space.most // 16)
    by_bytes: float = (size + CASE_BYTES * waiting + more) / (space.most * 5 // 8)
    return max(by_pages, by_bytes)


def drop(
    db: sqlite3.Connection, row: CaseRow, now: float, topic: str, payload: bytes
) -> bool:
    """Give a case its final result that never waited; False: it is known already.

    It takes room that `add` leaves to what goes out.
    """
    if _known(db, row.key):
        return False
    _insert(db, replace(row, body=b""), now)  # nobody will ask: it takes no room
    return finish(db, row.key, topic, payload)


def waits(db: sqlite3.Connection, key: str) -> bool:
    """Tell whether a case is known and has no final result."""
    found = db.execute("SELECT 1 FROM cases WHERE key = ? AND finish IS NULL", (key,))
    return found.fetchone() is not None


def waiting(
    db: sqlite3.Connection,
    limit: int,
    besides: Collection[str] = (),
    barred: Collection[str] = (),
) -> list[CaseRow]:
    """Return cases without a final result: highest priority first, then oldest.

    Left out are the keys `besides` and the pipelines `barred`.
    """
    return _rows(
        db,
        "pipeline NOT IN (SELECT value FROM json_each(?))"
        " AND key NOT IN (SELECT value FROM json_each(?))"
        " ORDER BY priority DESC, number LIMIT ?",
        (_json(barred), _json(besides), limit),
    )


def expired(db: sqlite3.Connection, now: float, limit: int) -> list[CaseRow]:
    """Return waiting cases whose deadline has passed, those longest overdue first."""
    return _rows(db, "deadline <= ? ORDER BY deadline LIMIT ?", (now, limit))


def deadline(db: sqlite3.Connection) -> float | None:
    """Return the next deadline of a waiting case, in Unix time; None: none waits."""
    found = db.execute("SELECT min(deadline) FROM cases WHERE finish IS NULL")
    return found.fetchone()[0]  # type: ignore[no-any-return]


def victim(
    db: sqlite3.Connection, *, lowest: bool, besides: Collection[str] = ()
) -> CaseRow | None:
    """Return what a full outbox drops: the oldest that waits, but for `besides`.

    With `lowest`, it is the oldest of those whose priority is the lowest.
    """
    others = _json(besides)
    if lowest:
        which = (
            "key NOT IN (SELECT value FROM json_each(?)) AND priority ="
            " (SELECT priority FROM cases WHERE finish IS NULL AND key NOT IN"
            "  (SELECT value FROM json_each(?)) ORDER BY priority LIMIT 1)"
            " ORDER BY number LIMIT 1"
        )
        found = _rows(db, which, (others, others))
    else:
        which = "key NOT IN (SELECT value FROM json_each(?)) ORDER BY number LIMIT 1"
        found = _rows(db, which, (others,))
    return found[0] if found else None


def wire_id(db: sqlite3.Connection, key: str) -> str:
    """Return the name of a case upstream: always the same, and nobody else's."""
    [secret] = db.execute("SELECT value FROM secret").fetchone()
    return hmac.new(secret, key.encode(), "sha256").hexdigest()[:32]


def attempts(db: sqlite3.Connection, key: str) -> int:
    """Return how many calls may have been paid for a case, so far."""
    row = db.execute("SELECT attempts FROM cases WHERE key = ?", (key,)).fetchone()
    return int(row[0]) if row else 0


def tried(db: sqlite3.Connection, key: str, number: int = 1) -> None:
    """Count a call that may be paid; -1: it surely was not."""
    db.execute("UPDATE cases SET attempts = attempts + ? WHERE key = ?", (number, key))


def finish(db: sqlite3.Connection, key: str, topic: str, payload: bytes) -> bool:
    """Give a case its final result, in place of its body.

    False: there is no such case, or it has one already.
    """
    return bool(
        db.execute(
            "UPDATE cases SET body = NULL, topic = ?, payload = ?,"
            " finish = (SELECT coalesce(max(finish), 0) + 1 FROM cases"
            "           WHERE finish IS NOT NULL)"
            " WHERE key = ? AND finish IS NULL RETURNING 1",
            (topic, payload, key),
        ).fetchall()
    )


def finished(
    db: sqlite3.Connection, limit: int, besides: Collection[str] = ()
) -> list[Final]:
    """Return final results in the order they came, but for the keys `besides`."""
    found = db.execute(
        "SELECT key, topic, payload, pipeline FROM cases WHERE finish IS NOT NULL"
        " AND key NOT IN (SELECT value FROM json_each(?)) ORDER BY finish LIMIT ?",
        (_json(besides), limit),
    )
    return [Final(*row) for row in found]


def forget(db: sqlite3.Connection, key: str, now: float) -> None:
    """Remove a case whose final result is published; a tombstone stays.

    `now` is Unix time. A case that still waits is not removed.
    """
    gone = db.execute(
        "DELETE FROM cases WHERE key = ? AND finish IS NOT NULL RETURNING 1", (key,)
    ).fetchall()
    space = room(db)
    # Where there is no room at all, going on is worth more than remembering.
    if gone and space.free >= space.most // 64:
        db.execute("INSERT INTO tombstones (key, at) VALUES (?, ?)", (key, now))
        most = min(TOMBSTONES, space.most // 8 // TOMBSTONE_BYTES)
        db.execute(
            "DELETE FROM tombstones"
            " WHERE number <= (SELECT max(number) FROM tombstones) - ?",
            (most,),
        )


def prune(db: sqlite3.Connection, before: float) -> int:
    """Remove tombstones older than `before` (Unix time); return how many."""
    return len(
        db.execute(
            "DELETE FROM tombstones WHERE at < ? RETURNING 1", (before,)
        ).fetchall()
    )


def shift(db: sqlite3.Connection, step: Step) -> None:
    """Set right what the clock as it was has dated: waiting cases, and tombstones."""
    dates = (step.since, step.until)
    db.execute(
        "UPDATE cases SET deadline = deadline + ?, added = added + ?"
        " WHERE added BETWEEN ? AND ? AND finish IS NULL",
        (step.by, step.by, *dates),
    )
    db.execute(
        "UPDATE tombstones SET at = at + ? WHERE at BETWEEN ? AND ?", (step.by, *dates)
    )


def stats(db: sqlite3.Connection) -> Stats:
    """Return what is in hand; cheap."""
    waiting, finished, size = db.execute(
        "SELECT waiting, finished, waiting_bytes + finished_bytes FROM cases_totals"
    ).fetchone()
    oldest = db.execute(
        "SELECT added FROM cases WHERE finish IS NULL ORDER BY number LIMIT 1"
    ).fetchone()
    return Stats(waiting, finished, size, oldest and oldest[0])


def _known(db: sqlite3.Connection, key: str) -> AddVerdict | None:
    if db.execute("SELECT 1 FROM tombstones WHERE key = ?", (key,)).fetchone():
        return AddVerdict.DONE
    if db.execute("SELECT 1 FROM cases WHERE key = ?", (key,)).fetchone():
        return AddVerdict.KNOWN
    return None


def _insert(db: sqlite3.Connection, row: CaseRow, now: float) -> None:
    db.execute(
        "INSERT INTO cases (key, pipeline, priority, deadline, attempts, added, body)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        (
            *(row.key, row.pipeline, row.priority, row.deadline, row.attempts),
            *(now, row.body),
        ),
    )


def _rows(
    db: sqlite3.Connection, which: str, values: tuple[str | float, ...]
) -> list[CaseRow]:
    columns = "key, body, pipeline, priority, deadline, attempts"
    found = db.execute(
        f"SELECT {columns} FROM cases WHERE finish IS NULL AND {which}",  # noqa: S608
        values,
    )
    return [CaseRow(*row) for row in found]


def _json(words: Collection[str]) -> str:
    # A copy first: the caller's set may change meanwhile, in the caller's thread.
    return json.dumps(list(words))
