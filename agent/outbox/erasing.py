"""Erase what the outbox holds of a message, or of a time, on request (GDPR, art. 17).

Nothing is published of what is erased. Ledger and spending stay: they hold no words,
and prove what left.
"""

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from pydantic_core import from_json

from agent.core.errors import ConfigError
from agent.core.quarantine import put_asides, remove_aside
from agent.outbox import cases
from agent.outbox.opening import PRAGMAS, pragma


@dataclass(frozen=True, slots=True)
class Erased:
    """How much was erased; `unsearched` are damaged files that may hold more."""

    cases: int
    results: int
    answers: int
    damaged_files: int
    unsearched: int


def erase(path: Path, now: float, *, message: str = "", before: float = 0.0) -> Erased:
    """Erase what waits of the message with an id, and all from before a time.

    `path` is the outbox, which no process may have open; `now` and `before` are Unix
    times. The answers of the cache have no ids, and go by their time alone. Raises
    ConfigError.
    """
    gone = waited = answers = 0
    if path.exists():
        try:
            with closing(sqlite3.connect(path, isolation_level=None)) as db:
                for name in ("synchronous", "secure_delete"):
                    pragma(db, f"{name}={PRAGMAS[name]}")
                db.execute("BEGIN IMMEDIATE")
                waited, gone = _cases(db, now, message, before)
                answers = db.execute(
                    "DELETE FROM answers WHERE at < ?", (before,)
                ).rowcount
                db.execute("COMMIT")
                pragma(db, "wal_checkpoint(TRUNCATE)")  # old pages, too
        except sqlite3.Error as error:
            raise ConfigError(
                f"{path}: {error}; if it is damaged, the next start sets it aside"
            ) from error
    asides = put_asides(path)
    old = [aside for aside in asides if aside.stat().st_mtime < before]
    for aside in old:
        remove_aside(aside)
    return Erased(waited, gone, answers, len(old), len(asides) - len(old))


def _cases(
    db: sqlite3.Connection, now: float, message: str, before: float
) -> tuple[int, int]:
    """Erase cases; return how many waited, and how many had their final result."""
    counts = [0, 0]
    rows = db.execute("SELECT key, added, finish, body, payload FROM cases").fetchall()
    for key, added, finish, body, payload in rows:
        if added < before or (message and _id(body or payload) == message):
            if finish is None:
                cases.finish(db, key, "", b"")
            cases.forget(db, key, now)  # it may be delivered again: nobody asks again
            counts[finish is not None] += 1
    return counts[0], counts[1]


def _id(encoded: bytes) -> str | None:
    """Return the message's id of a case or a final result."""
    try:
        name = from_json(encoded).get("id")
    except (ValueError, AttributeError):  # of another version
        return None
    return name if isinstance(name, str) else None
