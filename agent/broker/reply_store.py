"""Answers to cases on disk: a case that comes again gets the same, and costs nothing.

Functions on a database that `outbox.store` owns.
"""

from agent.broker.claims import SharedAnswer
from agent.outbox.store import Database
from agent.protocol.cases import Request, digest
from agent.protocol.prompt import messages, response_format

SCHEMA = """
CREATE TABLE IF NOT EXISTS replies (
    key TEXT PRIMARY KEY,
    told BLOB NOT NULL,
    at REAL NOT NULL,
    deadline_ms INTEGER NOT NULL,
    own INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS replies_at ON replies (at);
"""
MOST_RETOLD = 10_000


def question_key(request: Request, models: tuple[str, ...], *, shared: bool) -> str:
    """Name a question by all that a model is told; other models may answer otherwise.

    Not `shared`: and by the device that asks.
    """
    asked = [request.pipeline, messages(request), response_format(request), models]
    return digest([*asked, None if shared else request.device])


def find(db: Database, key: str) -> bytes | None:
    """Return what was told about a case."""
    row = db.execute("SELECT told FROM replies WHERE key = ?", (key,)).fetchone()
    return row[0] if row else None


def keep(
    db: Database, shared: SharedAnswer, body: bytes, *, now: float, own: bool
) -> None:
    """Store what is told about a case; the first answer stands."""
    db.execute(
        "INSERT INTO replies VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
        (shared.key, body, now, shared.deadline_ms, own),
    )


def prune(db: Database, before: float) -> None:
    """Drop answers older than that."""
    db.execute("DELETE FROM replies WHERE at < ?", (before,))


def prune_half(db: Database) -> None:
    """Drop the older half of all answers, to make room."""
    db.execute(
        "DELETE FROM replies WHERE at <= (SELECT at FROM replies ORDER BY at LIMIT 1"
        " OFFSET (SELECT count(*) / 2 FROM replies))"
    )


def own_since(db: Database, since: float, now: float) -> list[bytes]:
    """Return our own answers since then that somebody may still wait for."""
    rows = db.execute(
        "SELECT told FROM replies WHERE own AND at >= ? AND deadline_ms > ?"
        " ORDER BY at DESC LIMIT ?",
        (since, now * 1000, MOST_RETOLD),
    )
    return [row[0] for row in rows]


def latest(db: Database) -> float:
    """Return when the last answer was stored; 0 if there is none."""
    [newest] = db.execute("SELECT coalesce(max(at), 0) FROM replies").fetchone()
    return float(newest)
