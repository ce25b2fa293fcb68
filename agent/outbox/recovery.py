"""What a fresh file takes over from a damaged one: what was spent today."""

from collections.abc import Sequence
from pathlib import Path

import structlog

from agent.config.section import Limit
from agent.core.errors import ConfigError
from agent.outbox import spending
from agent.outbox.readonly import read_only
from agent.outbox.spending import Spend
from agent.outbox.store import Database

log = structlog.get_logger()


def rescue(day: str, limits: Sequence[Limit], damaged: Path, db: Database) -> None:
    """Count in a fresh file what was spent on a day, as far as the other one tells.

    Where that cannot be read, what is limited counts as spent: so no damage makes a
    budget larger.
    """
    try:
        with read_only(damaged) as old:
            spent = spending.by_scope(old, day)
    except ConfigError:
        log.warning("spending_unreadable", day=day)
        spent = {each.scope: _all(each) for each in limits}
    for scope, each in spent.items():
        spending.count(db, day, [scope], each)


def _all(limit: Limit) -> Spend:
    return Spend(limit.calls or 0, limit.tokens or 0, limit.micros or 0)
