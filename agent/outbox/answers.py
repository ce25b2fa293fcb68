"""The cache of upstream's answers: the same question, word for word, is paid for once.

Reading changes nothing, so that a cache hit costs no write to the disk. A full cache
drops the oldest answers. Keys are hashes that the caller makes.
"""

import sqlite3

from agent.outbox.store import room

LARGEST = 4096  # bytes of an answer; the few larger ones would push out many

SCHEMA = """
CREATE TABLE IF NOT EXISTS answers (
    number INTEGER PRIMARY KEY,
    key TEXT NOT NULL UNIQUE,
    at REAL NOT NULL,
    answer BLOB NOT NULL
);
"""


def recall(db: sqlite3.Connection, key: str, now: float, age_s: float) -> bytes | None:
    """Return the answer under `key` if it is at most `age_s` seconds old, else None.

    `now` is Unix time. An answer from the future does not count: the clock was wrong.
    """
    row = db.execute(
        "SELECT answer FROM answers WHERE key = ? AND at BETWEEN ? AND ?",
        (key, now - age_s, now),
    ).fetchone()
    return bytes(row[0]) if row else None


def remember(
    db: sqlite3.Connection, key: str, answer: bytes, now: float, entries: int
) -> None:
    """Store an answer under `key`, and keep the newest `entries` answers.

    `now` is Unix time. Answers take at most about an eighth of the file. The answer is
    not stored if it is larger than LARGEST, or if less than an eighth of the file is
    free, because cases need that room.
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
