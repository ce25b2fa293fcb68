"""The egress ledger: one line for each request that left the device, never changed.

Each line's hash covers the hash of the line before. Whoever changes or removes a line
must rewrite all later ones, which shows if the last hash is kept elsewhere. The oldest
lines are removed in time; number and hash of the last removed one are the anchor of the
chain.
"""

import hashlib
import json
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from agent.outbox.store import Full, room

ENTRY_BYTES = 200
PRUNED = 100  # most entries that are removed when one is added
YIELDED = 100  # most answers or tombstones that are removed to make room for an entry

# The triggers prevent accidents; the hashes reveal intent.
SCHEMA = """
CREATE TABLE IF NOT EXISTS ledger (
    number INTEGER PRIMARY KEY,
    at REAL NOT NULL,
    pipeline TEXT NOT NULL,
    "case" TEXT NOT NULL,
    transport TEXT NOT NULL,
    "to" TEXT NOT NULL,
    bytes INTEGER NOT NULL,
    sha256 BLOB NOT NULL,
    redactions TEXT NOT NULL,
    hash BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS ledger_ends (
    name TEXT PRIMARY KEY CHECK (name IN ('anchor', 'head')),
    number INTEGER NOT NULL,
    hash BLOB NOT NULL
) WITHOUT ROWID;
INSERT OR IGNORE INTO ledger_ends
    VALUES ('anchor', 0, zeroblob(32)), ('head', 0, zeroblob(32));
CREATE TRIGGER IF NOT EXISTS ledger_no_gap BEFORE INSERT ON ledger
WHEN new.number <> (SELECT number + 1 FROM ledger_ends WHERE name = 'head') BEGIN
    SELECT raise(ABORT, 'the ledger is written line by line');
END;
CREATE TRIGGER IF NOT EXISTS ledger_no_update BEFORE UPDATE ON ledger BEGIN
    SELECT raise(ABORT, 'the ledger is never changed');
END;
CREATE TRIGGER IF NOT EXISTS ledger_no_delete BEFORE DELETE ON ledger
WHEN old.number > (SELECT number FROM ledger_ends WHERE name = 'anchor') BEGIN
    SELECT raise(ABORT, 'the ledger is never changed');
END;
CREATE TRIGGER IF NOT EXISTS ledger_ends_no_return BEFORE UPDATE ON ledger_ends
WHEN new.number < old.number OR new.name <> old.name BEGIN
    SELECT raise(ABORT, 'the ledger only grows');
END;
CREATE TRIGGER IF NOT EXISTS ledger_ends_no_delete BEFORE DELETE ON ledger_ends BEGIN
    SELECT raise(ABORT, 'the ledger is never changed');
END;
"""

_COLUMNS = 'number, at, pipeline, "case", transport, "to", bytes, sha256, redactions'


@dataclass(frozen=True, slots=True)
class Egress:
    """A request that left the device.

    `at` is Unix time, `case` the id of the message, `transport` `mqtt` or `http`, `to`
    the address. `bytes` and `sha256` (hexadecimal) are of the body as it was sent;
    `redactions` counts what was hidden in it, by type.
    """

    at: float
    pipeline: str
    case: str
    transport: str
    to: str
    bytes: int
    sha256: str
    redactions: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """A line of the ledger; `number` starts at 1, hashes are hexadecimal."""

    number: int
    egress: Egress
    previous: str
    hash: str


def record(db: sqlite3.Connection, egress: Egress, keep: int = 100_000) -> LedgerEntry:
    """Add a line, and remove the oldest ones beyond the newest `keep`.

    The ledger takes at most about a quarter of the file, whatever `keep` says. If room
    is short, cached answers and tombstones are removed first, because without a line no
    case could be sent and none would end. Raises Full when these are gone, while there
    is still room for final results, and ValueError for an invalid sha256.
    """
    space = room(db)
    if space.free < space.most // 32 and not _made_room(db):
        raise Full("no room in the egress ledger")
    last, previous = head(db)
    number = last + 1
    digest = chained(previous, number, egress)
    db.execute(
        f"INSERT INTO ledger ({_COLUMNS}, hash) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608
        (
            number,
            egress.at,
            egress.pipeline,
            egress.case,
            egress.transport,
            egress.to,
            egress.bytes,
            bytes.fromhex(egress.sha256),
            _json(dict(egress.redactions)),
            bytes.fromhex(digest),
        ),
    )
    _move(db, "head", number, bytes.fromhex(digest))
    _prune(db, number - max(1, min(keep, space.most // 4 // ENTRY_BYTES)))
    return LedgerEntry(number, egress, previous, digest)


def entries(
    db: sqlite3.Connection, after: int = 0, limit: int = 1000
) -> list[LedgerEntry]:
    """Return at most `limit` lines in order, those with numbers above `after`."""
    anchor, previous = _end(db, "anchor")
    if after > anchor:
        row = db.execute("SELECT hash FROM ledger WHERE number = ?", (after,))
        previous = next((digest.hex() for (digest,) in row), "")
    lines = []
    for line in _rows(db, max(after, anchor), limit):
        lines.append(_entry(line, previous))
        previous = lines[-1].hash
    return lines


def head(db: sqlite3.Connection) -> tuple[int, str]:
    """Return number and hash of the last line; keep the hash to detect changes."""
    return _end(db, "head")


def verify(db: sqlite3.Connection) -> str | None:
    """Check every line; return the first fault, or None if the chain holds."""
    try:
        number, previous = _end(db, "anchor")
        last, digest = head(db)
    except TypeError:
        return "the ends are missing"
    for row in _rows(db, number, -1):
        number += 1
        if row[0] != number:
            return f"entry {number}: missing"
        try:
            entry = _entry(row, previous)
            holds = entry.hash == chained(previous, number, entry.egress)
        except (ValueError, TypeError, AttributeError):  # no valid line
            holds = False
        if not holds:
            return f"entry {number}: changed"
        previous = entry.hash
    if number < last:
        return f"entry {number + 1}: missing, and all to the last, {last}"
    if (number, previous) != (last, digest):
        return f"entry {last}: not the last as it was written"
    return None


def chained(previous: str, number: int, egress: Egress) -> str:
    """Return the hash of a line: SHA-256 of the previous hash and the line as JSON.

    The hash is hexadecimal. The JSON has sorted keys, no spaces and only ASCII.
    """
    line = {
        "number": number,
        "at": float(egress.at),
        "pipeline": egress.pipeline,
        "case": egress.case,
        "transport": egress.transport,
        "to": egress.to,
        "bytes": egress.bytes,
        "sha256": bytes.fromhex(egress.sha256).hex(),
        "redactions": dict(egress.redactions),
    }
    return hashlib.sha256(f"{previous}{_json(line)}".encode()).hexdigest()


def _json(value: Mapping[str, object]) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _rows(db: sqlite3.Connection, after: int, limit: int) -> Iterator[tuple[Any, ...]]:
    return db.execute(
        f"SELECT {_COLUMNS}, hash FROM ledger WHERE number > ?"  # noqa: S608
        " ORDER BY number LIMIT ?",
        (after, limit),
    )


def _entry(row: tuple[Any, ...], previous: str) -> LedgerEntry:
    number, at, pipeline, case, transport, to, size, sha256, redactions, digest = row
    egress = Egress(
        at,
        pipeline,
        case,
        transport,
        to,
        size,
        sha256=sha256.hex(),
        redactions=json.loads(redactions),
    )
    return LedgerEntry(number, egress, previous, digest.hex())


def _made_room(db: sqlite3.Connection) -> bool:
    """Remove some cached answers, or tombstones if there are none; tell if any went."""
    for table in ("answers", "tombstones"):
        gone = db.execute(
            f"DELETE FROM {table} WHERE number IN"  # noqa: S608
            f" (SELECT number FROM {table} ORDER BY number LIMIT ?) RETURNING 1",
            (YIELDED,),
        ).fetchall()
        if gone:
            return True
    return False


def _prune(db: sqlite3.Connection, to: int) -> None:
    """Remove the entries up to a number, a few at a time."""
    anchor, _ = _end(db, "anchor")
    to = min(to, anchor + PRUNED)
    if to <= anchor:
        return
    row = db.execute("SELECT hash FROM ledger WHERE number = ?", (to,)).fetchone()
    if row is None:
        return  # somebody removed lines; `verify` reports it
    _move(db, "anchor", to, row[0])
    db.execute("DELETE FROM ledger WHERE number <= ?", (to,))


def _end(db: sqlite3.Connection, name: str) -> tuple[int, str]:
    row = db.execute("SELECT number, hash FROM ledger_ends WHERE name = ?", (name,))
    number, digest = row.fetchone()
    return number, digest.hex()


def _move(db: sqlite3.Connection, name: str, number: int, digest: bytes) -> None:
    db.execute(
        "UPDATE ledger_ends SET number = ?, hash = ? WHERE name = ?",
        (number, digest, name),
    )
