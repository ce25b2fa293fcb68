"""Spending by day and scope: reserved before a call, settled after it.

A reservation counts as spent until it is settled or released, also after a crash, so
that no limit is ever exceeded. A scope is "" for the whole device, or the name of a
pipeline. Days are ISO 8601 dates in UTC.
"""

import json
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from agent.config.section import Limit

SCHEMA = """
CREATE TABLE IF NOT EXISTS spending (
    day TEXT NOT NULL,
    scope TEXT NOT NULL,
    calls INTEGER NOT NULL,
    tokens INTEGER NOT NULL,
    micros INTEGER NOT NULL,
    PRIMARY KEY (day, scope)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS reservations (
    number INTEGER PRIMARY KEY AUTOINCREMENT,  -- never used again
    day TEXT NOT NULL,
    scopes TEXT NOT NULL,
    calls INTEGER NOT NULL,
    tokens INTEGER NOT NULL,
    micros INTEGER NOT NULL
);
"""

DAYS_KEPT = 60


@dataclass(frozen=True, slots=True)
class Spend:
    """Calls, tokens in and out, and millionths of the currency."""

    calls: int = 0
    tokens: int = 0
    micros: int = 0


def today() -> str:
    """Return the current day in UTC, as an ISO 8601 date."""
    return datetime.now(UTC).date().isoformat()


def reserve(
    db: sqlite3.Connection, day: str, limits: Sequence[Limit], wanted: Spend
) -> int | None:
    """Count `wanted` as spent in every scope of `limits`; return the reservation.

    Returns None, and reserves nothing, if a limit would be exceeded.
    """
    for limit in limits:
        if not allows(limit, spent(db, day, limit.scope), wanted):
            return None
    scopes = sorted({limit.scope for limit in limits})
    count(db, day, scopes, wanted)
    number: int = db.execute(
        "INSERT INTO reservations (day, scopes, calls, tokens, micros)"
        " VALUES (?, ?, ?, ?, ?) RETURNING number",
        (day, json.dumps(scopes), wanted.calls, wanted.tokens, wanted.micros),
    ).fetchall()[0][0]
    return number


def settle(db: sqlite3.Connection, reservation: int, actual: Spend) -> bool:
    """Replace a reservation by what the call took, on the day of the reservation.

    Only the first call of `settle` or `release` counts; later ones return False.
    """
    rows = db.execute(
        "DELETE FROM reservations WHERE number = ?"
        " RETURNING day, scopes, calls, tokens, micros",
        (reservation,),
    ).fetchall()
    for day, scopes, calls, tokens, micros in rows:
        more = Spend(
            actual.calls - calls, actual.tokens - tokens, actual.micros - micros
        )
        count(db, day, json.loads(scopes), more)
    return bool(rows)


def release(db: sqlite3.Connection, reservation: int) -> None:
    """Cancel a reservation: the call was surely never made."""
    settle(db, reservation, Spend())


def count(db: sqlite3.Connection, day: str, scopes: Iterable[str], more: Spend) -> None:
    """Add `more` to the spending of each scope on `day`."""
    for scope in scopes:
        db.execute(
            "INSERT INTO spending VALUES (?, ?, ?, ?, ?)"
            " ON CONFLICT (day, scope) DO UPDATE SET calls = calls + excluded.calls,"
            " tokens = tokens + excluded.tokens, micros = micros + excluded.micros",
            (day, scope, more.calls, more.tokens, more.micros),
        )


def spent(db: sqlite3.Connection, day: str, scope: str) -> Spend:
    """Return the spending of a scope on `day`, open reservations included."""
    row = db.execute(
        "SELECT calls, tokens, micros FROM spending WHERE day = ? AND scope = ?",
        (day, scope),
    ).fetchone()
    return Spend(*row) if row else Spend()


def by_scope(db: sqlite3.Connection, day: str) -> dict[str, Spend]:
    """Return the spending of every scope with any on `day`, as `spent` does."""
    rows = db.execute(
        "SELECT scope, calls, tokens, micros FROM spending WHERE day = ?", (day,)
    )
    return {scope: Spend(*numbers) for scope, *numbers in rows}


def prune(db: sqlite3.Connection) -> None:
    """Forget all but the last days that are in the books.

    They are counted, not compared with the clock: one that is far ahead for a while
    must not make what was spent today as good as unspent.
    """
    days = "SELECT day FROM spending GROUP BY day ORDER BY day DESC LIMIT ?"
    for table in ("spending", "reservations"):
        db.execute(f"DELETE FROM {table} WHERE day NOT IN ({days})", (DAYS_KEPT,))  # noqa: S608


def allows(limit: Limit, spent: Spend, wanted: Spend) -> bool:
    """Tell whether `limit` allows `wanted` on top of `spent`."""
    pairs = (
        (limit.calls, spent.calls + wanted.calls),
        (limit.tokens, spent.tokens + wanted.tokens),
        (limit.micros, spent.micros + wanted.micros),
    )
    return all(most is None or total <= most for most, total in pairs)
