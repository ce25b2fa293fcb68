"""The table of cases: a case waits, gets its one final result, and is removed.

Functions on an open connection; none commits, so that several can be one change. Bodies
and payloads are opaque bytes. A removed case leaves a tombstone for an hour, so that a
message which is delivered again makes no second case.
"""

import hmac
import json
import sqlite3
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto

from agent.core.clock import Step
from agent.outbox.store import Full, room

TOMBSTONES = 50_000  # at most, and no more than an eighth of the file
TOMBSTONE_BYTES = 90
CASE_BYTES = 200  # of a case besides its body: keys, indices

SCHEMA = """
CREATE TABLE IF NOT EXISTS cases (
    number INTEGER PRIMARY KEY,
    key TEXT NOT NULL UNIQUE,
    pipeline TEXT NOT NULL,
    priority INTEGER NOT NULL,
    deadline REAL NOT NULL,
    attempts INTEGER NOT NULL,  -- calls that may have been paid for
    added REAL NOT NULL,
    finish INTEGER,  -- the order of final results; NULL: the case waits
    topic TEXT,
    body BLOB,
    payload BLOB
);
CREATE INDEX IF NOT EXISTS cases_waiting
    ON cases (priority DESC, number, pipeline) WHERE finish IS NULL;
CREATE INDEX IF NOT EXISTS cases_deadline ON cases (deadline) WHERE finish IS NULL;
CREATE INDEX IF NOT EXISTS cases_finished ON cases (finish) WHERE finish IS NOT NULL;

-- Kept up to date by triggers: a Pi should not count thousands of rows each second.
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

-- A case's id upstream is made with this secret. Without it, whoever knows the id and
-- the message without its hidden words could try out what those words were.
CREATE TABLE IF NOT EXISTS secret (
    only INTEGER PRIMARY KEY CHECK (only = 0),
    value BLOB NOT NULL
);
INSERT OR IGNORE INTO secret VALUES (0, randomblob(32));
"""


class AddVerdict(Enum):
    """What `add` found: whether a case is new."""

    NEW = auto()
    KNOWN = auto()  # it waits already, or its result waits to be published
    DONE = auto()  # its result was published within the last hour


@dataclass(frozen=True, slots=True)
class CaseRow:
    """A case that waits.

    `key` names it, `body` is the encoded case. Larger priorities go first; `deadline`
    is Unix time; `attempts` counts calls that may have been paid for.
    """

    key: str
    body: bytes
    pipeline: str
    priority: int
    deadline: float
    attempts: int


@dataclass(frozen=True, slots=True)
class Final:
    """The final result of a case, to be published on `topic`."""

    key: str
    topic: str
    payload: bytes
    pipeline: str


@dataclass(frozen=True, slots=True)
class Stats:
    """The number of waiting cases and of final results, and the bytes of both.

    `oldest` is the Unix time at which the oldest waiting case was added; None if none
    waits.
    """

    waiting: int
    finished: int
    bytes: int
    oldest: float | None


def add(db: sqlite3.Connection, row: CaseRow, now: float) -> AddVerdict:
    """Add a case, unless it is known already; `now` is Unix time.

    Raises Full while some room is left, because ending cases needs room.
    """
    verdict = _known(db, row.key)
    if verdict:
        return verdict
    if filled(db, CASE_BYTES + len(row.body)) > 1.0:
        raise Full(f"{stats(db).waiting} cases wait")
    _insert(db, row, now)
    return AddVerdict.NEW


def add_all(db: sqlite3.Connection, rows: Sequence[CaseRow], now: float) -> int:
    """Add cases while there is room; return how many are in the outbox, or were.

    Raises Full where there is none for the first.
    """
    for number, row in enumerate(rows):
        try:
            add(db, row, now)
        except Full:
            if not number:
                raise
            return number
    return len(rows)


def filled(db: sqlite3.Connection, more: int = 0) -> float:
    """Return the share of the room for cases that is taken, plus `more` bytes.

    Above 1 there is no room for them. The larger of two shares counts: that of pages,
    which are what the file has, and that of bytes, because a dropped case makes room at
    once, although its page becomes free only with the other rows on it.
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
    """Add a case together with its final result; False if it is known already.

    Uses the room that `add` leaves for final results. `now` is Unix time.
    """
    if _known(db, row.key):
        return False
    _insert(db, replace(row, body=b""), now)  # no body: upstream is not asked
    return finish(db, row.key, topic, payload)


def known(db: sqlite3.Connection, keys: Collection[str]) -> frozenset[str]:
    """Return those of the keys whose cases wait, or have ended a while ago at most."""
    return frozenset(key for key in keys if _known(db, key))


def waiting(
    db: sqlite3.Connection,
    limit: int,
    besides: Collection[str] = (),
    barred: Collection[str] = (),
) -> list[CaseRow]:
    """Return at most `limit` waiting cases: highest priority first, then oldest.

    Cases with keys in `besides` and of pipelines in `barred` are left out.
    """
    return _rows(
        db,
        "pipeline NOT IN (SELECT value FROM json_each(?))"
        " AND key NOT IN (SELECT value FROM json_each(?))"
        " ORDER BY priority DESC, number LIMIT ?",
        (_json(barred), _json(besides), limit),
    )


def expired(db: sqlite3.Connection, now: float, limit: int) -> list[CaseRow]:
    """Return at most `limit` waiting cases past their deadline, most overdue first."""
    return _rows(db, "deadline <= ? ORDER BY deadline LIMIT ?", (now, limit))


def deadline(db: sqlite3.Connection) -> float | None:
    """Return the next deadline of a waiting case, in Unix time; None: none waits."""
    row = db.execute("SELECT min(deadline) FROM cases WHERE finish IS NULL").fetchone()
    return row[0]  # type: ignore[no-any-return]


def victim(
    db: sqlite3.Connection, *, lowest: bool, besides: Collection[str] = ()
) -> CaseRow | None:
    """Return the case that a full outbox drops: the oldest one that waits.

    With `lowest` it is the oldest of those with the lowest priority. Cases with keys in
    `besides` are left out. None if no other case waits.
    """
    others = _json(besides)
    if lowest:
        which = (
            "key NOT IN (SELECT value FROM json_each(?)) AND priority ="
            " (SELECT priority FROM cases WHERE finish IS NULL AND key NOT IN"
            "  (SELECT value FROM json_each(?)) ORDER BY priority LIMIT 1)"
            " ORDER BY number LIMIT 1"
        )
        rows = _rows(db, which, (others, others))
    else:
        which = "key NOT IN (SELECT value FROM json_each(?)) ORDER BY number LIMIT 1"
        rows = _rows(db, which, (others,))
    return rows[0] if rows else None


def wire_id(db: sqlite3.Connection, key: str) -> str:
    """Return the id of a case upstream: 32 hexadecimal digits.

    It is an HMAC of the key with the file's secret: always the same, and unique.
    """
    [secret] = db.execute("SELECT value FROM secret").fetchone()
    return hmac.new(secret, key.encode(), "sha256").hexdigest()[:32]


def attempts(db: sqlite3.Connection, key: str) -> int:
    """Return how many calls for a case may have been paid for so far."""
    row = db.execute("SELECT attempts FROM cases WHERE key = ?", (key,)).fetchone()
    return int(row[0]) if row else 0


def tried(db: sqlite3.Connection, key: str, number: int = 1) -> None:
    """Add `number` to the calls that may have been paid for; -1 takes one back."""
    db.execute("UPDATE cases SET attempts = attempts + ? WHERE key = ?", (number, key))


def finish(db: sqlite3.Connection, key: str, topic: str, payload: bytes) -> bool:
    """Give a case its final result, in place of its body.

    Returns False if there is no such case, or if it has a final result already.
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
    """Return at most `limit` final results in order, without the keys `besides`."""
    rows = db.execute(
        "SELECT key, topic, payload, pipeline FROM cases WHERE finish IS NOT NULL"
        " AND key NOT IN (SELECT value FROM json_each(?)) ORDER BY finish LIMIT ?",
        (_json(besides), limit),
    )
    return [Final(*row) for row in rows]


def forget(db: sqlite3.Connection, key: str, now: float) -> None:
    """Remove a case whose final result is published, and leave a tombstone.

    `now` is Unix time. A case that still waits is not removed.
    """
    gone = db.execute(
        "DELETE FROM cases WHERE key = ? AND finish IS NOT NULL RETURNING 1", (key,)
    ).fetchall()
    space = room(db)
    # Without room, no tombstone: going on matters more than recognising redeliveries.
    if gone and space.free >= space.most // 64:
        db.execute("INSERT INTO tombstones (key, at) VALUES (?, ?)", (key, now))
        most = min(TOMBSTONES, space.most // 8 // TOMBSTONE_BYTES)
        db.execute(
            "DELETE FROM tombstones"
            " WHERE number <= (SELECT max(number) FROM tombstones) - ?",
            (most,),
        )


def prune(db: sqlite3.Connection, before: float) -> int:
    """Remove tombstones older than `before` (Unix time); return how many went."""
    return len(
        db.execute(
            "DELETE FROM tombstones WHERE at < ? RETURNING 1", (before,)
        ).fetchall()
    )


def shift(db: sqlite3.Connection, step: Step) -> None:
    """Correct the times of waiting cases and tombstones after the clock was set."""
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
    """Return the numbers of the table; cheap, they are kept by triggers."""
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
            row.key,
            row.pipeline,
            row.priority,
            row.deadline,
            row.attempts,
            now,
            row.body,
        ),
    )


def _rows(
    db: sqlite3.Connection, which: str, values: tuple[str | float, ...]
) -> list[CaseRow]:
    columns = "key, body, pipeline, priority, deadline, attempts"
    rows = db.execute(
        f"SELECT {columns} FROM cases WHERE finish IS NULL AND {which}",  # noqa: S608
        values,
    )
    return [CaseRow(*row) for row in rows]


def _json(words: Collection[str]) -> str:
    # Copy first: the caller's thread may change the set meanwhile.
    return json.dumps(list(words))
