"""Requests without an answer so far, and the reservation of each.

If the other side pays only once for a request that is sent again, as `slm-agent broker`
does, one reservation is enough for all tries of a day.
"""

import sqlite3

SCHEMA = """
CREATE TABLE IF NOT EXISTS unanswered (
    number INTEGER PRIMARY KEY,  -- of the reservation
    request TEXT NOT NULL UNIQUE  -- what it asks, hashed
);
"""


def expect(db: sqlite3.Connection, reservation: int, request: str) -> None:
    """Store the reservation of a request, in place of one of another day.

    `request` is the sha256 of its body, hexadecimal.
    """
    db.execute(
        "INSERT OR REPLACE INTO unanswered VALUES (?, ?)", (reservation, request)
    )


def reserved(db: sqlite3.Connection, day: str, request: str) -> int | None:
    """Return the reservation of an earlier try on `day` (ISO 8601), else None."""
    row = db.execute(
        "SELECT number FROM unanswered JOIN reservations USING (number)"
        " WHERE request = ? AND day = ?",
        (request, day),
    ).fetchone()
    return row[0] if row else None


def answered(db: sqlite3.Connection, reservation: int) -> None:
    """Remove a request that was answered: asking again needs a new reservation."""
    db.execute("DELETE FROM unanswered WHERE number = ?", (reservation,))


def prune(db: sqlite3.Connection, day: str) -> None:
    """Remove requests whose reservation is not of `day` (ISO 8601)."""
    db.execute(
        "DELETE FROM unanswered"
        " WHERE number NOT IN (SELECT number FROM reservations WHERE day = ?)",
        (day,),
    )
