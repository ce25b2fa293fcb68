"""Answers that are given again: the same question, word for word, is paid for once.

Looking one up changes nothing, so that a repeat costs no write to the disk; what leaves
a full cache is the oldest. Keys are hashes that the caller makes.
"""

import sqlite3

from agent.outbox.store import room

LARGEST = 4096  # bytes of an answer; few are larger, and those would push out many

SCHEMA = """
CREATE TABLE IF NOT EXISTS answers (
    number INTEGER PRIMARY KEY,
    key TEXT NOT NULL UNIQUE,
    at REAL NOT NULL,
    answer BLOB NOT NULL
);
"""


def recall(db: sqlite3.Connection, key: str, now: float, age_s: float) -> bytes | None:
    """Return the answer, if there is one not older than `age_s`; `now` is Unix time.

    One from the future is none: the clock was wrong then.
    """
    row = db.execute(
        "SELECT answer FROM answers WHERE key = ? AND at BETWEEN ? AND ?",
        (key, now - age_s, now),
    ).fetchone()
    return bytes(row[0]) if row else None


def remember(
    db: sqlite3.Connection, key: str, answer: bytes, now: float, entries: int
) -> None:
    """Keep the newest `entries` answers, this one among them.

    They take no more than about an eighth of the file, and none is kept where cases
    soon need the room.
    """
    space = room(db)
    if len(answer) <= LARGEST and space.free >= space.most // 8:
        db.execute("DELETE FROM answers WHERE key = ?", (key,))
        db.execute(
            "INSERT INTO answers (key, at, answer) VALUES (?, ?, ?)", (key, now, answer)
        )
    most = min(entries, space.most // 8 // 1024)
    db.execute(
        "DELETE FROM answers WHERE number <= "
        "(SELECT number FROM answers ORDER BY number DESC LIMIT 1 OFFSET ?)",
        (most,),
    )
