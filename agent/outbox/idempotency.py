"""Requests that nobody answered, so far, and what is reserved for each.

Where the other side answers a request that comes again without asking anybody twice,
one reservation is enough for all tries of a day.
"""

import sqlite3

SCHEMA = """
CREATE TABLE IF NOT EXISTS unanswered (
    number INTEGER PRIMARY KEY,  -- of the reservation
    request TEXT NOT NULL UNIQUE  -- sha256 of its bytes
);
"""


def expect(db: sqlite3.Connection, reservation: int, request: str) -> None:
    """Remember what is reserved for a request; one of another day is forgotten."""
    db.execute(
        "INSERT OR REPLACE INTO unanswered VALUES (?, ?)", (reservation, request)
    )


def reserved(db: sqlite3.Connection, day: str, request: str) -> int | None:
    """Return the reservation of an earlier try on the same day."""
    row = db.execute(
        "SELECT number FROM unanswered JOIN reservations USING (number)"
        " WHERE request = ? AND day = ?",
        (request, day),
    ).fetchone()
    return row[0] if row else None


def answered(db: sqlite3.Connection, reservation: int) -> None:
    """Forget a request: what comes of asking again is booked anew."""
    db.execute("DELETE FROM unanswered WHERE number = ?", (reservation,))


def prune(db: sqlite3.Connection, day: str) -> None:
    """Forget what was not reserved on this day."""
    db.execute(
        "DELETE FROM unanswered"
        " WHERE number NOT IN (SELECT number FROM reservations WHERE day = ?)",
        (day,),
    )
